#!/usr/bin/env bash
# The same network, even the same file of weights, is to be fed otherwise: by torchvision's entry of its enum, and by timm.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31
"$work/venv/bin/python" - <<'PY'
import timm
import torchvision
from torchvision.models import get_model_weights, list_models

print("torchvision", torchvision.__version__, "timm", timm.__version__)
usual = torchvision.transforms._presets.ImageClassification(crop_size=224)  # resize 256, bilinear, ImageNet's mean
entries = [entry for name in list_models(module=torchvision.models) for entry in get_model_weights(name)]
other = [entry for entry in entries if str(entry.transforms()) != str(usual)]
bicubic = [entry for entry in entries if entry.transforms().interpolation.value == "bicubic"]
print(f"torchvision: {len(other)} of {len(entries)} weights are prepared otherwise than at 256 → 224 pixels, bilinear, with "
      f"ImageNet's mean; {len(bicubic)} are bicubic")
for entry in get_model_weights("resnet50"):
    print(f"  {entry}: resize {entry.transforms().resize_size}, crop {entry.transforms().crop_size}")
cfg = timm.models.get_pretrained_cfg("resnet50.tv2_in1k")
data = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
theirs = get_model_weights("resnet50").IMAGENET1K_V2
print(f"the file {theirs.url.rpartition('/')[2]}: torchvision {theirs.transforms().resize_size} → "
      f"{theirs.transforms().crop_size}; timm's resnet50.tv2_in1k {data}")
assert cfg.url == theirs.url
assert data["input_size"][-1] != theirs.transforms().crop_size[0]
assert len(other) == 66 and len(entries) == 115 and len(bicubic) == 28
PY
