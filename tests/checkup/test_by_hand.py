"""What notebooks 03 and 05 show beside their results, where they are worked through by hand."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from small_world import CLASSES, make_world, open_stage, outputs_below

import dgs_utils as dgs
from dgs_utils.checkup.by_hand import check_up, score_chosen
from dgs_utils.images.classes import read_classes
from dgs_utils.sample import read_source, real_images, select_images, write_set
from dgs_utils.store.session import BATCH


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Finished stages with four test images a class, of which the pool has one, and one image twice."""
    root = tmp_path_factory.mktemp("by_hand")

    def plant(pool: Path) -> None:
        for name in CLASSES:
            shutil.copy(root / "originals" / name / "0.png", pool / name / "20.png")  # held out: the first by name
            shutil.copy(pool / name / "1.png", pool / name / "21.png")

    with outputs_below(root):
        return make_world(root, val=4, change=plant)


def scoring(world: dict[str, Path], **values):
    return open_stage("03_difficulty", prepare=str(world["prepare"]), **values)


def test_the_check_up_of_stage_03_tells_what_is_in_its_pool(world, outputs, capsys):
    run = scoring(world, pool=str(world["pool"]), originals=str(world["originals"]))
    checked = check_up(run, ipc=5)
    row = checked.table.set_index("class").loc["all"]
    assert row[["images", "repeated", "test"]].tolist() == [90, 3, 3]
    assert {"recognised", "generate"} <= set(checked.table)
    assert {"copies", "coverage", "effective", "confusion"} == set(checked.figures())
    assert "3 of 90 images show a test image" in capsys.readouterr().out


def test_originals_and_batch_runs_are_left_out(world, outputs, capsys, monkeypatch):
    assert check_up(scoring(world, source="originals")).table.empty
    monkeypatch.setenv(BATCH, "1")
    run = scoring(world, pool=str(world["pool"]), originals=str(world["originals"]))
    assert not check_up(run).figures()
    assert "batch runs leave it out; run this notebook by hand, or dgs check" in capsys.readouterr().out


def test_the_score_of_stage_05_is_that_of_its_set(world, outputs, capsys):
    inputs = {name: str(world[name]) for name in ("prepare", "pool", "transform")}
    tables = {}
    for ipc in (5, 1):
        run = open_stage("05_sample", method="pool_random", **inputs, ipc=ipc)
        source = read_source(run)
        write_set(run, source, select_images(run, source))
        tables[ipc] = score_chosen(run)
        run.finish()
        if ipc == 5:
            index = read_classes(world["prepare"])["index"]
            scorer = dgs.open_scorer(str(world["prepare"] / "classifier"))
            expected = dgs.score_set(dgs.ImageSet.read(run.folder), real_images(run), scorer, index)
            pd.testing.assert_frame_equal(tables[5], pd.DataFrame([expected], index=["pool_random"]).round(1))
            assert expected["linear_probe"] > 50
    assert tables[1].empty
    assert "not known: " in capsys.readouterr().out
