"""Test images among the training images: found as they are, re-encoded, resized or mirrored; others are not."""

import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import evaluate
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.test_copies import copied
from dgs_utils.images.duplicates import match_near_duplicates, signatures
from dgs_utils.images.image_set import ImageSet


def squares(images) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)) for image in images])


def again(image: Image.Image, size: int, quality: int = 0) -> Image.Image:
    """Return an image resized, and stored as JPEG of a quality or as PNG."""
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.BICUBIC).save(buffer, *(["JPEG"] if quality else ["PNG"]),
                                                              **({"quality": quality} if quality else {}))
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def cifar(shared_data):
    """500 test images and 5,000 training images of CIFAR-10."""
    def read(archive, count):
        with zipfile.ZipFile(archive) as members:
            names = [name for name in members.namelist() if not name.endswith("/")]
            chosen = np.random.default_rng(0).permutation(len(names))[:count]
            return [Image.open(io.BytesIO(members.read(names[place]))).convert("RGB") for place in chosen]

    return read(shared_data / "cifar10" / "val.zip", 500), read(shared_data / "cifar10" / "train.zip", 5000)


def test_of_cifar_s_own_images_at_most_one_in_a_thousand_is_taken_for_another(cifar):
    test, train = map(signatures, map(squares, cifar))
    assert (match_near_duplicates(test, train) >= 0).mean() <= 0.001
    assert (match_near_duplicates(train[:1000], train[1000:]) >= 0).mean() <= 0.002
    mirrored = signatures(squares([ImageOps.mirror(image) for image in cifar[0]]))
    assert (match_near_duplicates(mirrored, train) >= 0).mean() <= 0.001


@pytest.mark.parametrize(("size", "quality", "share"), [
    (32, 95, 1), (32, 75, 0.99), (64, 0, 1), (64, 75, 1), (24, 0, 1), (16, 0, 0.9), (224, 85, 1), (48, 50, 0.95)])
def test_re_encoded_and_resized_images_of_cifar_are_found(cifar, size, quality, share):
    test, train = cifar
    known = signatures(squares([*(again(image, size, quality) for image in test[:200]), *train[:2000]]))
    assert (match_near_duplicates(signatures(squares(test[:200])), known) == np.arange(200)).mean() >= share


def test_signatures_are_means_of_areas():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = images.reshape(3, 8, 2, 8, 2, 3).mean((2, 4)).reshape(3, -1)
    np.testing.assert_allclose(signatures(images), expected, rtol=1e-5)
    odd = np.random.default_rng(1).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)  # area means, whatever the side
    np.testing.assert_allclose(signatures(odd), signatures(np.kron(odd, np.ones((1, 2, 2, 1), np.uint8))), rtol=1e-4)
    np.testing.assert_allclose(signatures(odd).reshape(2, 64, 3).mean(1), odd.mean((1, 2)), rtol=1e-5)


def test_digits_and_plain_colours_are_no_copies_of_each_other():
    scans = np.round(load_digits().images * 255 / 16).astype(np.uint8)[..., None].repeat(3, 3)
    found = signatures(scans)
    assert (match_near_duplicates(found[:500], found[500:]) < 0).all()
    assert (match_near_duplicates(found[:500], found[100:]) >= 0).sum() == 400
    plain = signatures(np.full((2, 8, 8, 3), 255, np.uint8))
    assert match_near_duplicates(plain, plain).tolist() == [-1, -1]


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


@pytest.mark.parametrize("change", [lambda image: again(image, 32), lambda image: again(image, 32, 75),
                                    lambda image: again(image, 64, 75), lambda image: again(image, 24, 0),
                                    ImageOps.mirror], ids=["PNG", "JPEG 75", "64 px", "24 px", "mirrored"])
def test_copies_of_test_images_of_cifar_are_told_from_what_is_alike(cifar, change):
    """At least 99 % of planted copies, and at most 2 in 1,000 of CIFAR-10's own images, which has duplicates."""
    test, train = cifar
    shown, _ = copied(squares([change(image) for image in test[:200]]), squares(test))
    assert (shown == np.arange(200)).mean() >= 0.99
    own, _ = copied(squares(train[:2000]), squares(test))
    assert (own >= 0).mean() <= 0.002


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
