"""Part results: whatever happens to one on the disk, it is named and made again, and the result is as undisturbed."""

import random
import shutil
from contextlib import suppress
from itertools import cycle, product
from pathlib import Path

import pytest
import test_diffusion_training
import test_evaluate
import test_pool
from damage import KINDS, damage
from hypothesis import given, settings
from hypothesis import strategies as st
from small_diffusion import make_prepare as make_diffusion
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import condense, difficulty, fine_tune, pool, prepare
from dgs_utils.artifacts import manifests
from dgs_utils.artifacts.midway import Midway
from dgs_utils.artifacts.parts import is_whole, kept
from dgs_utils.difficulty import score_source
from dgs_utils.images import datasets

TOLD = "is not what was written there; it is made again"


@pytest.fixture
def chance() -> random.Random:
    return random.Random(0)


def contents(folder: Path) -> dict[str, dict]:
    return manifests.checksums(folder)[0]


# ---- One part --------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=40), kind=st.sampled_from(KINDS), seed=st.integers(0, 99), folder=st.booleans())
def test_a_part_counts_exactly_as_long_as_its_bytes_do(tmp_path_factory, content, kind, seed, folder):
    place = tmp_path_factory.mktemp("parts")
    part, other = place / "part", place / "other"
    file = part / "a" / "b" if folder else part
    with kept(part) as partial:
        target = partial / "a" / "b" if folder else partial
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    other.write_bytes(b"other" + content)
    assert is_whole(part)
    changed = damage(file, kind, [other], random.Random(seed))
    assert is_whole(part) != changed
    assert part.exists() != changed
    assert not is_whole(other)  # nobody's
    shutil.rmtree(place)


def test_a_kill_between_checksum_and_name_costs_nothing(tmp_path):
    path = tmp_path / "last.pt"
    with kept(path) as partial:
        partial.write_text("step 50")
    with suppress(KeyboardInterrupt), kept(path) as partial:
        partial.write_text("step 60")
        raise KeyboardInterrupt
    assert is_whole(path)
    with kept(path) as partial:
        partial.write_text("step 70")
    with kept(path) as partial:
        partial.write_text("step 80")
    path.write_text("step 70")  # the checksum of step 80 is there, its file is not yet
    assert is_whole(path)
    (tmp_path / ".last.pt.sums").write_text("[" * 10_000)
    assert not is_whole(path)


# ---- Stages that were stopped ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["0.csv", "1.npy"])
def test_damaged_repeats(tmp_path, outputs, chance, capsys, name, kind):
    write_digits(tmp_path / "originals" / "train", 0, 12)
    write_digits(tmp_path / "originals" / "val", 12, 20)
    made = test_evaluate.finish_prepare(tmp_path / "originals")
    run = test_evaluate.open_run(made, write_digits(tmp_path / "mine", 30, 34))
    test_evaluate.evaluated(run)
    before = contents(run.folder)
    folder = run.folder / "repeats"
    assert damage(folder / name, kind, [folder / f"{1 - int(name[0])}{name[1:]}"], chance)
    test_evaluate.evaluated(run)
    assert contents(run.folder) == before
    assert (f"{folder / name} {TOLD}" in capsys.readouterr().out) == (kind != "delete")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_scores(tmp_path, outputs, chance, monkeypatch, capsys, kind):
    monkeypatch.setattr(difficulty, "BLOCK", 8)
    run = open_stage("03_difficulty", source="originals", batch_size=8,
                     prepare=str(make_prepare(write_digits(tmp_path / "originals", 0, 12))))
    score_source(run)
    before = contents(run.folder)
    blocks = sorted((run.folder / "checkpoints").glob("*.npy"))
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
    undisturbed = test_pool.generated(made, "undisturbed", images_per_class=9)
    run = test_pool.generated(made, "pool", images_per_class=7)
    run.finish()
    (run.folder / "checkpoints" / "sums").rename(run.folder / "gone")
    shutil.rmtree(run.folder / "gone")
    images = sorted((run.folder / "images").rglob("*.png"))
    first = test_pool.open_pool(made, "pool", images_per_class=9, shard="1/2")
    assert damage(images[4], kind, images[:3], chance)  # after opening, so that only the pool itself can see it
    pool.generate(first)
    first._close()
    assert damage(images[1], kind, images[2:6], chance)
    whole = test_pool.generated(made, "pool", images_per_class=9)
    assert test_pool.files(whole) == test_pool.files(undisturbed)
    told = capsys.readouterr().out
    assert (f"{images[4]} {TOLD}" in told) == (kind != "delete")
    assert (f"{images[1]} {TOLD}" in told) == (kind != "delete")


def test_images_without_a_checksum_are_made_again(outputs):
    made = make_diffusion()
    run = test_pool.generated(made, "pool")
    before = test_pool.files(run)
    shutil.rmtree(run.folder / "checkpoints")
    for path in (run.folder / "images").rglob("*.png"):
        path.write_bytes(b"")
    pool.generate(run)
    assert test_pool.files(run) == before


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
    expected = test_diffusion_training.small_trainer(tmp_path / "undisturbed").run()
    stopped = [test_diffusion_training.small_trainer(tmp_path / name, seed=seed)
               for name, seed in (("own", 0), ("other", 1))]
    for trainer in stopped:
        trainer.run(until=3)
        trainer.save()
    file = tmp_path / "own" / "checkpoint.pt"
    assert damage(file, kind, [tmp_path / "other" / "checkpoint.pt"], chance)
    again = test_diffusion_training.small_trainer(tmp_path / "own")
    assert again.step == 0
    assert (f"{file} {TOLD}" in capsys.readouterr().out) == (kind != "delete")
    assert test_diffusion_training.equal(again.run(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_states_of_condensing(tmp_path, outputs, chance, capsys, kind):
    """As for trainings of stage 06, whose states a `Midway` keeps, too."""
    made = make_prepare(write_digits(tmp_path / "originals", 0, 12))
    options = {"prepare": str(made), "image_size": 8, "ipc": 1, "iterations": 3, "real_batch": 4, "inner_loops": 1,
               "net_batches": 1, "device": "cpu"}
    whole, other, stopped = (open_stage("08_condense", **options, seed=seed, output=str(tmp_path / name))
                             for name, seed in (("a", 0), ("b", 1), ("c", 0)))
    condense.condense(whole)
    for run in (other, stopped):
        condenser = condense.open_condenser(run)
        condenser.losses.append(condenser.step())
        condenser.iteration += 1
        Midway(run.folder / "checkpoints" / "last.pt").save(condenser.state())
    file = stopped.folder / "checkpoints" / "last.pt"
    assert damage(file, kind, [other.folder / "checkpoints" / "last.pt"], chance)
    condense.condense(stopped)
    assert (f"{file} {TOLD}" in capsys.readouterr().out) == (kind != "delete")
    assert contents(stopped.folder) == contents(whole.folder)


def test_damaged_weights_latents_and_losses(tmp_path, outputs, chance, capsys):
    """Of 00 and 01, each part in turn."""
    root = write_digits(tmp_path / "originals", 0, 6)
    run = open_stage("00_prepare", dataset="folder", root=str(root), train_steps=3, train_batch=4, patch_size=2,
                     hidden_size=16, depth=1, num_heads=2, classifier_epochs=10, classifier_size=8, val_per_class=1,
                     folds=2, dynamics=True, device="cpu")
    datasets.index_originals(run.params, run.folder)
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
    tuned = open_stage("01_fine_tune", prepare=str(run.folder), device="cpu", steps=3, batch_size=2)
    fine_tune.fine_tune(tuned)
    before = contents(tuned.folder)
    for name, kind in product(("difffit.safetensors", "losses.csv"), set(KINDS) - {"swap"}):
        assert damage(tuned.folder / name, kind, [], chance)
        fine_tune.fine_tune(tuned)
        assert contents(tuned.folder) == before


def _prepare(run) -> None:
    prepare.difficulty_classifier(run)
    codec = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, codec)
    prepare.train_base_model(run, prepare.encode_originals(run, codec))
