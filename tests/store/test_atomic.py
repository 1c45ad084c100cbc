"""Atomic writes: whole or not at all, also where the writer is killed."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.store.atomic import atomic, write_csv, write_json

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_link_is_replaced_and_not_where_it_leads(tmp_path):
    write_folder(tmp_path / "elsewhere", "first")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    write_folder(tmp_path / "folder", "second")
    assert [f.name for f in (tmp_path / "folder").iterdir()] == ["second"]
    assert [f.name for f in (tmp_path / "elsewhere").iterdir()] == ["first"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["elsewhere", "folder"]


def test_durable_files_are_on_disk_before_they_have_their_name(tmp_path, monkeypatch):
    order, flush, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), flush(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), rename(*names)))
    with atomic(tmp_path / "manifest.json", durable=True) as partial:
        partial.write_text("{}")
    assert order == ["flush", "rename", "flush"]
    write_json(tmp_path / "progress.json", {})
    assert order[3:] == ["rename"]


def test_a_killed_writer_leaves_no_half_written_file(tmp_path):
    code = ("import os, sys\nfrom pathlib import Path\nfrom dgs_utils.store.atomic import atomic\n"
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
from dgs_utils.store import atomic as files
target = Path(sys.argv[1])
for number in itertools.count(int(sys.argv[2])):
    with files.atomic(target) as partial:
        partial.mkdir()
        for name in "abc":
            (partial / name).write_text(str(number))
    print(number, flush=True)
"""


def test_writers_of_a_folder_killed_again_and_again_leave_it_whole_or_nothing(tmp_path):
    """Ten writers that replace one folder without a pause, each killed after another while."""
    target, number = tmp_path / "set", 0
    for round_ in range(10):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target), str(number)], cwd=ROOT,
                                  stdout=subprocess.PIPE, text=True)
        first = int(writer.stdout.readline())
        time.sleep(0.003 * round_)
        writer.kill()
        last = int([str(first), *writer.stdout.read().split()][-1])
        writer.wait()
        if not target.exists():
            continue
        [found] = {file.read_text() for file in target.iterdir()}
        assert len(list(target.iterdir())) == 3
        assert int(found) in (last, last + 1)  # the last that it told of, or the next, which it had no time to tell of
        number = int(found) + 1
