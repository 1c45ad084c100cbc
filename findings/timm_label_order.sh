#!/usr/bin/env bash
# Labels of image folders, reader by reader: torchvision and datasets sort names by their characters; timm sorts them
# naturally and without case, and what is alike for it (Cardigan and cardigan of ImageNet, 1 and 01) stands in the order
# of a Python set, which differs from process to process: the same folder has other labels in the next run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31 datasets==5.2.0
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub"
cat > "$folder/labels.py" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image
from timm.data import create_dataset

root, names = Path(sys.argv[1]), sys.argv[2:]
for name in names:
    (root / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(root / name / "picture.png")
index = create_dataset("", root=str(root)).reader.class_to_idx
print(*sorted(index, key=index.get))
PYTHON
cat > "$folder/compare.py" <<'PYTHON'
import sys

import datasets
import timm
import torchvision

root = sys.argv[1]
datasets.disable_progress_bars()
print("torchvision", torchvision.__version__, torchvision.datasets.ImageFolder(root).classes)
found = datasets.load_dataset("imagefolder", data_dir=root, split="train").features["label"].names
print("datasets", datasets.__version__, found)
print("timm", timm.__version__)
assert found == torchvision.datasets.ImageFolder(root).classes == sorted(found)
PYTHON
python="$folder/venv/bin/python"
natural=$("$python" "$folder/labels.py" "$folder/set" 0 1 2 10 b a B)
"$python" "$folder/compare.py" "$folder/set"
echo "timm, without case and by numbers: $natural"
case "$natural" in "0 1 2 10 a b B" | "0 1 2 10 a B b") ;; *) echo "timm's order has changed"; exit 1 ;; esac
for seed in 0 1 2 3 4 5 6 7; do  # what Python draws for each process by itself
    PYTHONHASHSEED=$seed "$python" "$folder/labels.py" "$folder/alike" Cardigan cardigan 1 01
done | sort | uniq -c | tee "$folder/orders"
if [ "$(wc -l < "$folder/orders")" -lt 2 ]; then echo "timm gives one order now"; exit 1; fi
echo "timm gave $(wc -l < "$folder/orders") orders of the same four classes in eight processes"
