#!/usr/bin/env bash
# datasets' imagefolder takes a word such as train, test or dev in a class folder's or a file's name for a split, also
# beside other classes: what bears no such word is left out, without a message. So it loses classes of ImageNet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q datasets==5.2.0 pillow==12.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub"
cat > "$folder/splits.py" <<'PYTHON'
import sys
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()


def read(place, *names):
    root = Path(sys.argv[1]) / place
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    found = datasets.load_dataset("imagefolder", data_dir=str(root))
    shown = {split: (len(rows), getattr(rows.features.get("label"), "names", None)) for split, rows in found.items()}
    print(f"{', '.join(names)}: {shown}")
    return shown


print("datasets", datasets.__version__)
assert read("plain", "tench/1.png", "bullet/1.png", "tube/1.png") == {"train": (3, ["bullet", "tench", "tube"])}
both = ["bullet_train", "test_tube"]
assert read("folders", "tench/1.png", "bullet_train/1.png", "test_tube/1.png") == {"train": (1, both), "test": (1, both)}
assert read("files", "tench/1.png", "bee/train_0.png", "bee/2.png") == {"train": (1, None)}
assert read("underscores", "tench/1.png", "bee/1.png", "__ant/2.png") == {"train": (2, ["bee", "tench"])}
assert read("plus", "tench/1.png", "bullet+train/1.png") == {"train": (2, ["bullet+train", "tench"])}
PYTHON
"$folder/venv/bin/python" "$folder/splits.py" "$folder/sets"
