"""What goes wrong leaves a clear line, finished work as it was, and a state that the next call goes on from."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import small_grid
import torch
from small_grid import contents, dgs, manifests, start
from waits import HANG, wait_for

from dgs_utils.artifacts.opening import worker
from dgs_utils.batch import limit
from dgs_utils.batch.clean import unreferenced
from dgs_utils.batch.experiment import read_experiment
from dgs_utils.batch.node import Report
from dgs_utils.batch.plan import expand
from dgs_utils.batch.report import summary
from dgs_utils.batch.scratch import Scratch
from dgs_utils.batch.state import manifest, state
from dgs_utils.batch.status import fault_lines, overview

FILE = "params/small.yaml"


@pytest.fixture
def workspace(tmp_path):
    return small_grid.build(tmp_path / "grid")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace whose grid has been run undisturbed."""
    return small_grid.finished(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def undisturbed(finished):
    """Checksums of what that run wrote."""
    return contents(finished)


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """A finished workspace of the test's own, which is that of this process, too."""
    workspace = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("DGS_OUTPUTS", str(workspace / "outputs"))
    return workspace


# ---- Notebooks that fail ---------------------------------------------------------------------------------------------

def test_failure_stops_only_what_depends_on_it(copy, undisturbed):
    healthy = (copy / "notebooks" / "04_transform.ipynb").read_text()
    for stage in ("04_transform", "05_sample", "06_evaluate", "07_figures"):
        shutil.rmtree(copy / "outputs" / stage)
    small_grid.replace_cell(copy, "04_transform", 3, "raise ValueError('class 3 is\\nodd')")
    result = dgs(copy, "run", FILE, "--set", "transform.weight=0.25")
    assert result.returncode == 1
    [line] = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert "04_transform (weight=0.25): ValueError: class 3 is odd; open outputs/04_transform/digits" in line
    assert line.endswith("/notebook.ipynb")
    done = manifests(copy)
    assert [name.split("/")[1].rsplit("-", 1)[0] for name in done if name[:2] in ("05", "06")] == [
        "digits-random-ipc10", "digits-random-ipc10-convnet3"]  # the sibling that needs no transform
    table = {words[0]: words[1:5] for words in map(str.split, result.stdout.splitlines()) if len(words) == 6}
    assert table["04_transform"] == ["·", "·", "1", "·"]
    assert table["05_sample"] == ["1", "·", "·", "1"]
    [log] = (copy / "outputs" / "04_transform").glob("*/log.txt")
    assert "raise ValueError" in log.read_text()
    assert line in dgs(copy, "status", FILE, "--set", "transform.weight=0.25").stdout.splitlines()

    (copy / "notebooks" / "04_transform.ipynb").write_text(healthy)
    result = dgs(copy, "run", FILE)
    assert result.returncode == 0
    assert "4 of 11 notebooks to run" in result.stdout
    assert all(manifest == done[name] for name, manifest in manifests(copy).items() if name in done)
    assert contents(copy) == undisturbed


def test_each_failure_is_told_in_one_line(copy):
    failures = [("import os; os.kill(os.getpid(), 9)", "the kernel died; it was killed, or ran out of memory"),
                ("raise KeyboardInterrupt", "KeyboardInterrupt"),
                ("run.finish = lambda: None", "the notebook ended without a manifest"),
                ("begin('07_figures', {'title': 3})", "ValueError: figures.title is 3"),
                ("import sys; sys.exit('enough')", "SystemExit: enough")]
    small_grid.replace_cell(copy, "06_evaluate", 3, f"exec({[cell for cell, _ in failures]}[run.params.seed - 10])")
    seeds = [10 + number for number in range(len(failures))]
    result = dgs(copy, "run", FILE, "--only", "evaluate", "--set", "sample.method=random",
                 "--set", f"evaluate.seed={seeds}")
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert len(lines) == len(failures)
    for line, seed, (_, sentence) in zip(lines, seeds, failures, strict=True):
        assert f"FAILED 06_evaluate (seed={seed}): {sentence}" in line


def test_a_cell_that_takes_longer_than_the_limit_is_told(workspace):
    small_grid.replace_cell(workspace, "00_prepare", 3, f"import time; time.sleep({2 * HANG})")
    result = dgs(workspace, "run", FILE, "--until", "prepare", "--limit", "0.02")
    assert result.returncode == 1
    assert "FAILED 00_prepare (defaults): a cell took longer than the limit of 0.02 minutes" in result.stdout


def test_time_in_which_the_runner_slept_does_not_count(monkeypatch):
    """An hour passes between any two looks, as when a laptop's lid is shut each time."""
    looks = []
    monkeypatch.setattr(limit, "time", SimpleNamespace(monotonic=lambda: looks.append(0) or 3600.0 * len(looks)))
    monkeypatch.setattr(limit, "TICK", 0.01)
    with limit.CellClock(minutes=1) as clock:
        clock.restart()
        wait_for(lambda: len(looks) > 20)
        assert not clock.expired


def test_a_stopped_kernel_is_late_and_ends(monkeypatch):
    monkeypatch.setattr(limit, "PATIENCE", 0.2)
    with subprocess.Popen(["sleep", "1000"]) as kernel, limit.CellClock(minutes=0.001) as clock:
        clock.kernel = kernel.pid
        kernel.send_signal(signal.SIGSTOP)
        clock.restart()
        assert kernel.wait(HANG) == -signal.SIGKILL
        assert clock.expired


def test_missing_notebook_is_told(copy):
    shutil.rmtree(copy / "outputs" / "07_figures")
    (copy / "notebooks" / "07_figures.ipynb").unlink()
    result = dgs(copy, "run", FILE)
    assert result.returncode == 1
    assert "No such file or directory" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


# ---- Manifests and disks ---------------------------------------------------------------------------------------------

def test_damaged_manifests_are_not_done(copy, undisturbed):
    damages = {"01_fine_tune": "", "02_pool": "{", "04_transform": "[]", "07_figures": "\0" * 100}
    for stage, damage in damages.items():
        [folder] = (copy / "outputs" / stage).iterdir()
        (folder / "manifest.json").write_text(damage)
    others = [folder for folder in (copy / "outputs" / "05_sample").iterdir()]
    shutil.copy(others[0] / "manifest.json", others[1])  # of another node
    result = dgs(copy, "run", FILE)
    assert result.returncode == 0
    assert "5 of 11 notebooks to run" in result.stdout
    assert contents(copy) == undisturbed


MANIFESTS = {
    "it is no JSON": lambda found: "[" * 100_000,
    "it is no JSON object": lambda found: "[]",
    "inputs is null": lambda found: found | {"inputs": None},
    "content is missing, as from an older kit": lambda found: {k: v for k, v in found.items() if k != "content"},
    'seconds is "12"': lambda found: found | {"seconds": "12"},
    "seconds is not finite": lambda found: found | {"seconds": float("nan")},
    "of an input, content is missing": lambda found: found | {"inputs": [{"name": "x", "folder": "y", "key": "z"}]},
    "of an input, count is \"1\"": lambda found: found | {"inputs": [found["inputs"][0] | {"count": "1"}]},
    "of 'part0.txt', files is null": lambda found: found | {"files": {"part0.txt": found["files"]["part0.txt"]
                                                                      | {"files": None}}},
    "of an input, it is no JSON object": lambda found: found | {"inputs": ["../.."]},
    "of 'a.csv', bytes is \"many\"": lambda found: found | {"files": {"a.csv": {"sha256": "", "bytes": "many"}}},
    "files is []": lambda found: found | {"files": []},
    "it has more than 64 MiB": lambda found: found | {"warnings": ["x" * 2**26]},
    "is that of another result": lambda found: found | {"key": "0" * len(found["key"])},
}


@pytest.mark.parametrize("fault", MANIFESTS)
def test_a_manifest_that_lacks_something_counts_as_missing_and_is_told(copy, fault):
    [folder] = (copy / "outputs" / "07_figures").iterdir()
    path = folder / "manifest.json"
    damaged = MANIFESTS[fault](json.loads(path.read_text()))
    path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    nodes = expand(read_experiment(copy / FILE))
    lines = fault_lines(nodes)
    assert len(lines) == 1
    assert lines[0].startswith("Counts as missing: ")
    assert fault in lines[0]
    assert str(path) in lines[0]
    assert [state(node) for node in nodes].count("missing") == 1
    assert overview(nodes, disk=True)[9:] == lines
    assert unreferenced() == []
    assert summary([Report(node, "done" if manifest(node) else "failed") for node in nodes])


def test_what_a_damaged_manifest_and_failure_cost_is_one_line_each(copy, undisturbed):
    """Through the command: shown, run, and right again."""
    [figures] = (copy / "outputs" / "07_figures").iterdir()
    [transform] = (copy / "outputs" / "04_transform").iterdir()
    for folder in (figures, transform):
        found = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(found | {"inputs": None}))
    for content in ("", "[]", '{"error": null}', "[" * 100_000):
        (transform / "failure.json").write_text(content)
        result = dgs(copy, "status", FILE)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.count("Counts as missing: ") == 2
    assert dgs(copy, "clean").returncode == 0
    result = dgs(copy, "run", FILE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("(inputs is null)") == 2
    assert contents(copy) == undisturbed


def test_full_disk_fails_one_notebook_and_can_be_resumed(copy, undisturbed):
    shutil.rmtree(copy / "outputs" / "07_figures")
    healthy = (copy / "notebooks" / "07_figures.ipynb").read_text()
    small_grid.replace_cell(copy, "07_figures", 3, "(run.folder / 'big').write_bytes(bytes(10**6))")
    result = dgs(copy, "run", FILE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)))
    assert result.returncode == 1
    assert "FAILED 07_figures" in result.stdout
    assert "File too large" in result.stdout
    [folder] = (copy / "outputs" / "07_figures").iterdir()
    (folder / "big").unlink(missing_ok=True)
    (copy / "notebooks" / "07_figures.ipynb").write_text(healthy)
    assert dgs(copy, "run", FILE).returncode == 0
    assert contents(copy) == undisturbed


def test_no_room_even_for_the_log_is_told(copy):
    shutil.rmtree(copy / "outputs" / "07_figures")
    result = dgs(copy, "run", FILE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert result.returncode == 1
    assert "FAILED 07_figures" in result.stdout
    assert "Traceback" not in result.stderr
    assert dgs(copy, "run", FILE).returncode == 0


def test_outputs_that_cannot_be_written_are_told(copy, tmp_path):
    (tmp_path / "a file").touch()
    result = dgs(copy, "run", FILE, "--outputs", str(tmp_path / "a file"))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "a file" in result.stderr


def test_read_only_outputs_are_told(copy, tmp_path):
    outputs = tmp_path / "outputs"
    outputs.mkdir(mode=0o500)
    place = outputs if os.getuid() else "/sys/kernel"  # root may write anywhere but there
    result = dgs(copy, "run", FILE, "--outputs", str(place))
    assert result.returncode == 2
    assert "ermi" in result.stderr  # Permission denied, or Operation not permitted
    assert result.stderr.count("\n") == 1


def test_finished_results_can_be_looked_at_where_nothing_can_be_written(copy):
    for path in copy.rglob(".lock"):
        path.unlink()
    result = dgs(copy, "run", FILE)
    assert result.stdout.endswith("Nothing was left to do.\n")
    assert not list(copy.rglob(".lock"))


# ---- Signals ---------------------------------------------------------------------------------------------------------

PID = "import os, subprocess; (run.folder / '.pid').write_text(str(os.getpid()))\n"


def is_gone(pid: int) -> bool:
    """Return whether a process has ended (as a zombie it only waits for somebody to read its status)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_kernel_outlives_its_runner(workspace, number):
    small_grid.replace_cell(workspace, "00_prepare", 3, PID + "while True: pass")  # busy, it cannot look around
    runner = start(workspace, "run", FILE)
    [pid] = wait_for(lambda: [int(path.read_text() or 0) for path in workspace.rglob(".pid")])
    time.sleep(0.2)
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=HANG)
    wait_for(lambda: is_gone(pid))
    if number in (signal.SIGINT, signal.SIGTERM):
        assert runner.returncode == 130
        assert "the same command continues from here" in errors
        assert "Traceback" not in errors
    assert manifests(workspace) == {}
    assert "running" not in dgs(workspace, "status", FILE).stdout.splitlines()[1]


@pytest.mark.parametrize("length", [30, 150])
def test_temporary_folders_of_killed_runners_are_swept(workspace, tmp_path, monkeypatch, length):
    """Also where the temporary folder has a longer name than sockets may have, so that another one is used."""
    place = Path(tempfile.mkdtemp(dir="/var/tmp" if os.access("/var/tmp", os.W_OK) else None)) / ("t" * length)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    used = place if length < 60 else Path("/tmp")
    healthy = (workspace / "notebooks" / "00_prepare.ipynb").read_text()
    small_grid.replace_cell(workspace, "00_prepare", 3, "from ipykernel import connect\n"
                            "(run.folder / '.where').write_text(connect.get_connection_file())\nwhile True: pass")
    runner = start(workspace, "run", FILE)
    [where] = wait_for(lambda: [Path(file.read_text()) for file in workspace.rglob(".where") if file.read_text()])
    assert where.parent.parent == used
    runner.kill()
    runner.communicate()
    assert where.parent.exists()
    (workspace / "notebooks" / "00_prepare.ipynb").write_text(healthy)
    dgs(workspace, "run", FILE, "--until", "prepare", check=True)  # a process of its own, whose folder goes with it
    assert not where.parent.exists()
    assert not list(place.iterdir())
    shutil.rmtree(place.parent)


def test_a_scratch_folder_that_somebody_uses_is_left_alone(tmp_path):
    first = Scratch(tmp_path, "x-")
    second = Scratch(tmp_path, "x-", keep=True)
    assert first.path.exists()
    gone, kept = first.path, second.path
    del first, second
    assert not gone.exists()
    assert kept.exists()
    third = Scratch(tmp_path, "x-")
    assert [*tmp_path.iterdir()] == [third.path]


@pytest.mark.slow  # starts kernels that import PyTorch
@pytest.mark.usefixtures("heard_signals")
def test_an_interrupted_training_goes_on_from_its_last_step(tmp_path):
    workspace = small_grid.build_real(tmp_path / "grid")
    prepare = ["run", FILE, "--until", "prepare", "--set", "prepare.train_steps=4000"]

    def is_training(steps: int) -> bool:
        states = [json.loads(path.read_text()) for path in
                  workspace.glob("outputs/00_prepare/*/progress.json")]  # the tree around them is changing
        return any(state["total"] == steps and state["step"] > 0 for state in states)

    reached = 0
    for number in (signal.SIGINT, signal.SIGTERM):  # to the runner alone: kernels have sessions of their own
        runner = start(workspace, *prepare, loaded=True)
        wait_for(lambda left=4000 - reached: is_training(left))
        runner.send_signal(number)
        runner.communicate(timeout=HANG)
        assert runner.returncode == 130
        [checkpoint] = workspace.rglob("base.pt")
        before, reached = reached, torch.load(checkpoint, weights_only=True)["step"]
        assert before < reached < 4000


def kill_at_random(workspace, kills: int, earliest: float, latest: float) -> None:
    """Start a grid again and again and kill it with -9, the runner and a kernel in turns; what is finished stays so."""
    chance = random.Random(0)
    finished = {}
    for attempt in range(kills):
        runner = start(workspace, "run", FILE, loaded=True)
        time.sleep(chance.uniform(earliest, latest))
        if attempt % 2:
            wait_for(lambda ended=runner.poll: working(workspace) or ended() is not None)
        kernels = working(workspace) if attempt % 2 else []
        for process in kernels or [runner.pid]:
            with suppress(ProcessLookupError):  # just ended
                os.kill(process, signal.SIGKILL)
        if kernels:  # the runner goes on with what does not depend on it; end that too
            time.sleep(chance.uniform(0.0, 0.5))
            runner.kill()
        runner.communicate(timeout=HANG)
        assert_untouched(workspace, finished)
        finished = stamps(workspace)
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout
    assert_untouched(workspace, finished)


def working(workspace) -> list[int]:
    """Return the process ids of the kernels that have a folder of a workspace just now."""
    told = [worker(folder) for folder in (workspace / "outputs").glob("*/*")]
    return [int(found[1]) for found in map(re.compile(r"process (\d+) on").match, told) if found]


def stamps(workspace) -> dict[str, int]:
    """Return when each manifest was written, in nanoseconds."""
    return {name: (workspace / "outputs" / name / "manifest.json").stat().st_mtime_ns for name in manifests(workspace)}


def assert_untouched(workspace, finished: dict[str, int]) -> None:
    now = stamps(workspace)
    assert {name: now.get(name) for name in finished} == finished


@pytest.mark.slow  # six kills, each of a runner that had to start first
def test_killed_again_and_again_it_ends_as_if_undisturbed(tmp_path, undisturbed):
    workspace = small_grid.build(tmp_path / "grid", seconds=0.05)
    kill_at_random(workspace, 6, 0.3, 2.0)
    assert contents(workspace) == undisturbed


@pytest.mark.slow  # the same with the real notebooks, which import PyTorch and leave checkpoints and half a pool behind
def test_real_notebooks_killed_again_and_again_end_as_if_undisturbed(tmp_path, tmp_path_factory):
    calm, _ = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_real)
    restless = small_grid.build_real(tmp_path / "restless")
    kill_at_random(restless, 4, 1.0, 3.0)
    assert contents(restless) == contents(calm)
