"""Live progress of a run: which notebooks, which step of each, how long left."""

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from dgs_utils.runtime.terminal import printable
from dgs_utils.runtime.units import format_duration
from dgs_utils.store.atomic import read_json
from dgs_utils.store.grouped_warnings import group_warnings
from dgs_utils.store.manifest import MANIFEST, read_manifest
from dgs_utils.store.node import Node
from dgs_utils.store.status import manifest_fault
from dgs_utils.workflow.durations import duration_group, expected_seconds, seconds_by_group

LINE_INTERVAL_S = 60.0  # seconds between the lines of a notebook that runs, where no terminal shows them
WAIT_INTERVAL_S = 30.0  # the same of one whose first cell has not begun
REFRESH_S = 0.5


@dataclass
class NodeProgress:
    """Where a running node is."""

    node: Node  # the node
    activity: str = "starting"  # what it does, such as "starting" or "cell 3"
    started: float = field(default_factory=time.monotonic)  # when it began, by the monotonic clock
    next_line: float = 0.0  # when its next line is due

    def now(self, activity: str) -> None:
        """Note what the node does from now on."""
        self.activity = activity

    def at_cell(self, cell: dict, cell_index: int) -> None:
        """Note which cell begins; what an earlier one counted is no longer shown."""
        with suppress(OSError):
            (self.node.folder / "progress.json").unlink(missing_ok=True)
        self.activity = f"cell {cell_index + 1}"

    def wait_for(self, sentence: str) -> None:
        """Note what the node waits for before it starts; "" when the wait is over."""
        self.activity, self.next_line = sentence or "starting", 0.0


class Display:
    """Shows running nodes on a terminal, a line each that is kept up to date; elsewhere prints lines, one a minute."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.live: Any = None  # rich's, on a terminal
        self.total = 0
        self.left: dict[str, Node] = {}
        self.groups: dict[str, str] = {}  # by key: nodes whose notebooks take as long
        self.counts: Counter[str] = Counter()  # of what is left, by group
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.running: dict[str, NodeProgress] = {}
        self.noted: dict[str, float] = {}
        self._lock = threading.RLock()
        self._idle = threading.Event()

    def start(self, left: list[Node], total: int) -> None:
        """Begin a run of which ``left`` nodes out of ``total`` have to be done."""
        self.left, self.total = {node.key: node for node in left}, total
        self.groups = {node.key: duration_group(node) for node in left}
        self.counts = Counter(self.groups.values())
        self.seconds |= seconds_by_group(left)
        for fault in filter(None, map(manifest_fault, left)):
            self._print(f"Made anew: {fault.rsplit('; ', 1)[0]}")
        if left:
            self._print(f"{len(left)} of {total} notebooks to run{self._time_left()}")

    @contextmanager
    def node(self, node: Node) -> Iterator[NodeProgress]:
        """Show a node while it runs; yield the object that takes what it does."""
        with self._lock:
            progress = self.running[node.key] = NodeProgress(node)
            if len(self.running) == 1:
                self._idle = threading.Event()
                self._open()
            if not self.live:
                self._report(progress)
        try:
            yield progress
        finally:
            with self._lock:
                del self.running[node.key]
                if not self.running:
                    self._close()

    def note(self, sentence: str, again_after: float = float("inf")) -> None:
        """Print a sentence, once in a run, or again after so many seconds."""
        with self._lock:
            if time.monotonic() - self.noted.get(sentence, -float("inf")) > again_after or sentence not in self.noted:
                self.noted[sentence] = time.monotonic()
                self._print(sentence)

    def drop(self, node: Node) -> None:
        """Count a node that need not or cannot be run any more."""
        with self._lock:
            if self.left.pop(node.key, None):
                self.counts[self.groups[node.key]] -= 1

    def finished(self, report: Any) -> None:
        """Report the end of a node."""
        with self._lock:
            self.drop(report.node)
            outcome = "FAILED after"
            if report.outcome == "done":
                self.seconds[self.groups.get(report.node.key, "")].append(report.seconds)
                outcome = "done in"
            self._print(f"{self._counter(0)}{report.node.stage} {report.node.name}: {outcome} "
                        f"{format_duration(report.seconds)}{self._time_left()}")
            if report.outcome == "done":
                with suppress(ValueError):  # a damaged manifest is reported by its next reader
                    for sentence in group_warnings(read_manifest(report.node.folder)["warnings"], MANIFEST):
                        self._print(f"  Warning: {sentence}")

    def _open(self) -> None:
        """Start what keeps a terminal up to date, or what prints lines."""
        if not self.stream.isatty():
            threading.Thread(target=self._print_lines, args=(self._idle,), daemon=True).start()
            return
        from rich.console import Console
        from rich.live import Live

        self.live = Live(console=Console(file=self.stream), get_renderable=self._render, transient=True,
                         refresh_per_second=1 / REFRESH_S)
        self.live.start()

    def _close(self) -> None:
        self._idle.set()
        if self.live:
            self.live.stop()
            self.live = None

    def _render(self) -> Any:
        from rich.text import Text

        lines = [printable(self._line(progress)) for progress in list(self.running.values())]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    def _print_lines(self, idle: threading.Event) -> None:
        while not idle.wait(min(REFRESH_S, LINE_INTERVAL_S)):
            for progress in list(self.running.values()):
                if time.monotonic() >= progress.next_line:
                    self._report(progress)

    def _report(self, progress: NodeProgress) -> None:
        waits = not progress.activity.startswith("cell")
        progress.next_line = time.monotonic() + (min(WAIT_INTERVAL_S, LINE_INTERVAL_S) if waits else LINE_INTERVAL_S)
        with suppress(OSError):  # a closed pipe is reported at the node's end
            self._print(self._line(progress))

    def _line(self, progress: NodeProgress) -> str:
        node, elapsed = progress.node, time.monotonic() - progress.started
        return (f"{self._counter(len(self.running))}{node.stage} {node.name} · {format_duration(elapsed)} · "
                f"{progress.activity}{self._step(node)}{self._time_left()}")

    def _counter(self, running: int) -> str:
        return f"[{self.total - len(self.left) + running}/{self.total}] " if self.total else ""

    @staticmethod
    def _step(node: Node) -> str:
        match read_json(node.folder / "progress.json"):
            case {"label": label, "step": step, "total": total}:
                return f" · {label} {step}/{total or '?'}"
        return ""  # missing yet, or damaged

    def _time_left(self) -> str:
        """Return the time that is left, by the median time of earlier runs like these, or the least that it can be."""
        expected, complete = expected_seconds(self.counts, self.seconds)
        if not expected:
            return ""
        running = max(len(self.running), 1)
        elapsed = sum(time.monotonic() - progress.started for progress in list(self.running.values()))
        amount = "about" if complete else "more than"
        return f" · {amount} {format_duration(max(expected - elapsed, 0) / running)} left"

    def _print(self, line: str) -> None:
        line = printable(line)
        if self.live:
            self.live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self.stream, flush=True)
