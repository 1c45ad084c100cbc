"""Carry out a plan: one notebook after another, skipping what is finished, going on after a failure."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dgs_utils.artifacts.nodes import Node
from dgs_utils.batch.changes import changed_data
from dgs_utils.batch.display import Display
from dgs_utils.batch.node import DEFAULTS, PAUSE, Options, Report, finished, input_nodes, is_forced, run_node
from dgs_utils.batch.prepared import prepared
from dgs_utils.batch.state import state

GOOD = ("done", "skipped")


def run_plan(nodes: list[Node], display: Display, options: Options = DEFAULTS) -> list[Report]:
    """Run all nodes that are not finished, in order.

    A failure stops only what depends on it. A node that another process is running is left to it; the others go on.

    Args:
        nodes: inputs before what needs them; inputs that are not among them must be finished.
        display: shows progress.
        options: how nodes are run.

    Raises:
        ValueError: an input outside ``nodes`` is not finished.
    """
    left = check_start(nodes, options)
    for line in changed_data(left):
        display.note(line)
    display.start(left, len(nodes))
    planned = nodes_by_key(nodes)
    reports = _settled(nodes, left)
    waiting = [node for node in nodes if node.key not in reports]
    with terminate_as_interrupt(), prepared(left):
        while waiting:
            held = [node for node in waiting if not _attempt(node, planned, reports, display, options)]
            if len(held) == len(waiting):
                time.sleep(PAUSE)
            waiting = held
    return [reports[node.key] for node in nodes]


def nodes_by_key(nodes: list[Node]) -> dict[str, Node]:
    """Return nodes by their keys."""
    return {node.key: node for node in nodes}


def check_start(nodes: list[Node], options: Options) -> list[Node]:
    """Return the nodes that are to be run, after checking that they can be (see `run_plan`)."""
    planned, left = nodes_by_key(nodes), []
    for node in nodes:
        if state(node) != "done" or is_forced(node, options):
            left.append(node)
    for node in left:
        for source in input_nodes(node):
            if source.key not in planned and state(source) != "done":
                raise ValueError(f"{node.stage} needs {source.stage}/{source.folder.name}, which is {state(source)}; "
                                 f"run it first, by leaving --only out")
    return left


def _settled(nodes: list[Node], left: list[Node]) -> dict[str, Report]:
    """Return the reports of finished nodes that nothing of what is left can make stale: they need no second look."""
    moving, settled = {node.key for node in left}, {}
    for node in nodes:
        if node.key in moving or any(source.key in moving for source in input_nodes(node)):
            moving.add(node.key)
        else:
            settled[node.key] = Report(node, "skipped")
    return settled


def _attempt(node: Node, planned: dict, reports: dict[str, Report], display: Display, options: Options) -> bool:
    """Run a node if its time has come; return whether it has its report now."""
    sources = [reports.get(source.key) for source in input_nodes(node) if source.key in planned]
    if any(report and report.outcome not in GOOD for report in sources):
        reports[node.key] = finished(node, options) or Report(node, "blocked")
    elif None not in sources:
        report = run_node(node, display, options)
        if report:
            reports[node.key] = report
    if node.key in reports:
        display.drop(node)
    return node.key in reports


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does: kernels and locks are given back on the way out."""
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
