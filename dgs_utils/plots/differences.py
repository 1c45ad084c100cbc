"""Differences with intervals: to other arms, and of rules to random images over IPC, training and difficulty shift."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT

from dgs_utils.plots.heatmaps import annotated_heatmap
from dgs_utils.plots.interval_panels import interval_panels
from dgs_utils.plots.style import wrap_labels, wrap_text
from dgs_utils.results.comparisons import MARGIN, signed
from dgs_utils.results.gain_vs_shift import gains_by_bias
from dgs_utils.results.reports import verdict_words

VERDICT_COLORS = {"better": "C0", "better alone": "#9fb3d8", "worse": "C3", "worse alone": "#e0a3a5", "as good": "C2",
                  "undecided": "0.45", "no interval": "0.75"}
AXES = {"ipc": "images per class (IPC)", "steps": "training steps"}


def _reach(shown: pd.DataFrame, margin: float) -> float:
    """Return a half-width of an axis that contains most differences and the ends of most intervals (low, high)."""
    ends = shown[["low", "high"]].abs().max(axis=1).fillna(0)
    return float(max(3 * margin, 1.3 * np.nanquantile(shown["difference"].abs(), 0.8), np.nanquantile(ends, 0.5)))


def differences_to(comparisons: pd.DataFrame) -> Figure | None:
    """Show the difference of one arm to each other arm, a panel a condition and an IPC.

    To the right of zero the one arm is better. Thin lines are 95 % intervals, thick ones the 90 % intervals of
    equivalence; colours are the verdicts of the table, and the grey band holds differences that do not matter. A point
    outside of the frame is an arrow head at its edge, with its value. ``comparisons`` are rows of
    `results.comparisons.compare_with_others`, of one arm; None without any.
    """
    if comparisons.empty:
        return None
    hues = {verdict_words(verdict): color for verdict, color in VERDICT_COLORS.items()
            if verdict in set(comparisons["verdict"])}
    shown = comparisons.assign(
        hue=comparisons["verdict"].map(verdict_words),
        panel=[wrap_text(f"{condition}, IPC {ipc or 'all'}", 30)
               for condition, ipc in zip(comparisons["condition"], comparisons["ipc"], strict=True)])
    rivals, margin = list(shown["second"].unique()), shown["margin"].iloc[0]
    first, limit = shown["first"].iloc[0], _reach(shown, margin)
    frames = dict.fromkeys(shown["panel"], (-limit, limit))
    figure, axes = interval_panels(shown, "difference", "second", frames, (2.3, 0.2), hues=hues, order=rivals,
                                   title=f"{first.partition(' (')[0]} is", margin=margin)
    for axis, panel in zip(axes, frames, strict=True):
        for row in shown[shown["panel"] == panel].itertuples():
            line, color = rivals.index(row.second), hues[row.hue]
            axis.hlines(line, row.tost_low, row.tost_high, color=color, linewidth=3)
            if abs(row.difference) > limit:
                edge, head, side = (limit, CARETRIGHT, "right") if row.difference > 0 else (-limit, CARETLEFT, "left")
                axis.scatter(edge, line, s=25, color=color, marker=head, zorder=3, clip_on=False)
                axis.annotate(signed(row.difference, 0), (edge, line), va="center", ha=side,
                              xytext=(-6 if side == "right" else 6, 0), textcoords="offset points", fontsize="small",
                              zorder=2.4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    label = f"accuracy of {first} minus that of the method (points; grey: within ± {margin:g})"
    figure.supxlabel(wrap_text(label, 48), fontsize="medium")
    return figure


def rule_heatmap(gains: pd.DataFrame, margin: float = MARGIN) -> Figure:
    """Show the gain of each score × rule over random images of its own source, as a heat map with numbers.

    A line is a rule, a column a score at an IPC; pools (or the originals) and conditions are panels. Under each
    difference is the half-width of its 95 % interval, with a star if zero is outside. Blue is better than random
    images, red worse; cells without runs are grey.

    ``gains`` are rows of `results.baselines.gains_over_random`; differences below ``margin`` points do not matter, and
    the colours reach at least three times as far.
    """
    gains = gains.assign(
        text=[_cell(row.difference, row.low, row.high) for row in gains.itertuples()],
        column=[f"IPC {ipc or 'all'}\n{score or 'no score'}" for ipc, score in zip(gains["ipc"], gains["score"],
                                                                                  strict=True)])
    columns = list(gains.sort_values(["ipc", "score"], kind="stable")["column"].unique())
    lines = list(gains.groupby(["control", "condition"], sort=False))
    limit = _reach(gains, margin)
    counts = [part["rule"].nunique() for _, part in lines]
    _, room, high = wrap_labels(list(gains["rule"].unique()))
    size = (2.0 + max(1.0, room) + 0.85 * len(columns), 0.8 * len(lines) + 0.9 + max(0.36, high) * sum(counts))
    figure, axes = plt.subplots(len(lines), 1, figsize=size, squeeze=False, height_ratios=counts)
    for axis, ((control, condition), part) in zip(axes[:, 0], lines, strict=True):
        order = part["rule"].unique()
        values, texts = (part.pivot(index="rule", columns="column", values=name).reindex(index=order, columns=columns)
                         for name in ("difference", "text"))
        annotated_heatmap(axis, values, annot=texts.fillna(""), fmt="", cmap="vlag_r", center=0, vmin=-limit,
                          vmax=limit)
        axis.tick_params(axis="x", rotation=0)
        axis.set_ylabel("selection rule")
        axis.set_title(f"{condition}: best top-1 accuracy\n{wrap_text(f'minus {control}', 36)}")
    figure.colorbar(axes[0, 0].collections[0], ax=list(axes[:, 0]), extend="both", label="difference (points)",
                    shrink=min(1, 2.5 / size[1]), aspect=12)
    figure.supxlabel("images per class and score\n\ncells: points ± half of the 95 % interval;\n* zero is outside; "
                     "grey: not run", fontsize="small")
    return figure


def _cell(value: float, low: float, high: float) -> str:
    text = f"{round(value, 1) + 0:+.1f}{'*' if low > 0 or high < 0 else ''}"
    return (text if np.isnan(low) else f"{text}\n±{(high - low) / 2:.1f}").replace("-", "−")


def rule_curves(gains: pd.DataFrame, x: str) -> Figure:
    """Show the gain of each rule over random images against IPC or training steps, with 95 % intervals.

    The scale follows the points of a source; rules are dodged. ``gains`` are rows of `results.baselines`'
    `with_several_ipcs` (``x`` "ipc") or `with_several_lengths` ("steps").
    """
    several = gains.loc[gains["score"] != "", "score"].nunique() > 1
    panels = gains["setting"] + ", IPC " + gains["ipc"].astype(str) if x == "steps" else gains["condition"]
    gains = gains.assign(
        hue=[f"{row.rule}, {row.score}" if several and row.score else row.rule for row in gains.itertuples()],
        category=[f"{value:,}" if value else "all" for value in gains[x]],
        panel=panels + ["\n" + wrap_text(f"minus {control}", 36) for control in gains["control"]])
    limits = (1.3 * gains.groupby("source")["difference"].agg(lambda values: values.abs().max())).clip(lower=2 * MARGIN)
    frames = {row.panel: (-limits[row.source], limits[row.source]) for row in gains.itertuples()}
    figure, axes = interval_panels(
        gains.sort_values(x, kind="stable"), "difference", "category", frames, (2.9, 2.8), columns=3, margin=0,
        err_kws={"linewidth": 0.6, "alpha": 0.5})
    for axis in axes:
        axis.set_xlabel(AXES[x])
    figure.supylabel("difference in best top-1 accuracy (points)", fontsize="medium")
    return figure


def gain_over_shift(gains: pd.DataFrame, margin: float = MARGIN) -> Figure:
    """Show the gain of each rule against the difficulty shift of pools (`results.gain_vs_shift.pool_gains`): a panel a
    rule, a dot a pool, and the means of each bias with 95 % intervals over pools. Grey band: ± ``margin`` points.
    """
    several = gains.groupby(["condition", "ipc"]).ngroups > 1
    scores = gains.loc[gains["score"] != "", "score"].nunique() > 1
    named = [wrap_text(f"{row.rule}, {row.score}" if scores and row.score else row.rule, 30)
             + (f"\n{row.condition}, IPC {row.ipc}" if several else "") for row in gains.itertuples()]
    parts = dict(iter(gains.groupby(named, sort=False)))
    means = pd.concat([gains_by_bias(part).assign(panel=panel) for panel, part in parts.items()])
    room = 0.1 * max(gains["gain"].max() - gains["gain"].min(), 2 * margin)
    frame = (min(gains["gain"].min(), -margin) - room, max(gains["gain"].max(), margin) + room)
    figure, axes = interval_panels(means, "gain", "shift", dict.fromkeys(parts, frame), (2.1, 2.4), columns=4,
                                   margin=margin, native_scale=True)
    for axis, part in zip(axes, parts.values(), strict=True):
        axis.axvline(0, color="0.5", linewidth=0.8, linestyle=":", zorder=1)
        axis.plot(part["shift"], part["gain"], ".", color="0.5", markersize=3)
    figure.supxlabel("difficulty shift of the pool against the originals\n(Wasserstein-1; below 0: easier)",
                     fontsize="medium")
    figure.supylabel(f"gain over random images (points;\ngrey: within ± {margin:g})", fontsize="medium")
    return figure
