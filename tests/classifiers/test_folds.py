"""Cross-fitted difficulty: every original is scored by a scorer that has not seen it."""

import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import make_pool, open_stage, outputs_below, write_digits

from dgs_utils import plots
from dgs_utils.classifiers.folds import assign_folds
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.difficulty import score_images, score_source
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate
from dgs_utils.prepare import difficulty_classifier
from dgs_utils.store.manifest import hash_entries


@settings(deadline=None)
@given(sizes=st.lists(st.integers(5, 30), min_size=1, max_size=4), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_folds_divide_every_class_evenly_whatever_the_order(sizes, folds, seed):
    names = [(f"{c}/{i}.png", str(c)) for c, n in enumerate(sizes) for i in range(n)]
    table = pd.DataFrame(names, columns=["file_name", "class"])
    found = assign_folds(table, folds, seed)
    for name in table["class"].unique():
        counts = np.bincount(found[table["class"] == name], minlength=folds)
        assert counts.max() - counts.min() <= 1
    order = np.random.default_rng(seed).permutation(len(table))
    np.testing.assert_array_equal(assign_folds(table.iloc[order], folds, seed), found[order])


def test_a_class_that_is_smaller_than_the_folds_is_named():
    with pytest.raises(ValueError, match="class a has 1 training images for 2 folds"):
        assign_folds(pd.DataFrame({"file_name": ["a/1.png"], "class": ["a"]}), 2)


@pytest.mark.parametrize(("values", "sentence"), [
    ({"folds": 1}, "prepare.folds is 1, which leaves no images to train on"),
    ({"folds": 2, "classifier": "resnet50", "classifier_weights": "IMAGENET1K_V1"}, "is trained already cannot be"),
    ({"folds": 2, "classifier": "data/scorer"}, "is trained already cannot be"),
])
def test_folds_that_cannot_be_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        validate("00_prepare", values)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A 00 folder with three scorers that have each seen two thirds of few images for a while."""
    root = tmp_path_factory.mktemp("folds")
    with outputs_below(root):
        run = open_stage("00_prepare", dataset="folder", root=str(write_digits(root / "real", 0, 24)), val_per_class=6,
                         base_model="none", classifier_size=8, classifier_epochs=40, folds=3)
        index_originals(run.params, run.folder)
        difficulty_classifier(run)
        kept = hash_entries(run.folder / "folds" / "0")
        shutil.rmtree(run.folder / "folds" / "1")  # as where a run was killed
        before = (run.folder / "folds" / "0" / "model.safetensors").stat().st_mtime_ns
        difficulty_classifier(run)
        assert (run.folder / "folds" / "0" / "model.safetensors").stat().st_mtime_ns == before
        assert hash_entries(run.folder / "folds" / "0") == kept
        run.finish()
        yield run.folder, root


def scored(prepare, **values):
    run = open_stage("03_difficulty", prepare=str(prepare), **values)
    found = score_source(run)
    run.finish()
    return run.folder, found


def test_originals_are_scored_by_the_scorer_that_did_not_see_them(prepared, outputs):
    prepare, root = prepared
    originals, found = scored(prepare, source="originals")
    images = ImageSet.read(prepare, "train")
    assert found["file_name"].tolist() == images.table["file_name"].tolist()
    fold = pd.read_csv(prepare / "folds.csv").set_index("file_name")["fold"]
    by_scorer = [score_images(images, load_classifier(prepare / "folds" / str(i)), device="cpu")["score"]
                 for i in range(3)]
    expected = [by_scorer[fold[name]][i] for i, name in enumerate(images.table["file_name"])]
    np.testing.assert_allclose(found["score"], expected, atol=1e-6)
    seen = score_images(images, load_classifier(prepare / "classifier"), device="cpu")["score"]
    np.testing.assert_allclose(found["seen"], seen, atol=1e-6)
    assert found["score"].mean() > found["seen"].mean()  # what is left out is harder
    [axis] = plots.in_sample_shift(found).axes
    assert f"left out of training, mean {found['score'].mean():.3f}" in [t.get_text() for t in axis.get_legend().texts]

    pool = make_pool(write_digits(root / "pool", 30, 40), prepare)
    _, made = scored(prepare, pool=str(pool), originals=str(originals))
    images = ImageSet.read(pool)
    by_scorer = [score_images(images, load_classifier(prepare / "folds" / str(i)), device="cpu")["score"]
                 for i in range(3)]
    np.testing.assert_allclose(made["score"], np.mean(by_scorer, axis=0), atol=1e-6)
    assert "seen" not in made
