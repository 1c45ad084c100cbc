#!/usr/bin/env bash
# diffusers' DiT (the class behind facebook/DiT-XL-2-256) embeds time steps by frequencies 10000^(-i/127); the original
# code, from whose weights that folder was converted, by 10000^(-i/128). Nothing in a folder or its names tells which
# the weights were trained with.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 diffusers==0.42.1
"$work/venv/bin/python" - <<'PY'
import warnings

warnings.simplefilter("ignore")
import diffusers
import torch

print("diffusers", diffusers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
model = diffusers.DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=24, in_channels=4, out_channels=8,
                                        num_layers=2, sample_size=8, num_embeds_ada_norm=10).eval()
shift = model.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift
print("downscale_freq_shift of the class:", shift, "; entries of its config about it:",
      [name for name in model.config if "freq" in name or "shift" in name])
similarity = {}
for t in (20, 100, 500, 999):
    theirs = model.transformer_blocks[0].norm1.emb.time_proj(torch.tensor([t]))
    angles = t * 10_000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    original = torch.cat([angles.cos(), angles.sin()])[None].float()
    similarity[t] = torch.cosine_similarity(theirs, original).item()
    print(f"t = {t}: cosine similarity of the 256 features {similarity[t]:.2f}")
x, t, y = torch.randn(3, 4, 8, 8), torch.tensor([100, 500, 999]), torch.tensor([1, 2, 3])
with torch.no_grad():
    first = model(x, timestep=t, class_labels=y).sample
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    second = model(x, timestep=t, class_labels=y).sample
print(f"the same drawn weights by both: outputs differ by {(first - second).std():.3f} at a deviation of {first.std():.3f}")
assert shift == 1, "diffusers' frequencies are the original's now"
assert similarity[999] < 0.6 < similarity[100]
assert not torch.equal(first, second)
PY
