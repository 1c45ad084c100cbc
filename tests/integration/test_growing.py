"""Results that grow: a larger pool makes only its new images, another repeat is one more training, and nothing else.

The real notebooks, on digits, through the real runner.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_grid
from small_grid import dgs, manifests

from dgs_utils.classifiers.dynamics import dynamics_scores, read_dynamics
from dgs_utils.params import validate
from dgs_utils.store.manifest import prefix_hash, prefix_hashes
from dgs_utils.store.node import Node, default_node, with_resolved_pool_size
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

FILE = "params/small.yaml"
SMALL = """
name: small
prepare: {classes: ["0", "1", "2"], train_steps: 20, classifier_epochs: 10, classifier_size: 8, dynamics: true,
          depth: 1, hidden_size: 32, num_heads: 2}
pool: {generator: dit, images_per_class: 6, batch_size: 4, steps: 3}
sample: {ipc: 2, pool_factor: 3, method: dgs}
evaluate: {image_size: 8, epochs: 2, evaluations: 1, repeats: 1}
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A workspace whose pool had 6 images a class and one repeat, then 10 and two; its manifests before and after."""
    workspace = small_grid.build_real(tmp_path_factory.mktemp("grown") / "w")
    (workspace / FILE).write_text(SMALL)
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout
    small = {path: path.stat().st_mtime_ns for path in (workspace / "outputs").rglob("*.png")}
    before = manifests(workspace)
    shutil.copytree(workspace, workspace.with_name("before"))
    more = ["--set", "pool.images_per_class=10", "--set", "evaluate.repeats=2", "--set", "pool.batch_size=3"]
    planned = dgs(workspace, "run", FILE, *more, "--dry-run").stdout
    result = dgs(workspace, "run", FILE, *more)
    assert result.returncode == 0, result.stdout
    return workspace, before, manifests(workspace), small, planned, result.stdout


@pytest.mark.slow  # two notebooks
def test_a_pool_by_strata_is_as_large_as_its_set_and_needs_the_originals_scores(grown, tmp_path):
    shutil.copytree(grown[0].with_name("before"), tmp_path / "w")
    workspace, text = tmp_path / "w", SMALL.partition("evaluate:")[0]
    (workspace / FILE).write_text(text.replace("method: dgs", "method: strata, seed: 1"))
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout
    new = {name: manifest for name, manifest in manifests(workspace).items() if name not in grown[1]}
    assert sorted(manifest["stage"] for manifest in new.values()) == ["02_pool", "05_sample"]
    pool, distilled = (workspace / "outputs" / name for name in sorted(new))
    assert {source["name"] for source in new[f"02_pool/{pool.name}"]["inputs"]} == {"prepare", "originals"}
    images = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
              for folder in (pool / "images", distilled / "images")]
    assert len(images[0]) == 2 * 3
    assert images[0] == images[1]
    assert set(pd.read_csv(distilled / "metadata.csv")["generator"]) == {"strata"}


def stage_of(found: dict, stage: str) -> tuple[str, dict]:
    [(name, manifest)] = [(name, manifest) for name, manifest in found.items() if manifest["stage"] == stage
                          and manifest["params"].get("source") != "originals"]
    return name, manifest


def test_a_larger_pool_makes_only_its_new_images(grown):
    workspace, before, after, small, _, _ = grown
    assert set(before) == set(after)  # the same folders
    name, manifest = stage_of(after, "02_pool")
    assert (stage_of(before, "02_pool")[1]["count"], manifest["count"]) == (6, 10)
    files = list((workspace / "outputs" / name / "images").rglob("*.png"))
    assert len(files) == 3 * 10
    old = [file for file in files if int(file.stem) < 6]
    assert all(small[file] == file.stat().st_mtime_ns for file in old)
    assert not any(file in small for file in files if int(file.stem) >= 6)
    table = pd.read_csv(workspace / "outputs" / name / "metadata.csv")
    assert table.groupby("class")["index"].apply(list).tolist() == [list(range(10))] * 3


def test_a_grown_pool_is_the_pool_that_is_made_at_once(grown, tmp_path):
    workspace, _, after, *_ = grown
    other = shutil.copytree(workspace, tmp_path / "w")
    shutil.rmtree(other / "outputs" / "02_pool")
    asked = SMALL.replace("images_per_class: 6, batch_size: 4", "images_per_class: 10, batch_size: 10")
    (other / FILE).write_text(asked)
    assert dgs(other, "run", FILE, "--only", "pool").returncode == 0
    name, manifest = stage_of(manifests(other), "02_pool")
    assert stage_of(after, "02_pool")[0] == name
    assert (other / "outputs" / name / "metadata.csv").read_bytes() == \
        (workspace / "outputs" / name / "metadata.csv").read_bytes()
    assert len(set(manifest["chain"])) == 10


def test_scores_grow_with_the_pool_and_keep_what_they_were(grown):
    workspace, before, after, *_ = grown
    name, manifest = stage_of(after, "03_difficulty")
    assert (stage_of(before, "03_difficulty")[1]["count"], manifest["count"]) == (6, 10)
    scores = [pd.read_csv(place / "outputs" / name / "scores.csv", dtype=str)
              for place in (workspace.with_name("before"), workspace)]
    assert [len(table) for table in scores] == [18, 30]
    merged = scores[0].merge(scores[1], on=list(scores[0].columns))
    assert len(merged) == 18  # to the last digit
    assert manifest["chain"][:6] == stage_of(before, "03_difficulty")[1]["chain"]


def test_the_training_dynamics_of_a_pool_grow_with_it(grown):
    workspace, _, after, *_ = grown
    name, _ = stage_of(after, "03_difficulty")
    (old, first), (new, names) = (read_dynamics(place / "outputs" / name / "dynamics.safetensors")
                                  for place in (workspace.with_name("before"), workspace))
    assert (old.p_true.shape, new.p_true.shape) == ((1, 10, 18), (1, 10, 30))
    places = [names.index(file) for file in first]
    for before, now in zip(old, new.of_images(places), strict=True):
        assert before.tobytes() == now.tobytes()
    table = pd.read_csv(workspace / "outputs" / name / "scores.csv")
    assert table["file_name"].tolist() == names
    for column, values in dynamics_scores(new).items():
        np.testing.assert_allclose(table[column], values, atol=1e-12)


def test_what_took_the_first_images_stays_as_it_is(grown):
    _, before, after, _, planned, printed = grown
    again = {name for name in after if after[name] != before[name]}
    assert {name.split("/")[0] for name in again} == {"02_pool", "03_difficulty", "06_evaluate",
                                                      "07_figures"}
    assert "has 6 of the 10 that are asked for; the rest is made by the next run" in planned
    assert "has 1 of the 2 that are asked for; the rest is made by the next run" in planned
    for stage in ("04_transform", "05_sample"):
        _, manifest = stage_of(after, stage)
        pools = [source for source in manifest["inputs"] if source["name"] in ("pool", "pool_scores")]
        assert [source["count"] for source in pools] == [6]
        assert f"{stage} " not in printed.split("stage  ")[0]


def test_another_repeat_is_one_training(grown):
    workspace, _, after, *_ = grown
    name, manifest = stage_of(after, "06_evaluate")
    timing = pd.read_csv(workspace / "outputs" / name / "timing.csv")
    assert timing["training_seed"].tolist() == [0, 1]  # one line a training that was done
    old, new = (pd.read_csv(place / "outputs" / name / "results.csv")
                for place in (workspace.with_name("before"), workspace))
    assert (len(old), len(new), manifest["count"]) == (1, 2, 2)
    assert old["best"][0] == new["best"][0]


def test_who_asks_for_less_finds_it_done(grown):
    workspace, *_ = grown
    assert "Nothing was left to do." in dgs(workspace, "run", FILE).stdout
    assert "of the" not in dgs(workspace, "status", FILE).stdout


def test_a_changed_image_of_the_beginning_is_seen_and_one_behind_it_is_not():
    levels = ["a b", "c d", "e f"]
    manifest = {"content": "all", "chain": prefix_hashes(levels)}
    grown = {"content": "other", "chain": prefix_hashes([*levels, "g h"])}
    assert [prefix_hash(manifest, n) for n in (1, 2, 3)] == [prefix_hash(grown, n) for n in (1, 2, 3)]
    assert prefix_hash(manifest, 4) == "" != prefix_hash(grown, 4)
    changed = {"content": "all", "chain": prefix_hashes(["a b", "c X", "e f"])}
    assert prefix_hash(manifest, 1) == prefix_hash(changed, 1)
    assert prefix_hash(manifest, 2) != prefix_hash(changed, 2)
    assert prefix_hash(manifest, 3) != prefix_hash(changed, 3)


# ---- Keys ------------------------------------------------------------------------------------------------------------

def test_counts_are_no_identity_but_mgd3_s():
    for stage, name in (("02_pool", "images_per_class"), ("06_evaluate", "repeats")):
        assert default_node(stage).key == default_node(stage, {name: 7}).key
        assert default_node(stage, {name: 7}).count == 7
    modes = [validate("02_pool", {"generator": "mgd3", "images_per_class": count}) for count in (6, 7)]
    assert modes[0].cache_params() != modes[1].cache_params()
    assert [params.count() for params in modes] == [0, 0]


@pytest.mark.parametrize(("factor", "count", "size"), [(3, 6, 0), (3, 60, 0), (3, 5, 5), (0, 6, 6), (0, 60, 60)])
def test_what_takes_the_whole_pool_records_how_large_it_was(factor, count, size):
    """With ipc × pool_factor images to be had, a larger pool changes nothing; else its size decides the result."""
    prepare = default_node("00_prepare")
    pool = Node(validate("02_pool", {"generator": "dit", "images_per_class": count}), {"prepare": prepare})
    for stage, values, name in (("04_transform", {}, "pool_scores"), ("05_sample", {"method": "pool_random"}, "pool")):
        params = with_resolved_pool_size(validate(stage, {"ipc": 2, "pool_factor": factor, **values}), {name: pool})
        assert params.pool_images == size
        assert params.images_read_from(name) == (size or 6)
        assert params.cache_params().get("pool_images", 0) == size


def test_one_node_serves_grid_points_that_ask_for_more_or_less(tmp_path, monkeypatch):
    workspace = small_grid.build(tmp_path / "w")
    monkeypatch.chdir(workspace)
    (workspace / FILE).write_text("evaluate: {}\ngrid:\n  evaluate.repeats: [2, 5, 3]\n"
                                  "  pool.images_per_class: [60, 50]\n")
    nodes = expand(read_experiment(FILE))
    [evaluation], [pool] = ([node for node in nodes if node.stage == stage] for stage in ("06_evaluate", "02_pool"))
    assert (evaluation.count, pool.count) == (5, 60)
    assert [node.count for node in nodes if node.stage == "03_difficulty"] == [0, 60]


def test_a_growing_run_that_is_killed_goes_on(tmp_path):
    """Killed while it grows: what was there before is not made again, and the end is as undisturbed."""
    workspace = small_grid.build(tmp_path / "w")
    small_grid.replace_cell(workspace, "06_evaluate", 2, """
import os, signal
run.count = run.params.repeats
for seed in range(run.params.repeats):
    part = run.folder / f"{seed}.txt"
    if not part.exists():
        with open(run.folder / ".made", "a") as made:
            made.write(f"{seed} ")
        with files.atomic(part) as partial:
            partial.write_text(str(seed))
        if seed == 3 and not (run.folder / ".killed").exists():
            (run.folder / ".killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
""")
    for repeats, status in ((2, 0), (6, 1), (6, 0)):
        result = dgs(workspace, "run", FILE, "--set", f"evaluate.repeats={repeats}", "--set", "sample.method=dgs")
        assert result.returncode == status, result.stdout
    [made] = (workspace / "outputs" / "06_evaluate").glob("*/.made")
    assert made.read_text() == "0 1 2 3 4 5 "
    assert json.loads((made.parent / "manifest.json").read_text())["count"] == 6
    assert sorted(Path(made.parent).glob("*.txt")) == [made.parent / f"{seed}.txt" for seed in range(6)] + \
        [made.parent / "log.txt"]
