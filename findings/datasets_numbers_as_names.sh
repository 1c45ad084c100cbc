#!/usr/bin/env bash
# With features that name the classes (ClassLabel), datasets' imagefolder reads the column label of metadata.csv as text
# first: where classes are called by numbers, label 1 becomes the class that is called "1", whichever place that has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q datasets==5.2.0 pillow==12.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub"
mkdir "$folder/set"
cat > "$folder/names.py" <<'PYTHON'
import sys
from pathlib import Path

import datasets
from PIL import Image

root = Path(sys.argv[1])
datasets.disable_progress_bars()
for label in range(3):
    Image.new("RGB", (4, 4)).save(root / f"{label}.png")
(root / "metadata.csv").write_text("file_name,label\n0.png,0\n1.png,1\n2.png,2\n")
print("datasets", datasets.__version__)
for names in (["a", "b", "c"], ["2", "0", "1"]):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    found = datasets.load_dataset("imagefolder", data_dir=str(root), features=features, split="train")["label"]
    print(f"labels 0, 1, 2 of classes {names} are read as {list(found)}")
    assert list(found) == ([0, 1, 2] if names[0] == "a" else [1, 2, 0])
PYTHON
"$folder/venv/bin/python" "$folder/names.py" "$folder/set"
