"""The lines that a run prints at its end."""

import math
import os
from collections import Counter, defaultdict

from dgs_utils.methods import METHODS
from dgs_utils.runtime.terminal import format_table
from dgs_utils.runtime.units import format_duration
from dgs_utils.store.manifest import HTML_REPORT
from dgs_utils.store.node import Node
from dgs_utils.store.paths import display_path
from dgs_utils.store.status import node_manifest
from dgs_utils.workflow.notebook import Report, format_failure, try_report
from dgs_utils.workflow.scheduler import OK_OUTCOMES

MAX_SETS = 3  # sets whose paths are printed one by one
OUTCOMES = ("done", "skipped", "failed", "blocked")


def summary(reports: list[Report]) -> str:
    """Return a line a stage, the failures, the results, their paths, and warnings that put them in question."""
    lines = _stage_table(reports)
    for report in reports:
        if report.outcome == "failed":
            lines += ["", format_failure(report.node, report.error)]
    idle = all(report.outcome == "skipped" for report in reports)
    finished = [report.node for report in reports if report.outcome in OK_OUTCOMES]
    lines.append("")
    # Of an idle run, the table is in the figures' folder, and reading thousands of results takes long.
    if not (idle and any(node.stage == "07_figures" for node in finished)):
        lines += _results_table([node for node in finished if node.stage == "06_evaluate"])
    if idle:
        lines.append("Nothing was left to do.")
    lines += _result_paths(finished)
    if warnings := _decisive_warnings(finished):
        lines += ["", *warnings]
    return "\n".join(lines)


def _stage_table(reports: list[Report]) -> list[str]:
    """Return a line a stage: its nodes by outcome, and their time."""
    stages = defaultdict(list)
    for report in reports:
        stages[report.node.stage].append(report)
    rows = [["stage", *OUTCOMES, "time"]]
    for stage, group in stages.items():
        counts = Counter(report.outcome for report in group)
        rows.append([stage, *(str(counts[outcome] or "·") for outcome in OUTCOMES),
                     format_duration(sum(report.seconds for report in group))])
    return format_table(rows, left=["stage"])


def _results_table(nodes: list[Node]) -> list[str]:
    """Return a line an arm and condition with best and last top-1 accuracy, as the tables of notebook 07 have them."""
    folders = [node.folder for node in nodes if node_manifest(node)]
    if not folders:
        return []
    from dgs_utils.results.rows import read_results  # here, because pandas takes a while to import
    from dgs_utils.results.summaries import summarise

    order = {name: index for index, name in enumerate(METHODS)}
    try:
        table = summarise(read_results(folders))
    except ValueError as error:  # all else is printed nevertheless
        return [f"Warning: there is no table of results, since {error}", ""]
    table = table.assign(order=table["method"].map(order)).sort_values(["condition", "ipc", "order", "series"])
    rows = [["network", "IPC", "method", "best top-1", "last", "runs"]]
    rows += [[row.condition, str(row.ipc or "all"), row.series, _mean_std(row.best, row.std),
              _mean_std(row.last, row.last_std), str(row.n)] for row in table.itertuples()]
    return [*format_table(rows, left=["network", "method"]), ""]


def _mean_std(mean: float, std: float) -> str:
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def _result_paths(finished: list[Node]) -> list[str]:
    """Return lines with the paths of distilled sets, figures and reports; where the run ends at few sets, their reports
    are written.
    """
    nodes = [node for node in finished if node.stage in ("05_sample", "08_condense")]
    sets = [display_path(node.folder) for node in nodes]
    pages = [node.folder / HTML_REPORT for node in finished if node.stage == "07_figures"]
    if len(nodes) <= MAX_SETS and not any(node.stage in ("06_evaluate", "07_figures") for node in finished):
        for node in nodes:
            if node.stage == "05_sample" and not (node.folder / HTML_REPORT).exists():
                try_report(node.folder)
            pages.append(node.folder / HTML_REPORT)
    lines = [f"Distilled set: {name}" for name in sets] if len(sets) <= MAX_SETS else [
        f"Distilled sets: {len(sets)} in {', '.join(sorted({os.path.dirname(name) for name in sets}))}"]
    lines += [f"Figures and tables: {display_path(node.folder)}" for node in finished if node.stage == "07_figures"]
    return lines + [f"Report, for any browser: {display_path(page)}" for page in pages if page.exists()]


def _decisive_warnings(finished: list[Node]) -> list[str]:
    """Return the warnings of results, also of earlier runs, that put what was made from them in question."""
    folders_by_warning = defaultdict(list)
    for node in finished:
        for sentence in (node_manifest(node) or {"decisive": ()})["decisive"]:
            folders_by_warning[sentence].append(display_path(node.folder))
    return [f"Warning: {sentence} ({folders[0]}{f' and {len(folders) - 1} more' if folders[1:] else ''})"
            for sentence, folders in folders_by_warning.items()]
