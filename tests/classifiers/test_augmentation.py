"""Training transforms: each batched operation against an image-by-image reference and the published numbers."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import numbers
from scipy import stats
from torchvision.transforms import v2

from dgs_utils.classifiers import augmentation as transforms
from dgs_utils.classifiers.augmentation import augment, crop_and_resize, crop_boxes, cutmix, cutmix_box
from dgs_utils.classifiers.protocols import Augmentation

OPERATIONS = ("brightness", "contrast", "saturation")
WEIGHTS = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
PLAIN = Augmentation(crop=1, flip=0, jitter=0, lighting=0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=rng(seed))


def blend(image: torch.Tensor, operation: str, alpha: float) -> torch.Tensor:
    """Apply one colour operation to one image (3, H, W) as the published code words it."""
    luminance = (image * WEIGHTS.to(image.dtype)[:, None, None]).sum(0, keepdim=True)
    reference = {"brightness": 0.0, "contrast": luminance.mean(), "saturation": luminance}[operation]
    return image + alpha * (reference - image)


def jittered(image: torch.Tensor, operations: list[str], alphas: list[float]) -> torch.Tensor:
    """Apply our batched colour jitter to one image, with the given operations."""
    orders = torch.tensor([[OPERATIONS.index(name) for name in operations]])
    batch = image[None]
    alphas = torch.tensor([alphas], dtype=image.dtype)
    return transforms.apply_map(batch, *transforms.jitter_map(batch.mean((2, 3)), orders, alphas))[0]


# ---- Crops -----------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.data())
def test_crop_is_torchvisions_whether_antialiased_or_not(data):
    size = data.draw(st.integers(2, 24))
    boxes, mirrored = [], []
    for _ in range(3):
        height, width = data.draw(st.integers(1, size)), data.draw(st.integers(1, size))
        top, left = data.draw(st.integers(0, size - height)), data.draw(st.integers(0, size - width))
        boxes.append((top, left, height, width))
        mirrored.append(data.draw(st.booleans()))
    batch = torch.rand(3, 2, size, size, dtype=torch.float64, generator=rng())
    found = crop_and_resize(batch, torch.tensor(boxes), torch.tensor(mirrored))
    for antialias in (True, False):
        expected = [v2.functional.resized_crop(image, *box, [size, size], antialias=antialias)
                    for image, box in zip(batch, boxes, strict=True)]
        expected = [v2.functional.hflip(p) if flip else p for p, flip in zip(expected, mirrored, strict=True)]
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)


def test_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(224, (0.5, 1.0), (3 / 4, 4 / 3)), torch.empty(3, 224, 224)
    drawn = [crop.make_params([image]) for _ in range(3000)]
    theirs = np.array([[params[key] for key in ("top", "left", "height", "width")] for params in drawn])
    ours = crop_boxes(3000, 224, 0.5, 4 / 3, rng()).numpy()
    for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 2] / b[:, 3], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(measure(theirs), measure(ours)).pvalue > 1e-3


@given(st.integers(4, 256), st.floats(0.05, 1.0), st.floats(1.0, 2.0), st.integers(0, 99))
@settings(deadline=None)
def test_crops_lie_inside_and_keep_their_share(size, least, ratio, seed):
    top, left, height, width = crop_boxes(20, size, least, ratio, rng(seed)).unbind(1)
    assert bool((top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all())
    assert bool((top + height <= size).all() and (left + width <= size).all())
    # Sides are rounded to whole pixels: half a pixel on each.
    assert bool(((height + 0.5) * (width + 0.5) >= least * size**2 - 1e-6).all())
    assert bool(((height - 0.5) <= ratio * (width + 0.5) + 1e-6).all())


def test_the_whole_image_where_no_crop_fits():
    wide = crop_boxes(50, 1000, 1.0, 4 / 3, rng())
    assert wide.tolist() == [[0, 0, 1000, 1000]] * 50


# ---- Colours ---------------------------------------------------------------------------------------------------------

def test_single_colour_operations_are_the_published_ones():
    published = numbers("evaluation")["color_jitter"]
    image = torch.tensor(published["image"], dtype=torch.float64)
    assert {case["op"] for case in published["ops"]} == set(OPERATIONS)
    for case in published["ops"]:
        others = [name for name in OPERATIONS if name != case["op"]]
        found = jittered(image, [case["op"], *others], [case["alpha"], 0.0, 0.0])
        torch.testing.assert_close(found, torch.tensor(case["out"], dtype=torch.float64), rtol=0, atol=1e-6)


def test_colour_jitter_is_the_published_one():
    published = numbers("evaluation")["color_jitter"]
    image = torch.tensor(published["image"], dtype=torch.float64)
    assert len({tuple(case["order"]) for case in published["jitter"]}) > 1
    for case in published["jitter"]:
        found = jittered(image, case["order"], case["alphas_in_order"])
        torch.testing.assert_close(found, torch.tensor(case["out"], dtype=torch.float64), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.permutations(OPERATIONS), st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3))
def test_colour_jitter_of_a_batch_is_that_of_each_image(order, alphas):
    batch = torch.rand(4, 3, 5, 6, dtype=torch.float64, generator=rng())
    orders = [list(order), [*order[1:], order[0]], list(reversed(order)), list(OPERATIONS)]
    strengths = [alphas, alphas[::-1], [0.0, *alphas[:2]], alphas]
    indices = torch.tensor([[OPERATIONS.index(name) for name in names] for names in orders])
    colour_map = transforms.jitter_map(batch.mean((2, 3)), indices, torch.tensor(strengths, dtype=torch.float64))
    found = transforms.apply_map(batch, *colour_map)
    for image, names, values, result in zip(batch, orders, strengths, found, strict=True):
        for name, alpha in zip(names, values, strict=True):
            image = blend(image, name, alpha)
        torch.testing.assert_close(result, image, rtol=0, atol=1e-9)


def test_lighting_is_the_published_one():
    published = numbers("evaluation")["lighting"]
    found = transforms.lighting_offset(torch.tensor([case["alpha"] for case in published], dtype=torch.float64))
    expected = torch.tensor([case["rgb_offset"] for case in published], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_normalisation_is_imagenets():
    batch = images(2, 4)
    expected = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(batch / 255)
    torch.testing.assert_close(transforms.normalise(transforms.to_float(batch)), expected)


# ---- The whole list --------------------------------------------------------------------------------------------------

def test_the_whole_list_is_the_published_one_image_by_image():
    batch, options = images(6, 20), Augmentation()
    found = augment(batch, options, rng(3))
    draws = rng(3)
    boxes = crop_boxes(6, 20, options.crop, options.ratio, draws)
    mirrored = torch.rand(6, generator=draws) < 0.5
    orders = torch.rand(6, 3, generator=draws).argsort(1)
    alphas = ((torch.rand(6, 3, generator=draws) * 2 - 1) * 0.4).double()
    light = torch.randn(6, 3, generator=draws) * 0.1
    assert mirrored.unique().numel() == 2
    for i, image in enumerate(batch.double() / 255):
        image = v2.functional.resized_crop(image, *boxes[i].tolist(), [20, 20], antialias=True)
        image = v2.functional.hflip(image) if mirrored[i] else image
        for place in range(3):
            image = blend(image, OPERATIONS[orders[i, place]], alphas[i, place])
        vectors = torch.tensor(transforms.EIGENVECTORS, dtype=torch.float64)
        light_i = light[i].double() * torch.tensor(transforms.EIGENVALUES, dtype=torch.float64)
        image = image + (vectors * light_i).sum(1)[:, None, None]
        expected = v2.functional.normalize(image, list(transforms.MEAN), list(transforms.STD))
        torch.testing.assert_close(found[i].double(), expected, rtol=0, atol=2e-5)


def test_draws_follow_their_ranges():
    grey = torch.full((6000, 3, 2, 2), 100, dtype=torch.uint8)
    # On a grey image contrast and saturation change nothing, so what is left is brightness: 1 − α.
    found = augment(grey, Augmentation(crop=1, flip=0, lighting=0), rng())
    std, mean = (torch.tensor(values)[:, None, None] for values in (transforms.STD, transforms.MEAN))
    alphas = 1 - (found * std + mean)[:, 0, 0, 0] / (100 / 255)
    assert stats.kstest(alphas.numpy(), stats.uniform(-0.4, 0.8).cdf).pvalue > 1e-3
    light = augment(grey, Augmentation(crop=1, flip=0, jitter=0), rng(1)) * std + mean - 100 / 255
    along = light[:, :, 0, 0] @ torch.tensor(transforms.EIGENVECTORS)  # the eigenvectors are orthonormal
    for component, eigenvalue in zip(along.T, transforms.EIGENVALUES, strict=True):
        assert stats.kstest(component.numpy() / (0.1 * eigenvalue), stats.norm.cdf).pvalue > 1e-3


def test_nothing_happens_where_everything_is_off():
    batch = images(5, 8)
    torch.testing.assert_close(augment(batch, PLAIN, rng()), transforms.normalise(transforms.to_float(batch)))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_mirroring_can_be_switched(probability, expected):
    batch = images(40, 8)
    found = augment(batch, Augmentation(crop=1, flip=probability, jitter=0, lighting=0), rng())
    plain = transforms.normalise(transforms.to_float(batch.flip(3) if expected else batch))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    # With crops a mirrored ramp falls and an unmirrored one rises.
    ramp = torch.arange(0, 240, 15, dtype=torch.uint8).expand(40, 3, 16, 16)
    ramps = augment(ramp, Augmentation(flip=probability, jitter=0, lighting=0), rng())
    assert bool(((ramps[..., -1] < ramps[..., 0]) == expected).all())


def test_same_generator_same_images():
    batch = images(8, 12)
    assert torch.equal(augment(batch, Augmentation(), rng(5)), augment(batch, Augmentation(), rng(5)))
    same = batch[:1].expand(8, -1, -1, -1)
    found = augment(same, Augmentation(), rng(5))
    assert len({image.numpy().tobytes() for image in found}) == 8  # each image has parameters of its own


# ---- CutMix ----------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_cutmix_pastes_one_box_and_knows_its_area(n, height, width, seed):
    batch = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1).expand(n, 2, height, width).clone()
    mixed, partner, own = cutmix(batch.clone(), rng(seed))
    assert sorted(partner.tolist()) == list(range(n))
    moved = [i for i in range(n) if partner[i] != i]
    boxes = {tuple((mixed[i, 0] != batch[i, 0]).flatten().tolist()) for i in moved}
    assert len(boxes) <= 1  # the same box in every image of the batch
    for i in range(n):
        share = (mixed[i] == i).double().mean().item()
        assert share == pytest.approx(own if i in moved else 1.0, abs=1e-12)
        assert set(mixed[i].unique().tolist()) <= {float(i), float(partner[i])}


def test_cutmix_boxes_are_distributed_as_published():
    chance, size, theirs = np.random.default_rng(0), 224, []
    for _ in range(8000):  # λ ~ Beta(1, 1), uniform centre, cut off at the border
        half = int(size * math.sqrt(1 - chance.beta(1, 1))) // 2
        y, x = chance.integers(size, size=2)
        theirs.append(np.clip([y - half, y + half, x - half, x + half], 0, size))
    draws = rng()
    ours = np.array([cutmix_box(size, size, draws) for _ in range(8000)])
    theirs = np.array(theirs)
    for measure in (lambda b: (b[:, 1] - b[:, 0]) * (b[:, 3] - b[:, 2]), lambda b: b[:, 0], lambda b: b[:, 3]):
        assert stats.ks_2samp(measure(theirs), measure(ours)).pvalue > 1e-3


# ---- Mosaics ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tiles", [2, 3])
def test_tiles_are_shuffled_by_columns_and_by_rows(tiles):
    side, n = 2, 400
    whole = torch.arange(3 * (side * tiles) ** 2).view(1, 3, side * tiles, side * tiles)
    found = transforms.shuffle_tiles(whole.expand(n, -1, -1, -1), *torch.rand(2, n, tiles, generator=rng()).argsort(2))
    orders = list(itertools.permutations(range(tiles)))
    places = {order: torch.cat([torch.arange(side) + side * i for i in order]) for order in orders}
    possible = {whole[0][:, places[rows]][:, :, places[columns]].numpy().tobytes(): 0
                for rows in orders for columns in orders}
    for image in found:
        possible[image.contiguous().numpy().tobytes()] += 1  # a KeyError means that it is no such shuffle
    assert stats.chisquare(list(possible.values())).pvalue > 1e-3


def test_a_image_that_tiles_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="15 pixels cannot be cut into 2 × 2 tiles"):
        augment(images(1, 15), Augmentation(tiles=2), rng())
