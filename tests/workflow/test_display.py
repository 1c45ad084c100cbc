"""Progress of a run, on a terminal and where there is none."""

import io
import json
import os
import pty
import re
import subprocess
from contextlib import suppress

import pytest
import small_grid
from small_grid import dgs
from waits import HANG, wait_for

from dgs_utils.runtime.units import format_duration
from dgs_utils.store.node import default_node
from dgs_utils.workflow.display import Display


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_where_no_terminal_is_a_line_a_minute_shows_each_notebook(tmp_path, monkeypatch):
    """Sooner while it waits for its first cell, or for a GPU."""
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr("dgs_utils.workflow.display.LINE_INTERVAL_S", 0.05)
    nodes, stream = [default_node("02_pool"), default_node("03_difficulty")], io.StringIO()
    nodes[0].folder.mkdir(parents=True)
    counted = {"label": "images", "step": 30, "total": 90}
    (nodes[0].folder / "progress.json").write_text(json.dumps(counted))
    display = Display(stream)
    display.start(nodes, 4)
    with display.node(nodes[0]) as first, display.node(nodes[1]) as second:
        first.at_cell({}, 4)  # what an earlier cell counted is over
        assert not (nodes[0].folder / "progress.json").exists()
        (nodes[0].folder / "progress.json").write_text(json.dumps(counted | {"step": 31}))
        second.wait_for("waiting for a GPU")
        wait_for(lambda: stream.getvalue().count("cell 5") > 1 and stream.getvalue().count("waiting for a GPU") > 1)
        display.note("once")
        display.note("once")
    lines = stream.getvalue().splitlines()
    assert lines.count("once") == 1
    begin, *later = [line for line in lines if "02_pool" in line]
    assert re.fullmatch(rf"\[3/4\] 02_pool {re.escape(nodes[0].label)} · 0:00 · starting · images 30/90", begin)
    assert re.fullmatch(rf"\[4/4\] 02_pool {re.escape(nodes[0].label)} · 0:0\d · cell 5 · images 31/90", later[0])
    assert stream.getvalue().endswith("\n")


def test_progress_can_be_read_while_a_notebook_runs(tmp_path):
    workspace = small_grid.build(tmp_path / "w", seconds=1)
    ours, theirs = pty.openpty()
    runner = subprocess.Popen(small_grid.command("run", "params/small.yaml", "--until", "prepare"), cwd=workspace,
                              env=small_grid.environment(workspace) | {"COLUMNS": "120"}, stdout=theirs)
    os.close(theirs)
    shown = b""
    while b"steps 1/3" not in shown:  # a terminal's line is rewritten as the notebook goes on
        shown += os.read(ours, 1000)
    assert b"[1/1] 00_prepare digits" in shown
    assert b"\x1b[2K" in shown  # erased before it is written anew
    assert b"cell 4" in shown  # papermill adds one with the parameters
    [progress] = (workspace / "outputs").rglob("progress.json")
    assert json.loads(progress.read_text())["label"] == "steps"
    printed = dgs(workspace, "status", "params/small.yaml").stdout
    [line] = [line for line in printed.splitlines() if "00_prepare" in line]
    assert line.split()[1:4] == ["1", "·", "1"]  # one node, none done, one running
    with suppress(OSError):  # Linux says so when the other end of a terminal is closed
        while os.read(ours, 1000):
            pass
    assert runner.wait(timeout=HANG) == 0
