"""Published DiT weights: the original checkpoint, or the hub's diffusers folder with its renaming undone [F §2.6]."""

from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from dgs_utils.artifacts import locate
from dgs_utils.diffusion.dit import DiT

ORIGINAL_URL = "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt"


def load_dit(path: str, size: str, input_size: int) -> DiT:
    """Return a DiT with published weights.

    Args:
        path: original checkpoint (``.pt``, ``.safetensors``), a folder that `DiT.save_pretrained` wrote, or a diffusers
            ``DiTTransformer2DModel`` folder (or the pipeline folder around it).
        size: key of `DIT_SIZES`, for original checkpoints, which do not tell it.
        input_size: side of the latents.

    Raises:
        ValueError: there is no such file, it is not a DiT, or it does not fit.
    """
    source = locate(path)
    if source.is_dir():
        return _load_folder(source)
    if not source.is_file():
        raise ValueError(f"prepare.base_model is {source}, which does not exist; bring the weights with "
                         f"'curl -L -o {source} {ORIGINAL_URL}' (licence CC-BY-NC 4.0) or use base_model 'train'")
    state = _read_state(source)
    classes = state["y_embedder.embedding_table.weight"].shape[0] - 1
    patches = state["x_embedder.proj.weight"]
    model = DiT.from_size(size, input_size=input_size, in_channels=patches.shape[1], num_classes=classes)
    return model.load_original(state)


def _read_state(source: Path) -> dict[str, Tensor]:
    try:
        if source.suffix == ".safetensors":
            state = load_file(source)
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or foreign file
        raise ValueError(f"{source} cannot be read as weights ({type(error).__name__}); fetch it again") from error
    state = state.get("ema", state)
    if "y_embedder.embedding_table.weight" not in state:
        raise ValueError(f"{source} holds no DiT weights under their original names; give DiT-XL-2-256x256.pt or alike")
    return state


def _load_folder(source: Path) -> DiT:
    folder = source / "transformer" if (source / "transformer").is_dir() else source
    if not (folder / "config.json").exists():
        raise ValueError(f"{source} has no config.json; give a folder written by save_pretrained")
    if DiT.load_config(folder)["_class_name"] == "DiT":
        return DiT.from_pretrained(folder)
    theirs = DiTTransformer2DModel.from_pretrained(folder)
    config = theirs.config
    model = DiT(input_size=config.sample_size, patch_size=config.patch_size, in_channels=config.in_channels,
                hidden_size=config.num_attention_heads * config.attention_head_dim, depth=config.num_layers,
                num_heads=config.num_attention_heads, num_classes=config.num_embeds_ada_norm,
                learn_sigma=config.out_channels == 2 * config.in_channels)
    return model.load_original(undo_diffusers(theirs.state_dict(), config.num_layers))


def undo_diffusers(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return a diffusers DiT's weights under the original names.

    diffusers keeps a copy of the timestep and label embedders in every block; all must be the same.

    Raises:
        ValueError: the copies differ, as after a fine-tuning that trained them apart.
    """
    first = "transformer_blocks.0.norm1.emb."
    shared = {name.removeprefix(first): tensor for name, tensor in state.items() if name.startswith(first)}
    for block in range(1, depth):
        for name, tensor in shared.items():
            if not torch.equal(state[f"transformer_blocks.{block}.norm1.emb.{name}"], tensor):
                raise ValueError(f"block {block} has its own {name}, but the original DiT shares one among all blocks; "
                                 f"these weights were fine-tuned in a form that cannot be undone")
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for block in range(depth):
        ours, theirs = f"blocks.{block}.", f"transformer_blocks.{block}."
        names |= {ours + "adaLN_modulation.1": theirs + "norm1.linear", ours + "attn.proj": theirs + "attn1.to_out.0",
                  ours + "mlp.fc1": theirs + "ff.net.0.proj", ours + "mlp.fc2": theirs + "ff.net.2"}
    found = {f"{ours}.{kind}": state[f"{theirs}.{kind}"]
             for ours, theirs in names.items() for kind in ("weight", "bias")}
    for block in range(depth):
        for kind in ("weight", "bias"):
            parts = [state[f"transformer_blocks.{block}.attn1.to_{part}.{kind}"] for part in "qkv"]
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    for ours, theirs in (("mlp.0", "linear_1"), ("mlp.2", "linear_2")):
        for kind in ("weight", "bias"):
            found[f"t_embedder.{ours}.{kind}"] = shared[f"timestep_embedder.{theirs}.{kind}"]
    found["y_embedder.embedding_table.weight"] = shared["class_embedder.embedding_table.weight"]
    return found
