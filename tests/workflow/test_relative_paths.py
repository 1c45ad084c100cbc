"""Relative paths start from the experiment file, or on the command line from the current folder."""

from pathlib import Path

import pytest
from PIL import Image

from dgs_utils.store.paths import resolve_path
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan


@pytest.fixture
def places(tmp_path, monkeypatch, outputs):
    """An experiment file in one folder with its images beside it, a workspace, and somewhere else."""
    for folder in ("work/notebooks", "work/params", "mine/data/cat", "mine/data/dog", "else"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("cat", "dog"):
        Image.new("L", (4, 4)).save(tmp_path / "mine" / "data" / name / "1.png")
    (tmp_path / "mine" / "table.csv").write_text("class,index\ncat,1\ndog,2\n")
    (tmp_path / "mine" / "x.yaml").write_text("prepare: {dataset: folder, root: data, split: given, base_model: none, "
                                              "class_index: table.csv}\n")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def root_of(file, changes=()) -> Path:
    [node] = plan(read_experiment(file, list(changes)))
    return resolve_path(node.params.root)


def test_paths_in_a_file_start_from_it(places, monkeypatch):
    assert root_of("../mine/x.yaml") == places / "mine" / "data"
    monkeypatch.chdir(places / "mine")
    assert root_of("x.yaml") == places / "mine" / "data"
    monkeypatch.chdir(places / "else")
    assert root_of("../mine/x.yaml") == places / "mine" / "data"
    (places / "else" / "base.yaml").write_text("base: ../mine/x.yaml\nprepare: {seed: 3}\n")
    assert root_of("base.yaml") == places / "mine" / "data"  # relative to the file in which it stands


def test_a_scorer_s_folder_starts_from_the_file_and_a_network_s_name_does_not(places):
    for name in ("scorer/kept", "convnet3"):
        (places / "mine" / name).mkdir(parents=True)
    for written, found in (("./scorer/kept", str(places / "mine" / "scorer" / "kept")), ("convnet3", "convnet3")):
        (places / "mine" / "y.yaml").write_text(f"base: x.yaml\nprepare: {{classifier: {written}}}\n")
        assert read_experiment("../mine/y.yaml").values("00_prepare", {})["classifier"] == found


def test_paths_on_the_command_line_start_from_the_current_folder(places, monkeypatch):
    monkeypatch.chdir(places / "mine")
    assert root_of("x.yaml", ["prepare.root=data/../data"]) == places / "mine" / "data"
    monkeypatch.chdir(places / "else")
    assert root_of("../mine/x.yaml", ["prepare.root=../mine/data"]) == places / "mine" / "data"
    with pytest.raises(ValueError, match=f"prepare.root is {places}/else/none, which does not exist"):
        root_of("../mine/x.yaml", ["prepare.root=none"])


def test_paths_in_the_workspace_are_the_same_from_everywhere(places, monkeypatch):
    (places / "mine" / "data").rename(places / "work" / "data")
    (places / "mine" / "table.csv").rename(places / "work" / "table.csv")
    file = places / "work" / "params" / "x.yaml"
    (places / "mine" / "x.yaml").rename(file)
    keys = set()
    for folder, text in (("work", "params/x.yaml"), ("work/params", "x.yaml"), ("work/notebooks", "params/x.yaml")):
        monkeypatch.chdir(places / folder)
        [node] = plan(read_experiment(text))
        assert node.params.root == "data"  # as before: not beside the file, but in the workspace
        keys.add(node.key)
    assert len(keys) == 1


def test_stage_06_without_test_images_is_told_at_the_start(places):
    text = (places / "mine" / "x.yaml").read_text()
    (places / "mine" / "x.yaml").write_text(f"{text}pool: {{generator: folder, root: data}}\nsample: {{ipc: 1, "
                                            f"pool_factor: 0}}\nevaluate: {{}}\n")
    with pytest.raises(ValueError, match=f"stage 06 needs test images, and {places}/mine/data has no"):
        plan(read_experiment("../mine/x.yaml"))
    assert plan(read_experiment("../mine/x.yaml", ["prepare.split=holdout"]))


def test_a_wrong_class_table_is_told_when_planning(places):
    (places / "mine" / "table.csv").write_text("class,index\ncat,1\ncat,2\n")
    with pytest.raises(ValueError, match=r"table.csv, row 3 gives class cat again"):
        root_of("../mine/x.yaml")
