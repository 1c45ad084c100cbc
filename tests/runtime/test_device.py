"""Work on a device that is not the CPU: no two devices meet, and the host waits and copies as seldom as promised.

The draws stay on the CPU, model and data are on the meta device (see `meter`).
"""

from copy import deepcopy

import diffusers
import numpy as np
import pytest
import torch
from meter import DEVICE, Meter
from oracle import draw_weights
from small_world import small_classifier, write_digits

from dgs_utils.classifiers.augmentation import constants
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.networks import NETWORKS, build_network
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.protocols import IDC, RDED, Augmentation
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig, extract_features
from dgs_utils.classifiers.teachers import teacher_of
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.condense import CONDENSERS
from dgs_utils.difficulty import score_images
from dgs_utils.diffusion.autoencoder import Autoencoder, LatentAutoencoder
from dgs_utils.diffusion.caching import enable_taylorseer
from dgs_utils.diffusion.difffit import add_difffit, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.sampling import SOLVERS, Guidance, ModeGuidance, sample
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import CondenseParams, validate
from dgs_utils.pool import decode_images
from dgs_utils.runtime.devices import TF32, autocast, memory_format

CLASSES = 3


def there(n: int, size: int) -> ImageTensors:
    labels = torch.arange(n) % CLASSES
    return ImageTensors(torch.zeros(n, 3, size, size, dtype=torch.uint8).to(DEVICE), labels.to(DEVICE))


def small_dit(channels: int = 4) -> DiT:
    model = DiT(input_size=8, patch_size=2, in_channels=channels, hidden_size=32, depth=2, num_heads=2,
                num_classes=CLASSES)
    return draw_weights(model, seed=0)


# ---- The meter itself ------------------------------------------------------------------------------------------------

def test_the_meter_counts_what_a_gpu_would_be_asked_for():
    numbers, here = torch.zeros(4).to(DEVICE), torch.arange(4)
    for work, waits, copies, kernels in (
            (lambda: numbers.sum().item(), 1, 0, 1), (lambda: numbers.tolist(), 1, 0, 0),
            (lambda: numbers.cpu(), 1, 0, 0), (lambda: here.to(DEVICE), 0, 1, 0),
            (lambda: numbers.new_tensor([1.0]), 0, 1, 0), (lambda: torch.tensor([1.0], device=DEVICE), 0, 1, 0),
            (lambda: numbers[here], 1, 1, 1), (lambda: numbers[:2] + 1, 0, 0, 1), (lambda: here.tolist(), 0, 0, 0),
            (lambda: bool(numbers[0] > 0), 1, 0, 1)):
        with Meter() as meter:
            work()
        assert (meter.waits, meter.copies, meter.kernels) == (waits, copies, kernels)


def test_the_meter_refuses_two_devices():
    with Meter(), pytest.raises(AssertionError, match="meets a tensor"):
        torch.zeros(4).to(DEVICE) + torch.zeros(4)
    with Meter(), pytest.raises(AssertionError, match="waits to count"):
        torch.zeros(4).to(DEVICE)[torch.zeros(4) > 0]


# ---- Classifiers -----------------------------------------------------------------------------------------------------

def metered_training(recipe: Recipe, network: str = "convnet3", norm: str = "instance", size: int = 16) -> Meter:
    net = build_network(network, CLASSES, size, norm).to(DEVICE)
    train, test = there(10, size), there(6, size)
    constants(DEVICE, torch.float32)  # which stay there once they are made
    scorer = deepcopy(small_classifier(CLASSES)).to(DEVICE) if recipe.protocol.temperature else None
    teacher = teacher_of(scorer, np.array([2, 0, 1])) if scorer else None
    with Meter() as meter:
        train_classifier(net, train, test, recipe, teacher=teacher)
    return meter


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_network_trains_on_a_device(network, norm):
    metered_training(Recipe(1, 8, evaluations=1), network, norm, 64)


@pytest.mark.parametrize(("protocol", "tiles"), [(IDC, 1), (RDED, 1), (RDED, 2)])
def test_an_epoch_of_the_evaluator_waits_for_nothing_and_is_sent_at_once(protocol, tiles):
    """What an epoch of two steps adds: one copy, no wait; a test adds one wait."""
    augmentation = Augmentation(tiles=tiles, crop=0.5)
    counts = {epochs: metered_training(Recipe(epochs, 8, evaluations=1, augmentation=augmentation, protocol=protocol))
              for epochs in (1, 2)}
    assert counts[2].copies - counts[1].copies == 1
    assert counts[2].waits == counts[1].waits == 3  # the numbers of the one test; predictions, last and best
    tested = metered_training(Recipe(2, 8, evaluations=2, augmentation=augmentation, protocol=protocol))
    assert tested.waits == counts[2].waits + 1


# ---- Diffusion -------------------------------------------------------------------------------------------------------

def metered_fine_tuning(steps: int, classes: int, tmp_path) -> Meter:
    model = add_difffit(small_dit()).to(DEVICE)
    latents = Latents(torch.zeros(30, 2, 4, 8, 8), torch.ones(30, 2, 4, 8, 8), torch.arange(30) % classes)
    schedule = Schedule(steps, 8, 1e-3, 0.99)
    trainer = Trainer(model, trainable_parameters(model), latents, torch.zeros(classes, dtype=torch.int64), schedule,
                      MinimaxCriterion(6), tmp_path / "last.pt")
    with Meter() as meter:
        trainer.run()
    return meter


@pytest.mark.parametrize("classes", [1, 3])
def test_a_step_of_fine_tuning_waits_once_and_copies_thrice(tmp_path, classes):
    """It waits for the losses, and copies the batch, the order of its classes, however many, and dropped labels."""
    short, long = (metered_fine_tuning(steps, classes, tmp_path) for steps in (2, 4))
    assert long.waits - short.waits == 2
    assert long.copies - short.copies == 6


def metered_sampling(steps: int, solver: str, modes: ModeGuidance | None, cached: bool = False) -> Meter:
    model = small_dit().to(DEVICE).eval()
    if cached:
        enable_taylorseer(model, 3)
    rngs = [torch.Generator().manual_seed(i) for i in range(3)]
    with Meter() as meter:
        found = sample(model, torch.zeros(3, dtype=torch.int64), rngs, steps=steps, solver=solver, modes=modes,
                       guidance=Guidance(4.0, interval=(0.1, 0.8)))
    assert found.device == DEVICE
    return meter


@pytest.mark.parametrize("solver", ["ancestral", "mgd3", *SOLVERS])
def test_sampling_waits_for_nothing(solver):
    modes = ModeGuidance(torch.zeros(3, 4, 8, 8), stop=3) if solver == "mgd3" else None
    solver = "ancestral" if modes else solver
    short, long = (metered_sampling(steps, solver, modes) for steps in (6, 8))
    assert long.waits == short.waits == 0
    if solver != "unipc":  # whose coefficients diffusers makes on the device at each step
        assert long.copies - short.copies == (2 if solver == "ancestral" else 0)  # fresh noise


def test_extrapolating_waits_for_nothing():
    short, long = (metered_sampling(steps, "dpm++", None, cached=True) for steps in (6, 20))
    assert (long.waits, long.copies) == (short.waits, short.copies) == (0, metered_sampling(6, "dpm++", None).copies)


@pytest.mark.parametrize("autoencoder", [Autoencoder(3), LatentAutoencoder(diffusers.AutoencoderTiny())])
def test_images_are_decoded_on_a_device_and_read_once(autoencoder):
    channels = autoencoder.channels
    latents = torch.zeros(3, channels, 8, 8).to(DEVICE)
    autoencoder.to(DEVICE)
    with Meter() as meter:
        assert decode_images(autoencoder, latents).dtype == np.uint8
    assert (meter.waits, meter.copies) == (1, 0)


# ---- Settings of a GPU -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("precision", "switch", "tf32"), [
    ("fp32", "on", True), ("fp32", "off", False), ("bf16", "on", False)])
def test_work_on_a_gpu_searches_for_fast_kernels_and_one_switch_allows_tf32(precision, switch, tf32, monkeypatch):
    """Without a GPU these settings are there, too. What bf16 leaves in fp32 is exact."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("PyTorch before 2.9 has other names for these settings")
    matmul.fp32_precision = convolution.fp32_precision = "ieee" if tf32 else "tf32"
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setenv(TF32, switch)
    autocast(torch.device("cuda"), precision)
    assert torch.backends.cudnn.benchmark
    assert matmul.fp32_precision == convolution.fp32_precision == ("tf32" if tf32 else "ieee")


@pytest.mark.parametrize(("capability", "told"), [("AVX2", 1), ("AVX512", 0)])
def test_a_processor_without_bf16_says_so(capability, told, monkeypatch, recwarn):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    autocast(torch.device("cpu"), "fp32")
    assert not recwarn
    autocast(torch.device("cpu"), "bf16")
    assert [str(warning.message)[:44] for warning in recwarn] == told * ["this processor has no instructions for bf16,"]


@pytest.mark.parametrize(("norm", "layout"), [("batch", torch.channels_last), ("instance", torch.contiguous_format)])
def test_the_layout_follows_the_norm(norm, layout):
    """Group norm would bring each image back to the other layout."""
    network = build_network("convnet3", CLASSES, 8, norm)
    assert memory_format(network) == layout
    scorer = Classifier(network, ClassifierConfig("dgs:convnet3", CLASSES, ResizeCrop(8, 8), norm)).on(DEVICE)
    assert scorer.network.conv[1].weight.is_contiguous(memory_format=layout)
    assert scorer.send(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).is_contiguous(memory_format=layout)


# ---- Scorers and condensation ----------------------------------------------------------------------------------------

def test_a_scorer_scores_on_a_device_and_is_read_once_a_batch(tmp_path):
    images = ImageSet.read(write_digits(tmp_path / "scans", 0, 8))
    scorer = deepcopy(small_classifier(CLASSES)).to(DEVICE)
    with Meter() as meter:
        score_images(images, scorer, batch_size=8, device="meta", workers=1)
    assert (meter.waits, meter.copies) == (3, 3)
    with Meter() as meter:
        assert extract_features(images, scorer, "meta", batch_size=8, workers=1).shape == (24, 128)
    assert (meter.waits, meter.copies) == (3, 3)


@pytest.mark.parametrize("method", CONDENSERS)
def test_an_iteration_of_condensing_waits_once(method):
    values = {"method": method, "ipc": 2, "image_size": 8, "real_batch": 6, "inner_loops": 2, "pretrain_epochs": 1}
    waits, real = [], ImageTensors(torch.zeros(30, 3, 8, 8, dtype=torch.uint8), torch.arange(30) % CLASSES)
    for iterations in (1, 2):
        params = validate(CondenseParams.stage, values | {"iterations": iterations})
        condenser = CONDENSERS[method](real, ["a", "b", "c"], params, True, DEVICE)
        with Meter() as meter:
            condenser.optimise()
        waits.append(meter.waits)
    assert waits[1] - waits[0] == 1
