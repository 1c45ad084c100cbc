"""The pool: the same images whatever the batch, the pool's size or the share; killed runs; what metadata tells."""

import random
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forks import forked
from PIL import Image
from small_diffusion import CLASSES, SCANS, make_prepare
from small_stages import generated, open_pool, written_files

from dgs_utils import pool
from dgs_utils.diffusion.autoencoder import Autoencoder, load_autoencoder
from dgs_utils.diffusion.sampling import Guidance
from dgs_utils.params import validate
from dgs_utils.pool import from_model
from dgs_utils.runtime.seeds import named_seed
from dgs_utils.store import manifest as manifests
from dgs_utils.store import session as run
from dgs_utils.store.lock import open_lock

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
GREY_LEVEL = 1  # of 255: how far an image may be from itself in another batch


@pytest.fixture
def prepare(outputs) -> Path:
    return make_prepare()


def levels(run: run.Run, name: str, count: int) -> np.ndarray:
    """Return the first images of a class (N, H, W, 3), int."""
    return np.stack([np.asarray(Image.open(run.folder / "images" / name / f"{i}.png")).astype(int)
                     for i in range(count)])


def test_images_without_a_folder_are_the_stages(prepare):
    run = generated(prepare, "stage", seed=3)
    model, autoencoder, state = pool.load_generator(run), load_autoencoder(prepare, 1), torch.get_rng_state()
    latents = pool.sample_latents(model, 0, CLASSES[1], range(3, 6), seed=3, steps=4,
                                  guidance=Guidance(run.params.guidance))
    images = pool.decode_images(autoencoder, latents)
    assert images.dtype == np.uint8
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(images, levels(run, CLASSES[1], 7)[3:6])


def test_the_progress_bar_reaches_its_end(prepare, capsys):
    generated(prepare, "bar")
    assert re.search(r"pool: 100%.* (\d+)/\1 \[", capsys.readouterr().err)  # one that does not turns red in JupyterLab


@pytest.mark.parametrize("condition", [-1, 3, 1000])
def test_a_label_that_the_model_does_not_know_makes_no_images_without_a_class(prepare, condition):
    model = pool.load_generator(open_pool(prepare, "stage"))
    with pytest.raises(ValueError, match=f"^class a has the condition {condition}, but the diffusion model has "):
        pool.sample_latents(model, condition, "a", range(1), steps=2)


# ---- The same image ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [{"solver": solver} for solver in ("ancestral", "ddim", "dpm++", "unipc")] +
                         [{"solver": "dpm++", "cache": "taylorseer"}])
def test_pools_nest_whatever_the_batch(prepare, how):
    whole = generated(prepare, "whole", steps=8, **how)
    others = [generated(prepare, f"{count}-{batch}", steps=8, images_per_class=count, batch_size=batch, **how)
              for count, batch in ((7, 1), (7, 50), (4, 3), (2, 2))]
    for other in others:
        count = other.params.images_per_class
        for name in CLASSES:
            distance = np.abs(levels(other, name, count) - levels(whole, name, count))
            assert distance.max() <= GREY_LEVEL
    spread = np.abs(np.diff(levels(whole, "a", 7), axis=0)).max((1, 2, 3))
    assert (spread > 10).all()  # neighbours are other images


def test_seeds_and_classes_make_other_images(prepare):
    first, second = generated(prepare, "0"), generated(prepare, "1", seed=1)
    assert (levels(first, "a", 7) != levels(second, "a", 7)).any((1, 2, 3)).all()
    assert (levels(first, "a", 7) != levels(first, "b", 7)).any((1, 2, 3)).all()


def test_modes_depend_on_the_number_of_images_and_on_the_class(prepare):
    """MGD3's pools do not nest, as notebook 02 says, and there must be a real image for each mode."""
    large, small = (generated(prepare, str(n), generator="mgd3", steps=40, images_per_class=n) for n in (4, 2))
    distance = np.abs(levels(large, "a", 2) - levels(small, "a", 2)).max()
    assert distance > GREY_LEVEL
    plain = generated(prepare, "plain", steps=40, images_per_class=2)
    assert np.abs(levels(plain, "a", 2) - levels(small, "a", 2)).max() > GREY_LEVEL
    with pytest.raises(ValueError, match=f"class a has {SCANS} originals, too few for 8 modes; lower pool.images_per"):
        generated(prepare, "8", generator="mgd3", images_per_class=8)


@pytest.mark.parametrize(("part", "what"), [("final_layer.linear.bias", "the sampled latents"),
                                            ("y_embedder.embedding_table.weight", "the sampled latents")])
def test_a_model_that_makes_no_numbers_makes_no_images(outputs, part, what):
    prepare = make_prepare(change=lambda model: model.get_parameter(part).data[0].fill_(torch.nan))  # class b's row
    first = "a/0.png" if "final" in part else "b/0.png"
    with pytest.raises(FloatingPointError, match=rf"^{what} of 3 of 3 images, first of {first}, are NaN or infinite "
                                                 r"\(solver dpm\+\+, 4 steps, guidance 4, fp32\); set pool.precision"):
        generated(prepare, "broken", solver="dpm++")
    left = {path.parent.name for path in (prepare.parents[1] / "broken").rglob("*.png")}
    assert left <= ({"a"} if part != "final_layer.linear.bias" else set())  # whatever was sound before stays


def test_a_model_that_never_saw_an_image_without_a_class_is_not_guided(outputs):
    prepare = make_prepare(class_dropout=0.0)
    with pytest.raises(ValueError, match=r"^pool\.guidance is 4, but the diffusion model was trained without"):
        generated(prepare, "guided")
    assert not [*(prepare.parents[1] / "guided").rglob("*.png")]
    assert len([*generated(prepare, "plain", guidance=1.0).folder.rglob("*.png")]) == 21


def test_pixels_that_are_no_numbers_are_not_black():
    class Broken(Autoencoder):
        def decode(self, latents):
            return super().decode(latents) / (latents > 0)

    with pytest.raises(FloatingPointError, match=r"^the decoded pixels of 1 of 2 images, first of 1, are NaN or infi"):
        pool.decode_images(Broken(3), torch.tensor([0.5, 0.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4))


# ---- Shares and killed runs ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 3, 1)])
def test_shares_fill_one_folder_as_a_single_run_does(prepare, order, capsys):
    whole = generated(prepare, "whole")
    for place, k in enumerate(order, 1):
        run = open_pool(prepare, "shares", shard=f"{k}/3")
        table = pool.generate(run)
        last = place == len(order)
        assert pool.is_complete(run) == bool(run.finish()) == manifests.is_done(run.folder) == last
        assert (run.folder / "metadata.csv").exists() == last
        assert len(table) == sum(1 for _ in (run.folder / "images").rglob("*.png"))
        told = f"Shard {k}/3 is done; {len(table)} of 21 images exist. The shard that ends last writes"
        assert (told in capsys.readouterr().out) != last
    assert written_files(run) == written_files(whole)
    assert run.node.key == whole.node.key


def test_shards_that_end_at_the_same_time_write_one_manifest(prepare):
    runs = [open_pool(prepare, "shares", shard=f"{k}/2") for k in (1, 2)]
    for each in runs:
        pool.generate(each)
    assert all(map(pool.is_complete, runs))
    runs[0]._started -= 1000
    with ThreadPoolExecutor() as threads:
        with open_lock(runs[0].folder):
            ends = [threads.submit(each.finish) for each in runs]
            assert not wait(ends, timeout=0.5).done
            assert not manifests.is_done(runs[0].folder)  # neither writes while another one may
        first, second = (end.result() for end in ends)
    assert first == second == manifests.read_manifest(runs[0].folder)


@pytest.mark.parametrize(("blocks", "n"), [(9, 3), (9, 4), (10, 7), (2, 5)])
def test_shares_are_a_partition_of_nearly_equal_parts(blocks, n):
    shares = [from_model.blocks_of_shard(list(range(blocks)), f"{k}/{n}") for k in range(1, n + 1)]
    assert [block for part in shares for block in part] == list(range(blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_missing_images_are_generated_again(prepare):
    run = generated(prepare, "pool")
    before = written_files(run)
    images = run.folder / "images"
    (images / "b" / "4.png").unlink()
    left = images / "c" / ".2.png.123.partial"
    left.write_bytes(b"half an image")
    old = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    pool.generate(open_pool(prepare, "pool"))
    made = {path.relative_to(images).as_posix() for path in images.rglob("*.png") if path.stat().st_mtime_ns
            != old.get(path)}
    assert made == {"b/4.png"}  # its neighbours in the block stay as they are
    assert written_files(run) == before
    assert not left.exists()
    (images / "a" / "0.png").unlink()
    assert not pool.is_complete(run)  # whatever metadata.csv says


HELPERS = str(Path(__file__).parents[1] / "helpers")
KILLED = """
import os, signal, sys, threading, time
sys.path.insert(0, {helpers!r})
from pathlib import Path
from small_stages import generated

def kill(enough, delay):
    while len([*Path({folder!r}).rglob("*.png")]) < enough:
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)

def work(*when):
    threading.Thread(target=kill, args=when).start()
    generated(Path({prepare!r}), "killed", steps=30, images_per_class=16, batch_size=2)
"""


@pytest.mark.slow  # starts a process that imports everything anew
def test_a_pool_killed_again_and_again_ends_with_the_same_files(prepare):
    options = {"steps": 30, "images_per_class": 16, "batch_size": 2}
    whole = generated(prepare, "whole", **options)
    folder, chance = prepare.parents[1] / "killed", random.Random(0)
    with forked(KILLED.format(helpers=HELPERS, folder=str(folder), prepare=str(prepare))) as work:
        for _ in range(2):
            enough = min(len([*folder.rglob("*.png")]) + 4, 48)
            assert work(enough, chance.uniform(0, 0.05)) == -signal.SIGKILL
            assert not (folder / "metadata.csv").exists()
            for path in folder.rglob("*.png"):
                Image.open(path).load()  # what is there is whole
    assert written_files(generated(prepare, "killed", **options)) == written_files(whole)


# ---- Cost ------------------------------------------------------------------------------------------------------------

def test_cost_is_linear_and_no_more_than_two_blocks_are_held(prepare, monkeypatch):
    """With a slow disk, and the real sampler and writer."""
    events, sample, write = [], from_model.sample, from_model._write_images

    def counting_sample(model, *arguments, **options):
        hook = model.register_forward_hook(lambda *_: events.append("evaluation"))
        events.append("begin")
        found = sample(model, *arguments, **options)
        hook.remove()
        return found

    def slow_write(*arguments):
        time.sleep(0.05)
        write(*arguments)
        events.append("end")

    monkeypatch.setattr(from_model, "sample", counting_sample)
    monkeypatch.setattr(from_model, "_write_images", slow_write)
    for count, steps in ((4, 3), (8, 3), (8, 6)):
        events.clear()
        generated(prepare, f"{count}-{steps}", images_per_class=count, batch_size=2, steps=steps)
        assert events.count("evaluation") == 3 * count // 2 * steps  # guidance is inside: one doubled batch
        held = np.cumsum([{"begin": 1, "end": -1}.get(event, 0) for event in events])
        assert held.max() == 2
        assert held[-1] == 0


@pytest.mark.slow  # compiling takes long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_model_makes_the_same_images(outputs, monkeypatch):
    from torch._dynamo.utils import counters

    prepare = make_prepare(depth=1)  # of each block more are compiled
    monkeypatch.setenv("DGS_COMPILE", "off")
    plain = generated(prepare, "plain")
    counters.clear()
    monkeypatch.setenv("DGS_COMPILE", "on")
    compiled = generated(prepare, "compiled")
    assert counters["stats"]["unique_graphs"] >= 1
    for name in CLASSES:
        assert np.abs(levels(compiled, name, 7) - levels(plain, name, 7)).max() <= GREY_LEVEL
    assert compiled.node.key == plain.node.key


# ---- What is told about each image ---------------------------------------------------------------------------------

def test_metadata_tells_how_each_image_was_made(prepare):
    run = generated(prepare, "pool", seed=5, solver="dpm++", guidance=3.0, guidance_interval=[0.1, 0.8])
    table = pd.read_csv(run.folder / "metadata.csv")
    assert table["file_name"].tolist() == [f"images/{name}/{i}.png" for name in CLASSES for i in range(7)]
    assert all((run.folder / name).exists() for name in table["file_name"])
    assert table["label"].tolist() == np.repeat([0, 1, 2], 7).tolist()
    assert table.loc[9, "seed"] == named_seed("pool", 5, "b", 2)
    settings = table.drop(columns=["file_name", "class", "label", "index", "seed"]).drop_duplicates()
    model = manifests.read_manifest(prepare)["files"]["dit"]["sha256"][:12]
    assert settings.to_dict("records") == [{
        "generator": "dit", "solver": "dpm++", "steps": 4, "guidance": 3.0, "guidance_channels": 0,
        "guidance_interval": "0.1-0.8", "model": model}]
    cached = generated(prepare, "cached", solver="dpm++", cache="taylorseer")
    assert set(pd.read_csv(cached.folder / "metadata.csv")["cache"]) == {"taylorseer-5-1"}


@pytest.mark.parametrize(("values", "scale", "stop"), [
    ({"steps": 50}, 0.1, 25), ({"steps": 20}, 0.1, 10), ({"steps": 20, "mode_scale": 0.3}, 0.3, 10)])
def test_mgd3_guides_half_of_the_steps(values, scale, stop):
    modes = torch.arange(6.0).view(6, 1, 1, 1)
    found = from_model.mode_guidance(validate("02_pool", {"generator": "mgd3", **values}), modes, range(2, 4))
    assert (found.scale, found.stop, found.modes.flatten().tolist()) == (scale, stop, [2.0, 3.0])
