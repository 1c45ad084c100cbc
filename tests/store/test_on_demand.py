"""Missing inputs that take seconds are made on the way: thresholds for the IPC of 05, originals' scores for 03."""

import shutil

import pytest
import small_grid

import dgs_utils as dgs
from dgs_utils.params import validate
from dgs_utils.store.manifest import is_done, read_manifest
from dgs_utils.store.node import default_node
from dgs_utils.store.session import open_node


@pytest.fixture
def workspace(tmp_path, outputs, monkeypatch):
    """A workspace with small notebooks, and the default results that 05 takes, of a pool of 50 images a class."""
    workspace = small_grid.build(tmp_path / "workspace")
    monkeypatch.chdir(workspace)
    for stage, values, count in (("00_prepare", {}, 0), ("01_fine_tune", {}, 0), ("02_pool", {}, 50),
                                 ("03_difficulty", {"source": "originals"}, 0), ("03_difficulty", {}, 50)):
        run = open_node(validate(stage, values))
        (run.folder / "result.csv").write_text(stage)
        run.record_prefixes(count, range(count), map(str, range(count)))
        run.finish()
    return workspace


def test_missing_thresholds_are_made_on_the_way(workspace, capsys):
    run = dgs.stage("05_sample", ipc=7)
    transform = run.inputs["transform"]
    assert read_manifest(transform)["params"]["ipc"] == 7
    assert f"{transform} is missing; running 04_transform with these parameters first" in capsys.readouterr().out
    assert is_done(transform)
    assert dgs.stage("05_sample", ipc=7).inputs["transform"] == transform
    assert "is missing" not in capsys.readouterr().out


def test_notebook_03_scores_the_originals_first_by_the_same_measure(workspace, capsys):
    shutil.rmtree(default_node("03_difficulty", {"source": "originals"}).folder)
    originals = dgs.stage("03_difficulty", source="pool", measure="margin").inputs["originals"]
    assert f"{originals} is missing; running 03_difficulty with these parameters first" in capsys.readouterr().out
    params = read_manifest(originals)["params"]
    assert (params["source"], params["measure"]) == ("originals", "margin")


def test_the_sentence_that_stops_the_other_notebook_is_shown_in_this_one(workspace):
    small_grid.replace_cell(workspace, "04_transform", 2, "raise ValueError('class 3 has no spread; score it again')")
    expected = r"^04_transform, which this stage needs, stopped: ValueError: class 3 has no spread; score it again; see"
    with pytest.raises(ValueError, match=expected):
        dgs.stage("05_sample", ipc=7)
