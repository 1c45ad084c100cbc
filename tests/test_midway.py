"""Stages 06 and 08 left inside a training and inside an outer loop: nothing is lost, and no bit is another."""

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from small_world import make_prepare, open_stage, write_digits
from waits import HANG

from dgs_utils.artifacts.manifests import checksums
from dgs_utils.artifacts.midway import Midway
from dgs_utils.condense import condense
from dgs_utils.evaluate import evaluate, open_sets

STAGES = {
    "06_evaluate": {"image_size": 16, "norm": "batch", "epochs": 4, "evaluations": 4, "repeats": 2,
                    "batch_size": 4, "device": "cpu", "workers": 1},
    "08_condense": {"method": "idc", "image_size": 8, "ipc": 2, "iterations": 2, "real_batch": 8, "inner_loops": 3,
                    "pretrain_epochs": 2, "net_batches": 1, "device": "cpu", "workers": 1, "image_learning_rate": 0.05},
}
STATE = {"06_evaluate": "0.pt", "08_condense": "last.pt"}
CALLS = {"06_evaluate": 11, "08_condense": 4}  # between the steps of the third epoch, and between two comparisons


@pytest.fixture
def inputs(tmp_path, outputs) -> dict[str, str]:
    prepare = make_prepare(write_digits(tmp_path / "originals", 0, 30), val=8)
    return {"prepare": str(prepare), "distilled": str(write_digits(tmp_path / "mine", 60, 64))}


def carried_out(stage: str, inputs: dict[str, str], output: Path) -> dict[str, bytes]:
    """Carry a stage out in a folder and return what it wrote, times left out."""
    if stage == "06_evaluate":
        run = open_stage(stage, **STAGES[stage], **inputs, output=str(output))
        evaluate(run, *open_sets(run))
    else:
        run = open_stage(stage, **STAGES[stage], prepare=inputs["prepare"], output=str(output))
        condense(run)
    files = checksums(run.folder)[0]
    return {name: (run.folder / name).read_bytes() for name in files
            if (run.folder / name).is_file() and name != "timing.csv"}


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from dgs_utils.artifacts import midway

def announced(self, state, before=midway.Midway.__call__, calls=[0]):
    calls[0] += 1
    if calls[0] == {calls}:
        print("running", flush=True)
        sys.stdin.read(1)
    before(self, state)

midway.Midway.__call__ = announced
from test_midway import carried_out
carried_out({stage!r}, {inputs!r}, Path({output!r}))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_terminated_goes_on_where_it_was(stage, inputs, tmp_path):
    expected = carried_out(stage, inputs, tmp_path / "whole")
    script = SCRIPT.format(tests=str(Path(__file__).parent), stage=stage, inputs=inputs,
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
        assert (state["iteration"], state["inside"]["done"]) == (0, 4)
    assert carried_out(stage, inputs, tmp_path / "parts") == expected
    assert not file.exists()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_loses_no_more_than_since_its_last_state(stage, inputs, tmp_path, monkeypatch):
    """As with SIGKILL: nothing can be written at the end, but states were written on the way, here at each step."""
    expected = carried_out(stage, inputs, tmp_path / "whole")
    save, saved, minutes = Midway.save, [], count(0.0, 61.0)

    def cut(self, state):
        save(self, state)
        saved.append(self.file)
        if len(saved) == 7:
            raise SystemExit

    monkeypatch.setattr(Midway, "save", cut)
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
    midway, asked = Midway(tmp_path / "state.pt"), []
    with midway.watching():
        for second in range(150):
            now[0] = 100.0 + second
            midway(lambda: asked.append(now[0] - 100) or {"second": asked[-1]})
    assert asked == [60, 120]
    assert midway.load() == {"second": 120}
    midway.done()
    assert midway.load() is None


def test_a_damaged_state_is_none(tmp_path):
    midway = Midway(tmp_path / "state.pt")
    for content in (b"", b"PK\3\4 cut short", b"\x80\4."):
        midway.file.write_bytes(content)
        assert midway.load() is None


def test_ctrl_c_is_acted_on_between_two_steps_and_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    midway, done = Midway(tmp_path / "state.pt"), []

    def work():
        with midway.watching():
            for step in range(5):
                if step == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                done.append(step)
                midway(lambda: {"done": len(done)})

    with pytest.raises(KeyboardInterrupt, match="run again to continue"):
        work()
    assert (done, midway.load()) == ([0, 1, 2], {"done": 3})
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_file_signals_act_as_they_always_do():
    with Midway().watching() as midway:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        midway(lambda: pytest.fail("nothing is kept"))
