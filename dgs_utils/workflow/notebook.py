"""One node: a notebook in a fresh kernel, into its own folder. Calling it twice does no harm."""

import importlib
import json
import logging
import math
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from dgs_utils.store.atomic import remove_path, write_json
from dgs_utils.store.lock import emptying_lock, runner_lock, shard_of
from dgs_utils.store.manifest import MANIFEST, REQUEST
from dgs_utils.store.node import Node
from dgs_utils.store.paths import display_path, notebook_path, outputs_root
from dgs_utils.store.resume import empty
from dgs_utils.store.status import FAILURE, changed_inputs, made_by_other_code, node_manifest, notebook_dir, why_stale
from dgs_utils.workflow.display import WAIT_INTERVAL_S, Display, NodeProgress
from dgs_utils.workflow.forkserver import imports_of_notebook
from dgs_utils.workflow.gpus import VISIBLE_GPUS, leased_gpus
from dgs_utils.workflow.kernel import KernelPool

NODE_POLL_S = 0.5  # seconds between looks at what another process is running
START_TIMEOUT_S = 900  # within which a kernel starts, or an output that it announced arrives, on the busiest machine
MAX_PER_GPU = 1000  # notebooks that may share a GPU at the most
STALE = "stale"  # what --force takes beside stages


@dataclass(frozen=True)
class Options:
    """How nodes are run.

    Raises:
        ValueError: a limit that is negative or no number, or less than one or too many notebooks a GPU.
    """

    # Stages that run again even if they are finished; `STALE` stands for what other code made, at any stage.
    force: frozenset[str] = frozenset()
    limit: float = 0  # minutes that one cell may take; 0 = any
    per_gpu: int = 1  # how many notebooks may share a GPU
    asked: tuple[str, ...] = ()  # the command: the experiment file, and each change by --set
    fail_fast: bool = False  # whether the first notebook that fails ends the run, as Ctrl-C does

    def __post_init__(self):
        if not 0 <= self.limit < math.inf:
            raise ValueError(f"--limit is {self.limit:g}; give minutes, such as 90, or 0 for no limit")
        if not 1 <= self.per_gpu <= MAX_PER_GPU:
            raise ValueError(f"--per-gpu is {self.per_gpu}; give how many notebooks may share a GPU, 1 or more, up to "
                             f"{MAX_PER_GPU}")


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Report:
    """What became of a node: done, skipped (finished before), failed, or blocked (an input is missing, or the first
    failure was to end the run).
    """

    node: Node
    outcome: str
    seconds: float = 0.0
    error: str = ""


def run_node(node: Node, display: Display, kernels: KernelPool, options: Options = DEFAULT_OPTIONS) -> Report | None:
    """Run one node unless it is finished; return None where another process is running it, or the run is stopping.

    Raises:
        OSError: the node's folder cannot be written.
    """
    if report := finished_report(node, options):
        return report
    folder, part = node.folder, shard_of(node.params)
    folder.mkdir(parents=True, exist_ok=True)
    with runner_lock(folder, part) as owner:
        if report := finished_report(node, options):  # by another process, just now
            return report
        if not owner:
            with emptying_lock(folder, part) as owner:  # a notebook by hand that opens now finds it cleared
                if not owner and is_forced(node, options):
                    empty(folder, keep=set())
                elif not owner and node_manifest(node):
                    display.note(why_stale(node))
                if not owner:
                    _clear_leftovers(node)
        if not owner:
            return _run(node, display, kernels, options)
    display.note(f"{display_path(folder)} is held by {owner}; it is left to that", again_after=WAIT_INTERVAL_S)
    return None


def is_forced(node: Node, options: Options) -> bool:
    """Return whether a node runs again even if it is finished."""
    return node.stage in options.force or (STALE in options.force and made_by_other_code(node))


def finished_report(node: Node, options: Options = DEFAULT_OPTIONS) -> Report | None:
    """Return the report of a node that is not to be run; None if it is to be run."""
    manifest = node_manifest(node)
    if not manifest or changed_inputs(manifest) or is_forced(node, options):
        return None
    return Report(node, "skipped")


def manifest_identity(node: Node) -> tuple[int, int]:
    """Return inode and time of a node's manifest, which differ when another replaces it."""
    try:
        status = (node.folder / MANIFEST).stat()
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def _clear_leftovers(node: Node) -> None:
    """Remove what the last run said, and what a notebook that was killed left half written."""
    for name in (FAILURE, "progress.json"):
        (node.folder / name).unlink(missing_ok=True)
    if not shard_of(node.params):  # else they may be another's that is at work
        for unfinished in list(node.folder.rglob(".*.partial")):
            remove_path(unfinished)


def _run(node: Node, display: Display, kernels: KernelPool, options: Options) -> Report | None:
    if options.asked:
        write_json(node.folder / REQUEST, {"command": list(options.asked)})
    started = time.monotonic()
    with display.node(node) as progress, leased_gpus(node.params, options.per_gpu, on_wait=progress.wait_for,
                                                     stopping=kernels.stopping) as gpus:
        environment = {VISIBLE_GPUS: ",".join(gpus)} if gpus else {}
        error = execute(node, progress, kernels, environment, options.limit)
        if node.stage == "07_figures" and not error:
            try_report(node.folder)
        if not error and (tracker := getattr(node.params, "tracker", "")):
            try_tracking(node, tracker, display)
    if error and kernels.stopping.is_set():
        return None
    report = Report(node, "failed" if error else "done", time.monotonic() - started, error)
    if error:
        with suppress(OSError):  # on a full disk the line on the terminal has to do
            write_json(node.folder / FAILURE, {"error": error})
    display.finished(report)
    return report


def try_report(folder: Path) -> None:
    """Write the HTML report of a finished folder; an error goes to its log only, since the result is finished."""
    from dgs_utils.publish.report import write_report  # here, because nbconvert takes a while to import

    try:
        write_report(folder)
    except (OSError, ValueError, ImportError):
        with suppress(OSError), (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())


def try_tracking(node: Node, tracker: str, display: Display) -> None:
    """Log a finished evaluation and its executed notebook to its tracker; an error is a note, as it is finished."""
    from dgs_utils.results.tracking import track_evaluation  # here, because pandas takes a while to import

    try:
        track_evaluation(node.folder, tracker, notebook_dir(node) / "notebook.ipynb")
    except Exception as error:  # each tracker has errors of its own
        display.note(f"{display_path(node.folder)} is finished, but not in {tracker} "
                     f"({' '.join(str(error).split())[:200]}); log it by dgs_utils.results.tracking.track_evaluation")


def execute(node: Node, progress: NodeProgress, kernels: KernelPool, environment: Mapping[str, str],
            limit: float = 0) -> str:
    """Execute a node's notebook; return "" or what went wrong, in one line.

    The executed notebook stays in the node's folder as ``notebook.ipynb``, what it printed in ``log.txt``; those of a
    shard of a pool in a subfolder. The environment is what differs in this kernel from the others; ``limit`` are the
    minutes that one cell may take, 0 for any.
    """
    papermill = load_papermill()

    notebook, folder = notebook_path(node.stage), notebook_dir(node)
    before = manifest_identity(node)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        notebook = _with_last_cell(notebook, folder / "notebook.ipynb", node.stage)
        with (folder / "log.txt").open("w", encoding="utf-8", errors="replace") as log:
            try:
                papermill.execute_notebook(
                    _escape_braces(notebook), _escape_braces(folder / "notebook.ipynb"), _parameters(node),
                    kernel_name="python3",
                    kernel_manager_class=kernels.manager_class(imports_of_notebook(notebook), environment,
                                                               progress.now),
                    shutdown_kernel="immediate", progress_bar=False, stdout_file=log, stderr_file=log,
                    on_cell_start=progress.at_cell, coalesce_streams=True, start_timeout=START_TIMEOUT_S,
                    iopub_timeout=START_TIMEOUT_S, execution_timeout=math.ceil(limit * 60) or None)
            except papermill.PapermillExecutionError as error:
                log.write(re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback)))
                return f"{error.ename}: {error.evalue}"
            except Exception:
                log.write(traceback.format_exc())
                raise
    except Exception as error:  # a missing notebook, a kernel that was killed, a full disk: the siblings go on
        return _describe(error, limit)
    # Of a pool in shards, the one that ends last leaves the manifest.
    done = shard_of(node.params) or (node_manifest(node) and manifest_identity(node) != before)
    return "" if done else (f"the notebook ended without a manifest; one cell must call dgs.stage({node.stage!r}), and "
                            f"the last one run.finish()")


def _with_last_cell(notebook: Path, copy: Path, stage: str) -> Path:
    """Return the notebook, or where none of its cells finishes its stage, a copy with one more cell that does."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    if any(re.search(r"^[^#\n]*\.finish\(", source, re.MULTILINE) for source in sources):
        return notebook
    last = f"from dgs_utils.store.session import finish_open_runs\n\nfinish_open_runs({stage!r})"
    content["cells"].append({"cell_type": "code", "id": "finish", "metadata": {}, "execution_count": None,
                             "outputs": [], "source": last})
    copy.write_text(json.dumps(content), encoding="utf-8")
    return copy


def load_papermill() -> ModuleType:
    """Import papermill, late because it takes a while, and without the grammar of addresses that notebooks lack.

    It warns of parameters that the parameters cell lacks, as it lacks rarely used ones; the notebook checks all names.
    Of kernels that end it logs what its exceptions say, too, also where a run is stopped and they are meant to end.

    jsonschema, which nbformat checks notebooks with, builds that grammar for a second wherever it is installed.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    grammar, modules = "rfc3987_syntax", cast(dict[str, Any], sys.modules)
    absent = modules.setdefault(grammar, None) is None  # None has its import fail, which jsonschema expects
    try:
        return importlib.import_module("papermill")
    finally:
        if absent:
            del modules[grammar]


@contextmanager
def papermill_in_threads() -> Iterator[None]:
    """Load papermill, and let threads use it within the block.

    It changes this process's working folder to the current one around each file that it reads or writes, and afterwards
    to the one before, which has to be the same whichever thread ends last.
    """
    load_papermill()
    from papermill.iorw import local_file_io_cwd

    with local_file_io_cwd():
        yield


def _escape_braces(path: Path) -> str:
    """Return a path that papermill, which formats paths, leaves as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _describe(error: Exception, limit: float) -> str:
    name = type(error).__name__
    if name == "CellTimeoutError":
        return f"a cell took longer than the limit of {limit:g} minutes"
    if name == "DeadKernelError":
        return "the kernel died; it was killed, or ran out of memory"
    return f"{name}: {error}"


def _parameters(node: Node) -> dict[str, Any]:
    """Return all parameters of a notebook, with its input folders filled in."""
    values = node.params.model_dump(mode="json")
    for name, source in node.inputs.items():
        values[name] = _path(source) if isinstance(source, Node | Path) else [_path(item) for item in source]
    return values


def _path(source: Node | Path) -> str:
    """Return a folder as notebooks take it: relative where it is below ``outputs/``, so that results can be moved."""
    folder = source.folder if isinstance(source, Node) else source
    root = outputs_root()
    return f"outputs/{folder.relative_to(root).as_posix()}" if folder.is_relative_to(root) else str(folder)


def format_failure(node: Node, error: str) -> str:
    """Return one line: stage, parameters that differ from the defaults, the error, the executed notebook to open."""
    source = node.inputs.get("prepare", node)
    usual = node.params.defaults(source.params.model_dump() if isinstance(source, Node) else {})
    plain = {name: field.default for name, field in type(node.params).model_fields.items()} | usual
    changed = {name: value for name, value in node.params.cache_params().items() if value != plain.get(name, value)}
    settings = ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"
    return (f"FAILED {node.stage} ({settings}): {' '.join(error.split())[:400]}; "
            f"open {display_path(notebook_dir(node) / 'notebook.ipynb')}")
