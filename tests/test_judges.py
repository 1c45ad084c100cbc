"""Judges from elsewhere: timm's classifiers with local weights, and one that an earlier stage 00 trained."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from small_world import open_stage, small_classifier, write_digits

from dgs_utils.classifiers import judge as classifiers
from dgs_utils.difficulty import score_images
from dgs_utils.images.datasets import index_originals
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.prepare import difficulty_classifier
from dgs_utils.runtime.seeds import numpy_rng


def unpacked(archive, folder):
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder)
    return folder


@pytest.fixture
def lite0(shared_data):
    pytest.importorskip("timm", reason="timm is not installed (extra timm)")
    return classifiers.pretrained("timm:tf_efficientnet_lite0",
                                  str(shared_data / "weights" / "efficientnet_lite0_imagenet1k.safetensors"))


def test_timm_tells_how_its_images_are_prepared(lite0):
    config = lite0.config
    assert (config.resize, config.crop, config.interpolation) == (256, 224, "bicubic")
    assert config.mean == config.std == (0.5, 0.5, 0.5)
    image = Image.fromarray(numpy_rng("timm").integers(0, 256, (300, 400, 3), dtype=np.uint8))
    expected = image.resize((341, 256), Image.Resampling.BICUBIC).crop((58, 16, 282, 240))
    np.testing.assert_array_equal(lite0.prepare(image).permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_timm_judge_recognises_real_dogs_and_survives_its_folder(lite0, shared_data, tmp_path):
    images = ImageSet.read(unpacked(shared_data / "imagewoof320-sample" / "sample.zip", tmp_path) / "val")
    index = {wnid: index for wnid, index, _ in SUBSETS["imagewoof"]}
    outputs = [index[name] for name in images.classes]
    scores = score_images(images, lite0, outputs, device="cpu")
    assert (scores["prediction"] == np.array(outputs)[images.labels]).mean() > 0.6  # of 1,000 classes; 77 % of 500
    lite0.save(tmp_path / "judge")
    again = score_images(images, classifiers.load(tmp_path / "judge"), outputs, device="cpu")
    np.testing.assert_allclose(again["score"], scores["score"], atol=1e-6)


def test_a_judge_of_an_earlier_stage_scores_strangers_pools_as_published(shared_data, tmp_path):
    judge = classifiers.load(shared_data / "weights" / "cifar10_resnet_ap10")
    pool = ImageSet.read(unpacked(shared_data / "cifar10-pools" / "SNGAN-conditional.zip", tmp_path))
    scores = score_images(pool, judge, device="cpu")
    assert len(scores) == 1000
    assert (scores["prediction"] == pool.labels).mean() == pytest.approx(0.842, abs=0.006)
    assert scores["score"].mean() == pytest.approx(0.203, abs=0.005)


def test_interpolation_is_part_of_a_judge(tmp_path):
    judge = small_classifier(steps=1)
    judge.save(tmp_path / "judge")
    config = tmp_path / "judge" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"interpolation": "bicubic"}))
    other = classifiers.load(tmp_path / "judge")
    image = Image.fromarray(numpy_rng("image").integers(0, 256, (31, 31, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    one, two = next(classifiers.read_batches(tmp_path, ["image.png"], [judge, other], 1))
    assert (one != two).any()
    np.testing.assert_array_equal(two[0], other.prepare(image))


def test_stage_00_takes_a_judge_that_another_stage_00_trained(tmp_path, outputs):
    small_classifier(steps=3).save(tmp_path / "earlier" / "classifier")
    root = write_digits(tmp_path / "real", 0, 20)

    def prepared(**values):
        run = open_stage("00_prepare", dataset="folder", root=str(root), split="given", classifier_size=8,
                         base_model="none", classifier=str(tmp_path / "earlier"), **values)
        index_originals(run.params, run.folder)
        return run, difficulty_classifier(run)

    run, curve = prepared()
    assert curve.empty
    assert (run.folder / "classifier" / "model.safetensors").read_bytes() == (
        tmp_path / "earlier" / "classifier" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="has 3 outputs, and there are 2 classes"):
        prepared(classes=["0", "1"])


@pytest.mark.parametrize(("name", "weights", "message"), [
    ("timm:resnet5000", "pretrained", "is no classifier of timm"),
    ("timm:resnet18", "IMAGENET1K_V1", "timm:resnet18 has no weights 'IMAGENET1K_V1'; give pretrained, or a file"),
])
def test_wrong_names_are_told(name, weights, message):
    pytest.importorskip("timm", reason="timm is not installed (extra timm)")
    with pytest.raises(ValueError, match=message):
        classifiers.pretrained(name, weights)
    assert validate("00_prepare", {"classifier": name, "classifier_weights": weights}).classifier == name
