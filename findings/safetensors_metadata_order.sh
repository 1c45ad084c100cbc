#!/usr/bin/env bash
# safetensors with two or more metadata entries: equal tensors and equal metadata give files of the same size and of
# different bytes, as entries are written in an order that is drawn anew for each file. Names of tensors are sorted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet safetensors==0.8.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import hashlib

import numpy as np
import safetensors
from safetensors.numpy import load, save

tensors = {"b": np.arange(3.0), "a": np.ones(2)}


def digests(metadata):
    """Return the different files, and their sizes, of one and the same content, saved 60 times."""
    files = [save(tensors, metadata=metadata) for _ in range(60)]
    assert all(np.array_equal(load(file)["b"], tensors["b"]) for file in files)
    return len({hashlib.sha256(file).hexdigest() for file in files}), {len(file) for file in files}


print("safetensors", safetensors.__version__)
counts = {}
for n in (0, 1, 2, 3):
    counts[n], sizes = digests({f"key{i}": "value" for i in range(n)} or None)
    assert len(sizes) == 1, "sizes differ"
    print(f"{n} metadata entries: {counts[n]} different files of {sizes.pop()} bytes in 60 saves")
assert counts[0] == counts[1] == 1, "files without, or with one entry differ, too"
assert counts[2] > 1 and counts[3] > 1, "the order of metadata is fixed now"
PY
