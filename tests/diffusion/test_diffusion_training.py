"""The diffusion trainer: resuming, averaging, order of the data, interruption; and the latents that it trains on."""

import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_diffusion import BATCH, IMAGES, STEPS, equal, small_latents, small_trainer
from waits import HANG

from dgs_utils.diffusion.autoencoder import Autoencoder
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents, encode
from dgs_utils.diffusion.process import NoiseProcess
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.seeds import torch_rng

# ---- Resuming --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stop", [0, 1, 2, 5, STEPS])
def test_resuming_at_any_step_equals_an_undisturbed_run(tmp_path, stop):
    undisturbed = small_trainer(tmp_path / "a")
    expected = undisturbed.run()
    stopped = small_trainer(tmp_path / "b")
    stopped.run(until=stop)
    stopped.save()
    resumed = small_trainer(tmp_path / "b")
    assert resumed.step == stop
    assert equal(resumed.run(), expected)
    assert equal(resumed.parameters, undisturbed.parameters)
    assert resumed.losses == undisturbed.losses
    assert equal(resumed.criterion.state_dict(), undisturbed.criterion.state_dict())
    assert resumed.loss_table().equals(undisturbed.loss_table())


def test_checkpoints_are_written_on_the_way_and_serve_a_killed_run(tmp_path):
    expected = small_trainer(tmp_path / "a").run()
    killed = small_trainer(tmp_path / "b", checkpoint_every=2)

    def die_before_step_six(steps, **_):
        for step in steps:
            if step == 5:
                raise MemoryError
            yield step

    with pytest.raises(MemoryError):
        killed.run(progress=die_before_step_six)
    assert [f.name for f in (tmp_path / "b").glob("*.pt")] == ["checkpoint.pt"]
    resumed = small_trainer(tmp_path / "b")
    assert resumed.step == 4
    assert equal(resumed.run(), expected)


def test_the_seed_decides(tmp_path):
    first = small_trainer(tmp_path / "a").run()
    assert equal(small_trainer(tmp_path / "b").run(), first)
    assert not equal(small_trainer(tmp_path / "c", seed=1).run(), first)


# ---- What a step does ------------------------------------------------------------------------------------------------

def test_moving_average_equals_a_loop(tmp_path):
    trainer = small_trainer(tmp_path)
    average = {name: parameter.detach().double() for name, parameter in trainer.parameters.items()}
    for step in range(1, STEPS + 1):
        found = trainer.run(until=step)
        for name, parameter in trainer.parameters.items():
            average[name] = 0.8 * average[name] + 0.2 * parameter.detach().double()
            torch.testing.assert_close(found[name].double(), average[name], rtol=1e-5, atol=1e-6)


def test_only_the_given_parameters_move(tmp_path):
    trainer = small_trainer(tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == trainer.parameters.keys()
    assert not trainer.model.training


def test_conditions_translate_labels_for_the_model(tmp_path):
    """Classes 0 and 1 are the model's labels 3 and 1: only those rows, and the dropped label's, are ever trained."""
    trainer = small_trainer(tmp_path, steps=30)
    table = trainer.model.y_embedder.embedding_table.weight
    before = table.detach().clone()
    trainer.run()
    assert (table != before).any(1).tolist() == [False, True, False, True, False, True]


def test_loss_is_the_sum_of_its_terms_at_the_drawn_steps(tmp_path):
    """The first step without label dropout, by hand: one AdamW step from the same draws."""
    trainer = small_trainer(tmp_path, latents=small_latents(noisy=False, mirrors=1), minimax=False)
    trainer.model.y_embedder.dropout = 0.0
    twin = small_trainer(tmp_path, latents=trainer.latents, minimax=False)
    trainer.run(until=1)
    order = torch.randperm(IMAGES, generator=torch_rng("fine_tune", "order", 0, 0))[:BATCH]
    rng = torch_rng("fine_tune", "step", 0, 0)
    torch.randint(1, (BATCH,), generator=rng)  # the draw of mirror images
    t = torch.randint(1000, (BATCH,), generator=rng)
    noise = torch.randn(BATCH, 1, 4, 4, generator=rng)
    x, process = twin.latents.mean[order, 0], NoiseProcess()
    output = twin.model.eval()(process.add_noise(x, t, noise), t, torch.tensor([3, 1])[twin.latents.labels[order]])
    loss = process.training_loss(output, x, t, noise)
    loss.loss.mean().backward()
    row = trainer.loss_table().iloc[0]
    assert row["mse"] == pytest.approx(loss.mse.mean().item(), rel=1e-5)
    assert row["vb"] == pytest.approx(loss.vb.mean().item(), rel=1e-5)
    assert row[["representative", "diverse"]].tolist() == [0, 0]
    for name, parameter in twin.parameters.items():  # Adam's first step is lr · sign of the gradient, without decay
        step = 1e-2 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(trainer.parameters[name], parameter - step, rtol=1e-4, atol=1e-5)


def test_minimax_terms_come_in_from_the_second_batch_of_a_class(tmp_path):
    trainer = small_trainer(tmp_path, steps=40)
    trainer.run()
    table = trainer.loss_table()
    assert table.columns.tolist() == ["step", "mse", "vb", "representative", "diverse"]
    assert table["step"].tolist() == list(range(1, 41))
    assert table.loc[0, ["representative", "diverse"]].tolist() == [0, 0]
    assert (table.loc[1:, "representative"] > 0).all()
    assert table["representative"].max() <= 0.5 * 2  # λ · (1 − cos)
    assert table["diverse"].abs().max() <= 0.5


def test_training_learns(tmp_path):
    """A single image is learnt by heart: the noise loss falls far below that of guessing, which is 1."""
    latents = Latents(torch.ones(8, 1, 1, 4, 4), torch.empty(0), torch.zeros(8, dtype=torch.int64))
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=1, hidden_size=32, depth=2, num_heads=2, num_classes=1)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainer = Trainer(model, parameters, latents, torch.tensor([0]), Schedule(300, 8, 3e-3, 0.9), None,
                      tmp_path / "checkpoint.pt")
    trainer.run()
    mse = trainer.loss_table()["mse"]
    assert mse[:5].mean() > 0.8
    assert mse[-50:].mean() < 0.3


def test_bf16_trains_with_single_precision_weights(tmp_path):
    full, half = small_trainer(tmp_path / "a"), small_trainer(tmp_path / "b", precision="bf16")
    expected, found = full.run(), half.run()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert not equal(found, expected)
    torch.testing.assert_close(half.losses[0][0], full.losses[0][0], rtol=0.05, atol=0)


# ---- Order of the data -----------------------------------------------------------------------------------------------

class Recorded(Latents):
    """Latents that remember which images were drawn."""

    def draw(self, indices, rng):
        self.__dict__.setdefault("drawn", []).append(indices.tolist())
        return super().draw(indices, rng)


@pytest.mark.parametrize(("images", "batch", "per_epoch"), [(8, 3, 2), (9, 3, 3), (2, 5, 1)])
def test_epochs_walk_through_permutations_and_drop_the_rest(tmp_path, images, batch, per_epoch):
    plain = small_latents(images)
    latents = Recorded(plain.mean, plain.std, plain.labels)
    small_trainer(tmp_path, steps=8 * per_epoch, latents=latents, batch_size=batch).run()
    batches = latents.drawn
    assert {len(b) for b in batches} == {min(batch, images)}
    epochs = [[*chain(*batches[e * per_epoch:(e + 1) * per_epoch])] for e in range(8)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == per_epoch * min(batch, images)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert set(chain(*epochs)) == set(range(images))  # what an epoch drops, others take


# ---- Things that go wrong --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [0, 1])
def test_nan_loss_names_step_images_and_checkpoint(tmp_path, bad):
    order = torch.randperm(IMAGES, generator=torch_rng("fine_tune", "order", 0, 0))
    latents = small_latents()
    latents.mean[order[bad * BATCH]] = torch.nan
    trainer = small_trainer(tmp_path, latents=latents, steps=8, checkpoint_every=1)
    with pytest.raises(FloatingPointError) as caught:
        trainer.run()
    images = order[bad * BATCH:(bad + 1) * BATCH].tolist()
    assert str(caught.value).startswith(f"the loss is nan at step {bad + 1} (images {images}); lower the learning")
    last = f"the last good checkpoint is {tmp_path / 'checkpoint.pt'}" if bad else "there is no checkpoint yet"
    assert str(caught.value).endswith(last)
    assert all(p.isfinite().all() for p in trainer.parameters.values())
    assert trainer.step == bad
    if bad:
        assert small_trainer(tmp_path, latents=latents).step == bad


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from small_diffusion import small_trainer

def announce(steps, **_):
    for step in steps:
        if step == 3:
            print("running", flush=True)
        yield step

small_trainer(Path({folder!r}), steps=10**6, checkpoint_every=10**9).run(progress=announce)
"""


def test_sigterm_writes_a_checkpoint_to_go_on_from(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parents[1] / "helpers"), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    assert process.stdout.readline() == "running\n", process.communicate()[1]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGTERM
    resumed = small_trainer(tmp_path, steps=10**6)
    assert resumed.step >= 4
    undisturbed = small_trainer(tmp_path / "other", steps=10**6)
    assert equal(resumed.run(until=resumed.step + 2), undisturbed.run(until=resumed.step))


def test_ctrl_c_lets_the_step_finish(tmp_path):
    trainer = small_trainer(tmp_path, checkpoint_every=10**9)

    def interrupt_in_step_three(steps, **_):
        for step in steps:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        trainer.run(progress=interrupt_in_step_three)
    expected = small_trainer(tmp_path / "other").run()
    assert equal(small_trainer(tmp_path).run(), expected)


def test_signal_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    small_trainer(tmp_path).run(until=1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# ---- Latents ---------------------------------------------------------------------------------------------------------

def test_latents_draw_mirrors_and_noise():
    mean = torch.zeros(2, 2, 1, 8, 8)
    mean[:, 1] = 10
    latents = Latents(mean, torch.full_like(mean, 0.5), torch.tensor([0, 1]))
    drawn = latents.draw(torch.zeros(2000, dtype=torch.int64), torch_rng("draw"))
    mirrored = drawn.mean((1, 2, 3)) > 5
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 2000**0.5)
    rest = drawn - 10 * mirrored[:, None, None, None]
    assert rest.mean().item() == pytest.approx(0, abs=5 * 0.5 / rest.numel() ** 0.5)
    assert rest.std().item() == pytest.approx(0.5, abs=5 * 0.5 / (2 * rest.numel()) ** 0.5)
    assert torch.equal(drawn, latents.draw(torch.zeros(2000, dtype=torch.int64), torch_rng("draw")))
    plain = Latents(mean[:, :1], torch.empty(0), latents.labels)
    assert not plain.draw(torch.tensor([0, 1]), torch_rng("draw")).any()


def test_latents_survive_saving(tmp_path):
    for noisy in (True, False):
        latents = small_latents(noisy=noisy)
        latents.save(tmp_path / "latents.safetensors")
        again = Latents.load(tmp_path / "latents.safetensors")
        assert len(again) == IMAGES
        assert all(torch.equal(getattr(again, name), getattr(latents, name)) for name in ("mean", "std", "labels"))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoding_pixels(tmp_path, mirror, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"c{i % 2}" / f"{i}.png")
    found = encode(ImageSet.read(tmp_path), Autoencoder(channels), size=6, mirror=mirror, batch_size=2, warn=str)
    seen = images if channels == 3 else images @ np.array([[0.299], [0.587], [0.114]])
    expected = torch.from_numpy(seen[[0, 2, 4, 1, 3]] / 127.5 - 1).permute(0, 3, 1, 2).float()
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.mean.shape == (5, 1 + mirror, channels, 6, 6)
    torch.testing.assert_close(found.mean[:, 0], expected)
    if mirror:
        torch.testing.assert_close(found.mean[:, 1], expected.flip(3))
    assert found.std.numel() == 0


class Blurry(Autoencoder):
    """An autoencoder with a posterior deviation: four times the mean's magnitude."""

    def encode(self, images):
        mean = images.mean((2, 3), keepdim=True)
        return mean, 4 * mean.abs()


def test_encoding_keeps_the_posterior_deviation(tmp_path):
    (tmp_path / "c").mkdir()
    for i, value in enumerate((0, 255, 51)):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / "c" / f"{i}.png")
    found = encode(ImageSet.read(tmp_path), Blurry(), size=4, mirror=True, batch_size=2)
    torch.testing.assert_close(found.mean[:, 0, 0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    torch.testing.assert_close(found.std, 4 * found.mean.abs())
