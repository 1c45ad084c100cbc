"""Findings in words: their numbers are those of the rows, whatever is missing."""

import pandas as pd
import pytest
from result_rows import named, runs

from dgs_utils.results.baselines import add_baseline_differences
from dgs_utils.results.comparisons import compare_with_others
from dgs_utils.results.findings import find
from dgs_utils.results.rows import main_series

RANDOM = {"method": "pool_random", "distribution": ""}
HERDING = {"method": "herding", "distribution": "", "pool_factor": 0}


def found(*parts: pd.DataFrame) -> tuple[str, list[str]]:
    rows = named(*parts)
    summary, main = add_baseline_differences(rows), main_series(rows)
    rivals = [name for name in summary["series"].unique() if main and name != main]
    return find(rows, compare_with_others(rows, main, rivals), summary)


def test_a_comparison_is_told_with_the_interval_that_decides():
    headline, sentences = found(runs([60, 61, 63]), runs([50, 52, 53], **RANDOM), runs([60, 62, 62], **HERDING))
    assert headline == "DGS and Herding best with 61.3 %"
    assert sentences == [
        "These are 9 trainings of 3 arms on ImageWoof, in one condition (ResNetAP-10, IPC 10).",
        "DGS and Herding have the highest mean accuracy, 61.3 ± 1.5 % at the best epoch.",
        "For this pool, this selection and these test images, DGS is 9.7 points above Random of pool at the best epoch "
        "(95 % interval +8.2 to +11.1; 1 pool, 1 selection, 3 trainings).",
        "For this pool, this selection and these test images, DGS is as good as Herding within ± 2 points at the best "
        "epoch (two one-sided tests, p = 0.037; 90 % interval −1.7 to +1.7; 1 pool, 1 selection, 3 trainings).",
        "Noise: the runs of an arm have a standard deviation of 1.5 points (median), and one test of 500 images has a "
        "binomial error of 2.2 points; trainings were repeated; the intervals leave out the noise of pools and "
        "selections."]


@pytest.mark.parametrize(("parts", "headline", "words"), [
    ((runs([60]),), "DGS reaches 60.0 %", ["This is 1 training of one arm, DGS, on ImageWoof",
     "Random images of its pool were not run", "No other method was run", "No arm was run twice"]),
    ((runs([50, 52], **RANDOM), runs([60, 62], **HERDING)), "Herding best with 61.0 %",
     ["Difficulty-guided sampling was not run, so that nothing is compared with it."]),
    ((runs([60]), runs([50], **RANDOM)), "DGS best with 60.0 %",
     ["DGS minus Random of pool is +10.0 points at the best epoch, and 1 pool, 1 selection, 1 training leave no",
      "1 of 1 comparisons is undecided: Random of pool."]),
    ((runs([60, 70]), runs([61, 66], **HERDING)), "DGS best with 65.0 %", [
        "DGS against Herding cannot be decided at the best epoch", "trainings or more would decide"]),
    ((runs([86, 88], method="full", ipc=0, distribution="", pool_factor=0),), "the full set alone",
     ["Only the full set was run"]),
    ((runs([60, 61]), runs([50, 51], **RANDOM), runs([60, 61], ipc=20), runs([65, 66], ipc=20, **RANDOM)),
     "DGS and Random of pool best in 1 of 2 conditions each",
     ["of 2 conditions: DGS in 1, Random of pool in 1.", "In 2 combinations of pool, IPC and condition, DGS is −5.0 to "
      "+10.0 points", "Against the best other method of each condition, DGS is without an interval in 2 of 2."])])
def test_what_is_missing_is_said(parts, headline, words):
    title, sentences = found(*parts)
    assert title == headline
    assert 3 <= len(sentences) <= 6
    for text in words:
        assert any(text in sentence for sentence in sentences), (text, sentences)


def test_sets_of_other_pools_are_no_rivals():
    pools = [runs([best, best + 1, best + 2 + ("method" in choice)], bias=bias, pool=f"p{bias}", generator="originals",
                  **choice)
             for bias, best, choice in (("3", 50, {}), ("3", 40, RANDOM), ("-3", 90, RANDOM))]
    headline, sentences = found(*pools)
    assert headline == "Random of pool (β -3) best with 91.3 %"  # that DGS has less on another pool says nothing
    assert "above Random of pool (β 3) at the best epoch" in " ".join(sentences)
    assert "DGS (β 3) against Random of pool (β -3)" not in " ".join(sentences)
    assert "below Random of pool (β -3)" not in " ".join(sentences)
    assert "the highest mean accuracy, 91.3" in sentences[1]


def test_selections_within_repeated_pools_are_noise_that_the_intervals_contain():
    pools = [runs([best], pool=f"p{seed}", pool_seed=seed, **choice) for choice, means in
             (({}, (60, 62, 65)), (RANDOM, (58, 57, 59))) for seed, best in enumerate(means)]
    _, sentences = found(*pools)
    assert sentences[-1].endswith("pools were repeated; the intervals leave out the noise of training seeds.")


def test_equal_means_of_several_conditions_count_for_each():
    headline, sentences = found(*(runs([best, best], ipc=ipc, **choice) for ipc in (10, 20)
                                  for best, choice in ((60 + ipc, {}), (70, RANDOM))))
    assert headline == "DGS best in 2 of 2 conditions"
    assert sentences[1].endswith("of 2 conditions: DGS in 2, Random of pool in 1; equal means count for each.")
