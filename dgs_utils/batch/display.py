"""Live progress of a run: which notebook, which step, how long left."""

import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from typing import TextIO

from dgs_utils.artifacts.manifests import read_manifest
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.places import outputs_root
from dgs_utils.batch.state import damage, manifest_in

MINUTE = 60.0  # seconds between lines where no terminal shows them


def duration(seconds: float) -> str:
    """Return seconds as "0:42" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def earlier_seconds(stages: set[str]) -> dict[str, list[float]]:
    """Return how long finished nodes of each stage took, whichever experiment they belong to."""
    seconds = defaultdict(list)
    for stage in stages:
        folder = outputs_root() / stage
        found = map(manifest_in, sorted(entry.path for entry in os.scandir(folder))) if folder.is_dir() else ()
        seconds[stage] = [entry["seconds"] for entry in found if entry]
    return seconds


class Display:
    """Shows one line that is kept up to date on a terminal; elsewhere lines, one a minute at the least."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.total = self.cell = 0
        self.waits = ""
        self.left: dict[str, Node] = {}
        self.counts: Counter[str] = Counter()  # of what is left, by stage
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.noted: set[str] = set()

    def start(self, left: list[Node], total: int) -> None:
        """Begin a run of which ``left`` nodes out of ``total`` have to be done."""
        self.left, self.total = {node.key: node for node in left}, total
        self.counts = Counter(node.stage for node in left)
        self.seconds |= earlier_seconds({node.stage for node in left})
        for fault in filter(None, map(damage, left)):
            self._print(f"Made anew: {fault.rsplit('; ', 1)[0]}")
        if left:
            self._print(f"{len(left)} of {total} notebooks to run{self._time_left(0)}")

    @contextmanager
    def node(self, node: Node):
        """Show a node while it runs."""
        self.cell, self.name = 0, f"{node.stage} {node.label}:"
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(node, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            if self.live:
                self._rewrite("")

    def running(self, node: Node, elapsed: float, place: str) -> None:
        """Tell where a node is that has run for ``elapsed`` seconds."""
        show = self._rewrite if self.live else self._print
        with suppress(OSError):  # a reader that has gone is told of at the node's end
            show(f"{self._counter(1)}{node.stage} {node.label} · {duration(elapsed)} · {place}"
                 f"{self._step(node)}{self._time_left(elapsed)}")

    def at_cell(self, cell: dict, cell_index: int) -> None:
        """Note which cell of the running notebook begins."""
        self.cell = cell_index + 1

    def waiting(self, sentence: str) -> None:
        """Show what the running notebook waits for before it starts; "" when the wait is over."""
        self.waits = sentence
        if sentence and not self.live:
            self._print(f"{self._counter(1)}{self.name} {sentence}")

    def note(self, sentence: str) -> None:
        """Print a sentence, once in a run."""
        if sentence not in self.noted:
            self.noted.add(sentence)
            self._print(sentence)

    def drop(self, node: Node) -> None:
        """Count a node that need not or cannot be run any more."""
        self.counts[node.stage] -= self.left.pop(node.key, None) is not None

    def finished(self, report) -> None:
        """Report the end of a node."""
        self.drop(report.node)
        word = "FAILED after"
        if report.outcome == "done":
            self.seconds[report.node.stage].append(report.seconds)
            word = "done in"
        self._print(f"{self._counter(0)}{report.node.stage} {report.node.label}: {word} "
                    f"{duration(report.seconds)}{self._time_left(0)}")
        if report.outcome == "done":
            with suppress(ValueError):  # a manifest that is damaged already is told by who reads it next
                for sentence in read_manifest(report.node.folder).get("warnings", []):
                    self._print(f"  Warning: {sentence}")

    def _watch(self, node: Node, stop: threading.Event) -> None:
        started = time.monotonic()
        self.running(node, 0, "starting")
        while not stop.wait(0.5 if self.live else MINUTE):
            place = self.waits or (f"cell {self.cell}" if self.cell else "starting")
            self.running(node, time.monotonic() - started, place)

    def _counter(self, running: int) -> str:
        return f"[{self.total - len(self.left) + running}/{self.total}] " if self.total else ""

    @staticmethod
    def _step(node: Node) -> str:
        try:
            state = json.loads((node.folder / "progress.json").read_text())
            return f" · {state['label']} {state['step']}/{state['total'] or '?'}"
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ""  # not there yet, or damaged

    def _time_left(self, elapsed: float) -> str:
        """Return what is left by the median time of each stage's earlier runs, or how much at the least."""
        known = [stage for stage, count in self.counts.items() if count and self.seconds[stage]]
        if not known:
            return ""
        expected = sum(self.counts[stage] * statistics.median(self.seconds[stage]) for stage in known) - elapsed
        told = sum(self.counts[stage] for stage in known) == len(self.left)
        return f" · {'about' if told else 'more than'} {duration(max(expected, 0))} left"

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def _rewrite(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}\r", end="", file=self.stream, flush=True)
