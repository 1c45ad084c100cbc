"""Stage folders: atomic writes, manifests, checked inputs, and keys that notebooks and planner agree on."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.artifacts import files, manifests, own_code
from dgs_utils.artifacts.contents import digest_of
from dgs_utils.artifacts.files import atomic, write_csv, write_json
from dgs_utils.artifacts.manifests import MANIFEST, VOLATILE, check_input, checksums, is_done, read_manifest
from dgs_utils.artifacts.nodes import Node, default_node
from dgs_utils.artifacts.places import locate, outputs_root, workspace
from dgs_utils.artifacts.run import begin, open_node
from dgs_utils.params import STAGES, validate
from dgs_utils.runtime import progress

ROOT = Path(__file__).resolve().parents[1]


def finished(stage: str, files: dict[str, str] | None = None, **values) -> Path:
    """Carry a stage out as far as its folder is concerned: open it, write some files, finish it."""
    run = open_node(validate(stage, values))
    for name, text in (files or {"result.csv": f"{stage}\n"}).items():
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text(text)
    run.finish()
    return run.folder


# ---- Writing ---------------------------------------------------------------------------------------------------------

def test_atomic_writes_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic(target) as partial:
        partial.write_text("first")
        assert partial.parent == target.parent  # the same file system, or the rename would be a copy
        assert not target.exists()
    with pytest.raises(RuntimeError), atomic(target) as partial:  # noqa: PT012
        partial.write_text("sec")
        raise RuntimeError
    assert target.read_text() == "first"
    with atomic(target) as partial:
        partial.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert [f.name for f in target.parent.iterdir()] == ["file.txt"]


def write_folder(target: Path, content: str, fails: bool = False) -> None:
    with atomic(target) as partial:
        partial.mkdir()
        (partial / content).touch()
        if fails:
            raise RuntimeError


def test_atomic_folders_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "first")
    with pytest.raises(RuntimeError):
        write_folder(target, "second", fails=True)
    assert [f.name for f in target.iterdir()] == ["first"]
    write_folder(target, "third")
    assert [f.name for f in target.iterdir()] == ["third"]
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
       texts=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_csv_and_json_round_trip_exactly(tmp_path_factory, values, texts):
    folder = tmp_path_factory.mktemp("csv")
    frame = pd.DataFrame({"value": values, "text": [texts[i % len(texts)] for i in range(len(values))]})
    write_csv(folder / "a.csv", frame)
    with (folder / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == frame["value"].tolist()
    assert [row["text"] for row in rows] == frame["text"].tolist()
    write_json(folder / "a.json", {"values": values, "texts": texts})
    assert json.loads((folder / "a.json").read_text()) == {"values": values, "texts": texts}


# ---- Places ----------------------------------------------------------------------------------------------------------

def test_workspace_is_found_from_inside_and_relative_paths_start_there(tmp_path, monkeypatch):
    monkeypatch.delenv("DGS_OUTPUTS", raising=False)
    for folder in ("notebooks/deep", "params"):
        (tmp_path / "kit" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "kit" / "notebooks" / "deep")
    assert workspace() == tmp_path / "kit"
    assert outputs_root() == tmp_path / "kit" / "outputs"
    assert locate("data/x") == tmp_path / "kit" / "data" / "x"
    monkeypatch.chdir(tmp_path)
    assert workspace() == tmp_path
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path / "elsewhere"))
    assert outputs_root() == tmp_path / "elsewhere"
    assert locate("outputs/05_sample/x") == tmp_path / "elsewhere" / "05_sample" / "x"
    assert locate("/data/x") == Path("/data/x")
    assert locate("~/x") == Path.home() / "x"


# ---- Manifests -------------------------------------------------------------------------------------------------------

def test_manifest_tells_how_a_folder_came_about(outputs):
    run = open_node(validate("02_pool", {"generator": "folder", "root": "x", "prepare": str(finished("00_prepare"))}))
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
    assert validate("02_pool", manifest["params"]) == run.params
    assert manifest["identity"] == run.params.identity()
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
    assert manifests.input_folder(manifest, "prepare") == run.inputs["prepare"]
    assert manifests.input_folder(manifest, "fine_tune") is None


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_without_a_moment_of_neither(tmp_path, monkeypatch, exchange):
    """Looked at from beside at every call to the system; where two folders cannot be exchanged, `recover` helps."""
    target, missing = tmp_path / "folder", []
    write_folder(target, "first")
    rename = os.replace

    def watched(*names):
        rename(*names)
        missing.append(not target.exists())
        if missing == [True]:  # a crash right here
            left = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name} crashed"))
            files.recover(left)
            assert [f.name for f in (left / "folder").iterdir()] == ["first"]

    monkeypatch.setattr(os, "replace", watched)
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    write_folder(target, "second")
    assert [f.name for f in target.iterdir()] == ["second"]
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]
    if exchange and sys.platform.startswith("linux"):
        assert missing == []


def test_durable_files_are_on_disk_before_they_have_their_name(tmp_path, monkeypatch):
    order, flush, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), flush(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), rename(*names)))
    write_json(tmp_path / "manifest.json", {}, durable=True)
    assert order == ["flush", "rename", "flush"]
    write_json(tmp_path / "progress.json", {})
    assert order[3:] == ["rename"]


def full_disk(*_):
    raise OSError("disk full")


def test_manifest_comes_last(outputs, monkeypatch):
    """Whatever fails while finishing, a folder without its manifest does not count as done."""
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="disk full"):
            run.finish()
    assert not is_done(run.folder)
    assert sorted(f.name for f in run.folder.glob("[!.]*")) == ["inputs.json", "result.csv"]


def test_content_depends_on_files_but_not_on_when_or_where(outputs, tmp_path):
    contents = []
    for text in ("a", "a", "b"):
        folder = finished("00_prepare", {"x.csv": text, "sub/y.csv": "y", "timing.csv": str(len(contents))})
        contents.append(read_manifest(folder)["content"])
        (folder / MANIFEST).unlink()
    assert contents[0] == contents[1] != contents[2]
    other = finished("00_prepare", {"x.csv": "a", "sub/y.csv": "y"}, seed=1)
    assert read_manifest(other)["content"] != contents[0]  # other parameters


def test_checksums_ignore_what_differs_from_run_to_run(tmp_path):
    (tmp_path / "kept.csv").write_text("1")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_text("2")
    before, _ = checksums(tmp_path)
    assert sorted(before) == ["images", "kept.csv"]
    for name in [*VOLATILE, ".hidden"]:
        if "." in name:
            (tmp_path / name).write_text("new")
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text("new")
    assert checksums(tmp_path)[0] == before
    (tmp_path / "images" / "a" / "0.png").write_text("3")
    after, sums = checksums(tmp_path)
    assert sums == {"images": {"images/a/0.png": {"sha256": hashlib.sha256(b"3").hexdigest(), "bytes": 1}}}
    assert after["kept.csv"] == before["kept.csv"]
    assert after["images"]["sha256"] != before["images"]["sha256"]
    assert {name: after["images"][name] for name in ("files", "bytes")} == {"files": 1, "bytes": 1}
    (tmp_path / "images" / "a" / "0.png").rename(tmp_path / "images" / "a" / "1.png")
    assert checksums(tmp_path)[0]["images"]["sha256"] != after["images"]["sha256"]  # names count too


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"stage": "00_prepare"}', "\x00\xff"])
def test_damaged_manifests_are_told_and_do_not_count(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest.json is damaged \(.*\); run its stage again, which writes a"):
        read_manifest(tmp_path)
    assert not is_done(tmp_path)


# ---- Inputs ----------------------------------------------------------------------------------------------------------

def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=f"pool: the folder {tmp_path}/x does not exist; run the stage that writes it"):
        check_input(tmp_path / "x", "pool", ["02_pool"])


def test_folder_without_manifest(tmp_path):
    with pytest.raises(ValueError, match=f"pool: {tmp_path} has no manifest.json, so its stage was never finished"):
        check_input(tmp_path, "pool", ["02_pool"])


def test_damaged_input(outputs):
    folder = finished("00_prepare")
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=f"prepare: {folder}/manifest.json is damaged .it is no JSON.; run its stage"):
        check_input(folder, "prepare", ["00_prepare"])


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "x.csv").unlink(),
    lambda folder: (folder / "x.csv").write_text("longer than before"),
    lambda folder: (folder / "images" / "a" / "0.png").unlink(),
    lambda folder: (folder / "images" / "a" / "0.png").write_text(""),
    lambda folder: (folder / "images").rename(folder / "moved"),
])
def test_changed_input(outputs, change):
    folder = finished("00_prepare", {"x.csv": "short", "images/a/0.png": "0", "images/a/1.png": "1"})
    assert check_input(folder, "prepare", ["00_prepare"])["key"] == folder.name.rsplit("-", 1)[1]
    change(folder)
    with pytest.raises(ValueError, match=rf"prepare: {folder}/(x\.csv|images/a/0.png) is missing or changed since its "
                                         rf"stage finished; dgs verify FILE --repair and then dgs run FILE, .*, and "
                                         "so does notebook 00_prepare"):
        check_input(folder, "prepare", ["00_prepare"])


def test_input_of_another_stage(outputs):
    folder = finished("00_prepare")
    with pytest.raises(ValueError, match=f"distilled: {folder} was written by 00_prepare; give a folder that 05_sample "
                                         f"or 08_condense wrote"):
        check_input(folder, "distilled", ["05_sample", "08_condense"])


def test_new_files_beside_the_old_ones_do_no_harm(outputs):
    folder = finished("00_prepare", {"images/a/0.png": "0"})
    (folder / "notes.txt").write_text("mine")
    (folder / "images" / "a" / "metadata.jsonl").write_text("{}")
    check_input(folder, "prepare", ["00_prepare"])


def test_stale_input(outputs):
    prepare = finished("00_prepare")
    pool = finished("02_pool", generator="folder", root="x")
    check_input(pool, "pool", ["02_pool"])
    (prepare / MANIFEST).unlink()
    check_input(pool, "pool", ["02_pool"])  # an input that is gone tells nothing
    assert finished("00_prepare", {"result.csv": "other"}) == prepare
    with pytest.raises(ValueError, match=f"pool: {pool} is stale, since its input {prepare} was made anew with another "
                                         f"content; run 02_pool again"):
        check_input(pool, "pool", ["02_pool"])
    (prepare / MANIFEST).unlink()
    finished("00_prepare")
    check_input(pool, "pool", ["02_pool"])  # the same content again


def test_an_image_folder_of_any_origin_can_be_evaluated(outputs, tmp_path):
    finished("00_prepare")
    (tmp_path / "mine").mkdir()
    run = open_node(validate("06_evaluate", {"distilled": str(tmp_path / "mine")}))
    assert run.inputs["distilled"] == tmp_path / "mine"
    assert run.sources[1] == {"name": "distilled", "folder": str(tmp_path / "mine"),
                              "key": f"sha256:{digest_of(tmp_path / 'mine')}", "content": ""}
    (tmp_path / "yours").mkdir()
    assert open_node(validate("06_evaluate", {"distilled": str(tmp_path / "yours")})).key == run.key  # both are empty
    (tmp_path / "yours" / "a.png").write_text("image")
    assert open_node(validate("06_evaluate", {"distilled": str(tmp_path / "yours")})).key != run.key
    with pytest.raises(ValueError, match=r"distilled: the folder .*/none does not exist"):
        open_node(validate("06_evaluate", {"distilled": str(tmp_path / "none")}))


# ---- Keys ------------------------------------------------------------------------------------------------------------

def carry_out_all() -> dict[str, Path]:
    """Carry out every default stage in order, by hand, and return the folders."""
    order = [("00_prepare", {}), ("01_fine_tune", {}), ("02_pool", {}), ("03_difficulty", {"source": "originals"}),
             ("03_difficulty", {}), ("04_transform", {}), ("05_sample", {}), ("06_evaluate", {}), ("07_figures", {}),
             ("08_condense", {})]
    return {f"{stage} {values}": finished(stage, **values) for stage, values in order}


def test_default_stages_by_hand_land_where_the_planner_expects_them(outputs):
    folders = carry_out_all()
    assert set(STAGES) == {name.split()[0] for name in folders}
    for name, folder in folders.items():
        stage, values = name.split(" ", 1)
        node = default_node(stage, eval(values))
        assert node.folder == folder
        assert read_manifest(folder)["key"] == node.key
    assert len(set(folders.values())) == len(folders)


def test_naming_the_default_folders_changes_nothing(outputs):
    folders = carry_out_all()
    sample = folders["05_sample {}"]
    inputs = {source["name"]: str(outputs / source["folder"]) for source in read_manifest(sample)["inputs"]}
    run = open_node(validate("05_sample", inputs))
    assert run.folder == sample
    relative = {name: "outputs/" + str(Path(folder).relative_to(outputs)) for name, folder in inputs.items()}
    assert open_node(validate("05_sample", relative)).folder == sample


def test_keys_follow_their_inputs():
    first, second = default_node("05_sample"), default_node("05_sample", {"seed": 1})
    assert first.key != second.key
    evaluated = [Node(validate("06_evaluate", {}), {"prepare": default_node("00_prepare"), "distilled": node})
                 for node in (first, second)]
    assert evaluated[0].key != evaluated[1].key
    lists = [Node(validate("07_figures", {}), {"evaluations": order, "samples": [first]})
             for order in (evaluated, evaluated[::-1])]
    assert lists[0].key == lists[1].key


def test_an_output_folder_can_be_given(outputs, tmp_path):
    folder = finished("00_prepare", output=str(tmp_path / "mine"))
    assert folder == tmp_path / "mine"
    assert read_manifest(folder)["key"] == default_node("00_prepare").key
    pool = finished("02_pool", generator="folder", root="x", prepare=str(folder))
    [source] = read_manifest(pool)["inputs"]
    assert source["folder"] == str(folder)
    assert manifests.input_folder(read_manifest(pool), "prepare") == folder


def test_a_missing_default_input_names_its_parameter(outputs):
    with pytest.raises(ValueError, match=r"prepare: the folder .*00_prepare/digits-.* does not exist; run the stage"):
        open_node(validate("01_fine_tune", {}))


# ---- Notebooks -------------------------------------------------------------------------------------------------------

def test_begin_takes_the_parameters_from_the_notebook(outputs):
    namespace = {"dataset": "folder", "seed": 3, "unrelated": 1, "np": np}
    run = begin("00_prepare", namespace)
    assert (run.params.dataset, run.params.seed) == ("folder", 3)
    assert run.folder.is_dir()
    assert run.folder == default_node("00_prepare", {"dataset": "folder", "seed": 3}).folder


def test_begin_refuses_wrong_parameters_before_any_folder_is_made(outputs):
    with pytest.raises(ValueError, match=r"prepare.seed is 'x', but input should be a valid integer"):
        begin("00_prepare", {"seed": "x"})
    injected = "# Parameters\nsead = 3\n"
    with pytest.raises(ValueError, match="sead is not a parameter of 00_prepare; did you mean 'seed'"):
        begin("00_prepare", {"In": ["", injected], "sead": 3})
    assert not list(outputs.iterdir())


def test_begin_does_not_mind_variables_that_a_user_sets(outputs):
    begin("00_prepare", {"In": ["", "sead = 3", "# Parameters\nseed = 1\n"], "sead": 3, "seed": 1})


def test_papermill_s_unknown_parameter_stops_the_notebook(outputs, tmp_path):
    """Papermill itself only warns about a misspelt parameter and carries on with the default."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3",
                                                                  "language": "python"}})
    cells = [nbformat.v4.new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("from dgs_utils import artifacts\n"
                                       "run = artifacts.begin('00_prepare', globals())\nrun.finish()")]
    notebook.cells = cells
    nbformat.write(notebook, tmp_path / "in.ipynb")

    def execute(**parameters):
        return papermill.execute_notebook(str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), parameters,
                                          progress_bar=False, cwd=str(tmp_path))

    with pytest.raises(papermill.PapermillExecutionError, match=r"sead is not a parameter of 00_prepare; did you mean"):
        execute(sead=5)
    assert not list(outputs.iterdir())
    execute(seed=5)
    [folder] = (outputs / "00_prepare").iterdir()
    assert read_manifest(folder)["params"]["seed"] == 5


def test_progress_passes_everything_on_and_is_readable_from_outside(outputs):
    run = open_node(validate("00_prepare", {}))
    seen = []
    for item in run.progress(range(5), label="counting"):
        seen.append(item)
        state = json.loads((run.folder / "progress.json").read_text())
        assert state["label"] == "counting"
        assert state["total"] == 5
        assert 0 <= state["step"] <= item
    assert seen == list(range(5))
    assert list(progress.silent("abc", label="x", total=3)) == ["a", "b", "c"]
    run.finish()
    assert not (run.folder / "progress.json").exists()


def test_code_hashes_follow_notebook_sources_but_not_their_outputs(tmp_path, monkeypatch):
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    hashes = []
    for source, output in (("x = 1", []), ("x = 1", ["1"]), ("x = 2", [])):
        cell = {"cell_type": "code", "source": source, "outputs": output}
        (tmp_path / "notebooks" / "00_prepare.ipynb").write_text(json.dumps({"cells": [cell]}))
        hashes.append(own_code.code_hashes("00_prepare"))
    assert hashes[0] == hashes[1]
    assert hashes[0]["notebook"] != hashes[2]["notebook"]
    assert len({h["package"] for h in hashes}) == 1


def test_a_killed_writer_leaves_no_half_written_file(tmp_path):
    code = ("import os, sys\nfrom pathlib import Path\nfrom dgs_utils.artifacts.files import atomic\n"
            "with atomic(Path(sys.argv[1])) as partial:\n"
            "    partial.write_text('half')\n    os._exit(9)\n")
    target = tmp_path / "scores.csv"
    target.write_text("whole")
    assert subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT).returncode == 9
    assert target.read_text() == "whole"
    [left] = [f for f in tmp_path.iterdir() if f != target]
    assert left.name.startswith(".")  # hidden, so that no checksum and no listing takes it for a result
    with atomic(target) as partial:
        assert str(os.getpid()) in partial.name
        partial.write_text("new")
    assert target.read_text() == "new"


WRITER = """
import itertools, sys
from pathlib import Path
from dgs_utils.artifacts import files
target, exchanges = Path(sys.argv[1]), sys.argv[2] == "True"
files._exchange = files._exchange if exchanges else lambda *_: False
for number in itertools.count(int(sys.argv[3])):
    with files.atomic(target) as partial:
        partial.mkdir()
        for name in "abc":
            (partial / name).write_text(str(number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("exchange", [True, False])
def test_writers_of_a_folder_killed_again_and_again_leave_it_whole(tmp_path, exchange):
    """Ten writers that replace one folder without a pause, each killed after another while; one of them is whole."""
    target, number, absent = tmp_path / "set", 0, 0
    for round_ in range(10):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target), str(exchange), str(number)], cwd=ROOT,
                                  stdout=subprocess.PIPE, text=True)
        first = int(writer.stdout.readline())
        for _ in range(50 + 37 * round_):  # looks beside it while it works
            absent += not target.exists()
        writer.kill()
        last = int([str(first), *writer.stdout.read().split()][-1])
        writer.wait()
        files.recover(tmp_path)
        [found] = {file.read_text() for file in target.iterdir()}
        assert len(list(target.iterdir())) == 3
        assert int(found) in (last, last + 1)  # the last that it told of, or the next, which it had no time to tell of
        assert not list(tmp_path.glob(".*.aside"))
        number = int(found) + 1
    if exchange and sys.platform.startswith("linux"):
        assert absent == 0


def test_what_a_manifest_certifies_is_on_disk_before_it(outputs, monkeypatch):
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")
    seen = []
    monkeypatch.setattr("dgs_utils.artifacts.run.settle", lambda folder: seen.append(
        (files.settle(folder), sorted(path.name for path in folder.glob("[!.]*")))))
    run.finish()
    assert seen == [(None, ["checksums.json", "inputs.json", "result.csv"])]
