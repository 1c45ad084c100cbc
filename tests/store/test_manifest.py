"""Manifests: what they say, their content hash, and damaged ones."""

import hashlib
import json
import os
import sys
import time

import numpy as np
import pytest
from stage_folders import write_stage

from dgs_utils.params import validate
from dgs_utils.store import status
from dgs_utils.store.hashing import insert_rows, select_rows
from dgs_utils.store.lineage import input_folder
from dgs_utils.store.manifest import MANIFEST, VOLATILE, hash_entries, is_done, read_manifest
from dgs_utils.store.session import open_node


def test_manifest_tells_how_a_folder_came_about(outputs):
    prepare = write_stage("00_prepare")
    run = open_node(validate("02_pool", {"generator": "folder", "root": "x", "prepare": str(prepare)}))
    assert not is_done(run.folder)
    (run.folder / "metadata.csv").write_text("file_name\n")
    run.warn("three images are missing")
    run.warn("three images are missing")
    written = run.finish()
    manifest = read_manifest(run.folder)
    assert manifest == json.loads(json.dumps(written))
    assert is_done(run.folder)
    assert manifest["stage"] == "02_pool"
    assert run.folder == outputs / "02_pool" / f"{manifest['label']}-{manifest['key']}"
    assert manifest["label"] == "digits-folder-0"
    assert manifest["params"] == json.loads(run.params.model_dump_json(exclude=set(run.params.unused())))
    assert manifest["identity"] == run.params.cache_params()
    assert manifest["warnings"] == ["three images are missing"]
    digest = hashlib.sha256(b"file_name\n").hexdigest()
    assert manifest["files"] == {"metadata.csv": {"sha256": digest, "bytes": 10}}
    upstream = read_manifest(run.inputs["prepare"])
    assert manifest["inputs"] == [{"name": "prepare", "folder": f"00_prepare/digits-{upstream['key']}",
                                   "key": upstream["key"], "content": upstream["content"]}]
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["seconds"] >= 0
    assert manifest["peak_memory_mib"]["cpu"] > 10
    assert len(manifest["code"]["package"]) == 12
    assert input_folder(manifest, "prepare") == run.inputs["prepare"]
    assert input_folder(manifest, "fine_tune") is None


def test_content_depends_on_files_but_not_on_when_or_where(outputs, tmp_path):
    contents = []
    for text in ("a", "a", "b"):
        folder = write_stage("00_prepare", {"x.csv": text, "sub/y.csv": "y", "timing.csv": str(len(contents))})
        contents.append(read_manifest(folder)["content"])
        (folder / MANIFEST).unlink()
    assert contents[0] == contents[1] != contents[2]
    other = write_stage("00_prepare", {"x.csv": "a", "sub/y.csv": "y"}, seed=1)
    assert read_manifest(other)["content"] != contents[0]  # other parameters


def test_checksums_ignore_what_differs_from_run_to_run(tmp_path):
    (tmp_path / "kept.csv").write_text("1")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_text("2")
    before, _ = hash_entries(tmp_path)
    assert sorted(before) == ["images", "kept.csv"]
    for name in [*VOLATILE, ".hidden"]:
        if "." in name:
            (tmp_path / name).write_text("new")
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text("new")
    assert hash_entries(tmp_path)[0] == before
    (tmp_path / "images" / "a" / "0.png").write_text("3")
    after, sums = hash_entries(tmp_path)
    assert sums == {"images": {"a/0.png": {"sha256": hashlib.sha256(b"3").hexdigest(), "bytes": 1}}}
    assert after["kept.csv"] == before["kept.csv"]
    assert after["images"]["sha256"] != before["images"]["sha256"]
    assert {name: after["images"][name] for name in ("files", "bytes")} == {"files": 1, "bytes": 1}
    (tmp_path / "images" / "a" / "0.png").rename(tmp_path / "images" / "a" / "1.png")
    assert hash_entries(tmp_path)[0]["images"]["sha256"] != after["images"]["sha256"]  # names count too


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"stage": "00_prepare"}', "\x00\xff"])
def test_damaged_manifests_are_told_and_do_not_count(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest.json is damaged \(.*\); run its stage again, which writes a"):
        read_manifest(tmp_path)
    assert not is_done(tmp_path)


def test_a_manifest_that_was_noted_as_checked_is_checked_again_when_it_changes(outputs, monkeypatch):
    node = open_node(validate("00_prepare", {})).node
    write_stage("00_prepare")
    manifest = node.folder / MANIFEST
    time.sleep(0.1)  # what has just been written is not noted
    for expected in (True, True, False):  # checked, known again, changed in place at the same size and time
        if not expected:
            before = manifest.stat()
            manifest.write_text(manifest.read_text().replace('"finished": "2', '"finished": "3'))
            os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
        monkeypatch.setattr(status, "_manifests", {})
        with status.one_look([node]):
            assert bool(status.node_manifest(node)) == expected
        rows = [*select_rows("signature = ?", MANIFEST)]
        assert [row[0] for row in rows] == [str(manifest)]
    insert_rows([(str(manifest), MANIFEST, "[1]")])  # of somebody who knows the form of a row, but not of its text
    with status.one_look([node]):
        assert status.node_manifest(node) is None
