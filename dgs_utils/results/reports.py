"""Markdown reports of comparisons, gains and claims, each with its rows as a CSV file beside it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.results.comparisons import count_runs, signed
from dgs_utils.results.gain_vs_shift import RULE_KEYS, gain_trends, gains_by_bias
from dgs_utils.results.result_tables import EMPTY_CELL, markdown, mean_and_spread
from dgs_utils.store.atomic import atomic, write_csv

VERDICTS = {"better": "**better**", "worse": "**worse**", "better alone": "better, by itself",
            "worse alone": "worse, by itself"}


def verdict_words(verdict: str) -> str:
    """Return a verdict of `comparisons.compare_with_others` as figures and sentences have it."""
    return VERDICTS.get(verdict, verdict).strip("*")


def write_differences(comparisons: pd.DataFrame, summary: pd.DataFrame, folder: Path) -> str:
    """Write comparisons with one arm as ``differences.csv``, and every arm with its verdict as a table
    ``differences.md``, each condition's best first; without comparisons a table of accuracies is left.

    Returns:
        The Markdown text: accuracy of each arm, difference to it with the 95 % interval, the 90 % interval, p values
        after Holm's correction, the verdict, and the number of runs.
    """
    keys = ["condition", "ipc"]
    table = summary.sort_values([*keys, "best"], ascending=[True, True, False], kind="stable")
    shown = pd.DataFrame({
        "Condition": table["condition"], "IPC": table["ipc"].replace(0, "all"), "Method": table["series"],
        "Accuracy": [mean_and_spread(best, std) for best, std in zip(table["best"], table["std"], strict=True)]})
    shown = shown[[column for column in shown if column not in ("Condition", "IPC") or shown[column].nunique() > 1]]
    common = [] if "Condition" in shown else [table["condition"].iloc[0]]
    common += [] if "IPC" in shown else [f"IPC {table['ipc'].iloc[0] or 'all'}"]
    notes = [f"{', '.join(common)}{': ' if common else ''}best top-1 accuracy in percent, mean ± standard deviation "
             f"(ddof 1) of all runs."]
    if len(comparisons):
        row = comparisons.iloc[0]
        wide, narrow = f"{100 * row['confidence']:.0f} %", f"{200 * row['confidence'] - 100:.0f} %"
        heads = [f"{row['first']} minus it ({wide} interval)", f"{narrow} interval", "p, Holm", "Verdict",
                 "Runs compared"]
        texts = {(c.condition, c.ipc, c.second): (
            _interval(c.difference, c.low, c.high), EMPTY_CELL if np.isnan(c.low) else _ends(c.tost_low, c.tost_high),
            EMPTY_CELL if np.isnan(c.p_holm) else f"{c.p_holm:.2g}", VERDICTS.get(c.verdict, c.verdict), count_runs(c))
            for c in comparisons.itertuples()}
        cells = [("", "", "", "reference", "") if series == row["first"] else
                 texts.get((condition, ipc, series), (EMPTY_CELL,) * len(heads))
                 for condition, ipc, series in zip(table["condition"], table["ipc"], table["series"], strict=True)]
        shown[heads] = pd.DataFrame(cells, index=shown.index)
        tested = int(comparisons["p"].notna().sum())
        notes.append(
            f"Differences in percentage points at the {row['measure']} epoch of each training; above 0, {row['first']} "
            f"is better. Verdict on {row['first']}: **better** or **worse** where zero is outside of the {wide} "
            f"interval after Holm's correction for {tested} comparisons; \"by itself\" where only without it; as good "
            f"where the {narrow} interval is within ± {row['margin']:g} (two one-sided tests); else undecided. A pool, "
            f"selection or test set without repeats is not part of the intervals, which hold for this one.")
        looks = {(c.condition, c.ipc, c.second): _ends(c.anytime_low, c.anytime_high) for c in comparisons.itertuples()
                 if np.isfinite(c.anytime_low)}
        if looks:
            shown["At any time"] = ["" if arm.series == row["first"] else
                                    looks.get((arm.condition, arm.ipc, arm.series), EMPTY_CELL)
                                    for arm in table.itertuples()]
            notes.append(f"At any time: the {wide} interval for who adds pools or selections until it leaves out zero; "
                         f"it holds at all numbers of them together.")
    return _write(comparisons, [markdown(shown.set_index(shown.columns[0])), " ".join(notes)], "differences", folder)


def write_gains(gains: pd.DataFrame, name: str, folder: Path) -> str:
    """Write the gains of rules on pools of each bias (`gain_vs_shift.pool_gains`, also with differences to DGS) as
    ``<name>.csv``, and as a table ``<name>.md``.

    Returns:
        The Markdown text: a line a rule, the means of each β from the easiest pools to the hardest, and the rank
        correlation of gain and shift, bold where it is significant for all lines together. "" without gains.
    """
    means, trends = gains_by_bias(gains), gain_trends(gains)
    rows = means.merge(trends.drop(columns="pools"), on=RULE_KEYS, how="left")
    if means.empty:
        return _write(rows, [], name, folder)
    confidence, several = means["confidence"].iloc[0], means.groupby(["condition", "ipc"]).ngroups > 1
    setting = f"{means['condition'].iloc[0]}, IPC {means['ipc'].iloc[0]}: "
    shifts = means.groupby("bias")["shift"].mean().sort_values()
    means = means.assign(text=[_interval(row.gain, row.low, row.high) for row in means.itertuples()])
    table = means.pivot(index=RULE_KEYS, columns="bias", values="text").reindex(
        index=means.set_index(RULE_KEYS).index.unique(), columns=shifts.index)
    table.columns = [f"β {bias}, shift {signed(shift, 2)}".replace("β -", "β −") for bias, shift in shifts.items()]
    taus = [("**{}**" if row.p_holm < 1 - confidence else "{}").format(signed(row.tau, 2))
            for row in trends.itertuples()]
    table["τ"] = pd.Series(taus, pd.MultiIndex.from_frame(trends[RULE_KEYS]), dtype=object)
    table.index = pd.Index([f"{condition}, IPC {ipc}: {rule}" if several else rule
                            for condition, ipc, rule, _ in table.index], name="Rule")
    least, most = means["pools"].min(), means["pools"].max()
    note = (f"{'' if several else setting}percentage points of best top-1 accuracy above random images of the same "
            f"pool, or as named; means of {least if least == most else f'{least} to {most}'} pools of each β with "
            f"{100 * confidence:.0f} % intervals over pools. Shift: how much harder a pool is than the originals "
            f"(Wasserstein-1). τ: Kendall's rank correlation of gain and shift over all pools, bold where it is not 0 "
            f"after Holm's correction for {len(trends)} lines.")
    return _write(rows, [markdown(table.fillna(EMPTY_CELL)), note], name, folder)


def write_claims(claims: pd.DataFrame, name: str, folder: Path) -> str:
    """Write the verdicts on the paper's claims (`claims.claims_table`) as ``<name>.csv``, and as a table with their
    rules ``<name>.md``; return the Markdown text.
    """
    heads = {"claim": "What the paper says", "where": "Where", "published": "Published numbers",
             "published_verdict": "Verdict on them", "own": "Own numbers", "own_verdict": "Verdict on these"}
    table = claims.reindex(columns=[column for column in heads if column in claims]).replace("", EMPTY_CELL)
    rules = "\n".join(f"* {row.claim[:1].upper()}{row.claim[1:]}: {row.rule}." for row in claims.itertuples())
    note = ("Every number is above 0 where the sentence is right; accuracies are percentage points. A published number "
            "counts by its sign; beyond the spreads are those larger than the ± of their parts together. An own number "
            "has a 95 % interval and counts where this leaves out 0 after Holm's correction within its claim, if "
            "several sets were drawn: trainings of one set decide nothing about a method. Pools that were drawn "
            "from the originals are left out.")
    return _write(claims, [markdown(table.rename(columns=heads).set_index(heads["claim"])), note, rules], name, folder)


def _write(rows: pd.DataFrame, paragraphs: Sequence[str], name: str, folder: Path) -> str:
    """Write rows as ``<name>.csv``, and paragraphs, if any, as ``<name>.md``; return the Markdown text."""
    write_csv(folder / f"{name}.csv", rows)
    text = "\n\n".join(paragraphs) + "\n" if paragraphs else ""
    if text:
        with atomic(folder / f"{name}.md") as partial:
            partial.write_text(text, encoding="utf-8")
    return text


def _interval(value: float, low: float, high: float) -> str:
    if np.isnan(low):
        return EMPTY_CELL if np.isnan(value) else signed(value)
    return f"{signed(value)} ({_ends(low, high)})"


def _ends(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"
