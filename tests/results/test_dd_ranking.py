"""DD-Ranking's scores against the published worked values and a slow definition."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.results.dd_ranking import robust_score, robust_scores
from dgs_utils.results.rows import SEEDS


def rows(method: str, seeds: list[tuple], best: list[float], **condition) -> pd.DataFrame:
    columns = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "method": method, **condition}
    frame = pd.DataFrame(seeds, columns=SEEDS).assign(best=best, **columns)
    return frame


def test_label_robust_score_of_the_worked_values():
    assert robust_score(0.4, 0.3, 0.3, 0.6) == pytest.approx(0.228, abs=5e-4)  # HLR 30, IOR 10 points
    assert robust_score(0.6, 0.3, 0.4, 0.5) == pytest.approx(0.314, abs=5e-4)  # HLR 10, IOR 30 points
    assert robust_score(0.4, 0.4, 0.5, 0.5) == pytest.approx(0.269, abs=5e-4)
    assert robust_score(0.4, 0.4, 0.3, 0.3) == pytest.approx(0.269, abs=5e-4)


@given(*[st.floats(0, 1)] * 4)
def test_scores_stay_between_zero_and_one_and_rise_with_accuracy(a, b, c, d):
    assert 0 <= robust_score(c, d, b, a) <= 1
    assert robust_score(1.0, d, b, a) >= robust_score(c, d, b, a)
    assert robust_score(a, b, c, d) <= robust_score(1.0, b, c, d)
    alpha = 0.5 * (a - b) + 0.5 * (c - d)
    expected = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    assert robust_score(a, b, c, d) == pytest.approx(expected, abs=1e-12)


def test_percent_is_refused_where_fractions_are_wanted():
    with pytest.raises(ValueError, match=r"accuracy is 37\.5; DD-Ranking's scores want fractions"):
        robust_score(0.4, 0.3, 0.3, 37.5)

PLACE = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "augment": True, "epoch_factor": 1.0}

SEEDED = {"pool_seed": "", "selection_seed": "", "training_seed": 0}


def cell(method: str, best: float, **place) -> dict:
    return {**PLACE, **SEEDED, "method": method, "series": method.upper(), "best": best, **place}


def test_scores_come_where_their_runs_are():
    hard = [cell("dgs", 60.0), cell("random", 50.0), cell("full", 90.0, ipc=0)]
    soft = [cell("dgs", 75.0, protocol="rded"), cell("random", 72.0, protocol="rded")]
    plain = [cell("dgs", 40.0, augment=False), cell("random", 45.0, augment=False)]
    scores = robust_scores(pd.DataFrame(hard)).to_dict("records")
    assert [row["series"] for row in scores] == ["DGS"]
    assert scores[0]["lrs"] == pytest.approx(robust_score(0.6, 0.5, 0.6, 0.9))
    assert math.isnan(scores[0]["ars"])
    [row] = robust_scores(pd.DataFrame(hard + soft + plain)).to_dict("records")
    assert row["lrs"] == pytest.approx(robust_score(0.75, 0.72, 0.6, 0.9))
    assert row["ars"] == pytest.approx(robust_score(0.6, 0.5, 0.4, 0.45))
    assert robust_scores(pd.DataFrame(hard[:2])).empty


def scaled(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def slow_score(rows: list[dict], own: dict) -> tuple[float, float] | None:
    """Return both scores of one training, from those that differ from it in nothing but their role."""
    fixed = ("prepare_seed", "fine_tune_seed", "training_seed", "test_list", "image_size", "split", "epoch_factor")

    def only(**role) -> float:
        asked = {**{name: own[name] for name in fixed}, "ipc": own["ipc"], "augment": True, "protocol": "idc", **role}
        if asked["method"] != "dgs":
            asked["fine_tune_seed"] = ""
        else:
            asked |= {name: own[name] for name in ("pool_seed", "selection_seed")}
        found = [row["best"] for row in rows if all(row[name] == value for name, value in asked.items())]
        return found[0] / 100 if len(found) == 1 else math.nan

    chance = {"method": "random", "selection_seed": own["selection_seed"]}
    ours, random = only(method="dgs"), only(**chance)
    soft = only(method="dgs", protocol="rded"), only(**chance, protocol="rded")
    best, other = (ours, random) if any(map(math.isnan, soft)) else soft
    lrs = scaled(0.5 * (best - other) - 0.5 * (only(method="full", ipc=0, selection_seed="") - ours))
    ars = scaled(0.5 * (ours - random) + 0.5 * (only(method="dgs", augment=False) - only(**chance, augment=False)))
    return None if math.isnan(lrs) and math.isnan(ars) else (lrs, ars)

AXES = {"prepare_seed": ["0", "1"], "fine_tune_seed": ["0", "1"], "pool_seed": ["0", "1"], "selection_seed": [0, 1],
        "training_seed": [0, 1], "test_list": ["a", "b"], "image_size": [32, 64], "split": ["holdout", "fastai"],
        "epoch_factor": [0.02, 1.0]}


def run_grid(varied: set[str], rng: np.random.Generator) -> list[dict]:
    """Return a row for each training of a grid over some axes, but for those that chance leaves out."""
    unique: dict[tuple, dict] = {}
    for values in itertools.product(*(AXES[name] if name in varied else AXES[name][:1] for name in AXES)):
        place = dict(zip(AXES, values, strict=True))
        real = {**place, "pool_seed": "", "fine_tune_seed": ""}
        whole = {**real, "ipc": 0, "selection_seed": ""}
        arms = {"dgs": (f"DGS ({place['fine_tune_seed']})", place), "random": ("Random", real), "full": ("Full", whole)}
        for (method, (series, kept)), role in itertools.product(arms.items(), ({}, {"protocol": "rded"},
                                                                               {"augment": False})):
            unique[method, *kept.items(), *role.items()] = cell(method, 0.0, **kept, **role) | {"series": series}
    return [row | {"best": 100 * rng.random()} for row in unique.values() if rng.random() < 0.9]


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(list(AXES)), min_size=1, max_size=3), st.integers(0, 10_000))
def test_scores_are_those_of_single_trainings_whatever_else_was_run(varied, seed):
    rng = np.random.default_rng(seed)
    rows = run_grid(varied, rng)
    scores = robust_scores(pd.DataFrame(rows).sample(frac=1, random_state=seed))
    scores = scores.assign(fine_tune_seed=scores["series"].str[5:-1])
    found = {tuple(map(str, key)): (lrs, ars) for *key, lrs, ars in
             scores[[*AXES, "lrs", "ars"]].to_numpy(dtype=object)}
    expected = {tuple(str(row[name]) for name in AXES): slow_score(rows, row) for row in rows
                if row["method"] == "dgs" and row["protocol"] == "idc" and row["augment"]}
    expected = {key: pair for key, pair in expected.items() if pair}
    assert found.keys() == expected.keys()
    for key, pair in expected.items():
        assert found[key] == pytest.approx(pair, nan_ok=True)


@pytest.mark.parametrize("other", [{"image_size": 64}, {"split": "fastai"}, {"epoch_factor": 0.5}, {"test_list": "b"},
                                   {"prepare_seed": "1"}, {"precision": "bf16"}])
def test_scores_never_mix_conditions(other):
    place = {**PLACE, "image_size": 32, "split": "imagenet", "epoch_factor": 1.0, "test_list": "a", "prepare_seed": "0",
             "precision": "fp32"}
    cells = [cell("dgs", 60.0, **place), cell("random", 50.0, **place), cell("full", 90.0, **{**place, "ipc": 0})]
    far = [{**row, **other, "best": row["best"] - 20} for row in cells]
    [row] = robust_scores(pd.DataFrame(cells)).to_dict("records")
    assert row["lrs"] == pytest.approx(robust_score(0.6, 0.5, 0.6, 0.9))
    assert [row["lrs"] for row in robust_scores(pd.DataFrame(cells + far)).to_dict("records")] == pytest.approx(
        [robust_score(0.6, 0.5, 0.6, 0.9), robust_score(0.4, 0.3, 0.4, 0.7)])
    assert robust_scores(pd.DataFrame([cells[0], *far[1:]])).empty
    assert robust_scores(pd.DataFrame([*cells, {**cells[1], "norm": "batch"}])).empty  # two that could be the control
