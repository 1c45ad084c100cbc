"""Part results: whatever happens to one on the disk, it is named and made again, and the result is as undisturbed."""

import random
import shutil
from contextlib import suppress
from itertools import cycle, product
from pathlib import Path

import pytest
from damage import KINDS, damage
from hypothesis import given, settings
from hypothesis import strategies as st
from small_diffusion import equal, small_trainer
from small_diffusion import make_prepare as make_diffusion
from small_stages import evaluated, finish_prepare, generated, open_pool, open_run, written_files
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import condense, difficulty, fine_tune, pool, prepare
from dgs_utils.difficulty import score_source
from dgs_utils.images import prepare_dataset
from dgs_utils.store import manifest as manifests
from dgs_utils.store.checkpoint import Checkpointer
from dgs_utils.store.partial_results import verify_or_remove, write_verified

TOLD = "is not what was written there; it is made again"


class Stopping(Checkpointer):
    """Saves the state at once, as if the process had been asked to end."""

    def maybe_save(self, state):
        self.save(state())
        raise KeyboardInterrupt


@pytest.fixture
def chance() -> random.Random:
    return random.Random(0)


def contents(folder: Path) -> dict[str, dict]:
    return manifests.hash_entries(folder)[0]


# ---- One part --------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=40), kind=st.sampled_from(KINDS), seed=st.integers(0, 99), folder=st.booleans())
def test_a_part_counts_exactly_as_long_as_its_bytes_do(tmp_path_factory, content, kind, seed, folder):
    place = tmp_path_factory.mktemp("parts")
    part, other = place / "part", place / "other"
    file = part / "a" / "b" if folder else part
    with write_verified(part) as partial:
        target = partial / "a" / "b" if folder else partial
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    other.write_bytes(b"other" + content)
    assert verify_or_remove(part)
    changed = damage(file, kind, [other], random.Random(seed))
    assert verify_or_remove(part) != changed
    assert part.exists() != changed
    assert not verify_or_remove(other)  # nobody's
    shutil.rmtree(place)


def test_a_kill_between_checksum_and_name_costs_nothing(tmp_path):
    path = tmp_path / "last.pt"
    with write_verified(path) as partial:
        partial.write_text("step 50")
    with suppress(KeyboardInterrupt), write_verified(path) as partial:
        partial.write_text("step 60")
        raise KeyboardInterrupt
    assert verify_or_remove(path)
    with write_verified(path) as partial:
        partial.write_text("step 70")
    with write_verified(path) as partial:
        partial.write_text("step 80")
    path.write_text("step 70")  # the checksum of step 80 is there, its file is not yet
    assert verify_or_remove(path)
    (tmp_path / ".last.pt.sums").write_text("[" * 10_000)
    assert not verify_or_remove(path)


# ---- Stages that were stopped ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["0.csv", "1.npy"])
def test_damaged_repeats(tmp_path, outputs, chance, capsys, name, kind):
    write_digits(tmp_path / "originals" / "train", 0, 12)
    write_digits(tmp_path / "originals" / "val", 12, 20)
    made = finish_prepare(tmp_path / "originals")
    run = open_run(made, write_digits(tmp_path / "mine", 30, 34))
    evaluated(run)
    before = contents(run.folder)
    folder = run.folder / "repeats"
    assert damage(folder / name, kind, [folder / ("1.csv" if name == "0.csv" else "0.csv")], chance)
    evaluated(run)
    assert contents(run.folder) == before
    assert (f"{folder / name} {TOLD}" in capsys.readouterr().out) == (kind != "delete")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_scores(tmp_path, outputs, chance, monkeypatch, capsys, kind):
    monkeypatch.setattr(difficulty.resumable, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(difficulty.resumable, "BATCH_SIZE", 8)
    run = open_stage("03_difficulty", source="originals",
                     prepare=str(make_prepare(write_digits(tmp_path / "originals", 0, 12))))
    score_source(run)
    before = contents(run.folder)
    blocks = sorted((run.folder / "checkpoints").glob("*.csv"))
    assert len(blocks) == 5
    assert damage(blocks[1], kind, blocks[2:4], chance)
    (run.folder / "scores.csv").write_bytes((run.folder / "scores.csv").read_bytes()[:-20])
    score_source(run)
    assert contents(run.folder) == before
    told = capsys.readouterr().out
    assert f"scores.csv {TOLD}" in told
    assert (f"{blocks[1]} {TOLD}" in told) == (kind != "delete")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pool_images(outputs, chance, capsys, kind):
    """Also such that another share has made, and such that were there before the pool grew."""
    made = make_diffusion()
    undisturbed = generated(made, "undisturbed", images_per_class=9)
    run = generated(made, "pool", images_per_class=7)
    run.finish()
    assert not (run.folder / "checkpoints" / "sums").exists()
    images = sorted((run.folder / "images").rglob("*.png"))
    first = open_pool(made, "pool", images_per_class=9, shard="1/2")
    assert damage(images[4], kind, images[:3], chance)  # after opening, so that only the pool itself can see it
    pool.generate(first)
    first._close()
    assert damage(images[1], kind, images[2:6], chance)
    whole = generated(made, "pool", images_per_class=9)
    assert written_files(whole) == written_files(undisturbed)
    told = capsys.readouterr().out
    assert (f"{images[4]} {TOLD}" in told) == (kind != "delete")
    assert (f"{images[1]} {TOLD}" in told) == (kind != "delete")


def test_images_without_a_checksum_are_made_again(outputs):
    made = make_diffusion()
    run = generated(made, "pool")
    before = written_files(run)
    shutil.rmtree(run.folder / "checkpoints")
    for path in (run.folder / "images").rglob("*.png"):
        path.write_bytes(b"")
    pool.generate(run)
    assert written_files(run) == before


def test_an_archive_that_was_unpacked_in_part_is_unpacked_again(tmp_path, outputs):
    write_digits(tmp_path / "pool", 20, 30)
    archive = Path(shutil.make_archive(str(tmp_path / "theirs"), "zip", tmp_path / "pool"))
    made = make_prepare(write_digits(tmp_path / "originals", 0, 12))
    options = {"generator": "folder", "root": str(archive), "prepare": str(made)}
    run = open_stage("02_pool", **options)
    unpacked = run.folder / "unpacked" / "theirs"
    shutil.copytree(tmp_path / "pool" / "0", unpacked / "0")
    (unpacked / "0" / "0.png").write_bytes(b"")
    assert len(pool.generate(run)) == 30
    assert len(list((run.folder / "images").rglob("*.png"))) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints_of_a_training(tmp_path, chance, capsys, kind):
    expected = small_trainer(tmp_path / "undisturbed").run()
    stopped = [small_trainer(tmp_path / name, seed=seed)
               for name, seed in (("own", 0), ("other", 1))]
    for trainer in stopped:
        trainer.run(until=3)
        trainer.save()
    file = tmp_path / "own" / "checkpoint.pt"
    assert damage(file, kind, [tmp_path / "other" / "checkpoint.pt"], chance)
    again = small_trainer(tmp_path / "own")
    assert again.step == 0
    assert (f"{file} {TOLD}" in capsys.readouterr().out) == (kind != "delete")
    assert equal(again.run(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_states_of_condensing(tmp_path, outputs, chance, capsys, kind):
    """As for trainings of stage 06, whose states a `Checkpointer` keeps, too."""
    made = make_prepare(write_digits(tmp_path / "originals", 0, 12))
    options = {"prepare": str(made), "image_size": 8, "ipc": 1, "iterations": 3, "real_batch": 4, "inner_loops": 1,
               "net_batches": 1}
    whole, other, stopped = (open_stage("08_condense", **options, seed=seed, output=str(tmp_path / name))
                             for name, seed in (("a", 0), ("b", 1), ("c", 0)))
    condense.condense(whole)
    for run in (other, stopped):
        with pytest.raises(KeyboardInterrupt):
            condense.open_condenser(run).optimise(checkpointer=Stopping(run.folder / "checkpoints" / "last.pt"))
    file = stopped.folder / "checkpoints" / "last.pt"
    assert damage(file, kind, [other.folder / "checkpoints" / "last.pt"], chance)
    condense.condense(stopped)
    assert (f"{file} {TOLD}" in capsys.readouterr().out) == (kind != "delete")
    assert contents(stopped.folder) == contents(whole.folder)


def test_damaged_weights_latents_and_losses(tmp_path, outputs, chance, capsys):
    """Of 00 and 01, each part in turn."""
    root = write_digits(tmp_path / "originals", 0, 6)
    run = open_stage("00_prepare", dataset="folder", root=str(root), image_size=8, channels=1, train_steps=3,
                     train_batch=4, patch_size=2, hidden_size=16, depth=1, num_heads=2, classifier_epochs=10,
                     classifier_size=8, val_per_class=1, folds=2, dynamics=True)
    prepare_dataset.index_originals(run.params, run.folder)
    _prepare(run)
    before = contents(run.folder)
    parts = ["classifier/model.safetensors", "classifier_curve.csv", "folds/0/config.json", "folds/1.csv",
             "dynamics.safetensors", "snapshots/folds/1/1.safetensors", "latents.safetensors",
             "dit/diffusion_pytorch_model.safetensors", "dit_losses.csv"]
    others = [run.folder / name for name in parts]
    for name, kind in zip(parts, cycle(KINDS), strict=False):
        assert damage(run.folder / name, kind, others, chance), name
        _prepare(run)
        assert contents(run.folder) == before, name
        assert TOLD in capsys.readouterr().out or kind == "delete"
    run.finish()
    tuned = open_stage("01_fine_tune", prepare=str(run.folder), steps=3, batch_size=2)
    fine_tune.fine_tune(tuned)
    before = contents(tuned.folder)
    for name, kind in product(("difffit.safetensors", "losses.csv"), set(KINDS) - {"swap"}):
        assert damage(tuned.folder / name, kind, [], chance)
        fine_tune.fine_tune(tuned)
        assert contents(tuned.folder) == before


def _prepare(run) -> None:
    prepare.difficulty_classifier(run)
    autoencoder = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, autoencoder)
    prepare.train_base_model(run, prepare.encode_originals(run, autoencoder))
