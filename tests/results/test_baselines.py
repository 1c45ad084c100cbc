"""Differences to random images, by hand, for sets and for score × rule."""

import itertools

import numpy as np
import pandas as pd
import pytest
from result_rows import EASY, HARD, MARGIN, POOL, RANDOM, arm, by_hand, rows, rule_grid, runs
from scipy import stats

from dgs_utils.results.baselines import (
    add_baseline_differences,
    gains_over_random,
    with_several_ipcs,
    with_several_lengths,
)
from dgs_utils.results.rows import fill_columns

PLAIN = {"distribution": "", "objective": "", "measure": "", "generation": ""}

REAL = {**PLAIN, "pool_factor": 0, "pool_seed": ""}


def test_controls_stand_beside_each_result():
    results = pd.concat([
        runs([50, 52]), runs([44, 45], method="random", **REAL), runs([47, 50], method="pool_random", **PLAIN),
        runs([60], network="convnet6"), runs([48, 49], method="k_center", selection_seed="", **REAL)])
    table = add_baseline_differences(results).set_index(["network", "method"])
    ours = table.loc[("resnet_ap10", "dgs")]
    assert ours[["random", "pool_random", "over_random", "over_pool"]].tolist() == [44.5, 48.5, 6.5, 2.5]
    half = stats.t.ppf(0.975, 1) * 0.5  # differences of pairs: 6 and 7; 3 and 2
    assert ours[["over_random_low", "over_random_high"]].tolist() == pytest.approx([6.5 - half, 6.5 + half])
    assert ours[["over_pool_low", "over_pool_high"]].tolist() == pytest.approx([2.5 - half, 2.5 + half])
    assert table.loc[("resnet_ap10", "k_center"), ["random", "over_random"]].tolist() == [44.5, 4]
    assert np.isnan(table.loc[("resnet_ap10", "k_center"), "over_pool"])  # it uses no pool
    assert np.isnan(table.loc[("convnet6", "dgs"), "over_random"])  # not run there
    assert np.isnan(table.loc[("resnet_ap10", "random"), "over_random"])  # nothing is its own control


@pytest.mark.parametrize("other", [{"pool_factor": 2}, {"pool": "b"}, {"pool_seed": 1, "pool": "b"},
                                   {"fine_tune_seed": "1"}, {"image_size": 128}, {"test_list": "ab"}, {"ipc": 20},
                                   {"prepare_seed": "7"}])
def test_a_control_is_one_of_the_same_pool_size_and_condition(other):
    ours = runs([50, 52], pool="a")
    control = runs([40, 41], method="pool_random", **{"pool": "a", **PLAIN})
    foreign = runs([20, 21], method="pool_random", **{"pool": "a", **PLAIN, **other})
    found = add_baseline_differences(pd.concat([ours, control, foreign]))
    assert found.loc[found["method"] == "dgs", "pool_random"].tolist() == [40.5]
    alone = add_baseline_differences(pd.concat([ours, foreign]))
    assert alone.loc[alone["method"] == "dgs", "pool_random"].isna().all()


def test_older_rows_tell_their_pool_by_generator_and_seed():
    control = runs([40, 41], method="pool_random", **PLAIN)
    results = pd.concat([control, runs([50, 51], pool_factor=5, method="dit", **PLAIN),
                         runs([50, 51], method="confidence", **PLAIN)])
    found = add_baseline_differences(results).set_index("method")["pool_random"]
    assert np.isnan(found["dit"])  # another generator's pool
    assert found["confidence"] == 40.5


ORIGINALS = {"pool_factor": 0, "distribution": "", "pool_seed": ""}

pytestmark = pytest.mark.usefixtures("styled")


def test_differences_are_those_of_paired_trainings_to_random_of_the_same_source():
    results = rows(*arm("pool_random", RANDOM, measure="", **POOL), *arm("easiest", EASY, **POOL),
                   *arm("easiest", MARGIN, measure="margin", **POOL), *arm("hardest", HARD, **POOL),
                   *arm("moderate", HARD, **POOL), *arm("pool_random", MARGIN, cut="0.3", **POOL),
                   *arm("easiest", EASY, pool="p2", variant="b"),  # no random images of that pool were run
                   *arm("random", HARD, measure="", **ORIGINALS), *arm("real_easiest", EASY, **ORIGINALS),
                   *arm("dit", EASY), *arm("full", EASY, **ORIGINALS))
    found = gains_over_random(fill_columns(results))
    expected = {("pool", "Random of pool (cut 0.3)", "1 − p(class)"): by_hand(MARGIN, RANDOM),  # of what the cut left
                ("pool", "Easiest", "1 − p(class)"): by_hand(EASY, RANDOM),
                ("pool", "Easiest", "margin"): by_hand(MARGIN, RANDOM),
                ("pool", "Hardest", "1 − p(class)"): by_hand(HARD, RANDOM),
                ("pool", "Moderate", ""): by_hand(HARD, RANDOM),
                ("originals", "Easiest, real", "1 − p(class)"): by_hand(EASY, HARD)}
    keys = list(zip(found["source"], found["rule"], found["score"], strict=True))
    assert sorted(keys) == sorted(expected)
    assert [source for source, _ in itertools.groupby(keys, lambda key: key[0])] == ["pool", "originals"]
    for key, values in zip(keys, found[["difference", "low", "high"]].to_numpy(), strict=True):
        assert tuple(values) == pytest.approx(expected[key])


def test_one_ipc_and_one_length_make_no_curve():
    found = gains_over_random(fill_columns(rule_grid().query("ipc == 10 and steps == 400")))
    assert len(with_several_ipcs(found)) == len(with_several_lengths(found)) == 0
    older = gains_over_random(fill_columns(rule_grid().assign(steps=0)))
    assert len(with_several_lengths(older)) == 0
