"""How long what is left will take: told by earlier runs that are like it, and by no others."""

import re
import shutil
from collections import Counter

import pytest
import small_grid
from small_grid import dgs

from dgs_utils.store.node import default_node
from dgs_utils.workflow.durations import duration_group, expected_seconds

FILE = "params/small.yaml"


@pytest.fixture
def copy(tmp_path, tmp_path_factory):
    """A copy of a workspace with a finished grid."""
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    return shutil.copytree(finished, tmp_path / "copy")


def column(printed: str, name: str) -> dict[str, str]:
    """Return a column of the table of a plan, by stage."""
    header, *lines = [re.sub("to come", "to_come", line).split() for line in printed.splitlines()]
    return {line[0]: line[header.index(name)] for line in lines if re.match(r"0\d_", line[0]) and len(line) > 2}


@pytest.mark.parametrize(("change", "unknown"), [
    ("evaluate.network=convnet4", {"06_evaluate"}), ("evaluate.image_size=32", {"06_evaluate"}),
    ("sample.ipc=5", {"04_transform", "05_sample", "06_evaluate"}),
    ("prepare.dataset=cifar10", {"00_prepare", "01_fine_tune", "02_pool", "03_difficulty", "05_sample", "06_evaluate"}),
])
def test_runs_of_another_kind_tell_nothing(copy, change, unknown):
    model = ["--set", "prepare.base_model=none"] if "cifar10" in change else []
    found = column(dgs(copy, "run", FILE, "--set", change, *model, "--dry-run").stdout, "to_come")
    assert {stage for stage, text in found.items() if text == "?"} >= unknown
    assert all(found[stage] in ("·", "?") for stage in found.keys() - {"07_figures"})


def test_runs_of_other_seeds_and_methods_are_alike(copy):
    found = column(dgs(copy, "run", FILE, "--set", "sample.seed=7", "--dry-run").stdout, "to_come")
    assert found["00_prepare"] == found["02_pool"] == "·"
    assert re.fullmatch(r"\d+:\d\d", found["05_sample"])
    assert re.fullmatch(r"\d+:\d\d", found["06_evaluate"])
    found = column(dgs(copy, "run", FILE, "--set", "sample.method=[random, easiest]", "--dry-run").stdout, "to_come")
    assert found["05_sample"] == "?"  # another rule
    assert re.fullmatch(r"\d+:\d\d", found["06_evaluate"])
    networks = ["--set", "evaluate.seed=3", "--set", "evaluate.network=[convnet3, convnet4]"]
    found = column(dgs(copy, "run", FILE, *networks, "--dry-run").stdout, "to_come")
    assert re.fullmatch(r">\d+:\d\d", found["06_evaluate"])  # half of it


def test_a_run_tells_how_much_is_left_as_far_as_is_known(copy):
    printed = dgs(copy, "run", FILE, "--set", "prepare.seed=5", "--set", "evaluate.network=convnet4").stdout
    first = printed.splitlines()[0]
    assert re.match(r"11 of 11 notebooks to run · more than \d+:\d\d left", first)
    assert re.search(r"\[9/11\] 06_evaluate .* done in .* · about ", printed)


def test_what_takes_longer_is_of_another_kind():
    def kinds(stage, **values):
        return {name: duration_group(default_node(stage, {name: value})) for name, value in values.items()} | {
            "": duration_group(default_node(stage))}

    for stage, values in (("06_evaluate", {"repeats": 5, "network": "convnet4", "image_size": 32, "epochs": 7}),
                          ("02_pool", {"images_per_class": 60, "steps": 9}), ("08_condense", {"iterations": 3}),
                          ("00_prepare", {"classifier_epochs": 3, "train_steps": 7})):
        found = kinds(stage, **values)
        assert len(set(found.values())) == len(found)
        assert len(set(kinds(stage, seed=3).values()) - set(kinds(stage).values())) == 0


def test_the_median_of_each_kind_is_counted():
    assert expected_seconds(Counter(a=2, b=1), {"a": [1.0, 3.0, 100.0]}) == (6.0, False)
    assert expected_seconds(Counter(a=2, b=0), {"a": [2.0]}) == (4.0, True)
    assert expected_seconds(Counter(a=1), {}) == (0, False)
    assert expected_seconds(Counter(), {}) == (0, True)
