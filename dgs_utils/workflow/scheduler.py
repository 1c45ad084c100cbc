"""The local scheduler: carries out a plan, one notebook or several at a time, and goes on after a failure or ends."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter

from dgs_utils.runtime.threads import core_budget
from dgs_utils.store.lock import emptying_lock
from dgs_utils.store.node import Node, downstream, input_nodes
from dgs_utils.store.resume import note_paths
from dgs_utils.store.status import changed_external_data, node_manifest, node_status, one_look
from dgs_utils.workflow.display import Display
from dgs_utils.workflow.kernel import KernelPool
from dgs_utils.workflow.notebook import (
    DEFAULT_OPTIONS,
    NODE_POLL_S,
    Options,
    Report,
    finished_report,
    is_forced,
    papermill_in_threads,
    run_node,
)

OK_OUTCOMES = ("done", "skipped")
FIRST_FAILURE = "The first failure ends the run (--fail-fast); what is finished is kept, and the same command goes on"


def run_plan(nodes: list[Node], display: Display, options: Options = DEFAULT_OPTIONS, jobs: int = 1) -> list[Report]:
    """Run all nodes that are not finished, earlier ones of the plan first.

    A failure stops only what depends on it, or with ``options.fail_fast`` all others, too. A node that another process
    is running is left to it; the others go on. So many ``jobs`` run at a time, inputs before what needs them.

    Raises:
        ValueError: an input outside ``nodes`` is not finished.
    """
    left = check_start(nodes, options)
    for line in changed_external_data(left):
        display.note(line)
    display.start(left, len(nodes))
    queue = NodeQueue(nodes, unaffected(nodes, left))
    if not left:
        return [queue.reports[node.key] for node in nodes]
    running: dict[Future, Node] = {}
    with (interruptible() as check_interrupt, KernelPool(core_budget(jobs)) as kernels, papermill_in_threads(),
          ThreadPoolExecutor(jobs) as threads):
        try:
            while queue.is_active():
                check_interrupt()
                for node in queue.startable(jobs - len(running)):
                    if report := queue.blocked(node, options):
                        queue.settle(node, report, display)
                    else:
                        running[threads.submit(run_node, node, display, kernels, options)] = node
                for future in wait(running, NODE_POLL_S, FIRST_COMPLETED).done:
                    queue.settle(running.pop(future), future.result(), display)
                if options.fail_fast and any(report.outcome == "failed" for report in queue.reports.values()):
                    display.note(FIRST_FAILURE)
                    break
                if not running and queue.is_waiting():
                    time.sleep(NODE_POLL_S)
        finally:
            kernels.stop()  # before the threads that wait for kernels are joined
    ended = {node.key: report for future, node in running.items() if (report := future.result())}
    reports = queue.reports | ended
    return [reports.get(node.key) or Report(node, "blocked") for node in nodes]


class NodeQueue:
    """Which nodes of a plan, inputs first, can begin, after the reports of those that are settled already."""

    def __init__(self, nodes: list[Node], reports: dict[str, Report]):
        self.nodes, self.reports = nodes, reports
        self._positions = {node.key: position for position, node in enumerate(nodes)}
        self._order = TopologicalSorter({node.key: [source.key for source in self._planned_inputs(node)]
                                         for node in nodes if node.key not in reports})
        self._order.prepare()
        self._ready: list[str] = []  # keys of nodes whose inputs are settled
        self._held: dict[str, float] = {}  # keys of nodes that other processes hold, and when to try them again

    def is_active(self) -> bool:
        """Return whether a node is unsettled."""
        return self._order.is_active()

    def is_waiting(self) -> bool:
        """Return whether other processes hold all nodes that could begin."""
        return bool(self._held) and not self._ready

    def startable(self, count: int) -> list[Node]:
        """Return up to ``count`` nodes that can begin, the first ones of the plan."""
        due = [key for key, when in self._held.items() if when <= time.monotonic()]
        ready = [*due, *self._order.get_ready()]
        self._order.done(*(settled := [key for key in ready if key in self.reports]))
        self._ready = sorted({*self._ready, *ready}.difference(settled), key=self._positions.__getitem__)
        for key in due:
            del self._held[key]
        keys, self._ready = self._ready[:count], self._ready[count:]
        return [self.nodes[self._positions[key]] for key in keys]

    def blocked(self, node: Node, options: Options) -> Report | None:
        """Return the report of a node with an input that failed; None where all went well."""
        if all(self.reports[source.key].outcome in OK_OUTCOMES for source in self._planned_inputs(node)):
            return None
        return finished_report(node, options) or Report(node, "blocked")

    def settle(self, node: Node, report: Report | None, display: Display) -> None:
        """Note what became of a node; None where another process holds it, so that it is tried again."""
        if report is None:
            self._held[node.key] = time.monotonic() + NODE_POLL_S
            return
        self.reports[node.key] = report
        self._order.done(node.key)
        display.drop(node)

    def _planned_inputs(self, node: Node) -> list[Node]:
        return [source for source in input_nodes(node) if source.key in self._positions]


def check_start(nodes: list[Node], options: Options) -> list[Node]:
    """Return the nodes that are to be run, after checking that they can be (see `run_plan`)."""
    for node in nodes:
        if (manifest := node_manifest(node)) and manifest["given"] != node.external_files:
            with suppress(OSError), emptying_lock(node.folder) as owner:  # another user's cannot be locked
                if not owner:
                    note_paths(node)
    planned = {node.key for node in nodes}
    with one_look():
        left = [node for node in nodes if node_status(node) != "done" or is_forced(node, options)]
        for node in left:
            for source in input_nodes(node):
                if source.key not in planned and node_status(source) != "done":
                    raise ValueError(f"{node.stage} needs {source.stage}/{source.folder.name}, which is "
                                     f"{node_status(source)}; run it first, by leaving --only out")
    return left


def unaffected(nodes: list[Node], left: list[Node]) -> dict[str, Report]:
    """Return the reports of finished nodes that are made from nothing that is left to run."""
    affected = {node.key for node in (*left, *downstream(nodes, [node.folder for node in left]))}
    return {node.key: Report(node, "skipped") for node in nodes if node.key not in affected}


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end a run as Ctrl-C does: kernels are ended and locks released on the way out.

    Yields:
        A function that raises KeyboardInterrupt where one was raised and lost: Python drops what a destructor raises,
        and some libraries catch everything.
    """
    asked = False

    def interrupt(*_: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGINT] is signal.SIG_IGN:  # as nohup and a script's & ask for
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
