"""Stage 01: what is written, several processes as one, signals, and curves that are drawn live."""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import nbformat
import numpy as np
import pytest
import small_grid
import torch
from restamp import certify
from small_diffusion import make_prepare
from small_stages import BATCH, STEPS, fine_tuned, open_fine_tune, results
from small_world import open_stage
from waits import HANG, wait_for

from dgs_utils import fine_tune
from dgs_utils.diffusion.difffit import add_difffit, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.process_group import ProcessGroup
from dgs_utils.params import validate


@pytest.fixture
def prepare(outputs) -> Path:
    return make_prepare()


def assert_same(found, expected) -> None:
    """Compare weights and losses, up to the order of summation."""
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


# ---- What is written -----------------------------------------------------------------------------------------------

def test_the_average_at_the_last_step_is_written(prepare):
    run = open_fine_tune(prepare, "three", steps=3)
    trainer = fine_tune.build_trainer(run)
    expected = {name: tensor.clone() for name, tensor in trainer.run(until=3).items()}
    weights, losses = fine_tuned(prepare, "three", steps=3)
    assert len(losses) == 3
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert not run.warnings
    assert not (run.folder / "checkpoints" / "last.pt").exists()


def test_without_a_folder_weights_and_losses_are_the_stages(prepare):
    settings = {"steps": STEPS, "batch_size": BATCH, "learning_rate": 1e-2}
    run = open_stage("01_fine_tune", prepare=str(prepare), output=str(prepare.parents[1] / "stage"), **settings)
    fine_tune.fine_tune(run)
    weights, losses = results(run)
    base, state = DiT.from_pretrained(prepare / "dit"), torch.get_rng_state()
    found, table = fine_tune.fine_tune_model(base, Latents.load(prepare / "latents.safetensors"), [2, 0, 1],
                                             device="cpu", **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    np.testing.assert_array_equal(table, losses)
    with pytest.raises(ValueError, match=r"fine_tune\.step is not a parameter .* did you mean 'steps'"):
        fine_tune.fine_tune_model(base, Latents.load(prepare / "latents.safetensors"), step=3)


@pytest.mark.parametrize(("values", "images", "steps"), [({"steps": 9}, 100, 9), ({"epochs": 8}, 12_454, 12_448),
                                                           ({"epochs": 2}, 3, 2)])
def test_steps_as_given_or_by_epochs(values, images, steps):
    """The published run on ImageWoof: 8 epochs of 1,556 full batches of 8."""
    assert fine_tune.total_steps(validate("01_fine_tune", values), images) == steps


def test_gradient_checkpointing_changes_nothing(prepare):
    plain, frugal = fine_tuned(prepare, "plain"), fine_tuned(prepare, "frugal", gradient_checkpointing=True)
    assert plain[1].equals(frugal[1])
    assert all(torch.equal(frugal[0][name], tensor) for name, tensor in plain[0].items())


def test_the_largest_model_fits_by_count():
    """DiT-XL/2 at batch 8, counted without a GPU: weights, what backward needs, gradients and averages, in fp32."""
    needed = []
    for frugal in (False, True):
        with torch.device("meta"):
            model = add_difffit(DiT.from_size("DiT-XL/2", input_size=32, in_channels=4)).train()
            inputs = torch.zeros(8, 4, 32, 32), torch.zeros(8), torch.zeros(8, dtype=torch.int64)
        trained = sum(parameter.numel() for parameter in trainable_parameters(model).values())
        assert trained == 1_739_552  # as published
        if frugal:
            model.enable_gradient_checkpointing()
        kept = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in model.parameters()}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(*inputs)  # alive until here, so that no storage's number is given twice
        needed.append(sum(kept.values()) + 4 * 4 * trained)
        del output
    assert needed[0] < 12 * 2**30  # leaves a quarter of 16 GiB to what comes and goes
    assert needed[1] < needed[0] / 2


# ---- Several processes -----------------------------------------------------------------------------------------------

@pytest.mark.slow  # starts processes that import everything anew
def test_sigterm_stops_two_processes_at_one_step_and_they_go_on_and_equal_one(prepare, monkeypatch):
    folder = prepare.parents[1] / "stopped"

    def stop() -> None:
        wait_for((folder / "checkpoints" / "losses.csv").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM"))
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    try:
        with pytest.raises(SystemExit, match="SIGTERM"):
            fine_tuned(prepare, "stopped", steps=400, processes=2)
    finally:
        thread.join(HANG)
        signal.signal(signal.SIGTERM, before)
    reached = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert 0 < reached < 400
    shutil.copytree(folder, folder.parent / "alone")
    monkeypatch.setattr(fine_tune, "last_step", lambda run: reached + 3)
    run, seen = open_fine_tune(prepare, "stopped", steps=400, processes=2), []
    fine_tune.fine_tune(run, on_losses=lambda losses: seen.append(len(losses())))
    assert max(seen, default=0) <= reached + 3
    expected = fine_tuned(prepare, "one", steps=400)
    assert_same(results(run), expected)
    assert_same(fine_tuned(prepare, "alone", steps=400), expected)  # one process goes on where two were stopped
    assert run.finish()["files"].keys() == {"difffit.safetensors", "losses.csv"}


@pytest.mark.slow  # starts processes that import everything anew
def test_what_goes_wrong_in_a_process_is_told_by_the_notebook_s(prepare):
    latents = Latents.load(prepare / "latents.safetensors")
    latents.mean[:] = torch.nan
    latents.save(prepare / "latents.safetensors")
    certify(prepare)
    with pytest.raises(RuntimeError, match=r"the loss is nan at step 1 \(images \[.*there is no checkpoint yet$"):
        fine_tuned(prepare, "wrong", processes=2)


@pytest.mark.parametrize(("n", "count"), [(8, 1), (8, 2), (8, 3), (3, 3)])
def test_parts_of_a_batch_are_a_partition(n, count):
    parts = [range(n)[ProcessGroup(index, count).rows(n)] for index in range(count)]
    assert [item for part in parts for item in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_processes_by_default_and_too_many():
    visible = torch.cuda.device_count() or 1
    assert fine_tune.process_count(validate("01_fine_tune", {"batch_size": 64})) == visible
    assert fine_tune.process_count(validate("01_fine_tune", {"processes": 3})) == 3
    with pytest.raises(ValueError, match=r"fine_tune\.processes is 9, but a batch has only 8 images to share; lower"):
        fine_tune.process_count(validate("01_fine_tune", {"processes": 9}))


# ---- Live curves -----------------------------------------------------------------------------------------------------

LIVE = """
import time
import matplotlib.pyplot as plt
from dgs_utils.plots.live import LiveFigure

def draw(numbers):
    figure, axis = plt.subplots()
    axis.plot(numbers)
    drawn.append(len(numbers))
    return figure

drawn = []
live = LiveFigure(draw, seconds=0.01)
for n in (1, 2):
    time.sleep(max(live.next_draw_at - time.monotonic(), 0))
    live(lambda: [0] * n)
    live(lambda: 1 / 0)  # too early for another drawing
"""


def test_live_curves_are_drawn_in_place_and_seldom(tmp_path):
    cells = [nbformat.v4.new_code_cell(LIVE), nbformat.v4.new_code_cell("drawn, plt.get_fignums()")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "live.ipynb")
    small_grid.execute(tmp_path / "live.ipynb", tmp_path / "executed.ipynb")
    notebook = nbformat.read(tmp_path / "executed.ipynb", 4)
    [image] = notebook.cells[0].outputs
    assert "image/png" in image["data"]
    assert notebook.cells[1].outputs[0]["data"]["text/plain"] == "([1, 2], [])"
