"""What a run leaves on the terminal at its end."""

import math
import os
from collections import defaultdict

from dgs_utils.artifacts.manifests import PAGE
from dgs_utils.artifacts.nodes import Node
from dgs_utils.batch.display import duration
from dgs_utils.batch.node import Report, failure_line, shown
from dgs_utils.batch.run import GOOD
from dgs_utils.batch.state import manifest
from dgs_utils.methods import METHODS

OUTCOMES = ("done", "skipped", "failed", "blocked")


def summary(reports: list[Report]) -> str:
    """Return the closing lines: a line a stage, one a failure, the results, and where the figures are."""
    lines = stage_table(reports)
    for report in reports:
        if report.outcome == "failed":
            lines += ["", failure_line(report.node, report.error)]
    idle = all(report.outcome == "skipped" for report in reports)
    finished = [report.node for report in reports if report.outcome in GOOD]
    lines.append("")
    # Where nothing was left to do, the table is in the figures' folder, and reading thousands of results takes long.
    if not (idle and any(node.stage == "07_figures" for node in finished)):
        lines += results_table([r.node for r in reports if r.node.stage == "06_evaluate"])
    lines += to_open(finished)
    if idle:
        lines.append("Nothing was left to do.")
    return "\n".join(lines)


def to_open(finished: list[Node]) -> list[str]:
    """Return lines with what there is to look at: distilled sets, figures, the report."""
    sets = [shown(node.folder) for node in finished if node.stage in ("05_sample", "08_condense")]
    lines = [f"Distilled set: {name}" for name in sets] if len(sets) <= 3 else [
        f"Distilled sets: {len(sets)} in {', '.join(sorted({os.path.dirname(name) for name in sets}))}"]
    for node in finished:
        if node.stage == "07_figures":
            lines.append(f"Figures and tables: {shown(node.folder)}")
            lines += [f"Report, for any browser: {shown(page)}" for page in node.folder.glob(PAGE)]
    return lines


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

    What is averaged, and how conditions and sets are called, is what the tables of notebook 07 do.
    """
    folders = [node.folder for node in nodes if manifest(node)]
    if not folders:
        return []
    from dgs_utils.results.rows import read_results  # here, because pandas takes a while to import
    from dgs_utils.results.summaries import summarise  # here, because pandas takes a while to import

    order = {name: place for place, name in enumerate(METHODS)}
    summary = summarise(read_results(folders))
    summary = summary.assign(place=summary["method"].map(order)).sort_values(["condition", "ipc", "place", "series"])
    lines = [["network", "IPC", "method", "best top-1", "last", "runs"]]
    for row in summary.itertuples():
        lines.append([row.condition, str(row.ipc or "all"), row.series, _spread(row.best, row.std),
                      _spread(row.last, row.last_std), str(row.n)])
    return [*_aligned(lines, to_the_right={"IPC", "best top-1", "last", "runs"}), ""]


def _aligned(lines: list[list[str]], to_the_right: set[str]) -> list[str]:
    """Return table lines (the first is the header) with columns padded to equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(f"{text:{'>' if name in to_the_right else '<'}{width}}"
                      for name, text, width in zip(lines[0], line, widths, strict=True)) for line in lines]


def _spread(mean: float, std: float) -> str:
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"
