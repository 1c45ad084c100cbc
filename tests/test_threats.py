"""The threat model of the package's README: each of its lines has a test, two of them here."""

import json
import re
from pathlib import Path

import pytest
from small_world import make_prepare, write_digits

from dgs_utils.artifacts.contents import identity_of
from dgs_utils.artifacts.manifests import MANIFEST, SUMS, read_manifest, read_sums
from dgs_utils.artifacts.nodes import check_root
from dgs_utils.batch.experiment import read_experiment

ROOT = Path(__file__).resolve().parents[1]


def test_each_line_has_its_test():
    table = (ROOT / "dgs_utils" / "README.md").read_text().partition("| from outside |")[2].splitlines()[2:]
    assert len(table) >= 8
    for line in table:
        file, name = re.findall(r"`(test_[^`]+)`", line)
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), line


def test_an_experiment_file_runs_no_code(tmp_path, outputs):
    victim = tmp_path / "victim"
    path = tmp_path / "x.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{victim}']\nevaluate: {{}}\n")
    with pytest.raises(ValueError, match=r"x\.yaml"):
        read_experiment(path)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["../../victim", "/etc/passwd", "..", "a/b"])
def test_a_manifest_names_no_file_elsewhere(tmp_path, outputs, name):
    folder = make_prepare(write_digits(tmp_path / "originals", 0, 6))
    found = json.loads((folder / MANIFEST).read_text())
    entry = {"sha256": "0" * 64, "bytes": 1}
    (folder / MANIFEST).write_text(json.dumps(found | {"files": {name: entry}}))
    with pytest.raises(ValueError, match=r"manifest.json is damaged \(.* is no name of a file in it\)"):
        read_manifest(folder)
    (folder / SUMS).write_text(json.dumps({"classifier": {f"classifier/../{name}": entry}}))
    assert read_sums(folder) == {}


@pytest.mark.parametrize("params", [{}, {"classes": 5}, {"dataset": ["x"]}])
def test_a_manifest_has_no_folder_walked_that_nobody_named(tmp_path, outputs, params):
    """It could be a home, or the whole disk; what an experiment of one's own has named is looked at as before."""
    private = write_digits(tmp_path / "private", 0, 2)
    folder = make_prepare(write_digits(tmp_path / "originals", 0, 6))
    given = {"root": {"path": str(private), "content": "sha256:0"}}
    manifest = read_manifest(folder) | {"given": given}
    manifest["params"] |= params
    assert "private, which no experiment has named here" in check_root(folder, "prepare", manifest)
    assert check_root(folder, "prepare", manifest | {"given": {"root": {"path": "~nobody-at-all/x"}}}) == ""
    identity_of(str(private))
    with pytest.raises(ValueError, match="holds another content now"):
        check_root(folder, "prepare", manifest)
