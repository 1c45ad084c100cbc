"""Each way in which inputs change below what was made of them, with real stages on digits: nothing old is taken."""

import json
import os
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
import small_grid
from forks import forked
from restamp import certify
from small_grid import dgs, manifests
from small_world import CLASSES, make_prepare, make_world, open_stage, small_classifier, write_digits
from waits import HANG

from dgs_utils import difficulty, evaluate, pool, sample
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.manifest import MANIFEST, is_done, read_manifest

FILE = "params/small.yaml"
OWN = """
name: small
prepare: {dataset: folder, root: data/originals, val_per_class: 10, base_model: none, classifier: data/scorer,
          class_index: data/index.csv}
pool: {generator: folder, root: [data/generated]}
sample: {ipc: 2, pool_factor: 3, method: dgs}
"""
INDEX = "class,index\n0,0\n1,1\n2,2\n"


@pytest.fixture
def world(tmp_path, outputs) -> dict[str, Path]:
    """Finished folders of 00, 02, 03 (twice) and 04."""
    return make_world(tmp_path / "data", val=8)


def remake(folder: Path, turn: int = 1) -> None:
    """Let a folder of images hold others under the same names, as if its stage had been run again by other code."""
    for name in CLASSES:
        files = sorted((folder / "images" / name).iterdir())
        images = [file.read_bytes() for file in files]
        for file, image in zip(files, images[turn:] + images[:turn], strict=True):
            file.write_bytes(image)
    certify(folder)


def fresh_scores(world: dict[str, Path]) -> pd.Series:
    """Score what the pool holds now, without folders in between."""
    scorer = load_classifier(world["prepare"] / "classifier")
    scored = difficulty.score_images(ImageSet.read(world["pool"]), scorer, range(len(CLASSES)), device="cpu")
    return scored.set_index("file_name")["score"]


def written_scores(folder: Path) -> pd.Series:
    return pd.read_csv(folder / "scores.csv").set_index("file_name")["score"]


def same(first: pd.Series, second: pd.Series) -> bool:
    return np.allclose(first, second.loc[first.index], rtol=0, atol=1e-6)  # batches of other sizes round otherwise


# ---- By hand ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("finished", [True, False])
def test_scores_are_made_again_when_the_pool_was(world, capsys, finished):
    """Opened again by hand, whether it had ended or was left with its blocks."""
    assert (world["scores"] / "checkpoints").is_dir()
    before = written_scores(world["scores"])
    if not finished:
        (world["scores"] / MANIFEST).unlink()
        (world["scores"] / "scores.csv").unlink()
    remake(world["pool"])
    assert not same(before, fresh_scores(world))
    run = open_stage("03_difficulty", **{name: str(world[name]) for name in ("prepare", "pool", "originals")})
    assert "held work from another content of pool" in capsys.readouterr().out
    assert run.folder == world["scores"]
    difficulty.score_source(run)
    run.finish()
    assert same(fresh_scores(world), written_scores(run.folder))


@pytest.mark.parametrize("which", ["originals", "pool"])
def test_images_that_a_folder_only_lists_are_those_that_it_listed(world, tmp_path, which):
    """Stages 00 and 02 leave images where the user has them; 03 by hand on such a folder looks at them again."""
    inputs = {name: str(world[name]) for name in ("prepare", "pool", "originals")}
    assert open_stage("03_difficulty", **inputs).cached
    [image, other, *_] = sorted((tmp_path / "data" / which / "1").iterdir())
    image.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=rf"(prepare|pool): .* lists images of .*{which}, which holds another "):
        open_stage("03_difficulty", **inputs)


@pytest.mark.parametrize("moved", [["originals"], ["pool"], ["originals", "pool"]], ids="-".join)
def test_images_that_have_moved_are_read_where_they_are_named_anew(tmp_path, outputs, moved):
    """Their content is what counts: 00 and 02 are taken up as they are, even if others stand at the former place."""
    places = {"originals": write_digits(tmp_path / "originals", 0, 10), "pool": write_digits(tmp_path / "pool", 10, 20)}
    prepare = make_prepare(places["originals"])

    def list_pool():
        run = open_stage("02_pool", generator="folder", root=str(places["pool"]), prepare=str(prepare))
        pool.generate(run)
        return run, run.finish()

    first, before = list_pool()
    listed = (first.folder / "metadata.csv").read_bytes()
    assert str(tmp_path).encode() not in listed
    for which in moved:
        former, places[which] = places[which], tmp_path / f"new {which}"
        former.rename(places[which])
        write_digits(former, 20, 30)
    options = {"dataset": "folder", "base_model": "none"}
    assert open_stage("00_prepare", root=str(places["originals"]), **options).folder == prepare
    again, after = list_pool()
    assert (again.folder, (again.folder / "metadata.csv").read_bytes()) == (first.folder, listed)
    assert after.pop("given")["root"]["path"] == str(places["pool"])
    assert after == {name: value for name, value in before.items() if name != "given"}
    for method, which in (("pool_random", "pool"), ("random", "originals")):
        run = open_stage("05_sample", method=method, ipc=2, pool_factor=0, prepare=str(prepare), pool=str(again.folder))
        source = sample.read_source(run)
        assert source.images.root == places[which]
        table = sample.write_set(run, source, sample.select_images(run, source))
        for file, origin in zip(table["file_name"], table["source"], strict=True):
            assert (run.folder / file).read_bytes() == (places[which] / origin).read_bytes()


def test_no_stage_reads_scores_of_other_images(world):
    remake(world["pool"])
    with pytest.raises(ValueError, match=r"pool_scores: .* is stale, since its input .* was made anew with another"):
        open_stage("04_transform", pool_scores=str(world["scores"]), original_scores=str(world["originals"]), ipc=5)


def test_trainings_are_made_again_when_the_set_was(world, capsys, tmp_path):
    """One repeat of two was finished when the set changed below it; neither that nor a checkpoint counts."""
    inputs = {name: world[name] for name in ("prepare", "transform", "pool")}
    run = open_stage("05_sample", method="dgs", ipc=5, **{k: str(v) for k, v in inputs.items()})
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    values = {"prepare": str(world["prepare"]), "distilled": str(run.folder), "image_size": 8, "epochs": 2,
              "evaluations": 2}
    first = open_stage("06_evaluate", **values, repeats=1)
    evaluate.evaluate(first, *evaluate.open_sets(first))
    first.finish()
    remake(run.folder)
    capsys.readouterr()
    again = open_stage("06_evaluate", **values, repeats=2)
    assert "held work from another content of distilled" in capsys.readouterr().out
    assert not (again.folder / "repeats").exists()
    found = evaluate.evaluate(again, *evaluate.open_sets(again))
    manifest = again.finish()
    assert read_table(again.folder / "timing.csv")["training_seed"].astype(int).tolist() == [0, 1]
    elsewhere = open_stage("06_evaluate", **values, repeats=2, output=str(tmp_path / "elsewhere"))
    assert found.equals(evaluate.evaluate(elsewhere, *evaluate.open_sets(elsewhere)))
    [source] = [source for source in manifest["inputs"] if source["name"] == "distilled"]
    assert source["content"] == read_manifest(run.folder)["content"]


def test_one_changed_digit_of_a_score_is_seen_when_it_is_read(world, capsys):
    path = world["scores"] / "scores.csv"
    text, times = path.read_text(), path.stat()
    place = text.index(",0.") + 5
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    inputs = {"pool_scores": str(world["scores"]), "original_scores": str(world["originals"])}
    with pytest.raises(ValueError, match=r"pool_scores: .*scores.csv is missing or changed since its stage finished; "
                                         r"dgs verify FILE --repair and then dgs run FILE"):
        open_stage("04_transform", **inputs, ipc=4)
    again = open_stage("03_difficulty", **{name: str(world[name]) for name in ("prepare", "pool", "originals")})
    assert "scores.csv is missing or damaged, and is made again" in capsys.readouterr().out
    difficulty.score_source(again)
    again.finish()
    assert path.read_text() == text
    assert open_stage("04_transform", **inputs, ipc=4).inputs["pool_scores"] == world["scores"]


# ---- Killed while an input changes -----------------------------------------------------------------------------------

WORK = """
import os, signal
import dgs_utils.store.session
from dgs_utils import difficulty
from dgs_utils.params import validate

difficulty.resumable.BLOCK_IMAGES = 10


def work(inputs, step):
    run = dgs_utils.store.session.open_node(
        validate("03_difficulty", inputs))
    def progress(items, label, total=None):
        for number, item in enumerate(items):
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item
    run.progress = progress
    difficulty.score_source(run)
    if step == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    run.finish()
"""


@pytest.mark.slow  # a dozen processes, most of which score a pool
def test_stage_03_killed_again_and_again_while_its_pool_changes(world):
    """At any batch, or between its table and its manifest; the scores of the end are of the images of the end."""
    inputs, chance = {name: str(world[name]) for name in ("prepare", "pool", "originals")}, random.Random(0)
    with forked(WORK) as work:
        for number, step in enumerate((0, 3, 13, 99, 17, 1)):  # its batches' kinds, its end, and every turn
            remake(world["pool"], chance.randrange(1, 20))
            assert work(inputs, step) == -signal.SIGKILL
            assert not is_done(world["scores"])
            if number % 2:
                remake(world["pool"], chance.randrange(1, 20))
            if number % 4 > 1:  # one that goes on is killed as well
                work(inputs, chance.choice([2, 10, 16]))
            assert work(inputs, -1) == 0
            assert same(fresh_scores(world), written_scores(world["scores"]))
            sources = {source["name"]: source["content"] for source in read_manifest(world["scores"])["inputs"]}
            assert sources["pool"] == read_manifest(world["pool"])["content"]


# ---- Through the command ---------------------------------------------------------------------------------------------

BY_HAND = """
import time
from pathlib import Path
while not Path("go").exists():
    time.sleep(0.1)
"""


def own_workspace(folder: Path) -> Path:
    """Return a workspace with the real notebooks, a scorer, a class table, originals and a pool of digits."""
    workspace = small_grid.build_real(folder)
    (workspace / FILE).write_text(OWN)
    write_digits(workspace / "data" / "originals", 0, 34)
    write_digits(workspace / "data" / "generated", 40, 52)
    small_classifier().save(workspace / "data" / "scorer")
    (workspace / "data" / "index.csv").write_text(INDEX)
    return workspace


def begun_by_hand(workspace: Path) -> subprocess.Popen:
    """Execute notebook 00 as a user does, in a copy that waits before its last cell for a file ``go``."""
    notebook = json.loads((workspace / "notebooks" / "00_prepare.ipynb").read_text())
    cell = next(cell for cell in notebook["cells"] if "dgs.stage(" in "".join(cell["source"]))
    notebook["cells"].insert(notebook["cells"].index(cell) + 1, {**cell, "id": "waits", "source": BY_HAND})
    (workspace / "mine.ipynb").write_text(json.dumps(notebook))
    values = {"dataset": "folder", "root": "data/originals", "val_per_class": 10, "base_model": "none",
              "classifier": "data/scorer", "class_index": "data/index.csv"}
    command = [sys.executable, "-m", "papermill", "mine.ipynb", "executed.ipynb", "-k", "python3",
               "--no-progress-bar", "-y", json.dumps(values)]
    return subprocess.Popen(command, cwd=workspace, env=small_grid.environment(workspace),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def made(printed: str) -> list[str]:
    return [line.split("] ")[1].split()[0] for line in printed.splitlines() if "done in" in line]


def missing(printed: str) -> set[str]:
    """Return the stages that a dry run or status shows anything but done of."""
    rows = [line.split() for line in printed.splitlines() if line[:1] == "0"]
    return {row[0] for row in rows if row[1] != row[2]}


@pytest.mark.slow  # twelve real notebooks, each of which imports PyTorch
def test_data_of_the_user_changes_in_every_way(tmp_path):
    workspace = own_workspace(tmp_path / "w")
    data, folders = workspace / "data", {"02_pool", "03_difficulty", "04_transform", "05_sample"}

    # A notebook by hand beside the runner, on the same folder: the runner says who works there and takes up the result.
    hand = begun_by_hand(workspace)
    limit = time.monotonic() + HANG
    while not list((workspace / "outputs").glob("00_prepare/*/.holder")):
        assert hand.poll() is None, hand.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.1)
    runner = small_grid.start(workspace, "run", FILE)
    lines = []
    while "it is left to that" not in (line := runner.stdout.readline()):
        assert line, runner.communicate()
        lines.append(line)
    assert "is held by process " in line
    (workspace / "go").touch()
    printed = "".join(lines) + runner.communicate(timeout=HANG)[0]
    assert (hand.wait(HANG), runner.returncode) == (0, 0), printed + hand.stdout.read()
    assert "00_prepare" not in made(printed)
    first = manifests(workspace)
    assert len(first) == 6

    def planned() -> set[str]:
        return missing(dgs(workspace, "run", FILE, "--dry-run").stdout)

    # Moved data has the same keys.
    data.rename(workspace / "elsewhere")
    (workspace / FILE).write_text(OWN.replace("data/", "elsewhere/"))
    assert planned() == set()
    (workspace / "elsewhere").rename(data)
    (workspace / FILE).write_text(OWN)

    # A corrected table, another scorer at the same path: other content, other keys; the former ones, the former keys.
    everything = folders | {"00_prepare"}
    (data / "index.csv").write_text(INDEX.replace("1,1\n2,2", "1,2\n2,1"))
    printed = dgs(workspace, "status", FILE).stdout
    assert missing(printed) == everything
    assert "prepare.class_index (data/index.csv) holds another content than when outputs/00_prepare/" in printed
    (data / "index.csv").write_text(INDEX)
    assert planned() == set()
    small_classifier(steps=31).save(data / "other")
    (data / "scorer").rename(data / "kept")
    (data / "other").rename(data / "scorer")
    assert planned() == everything
    shutil.rmtree(data / "scorer")
    (data / "kept").rename(data / "scorer")
    assert planned() == set()

    # Images replaced under the same names: the same command makes 02 to 05 from them, and says so once.
    for name in CLASSES:
        shutil.rmtree(data / "generated" / name)
    write_digits(data / "generated", 60, 72)
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("pool.root (data/generated) holds another content than when") == 1
    assert set(made(result.stdout)) == folders
    new = {name: manifest for name, manifest in manifests(workspace).items() if name not in first}
    assert {manifest["stage"] for manifest in new.values()} == folders
    by_stage = {manifest["stage"]: workspace / "outputs" / name for name, manifest in new.items()}
    pool = ImageSet.read(by_stage["02_pool"])
    expected = difficulty.score_images(pool, load_classifier(data / "scorer"), range(3), device="cpu")
    assert same(expected.set_index("file_name")["score"], written_scores(by_stage["03_difficulty"]))

    # Another image of the same size in the finished pool: verify finds it, and the repaired pool is what it was.
    before = manifests(workspace)
    image = next(by_stage["02_pool"].glob("images/*/*.png"))
    good, times = image.read_bytes(), image.stat()
    image.write_bytes(good[:-20] + bytes(20))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    printed = dgs(workspace, "verify", FILE, "--repair").stdout
    assert f"DAMAGED outputs/02_pool/{by_stage['02_pool'].name}: {image.relative_to(by_stage['02_pool'])}" in printed
    assert "Made from it: 1 of 03_difficulty, 1 of 04_transform, 1 of 05_sample" in printed
    result = dgs(workspace, "run", FILE)
    assert made(result.stdout) == ["02_pool"], result.stdout
    assert image.read_bytes() == good
    assert {name: found["content"] for name, found in manifests(workspace).items()} == {
        name: found["content"] for name, found in before.items()}
