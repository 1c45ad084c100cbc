"""Inputs are checked: missing, damaged, of another stage, stale."""

import pytest
from stage_folders import write_stage

from dgs_utils.store.lineage import check_input
from dgs_utils.store.manifest import MANIFEST


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=f"pool: the folder {tmp_path}/x does not exist; run the stage that writes it"):
        check_input(tmp_path / "x", "pool", ["02_pool"])


def test_folder_without_manifest(tmp_path):
    with pytest.raises(ValueError, match=f"pool: {tmp_path} has no manifest.json, so its stage was never finished"):
        check_input(tmp_path, "pool", ["02_pool"])


def test_damaged_input(outputs):
    folder = write_stage("00_prepare")
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=f"prepare: {folder}/manifest.json is damaged .it does not end"):
        check_input(folder, "prepare", ["00_prepare"])


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "x.csv").unlink(),
    lambda folder: (folder / "x.csv").write_text("longer than before"),
    lambda folder: (folder / "images" / "a" / "0.png").unlink(),
    lambda folder: (folder / "images" / "a" / "0.png").write_text(""),
    lambda folder: (folder / "images").rename(folder / "moved"),
])
def test_changed_input(outputs, change):
    folder = write_stage("00_prepare", {"x.csv": "short", "images/a/0.png": "0", "images/a/1.png": "1"})
    assert check_input(folder, "prepare", ["00_prepare"])["key"] == folder.name.rsplit("-", 1)[1]
    change(folder)
    with pytest.raises(ValueError, match=rf"prepare: {folder}/(x\.csv|images/a/0.png) is missing or changed since its "
                                         rf"stage finished; dgs verify FILE --repair and then dgs run FILE, .*, and "
                                         "so does notebook 00_prepare"):
        check_input(folder, "prepare", ["00_prepare"])


def test_input_of_another_stage(outputs):
    folder = write_stage("00_prepare")
    with pytest.raises(ValueError, match=f"distilled: {folder} was written by 00_prepare; give a folder that 05_sample "
                                         f"or 08_condense wrote"):
        check_input(folder, "distilled", ["05_sample", "08_condense"])


def test_new_files_beside_the_old_ones_do_no_harm(outputs):
    folder = write_stage("00_prepare", {"images/a/0.png": "0"})
    (folder / "notes.txt").write_text("mine")
    (folder / "images" / "a" / "metadata.jsonl").write_text("{}")
    check_input(folder, "prepare", ["00_prepare"])


def test_stale_input(outputs):
    prepare = write_stage("00_prepare")
    pool = write_stage("02_pool", generator="folder", root="x")
    check_input(pool, "pool", ["02_pool"])
    (prepare / MANIFEST).unlink()
    check_input(pool, "pool", ["02_pool"])  # an input that is gone tells nothing
    assert write_stage("00_prepare", {"result.csv": "other"}) == prepare
    with pytest.raises(ValueError, match=f"pool: {pool} is stale, since its input {prepare} was made anew with another "
                                         f"content; run 02_pool again"):
        check_input(pool, "pool", ["02_pool"])
    (prepare / MANIFEST).unlink()
    write_stage("00_prepare")
    check_input(pool, "pool", ["02_pool"])  # the same content again
