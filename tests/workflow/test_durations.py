"""How long what is left will take: as finished results of the plan did."""

import re
import shutil

import pytest
import small_grid
from small_grid import dgs

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


def test_what_is_left_of_a_stage_takes_as_long_as_what_is_finished(copy):
    changes = ["--set", "sample.seed=[0, 1]", "--set", "prepare.base_model=none"]
    [sample, *_] = (copy / "outputs" / "05_sample").iterdir()
    shutil.rmtree(sample)
    found = column(dgs(copy, "run", FILE, "--dry-run").stdout, "to_come")
    assert found["00_prepare"] == found["02_pool"] == found["04_transform"] == "·"
    assert re.fullmatch(r"\d+:\d\d", found["05_sample"])
    found = column(dgs(copy, "run", FILE, *changes, "--dry-run").stdout, "to_come")
    assert set(found.values()) == {"?"}  # nothing of this plan is finished


def test_a_run_tells_how_much_is_left_as_far_as_is_known(copy):
    [*_, sample] = (copy / "outputs" / "05_sample").iterdir()
    for folder in (sample, *(copy / "outputs" / "06_evaluate").iterdir()):
        shutil.rmtree(folder)
    printed = dgs(copy, "run", FILE).stdout
    assert re.match(r"3 of 11 notebooks to run · more than \d+:\d\d left", printed)
    assert re.search(r"\[10/11\] 06_evaluate .* done in .* · about ", printed)
