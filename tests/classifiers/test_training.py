"""The classifier trainer: its losses and steps by hand, its tests, and what makes two runs the same."""

import platform
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import numbers
from PIL import Image
from scipy.special import log_softmax
from small_training import TEST, TRAIN, digits
from torch import nn
from torchvision.transforms import v2

from dgs_utils.classifiers.augmentation import augment, cutmix, normalise, to_float
from dgs_utils.classifiers.image_tensors import load_images
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.protocols import RDED, Augmentation
from dgs_utils.classifiers.training import Outcome, Recipe, evaluation_epochs, predict_logits, train_classifier
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime import compiling
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.compiling import should_compile
from dgs_utils.runtime.seeds import torch_rng

PLAIN = Augmentation(crop=1, flip=0, jitter=0, lighting=0, cutmix=False)


def fresh(norm: str = "instance") -> nn.Module:
    torch.manual_seed(0)
    return build_network("convnet3", 10, 8, norm)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


# ---- Steps and losses ------------------------------------------------------------------------------------------------

def test_training_is_gradient_descent_with_momentum_by_hand():
    epochs = 6
    network, copy = fresh().double(), fresh().double()
    outcome = train_classifier(_Double(network), TRAIN, TEST, Recipe(epochs, 64, 0.1, 3, PLAIN))
    velocity = {parameter: torch.zeros_like(parameter) for parameter in copy.parameters()}
    losses = []
    for epoch in range(epochs):
        rate = 0.1 * 0.2 ** ((epoch >= 4) + (epoch >= 5))
        loss = F.cross_entropy(copy(normalise(to_float(TRAIN.images)).double()), TRAIN.labels)
        gradients = torch.autograd.grad(loss, list(copy.parameters()))
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, gradient in zip(copy.parameters(), gradients, strict=True):
                velocity[parameter] = 0.9 * velocity[parameter] + gradient + 5e-4 * parameter
                parameter -= rate * velocity[parameter]
    torch.testing.assert_close(weights(network), weights(copy), rtol=0, atol=5e-6)  # images are float32
    assert list(outcome.curve["epoch"]) == [2, 4, 6]
    assert outcome.curve["loss"].tolist() == pytest.approx([losses[1], losses[3], losses[5]], rel=1e-6)
    assert outcome.curve["learning_rate"].tolist() == pytest.approx([0.1, 0.1, 0.004])


class _Double(nn.Module):
    """A network that computes in float64 whatever it is given."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.double())


def first_batch(recipe: Recipe, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Return the first epoch's single batch as the trainer draws it: images, labels, labels behind the box, share."""
    rng = torch_rng("evaluate", "training", seed, 1)
    order = torch.randperm(len(TRAIN.labels), generator=rng)
    images = augment(TRAIN.images[order], recipe.augmentation, rng)
    images, partner, own = cutmix(images, rng)
    return images, TRAIN.labels[order], TRAIN.labels[order][partner], own


def test_cutmix_weighs_the_labels_by_their_areas():
    recipe = Recipe(1, 64)
    outcome = train_classifier(fresh(), TRAIN, TEST, recipe, seed=4)
    images, labels, behind, own = first_batch(recipe, seed=4)
    assert 0.05 < own < 0.95
    chance = -log_softmax(fresh()(images).detach().double().numpy(), axis=1)
    rows = np.arange(len(labels))
    expected = own * chance[rows, labels].mean() + (1 - own) * chance[rows, behind].mean()
    assert outcome.curve["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_are_the_teachers_at_temperature_20():
    recipe = Recipe(1, 64, augmentation=RDED.augmentation, protocol=RDED)
    torch.manual_seed(1)
    teacher = build_network("convnet3", 10, 8)
    outcome = train_classifier(fresh(), TRAIN, TEST, recipe, seed=2, teacher=teacher)
    images, *_ = first_batch(recipe, seed=2)
    with torch.no_grad():
        wanted, found = (log_softmax(network(images).double().numpy() / 20, axis=1) for network in (teacher, fresh()))
    expected = (np.exp(wanted) * (wanted - found)).sum(1).mean()  # KL(teacher ‖ network), no T² factor
    assert outcome.curve["loss"].item() == pytest.approx(expected, abs=1e-7)  # a sum of logarithms near −2.3 in fp32
    same = train_classifier(fresh(), TRAIN, TEST, recipe, seed=2, teacher=fresh())
    assert same.curve["loss"].item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("extra", "passes"), [(True, 2), (False, 1)])
def test_the_extra_pass_moves_batch_norms_statistics_once_more(extra, passes):
    network = fresh("batch")
    recipe = Recipe(1, 20, augmentation=PLAIN, protocol=replace(RDED, extra_pass=extra))
    train_classifier(network, TRAIN, TEST, recipe, teacher=fresh())
    assert network.norm[0].num_batches_tracked == passes * 2  # two batches of 20


def test_soft_labels_need_a_teacher():
    with pytest.raises(ValueError, match="S-R trains on soft labels; give train_classifier a teacher"):
        train_classifier(fresh(), TRAIN, TEST, Recipe(1, protocol=RDED))


def test_the_last_smaller_batch_is_kept():
    seen = []
    network = fresh()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    train_classifier(network, TRAIN, TEST, Recipe(1, 16))
    assert seen == [16, 16, 8]


# ---- Tests on the way ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in numbers("evaluation")["schedule"]])
def test_tests_fall_where_they_were_published(name):
    epochs, every = (int(part.split("=")[1]) for part in name.split(","))
    case = numbers("evaluation")["schedule"][name]
    found = sorted(evaluation_epochs(epochs, epochs // every))
    assert len(found) == case["n_evaluations"]
    assert [found[0], found[-1]] == case["first_last_evaluation"]


@given(st.integers(1, 500), st.integers(1, 200))
def test_tests_are_spread_evenly_and_end_with_the_last_epoch(epochs, evaluations):
    found = sorted(evaluation_epochs(epochs, evaluations))
    assert found[-1] == epochs
    assert len(found) >= min(epochs, evaluations)
    assert len(set(np.diff(found)[:-1])) <= 1


def test_logits_do_not_depend_on_the_batch():
    network = fresh("batch").train()
    whole = predict_logits(network, TEST.images)
    torch.testing.assert_close(predict_logits(network, TEST.images, batch_size=7), whole)
    with torch.no_grad():
        torch.testing.assert_close(whole, network.eval()(normalise(TEST.images / 255)))


def test_predictions_are_those_of_the_last_epoch():
    network = fresh()
    outcome = train_classifier(network, TRAIN, TEST, Recipe(3, evaluations=1))
    assert np.array_equal(outcome.predictions, predict_logits(network, TEST.images).argmax(1).numpy())
    assert outcome.last == pytest.approx(100 * np.mean(outcome.predictions == TEST.labels.numpy()))


def test_the_best_epoch_s_predictions_are_kept_too():
    outcome = train_classifier(fresh(), TRAIN, TEST, Recipe(8, evaluations=8, learning_rate=0.3))
    assert outcome.best == pytest.approx(100 * np.mean(outcome.best_predictions == TEST.labels.numpy()))
    assert outcome.best_epoch < 8  # so that the two are not the same by chance
    assert outcome.best > outcome.last


def test_best_is_among_the_tests_that_count():
    curve = pd.DataFrame({"epoch": [2, 4, 6, 8], "top1": [50.0, 20.0, 30.0, 30.0], "counts": [False, True, True, True]})
    outcome = Outcome(curve, np.zeros(0), np.zeros(0))
    assert (outcome.best, outcome.best_epoch, outcome.last) == (30.0, 6, 30.0)
    everything = Outcome(curve.assign(counts=True), np.zeros(0), np.zeros(0))
    assert (everything.best, everything.best_epoch) == (50.0, 2)


# ---- Whole runs ------------------------------------------------------------------------------------------------------

def test_same_seed_same_numbers():
    recipe = Recipe(3, 16)
    networks = [fresh() for _ in range(3)]
    runs = [train_classifier(network, TRAIN, TEST, recipe, seed)
            for network, seed in zip(networks, (5, 5, 6), strict=True)]
    pd.testing.assert_frame_equal(runs[0].curve, runs[1].curve)
    assert torch.equal(weights(networks[0]), weights(networks[1]))
    assert not torch.equal(weights(networks[0]), weights(networks[2]))


def test_digits_are_learnt():
    recipe = Recipe(30, 32, 0.03, 1, Augmentation(crop=0.8, flip=0, cutmix=False))
    outcome = train_classifier(fresh(), digits(0, 200), digits(900, 1200), recipe)
    assert outcome.last > 60  # chance is 10, and 82 is usual


def test_bf16_learns_as_well():
    recipe = Recipe(3, 20, augmentation=PLAIN, precision="bf16")
    curves = [train_classifier(fresh(), TRAIN, TEST, r).curve for r in (recipe, replace(recipe, precision="fp32"))]
    np.testing.assert_allclose(*[curve["loss"] for curve in curves], rtol=0.03)


@pytest.mark.parametrize(("switch", "device", "calls", "compiled"), [
    ("on", "cpu", 1, True), ("off", "cuda", 10**6, False), ("auto", "cuda", 1000, True), ("auto", "cuda", 999, False),
    ("auto", "cpu", 10**6, False)])
def test_one_switch_says_what_is_compiled(switch, device, calls, compiled, monkeypatch):
    monkeypatch.setattr(compiling, "compile_unavailable_reason", lambda *_: "")  # whatever this machine has
    assert should_compile(switch, torch.device(device), calls, least=1000) == compiled


def test_an_unknown_switch_is_refused_before_training():
    with pytest.raises(ValueError, match="compile is 'yes'; choose auto, on or off"):
        train_classifier(fresh(), TRAIN, TEST, Recipe(2, 20, compile="yes"))


def test_freed_memory_is_kept_where_the_c_library_is_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


# ---- Loading ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def mixed(tmp_path):
    """Images of several shapes and modes in two classes."""
    rng = np.random.default_rng(0)
    for name, shape, mode in (("a/0", (90, 140, 3), "RGB"), ("a/1", (64, 40), "L"), ("b/0", (33, 33, 4), "RGBA")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return ImageSet.read(tmp_path)


def over_white(path):
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


@pytest.mark.parametrize("zoom", [1.0, 8 / 7])
def test_images_are_scaled_and_cropped_as_torchvision_does(mixed, zoom):
    found = load_images(mixed, 28, workers=2, zoom=zoom)
    transform = v2.Compose([v2.Resize(round(28 * zoom)), v2.CenterCrop(28), v2.PILToTensor()])
    expected = torch.stack([transform(over_white(path)) for path in mixed.paths])
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.images, expected)
    assert found.labels.tolist() == [0, 0, 1]


def test_an_unreadable_image_is_named(mixed):
    mixed.paths[1].write_bytes(mixed.paths[1].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a/1\.png cannot be read as an image"):
        load_images(mixed, 16)
