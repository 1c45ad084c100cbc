"""What ``dgs status`` prints of results that have one name."""

from pathlib import Path

from stage_folders import write_stage

from dgs_utils.params import validate
from dgs_utils.store.manifest import read_manifest
from dgs_utils.store.node import Node
from dgs_utils.workflow.overview import overview


def figures(rows: Path, **values) -> Node:
    return Node(validate("07_figures", {"results": [str(rows)], **values}), {})


def test_folders_of_one_name_are_told_apart(outputs, tmp_path):
    """By their dates, and by what each was made from that the plan is not."""
    (tmp_path / "rows.csv").write_text("best")
    node = figures(tmp_path / "rows.csv")
    (tmp_path / "others.csv").write_text("best, last")
    made = {"this plan's": write_stage("07_figures", results=node.params.results),
            "margin = 1.0": write_stage("07_figures", results=node.params.results, margin=1.0)}
    other = write_stage("07_figures", results=[str(tmp_path / "others.csv")], margin=1.5)
    write_stage("07_figures", results=node.params.results, title="quickstart-2")  # of another name
    lines = overview([node])[2:]
    assert len(lines) == 3
    for difference, folder in made.items():
        finished = read_manifest(folder)["finished"]
        assert f"{folder} of {finished[:16].replace('T', ' ')}: {difference}" in lines
    [line] = [line for line in lines if str(other) in line]
    assert "margin = 1.5, results = ['sha256:" in line


def test_one_folder_of_a_name_needs_no_line(outputs, tmp_path):
    (tmp_path / "rows.csv").write_text("best")
    node = figures(tmp_path / "rows.csv")
    write_stage("07_figures", results=node.params.results)
    assert len(overview([node])) == 2
