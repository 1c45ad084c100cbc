"""Reports of comparisons and gains: lines, columns and bold by hand."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from result_rows import gain_rows, runs
from scipy import stats

from dgs_utils import plots
from dgs_utils.plots.differences import VERDICT_COLORS
from dgs_utils.results.comparisons import compare_with_others
from dgs_utils.results.gain_vs_shift import add_differences_to_dgs, pool_gains
from dgs_utils.results.reports import VERDICTS, write_differences, write_gains
from dgs_utils.results.rows import fill_columns
from dgs_utils.results.summaries import summarise


def test_one_table_has_every_arm_with_its_accuracy_both_intervals_and_one_verdict(tmp_path):
    random = {"method": "random", "distribution": "", "pool_factor": 0}
    results = fill_columns(pd.concat([
        runs([60, 61, 63]), runs([50, 52, 53], **random), runs([60, 62, 62], method="dit"),
        runs([55], method="herding"), runs([60, 62, 63], ipc=20), runs([61, 62, 64], ipc=20, **random)]))
    found = compare_with_others(results, "DGS", ["Random", "DiT", "Herding"])
    text = write_differences(found, summarise(results), tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["IPC", "Method", "Accuracy", "DGS minus it (95 % interval)", "90 % interval", "p, Holm",
                        "Verdict", "Runs compared"]
    wide, narrow = (stats.t.ppf(level, 2) / 3 for level in (0.975, 0.95))  # differences 10, 9, 10; 0, −1, 1; −1, 0, −1
    p, runs_compared = 2 * stats.t.sf((9 + 2 / 3) * 3, 2), "1 pool, 1 selection, 3 trainings"
    assert lines[2:] == [
        ["10", "DGS", "61.3 ± 1.5", "", "", "", "reference", ""],
        ["10", "DiT", "61.3 ± 1.2", "+0.0 (−2.5 to +2.5)", "−1.7 to +1.7", "1", "as good", runs_compared],
        ["10", "Herding", "55.0", "+5.0", "–", "–", "no interval", "1 pool, 1 selection, 1 training"],
        ["10", "Random", "51.7 ± 1.5", f"+9.7 ({9 + 2 / 3 - wide:+.1f} to {9 + 2 / 3 + wide:+.1f})",
         f"{9 + 2 / 3 - narrow:+.1f} to {9 + 2 / 3 + narrow:+.1f}", f"{3 * p:.2g}", "**better**", runs_compared],
        ["20", "Random", "62.3 ± 1.5", "−0.7 (−2.1 to +0.8)", "−1.6 to +0.3", "0.37", "as good", runs_compared],
        ["20", "DGS", "61.7 ± 1.5", "", "", "", "reference", ""]]
    assert "ResNetAP-10: best top-1 accuracy in percent" in text
    assert "Holm's correction for 3 comparisons" in text
    assert (tmp_path / "differences.md").read_text() == text
    assert pd.read_csv(tmp_path / "differences.csv")["second"].tolist() == ["Random", "Random", "DiT", "Herding"]


@pytest.mark.parametrize(("ours", "others", "verdict"), [
    ([[60.0, 61.0, 60.5]], [[50.0, 51.1, 50.4]], "better"), ([[50.0, 51.0, 50.5]], [[60.0, 61.1, 60.4]], "worse"),
    ([[53.0, 54.0, 54.5]], [[50.0, 52.0, 51.2], [50.0, 52.1, 51.2], [20.0, 60.0, 55.0]], "better alone"),
    ([[50.0, 51.0, 50.5]], [[50.1, 50.9, 50.6]], "as good"), ([[40.0, 51.0, 62.0]], [[50.1, 50.9, 50.6]], "undecided"),
    ([[50.0]], [[50.1]], "no interval")])
def test_the_verdict_is_the_table_s_the_figure_s_and_the_sentence_s(tmp_path, ours, others, verdict):
    arms = [("dgs", *ours), *((f"m{index}", runs_of) for index, runs_of in enumerate(others))]
    results = fill_columns(pd.concat([runs(best, method=name) for name, best in arms]))
    found = compare_with_others(results, "DGS", [f"m{index}" for index in range(len(others))])
    row = found.iloc[0]
    assert row["verdict"] == verdict
    words = VERDICTS.get(verdict, verdict)
    assert f"| {words} |" in write_differences(found, summarise(results), tmp_path)
    [axis] = plots.differences_to(found).axes
    lines = [line.get_colors()[0] for line in axis.collections if isinstance(line, LineCollection)]
    assert len(lines) == len(others)
    assert to_hex(lines[0]) == to_hex(VERDICT_COLORS[verdict])
    told = {"better": "points above", "worse": "points below", "as good": "is as good as",
            "undecided": "cannot be decided", "no interval": "leave no interval"}[verdict.removesuffix(" alone")]
    assert told in row["sentence"]


def test_without_difficulty_guided_sampling_the_table_has_the_accuracies(tmp_path):
    results = fill_columns(runs([50, 52], method="random", distribution="", pool_factor=0))
    text = write_differences(pd.DataFrame({"sentence": []}), summarise(results), tmp_path)
    assert text.splitlines()[:3] == ["| Method | Accuracy |", "| --- | --- |", "| Random | 51.0 ± 1.4 |"]

pytestmark = pytest.mark.usefixtures("styled")


def test_the_table_has_a_column_a_bias_and_a_line_a_rule(tmp_path):
    gains = pool_gains(fill_columns(gain_rows()))
    gains["gain"] += np.random.default_rng(0).normal(0, 0.1, size=len(gains))
    text = write_gains(add_differences_to_dgs(gains), "gains", tmp_path)
    assert (tmp_path / "gains.md").read_text() == text
    head, _, *lines = text.split("\n\n")[0].splitlines()
    assert head == "| Rule | β 3, shift −0.12 | β 0, shift +0.00 | β −3, shift +0.20 | τ |"
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert list(cells) == ["DGS (code)", "Easiest", "DGS (none)", "DGS (code) minus Easiest",
                           "DGS (code) minus DGS (none)"]
    means = gains.groupby(["rule", "bias"])["gain"].mean()
    for rule in means.index.levels[0]:
        for cell, bias in zip(cells[rule], ("3", "0", "-3"), strict=False):
            assert cell.startswith(f"{means[rule, bias]:+.1f} (".replace("-", "−"))
    kept = pd.read_csv(tmp_path / "gains.csv", dtype={"bias": str})
    for rule, (*_, tau) in cells.items():
        row = kept[kept["rule"] == rule].iloc[0]
        told = f"{row['tau']:+.2f}".replace("-", "−")
        assert tau == (f"**{told}**" if row["p_holm"] < 0.05 else told)
    assert "means of 2 pools of each β" in text
    assert "for 5 lines" in text
    assert write_gains(gains[:0], "none", tmp_path) == ""
