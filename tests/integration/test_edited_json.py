"""Each field of each JSON of a finished grid is edited once: verify, the next run and publish notice every edit."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_grid
from small_grid import dgs

from dgs_utils.publish.dataset import collect
from dgs_utils.store import status
from dgs_utils.store.lineage import lineage
from dgs_utils.store.manifest import find_manifest
from dgs_utils.store.node import Node
from dgs_utils.store.verify import changed_since_finish, mark_corrupt_for_rebuild, verify_nodes
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

FILE = "params/small.yaml"


@pytest.fixture
def workspace(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    folder = shutil.copytree(finished, tmp_path / "grid")
    monkeypatch.setenv("DGS_OUTPUTS", str(folder / "outputs"))
    monkeypatch.chdir(folder)
    return folder


def edits(value: Any) -> Iterator[Any]:
    """Yield a JSON value with one field edited, once for each field: a value changed, a name changed, an item gone."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ({**value, name: other} for other in edits(inner))
            yield {(f"{key}x" if key == name else key): kept for key, kept in value.items()}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in edits(inner))
            yield [*value[:place], *value[place + 1 :]]
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, str):
        yield f"{value[:-1]}{'0' if value[-1:] == '1' else '1'}"
    else:
        yield value + 1 if value is not None else 1


def noticed(node: Node, path: Path) -> bool:
    """Return whether `dgs verify` and the next `dgs run` notice that a file of a node's folder was edited."""
    report = verify_nodes([node])
    if report.whole:
        return False
    if status.node_manifest(node):  # else it counts as missing, and is made again
        return path.name in changed_since_finish([node]).damaged.get(node.folder, [])
    return True


def test_every_edit_is_noticed(workspace):
    count = 0
    nodes = expand(read_experiment(workspace / FILE))
    assert verify_nodes(nodes).whole
    assert not changed_since_finish(nodes).damaged
    for node in nodes:
        for path in sorted(set(node.folder.rglob("*.json")) - {node.folder / "asked.json"}):  # decides no result
            text, pristine = path.read_text(), find_manifest(node.folder)
            for edited in edits(json.loads(text)):
                path.write_text(json.dumps(edited, indent=1) + "\n")
                assert noticed(node, path), (path, edited)
                count += 1
            path.write_text(text)
            assert find_manifest(node.folder) == pristine
    assert count > 900


@pytest.mark.parametrize("name", ["manifest.json", "inputs.json", "checksums.json"])
def test_what_was_edited_is_made_again_or_restored(workspace, name):
    """One edit a folder, at another field in each; then the command makes all as it was, and publish refuses before."""
    nodes = expand(read_experiment(workspace / FILE))
    [sample] = [node for node in nodes if node.stage == "05_sample" and node.params.method == "dgs"]
    behind = {folder for folder, _ in lineage(sample.folder)}
    before = {path: path.read_bytes() for path in (workspace / "outputs").rglob("part*.txt")}
    texts = {node.folder / name: (node.folder / name).read_text() for node in nodes}
    edited = {}
    for number, (path, text) in enumerate(texts.items()):
        choices = list(edits(json.loads(text)))
        edited[path] = json.dumps(choices[number * 7 % len(choices)], indent=1) + "\n"
        if path.parent in behind:
            path.write_text(edited[path])
            with pytest.raises(ValueError, match=f"{path.parent.name}/{name} is (damaged|missing or changed)"):
                collect(sample.folder)
            path.write_text(text)
    for path, text in edited.items():
        path.write_text(text)
    assert dgs(workspace, "verify", FILE).returncode == 1
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert dgs(workspace, "verify", FILE).returncode == 0
    assert {path: path.read_bytes() for path in before} == before
    assert "Nothing was left to do.\n" in dgs(workspace, "run", FILE).stdout
    assert mark_corrupt_for_rebuild(nodes) == []
