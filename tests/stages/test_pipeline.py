"""`DGSPipeline`: the same images, given as folder, arrays, PIL images or a data set, are scored and chosen alike."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from small_world import CLASSES, small_classifier, write_digits
from torchvision.datasets import ImageFolder

import dgs_utils as dgs
from dgs_utils.images.image_set import ImageSet, load_squares
from dgs_utils.images.pixels import load_rgb

datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra test)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Originals and a pool, a folder of scans each: twelve and twenty of each of three classes."""
    root = tmp_path_factory.mktemp("images")
    return write_digits(root / "originals", 0, 12), write_digits(root / "pool", 20, 40)


@pytest.fixture(scope="module")
def scorer():
    return small_classifier(len(CLASSES))


def forms(folder) -> dict[str, tuple]:
    """Return the images of a folder in every form that the pipeline takes, in the same order."""
    images = ImageSet.read(folder)
    arrays = np.stack(list(load_squares(images, 8, crop=lambda image, size: image)))
    names = images.table["class"].tolist()
    features = datasets.Features({"picture": datasets.Image(), "digit": datasets.ClassLabel(names=CLASSES)})
    table = datasets.Dataset.from_dict({"picture": list(map(str, images.paths)), "digit": names}, features=features)
    return {"folder": (folder,), "set": (images,), "arrays": (arrays, names), "dataset": (table,),
            "stream": (table.to_iterable_dataset(),), "images": ([load_rgb(path) for path in images.paths], names)}


def test_every_form_of_the_same_images_gives_the_same_choice(folders, scorer):
    originals, pool = map(forms, folders)
    expected = None
    for kind in originals:
        pipeline = dgs.DGSPipeline(scorer, ipc=3, index=range(3), random_state=0).fit(*originals[kind])
        chosen = pipeline.select(*pool[kind])
        found = chosen.tolist(), pipeline.pool_scores_["score"].tolist(), pipeline.selected_["class"].tolist()
        expected = expected or found
        assert found == expected, kind
    images = ImageSet.read(folders[1])
    assert expected[2] == images.table["class"].iloc[expected[0]].tolist()
    assert sorted(expected[2]) == sorted(CLASSES * 3)


def test_data_sets_of_torch_have_their_images_labels_and_names(folders, scorer):
    """In their own order of files, in which 10.png comes before 2.png."""
    originals, pool = map(ImageFolder, folders)
    pipeline = dgs.DGSPipeline(scorer, ipc=3, index=range(3), random_state=0).fit(originals)
    chosen = pipeline.select(pool)
    assert [pool.classes[pool.targets[i]] for i in chosen] == pipeline.selected_["class"].tolist()
    expected = dgs.score_images(ImageSet.read(folders[1]), scorer, range(3))
    assert np.array_equal(np.sort(pipeline.pool_scores_["score"]), np.sort(expected["score"]))


def test_it_is_score_images_and_the_sampler(folders, scorer):
    originals, pool = map(ImageSet.read, folders)
    scores = [dgs.score_images(images, scorer, range(3)) for images in (originals, pool)]
    sampler = dgs.DifficultyGuidedSampler(ipc=4, rule="match", random_state=3)
    by_hand = sampler.fit(scores[0]["score"], scores[0]["class"]).select(scores[1]["score"], scores[1]["class"])
    settings = dgs.DifficultyGuidedSampler(ipc=99, rule="match")
    pipeline = dgs.DGSPipeline(scorer, 4, sampler=settings, index=range(3), random_state=3).fit(originals)
    assert np.array_equal(pipeline.select(pool), by_hand)
    assert pipeline.sampler_.report_.equals(sampler.report_)
    assert settings.ipc == 99  # its settings are copied


def test_positions_are_those_of_the_pool_as_given(folders, scorer):
    arrays, names = forms(folders[1])["arrays"]
    order = np.random.default_rng(0).permutation(len(names))
    pipeline = dgs.DGSPipeline(scorer, ipc=2, index=range(3), random_state=0).fit(folders[0])
    chosen = pipeline.select(arrays[order], np.array(names)[order])
    assert pipeline.selected_["class"].tolist() == np.array(names)[order][chosen].tolist()
    assert pipeline.pool_scores_["class"].tolist() == np.array(names)[order].tolist()


def test_names_of_images_keep_the_choice_where_others_come_first(folders, scorer, tmp_path):
    pipeline = dgs.DGSPipeline(scorer, ipc=3, index=range(3), random_state=0).fit(folders[0])
    images, names = forms(folders[1])["images"]
    ids = [str(i) for i in range(len(names))]
    before = {ids[i] for i in pipeline.select(images, names, ids)}
    later = ["new", *ids]
    after = {later[i] for i in pipeline.select([images[0], *images], [names[0], *names], later)}
    assert len(before & after) >= 8  # of nine; the thresholds may move


def test_it_has_scikit_learn_s_manners(folders, scorer):
    pipeline = dgs.DGSPipeline(scorer, ipc=3, sampler=dgs.DifficultyGuidedSampler(weight=0.2), random_state=1)
    assert pipeline.get_params()["sampler__weight"] == 0.2
    copy = clone(pipeline).set_params(ipc=2)
    assert (copy.ipc, pipeline.ipc, copy.sampler.weight) == (2, 3, 0.2)
    assert "ipc=3" in repr(pipeline)
    with pytest.raises(NotFittedError):
        pipeline.select(folders[1])
    check_is_fitted(copy.set_params(index=range(3)).fit(folders[0]), "original_scores_")
    assert copy.fit(folders[0]) is copy
    assert copy.classes_ == list(CLASSES)


@pytest.mark.parametrize(("images", "y", "sentence"), [
    (np.zeros((2, 8, 8)), [0, 1], "an image of the originals is float64 of shape (8, 8); give uint8"),
    (np.zeros((2, 8, 8), np.uint8), None, "the originals come without labels; give y"),
    (np.zeros((2, 8, 8), np.uint8), [0], "the originals are 2 images with 1 labels; give one label for each"),
    ({"train": 1, "test": 2}, None, "the originals are several: train, test; give one of them"),
    (datasets.Dataset.from_dict({"a": [1]}), None, "the originals have the columns a, of which one must hold images")])
def test_images_of_no_known_form_are_refused(scorer, images, y, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - sentences are compared whole
        dgs.DGSPipeline(scorer).fit(images, y)
    assert str(caught.value).startswith(sentence)


def test_parameters_are_checked_before_the_scorer_is_opened(folders):
    with pytest.raises(ValueError, match="ipc is 0; give a whole number of at least 1"):
        dgs.DGSPipeline("no such scorer", ipc=0).fit(folders[0])
    with pytest.raises(ValueError, match="scorer is a DifficultyGuidedSampler; give a classifier of this kit or its"):
        dgs.DGSPipeline(dgs.DifficultyGuidedSampler()).fit(folders[0])
    with pytest.raises(ValueError, match="'no such scorer' names no classifier"):
        dgs.DGSPipeline("no such scorer").fit(folders[0])


def test_a_class_without_originals_is_named(folders, scorer):
    arrays, names = forms(folders[1])["arrays"]
    pipeline = dgs.DGSPipeline(scorer, ipc=2, index=range(3)).fit(folders[0])
    with pytest.raises(ValueError, match="class 'zebra' of the pool has no originals"):
        pipeline.select(arrays, [*names[:-1], "zebra"])
