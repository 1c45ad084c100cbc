"""A running stage: opened by `stage`, closed by `Run.finish`."""

import os
import shutil
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dgs_utils.params import STAGES, validate
from dgs_utils.params.base import Input, StageParams, did_you_mean
from dgs_utils.params.cells import check_keywords, check_names, main_namespace
from dgs_utils.store.atomic import sync_filesystem, write_json
from dgs_utils.store.code_fingerprint import code_hashes
from dgs_utils.store.failed_cells import failed_cell, watch_cells
from dgs_utils.store.grouped_warnings import warning_kind
from dgs_utils.store.lineage import check_input
from dgs_utils.store.lock import acquire, open_lock, release, shard_of
from dgs_utils.store.manifest import (
    CHECKSUMS,
    MANIFEST,
    PARTIAL_CHECKSUMS,
    RUN_INPUTS,
    STEP_TIMES,
    STEP_TIMES_FILE,
    content_hash,
    find_manifest,
    hash_entries,
    prefix_hash,
    prefix_hashes,
    read_run_inputs,
)
from dgs_utils.store.node import Node, check_listed_images, input_key, prepare_params, with_resolved_pool_size
from dgs_utils.store.on_demand import default_folder, default_folders
from dgs_utils.store.paths import outputs_root, resolve_path
from dgs_utils.store.provenance import device_name, git_commit, peak_memory, versions
from dgs_utils.store.records import write_record
from dgs_utils.store.resume import resume_or_reset, run_inputs
from dgs_utils.store.stage_result import StageResult

if TYPE_CHECKING:
    from pandas import DataFrame

BATCH = "DGS_BATCH"  # set in the kernels of batch runs

_open_runs: "weakref.WeakValueDictionary[int, Run]" = weakref.WeakValueDictionary()  # not finished yet, by id


@dataclass
class Run:
    """A running stage."""

    node: Node  # the stage with its parameters and inputs
    inputs: dict[str, Any]  # input folders by parameter name (a list where the parameter takes several)
    sources: list[dict[str, Any]]  # the inputs as they are now: name, folder, key, content
    params: Any  # the validated parameters
    warnings: list[str] = field(default_factory=list)  # sentences that `finish` puts into the manifest
    # Those among them that put in question whatever is made from this result.
    decisive: list[str] = field(default_factory=list)
    # The manifest of a folder that was finished before from the same inputs, and is used as it is; else None.
    cached: dict[str, Any] | None = None
    count: int = 0  # images a class, or trainings, of a result that can grow
    chain: list[str] = field(default_factory=list)  # hashes of its beginnings (see `manifest.prefix_hashes`)
    # `finish` does nothing until this returns True, as where several processes fill one folder.
    is_complete: Callable[[], bool] = lambda: True
    _lock: FileLock | None = None
    _closed: bool = False
    _started: float = field(default_factory=time.time)
    _reported: float = 0.0
    _kinds: dict[str, list[str]] = field(default_factory=dict)  # warnings by kind
    _ticks: dict[str, list[float]] = field(default_factory=dict)  # seconds of a loop's steps, by its label

    @property
    def folder(self) -> Path:
        """The output folder, which exists."""
        return self.node.folder

    @property
    def key(self) -> str:
        """The twelve digits that the folder's name ends in."""
        return self.node.key

    def warn(self, sentence: str, decides: bool = False) -> None:
        """Keep a warning for the manifest; print it, unless one of its kind was printed (see `grouped_warnings`).

        If it ``decides``, it puts in question what is made from this result, and follows a run's last line.
        """
        if sentence in self.warnings:
            return
        self.warnings.append(sentence)
        if decides:
            self.decisive.append(sentence)
        kind = warning_kind(sentence)
        if kind not in self._kinds:
            print(f"Warning: {sentence}")
        self._kinds.setdefault(kind, []).append(sentence)

    def resolve_open(self, name: str, look: Callable[[], Any]) -> None:
        """Resolve a parameter that is left open (0) by ``look``, once images are read; the key keeps the 0."""
        if not getattr(self.params, name):
            self.params = self.params.model_copy(update={name: look()})
            print(f"{name}: {getattr(self.params, name)}, as the images have it")

    def progress(self, iterable: Iterable, label: str, total: int | None = None) -> Iterator:
        """Pass ``iterable`` through a progress bar whose state other processes can read from ``progress.json``."""
        if BATCH in os.environ:  # this bar is only read in the executed notebook: one line, at its end
            from tqdm import tqdm
        else:
            from tqdm.auto import tqdm

        bar = tqdm(iterable, desc=label, total=total, mininterval=60 if BATCH in os.environ else 0.5)
        for step, item in enumerate(bar):  # the bar itself counts only as often as it is drawn
            if time.time() - self._reported > 0.5:
                self._reported = time.time()
                write_json(self.folder / "progress.json", {"label": label, "step": step, "total": bar.total})
            began = time.perf_counter()
            yield item
            if STEP_TIMES in os.environ:
                self._ticks.setdefault(label, []).append(time.perf_counter() - began)

    def record_prefixes(self, count: int, indices: Iterable[int], lines: Iterable[str]) -> None:
        """Record what the first n images of each class hold, for every n up to ``count``.

        Each image has its index in its class, and a line with all that decides what is made from it.
        """
        by_index = defaultdict[int, list[str]](list)
        for index, line in zip(indices, lines, strict=True):
            by_index[int(index)].append(line)
        self.count = count
        self.chain = prefix_hashes("\n".join(sorted(by_index[index])) for index in sorted(by_index))

    def table(self, name: str) -> "DataFrame":
        """Read ``<name>.csv`` of the output folder (see `table_io.read_table`)."""
        from dgs_utils.runtime.table_io import read_table  # here, because pandas takes a while to import

        return read_table(self.folder / f"{name}.csv")

    def finish(self) -> StageResult:
        """Finish the stage: hash what was written and write the manifest, last; return it, shown as a summary.

        A folder that was finished before keeps its manifest as long as it holds what that says. Called again, as after
        an interrupt, it finishes what is left.

        Raises:
            ValueError: a cell failed or was interrupted and has not been run again, or the stage was finished before,
                and another process has changed its folder since.
        """
        if cell := failed_cell():
            raise ValueError(f"the cell that begins with {cell!r} failed or was interrupted, so {self.folder} may lack "
                             f"what it writes; run it again and then this one, or run the notebook from the cell that "
                             f"opens the stage")
        if self._closed:
            self._lock_again()
        if not self.cached and not self.is_complete():
            self._close()
            return self._result({})
        if not shard_of(self.params):
            return self._result(self._finish())
        with open_lock(self.folder):  # shards that end at the same time finish one after the other
            self.cached = self.cached or find_manifest(self.folder)
            return self._result(self._finish())

    def _result(self, manifest: dict[str, Any]) -> StageResult:
        result = StageResult(manifest, self.folder, self.params)
        if "In" not in main_namespace():  # a notebook shows what its last line returns
            print(result)
        return result

    def _lock_again(self) -> None:
        """Lock a folder that was finished, if it still is what this session has finished."""
        if self.folder.is_dir():
            self._lock, self._closed = acquire(self.folder, shard_of(self.params)), False
            if not self.cached or find_manifest(self.folder) == self.cached:
                return
            self._close()
        raise ValueError(f"{self.folder} was changed by another process since this notebook finished it; run the "
                         f"notebook again from the cell that opens the stage")

    def _finish(self) -> dict[str, Any]:
        files, checksums = hash_entries(self.folder)
        if self.cached and all(files.get(name) == entry for name, entry in self.cached["files"].items()):
            self._close()
            return self.cached
        code = code_hashes(self.node.stage)
        begun = self.cached or read_run_inputs(self.folder) or {"code": code, "later_code": []}
        later = begun["later_code"]
        if self.cached and code not in (begun["code"], *later):  # some files may still be those of the earlier code
            later = [*later, code]
        made_from = run_inputs(self.node, self.sources, begun["code"], later)
        manifest = made_from | {
            "label": self.node.label,
            "params": self.params.model_dump(mode="json", exclude=set(self.params.unused())),
            "files": files,
            "content": content_hash(self.node.stage, self.key, files),
            "count": self.count,
            "chain": self.chain,
            "warnings": self.warnings,
            "decisive": self.decisive,
            "git": git_commit(),
            "versions": versions(),
            "device": device_name("auto" if self.params.needs_gpu else "cpu"),
            "seconds": round(time.time() - self._started, 1),
            "peak_memory_mib": peak_memory(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        (self.folder / "progress.json").unlink(missing_ok=True)
        if STEP_TIMES in os.environ:
            write_json(self.folder / STEP_TIMES_FILE, self._ticks)
        write_record(self.folder / CHECKSUMS, {"subfolders": checksums})
        write_record(self.folder / RUN_INPUTS, made_from)
        sync_filesystem(self.folder)
        write_record(self.folder / MANIFEST, manifest, durable=True)
        # The record of checksums has them; another shard may be writing the last one, which does no harm.
        shutil.rmtree(self.folder / PARTIAL_CHECKSUMS, ignore_errors=True)
        self.cached = manifest
        self._close()
        return manifest

    def _close(self) -> None:
        _open_runs.pop(id(self), None)
        release(self.folder, self._lock, shard_of(self.params))
        self._lock, self._closed = None, True


# ---- Opening ---------------------------------------------------------------------------------------------------------

def stage(name: str, /, **parameters: Any) -> Run:
    """Open a stage: check its parameters and inputs, and lock its output folder.

    Without keywords, the parameters are those of the running notebook: of its parameters cell, and of the cell that
    papermill adds. With keywords, as in a script, they are these and the defaults:
    ``run = dgs.stage("05_sample", ipc=20)``.

    Args:
        name: the stage, such as "05_sample".
        parameters: of its model in `dgs_utils.params`.

    Raises:
        ValueError: a wrong parameter, or an input folder that is missing, unfinished or stale.
    """
    if name not in STAGES:
        raise ValueError(f"{name!r} is not a stage{did_you_mean(name, STAGES)}")
    fields, namespace = STAGES[name].model_fields, main_namespace()
    watch_cells()
    if parameters:
        check_keywords(name, parameters, namespace, fields)
        return open_node(validate(name, parameters))
    for doubt in check_names(name, namespace, fields):
        print(f"Warning: {doubt}")
    params = validate(name, {field: namespace[field] for field in fields if field in namespace})
    more = set(fields) - set(params.names_in_cell())
    if also := [f"{field} = {getattr(params, field)!r}" for field in fields
                if field in more and getattr(params, field) != fields[field].default]:
        print(f"Also set, beside the parameters cell: {', '.join(also)}")
    return open_node(params)


def finish_open_runs(name: str) -> list[StageResult]:
    """Finish the runs of a stage that this process has opened and not finished (see `Run.finish`)."""
    return [run.finish() for run in list(_open_runs.values()) if run.node.stage == name]


def open_node(params: StageParams, alone: bool = True) -> Run:
    """Resolve and check the inputs of validated parameters and open the output folder (see `stage`).

    ``alone`` is False for a process that works for another one, which has opened the folder.
    """
    own = getattr(params, "prepare", "")
    params = params.with_defaults(prepare_params(resolve_path(own)) if own else {})
    inputs: dict[str, Any] = {}
    manifests = []
    for name, spec in params.inputs().items():
        value = getattr(params, name)
        if value:
            folders = [resolve_path(path) for path in (value if isinstance(value, list) else [value])]
        else:
            folders = default_folders(spec, inputs) if isinstance(value, list) else [default_folder(spec)]
        inputs[name] = folders if isinstance(value, list) else folders[0]
        manifests += [(name, folder, _input_manifest(name, folder, spec)) for folder in folders]
    params = with_resolved_pool_size(params, inputs)
    sources = [_source(name, folder, manifest, params.images_read_from(name)) for name, folder, manifest in manifests]
    run = Run(Node(params, inputs), inputs, sources, params)
    run.folder.mkdir(parents=True, exist_ok=True)
    if alone:
        run._lock = acquire(run.folder, shard_of(params))
        with open_lock(run.folder):
            run.cached = resume_or_reset(run.node, sources)
        _open_runs[id(run)] = run
    print(f"Output: {run.folder}")
    return run


def _input_manifest(name: str, folder: Path, spec: Input) -> dict[str, Any] | None:
    """Return an input's manifest after checking it; None for an image folder of any origin, where that will do."""
    if spec.any_folder and folder.is_dir() and not (folder / MANIFEST).exists():
        return None
    manifest = check_input(folder, name, spec.stages)
    if sentence := check_listed_images(folder, name, manifest):
        print(sentence)
    return manifest


def _source(name: str, folder: Path, manifest: dict[str, Any] | None, taken: int) -> dict[str, Any]:
    if manifest is None:
        return {"name": name, "folder": str(folder), "key": input_key(folder), "content": ""}  # the key is the content
    root = outputs_root()
    inside = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)
    source = {"name": name, "folder": inside, "key": manifest["key"]}
    if levels := len(manifest["chain"]):  # it may grow, which does not change what is read of it now
        count = min(taken or levels, levels)
        return source | {"content": prefix_hash(manifest, count), "count": count}
    return source | {"content": manifest["content"]}
