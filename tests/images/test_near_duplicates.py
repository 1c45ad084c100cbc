"""Near duplicates: planted copies are found, and real images are not taken for each other."""

import gzip
import io
import zipfile

import numpy as np
import pytest
from image_copies import PLANTED, hash_distances, planted
from PIL import Image
from sklearn.datasets import load_digits

from dgs_utils.images.near_duplicates import contrast, find_pairs


@pytest.fixture(scope="module")
def cifar(shared_data):
    """1,000 test images of CIFAR-10."""
    with zipfile.ZipFile(shared_data / "cifar10" / "val.zip") as members:
        names = sorted(name for name in members.namelist() if not name.endswith("/"))
        chosen = np.random.default_rng(0).permutation(len(names))[:1000]
        return [Image.open(io.BytesIO(members.read(names[row]))).convert("RGB") for row in chosen]


def share_found(copies: np.ndarray, known: np.ndarray) -> float:
    pairs = find_pairs(copies, known)
    return pairs[pairs["first"] == pairs["second"]]["first"].nunique() / len(copies)


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_copies_of_photographs_are_found(cifar, kind):
    known = np.stack([np.asarray(image) for image in cifar])
    assert share_found(planted(cifar, kind), known) >= 0.985  # of all 10,000 .99; less, as these are 1,000 only
    mirrored = find_pairs(planted(cifar[:50], kind), known)
    assert mirrored["mirrored"].mean() > 0.9 if "mirrored" in kind else mirrored["mirrored"].mean() < 0.1


@pytest.mark.parametrize("package", ["imagehash", "imagededup"])
@pytest.mark.parametrize("kind", ["JPEG 75", "mirrored", "2 px right, wrapped", "90 % crop, centre"])
def test_perceptual_hashes_find_no_more_at_as_many_false_pairs(cifar, kind, package):
    pytest.importorskip(package, reason=f"needs the package {package}")
    known = np.stack([np.asarray(image) for image in cifar])
    among = hash_distances(known, known, package) + 99 * np.eye(len(known))
    bits = np.sort(among.min(1))[1] - 1  # fewer than those by which a second image has another like it
    theirs = (hash_distances(planted(cifar, kind), known, package).diagonal() <= bits).mean()
    assert share_found(planted(cifar, kind), known) >= theirs - 0.005
    assert theirs > 0.99 or "JPEG" not in kind


def digits(count: int) -> list[Image.Image]:
    scans = np.round(load_digits().images[:count] * 255 / 16).astype(np.uint8)
    return [Image.fromarray(scan).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for scan in scans]


@pytest.mark.parametrize("kind", ["JPEG 75", "scaled to 64", "mirrored", "grey"])
def test_planted_copies_of_digits_are_found(kind):
    scans = digits(200)
    assert share_found(planted(scans, kind), np.stack([np.asarray(scan) for scan in scans])) >= 0.97


def test_different_digits_are_no_copies():
    known = np.stack([np.asarray(scan) for scan in digits(600)])
    pairs = find_pairs(known[:300], known[300:])
    assert pairs.empty
    own = find_pairs(known[:300])
    assert (own["first"] < own["second"]).all()


def test_what_was_only_saved_again_is_the_same_and_what_was_moved_is_not(cifar):
    known = np.stack([np.asarray(image) for image in cifar[:200]])
    for kind, least, most in (("JPEG 75", 0.99, 1), ("mirrored", 0.99, 1), ("scaled to 64", 0.99, 1), ("grey", 0.99, 1),
                              ("90 % crop, centre", 0, 0.02), ("2 px right, wrapped", 0, 0.02)):
        pairs = find_pairs(planted(cifar[:200], kind), known)
        assert least <= (pairs["same"] & (pairs["first"] == pairs["second"])).sum() / 200 <= most, kind
    assert not find_pairs(known[:100], known[100:])["same"].any()


def test_clothes_that_were_only_saved_again_are_told_from_others(shared_data):
    with gzip.open(shared_data / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz") as file:
        clothes = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)[:3000].repeat(3, 3)
    images = [Image.fromarray(image) for image in clothes[:200]]
    for kind in ("JPEG 75", "scaled to 64", "scaled to 24", "mirrored"):
        pairs = find_pairs(planted(images, kind), clothes)
        assert (pairs["same"] & (pairs["first"] == pairs["second"])).sum() >= 198, kind
    assert len(find_pairs(clothes[:1500], clothes[1500:])) <= 1


def test_copies_are_found_whichever_set_comes_first():
    known = np.stack([np.asarray(scan) for scan in digits(60)])
    there, back = find_pairs(known[:40], known[20:]), find_pairs(known[20:], known[:40])
    assert set(zip(there["first"], there["second"], strict=True)) >= {(20 + i, i) for i in range(20)}
    assert set(zip(back["first"], back["second"], strict=True)) >= {(i, 20 + i) for i in range(20)}


def test_images_of_one_colour_are_no_copies_but_have_no_contrast():
    plain = np.full((3, 32, 32, 3), 255, np.uint8)
    assert find_pairs(plain).empty
    assert contrast(plain).tolist() == [0, 0, 0]
