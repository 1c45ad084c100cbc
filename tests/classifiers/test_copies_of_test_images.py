"""Test images among the training images: found as they are, re-encoded, resized or mirrored; others are not."""

import io
import re

import numpy as np
import pytest
from image_copies import planted
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import evaluate
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.test_copies import check_test_copies
from dgs_utils.images.image_set import ImageSet


def again(image: Image.Image, size: int, quality: int = 0) -> Image.Image:
    """Return an image resized, and stored as JPEG of a quality or as PNG."""
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.BICUBIC).save(buffer, *(["JPEG"] if quality else ["PNG"]),
                                                              **({"quality": quality} if quality else {}))
    return Image.open(buffer).convert("RGB")


def renamed(source, target, change=None):
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        (change(image) if change else image).save(target / path.parent.name / f"made-{number}.png")
    return target


@pytest.mark.parametrize("change", [None, lambda image: again(image, 32, 75), lambda image: again(image, 48, 90),
                                    ImageOps.mirror], ids=["same", "JPEG 75", "resized", "mirrored"])
def test_a_pool_that_is_the_test_set_stops_stage_06_unless_that_is_allowed(tmp_path, outputs, change):
    real = write_digits(tmp_path / "real", 0, 14)
    for path in real.rglob("*.png"):
        again(Image.open(path), 32).save(path)
    prepare = make_prepare(real, val=4)
    test = ImageSet.read(prepare, "val")
    for path in test.paths:
        (tmp_path / "held" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "held" / path.parent.name / path.name).write_bytes(path.read_bytes())
    pool = renamed(tmp_path / "held", tmp_path / "pool", change)
    values = {"prepare": str(prepare), "distilled": str(pool), "epochs": 1, "repeats": 1, "image_size": 16}
    run = open_stage("06_evaluate", **values)
    sentence = (r"^12 of the 12 images to train on are copies of test images, first "
                rf"{re.escape(str(pool))}/0/made-0.png of {re.escape(str(test.paths[0]))}; "
                r"take them out, or set evaluate.allow_test_images to true$")
    with pytest.raises(ValueError, match=sentence):
        evaluate.evaluate(run, *evaluate.open_sets(run))
    assert not (run.folder / "repeats").exists()
    allowed = open_stage("06_evaluate", **values, allow_test_images=True)
    assert allowed.key == run.key
    evaluate.evaluate(allowed, *evaluate.open_sets(allowed))
    [told] = [sentence for sentence in allowed.decisive if "test images" in sentence]
    assert told.startswith("12 of the 12 test images are among the training images "
                           f"({12 if change is None else 0} with the same pixels")
    assert f"first the test image {test.paths[0]} as {pool}/0/made-0.png" in told


def test_files_of_the_test_set_are_allowed_too(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 14), val=4)
    held = ImageSet.read(prepare, "val")
    for path in held.paths:
        (tmp_path / "held" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "held" / path.parent.name / path.name).write_bytes(path.read_bytes())
    values = {"prepare": str(prepare), "distilled": str(tmp_path / "held")}
    with pytest.raises(ValueError, match="is also the training image"):
        evaluate.open_sets(open_stage("06_evaluate", **values))
    evaluate.open_sets(open_stage("06_evaluate", **values, allow_test_images=True))


def test_originals_that_a_test_image_repeats_are_told_of_and_do_not_stop(tmp_path, outputs):
    """A data set may have duplicates of its own: whoever chooses its training images did nothing wrong."""
    real = write_digits(tmp_path / "real", 0, 14)
    for name in ("0", "1", "2"):
        ImageOps.mirror(Image.open(real / name / "0.png")).save(real / name / "9.png")  # 0 is held out, 9 is not
    prepare = make_prepare(real, val=4)
    chosen = tmp_path / "chosen"
    for name in ("0", "1", "2"):
        (chosen / name).mkdir(parents=True)
        for number in (7, 9):
            again(Image.open(real / name / f"{number}.png"), 8, 95).save(chosen / name / f"made-{number}.png")
    run = open_stage("06_evaluate", prepare=str(prepare), distilled=str(chosen), epochs=1, repeats=1, image_size=16)
    evaluate.evaluate(run, *evaluate.open_sets(run))
    assert run.decisive[0].startswith("3 of the 12 test images are among the training images")


@pytest.mark.parametrize("kind", ["as they are", "JPEG 75", "mirrored"])
def test_copies_of_scans_of_eight_pixels_stop_and_other_scans_do_not(kind):
    scans = np.round(load_digits().images * 255 / 16).astype(np.uint8)[..., None].repeat(3, 3)
    images = [Image.fromarray(scan) for scan in scans[:300]]
    copies = scans[:300] if kind == "as they are" else planted(images, kind)
    assert check_test_copies(scans[900:], scans[:900], "{} {}".format, "take them out") == ""
    with pytest.raises(ValueError, match=r"^(300|299) of the 300 images to train on .*, first train 0 of test 0; "):
        check_test_copies(copies, scans[:900], "{} {}".format, "take them out")


def test_a_set_that_holds_others_is_not_told_of(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 14), val=4)
    other = write_digits(tmp_path / "other", 20, 30)
    run = open_stage("06_evaluate", prepare=str(prepare), distilled=str(other), epochs=1, repeats=1, image_size=8)
    evaluate.evaluate(run, *evaluate.open_sets(run))
    assert not run.decisive


def test_arrays_are_looked_at_too():
    scans, labels = np.round(load_digits().images * 255 / 16).astype(np.uint8), load_digits().target
    train, test = (ImageTensors.from_arrays(scans[part], labels[part]) for part in (slice(0, 40), slice(30, 60)))
    options = {"epochs": 1, "batch_size": 20, "evaluations": 1}
    with pytest.raises(ValueError, match=r"^10 of the 40 images to train on are copies of test images, first number 30 "
                                         r"of number 0; take them out, or give allow_test_images=True$"):
        evaluate.evaluate_set(train, test, **options)
    with pytest.warns(UserWarning, match="10 of the 30 test images are among .*the test image number 0 as number 30"):
        evaluate.evaluate_set(train, test, **options, allow_test_images=True)
