"""A stage being carried out: opened by `begin`, closed by `Run.finish`."""

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from dgs_utils.artifacts.files import settle, write_json
from dgs_utils.artifacts.manifests import (
    MANIFEST,
    SUMS,
    check_input,
    checksums,
    content_hash,
    content_of,
    is_done,
    read_begun,
)
from dgs_utils.artifacts.nodes import Node, check_root, default_node, key_of, settled
from dgs_utils.artifacts.opening import begin_on, door, given_paths, release, share_of, take
from dgs_utils.artifacts.own_code import code_hashes
from dgs_utils.artifacts.places import locate, notebook_of, outputs_root, workspace
from dgs_utils.artifacts.provenance import device_name, git_commit, peak_memory, versions
from dgs_utils.params import STAGES, validate
from dgs_utils.runtime.parameters import Input, StageParams, nearest

BATCH = "DGS_BATCH"  # set in the kernels of batch runs


@dataclass
class Run:
    """A stage being carried out.

    Attributes:
        node: the stage with its parameters and inputs.
        inputs: input folders by parameter name (a list where the parameter takes several).
        sources: the inputs as they are now: name, folder, key, content.
        warnings: sentences that `finish` puts into the manifest.
        reused: the manifest of a folder that was finished before from the same inputs, and is used as it is; else None.
        count: images a class, or trainings, of a result that can grow.
        chain: hashes of its beginnings (see `manifests.chain`).
    """

    node: Node
    inputs: dict[str, Any]
    sources: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    reused: dict[str, Any] | None = None
    count: int = 0
    chain: list[str] = field(default_factory=list)
    _lock: FileLock | None = None
    _started: float = field(default_factory=time.time)
    _reported: float = 0.0

    @property
    def params(self) -> Any:
        """The validated parameters."""
        return self.node.params

    @property
    def folder(self) -> Path:
        """The output folder, which exists."""
        return self.node.folder

    @property
    def key(self) -> str:
        """The twelve digits that the folder's name ends in."""
        return self.node.key

    def warn(self, sentence: str) -> None:
        """Print a warning and keep it for the manifest."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            print(f"Warning: {sentence}")

    def progress(self, iterable: Iterable, label: str, total: int | None = None) -> Iterator:
        """Pass ``iterable`` through a progress bar whose state other processes can read from ``progress.json``."""
        if BATCH in os.environ:  # nobody watches this bar but the reader of the executed notebook: one line, at its end
            from tqdm import tqdm
        else:
            from tqdm.auto import tqdm

        bar = tqdm(iterable, desc=label, total=total, mininterval=60 if BATCH in os.environ else 0.5)
        for step, item in enumerate(bar):  # the bar itself counts only as often as it is drawn
            self._report(label, step, bar.total)
            yield item

    def _report(self, label: str, step: int, total: int | None) -> None:
        if time.time() - self._reported > 0.5:
            self._reported = time.time()
            write_json(self.folder / "progress.json", {"label": label, "step": step, "total": total})

    def finish(self) -> dict[str, Any]:
        """Hash what was written and write the manifest, last; return it.

        A folder that was finished before keeps its manifest as long as it holds what that says.
        """
        files, sums = checksums(self.folder)
        if self.reused and all(files.get(name) == entry for name, entry in self.reused["files"].items()):
            self._close()
            return self.reused
        begun = read_begun(self.folder) or {}
        own = code_hashes(self.node.stage)
        manifest = {
            "stage": self.node.stage,
            "key": self.key,
            "label": self.node.label,
            "params": self.params.model_dump(mode="json"),
            "identity": self.node.identity,
            "inputs": self.sources,
            "given": given_paths(self.node),
            "files": files,
            "content": content_hash(self.node.stage, self.key, files),
            "count": self.count,
            "chain": self.chain,
            "warnings": self.warnings,
            "code": own if self.reused else begun.get("code", own),
            "later_code": [] if self.reused else begun.get("later_code", []),
            "git": git_commit(),
            "versions": versions(),
            "device": device_name(getattr(self.params, "device", "cpu")),
            "seconds": round(time.time() - self._started, 1),
            "peak_memory_mib": peak_memory(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        (self.folder / "progress.json").unlink(missing_ok=True)
        write_json(self.folder / SUMS, sums)
        settle(self.folder)
        write_json(self.folder / MANIFEST, manifest, durable=True)
        print(f"Finished {self.node.stage} in {manifest['seconds']:.0f} s: {self.folder}")
        self._close()
        return manifest

    def _close(self) -> None:
        release(self.folder, self._lock, share_of(self.params))
        self._lock = None


def begin(stage: str, namespace: dict[str, Any]) -> Run:
    """Open a stage: the second half of a notebook's parameters cell.

    Args:
        stage: stage name, such as "05_sample".
        namespace: the notebook's ``globals()``, where the parameters stand.

    Raises:
        ValueError: a wrong parameter, or an input folder that is missing, unfinished or stale.
    """
    model = STAGES[stage]
    for name in _injected_names(namespace):
        if name not in model.model_fields:
            raise ValueError(f"{name} is not a parameter of {stage}{nearest(name, model.model_fields)}")
    params = validate(stage, {name: namespace[name] for name in model.model_fields if name in namespace})
    return open_node(params)


def open_node(params: StageParams, alone: bool = True) -> Run:
    """Resolve and check the inputs of validated parameters and open the output folder (see `begin`).

    Args:
        params: the parameters.
        alone: False for a process that works for another one, which has opened the folder.
    """
    inputs: dict[str, Any] = {}
    found_in = []
    for name, spec in params.inputs().items():
        given = getattr(params, name)
        if given:
            folders = [locate(one) for one in (given if isinstance(given, list) else [given])]
        else:
            folders = [_default_folder(spec)]
        inputs[name] = folders if isinstance(given, list) else folders[0]
        found_in += [(name, folder, _manifest_of(name, folder, spec)) for folder in folders]
    params = settled(params, inputs)
    sources = [_source(name, folder, manifest, params.taken(name)) for name, folder, manifest in found_in]
    run = Run(Node(params, inputs), inputs, sources)
    run.folder.mkdir(parents=True, exist_ok=True)
    if alone:
        run._lock = take(run.folder, share_of(params))
        with door(run.folder):
            run.reused = begin_on(run.node, sources)
    print(f"Output: {run.folder}")
    return run


def _default_folder(spec: Input) -> Path:
    node = default_node(spec.stage, spec.overrides)
    if spec.on_demand:
        _make(node)
    return node.folder


def _make(node: Node) -> None:
    """Run the notebook of a default input that takes seconds and is missing, while all that it reads is there.

    So a change of ``ipc`` in notebook 05 alone just works: the thresholds for it are searched on the way.

    Raises:
        ValueError: that notebook failed.
    """
    ready = all(isinstance(source, Node) and is_done(source.folder) for source in node.inputs.values())
    if is_done(node.folder) or not ready:
        return
    print(f"{node.folder} is missing; running {node.stage} with these parameters first")
    executed = node.folder / "notebook.ipynb"
    node.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(notebook_of(node.stage)), str(executed),
               "-k", "python3", "--no-progress-bar", "-y", json.dumps(node.params.model_dump(mode="json"))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=workspace())
    if result.returncode or not is_done(node.folder):
        raise ValueError(f"{node.stage}, which this stage needs, failed; open {executed} to see why")


def _manifest_of(name: str, folder: Path, spec: Input) -> dict[str, Any] | None:
    """Return an input's manifest after checking it; None for an image folder of any origin, where that will do."""
    if spec.any_folder and folder.is_dir() and not (folder / MANIFEST).exists():
        return None
    manifest = check_input(folder, name, spec.stages)
    if sentence := check_root(folder, name, manifest):
        print(sentence)
    return manifest


def _source(name: str, folder: Path, manifest: dict[str, Any] | None, taken: int) -> dict[str, Any]:
    if manifest is None:
        return {"name": name, "folder": str(folder), "key": key_of(folder), "content": ""}  # the key is the content
    root = outputs_root()
    inside = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)
    found = {"name": name, "folder": inside, "key": manifest["key"]}
    if there := len(manifest["chain"]):  # it may grow, which does not change what is read of it now
        count = min(taken or there, there)
        return found | {"content": content_of(manifest, count), "count": count}
    return found | {"content": manifest["content"]}


def _injected_names(namespace: dict[str, Any]) -> list[str]:
    """Return the names that papermill set in this notebook: it injects unknown ones too, without failing."""
    cells = [source for source in namespace.get("In", []) if source.startswith("# Parameters\n")]
    targets = [node.targets[0] for cell in cells for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]
