"""Stage folders: where a result lies, when it counts as done, and how it got there.

A stage writes one folder, ``outputs/<stage>/<readable>-<key>/``, named after the hash of everything that decides its
content (`dgs_utils.params.node_key`), so that the path itself is the cache key. A finished folder ends with
``manifest.json``, written last by an atomic rename: no manifest, not done. Timings differ from run to run, so they go
into `VOLATILE` files, which no checksum covers.

A notebook opens its stage with `begin` and closes it with `Run.finish`.
"""

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dgs_utils.params import STAGES, Input, StageParams, nearest, node_key, validate

MANIFEST = "manifest.json"
SHARES = "shares"  # executed notebooks of several processes that fill one folder
VOLATILE = {MANIFEST, SHARES, "progress.json", "notebook.ipynb", "log.txt", "timing.csv", "checkpoints", "trackers"}
PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


# ---- Places ----------------------------------------------------------------------------------------------------------

def workspace() -> Path:
    """Return the folder that relative paths start from.

    That is the nearest folder at or above the current one that holds both ``notebooks`` and ``params`` (so notebooks
    find the same files from JupyterLab and from papermill), else the current folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def outputs_root() -> Path:
    """Return the folder that holds every stage's results: ``$DGS_OUTPUTS``, or ``outputs`` in the workspace."""
    return Path(os.environ.get("DGS_OUTPUTS") or workspace() / "outputs").absolute()


def locate(path: str | Path) -> Path:
    """Return ``path`` as an absolute path; relative ones start from the workspace, ``outputs/`` from `outputs_root`."""
    path = Path(path).expanduser()
    if path.parts[:1] == ("outputs",):
        return outputs_root().joinpath(*path.parts[1:])
    return path if path.is_absolute() else workspace() / path


@dataclass(frozen=True)
class Node:
    """A stage with all its parameters settled: what a folder's name stands for, whether or not it exists yet."""

    params: StageParams
    inputs: dict[str, "Node | Path | list[Node | Path]"]

    @property
    def stage(self) -> str:
        """Stage name, such as ``05_sample``."""
        return self.params.stage

    @cached_property
    def key(self) -> str:
        """Eight hex digits: stage, own parameters, inputs' keys."""
        return node_key(self.params, {name: key_of(value) for name, value in self.inputs.items()})

    @cached_property
    def label(self) -> str:
        """The readable part of the folder's name."""
        return self.params.label({n: label_of(v) for n, v in self.inputs.items() if not isinstance(v, list)})

    @property
    def folder(self) -> Path:
        """The output folder: the given one, or the one that the key names."""
        if self.params.output:
            return locate(self.params.output)
        return outputs_root() / self.stage / f"{self.label}-{self.key}"


def key_of(source: "Node | Path | list") -> Any:
    """Return what identifies an input: a node's or a stage folder's key, a foreign folder's path, a list's keys."""
    if isinstance(source, list):
        return sorted(key_of(item) for item in source)
    if isinstance(source, Node):
        return source.key
    manifest = source / MANIFEST
    return read_manifest(source)["key"] if manifest.exists() else f"folder {source}"


def label_of(source: "Node | Path") -> str:
    """Return the readable part of an input's name."""
    if isinstance(source, Node):
        return source.label
    return read_manifest(source)["label"] if (source / MANIFEST).exists() else source.name


def default_node(stage: str, overrides: dict[str, Any] | None = None) -> Node:
    """Return the node that a stage with default parameters (and ``overrides``) stands for."""
    params = validate(stage, overrides or {})
    return Node(params, {name: default_input(params, name, spec) for name, spec in params.inputs().items()})


def default_input(params: StageParams, name: str, spec: Input) -> Node | list[Node]:
    """Return the default node behind one input parameter; a parameter that takes several folders gets a list of one."""
    node = default_node(spec.stage, spec.overrides)
    return [node] if isinstance(getattr(params, name), list) else node


# ---- Writing and reading ---------------------------------------------------------------------------------------------

@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (file or folder) and rename it to ``path`` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if path.is_dir() and partial.is_dir():
            shutil.rmtree(path)  # os.replace cannot put one folder over another
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def write_csv(path: Path, frame) -> None:
    """Write a `pandas.DataFrame` atomically, without its index; floats round-trip exactly."""
    with atomic(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a finished stage's manifest.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        return manifest if {"stage", "key", "label", "content", "inputs", "files"} <= manifest.keys() else _broken(path)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {MANIFEST}, so its stage was never finished; run that stage first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        _broken(path)


def _broken(path: Path) -> None:
    raise ValueError(f"{path} is damaged; delete that file and run the stage again") from None


def is_done(folder: Path) -> bool:
    """Return whether a folder holds a finished stage with a readable manifest."""
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return True


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return SHA-256 and size of each entry of a stage folder, `VOLATILE` and hidden ones left out.

    A subfolder is one entry: the hash of its files' relative names and hashes, in order.
    """
    return {
        entry.name: _digest(entry)
        for entry in sorted(folder.iterdir())
        if entry.name not in VOLATILE and not entry.name.startswith(".")
    }


def _digest(entry: Path) -> dict[str, Any]:
    if entry.is_file():
        with entry.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": entry.stat().st_size}
    files = sorted(f for f in entry.rglob("*") if f.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(entry).as_posix()} {_digest(file)['sha256']}\n".encode())
    return {"sha256": total.hexdigest(), "bytes": sum(f.stat().st_size for f in files), "files": len(files)}


def _changed(path: Path, entry: dict[str, Any]) -> bool:
    """Return whether an entry lost something since its manifest was written, as far as a quick look tells.

    A file has the same size; a folder has no fewer files and bytes (others may stand beside them).
    """
    if path.is_file():
        return path.stat().st_size != entry["bytes"]
    sizes = [f.stat().st_size for f in path.rglob("*") if f.is_file()]
    return len(sizes) < entry.get("files", 1) or sum(sizes) < entry["bytes"]


def check_input(folder: Path, what: str, stages: Sequence[str]) -> dict[str, Any]:
    """Return an input folder's manifest after checking that it is there, of the right stage, whole and up to date.

    Args:
        folder: the folder.
        what: the parameter that names it.
        stages: the stages that write what is wanted.

    Raises:
        ValueError: it is not; the sentence names the parameter, the folder and the remedy.
    """
    if not folder.is_dir():
        raise ValueError(f"{what}: the folder {folder} does not exist; run the stage that writes it first, "
                         f"or give the path of a finished one")
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if manifest["stage"] not in stages:
        raise ValueError(f"{what}: {folder} was written by {manifest['stage']}; "
                         f"give a folder that {' or '.join(stages)} wrote")
    for name, entry in manifest["files"].items():
        path = folder / name
        if _changed(path, entry):
            raise ValueError(f"{what}: {path} is missing or changed since its stage finished; "
                             f"delete {folder / MANIFEST} and run {manifest['stage']} again")
    for source in manifest["inputs"]:
        upstream = outputs_root() / source["folder"]
        if source["content"] and is_done(upstream) and read_manifest(upstream)["content"] != source["content"]:
            raise ValueError(f"{what}: {folder} is stale, since its input {upstream} was made anew with another "
                             f"content; delete {folder / MANIFEST} and run {manifest['stage']} again")
    return manifest


# ---- Running a stage -------------------------------------------------------------------------------------------------

def silent(iterable: Iterable, label: str = "", total: int | None = None) -> Iterable:
    """Stand in for `Run.progress` where nobody watches."""
    return iterable


@dataclass
class Run:
    """A stage being carried out.

    Attributes:
        params: the validated parameters.
        inputs: input folders by parameter name (a list where the parameter takes several).
        folder: the output folder, which exists.
        warnings: sentences that `finish` puts into the manifest.
    """

    node: Node
    inputs: dict[str, Any]
    sources: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.time)
    _reported: float = 0.0

    @property
    def params(self) -> StageParams:
        return self.node.params

    @property
    def folder(self) -> Path:
        return self.node.folder

    @property
    def key(self) -> str:
        return self.node.key

    def warn(self, sentence: str) -> None:
        """Print a warning and keep it for the manifest."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            print(f"Warning: {sentence}")

    def progress(self, iterable: Iterable, label: str, total: int | None = None) -> Iterator:
        """Pass ``iterable`` through a progress bar whose state other processes can read from ``progress.json``."""
        from tqdm.auto import tqdm

        bar = tqdm(iterable, desc=label, total=total, mininterval=0.5)
        for item in bar:
            self._report(label, bar.n, bar.total)
            yield item

    def _report(self, label: str, step: int, total: int | None) -> None:
        if time.time() - self._reported > 0.5:
            self._reported = time.time()
            write_json(self.folder / "progress.json", {"label": label, "step": step, "total": total})

    def finish(self) -> dict[str, Any]:
        """Hash what was written and write the manifest, last; return it."""
        files = checksums(self.folder)
        manifest = {
            "stage": self.node.stage,
            "key": self.key,
            "label": self.node.label,
            "params": self.params.model_dump(mode="json"),
            "identity": self.params.identity(),
            "inputs": self.sources,
            "files": files,
            "content": _content(self.node.stage, self.key, files),
            "warnings": self.warnings,
            "code": code_hashes(self.node.stage),
            "git": _git_commit(),
            "versions": _versions(),
            "device": _device(getattr(self.params, "device", "cpu")),
            "seconds": round(time.time() - self._started, 1),
            "peak_memory_mib": _peak_memory(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        (self.folder / "progress.json").unlink(missing_ok=True)
        write_json(self.folder / MANIFEST, manifest)
        print(f"Finished {self.node.stage} in {manifest['seconds']:.0f} s: {self.folder}")
        return manifest


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


def open_node(params: StageParams) -> Run:
    """Resolve and check the inputs of validated parameters and create the output folder (see `begin`)."""
    inputs, sources = {}, []
    for name, spec in params.inputs().items():
        given = getattr(params, name)
        if not given:
            found = default_input(params, name, spec)
            if spec.on_demand:
                _make(found)
            found = [n.folder for n in found] if isinstance(found, list) else found.folder
        else:
            found = [locate(g) for g in given] if isinstance(given, list) else locate(given)
        inputs[name] = found
        for folder in found if isinstance(found, list) else [found]:
            sources.append(_source(name, folder, spec))
    run = Run(Node(params, inputs), inputs, sources)
    run.folder.mkdir(parents=True, exist_ok=True)
    print(f"Output: {run.folder}")
    return run


def _make(node: Node) -> None:
    """Run the notebook of a default input that takes seconds and is missing, while all that it reads is there.

    So a change of ``ipc`` in notebook 05 alone just works: the thresholds for it are searched on the way.

    Raises:
        ValueError: that notebook failed.
    """
    ready = all(is_done(source.folder) for source in node.inputs.values())
    if is_done(node.folder) or not ready:
        return
    print(f"{node.folder} is missing; running {node.stage} with these parameters first")
    executed = node.folder / "notebook.ipynb"
    node.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(workspace() / "notebooks" / f"{node.stage}.ipynb"), str(executed),
               "-k", "python3", "--no-progress-bar", "-y", json.dumps(node.params.model_dump(mode="json"))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=workspace())
    if result.returncode or not is_done(node.folder):
        raise ValueError(f"{node.stage}, which this stage needs, failed; open {executed} to see why")


def _source(name: str, folder: Path, spec: Input) -> dict[str, Any]:
    if spec.any_folder and folder.is_dir() and not (folder / MANIFEST).exists():
        return {"name": name, "folder": str(folder), "key": key_of(folder), "content": ""}
    manifest = check_input(folder, name, spec.stages)
    root = outputs_root()
    inside = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)
    return {"name": name, "folder": inside, "key": manifest["key"], "content": manifest["content"]}


def input_folder(manifest: dict[str, Any], name: str) -> Path | None:
    """Return the folder of the input called ``name`` that a manifest records, or None."""
    found = [outputs_root() / source["folder"] for source in manifest["inputs"] if source["name"] == name]
    return found[0] if found else None


def _injected_names(namespace: dict[str, Any]) -> list[str]:
    """Return the names that papermill set in this notebook: it injects unknown ones too, without failing."""
    cells = [source for source in namespace.get("In", []) if source.startswith("# Parameters\n")]
    targets = [node.targets[0] for cell in cells for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


# ---- What a manifest tells about its making --------------------------------------------------------------------------

def _content(stage: str, key: str, files: dict) -> str:
    payload = json.dumps([stage, key, {name: entry["sha256"] for name, entry in files.items()}])
    return hashlib.sha256(payload.encode()).hexdigest()


def code_hashes(stage: str) -> dict[str, str]:
    """Return short hashes of the stage's notebook (its sources, not its outputs) and of the package's Python files."""
    package = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        package.update(file.read_bytes())
    notebook = workspace() / "notebooks" / f"{stage}.ipynb"
    source = ""
    if notebook.exists():
        source = json.dumps([cell["source"] for cell in json.loads(notebook.read_text())["cells"]])
    return {"package": package.hexdigest()[:12], "notebook": hashlib.sha256(source.encode()).hexdigest()[:12]}


def _git_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("dgs-utils", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def _device(name: str) -> str:
    torch = sys.modules.get("torch")
    if torch is not None and name != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def _peak_memory() -> dict[str, int]:
    """Return the process's peak memory and the GPU allocator's, in MiB."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, KiB elsewhere
    found = {"cpu": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.max_memory_allocated() // 2**20
    return found
