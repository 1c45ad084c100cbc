"""Several scorers: each is asked for its own outputs, stands in columns of its own, and is doubted by its name."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from restamp import certify
from safetensors.torch import save_file
from small_world import make_pool, make_prepare, open_stage, small_classifier, write_digits

from dgs_utils import difficulty
from dgs_utils.classifiers.scorer import Classifier
from dgs_utils.difficulty import score_images, score_source
from dgs_utils.images.classes import imagenet_index
from dgs_utils.images.image_set import ImageSet
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.store.manifest import read_manifest

ORDER = [2, 0, 3, 1]  # of outputs: those of classes 0 to 2, and one that never wins


def turned(steps: int = 20, names: tuple[str, ...] = ("2", "0", "none", "1")) -> Classifier:
    """Return a classifier of the three digits whose outputs stand in another order, with one more."""
    scorer = small_classifier(steps=steps)
    network = torch.nn.Sequential(scorer.network, torch.nn.Linear(3, 4))
    with torch.no_grad():
        network[1].weight.copy_(torch.cat([torch.eye(3), torch.zeros(1, 3)])[ORDER])
        network[1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1e4])[ORDER])
    return Classifier(network, replace(scorer.config, num_classes=4, classes=names))


@pytest.fixture
def scans(tmp_path) -> ImageSet:
    return ImageSet.read(write_digits(tmp_path / "scans", 0, 20))


@pytest.fixture
def world(tmp_path, outputs):
    """Scores the originals by 00's scorer and others; returns the stage and the frame."""
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 30))

    def scored(*others: str, **values):
        run = open_stage("03_difficulty", **{"source": "originals", "prepare": str(prepare),
                                             "scorers": list(others), **values})
        frame = score_source(run)
        run.finish()
        return run, frame
    return scored


def test_the_mean_is_over_each_scorers_own_outputs(scans):
    first, second = small_classifier(), turned()
    one, two = score_images(scans, first), score_images(scans, small_classifier(steps=20))
    both = score_images(scans, [first, second])
    for name in ("score", "margin"):
        np.testing.assert_allclose(both[name], (one[name] + two[name]) / 2, atol=1e-6)
    np.testing.assert_allclose(both["difficulty_1"], one["score"], atol=1e-6)
    np.testing.assert_allclose(both["difficulty_2"], two["score"], atol=1e-6)
    assert [ORDER[i] for i in both["prediction_2"]] == two["prediction"].tolist()
    said = score_images(scans, [first, turned(names=())], index=[[0, 1, 2], [1, 3, 0]])
    np.testing.assert_array_equal(said["score"], both["score"])
    with pytest.raises(ValueError, match="index has 3 rows for 2 scorers"):
        score_images(scans, [first, second], index=np.zeros((3, 3), int))
    with pytest.raises(ValueError, match=r"class 1 is not known by its name to classifier dgs:convnet3, which has 4"
                                         r" classes \(such as 2, 0, x\); give index"):
        score_images(scans, turned(names=("2", "0", "x", "y")))


def test_folds_are_one_scorer_of_the_mean(scans):
    scorers = [small_classifier(steps=steps) for steps in (30, 20, 3)]
    a, b, c = (score_images(scans, scorer)["score"] for scorer in scorers)
    found = score_images(scans, scorers, folds=2)
    np.testing.assert_allclose(found["score"], ((a + b) / 2 + c) / 2, atol=1e-6)
    np.testing.assert_allclose(found["difficulty_1"], (a + b) / 2, atol=1e-6)
    assert "difficulty_3" not in found
    assert "difficulty_1" not in score_images(scans, scorers[:2], folds=2)


def test_probabilities_instead_of_logits_are_refused(scans):
    scorer = small_classifier()
    with pytest.raises(ValueError, match="classifier dgs:convnet3 returns probabilities, and logits are wanted; leave"):
        score_images(scans, Classifier(torch.nn.Sequential(scorer.network, torch.nn.Softmax(dim=1)), scorer.config))


# ---- The stage -------------------------------------------------------------------------------------------------------

def saved(folder: Path, scorer: Classifier) -> str:
    """Save a classifier of the three digits with its outputs turned, and return its folder."""
    network = copy.deepcopy(scorer.network)
    *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        for parameter in (last.weight, last.bias):
            parameter.copy_(parameter[[2, 0, 1]])
    Classifier(network, scorer.config).save(folder)
    return str(folder)


def test_names_decide_which_output_a_second_scorer_is_asked_for(world, tmp_path):
    scorer = small_classifier(steps=25)
    named = Classifier(scorer.network, replace(scorer.config, classes=("2", "0", "1")))
    run, found = world(saved(tmp_path / "named", named))
    assert run.warnings == []
    own, second = (score_images(ImageSet.read(run.inputs["prepare"]), one)["score"]
                   for one in (small_classifier(), small_classifier(steps=25)))
    np.testing.assert_allclose(found["difficulty_1"], own, atol=1e-6)
    np.testing.assert_allclose(found["difficulty_2"], second, atol=1e-6)
    np.testing.assert_allclose(found["score"], (own + second) / 2, atol=1e-6)
    again = difficulty.read_exact(run.folder / "scores.csv")
    assert again[[*found]].equals(found.astype({"label": str}))
    assert {"difficulty_2", "prediction_2"} <= set(read_scores(run.folder))
    pool = make_pool(write_digits(tmp_path / "pool", 60, 70), run.inputs["prepare"])
    _, of_pool = world(str(tmp_path / "named"), source="pool", pool=str(pool), originals=str(run.folder))
    np.testing.assert_allclose(of_pool["score"], of_pool[["difficulty_1", "difficulty_2"]].mean(axis=1), atol=1e-12)


def test_a_second_scorer_that_recognises_nothing_is_doubted_by_its_name(world, tmp_path):
    folder = saved(tmp_path / "nameless", small_classifier(steps=25))
    run, _ = world(folder)
    assert run.warnings
    for doubt in read_manifest(run.folder)["decisive"]:
        assert doubt.startswith(f"the images of 3 of 3 classes are answered by other outputs of scorer {folder} than "
                                f'"classes", the names of its outputs in their order, in config.json')
        assert "class 0 by output 1, not 0, class 1 by output 2, not 1, class 2 by output 0, not 2" in doubt


def test_imagenets_outputs_are_found_beside_a_scorer_that_was_trained_here(tmp_path, outputs):
    names = ["golden retriever", "n02088364", "Samoyed"]
    root = write_digits(tmp_path / "dogs", 0, 8)
    for old, new in zip("012", names, strict=True):
        (root / old).rename(root / new)
    prepare = make_prepare(root, classes=names)
    torch.manual_seed(0)
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=1000)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    text = f"shufflenet_v2_x0_5:{tmp_path}/w.safetensors"
    run = open_stage("03_difficulty", source="originals", prepare=str(prepare), scorers=[text])
    found = score_source(run)
    images = ImageSet.read(prepare)
    own = difficulty.open_scorer(text)
    expected = score_images(images, own, index=[imagenet_index(name) for name in names], device="cpu")
    assert score_images(images, own, device="cpu").equals(expected)
    np.testing.assert_allclose(found["difficulty_2"], expected["score"], atol=1e-6)
    assert found["difficulty_1"].mean() < 0.5 < found["score"].mean() < found["difficulty_2"].mean()


def test_a_scorer_of_unknown_outputs_is_refused_before_any_work(world, tmp_path):
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    text = f"shufflenet_v2_x0_5:{tmp_path}/w.safetensors"
    with pytest.raises(ValueError, match=r"class 0 is not known by its name to scorer .*/w.safetensors, which has 5 "
                                         r'classes; write "classes", the names of its outputs in their order, .* or '
                                         r"in a .json of the same name beside its weights"):
        world(text)
    assert not list((tmp_path / "outputs" / "03_difficulty").glob("*/checkpoints/*"))
    (tmp_path / "w.json").write_text('{"classes": ["x", "2", "1", "0", "y"], "crop": 32, "resize": 32}')
    _, found = world(text)
    assert set(found["prediction_2"]) <= set(range(5))


def test_outputs_without_names_are_no_guess_beside_a_scorer_with_names(world, tmp_path):
    run, _ = world()
    named = Classifier(small_classifier().network, replace(small_classifier().config, classes=("0", "1", "2")))
    shutil.rmtree(run.inputs["prepare"] / "classifier")
    named.save(run.inputs["prepare"] / "classifier")
    certify(run.inputs["prepare"])
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"class 0 is not known by its name to scorer .*/w.safetensors, which has 3"):
        world(f"shufflenet_v2_x0_5:{tmp_path}/w.safetensors")
