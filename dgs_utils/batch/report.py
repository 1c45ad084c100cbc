"""What a run leaves on the terminal at its end."""

import csv
import statistics
from collections import defaultdict

from dgs_utils.artifacts import Node
from dgs_utils.batch.display import duration
from dgs_utils.batch.node import Report, failure_line, shown
from dgs_utils.batch.run import stale_line
from dgs_utils.batch.state import manifest
from dgs_utils.methods import METHODS

OUTCOMES = ("done", "skipped", "failed", "stale", "blocked")


def summary(reports: list[Report]) -> str:
    """Return the closing lines: a line a stage, one a failure, the results, and where the figures are."""
    lines = stage_table(reports)
    for report in reports:
        if report.outcome == "failed":
            lines += ["", failure_line(report.node, report.error)]
        elif report.outcome == "stale":
            lines += ["", stale_line(report.node)]
    lines += ["", *results_table([r.node for r in reports if r.node.stage == "06_evaluate"])]
    for report in reports:
        if report.node.stage == "07_figures" and report.outcome in ("done", "skipped"):
            lines.append(f"Figures and tables: {shown(report.node.folder)}")
    if all(report.outcome == "skipped" for report in reports):
        lines.append("Nothing was left to do.")
    return "\n".join(lines)


def stage_table(reports: list[Report]) -> list[str]:
    """Return a line a stage: how many nodes ended how, and the time they took."""
    stages = defaultdict(list)
    for report in reports:
        stages[report.node.stage].append(report)
    lines = [f"{'stage':<14}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES) + f"{'time':>9}"]
    for stage, group in stages.items():
        counts = [sum(report.outcome == outcome for report in group) for outcome in OUTCOMES]
        seconds = sum(report.seconds for report in group)
        lines.append(f"{stage:<14}" + "".join(f"{count or '·':>9}" for count in counts) + f"{duration(seconds):>9}")
    return lines


def results_table(nodes: list[Node]) -> list[str]:
    """Return lines with best and last top-1 accuracy, mean ± standard deviation (ddof 1), of finished evaluations.

    Rows of equal network, IPC and method make one line, whatever their seeds; more columns come only where the rows
    differ in them.
    """
    rows = [row for node in nodes if manifest(node) for row in _rows(node)]
    if not rows:
        return []
    methods = {row["method"] for row in rows}
    varying = [name for name in ("dataset", "distribution", "pool_factor")
               if any(len({row.get(name) for row in rows if row["method"] == method}) > 1 for method in methods)]
    groups = defaultdict(list)
    for row in rows:
        groups[(*(row.get(name) or "" for name in varying), row["network"], int(row["ipc"]), row["method"])].append(row)
    order = list(METHODS)
    lines = [[*varying, "network", "IPC", "method", "best top-1", "last", "runs"]]
    for group in sorted(groups, key=lambda g: (*g[:-1], order.index(g[-1]) if g[-1] in order else len(order), g[-1])):
        best, last = ([float(row[name]) for row in groups[group]] for name in ("best", "last"))
        method = METHODS[group[-1]].label if group[-1] in METHODS else group[-1]
        lines.append([*map(str, group[:-1]), method, _spread(best), _spread(last), str(len(best))])
    return [*_aligned(lines, to_the_right={"IPC", "best top-1", "last", "runs"}), ""]


def _aligned(lines: list[list[str]], to_the_right: set[str]) -> list[str]:
    """Return table lines (the first is the header) with columns padded to equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(f"{text:{'>' if name in to_the_right else '<'}{width}}"
                      for name, text, width in zip(lines[0], line, widths, strict=True)) for line in lines]


def _rows(node: Node) -> list[dict[str, str]]:
    try:
        with (node.folder / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
