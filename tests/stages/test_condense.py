"""Stage 08 and its augmentation: transforms by hand, real optimisation on digits, resuming exactly."""

import gzip
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_world import make_prepare, open_stage, write_digits

from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.protocols import Augmentation
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.condense import CONDENSERS, condense, condense_set, open_condenser, siamese
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import validate
from dgs_utils.store.checkpoint import Checkpointer


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", siamese.FAMILIES)
def test_all_images_are_transformed_alike_and_pass_gradients(images, family):
    numbers = [0.3, 0.8, 0.6]
    alone = torch.cat([siamese.apply_siamese(images[i : i + 1], family, numbers) for i in range(4)])
    together = siamese.apply_siamese(images.requires_grad_(), family, numbers)
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    assert images.grad.abs().sum() > 0


def test_color_by_hand(images):
    found = siamese.apply_siamese(images, "color", [0.25, 0.75, 0.1])
    expected = images.numpy().astype(np.float64) + (0.25 - 0.5) * 1.0
    grey = expected.mean(1, keepdims=True)
    expected = (expected - grey) * (0.75 * 2.0) + grey
    mean = expected.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.numpy(), (expected - mean) * (0.1 + 0.5) + mean, atol=1e-6)


def test_cutout_takes_a_hole_of_half_the_side(images):
    ones = torch.ones_like(images)
    inside = siamese.apply_siamese(ones, "cutout", [0.5, 0.5, 0.0])
    assert (inside[0, 0] == 0).sum() == 8 * 8
    corner = siamese.apply_siamese(ones, "cutout", [0.0, 0.0, 0.0])
    assert (corner[0, 0] == 0).sum() == 4 * 4
    assert (corner[0, 0, :4, :4] == 0).all()


def test_crop_moves_by_an_eighth_at_the_most(images):
    assert torch.equal(siamese.apply_siamese(images, "crop", [0.5, 0.5, 0.0]), images)
    moved = siamese.apply_siamese(images, "crop", [0.0, 0.0, 0.0])
    assert torch.equal(moved[:, :, 2:, 2:], images[:, :, :-2, :-2])
    assert (moved[:, :, :2] == 0).all()


def test_flip_scale_and_rotation_at_their_neutral_points(images):
    assert torch.equal(siamese.apply_siamese(images, "flip", [0.7, 0.0, 0.0]), images)
    assert torch.equal(siamese.apply_siamese(images, "flip", [0.2, 0.0, 0.0]), images.flip(3))
    torch.testing.assert_close(siamese.apply_siamese(images, "rotate", [0.5, 0.0, 0.0]), images)
    one = (1 - 1 / siamese.SCALE) / (siamese.SCALE - 1 / siamese.SCALE)
    torch.testing.assert_close(siamese.apply_siamese(images, "scale", [one, one, 0.0]), images, atol=1e-5, rtol=0)


def test_published_step_sizes():
    published = {"method": "idc", "ipc": 50, "image_size": 224, "iterations": 500, "inner_loops": 100}
    for iterations, rate in ((500, 0.015), (2000, 0.015), (5, 0.15)):
        params = validate("08_condense", published | {"iterations": iterations})
        assert math.isclose(CONDENSERS["idc"].learning_rate(params), rate)
    assert CONDENSERS["dm"].learning_rate(validate("08_condense", {"method": "dm"})) == 1.0


@pytest.fixture
def prepare(outputs, tmp_path):
    return make_prepare(write_digits(tmp_path / "real", 0, 40))


SMALL = {"ipc": 2, "image_size": 8, "real_batch": 16, "iterations": 4, "inner_loops": 2, "net_batches": 1}


@pytest.mark.parametrize("method", CONDENSERS)
def test_set_is_written_and_differs_from_its_start(prepare, method, monkeypatch):
    rate = {"dm": 20.0, "idc": 0.05}[method]  # large enough for a few steps to show in 256 grey levels
    monkeypatch.setattr(CONDENSERS[method], "learning_rate", staticmethod(lambda params: rate))
    run = open_stage("08_condense", prepare=str(prepare), method=method, **SMALL)
    start = open_condenser(run).pixels()
    images, losses = condense(run)
    table = pd.read_csv(run.folder / "metadata.csv", dtype={"class": str})
    assert table.groupby("class").size().to_dict() == {"0": 2, "1": 2, "2": 2}
    for name, pixels in zip(table["file_name"], images.images, strict=True):
        saved = np.asarray(Image.open(run.folder / name))
        np.testing.assert_array_equal(saved, pixels.permute(1, 2, 0).numpy())
    assert (images.images != start).any()
    assert np.isfinite(losses["loss"]).all()
    assert len(losses) == 4


class Stopping(Checkpointer):
    """Keeps the state at a given call, as if the process had been asked to end then."""

    def __init__(self, file, calls: int):
        super().__init__(file)
        self.calls = calls

    def maybe_save(self, state):
        self.calls -= 1
        if not self.calls:
            self.save(state())
            raise KeyboardInterrupt


@pytest.mark.parametrize(("method", "more", "calls"), [
    ("dm", {}, (3, 4)), ("idc", {"iterations": 2}, (1, 3, 5)),
    ("idc", {"iterations": 2, "pretrain_epochs": 1}, (1, 7))])
def test_resumed_run_equals_an_undisturbed_one(prepare, tmp_path, method, more, calls):
    """Wherever it is left: between iterations, among the steps before a comparison, or between two comparisons."""
    run = open_stage("08_condense", prepare=str(prepare), method=method, **SMALL | more)
    expected = open_condenser(run)
    expected.optimise()
    for call in calls:
        checkpointer = Stopping(tmp_path / f"{call}.pt", calls=call)
        with pytest.raises(KeyboardInterrupt):
            open_condenser(run).optimise(checkpointer=checkpointer)
        resumed = open_condenser(run)
        resumed.optimise(checkpointer=Checkpointer(checkpointer.file))
        assert torch.equal(resumed.images, expected.images)
        assert resumed.losses == expected.losses


@pytest.mark.parametrize("method", CONDENSERS)
def test_without_a_folder_the_images_are_the_stages(prepare, method):
    values = {"method": method} | SMALL | {"iterations": 2}
    expected, losses = condense(open_stage("08_condense", prepare=str(prepare), **values))
    state = torch.get_rng_state()
    originals = ImageSet.read(prepare, "train")
    found, again = condense_set(originals, **values, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    pd.testing.assert_frame_equal(again, losses)
    found, _ = condense_set(load_images(originals, 8), **values | {"image_size": 0, "iterations": 1}, device="cpu")
    assert found.images.shape == (6, 3, 8, 8)


@pytest.mark.parametrize("method", CONDENSERS)
def test_bf16_is_near_fp32_and_has_a_name_of_its_own(prepare, method):
    originals, values = load_images(ImageSet.read(prepare, "train"), 8), {"method": method} | SMALL
    values = values | {"image_size": 0, "iterations": 2, "inner_loops": 1, "real_batch": 8}
    found, expected = (condense_set(originals, **values, precision=precision, device="cpu")[1]["loss"]
                       for precision in ("bf16", "fp32"))
    np.testing.assert_allclose(found, expected, rtol=0.2)
    assert (found != expected).all()
    fp32, bf16 = (validate("08_condense", {"precision": precision}).cache_params() for precision in ("fp32", "bf16"))
    assert fp32 | {"precision": "bf16"} == bf16


def test_wrong_settings_are_named(prepare):
    originals = load_images(ImageSet.read(prepare, "train"), 8)
    for values, message in (({"method": "dmm"}, "condense.method is 'dmm'"), ({"iteration": 3}, "did you mean"),
                            ({"image_size": 16}, "the originals are 8 pixels wide")):
        with pytest.raises(ValueError, match=message):
            condense_set(originals, **values)


def test_matching_means_come_closer(prepare):
    """The synthetic images' mean features approach the real ones' in networks that were not used for it."""
    run = open_stage("08_condense", prepare=str(prepare), method="dm", **SMALL | {"image_size": 16, "iterations": 40})
    condenser = open_condenser(run)

    def gap() -> float:
        condenser.iteration += 1000
        network = condenser.new_network()
        condenser.iteration -= 1000
        with torch.no_grad():
            pairs = [(condenser.real_batch(label, 40, torch.Generator().manual_seed(0)), condenser.synthetic(label))
                     for label in range(3)]
            gaps = [(network.features(real).mean(0) - network.features(found).mean(0)).square().sum()
                    for real, found in pairs]
        return float(sum(gaps))

    before = gap()
    condenser.optimise()
    assert gap() < 0.5 * before


SHORT = {"dm": {"iterations": 15, "real_batch": 32, "image_size": 16},
         "idc": {"iterations": 1, "real_batch": 16, "image_size": 16, "inner_loops": 10, "pretrain_epochs": 0,
                 "net_batches": 2}}
CLOTHES = [str(label) for label in range(3)]


def write_clothes(shared_data, root):
    """Write Fashion-MNIST's first 100 training images of three classes to train on, and 200 others to test on."""
    with gzip.open(shared_data / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(shared_data / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for split, members in (("train", slice(100)), ("val", slice(300, 500))):
        for name in CLOTHES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(images[labels == int(name)][members]):
                Image.fromarray(image).save(folder / f"{i}.png")


@pytest.mark.slow  # two condensations and four trainings of a ConvNet-3
@pytest.mark.parametrize("method", CONDENSERS)
def test_a_condensed_image_of_each_class_teaches_more_than_a_random_one(method, shared_data, outputs, tmp_path):
    """The promise of both methods: better than the random real images that they start from, with every seed."""
    write_clothes(shared_data, tmp_path)
    prepare = make_prepare(tmp_path / "train", tuple(CLOTHES))
    test = load_images(ImageSet.read(tmp_path / "val", classes=CLOTHES), 16)
    recipe = Recipe(30, evaluations=1, augmentation=Augmentation(flip=0.0))

    def accuracy(pixels: torch.Tensor, seed: int) -> float:
        torch.manual_seed(seed)
        train = ImageTensors(pixels, torch.arange(len(CLOTHES)))
        return train_classifier(build_network("convnet3", len(CLOTHES), 16), train, test, recipe, seed).last

    gains = []
    for seed in range(2):
        run = open_stage("08_condense", prepare=str(prepare), method=method, ipc=1, seed=seed, **SHORT[method])
        start = open_condenser(run).pixels()
        images, _ = condense(run)
        gains.append(accuracy(images.images, seed) - accuracy(start, seed))
    assert min(gains) > 0, gains


def test_too_few_originals_are_named(prepare):
    run = open_stage("08_condense", prepare=str(prepare), **SMALL | {"ipc": 41})
    with pytest.raises(ValueError, match=r"class 0 has 40 originals, fewer than condense\.ipc 41"):
        condense(run)
