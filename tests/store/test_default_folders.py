"""Default inputs: notebook 07 by hand takes every finished evaluation that was made as the default one."""

import shutil

import pytest
import small_grid
from restamp import certify, load, restamp
from stage_folders import write_stage

import dgs_utils
from dgs_utils.params import validate
from dgs_utils.params.base import Input
from dgs_utils.params.types import DISTILLED_SET
from dgs_utils.store.manifest import MANIFEST, read_manifest
from dgs_utils.store.node import default_node
from dgs_utils.store.on_demand import default_folders
from dgs_utils.store.stage_result import next_notebook


@pytest.fixture
def workspace(tmp_path, tmp_path_factory, monkeypatch):
    """A copy of a finished grid, whose evaluations are as by default, of two sets."""
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    outputs = shutil.copytree(finished / "outputs", tmp_path / "outputs")
    monkeypatch.setenv("DGS_OUTPUTS", str(outputs))
    return outputs


def test_evaluations_like_the_default_one_are_taken_with_their_sets(workspace):
    spec, default = Input(stage="06_evaluate"), default_node("06_evaluate")
    [dgs] = (workspace / "06_evaluate").glob("*-dgs-*")
    [other] = [folder for folder in (workspace / "06_evaluate").iterdir() if folder != dgs]
    assert read_manifest(dgs)["identity"] == read_manifest(other)["identity"] == default.fingerprint
    assert default_folders(spec, {}) == sorted([dgs, other])
    sets = default_folders(DISTILLED_SET, {"evaluations": sorted([dgs, other])})
    assert {folder.parent.name for folder in sets} == {"05_sample"}
    assert {read_manifest(folder)["key"] for folder in sets} == {
        source["key"] for folder in (dgs, other) for source in read_manifest(folder)["inputs"]
        if source["name"] == "distilled"}
    assert next_notebook(validate("06_evaluate", {}), other) == ["Next: notebooks/07_figures.ipynb"]
    restamp(other / MANIFEST, identity=load(other / MANIFEST)["identity"] | {"network": "resnet18"})
    certify(other)
    assert default_folders(spec, {}) == [dgs]
    assert next_notebook(validate("06_evaluate", {}), dgs) == ["Next: notebooks/07_figures.ipynb"]
    assert next_notebook(validate("06_evaluate", {}), other)[0].endswith(f", with evaluations = ['outputs/06_evaluate/"
                                                                         f"{other.name}']")
    (dgs / MANIFEST).unlink()
    assert default_folders(spec, {}) == [default.folder]


def test_figures_of_evaluations_of_own_images_need_no_distilled_sets(tmp_path, outputs):
    write_stage("00_prepare")
    (tmp_path / "mine").mkdir()
    evaluation = write_stage("06_evaluate", distilled=str(tmp_path / "mine"))
    assert dgs_utils.stage("07_figures").inputs == {"evaluations": [evaluation], "samples": []}
