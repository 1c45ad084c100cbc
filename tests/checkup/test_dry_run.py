"""A dry run tells how many images to generate, where the scores of a pool are known."""

from pathlib import Path

import pytest
from small_grid import dgs
from small_world import make_world, open_stage

from dgs_utils.checkup.dry_run import pool_plan_lines
from dgs_utils.checkup.planning import plan_classes
from dgs_utils.params import validate
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.node import Node
from dgs_utils.transform import read_sets, transform_sets


@pytest.fixture
def world(tmp_path, outputs) -> dict[str, Path]:
    return make_world(tmp_path)


def planned(world: dict[str, Path], ipc: int, **values) -> Node:
    """Return a node of stage 05 as a plan has it, whose stage 04 may be missing."""
    scores = {"pool_scores": world["scores"], "original_scores": world["originals"]}
    params = validate("04_transform", {"ipc": ipc, **{name: str(path) for name, path in scores.items()}})
    sample = validate("05_sample", {"ipc": ipc, **values})
    return Node(sample, {"prepare": world["prepare"], "pool": world["pool"], "transform": Node(params, scores)})


def test_a_line_says_how_many_images_fill_the_target(world):
    table = plan_classes(read_table(world["transform"] / "transformed.csv"), 5)
    assert table["missing"].any()
    [line] = pool_plan_lines([planned(world, 5), planned(world, 5, method="match"), planned(world, 5, seed=1)])
    assert ", IPC 5, target scale: the pool lacks images for the target of " in line
    assert f"of {(table['missing'] > 0).sum()} of 3 classes; {table['generate'].max()} generated images of each" in line
    assert line.endswith("now 25")
    assert len(pool_plan_lines([planned(world, 5), planned(world, 5, distribution="hill"), planned(world, 4)])) == 3


def test_scores_are_enough_where_stage_04_is_missing(world):
    before = pool_plan_lines([planned(world, 4)])
    run = open_stage("04_transform", pool_scores=str(world["scores"]), original_scores=str(world["originals"]), ipc=4)
    assert run.folder == planned(world, 4).inputs["transform"].folder
    transform_sets(run, read_sets(run))
    run.finish()
    assert before == pool_plan_lines([planned(world, 4)])
    assert len(before) == 1


def test_nothing_is_said_of_what_has_no_target_or_cannot_be_read(world):
    assert not pool_plan_lines([planned(world, 5, method="easiest"), planned(world, 5, class_weights="difficulty")])
    (world["scores"] / "scores.csv").write_text("damaged")
    for text in ("", "damaged"):
        (world["transform"] / "transformed.csv").write_text(text)
        assert not pool_plan_lines([planned(world, 5), planned(world, 4)])


def test_a_dry_run_prints_the_line(world, tmp_path):
    folders = "".join(f"  {name}: {world[name]}\n" for name in ("prepare", "pool", "transform"))
    (tmp_path / "plan.yaml").write_text(f"name: plan\nsample:\n  ipc: 5\n{folders}")
    printed = dgs(tmp_path, "run", "plan.yaml", "--dry-run", "--until", "sample").stdout
    assert "IPC 5, target scale: the pool" in printed
