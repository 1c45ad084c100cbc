"""Carry out a plan: one notebook after another, each in a fresh kernel, skipping what is finished."""

import csv
import os
import signal
import statistics
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dgs_utils.artifacts import MANIFEST, Node, is_done, key_of, outputs_root, read_manifest, workspace
from dgs_utils.batch.display import Display, duration
from dgs_utils.methods import METHODS


@dataclass
class Report:
    """What became of a node: "done", "skipped" (finished before), "failed" or "blocked" (an input failed)."""

    node: Node
    outcome: str
    seconds: float = 0.0
    error: str = ""


def is_finished(node: Node) -> bool:
    """Return whether a node's folder holds its result, made from inputs that have not changed since."""
    if not is_done(node.folder):
        return False
    manifest = read_manifest(node.folder)
    if manifest["key"] != node.key:
        return False
    for source in manifest["inputs"]:
        folder = outputs_root() / source["folder"]
        if source["content"] and is_done(folder) and read_manifest(folder)["content"] != source["content"]:
            return False
    return True


def run_plan(nodes: list[Node], display: Display, force: Iterable[str] = ()) -> list[Report]:
    """Run all nodes that are not finished, in order; a failure stops only what depends on it.

    Args:
        nodes: inputs before what needs them.
        display: shows progress.
        force: stages that are run again even if they are finished.
    """
    reports: dict[str, Report] = {}
    display.start([node for node in nodes if node.stage in force or not is_finished(node)], len(nodes))
    with _terminate_as_interrupt():
        for node in nodes:
            if any(reports[key].outcome in ("failed", "blocked") for key in _input_keys(node) if key in reports):
                reports[node.key] = Report(node, "blocked")
            else:
                reports[node.key] = run_node(node, display, node.stage in force)
    return list(reports.values())


def run_node(node: Node, display: Display, again: bool = False) -> Report:
    """Run one node unless it is finished; another runner that holds it is waited for."""
    folder = node.folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if is_finished(node) and not again:
            return Report(node, "skipped")
        (folder / MANIFEST).unlink(missing_ok=True)
        started = time.monotonic()
        with display.node(node):
            error = execute(node)
        report = Report(node, "failed" if error else "done", time.monotonic() - started, error)
        display.finished(report)
        return report


def execute(node: Node) -> str:
    """Execute a node's notebook; return "" or one line that tells what went wrong.

    The executed notebook stays in the node's folder as ``notebook.ipynb``, a failure's traceback in ``log.txt``.
    """
    import papermill  # here, because it takes a while to import
    from traitlets.config import Config

    notebook = workspace() / "notebooks" / f"{node.stage}.ipynb"
    parameters = node.params.model_dump(mode="json")
    for name, source in node.inputs.items():
        parameters[name] = [str(_folder(s)) for s in source] if isinstance(source, list) else str(_folder(source))
    ipc = Config({"KernelManager": {"transport": "ipc"}})  # no open ports, no clash between kernels
    try:
        papermill.execute_notebook(notebook, node.folder / "notebook.ipynb", parameters, kernel_name="python3",
                                   progress_bar=False, cwd=str(workspace()), config=ipc)
    except papermill.PapermillExecutionError as error:
        (node.folder / "log.txt").write_text("".join(error.traceback))
        return f"{error.ename}: {error.evalue}"
    except Exception as error:  # a missing notebook, a kernel that died, a full disk: the siblings go on
        with suppress(OSError):  # where the disk is full, the returned line still tells
            (node.folder / "log.txt").write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return "" if is_done(node.folder) else f"the notebook ended without a {MANIFEST}; its last cell must finish the run"


def _folder(source: Node | Path) -> Path:
    return source.folder if isinstance(source, Node) else source


def _input_keys(node: Node) -> list[str]:
    keys = []
    for source in node.inputs.values():
        keys += [key_of(item) for item in (source if isinstance(source, list) else [source])]
    return keys


@contextmanager
def _terminate_as_interrupt():
    """Let SIGTERM end a run as Ctrl-C does: the kernel is shut down and its stage may write a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- The end of a run ------------------------------------------------------------------------------------------------

def summary(reports: list[Report]) -> str:
    """Return the closing lines: a line a stage, one a failure, the results, and where the figures are."""
    lines = []
    stages = defaultdict(list)
    for report in reports:
        stages[report.node.stage].append(report)
    lines.append(f"{'stage':<16}{'done':>6}{'skipped':>9}{'failed':>8}{'blocked':>9}{'time':>9}")
    for stage, group in stages.items():
        counts = [sum(r.outcome == outcome for r in group) for outcome in ("done", "skipped", "failed", "blocked")]
        seconds = duration(sum(r.seconds for r in group))
        lines.append(f"{stage:<16}{counts[0]:>6}{counts[1]:>9}{counts[2]:>8}{counts[3]:>9}{seconds:>9}")
    for report in reports:
        if report.outcome == "failed":
            lines += ["", failure_line(report)]
    lines += ["", *results_table([r.node for r in reports if r.node.stage == "06_evaluate"])]
    for report in reports:
        if report.node.stage == "07_figures" and report.outcome in ("done", "skipped"):
            lines.append(f"Figures and tables: {_short(report.node.folder)}")
    if all(report.outcome == "skipped" for report in reports):
        lines.append("Nothing was left to do.")
    return "\n".join(lines)


def failure_line(report: Report) -> str:
    """Return one line: stage, parameters that are not the default, the executed notebook, the error."""
    node = report.node
    fields = type(node.params).model_fields
    changed = {n: v for n, v in node.params.identity().items() if v != fields[n].default}
    given = ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"
    return (f"FAILED {node.stage} ({given}): {' '.join(report.error.split())}; "
            f"open {_short(node.folder / 'notebook.ipynb')}")


def results_table(nodes: list[Node]) -> list[str]:
    """Return lines with best and last top-1 accuracy, mean ± standard deviation (ddof 1), of finished evaluations."""
    runs = defaultdict(list)
    for node in nodes:
        path = node.folder / "results.csv"
        if is_done(node.folder) and path.exists():
            with path.open() as file:
                for row in csv.DictReader(file):
                    cell = row["network"], int(row["ipc"]), row["method"]
                    runs[cell].append((float(row["best"]), float(row["last"])))
    if not runs:
        return []
    order = {name: place for place, name in enumerate(METHODS)}
    lines = [f"{'network':<14}{'IPC':>4}  {'method':<18}{'best top-1':>14}{'last':>8}{'runs':>6}"]
    for network, ipc, method in sorted(runs, key=lambda k: (k[0], k[1], order.get(k[2], len(order)))):
        best, last = zip(*runs[network, ipc, method], strict=True)
        spread = f" ± {statistics.stdev(best):.1f}" if len(best) > 1 else ""
        label = METHODS[method].label if method in METHODS else method
        lines.append(f"{network:<14}{ipc:>4}  {label:<18}{f'{statistics.mean(best):.1f}{spread}':>14}"
                     f"{statistics.mean(last):>8.1f}{len(best):>6}")
    return [*lines, ""]


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
