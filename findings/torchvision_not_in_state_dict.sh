#!/usr/bin/env bash
# What a network of torchvision needs beside its state dict: Inception v3 and GoogLeNet rescale their input only where an
# attribute says so, which only the builder with weights sets; MNASNet takes no state dict without its metadata.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 safetensors==0.8.0
TORCH_HOME="$work" "$work/venv/bin/python" - <<'PY'
import os
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torchvision.models import get_model, get_model_weights

print("torchvision", torchvision.__version__, "torch", torch.__version__)
folder = Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints"
folder.mkdir(parents=True)
for name in ("googlenet", "inception_v3"):
    [entry] = get_model_weights(name)
    torch.manual_seed(0)
    trained = get_model(name, weights=None, aux_logits=True, init_weights=False)
    with torch.no_grad():
        for layer in trained.modules():  # in which differences neither fade nor grow
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(trained.state_dict(), folder / entry.url.rpartition("/")[2])  # random numbers in the published file's place
    published = get_model(name, weights=entry).eval()
    again = get_model(name, weights=None, aux_logits=name == "inception_v3", init_weights=False).eval()
    again.load_state_dict(published.state_dict())
    image = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = published(image)
        distance = ((expected - again(image)).abs().max() / expected.std()).item()
    print(f"{name}: transform_input {published.transform_input} with weights, {again.transform_input} with their state "
          f"dict alone; logits differ by up to {distance:.2f} of their deviation")
    assert published.transform_input and not again.transform_input and distance > 0.01

network = get_model("mnasnet0_5", weights=None)
save_file(network.state_dict(), folder / "mnasnet.safetensors")
try:
    network.load_state_dict(load_file(folder / "mnasnet.safetensors"))
except ValueError as error:
    print("mnasnet0_5, its own state dict after safetensors:", error)
else:
    raise SystemExit("MNASNet takes its own state dict from safetensors now")
PY
