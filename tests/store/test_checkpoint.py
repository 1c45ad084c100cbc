"""Stages 06 and 08 left inside a training and inside an outer loop: nothing is lost, and no bit is another."""

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from small_stages import SMALL_TRAININGS, carried_out
from small_world import make_prepare, write_digits
from waits import HANG

from dgs_utils.store.checkpoint import Checkpointer

STATE = {"06_evaluate": "0.pt", "08_condense": "last.pt"}
CALLS = {"06_evaluate": 11, "08_condense": 4}  # between the steps of the third epoch, and between two comparisons


@pytest.fixture
def inputs(tmp_path, outputs) -> dict[str, str]:
    prepare = make_prepare(write_digits(tmp_path / "originals", 0, 30), val=8)
    return {"prepare": str(prepare), "distilled": str(write_digits(tmp_path / "mine", 60, 103))}


HELPERS = str(Path(__file__).parents[1] / "helpers")
SCRIPT = """
import sys
sys.path.insert(0, {helpers!r})
from pathlib import Path
from dgs_utils.store import checkpoint

def announced(self, state, before=checkpoint.Checkpointer.maybe_save, calls=[0]):
    calls[0] += 1
    if calls[0] == {calls}:
        print("running", flush=True)
        sys.stdin.read(1)
    before(self, state)

checkpoint.Checkpointer.maybe_save = announced
from small_stages import carried_out
carried_out({stage!r}, {inputs!r}, Path({output!r}))
"""


@pytest.mark.parametrize("stage", SMALL_TRAININGS)
def test_a_stage_that_is_terminated_goes_on_where_it_was(stage, inputs, tmp_path):
    expected = carried_out(stage, inputs, tmp_path / "whole")
    script = SCRIPT.format(helpers=HELPERS, stage=stage, inputs=inputs,
                           output=str(tmp_path / "parts"), calls=CALLS[stage])
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    line = ""
    while line != "running\n":
        line = process.stdout.readline()
        assert line, process.communicate()[1]
    process.send_signal(signal.SIGTERM)
    process.communicate("x", timeout=HANG)
    assert process.returncode == -signal.SIGTERM
    file = tmp_path / "parts" / "checkpoints" / STATE[stage]
    state = torch.load(file, weights_only=True)
    if stage == "06_evaluate":
        assert (state["epochs_done"], len(state["losses"])) == (2, 3)  # of three batches
    else:
        assert (state["iteration"], state["shared"]["step"]) == (0, 4)
    assert carried_out(stage, inputs, tmp_path / "parts") == expected
    assert not file.exists()


@pytest.mark.parametrize("stage", SMALL_TRAININGS)
def test_a_stage_that_is_killed_loses_no_more_than_since_its_last_state(stage, inputs, tmp_path, monkeypatch):
    """As with SIGKILL: nothing can be written at the end, but states were written on the way, here at each step."""
    expected = carried_out(stage, inputs, tmp_path / "whole")
    save, saved, minutes = Checkpointer.save, [], count(0.0, 61.0)

    def cut(self, state):
        save(self, state)
        saved.append(self.file)
        if len(saved) == 7:
            raise SystemExit

    monkeypatch.setattr(Checkpointer, "save", cut)
    monkeypatch.setattr("time.monotonic", lambda: next(minutes))
    with pytest.raises(SystemExit):
        carried_out(stage, inputs, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path / "outputs"))
    assert saved[-1].exists()
    assert carried_out(stage, inputs, tmp_path / "parts") == expected


def test_a_state_is_written_once_a_minute(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpointer, asked = Checkpointer(tmp_path / "state.pt"), []
    with checkpointer.handle_signals():
        for second in range(150):
            now[0] = 100.0 + second
            checkpointer.maybe_save(lambda: asked.append(now[0] - 100) or {"second": asked[-1]})
    assert asked == [60, 120]
    assert checkpointer.load() == {"second": 120}
    checkpointer.clear()
    assert checkpointer.load() is None


def test_a_damaged_state_is_none(tmp_path):
    checkpointer = Checkpointer(tmp_path / "state.pt")
    for content in (b"", b"PK\3\4 cut short", b"\x80\4."):
        checkpointer.file.write_bytes(content)
        assert checkpointer.load() is None


def test_ctrl_c_is_acted_on_between_two_steps_and_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    checkpointer, done = Checkpointer(tmp_path / "state.pt"), []

    def work():
        with checkpointer.handle_signals():
            for step in range(5):
                if step == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                done.append(step)
                checkpointer.maybe_save(lambda: {"done": len(done)})

    with pytest.raises(KeyboardInterrupt, match="run again to continue"):
        work()
    assert (done, checkpointer.load()) == ([0, 1, 2], {"done": 3})
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_file_signals_act_as_they_always_do():
    with Checkpointer().handle_signals() as checkpointer:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        checkpointer.maybe_save(lambda: pytest.fail("nothing is kept"))
