"""The threat model of the security page: each of its lines has a test, two of them here."""

import re
from pathlib import Path

import pytest
from restamp import load, restamp
from small_world import make_prepare, write_digits

from dgs_utils.store.hashing import content_id
from dgs_utils.store.manifest import CHECKSUMS, MANIFEST, read_checksums, read_manifest
from dgs_utils.store.node import check_listed_images
from dgs_utils.store.records import write_record
from dgs_utils.workflow.experiment import read_experiment

ROOT = Path(__file__).resolve().parents[1]


def test_each_line_has_its_test():
    page = (ROOT / ".github" / "SECURITY.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert len(table) >= 8
    for line in table:
        file, name = re.findall(r"`(test_[^`]+)`", line)
        [path] = (ROOT / "tests").rglob(file)
        assert re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE), line


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
    entry = {"sha256": "0" * 64, "bytes": 1}
    restamp(folder / MANIFEST, files={name: entry})
    with pytest.raises(ValueError, match=r"manifest.json is damaged \(.* is no name of a file in it\)"):
        read_manifest(folder)
    manifest = load(folder / MANIFEST)
    write_record(folder / CHECKSUMS, {"subfolders": {"classifier": {f"../{name}": entry}}})
    assert read_checksums(folder, manifest) == {}


@pytest.mark.parametrize("params", [{}, {"classes": 5}, {"dataset": ["x"]}])
def test_a_manifest_has_no_folder_walked_that_nobody_named(tmp_path, outputs, params):
    """It could be a home, or the whole disk; what an experiment of one's own has named is looked at as before."""
    private = write_digits(tmp_path / "private", 0, 2)
    folder = make_prepare(write_digits(tmp_path / "originals", 0, 6))
    given = {"root": {"path": str(private), "content": "sha256:0"}}
    manifest = read_manifest(folder) | {"given": given}
    manifest["params"] |= params
    assert "private, which no experiment has named here" in check_listed_images(folder, "prepare", manifest)
    nobody = {"root": {"path": "~nobody-at-all/x", "content": "sha256:0"}}
    assert check_listed_images(folder, "prepare", manifest | {"given": nobody}) == ""
    content_id(str(private))
    with pytest.raises(ValueError, match="holds another content now"):
        check_listed_images(folder, "prepare", manifest)
