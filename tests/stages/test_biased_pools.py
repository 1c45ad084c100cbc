"""Pools of real images with a known bias: drawn by weight, nested, scored as the originals are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from restamp import restamp
from small_world import CLASSES, make_prepare, open_stage, write_digits

from dgs_utils import difficulty, evaluate, pool, sample, transform
from dgs_utils.params import PoolParams, validate
from dgs_utils.results.figure1_texts import figure1_texts
from dgs_utils.selection.permanent_numbers import weighted_order
from dgs_utils.selection.targets import difficulty_shift
from dgs_utils.selection.transforms import transform_class
from dgs_utils.store.lineage import lineage
from dgs_utils.store.session import Run
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_the_first_of_the_order_is_drawn_by_its_weight(bias):
    scores, draws = np.array([0.0, 0.1, 0.5, 1.0]), 20_000
    rng = np.random.default_rng(0)
    orders = np.array([weighted_order(-bias * scores, rng) for _ in range(draws)])
    weights = np.exp(-bias * scores)
    first = weights / weights.sum()
    error = 4.5 * np.sqrt(first * (1 - first) / draws)
    assert (np.abs(np.bincount(orders[:, 0], minlength=4) / draws - first) < error).all()
    after = orders[orders[:, 0] == 0][:, 1]  # the second, where image 0 came first: the same among the rest
    rest = weights[1:] / weights[1:].sum()
    assert np.abs(np.bincount(after, minlength=4)[1:] / len(after) - rest).max() < 4.5 * np.sqrt(0.25 / len(after))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(-50, 50), st.integers(0, 99))
def test_every_image_is_drawn_once_and_the_same_seed_draws_the_same(scores, bias, seed):
    first, again = (weighted_order(-bias * np.array(scores), np.random.default_rng(seed)) for _ in range(2))
    assert sorted(first) == list(range(len(scores)))
    assert np.array_equal(first, again)


@pytest.fixture
def originals(tmp_path, outputs):
    """A prepare folder of 40 originals a class, and their scores."""
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 40))
    scores = open_stage("03_difficulty", prepare=str(prepare), source="originals")
    difficulty.score_source(scores)
    scores.finish()
    return prepare, scores.folder


def drawn(originals, **values):
    prepare, scores = originals
    run = open_stage("02_pool", prepare=str(prepare), originals=str(scores), generator="originals", **values)
    table = pool.generate(run)
    assert pool.is_complete(run)
    run.finish()
    return run, table


def mean_difficulty(originals, table):
    scores = pd.read_csv(originals[1] / "scores.csv", dtype={"class": str}).set_index("file_name")["score"]
    return scores[table["source"]].mean()


def test_a_pool_holds_copies_of_originals_and_leans_as_it_is_told(originals, tmp_path):
    tables = {}
    for bias in (30.0, 0.0, -30.0):
        run, tables[bias] = drawn(originals, images_per_class=15, bias=bias)
        assert tables[bias].groupby("class").size().to_dict() == dict.fromkeys(CLASSES, 15)
        assert not tables[bias]["source"].duplicated().any()
        row = tables[bias].iloc[7]
        assert (run.folder / row["file_name"]).read_bytes() == (tmp_path / "real" / row["source"]).read_bytes()
    easy, even, hard = (mean_difficulty(originals, tables[bias]) for bias in (30.0, 0.0, -30.0))
    assert easy < even < hard


def test_pools_nest_and_grow(originals):
    small, _ = drawn(originals, images_per_class=6, bias=4.0, seed=3)
    before = {file.relative_to(small.folder): file.read_bytes() for file in small.folder.rglob("images/*/*.png")}
    large, table = drawn(originals, images_per_class=20, bias=4.0, seed=3)
    assert large.folder == small.folder
    assert len(table) == 3 * 20
    assert all((large.folder / name).read_bytes() == content for name, content in before.items())


def test_images_keep_the_scores_that_they_have_as_originals(originals):
    prepare, scores = originals
    made, table = drawn(originals, images_per_class=10, bias=2.0)
    run = open_stage("03_difficulty", prepare=str(prepare), pool=str(made.folder), originals=str(scores))
    found = difficulty.score_source(run)
    run.finish()
    known = difficulty.read_exact(scores / "scores.csv").set_index("file_name")
    source = table.set_index("file_name")["source"]
    for name in ("score", *difficulty.MEASURES, "prediction", "confidence"):
        assert found[name].tolist() == known.loc[source[found["file_name"]], name].tolist()


def test_what_cannot_be_is_said(originals):
    with pytest.raises(ValueError, match=r"class 0 has 40 originals, too few for 50 pool images"):
        drawn(originals, images_per_class=50)
    with pytest.raises(ValueError, match=r"pool.bias is 2, but generator dit has no bias to set"):
        validate("02_pool", {"generator": "dit", "bias": 2.0})


def test_bias_is_in_the_key_where_it_counts():
    identity = validate("02_pool", {"generator": "originals", "bias": 1.5}).cache_params()
    assert identity == {"generator": "originals", "bias": 1.5, "seed": 0}
    assert "bias" not in PoolParams().cache_params()


def test_a_grid_over_bias_scores_the_originals_once(tmp_path):
    (tmp_path / "bias.yaml").write_text(
        "prepare: {base_model: none, classifier_epochs: 1}\n"
        "pool: {generator: originals, images_per_class: 60}\n"
        "sample: {ipc: 5, pool_factor: 0}\n"
        "grid:\n  pool.bias: [0.0, 2.0, 4.0]\n  sample.method: [dgs, pool_random]\n")
    nodes = plan(read_experiment(tmp_path / "bias.yaml"))
    counts = pd.Series([node.stage for node in nodes]).value_counts()
    assert counts["03_difficulty"] == 1 + 3
    assert (counts["00_prepare"], counts["02_pool"], counts["05_sample"]) == (1, 3, 6)
    assert "01_fine_tune" not in counts


def test_without_the_logarithm_scores_stay_as_they_are():
    pool, real = np.array([0.0, 0.2, 0.9]), np.array([0.1, 1.0])
    found = transform_class(pool, real, limit=5, objective="none")
    assert found.pool.tolist() == [1e-4, 0.2, 0.9]
    assert found.originals.tolist() == [0.1, 1.0]
    assert found.thresholds[:2] == found.on_originals == (0, 0)
    shared = transform_class(pool, real, limit=5, objective="none", shared_scale=True)
    assert shared.originals.tolist() == [0.1, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_shift_is_the_area_between_the_distribution_functions(pool, real):
    grid = np.unique([*pool, *real])
    below = [np.searchsorted(np.sort(side), grid, side="right") / len(side) for side in (pool, real)]
    area = float((np.abs(below[0] - below[1])[:-1] * np.diff(grid)).sum())
    assert abs(difficulty_shift(pool, real)) == pytest.approx(area, abs=1e-9)
    if abs(np.mean(pool) - np.mean(real)) > 1e-9:
        assert (difficulty_shift(pool, real) < 0) == (np.mean(pool) < np.mean(real))


def score(made: Run, prepare: Path, scores: Path) -> Run:
    """Run stage 03 on a pool, beside the scores of the originals that it was drawn by."""
    run = open_stage("03_difficulty", prepare=str(prepare), pool=str(made.folder), originals=str(scores))
    difficulty.score_source(run)
    run.finish()
    return run


def test_rows_tell_bias_and_shift(originals):
    prepare, scores = originals
    made, _ = drawn(originals, images_per_class=20, bias=6.0)
    scored = score(made, prepare, scores)
    told = open_stage("04_transform", pool_scores=str(scored.folder), original_scores=str(scores), ipc=3,
                      pool_factor=0, objective="none")
    transform.transform_sets(told, transform.read_sets(told))
    told.finish()
    chosen = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), scores=str(scored.folder),
                        transform=str(told.folder), method="dgs", ipc=3, pool_factor=0)
    source = sample.read_source(chosen)
    sample.write_set(chosen, source, sample.select_images(chosen, source))
    chosen.finish()
    row = evaluate.describe(open_stage("06_evaluate", prepare=str(prepare), distilled=str(chosen.folder)))
    assert (row["bias"], row["objective"], row["generation"]) == ("6", "none", "originals, drawn with β 6")
    assert figure1_texts(chosen.folder, pd.DataFrame({"distilled": [""]}))["Biased draw"] == (
        "originals, drawn with\nβ\u00a06")  # β stays with its number
    table = pd.read_csv(told.folder / "transformed.csv", dtype={"class": str})
    means = [difficulty_shift(*(part.loc[part["set"] == which, "score"] for which in ("pool", "original")))
             for _, part in table.groupby("class")]
    assert row["shift"] == pytest.approx(np.mean(means), abs=1e-4)
    assert row["shift"] < 0


def test_what_scores_were_made_of_is_known_when_the_pool_has_grown(originals):
    prepare, scores = originals
    made, _ = drawn(originals, images_per_class=10, bias=2.0)
    run = score(made, prepare, scores)
    drawn(originals, images_per_class=20, bias=2.0)
    behind = {folder: manifest["stage"] for folder, manifest in lineage(run.folder)}
    assert behind == {run.folder: "03_difficulty", scores: "03_difficulty", made.folder: "02_pool",
                      prepare: "00_prepare"}
    restamp(made.folder / "manifest.json", chain=["other"] * 20)
    assert made.folder not in dict(lineage(run.folder))
