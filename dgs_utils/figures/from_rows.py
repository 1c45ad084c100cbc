"""Contents of figures and tables, from rows of results and other frames alone; `dgs_utils.plots` draws them."""

from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from dgs_utils import plots
from dgs_utils.images.classes import display_names
from dgs_utils.results.baselines import (
    add_baseline_differences,
    gains_over_random,
    with_several_ipcs,
    with_several_lengths,
)
from dgs_utils.results.comparisons import MARGIN, compare_with_others
from dgs_utils.results.correctness import count_confusions
from dgs_utils.results.gain_vs_shift import gains_by_bias, pool_gains
from dgs_utils.results.result_tables import bytes_table, layout_table
from dgs_utils.results.rows import fill_columns, main_series
from dgs_utils.results.summaries import summarise, without_ablations


def tables_of(rows: pd.DataFrame, margin: float = MARGIN) -> dict[str, pd.DataFrame]:
    """Return the tables of rows of results.

    Args:
        rows: one row a training, of `evaluate.evaluate_set` or ``results.csv``; of several sets, joined.
        margin: percentage points; smaller differences do not matter.

    Returns:
        By name: "comparison", text of mean ± standard deviation (for several protocols one each: "comparison-idc");
        "bytes" of images and stored soft labels beside accuracy (`result_tables.bytes_table`);
        "summary" (`baselines.add_baseline_differences`); "differences" of difficulty-guided sampling to each other
        series (`comparisons.compare_with_others`); "rules" (`baselines.gains_over_random`); "pool_gains" of rules on
        each pool of known bias (`gain_vs_shift.pool_gains`), and "gains" by the bias (`gain_vs_shift.gains_by_bias`).
    """
    rows = fill_columns(rows)
    summary, gains = summarise(rows), pool_gains(rows)
    protocols = list(summary["protocol"].unique())
    tables = {"comparison" if len(protocols) == 1 else f"comparison-{protocol}":
             layout_table(summary[summary["protocol"] == protocol], "comparison") for protocol in protocols}
    return tables | {"bytes": bytes_table(summary), "summary": add_baseline_differences(rows),
                    "rules": gains_over_random(rows), "pool_gains": gains, "gains": gains_by_bias(gains),
                    "differences": compare_series(rows, margin=margin)}


def compare_series(rows: pd.DataFrame, **options) -> pd.DataFrame:
    """Compare difficulty-guided sampling with each other series (`comparisons.compare_with_others`)."""
    main = main_series(rows)
    rivals = [series for series in rows["series"].unique() if main and series != main]
    return compare_with_others(rows, main, rivals, **options)


def figures_of(rows: pd.DataFrame, margin: float = MARGIN) -> dict[str, Figure]:
    """Return the figures of rows of results (see `tables_of`), by name, without those that need other rows.

    Returns:
        "accuracy" of every set; "differences" to difficulty-guided sampling; "accuracy_by_ipc"; and gains of each
        score × rule over random images: "rules", "rules_by_ipc", "rules_by_steps", and "gain_over_shift" of pools.
    """
    rows = fill_columns(rows)
    drawn = {name: draw() for name, draw in drawings(rows, margin, tables_of(rows, margin)).items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def drawings(rows: pd.DataFrame, margin: float,
             tables: Mapping[str, pd.DataFrame]) -> dict[str, Callable[[], Figure | None]]:
    """Return what draws each figure of `figures_of`, or returns None; ``tables`` are those of the rows."""
    gains, rules = tables["pool_gains"], tables["rules"]
    by_ipc, by_steps = (select(rules) for select in (with_several_ipcs, with_several_lengths))
    return {"accuracy": lambda: plots.accuracy_by_method(rows),
            "differences": lambda: plots.differences_to(tables["differences"]),
            "accuracy_by_ipc": lambda: plots.accuracy_by_ipc(without_ablations(summarise(rows))),
            "rules": lambda: plots.rule_heatmap(rules, margin) if len(rules) else None,
            "rules_by_ipc": lambda: plots.rule_curves(by_ipc, "ipc") if len(by_ipc) else None,
            "rules_by_steps": lambda: plots.rule_curves(by_steps, "steps") if len(by_steps) else None,
            "gain_over_shift": lambda: plots.gain_over_shift(gains, margin) if len(gains) else None}


def scorer_confusion(scores: pd.DataFrame, classes: pd.DataFrame, outputs: Mapping[int, str] = {}) -> pd.DataFrame:
    """Count the predictions (outputs) of a scorer by class: true, predicted (readable names, or "no. 5"), images.

    ``classes`` is a class table; ``outputs`` names those that are none of them (`images.classes.output_names`).
    """
    titles = display_names(classes)
    names = {**outputs, **dict(zip(classes["index"], titles.values(), strict=True))}
    predicted = [names.get(output, f"no. {output}") for output in scores["prediction"].astype(int)]
    return count_confusions(list(scores["class"].map(titles)), predicted, list(titles.values()))
