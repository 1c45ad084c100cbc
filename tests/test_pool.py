"""The pool: the same images whatever the batch, the pool's size or the share; killed runs; what metadata tells."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_diffusion import CLASSES, SCANS, make_prepare
from small_world import open_stage

from dgs_utils import pool
from dgs_utils.artifacts import manifests, run
from dgs_utils.diffusion import autoencoder
from dgs_utils.diffusion.sampler import Guidance
from dgs_utils.params import validate
from dgs_utils.runtime.seeds import named_seed

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
GREY_LEVEL = 1  # of 255: how far an image may be from itself in another batch


@pytest.fixture
def prepare(outputs) -> Path:
    return make_prepare()


def open_pool(prepare: Path, name: str, **values) -> run.Run:
    """Open a pool of seven images a class, in blocks of three, by four steps."""
    folder = prepare.parents[1] / name
    return open_stage("02_pool", **{"prepare": str(prepare), "output": str(folder), "generator": "dit", "steps": 4,
                                    "images_per_class": 7, "batch_size": 3, "device": "cpu", **values})


def generated(prepare: Path, name: str, **values) -> run.Run:
    run = open_pool(prepare, name, **values)
    pool.generate(run)
    return run


def files(run: run.Run) -> dict[str, bytes]:
    """Return all that checksums cover."""
    return {path.relative_to(run.folder).as_posix(): path.read_bytes() for path in run.folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
            and not {*path.relative_to(run.folder).parts} & manifests.VOLATILE}


def levels(run: run.Run, name: str, count: int) -> np.ndarray:
    """Return the first images of a class (N, H, W, 3), int."""
    return np.stack([np.asarray(Image.open(run.folder / "images" / name / f"{i}.png")).astype(int)
                     for i in range(count)])


def test_images_without_a_folder_are_the_stages(prepare):
    run = generated(prepare, "stage", seed=3)
    model, codec, state = pool.load_generator(run), autoencoder.load(prepare, 1), torch.get_rng_state()
    latents = pool.sample_latents(model, 0, CLASSES[1], range(3, 6), seed=3, steps=4,
                                  guidance=Guidance(run.params.guidance, run.params.guidance_channels))
    images = pool.decode_images(codec, latents)
    assert images.dtype == np.uint8
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(images, levels(run, CLASSES[1], 7)[3:6])


# ---- The same image ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [{"solver": solver} for solver in ("ancestral", "ddim", "dpm++", "unipc")] +
                         [{"solver": "dpm++", "cache": "taylorseer", "cache_interval": 3}])
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


def test_a_pool_of_some_classes_is_a_part_of_the_whole(prepare):
    whole, part = generated(prepare, "whole"), generated(prepare, "part", classes=["b"])
    assert sorted(path.name for path in (part.folder / "images").iterdir()) == ["b"]
    assert all(data == files(whole)[name] for name, data in files(part).items() if name.startswith("images/"))
    with pytest.raises(ValueError, match=r"pool\.classes names z, which .* does not have; its classes are a, b, c"):
        generated(prepare, "none", classes=["a", "z"])


def test_modes_depend_on_the_number_of_images_and_on_the_class(prepare):
    """MGD3's pools do not nest, as notebook 02 says, and there must be a real image for each mode."""
    large, small = (generated(prepare, str(n), generator="mgd3", steps=40, images_per_class=n) for n in (4, 2))
    distance = np.abs(levels(large, "a", 2) - levels(small, "a", 2)).max()
    assert distance > GREY_LEVEL
    plain = generated(prepare, "plain", steps=40, images_per_class=2)
    assert np.abs(levels(plain, "a", 2) - levels(small, "a", 2)).max() > GREY_LEVEL
    with pytest.raises(ValueError, match=f"class a has {SCANS} originals, too few for 8 modes; lower pool.images_per"):
        generated(prepare, "8", generator="mgd3", images_per_class=8)


# ---- Shares and killed runs ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 3, 1)])
def test_shares_fill_one_folder_as_a_single_run_does(prepare, order, capsys):
    whole = generated(prepare, "whole")
    for place, k in enumerate(order, 1):
        run = open_pool(prepare, "shares", shard=f"{k}/3")
        table = pool.generate(run)
        last = place == len(order)
        assert pool.is_complete(run) == last
        assert (run.folder / "metadata.csv").exists() == last
        assert len(table) == sum(1 for _ in (run.folder / "images").rglob("*.png"))
        told = f"Share {k}/3 is done; {len(table)} of 21 images are there. The share that ends last writes"
        assert (told in capsys.readouterr().out) != last
    assert files(run) == files(whole)
    assert run.node.key == whole.node.key


@pytest.mark.parametrize(("blocks", "n"), [(9, 3), (9, 4), (10, 7), (2, 5)])
def test_shares_are_a_partition_of_nearly_equal_parts(blocks, n):
    shares = [pool.share(list(range(blocks)), f"{k}/{n}") for k in range(1, n + 1)]
    assert [block for part in shares for block in part] == list(range(blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_missing_images_are_generated_again(prepare):
    run = generated(prepare, "pool")
    before = files(run)
    images = run.folder / "images"
    (images / "b" / "4.png").unlink()
    left = images / "c" / ".2.png.123.partial"
    left.write_bytes(b"half an image")
    old = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    pool.generate(open_pool(prepare, "pool"))
    made = {path.relative_to(images).as_posix() for path in images.rglob("*.png") if path.stat().st_mtime_ns
            != old.get(path)}
    assert made == {"b/4.png"}  # its neighbours in the block stay as they are
    assert files(run) == before
    assert not left.exists()
    (images / "a" / "0.png").unlink()
    assert not pool.is_complete(run)  # whatever metadata.csv says


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_pool import generated
run = generated(Path({prepare!r}), "killed", steps=30, images_per_class=16, batch_size=2)
"""


@pytest.mark.slow  # starts a process for each of the kills
def test_a_pool_killed_again_and_again_ends_with_the_same_files(prepare):
    options = {"steps": 30, "images_per_class": 16, "batch_size": 2}
    whole = generated(prepare, "whole", **options)
    script = SCRIPT.format(tests=str(Path(__file__).parent), prepare=str(prepare))
    folder, chance = prepare.parents[1] / "killed", random.Random(0)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        there = len([*folder.rglob("*.png")])
        while process.poll() is None and len([*folder.rglob("*.png")]) < min(there + 4, 48):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "metadata.csv").exists()
        for path in folder.rglob("*.png"):
            Image.open(path).load()  # what is there is whole
    assert files(generated(prepare, "killed", **options)) == files(whole)


# ---- Cost ------------------------------------------------------------------------------------------------------------

def test_cost_is_linear_and_no_more_than_two_blocks_are_held(prepare, monkeypatch):
    """With a slow disk, and the real sampler and writer."""
    events, sample, write = [], pool.sample, pool._write_images

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

    monkeypatch.setattr(pool, "sample", counting_sample)
    monkeypatch.setattr(pool, "_write_images", slow_write)
    for count, steps in ((4, 3), (8, 3), (8, 6)):
        events.clear()
        generated(prepare, f"{count}-{steps}", images_per_class=count, batch_size=2, steps=steps)
        assert events.count("evaluation") == 3 * count // 2 * steps  # guidance is inside: one doubled batch
        held = np.cumsum([{"begin": 1, "end": -1}.get(event, 0) for event in events])
        assert held.max() == 2
        assert held[-1] == 0


@pytest.mark.slow  # compiling takes long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_model_makes_the_same_images(outputs):
    from torch._dynamo.utils import counters

    prepare = make_prepare(depth=1)  # of each block more are compiled
    plain = generated(prepare, "plain", compile="off")
    counters.clear()
    compiled = generated(prepare, "compiled", compile="on")
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
    cached = generated(prepare, "cached", solver="dpm++", cache="taylorseer", cache_order=2)
    assert set(pd.read_csv(cached.folder / "metadata.csv")["cache"]) == {"taylorseer-5-2"}


@pytest.mark.parametrize(("values", "scale", "stop"), [
    ({"steps": 50}, 0.1, 25), ({"steps": 20}, 0.1, 10), ({"steps": 20, "mode_stop": 4, "mode_scale": 0.3}, 0.3, 4)])
def test_mgd3_guides_half_of_the_steps_unless_told_otherwise(values, scale, stop):
    found = pool._pull(validate("02_pool", {"generator": "mgd3", **values}), torch.arange(6.0).view(6, 1, 1, 1),
                       range(2, 4))
    assert (found.scale, found.stop, found.modes.flatten().tolist()) == (scale, stop, [2.0, 3.0])
