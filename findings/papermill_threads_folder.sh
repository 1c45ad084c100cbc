#!/usr/bin/env bash
# papermill's cwd is the working folder of the whole process while a notebook runs: of two notebooks that threads run at
# a time, the first to end takes the folder away from the second, and the second leaves the process in the wrong one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q papermill==2.7.0 ipykernel==7.4.0
mkdir "$folder/start" "$folder/a" "$folder/b"
cat > "$folder/threads.py" <<'PYTHON'
import os
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill

root = Path(sys.argv[1]).resolve()
os.chdir(root / "start")
for name, seconds in (("a", 3), ("b", 8)):
    cell = nbformat.v4.new_code_cell(f"import time; time.sleep({seconds})")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), root / f"{name}.ipynb")


def execute(name: str) -> None:
    papermill.execute_notebook(str(root / f"{name}.ipynb"), str(root / f"{name}-done.ipynb"), cwd=str(root / name),
                               kernel_name="python3", progress_bar=False)


threads = [threading.Thread(target=execute, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
    time.sleep(1)
during = Path.cwd().name
for thread in threads:
    thread.join()
print("papermill", papermill.__version__)
print(f"begun in start; while a and b run: {during}; after both: {Path.cwd().name}")
assert during == "b"
assert Path.cwd().name == "a"
PYTHON
"$folder/venv/bin/python" "$folder/threads.py" "$folder"
