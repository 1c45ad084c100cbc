"""Default inputs of a notebook that is run by hand; those that take seconds are made where they are missing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dgs_utils.params.base import Input
from dgs_utils.store.manifest import find_manifest, is_done
from dgs_utils.store.node import Node, default_node
from dgs_utils.store.paths import display_path, notebook_path, outputs_root, workspace


def default_folder(spec: Input) -> Path:
    """Return the folder of a default input; where it takes seconds and is missing, its notebook is run first.

    So a change of ``ipc`` in notebook 05 alone works: the thresholds for it are searched on the way.

    Raises:
        ValueError: that notebook failed.
    """
    node = default_node(spec.stage, spec.overrides)
    ready = all(isinstance(source, Node) and is_done(source.folder) for source in node.inputs.values())
    if not spec.on_demand or not ready or is_done(node.folder):
        return node.folder
    print(f"{display_path(node.folder)} is missing; running {node.stage} with these parameters first", flush=True)
    executed = node.folder / "notebook.ipynb"
    node.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(notebook_path(node.stage)), str(executed), "-k", "python3",
               "--log-level", "ERROR", "--no-progress-bar", "-y", json.dumps(node.params.model_dump(mode="json"))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=workspace())
    if result.returncode or not is_done(node.folder):
        reason = (result.stderr.strip().splitlines() or ["it ended without a result"])[-1]  # the notebook's own error
        raise ValueError(f"{node.stage}, which this stage needs, stopped: {reason}; see {display_path(executed)}")
    return node.folder


def default_folders(spec: Input, inputs: dict[str, Any]) -> list[Path]:
    """Return the folders of a default input that takes several: all finished results like the default node's.

    Those are the results of its stage that have its parameters and its 00 folder, whatever their other inputs are; of a
    stage whose results are inputs of evaluations that are found already, the inputs of these, which are none where
    image folders of any origin were evaluated.
    """
    if "evaluations" in inputs:
        readers = filter(None, map(find_manifest, inputs["evaluations"]))
        sources = [outputs_root() / source["folder"] for manifest in readers for source in manifest["inputs"]
                   if source["folder"].split("/")[0] in spec.stages]
        done = [folder for folder in dict.fromkeys(sources) if is_done(folder)]
        return done if done or not sources else [default_folder(spec)]
    node = default_node(spec.stage, spec.overrides)
    folders = sorted(node.folder.parent.glob("*/")) if node.folder.parent.is_dir() else []
    alike = [folder for folder in folders if (manifest := find_manifest(folder)) and manifest["stage"] == node.stage
             and manifest["identity"] == node.fingerprint
             and {source["key"] for source in manifest["inputs"] if source["name"] == "prepare"} == {
                 node.input_keys["prepare"]}]
    return alike or [default_folder(spec)]
