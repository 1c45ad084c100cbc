"""One node: a notebook in a fresh kernel, into its own folder. Calling it twice does no harm."""

import importlib
import math
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from filelock import FileLock, Timeout

from dgs_utils.artifacts.files import write_json
from dgs_utils.artifacts.manifests import MANIFEST
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.opening import HOLDER, worker
from dgs_utils.artifacts.places import notebook_of, outputs_root, workspace
from dgs_utils.batch.display import Display
from dgs_utils.batch.gpu import leased_gpus
from dgs_utils.batch.limit import CellClock
from dgs_utils.batch.prepared import loads_of
from dgs_utils.batch.state import (
    ASKED,
    FAILURE,
    LOCK,
    changed_inputs,
    lock_file,
    made_by_other_code,
    manifest,
    record_folder,
    share,
    state,
)

PAUSE = 0.5  # seconds between looks at what another process is running
HANG = 900  # seconds that a kernel's start, or an output that it announced, may take on the busiest machine
SHARING = 1000  # notebooks that may share a GPU at the most
STALE = "stale"  # what --force takes beside stages


@dataclass(frozen=True)
class Options:
    """How nodes are run.

    Attributes:
        force: stages that run again even if they are finished; `STALE` stands for what other code made, at any stage.
        limit: minutes that one cell may take; 0 = any.
        per_gpu: how many notebooks may share a GPU.
        asked: the command: the experiment file, and each change by --set.

    Raises:
        ValueError: a limit that is negative or no number, or less than one or too many notebooks a GPU.
    """

    force: frozenset[str] = frozenset()
    limit: float = 0
    per_gpu: int = 1
    asked: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.limit < math.inf:
            raise ValueError(f"--limit is {self.limit:g}; give minutes, such as 90, or 0 for no limit")
        if not 1 <= self.per_gpu <= SHARING:
            raise ValueError(f"--per-gpu is {self.per_gpu}; give how many notebooks may share a GPU, 1 or more, up to "
                             f"{SHARING}")


DEFAULTS = Options()


@dataclass(frozen=True)
class Report:
    """What became of a node: done, skipped (finished before), failed, or blocked (an input is not there)."""

    node: Node
    outcome: str
    seconds: float = 0.0
    error: str = ""


def run_node(node: Node, display: Display, options: Options = DEFAULTS) -> Report | None:
    """Run one node unless it is finished; return None at once where another process is running it.

    Raises:
        OSError: the node's folder cannot be written.
    """
    if report := finished(node, options):
        return report
    folder = node.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_file(node), timeout=0):
            if report := finished(node, options):  # by another process, just now
                return report
            if who := worker(folder, share(node)):
                display.note(f"{shown(folder)} is held by {who}; it is left to that")
                return None
            if is_forced(node, options):
                clear(node)
            elif found := manifest(node):
                display.note(stale_line(node, found))
            return _run(node, display, options)
    except Timeout:
        return None


def is_forced(node: Node, options: Options) -> bool:
    """Return whether a node is to be made anew whatever there is of it."""
    return node.stage in options.force or (STALE in options.force and made_by_other_code(node))


def wait_for_node(node: Node, display: Display, options: Options = DEFAULTS) -> Report:
    """Run one node unless it is finished; where another process is running it, wait for that one's result.

    Raises:
        ValueError: an input is not finished.
    """
    for source in input_nodes(node):
        if state(source) != "done":
            raise ValueError(f"{node.stage} needs {source.stage}/{source.folder.name}, which is {state(source)}; "
                             f"run it first")
    while not (report := run_node(node, display, options)):
        time.sleep(PAUSE)
    return report


def input_nodes(node: Node) -> Iterator[Node]:
    """Yield a node's direct inputs, folders that somebody gave left out."""
    for source in node.inputs.values():
        yield from (item for item in (source if isinstance(source, list) else [source]) if isinstance(item, Node))


def finished(node: Node, options: Options = DEFAULTS) -> Report | None:
    """Return the report of a node that is not to be run; None if it is to be run."""
    found = manifest(node)
    if not found or changed_inputs(found) or is_forced(node, options):
        return None
    return Report(node, "skipped")


def stale_line(node: Node, found: dict[str, Any]) -> str:
    """Return one sentence on why a finished node is made again, the same for all nodes with this reason."""
    source = changed_inputs(found)[0]
    return f"{shown(outputs_root() / source)} holds another content than before; what was made from it is made again"


def clear(node: Node) -> None:
    """Remove what earlier runs left, the manifest first, since finished files in it would be taken up again."""
    (node.folder / MANIFEST).unlink(missing_ok=True)
    for entry in node.folder.iterdir():
        if not entry.name.startswith((LOCK, HOLDER)):
            _remove(entry)


def clear_unless_held(node: Node) -> None:
    """Do as `clear` where no process works in the folder, which may not be there yet."""
    node.folder.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout), FileLock(lock_file(node), timeout=0):
        if not worker(node.folder, share(node)):
            clear(node)


def _remove(entry: Path) -> None:
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)


def _run(node: Node, display: Display, options: Options) -> Report:
    for name in (FAILURE, "progress.json"):
        (node.folder / name).unlink(missing_ok=True)
    if options.asked:
        write_json(node.folder / ASKED, list(options.asked))
    if not share(node):  # else they may be another's that is at work
        for unfinished in list(node.folder.rglob(".*.partial")):  # of a notebook that was killed while it wrote
            _remove(unfinished)
    started = time.monotonic()
    with display.node(node), leased_gpus(node.params, options.per_gpu, tell=display.waiting):
        error = execute(node, options.limit, display.at_cell)
        if node.stage == "07_figures" and not error:
            _leave_page(node.folder)
    report = Report(node, "failed" if error else "done", time.monotonic() - started, error)
    if error:
        with suppress(OSError):  # on a full disk the line on the terminal has to do
            write_json(node.folder / FAILURE, {"error": error})
    display.finished(report)
    return report


def _leave_page(folder: Path) -> None:
    """Leave a report beside the figures; where that cannot be done, the log tells, since the figures are finished."""
    from dgs_utils.batch.page import write_page  # here, because nbconvert takes a while to import

    try:
        write_page(folder)
    except (OSError, ValueError, ImportError):
        with suppress(OSError), (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())


def execute(node: Node, limit: float = 0, at_cell: Callable | None = None) -> str:
    """Execute a node's notebook; return "" or what went wrong, in one line.

    The executed notebook stays in the node's folder as ``notebook.ipynb``, what it printed in ``log.txt``; those of a
    share of a pool in a subfolder.

    Args:
        node: the node, whose folder exists and whose inputs are finished.
        limit: minutes that one cell may take; 0 = any.
        at_cell: called with each ``cell`` and its ``cell_index`` before it runs.
    """
    papermill = load_papermill()

    from dgs_utils.batch.kernel import manager_class

    notebook, folder = notebook_of(node.stage), record_folder(node)
    before = _written(node)
    clock = CellClock(limit)

    def at_start(cell: dict, cell_index: int) -> None:
        clock.restart()
        if at_cell:
            at_cell(cell, cell_index)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w", encoding="utf-8", errors="replace") as log, clock:
            try:
                papermill.execute_notebook(
                    _literal(notebook), _literal(folder / "notebook.ipynb"), _parameters(node),
                    kernel_name="python3",
                    kernel_manager_class=manager_class(partial(setattr, clock, "kernel"), loads_of(notebook)),
                    shutdown_kernel="immediate", cwd=workspace(), progress_bar=False, stdout_file=log, stderr_file=log,
                    on_cell_start=at_start, on_cell_executed=lambda **_: clock.pause(),
                    coalesce_streams=True, start_timeout=HANG, iopub_timeout=HANG)
            except papermill.PapermillExecutionError as error:
                log.write(re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback)))
                return _late(limit) if clock.expired else f"{error.ename}: {error.evalue}"
            except Exception:
                log.write(traceback.format_exc())
                raise
    except Exception as error:  # a missing notebook, a kernel that was killed, a full disk: the siblings go on
        return _late(limit) if clock.expired else _reason(error)
    # Of a pool in shares, the one that ends last leaves the manifest.
    done = share(node) or (manifest(node) and _written(node) != before)
    return "" if done else "the notebook ended without a manifest; its last cell must call run.finish()"


def load_papermill() -> ModuleType:
    """Import papermill, late because it takes a while, and without the grammar of addresses that notebooks lack.

    jsonschema, which nbformat checks notebooks with, builds that grammar for a second wherever it is installed.
    """
    grammar, modules = "rfc3987_syntax", cast(dict[str, Any], sys.modules)
    absent = modules.setdefault(grammar, None) is None  # None has its import fail, which jsonschema expects
    try:
        return importlib.import_module("papermill")
    finally:
        if absent:
            del modules[grammar]


def _written(node: Node) -> tuple[int, int]:
    """Return what tells one manifest from another that takes its place."""
    try:
        status = (node.folder / MANIFEST).stat()
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def _literal(path: Path) -> str:
    """Return a path that papermill, which formats paths, leaves as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _late(limit: float) -> str:
    return f"a cell took longer than the limit of {limit:g} minutes"


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "DeadKernelError":
        return "the kernel died; it was killed, or ran out of memory"
    if name == "LostReplyError":
        return str(error)
    return f"{name}: {error}"


def _parameters(node: Node) -> dict[str, Any]:
    """Return all parameters of a notebook, with its input folders filled in."""
    values = node.params.model_dump(mode="json")
    for name, source in node.inputs.items():
        values[name] = _path(source) if isinstance(source, Node | Path) else [_path(item) for item in source]
    return values


def _path(source: Node | Path) -> str:
    """Return a folder as notebooks take it: below ``outputs/`` where it is there, so that results can be moved."""
    folder = source.folder if isinstance(source, Node) else source
    root = outputs_root()
    return f"outputs/{folder.relative_to(root).as_posix()}" if folder.is_relative_to(root) else str(folder)


def failure_line(node: Node, error: str) -> str:
    """Return one line: stage, parameters that are not the default, the error, the executed notebook to open."""
    fields = type(node.params).model_fields
    changed = {name: value for name, value in node.params.identity().items() if value != fields[name].default}
    given = ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"
    return (f"FAILED {node.stage} ({given}): {' '.join(error.split())[:400]}; "
            f"open {shown(record_folder(node) / 'notebook.ipynb')}")


def shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
