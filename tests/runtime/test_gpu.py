"""Each stage's work, small, on a GPU against the CPU: ``pytest -m gpu -n 0``, skipped where there is none.

``DGS_TEST_DEVICE=cpu`` runs it where there is no GPU, to test the tests.
"""

import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from oracle import draw_weights
from small_training import TEST, TRAIN
from small_world import small_classifier, write_digits
from waits import HANG

from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.protocols import IDC, NO_AUGMENTATION, RDED
from dgs_utils.classifiers.scorer import extract_features
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.condense import CONDENSERS, condense_set
from dgs_utils.difficulty import score_images
from dgs_utils.diffusion.autoencoder import LatentAutoencoder
from dgs_utils.diffusion.difffit import add_difffit, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.sampling import SOLVERS, Guidance, ModeGuidance, sample
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.image_set import ImageSet
from dgs_utils.pool import decode_images
from dgs_utils.runtime.devices import TF32, to_device_packed
from dgs_utils.runtime.oom_backoff import OomBackoff
from dgs_utils.store.checkpoint import Checkpointer

pytestmark = pytest.mark.gpu
DEVICE = torch.device(os.environ.get("DGS_TEST_DEVICE", "cuda"))
PRECISIONS = ("fp32", "tf32", "bf16")
ERROR = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 6e-2}  # of what a few layers make, relative to its standard deviation
on_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU, not its stand-in")


@pytest.fixture(params=PRECISIONS)
def precision(request, monkeypatch) -> str:
    """The name of a precision; that of the kit, which has one name for TF32 and exact fp32, is `kits`."""
    monkeypatch.setenv(TF32, "on" if request.param == "tf32" else "off")
    return request.param


def kits(precision: str) -> str:
    return "bf16" if precision == "bf16" else "fp32"


def assert_near(found, expected, precision: str) -> None:
    found, expected = (torch.as_tensor(np.asarray(x)).double() for x in (found, expected))
    assert (found - expected).square().mean().sqrt() < ERROR[precision] * expected.std()


def dit(device: torch.device = DEVICE) -> DiT:
    model = DiT(input_size=8, patch_size=2, in_channels=4, hidden_size=64, depth=3, num_heads=4, num_classes=3)
    return draw_weights(model, seed=0).to(device).eval()


def sampled(model: DiT, precision: str = "fp32", solver: str = "ancestral", n: int = 3, **options) -> torch.Tensor:
    rngs = [torch.Generator().manual_seed(i) for i in range(n)]
    labels = torch.arange(n) % 3
    return sample(model, labels, rngs, steps=8, guidance=Guidance(4.0), solver=solver, precision=precision,
                  **options).cpu()


# ---- Evaluation ------------------------------------------------------------------------------------------------------

def trained(device: torch.device, recipe: Recipe, norm: str = "instance", checkpointer: Checkpointer | None = None):
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(build_network("convnet3", 10, 8, norm).to(device))
    return train_classifier(networks[0], TRAIN.to(device), TEST.to(device), recipe, teacher=networks[1],
                            checkpointer=checkpointer)


@pytest.mark.parametrize("protocol", [IDC, RDED])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_training_is_that_of_the_cpu(protocol, norm, precision):
    recipe = Recipe(3, 16, evaluations=3, augmentation=protocol.augmentation, protocol=protocol)
    found = trained(DEVICE, replace(recipe, precision=kits(precision)), norm)
    expected = trained(torch.device("cpu"), recipe, norm)
    np.testing.assert_allclose(found.curve["loss"], expected.curve["loss"], rtol=5 * ERROR[precision])


def test_a_training_resumes(tmp_path):
    class Stopping(Checkpointer):
        def maybe_save(self, state):
            self.save(state())
            if state()["epochs_done"] == 2:
                raise KeyboardInterrupt

    recipe = Recipe(4, 16, evaluations=4)
    with pytest.raises(KeyboardInterrupt):
        trained(DEVICE, recipe, checkpointer=Stopping(tmp_path / "state.pt"))
    found = trained(DEVICE, recipe, checkpointer=Checkpointer(tmp_path / "state.pt"))
    pd.testing.assert_frame_equal(found.curve.drop(columns="top1"), trained(DEVICE, recipe).curve.drop(columns="top1"),
                                  rtol=1e-3)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_compiled_steps_which_are_cuda_graphs_are_the_same_steps_in_every_repeat(norm):
    recipe, sets = Recipe(3, 16, augmentation=NO_AUGMENTATION), (TRAIN.to(DEVICE), TEST.to(DEVICE))
    compiled, eager = (Evaluator("convnet3", *sets, replace(recipe, compile=switch), 10, norm)
                       for switch in ("on", "off"))
    for seed in (0, 1):
        found, expected = (evaluator.train(seed) for evaluator in (compiled, eager))
        assert found.compiled
        np.testing.assert_allclose(found.curve["loss"], expected.curve["loss"], rtol=1e-2)


# ---- Diffusion -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("solver", ["ancestral", "mgd3", *SOLVERS])
def test_latents_are_those_of_the_cpu(solver, precision):
    pull = {"modes": ModeGuidance(torch.ones(3, 4, 8, 8), stop=2)} if solver == "mgd3" else {}
    solver = "ancestral" if pull else solver
    expected = sampled(dit(torch.device("cpu")), solver=solver, **pull)
    found = sampled(dit().store_matrices(kits(precision)), kits(precision), solver, **pull)
    assert_near(found, expected, precision)


@on_cuda
def test_a_compiled_model_samples_the_same():
    model = dit().store_matrices("bf16")
    expected = sampled(model, "bf16")
    model.compile()
    assert_near(sampled(model, "bf16"), expected, "bf16")


def fine_tuned(device: torch.device, precision: str, folder: Path | None = None, until: int = 6) -> Trainer:
    model = add_difffit(dit(torch.device("cpu"))).to(device)
    rng = torch.Generator().manual_seed(0)
    latents = Latents(torch.randn(30, 2, 4, 8, 8, generator=rng), torch.ones(30, 2, 4, 8, 8), torch.arange(30) % 3)
    trainer = Trainer(model, trainable_parameters(model), latents, torch.arange(3),
                      Schedule(6, 8, 1e-3, 0.9, precision=precision, checkpoint_every=3), MinimaxCriterion(6),
                      folder / "last.pt" if folder else None)
    trainer.run(until)
    return trainer


def test_fine_tuning_is_that_of_the_cpu_and_resumes(precision, tmp_path):
    found = fine_tuned(DEVICE, kits(precision)).loss_table()
    expected = fine_tuned(torch.device("cpu"), "fp32").loss_table()
    np.testing.assert_allclose(found["mse"], expected["mse"], rtol=5 * ERROR[precision])
    fine_tuned(DEVICE, kits(precision), tmp_path, until=3)
    resumed = fine_tuned(DEVICE, kits(precision), tmp_path)
    np.testing.assert_allclose(resumed.loss_table()["mse"], found["mse"], rtol=1e-3)


def test_images_are_decoded_as_on_the_cpu(precision):
    torch.manual_seed(0)
    autoencoder = LatentAutoencoder(diffusers.AutoencoderTiny())
    latents = torch.randn(3, 4, 8, 8)
    expected = decode_images(autoencoder, latents).astype(int)
    found = decode_images(autoencoder.store_matrices(kits(precision)).to(DEVICE), latents.to(DEVICE), kits(precision))
    assert np.abs(found.astype(int) - expected).mean() < 255 * ERROR[precision]


@on_cuda
def test_memory_that_is_too_small_halves_a_batch():
    model, said = dit(), []
    expected = sampled(model, n=512)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sampled(model, n=512)
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 0.75 * (peak - before)) / total)
    try:
        def work(rows: range) -> torch.Tensor:
            rngs = [torch.Generator().manual_seed(i) for i in rows]
            return sample(model, torch.tensor([i % 3 for i in rows]), rngs, steps=8, guidance=Guidance(4.0)).cpu()

        found = torch.cat(OomBackoff("batch_size", 512, said.append)(work, range(512)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(said) == 1
    assert_near(found, expected, "fp32")


# ---- Scorers, condensation, several GPUs -----------------------------------------------------------------------------

def test_scores_and_features_are_those_of_the_cpu(tmp_path, precision):
    images = ImageSet.read(write_digits(tmp_path / "scans", 0, 8))
    scorer = deepcopy(small_classifier())
    expected = score_images(images, scorer, device="cpu"), extract_features(images, scorer, "cpu")
    found = score_images(images, scorer, device=str(DEVICE), precision=kits(precision))
    np.testing.assert_allclose(found["score"], expected[0]["score"], atol=2 * ERROR[precision])
    assert_near(extract_features(images, scorer, str(DEVICE)), expected[1], "tf32")


@pytest.mark.parametrize("method", CONDENSERS)
def test_condensing_is_that_of_the_cpu(method):
    originals = ImageTensors(TRAIN.images.repeat(1, 1, 2, 2), TRAIN.labels % 3)
    found, expected = (condense_set(originals, method, 2, iterations=2, real_batch=6, inner_loops=2, device=device)[1]
                       for device in (str(DEVICE), "cpu"))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=0.05)


@on_cuda
def test_what_is_sent_arrives():
    sent = [torch.rand(3, 2), torch.arange(5), torch.tensor([True, False, True]), torch.rand(0, 4),
            torch.rand(7).half()]
    for found, expected in zip(to_device_packed(sent, DEVICE), sent, strict=True):
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), expected)


needs_two = pytest.mark.skipif(DEVICE.type != "cuda" or torch.cuda.device_count() < 2, reason="needs two GPUs")


@needs_two
def test_the_second_gpu_does_the_same():
    second = torch.device("cuda:1")
    recipe = Recipe(2, 16)
    np.testing.assert_allclose(trained(second, recipe).curve["loss"], trained(DEVICE, recipe).curve["loss"], rtol=1e-3)
    assert_near(sampled(dit(second)), sampled(dit()), "fp32")


@needs_two
def test_two_processes_train_as_one(tmp_path):
    script = (f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'helpers')!r})\n"
              "import os; from pathlib import Path; from small_diffusion import make_prepare\n"
              "from dgs_utils import fine_tune; from small_world import open_stage\n"
              "import numpy as np\n"
              "def losses(count):\n"
              "    run = open_stage('01_fine_tune', prepare=str(make), steps=6, processes=count, batch_size=6,\n"
              "                     output=str(Path(os.environ['DGS_OUTPUTS']) / str(count)))\n"
              "    return fine_tune.fine_tune(run)['mse']\n"
              "make = make_prepare()\n"
              "np.testing.assert_allclose(losses(2), losses(1), rtol=1e-2)\n")
    environment = os.environ | {"DGS_OUTPUTS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
