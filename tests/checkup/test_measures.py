"""Coverage, effective numbers and planning against worked cases, formulas written out, and the packages of others."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from dgs_utils.checkup.coverage import coverage_beside_real, coverage_measures
from dgs_utils.checkup.dry_run import _line
from dgs_utils.checkup.planning import UNKNOWN, Plan, images_to_generate, plan_classes
from dgs_utils.checkup.vendi import effective_number, effective_numbers

DIGITS = load_digits().data


def written_out(real, pool, nearest):
    """The four measures as loops over rows, for sets without doubled rows."""
    radius = [sorted(np.linalg.norm(real - row, axis=1))[nearest] for row in real]
    pool_radius = [sorted(np.linalg.norm(pool - row, axis=1))[nearest] for row in pool]
    inside = [[np.linalg.norm(a - b) < r for b in pool] for a, r in zip(real, radius, strict=True)]
    recalled = [any(np.linalg.norm(a - b) < r for b, r in zip(pool, pool_radius, strict=True)) for a in real]
    return {"precision": np.mean(np.any(inside, axis=0)), "recall": np.mean(recalled),
            "density": np.sum(inside) / nearest / len(pool), "coverage": np.mean(np.any(inside, axis=1))}


def test_coverage_is_its_definition():
    real, pool = DIGITS[:80], DIGITS[80:120]
    assert coverage_measures(real, pool, 3) == pytest.approx(written_out(real, pool, 3))


def test_coverage_is_that_of_prdc():
    prdc = pytest.importorskip("prdc", reason="needs the package prdc")
    theirs = prdc.compute_prdc(DIGITS[:300], DIGITS[300:400], 5)
    assert coverage_measures(DIGITS[:300], DIGITS[300:400]) == pytest.approx(theirs, abs=1e-6)


def test_doubled_rows_do_not_shrink_the_balls():
    doubled = np.repeat(DIGITS[:60], 8, axis=0)
    assert coverage_measures(doubled, DIGITS[60:100]) == pytest.approx(coverage_measures(DIGITS[:60], DIGITS[60:100]))
    many = coverage_measures(DIGITS[:60], np.repeat(DIGITS[60:100], 8, axis=0))
    assert many["recall"] == pytest.approx(coverage_measures(DIGITS[:60], DIGITS[60:100])["recall"])
    with pytest.raises(ValueError, match="the pool features have 1 different rows"):
        coverage_measures(DIGITS[:60], np.repeat(DIGITS[:1], 50, axis=0))


def test_real_rows_are_within_their_own_interval_and_a_narrow_pool_is_not():
    order = np.random.default_rng(0).permutation(len(DIGITS))  # as they come, halves are of different writers
    rows, target = DIGITS[order], load_digits().target[order]
    honest = coverage_beside_real(rows[:900], rows[900:1300]).set_index("measure")
    assert (honest["pool"] >= honest["real_low"] - 0.02).all()
    assert (honest["pool"] <= honest["real_high"] + 0.02).all()
    other_writers = coverage_beside_real(DIGITS[:900], DIGITS[900:1300]).set_index("measure")
    narrow = coverage_beside_real(rows[:900], rows[900:][target[900:] == 3][:60]).set_index("measure")
    for table in (other_writers, narrow):
        assert table.loc["coverage", "pool"] < table.loc["coverage", "real_low"] - 0.1
    assert coverage_beside_real(DIGITS[:900], DIGITS[:4]).empty


def test_effective_numbers_of_worked_cases():
    assert effective_number(np.ones((7, 3))) == pytest.approx(1)
    assert effective_number(np.repeat(np.eye(2), [5, 5], axis=0)) == pytest.approx(2)
    assert effective_number(np.eye(6)) == pytest.approx(6)
    rows = DIGITS[:40]
    shares = np.linalg.eigvalsh(1 - cdist(rows, rows, "cosine")).clip(1e-15) / 40
    assert effective_number(rows) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert effective_number(DIGITS[:100]) == pytest.approx(effective_number(DIGITS[:100, ::-1] * 3))
    with pytest.raises(ValueError, match="row of zeros"):
        effective_number(np.zeros((3, 2)))


def test_effective_numbers_are_those_of_vendi_score():
    vendi = pytest.importorskip("vendi_score.vendi", reason="needs the package vendi-score")
    assert effective_number(DIGITS[:50]) == pytest.approx(vendi.score_dual(DIGITS[:50], normalize=True), abs=1e-6)


def test_effective_numbers_of_a_pool_follow_its_prefixes():
    pool = {"a": DIGITS[:25], "b": DIGITS[25:60]}
    table = effective_numbers(pool, {"a": DIGITS[60:100], "b": DIGITS[100:140]}, ipc=10)
    own = table[(table["set"] == "pool") & (table["class"] == "a")]
    assert own["images"].tolist() == [10, 20]
    assert own["effective"].tolist() == [effective_number(DIGITS[:10]), effective_number(DIGITS[:20])]
    together = table[(table["set"] == "pool") & (table["class"] == "")]
    assert together["images"].tolist() == [20, 40]


@pytest.mark.parametrize(("counts", "target"), [([80, 15, 5], [4, 3, 3]), ([500, 500], [10, 10]), ([970, 30], [1, 9])])
def test_a_plan_fills_its_target_as_often_as_it_says(counts, target):
    plan = images_to_generate(counts, target)
    shares = (np.array(counts) + 0.5) / (sum(counts) + 1)
    drawn = np.random.default_rng(0).multinomial(plan.images, shares / shares.sum(), 4000)
    assert 0.94 <= (drawn >= target).all(axis=1).mean() <= 0.999
    fewer = np.random.default_rng(1).multinomial(int(plan.images * 0.6), shares / shares.sum(), 4000)
    assert (fewer >= target).all(axis=1).mean() < 0.9
    assert plan.low <= plan.images <= plan.high


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_that_of_scipys_distributions(seed):
    rng = np.random.default_rng(seed)
    counts, target = rng.integers(1, 200, 6), rng.integers(1, 30, 6)
    hits, misses = counts + 0.5, counts.sum() - counts + 0.5
    shares = [hits / (hits + misses), *(stats.beta.ppf(end, hits, misses) for end in (0.975, 0.025))]
    expected = [(target + stats.nbinom.ppf(1 - 0.05 / 6, target, share)).max() for share in shares]
    assert list(images_to_generate(counts, target)) == expected


def test_what_a_pool_has_never_shown_has_no_bound():
    assert images_to_generate([100, 0], [5, 1]).high == math.inf
    assert images_to_generate([100, 0], [5, 0]).high < math.inf
    assert images_to_generate([100, 0], [1, 0]) == Plan(1, 1, 1)
    with pytest.raises(ValueError, match="the pool has 2 intervals and the target 3"):
        images_to_generate([1, 2], [1, 2, 3])


def test_a_plan_of_classes_counts_what_is_missing():
    scores = pd.DataFrame({"class": "a", "set": ["pool"] * 90 + ["pool"] * 10 + ["original"] * 40,
                           "transformed": [0.05] * 90 + [0.95] * 10 + [0.05] * 10 + [0.95] * 30})
    [row] = plan_classes(scores, ipc=20).to_dict("records")
    assert (row["pool"], row["missing"]) == (100, 5)
    assert row["generate"] == images_to_generate([90, *[0] * 8, 10], [5, *[0] * 8, 15]).images > 100
    repeated = scores.assign(transformed=scores["transformed"].where(scores["set"] == "original", 0.35))
    assert plan_classes(repeated, 20)["generate"].tolist() == [math.inf]  # one image 100 times tells no share
    assert UNKNOWN in _line("pool", [plan_classes(repeated, 20)])
    filled = repeated.assign(transformed=0.35)
    assert plan_classes(filled, 20)["generate"].tolist() == [images_to_generate([100], [20]).images]
