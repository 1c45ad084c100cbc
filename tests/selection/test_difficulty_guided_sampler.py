"""`DifficultyGuidedSampler`: stages 04 and 05 index for index, scikit-learn's conventions, labels of any kind."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from small_world import make_pool, make_prepare, open_stage, outputs_below, write_digits

from dgs_utils.difficulty import score_source
from dgs_utils.sample import read_source, report, select_images, select_rows
from dgs_utils.selection.difficulty_guided_sampler import DifficultyGuidedSampler
from dgs_utils.selection.targets import class_target, counts_of
from dgs_utils.transform import Sets, read_sets, transform_scores, transform_sets

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
IPC, FACTOR = 10, 8


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """What stage 03 says of real scans: all folders' root, folders by name, and the frames of originals and pool."""
    root = tmp_path_factory.mktemp("scores")
    with outputs_below(root):
        prepare = make_prepare(write_digits(root / "originals", 0, 90))
        pool = make_pool(write_digits(root / "pool", 90, 172), prepare)
        folders, frames, inputs = {"prepare": str(prepare), "pool": str(pool)}, {}, {}
        for source in ("originals", "pool"):
            run = open_stage("03_difficulty", source=source, prepare=str(prepare), **inputs)
            frames[source] = score_source(run)
            run.finish()
            folders[f"{source} scores"] = str(run.folder)
            inputs = {"pool": str(pool), "originals": str(run.folder)}
        frames["pool"] = frames["pool"].groupby("label").head(IPC * FACTOR).reset_index(drop=True)
    return root, folders, frames


SETTINGS = [{}, {"objective": "paper"}, {"search_on": "originals"}, {"shared_scale": True, "weight": 0.8},
            {"bins": 5}, {"rule": "match"}, {"distribution": "hill", "random_state": 7}]


@pytest.mark.parametrize("values", SETTINGS, ids=str)
def test_equal_to_stages_04_and_05_index_for_index(scores, monkeypatch, values):
    root, folders, frames = scores
    monkeypatch.setenv("DGS_OUTPUTS", str(root / "outputs"))
    transformed = {name: values[name] for name in ("objective", "search_on", "shared_scale", "weight", "bins")
                   if name in values}
    run = open_stage("04_transform", pool_scores=folders["pool scores"],
                     original_scores=folders["originals scores"], ipc=IPC,
                     pool_factor=FACTOR, **transformed)
    thresholds, _ = transform_sets(run, read_sets(run))
    run.finish()
    run = open_stage("05_sample", prepare=folders["prepare"], pool=folders["pool"], transform=str(run.folder), ipc=IPC,
                     pool_factor=FACTOR, method="match" if values.get("rule") == "match" else "dgs",
                     distribution=values.get("distribution", "scale"), seed=values.get("random_state", 0))
    source = read_source(run)
    expected = select_images(run, source)

    original, pool = frames["originals"], frames["pool"]
    sampler = DifficultyGuidedSampler(IPC, **{"random_state": 0} | values)
    chosen = sampler.fit(original["score"], original["class"]).select(pool["score"], pool["class"])
    assert pool["file_name"].iloc[chosen].tolist() == expected["file_name"].tolist()
    wanted = report(expected, source)
    for column in ("target", "found", "shortage", "wasserstein", "divergence", "note"):
        assert sampler.report_[column].tolist() == wanted[column].tolist()
    assert [tuple(found[:2]) for found in sampler.thresholds_.values()] \
        == list(thresholds[["bottom", "top"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("rule", ["draw", "match"])
def test_equal_to_the_stages_on_frames_without_a_folder(scores, rule):
    pool, originals = scores[2]["pool"], scores[2]["originals"]
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    found = transform_scores(Sets(pool, originals), limit=IPC // 2)
    parts = dict(list(found.scores.groupby("set")))
    targets = {name: class_target(part, IPC) for name, part in parts["original"].groupby("class")["transformed"]}
    rows = select_rows(parts["pool"], {"draw": "dgs", "match": "match"}[rule], IPC, seed=5, targets=targets)
    sampler = DifficultyGuidedSampler(IPC, rule=rule, random_state=5).fit(originals["score"], originals["class"])
    chosen = sampler.select(pool["score"], pool["class"])
    assert rows["file_name"].tolist() == pool["file_name"].iloc[chosen].tolist()
    np.testing.assert_array_equal(np.random.get_state()[1], state[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[1])


# ---- Conventions -----------------------------------------------------------------------------------------------------

def beta(n: int, seed: int = 0, a: float = 0.6, b: float = 1.5) -> np.ndarray:
    return np.random.default_rng(seed).beta(a, b, n)


ARRAYS = beta(60), ["a", "b"] * 30, beta(200, 1), ["b", "a"] * 100


def test_parameters_are_stored_read_set_and_cloned_unchanged():
    limit, rng = np.int64(3), np.random.default_rng(0)
    sampler = DifficultyGuidedSampler(7, distribution="nonsense", limit=limit, random_state=rng)
    assert sampler.limit is limit
    assert sampler.random_state is rng
    assert set(sampler.get_params()) == {"ipc", "distribution", "rule", "objective", "weight", "bins", "limit",
                                         "search_on", "shared_scale", "random_state"}
    sampler = DifficultyGuidedSampler(7, weight=0.2)
    assert clone(sampler).get_params() == sampler.get_params()
    assert sampler.set_params(distribution="hill").distribution == "hill"
    assert repr(DifficultyGuidedSampler(7, rule="match")) == "DifficultyGuidedSampler(ipc=7, rule='match')"
    with pytest.raises(ValueError, match="Invalid parameter 'ipcs'"):
        sampler.set_params(ipcs=3)


def test_attributes_come_with_fit_and_select_and_a_new_fit_forgets():
    original_scores, original_labels, pool_scores, pool_labels = ARRAYS
    sampler = DifficultyGuidedSampler(10, random_state=0)
    with pytest.raises(NotFittedError):
        sampler.select(pool_scores, pool_labels)
    assert sampler.fit(original_scores, original_labels) is sampler
    assert {name for name in vars(sampler) if name.endswith("_")} == {"classes_", "scores_"}
    sampler.select(pool_scores, pool_labels)
    assert {name for name in vars(sampler) if name.endswith("_")} \
        == {"classes_", "scores_", "thresholds_", "counts_", "report_"}
    assert sampler.report_["class"].tolist() == sampler.classes_ == ["a", "b"]
    assert all(counts.sum() == 10 for counts in sampler.counts_.values())
    with pd.option_context("display.width", 80, "display.max_columns", 0):  # a terminal
        assert str(sampler.report_).split("\n")[0].split() == ["class", "target", "...", "found", "wasserstein"]
    assert not hasattr(sampler.fit(original_scores, original_labels), "report_")


def test_chance_comes_from_random_state_alone():
    original_scores, original_labels, pool_scores, pool_labels = ARRAYS
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002

    def draw(random_state):
        sampler = DifficultyGuidedSampler(10, random_state=random_state).fit(original_scores, original_labels)
        return sampler.select(pool_scores, pool_labels).tolist()

    assert draw(3) == draw(np.int64(3)) != draw(4)
    assert draw(np.random.default_rng(1)) == draw(np.random.default_rng(1)) != draw(np.random.default_rng(2))
    assert draw(np.random.RandomState(1)) == draw(np.random.RandomState(1)) != draw(1)
    assert draw(None) != draw(None)
    np.testing.assert_array_equal(np.random.get_state()[1], state[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[1])


# ---- Labels ----------------------------------------------------------------------------------------------------------

MIXED = ["dog", 7, (1, "b"), None, 2.5, frozenset({3}), b"x"]


@settings(deadline=None, max_examples=25)
@given(st.permutations(MIXED), st.integers(1, 4), st.integers(0, 2**32))
def test_labels_may_be_anything_hashable_and_every_class_gets_its_share(classes, ipc, seed):
    labels = [label for label in classes for _ in range(5)]
    order = np.random.default_rng(seed).permutation(len(labels))
    scores, pool_labels = beta(len(labels), seed), [labels[i] for i in order]
    sampler = DifficultyGuidedSampler(ipc, random_state=seed).fit(beta(len(labels), 1), labels)
    chosen = sampler.select(scores, pool_labels)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen) == ipc * len(classes)
    assert [pool_labels[i] for i in chosen] == [label for label in classes for _ in range(ipc)]
    assert sampler.classes_ == list(classes)
    for label, row in zip(classes, sampler.report_.itertuples(), strict=True):
        assert sampler.counts_[label].sum() == ipc == sum(map(int, row.found.split()))


def test_kinds_of_arrays_of_labels_do_not_matter():
    original_scores, _, pool_scores, _ = ARRAYS
    labels, pool_labels = np.array([0, 1] * 30), np.array([1, 0] * 100)
    kinds = [lambda x: x, lambda x: x.tolist(), pd.Series, torch.tensor, lambda x: x.astype(str),
             lambda x: iter(x.tolist()), lambda x: pd.Categorical(x.astype(str))]
    found = [DifficultyGuidedSampler(5, random_state=0).fit(original_scores, kind(labels))
             .select(torch.tensor(pool_scores), kind(pool_labels)).tolist() for kind in kinds]
    assert found == [found[0]] * len(kinds)


def test_classes_of_one_text_are_two_classes_with_draws_of_their_own():
    scores = np.tile(beta(100), 2)
    sampler = DifficultyGuidedSampler(20, random_state=0).fit(scores, [1] * 100 + ["1"] * 100)
    chosen = sampler.select(scores, [1] * 100 + ["1"] * 100)
    assert chosen[:20].max() < 100 <= chosen[20:].min()
    assert chosen[:20].tolist() != (chosen[20:] - 100).tolist()


@pytest.mark.parametrize(("arrays", "message"), [
    (([0.5] * 4, ["a", "b"] * 2, [0.5] * 4, ["a"] * 4), "class 'b' has 0 images in the pool for ipc 2"),
    (([0.5] * 4, ["a", "b"] * 2, [0.5] * 3, ["a", "a", "b"]), "class 'b' has 1 images in the pool for ipc 2"),
    (([0.5] * 4, ["a"] * 4, [0.5] * 4, ["a", "a", ("c", 1), "a"]), r"class \('c', 1\) of the pool has no originals"),
    (([0.5] * 4, ["a"] * 3, [], []), "original_scores has 4 entries and original_labels has 3"),
    (([0.5] * 4, ["a"] * 4, [0.5, 1.5], ["a"] * 2), r"pool_scores\[1\] is 1.5"),
    (([float("nan")], ["a"], [], []), r"original_scores\[0\] is nan"),
    (([], [], [], []), "original_scores has shape"),
    (([0.5] * 2, ["a", ["a"]], [], []), r"original_labels\[1\] is \['a'\], which is not hashable"),
    (([0.5] * 2, ["a", float("nan")], [], []), r"original_labels\[1\] is nan, which no class is equal to"),
])
def test_errors_name_what_is_wrong(arrays, message):
    sampler = DifficultyGuidedSampler(2)
    with pytest.raises(ValueError, match=message):
        sampler.fit(*arrays[:2]).select(*arrays[2:])
    assert not hasattr(sampler, "report_")


@pytest.mark.parametrize(("values", "message"), [
    ({"ipc": 0}, "ipc is 0; give a whole number of at least 1"),
    ({"ipc": 2.5}, "ipc is 2.5"), ({"bins": 1}, "bins is 1"), ({"limit": 0}, "limit is 0"),
    ({"weight": 1.1}, "weight is 1.1; give a number from 0 to 1"),
    ({"distribution": "hil"}, "distribution is 'hil'; did you mean 'hill'"),
    ({"rule": "drew"}, "rule is 'drew'; did you mean 'draw'"),
    ({"objective": "papers"}, "objective is 'papers'; did you mean 'paper'"),
    ({"search_on": "test"}, "search_on is 'test'; valid names are pool, originals"),
    ({"random_state": -1}, "random_state is -1"),
])
def test_bad_parameters_stop_fit(values, message):
    with pytest.raises(ValueError, match=message):
        DifficultyGuidedSampler(**values).fit(*ARRAYS[:2])


def test_a_class_without_spread_is_chosen_with_a_warning_and_a_note():
    sampler = DifficultyGuidedSampler(2, random_state=0).fit([0.5] * 4 + [0.1, 0.9] * 2, ["a"] * 4 + ["b"] * 4)
    with pytest.warns(UserWarning, match="class a: pool: the scores have no spread"):
        chosen = sampler.select([0.5] * 4 + [0.2, 0.4, 0.6, 0.8], ["a"] * 4 + ["b"] * 4)
    assert len(chosen) == 4
    assert "no spread" in sampler.report_["note"][0]


def test_the_found_distribution_is_the_target_where_the_pool_has_all_bins():
    scores = np.linspace(0, 1, 2001)
    sampler = DifficultyGuidedSampler(50, random_state=0).fit(beta(500), [0] * 500)
    sampler.select(scores, np.zeros(2001, int))
    target, found = (counts_of(sampler.report_[name])[0] for name in ("target", "found"))
    np.testing.assert_array_equal(target, found)
    np.testing.assert_array_equal(sampler.counts_[0], target)
