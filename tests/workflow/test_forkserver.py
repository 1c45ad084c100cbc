"""Kernels that are forks of one process: as good as new ones, and gone with their runner."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import small_grid
from small_grid import contents
from waits import HANG, wait_for

from dgs_utils.workflow import forkserver
from dgs_utils.workflow.kernel import KernelPool, socket_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels are never forks")
FILE = "params/small.yaml"
ONE = ("--set", "sample.method=dgs")  # one set
HEAVY = """
from dgs_utils import difficulty
import dgs_utils as dgs
from dgs_utils.store import atomic as files, manifest as manifests
run = dgs.stage("03_difficulty")
"""
NUMBERS = """
import dgs_utils as dgs
from dgs_utils.store import atomic as files, manifest as manifests
from dgs_utils.plots.live import LiveFigure
run = dgs.stage("01_fine_tune")
"""  # loads numpy, but not its random numbers
RECORD = """
import json, os, random, sys
import numpy as np
record = {"stage": run.node.stage, "program": os.path.basename(sys.argv[0]), "folder": os.getcwd(),
          "pid": os.getpid(), "parent": os.getppid(), "random": [random.random(), np.random.random()],
          "torch": "torch" in sys.modules, "cores": os.environ.get("DGS_CORES", ""),
          "cuda": "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(), "mark": os.environ["MARK"]}
(run.folder / ".record").write_text(json.dumps(record))
"""


def start(workspace, *options: str) -> subprocess.Popen:
    """Start a run whose kernels are forks."""
    environment = small_grid.environment(workspace) | {"MARK": "of the runner"}
    return subprocess.Popen(small_grid.command("run", FILE, *options), cwd=workspace, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(workspace, *options: str) -> str:
    """Run, and return what was printed."""
    runner = start(workspace, *options)
    printed, errors = runner.communicate(timeout=HANG)
    assert runner.returncode == 0, printed + errors
    assert "Warning" not in errors
    return printed


def records(workspace) -> list[dict]:
    """Return what notebooks recorded of their kernels."""
    return [json.loads(path.read_text() or "{}") for path in sorted((workspace / "outputs").rglob(".record"))]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def workspace(tmp_path):
    return small_grid.build(tmp_path / "grid")


def assert_results_of_a_whole_run(workspace, tmp_path_factory) -> None:
    made, expected = contents(workspace), contents(small_grid.finished(tmp_path_factory.getbasetemp())[0])
    assert made == {name: expected[name] for name in made}


@pytest.mark.parametrize("jobs", [1, 2])
def test_forks_do_what_new_kernels_do(workspace, tmp_path_factory, jobs):
    small_grid.replace_cell(workspace, "01_fine_tune", 1, NUMBERS)
    small_grid.replace_cell(workspace, "03_difficulty", 1, HEAVY)
    for stage in ("00_prepare", "01_fine_tune", "03_difficulty", "04_transform", "05_sample"):
        small_grid.replace_cell(workspace, stage, 3, RECORD)
    printed = finish(workspace, *ONE, "--until", "sample", "--jobs", str(jobs))
    assert_results_of_a_whole_run(workspace, tmp_path_factory)
    kernels = records(workspace)
    assert len({kernel["pid"] for kernel in kernels}) == 6  # a process each
    assert len({kernel["parent"] for kernel in kernels}) == 1
    for kernel in kernels:
        assert (kernel["program"], kernel["mark"]) == ("forked_kernel.py", "of the runner")
        assert (kernel["folder"], kernel["cuda"]) == (str(workspace), False)
        assert kernel["torch"] or kernel["stage"] != "03_difficulty"
        assert bool(kernel["cores"]) == (jobs > 1)
        assert gone(kernel["pid"])
    assert not kernels[0]["torch"]  # loaded when the first notebook needs it
    assert len({number for kernel in kernels for number in kernel["random"]}) == 12
    assert "NOTE" not in printed  # printed by a kernel that does not know its parent


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_the_runner(workspace, number, tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    small_grid.replace_cell(workspace, "00_prepare", 3, f"{RECORD}\nwhile True: pass")
    runner = start(workspace)
    wait_for(lambda: any(records(workspace)))
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) == 2  # the fork server and the kernel
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=HANG)
    if number in (signal.SIGINT, signal.SIGTERM):
        assert runner.returncode == 130
        assert "the same command continues from here" in errors
        assert "Traceback" not in errors
    wait_for(lambda: all(gone(process.pid) for process in family))
    wait_for(lambda: not list((tmp_path / "t").iterdir()))
    assert small_grid.manifests(workspace) == {}
    assert "running" not in small_grid.dgs(workspace, "status", FILE).stdout.splitlines()[1]


def test_a_killed_fork_fails_alone(workspace):
    small_grid.replace_cell(workspace, "01_fine_tune", 3, "import os; os.kill(os.getpid(), 9)")
    printed, _ = start(workspace, *ONE, "--until", "sample").communicate(timeout=HANG)
    assert "FAILED 01_fine_tune (defaults): the kernel died" in printed
    assert len(small_grid.manifests(workspace)) == 2  # 00, and 03 of the originals


def test_a_fork_server_that_is_killed_takes_its_kernel_along_and_nothing_else(workspace):
    """What does not need that notebook goes on, in new processes."""
    small_grid.replace_cell(workspace, "01_fine_tune", 3, f"{RECORD}\nos.kill(os.getppid(), 9)\nwhile True: pass")
    small_grid.replace_cell(workspace, "03_difficulty", 3, RECORD)
    printed, _ = start(workspace, *ONE, "--until", "difficulty").communicate(timeout=HANG)
    assert "FAILED 01_fine_tune (defaults): the kernel died" in printed
    first, second = records(workspace)
    assert (first["program"], second["program"]) == ("forked_kernel.py", "kernel.py")
    assert gone(first["pid"])


def test_the_folder_of_sockets_is_private_and_temporary():
    with KernelPool() as kernels:
        folder = kernels.folder
        assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IRWXU
    del kernels
    assert not folder.exists()


def test_folders_that_killed_runs_left_behind_are_removed(monkeypatch, tmp_path):
    """Those of running processes stay, and so does what only has such a name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, other = tmp_path / "dgs-kernel-left", tmp_path / "elsewhere"
    left.mkdir()
    (left / "k1-ipc-1").touch()
    other.mkdir()
    os.mkfifo(tmp_path / "dgs-kernel-pipe")
    (tmp_path / "dgs-kernel-link").symlink_to(other)
    (tmp_path / "dgs-kernel-dangling").symlink_to(tmp_path / "none")
    first = socket_folder()
    kept = {*tmp_path.iterdir()} - {left}
    second = socket_folder()
    assert {*tmp_path.iterdir()} == kept | {Path(second.name)}
    first.cleanup()
    second.cleanup()
    assert {path.name for path in tmp_path.iterdir()} == {"dgs-kernel-pipe", "dgs-kernel-link", "dgs-kernel-dangling",
                                                          "elsewhere"}


def test_a_stopped_fork_server_is_woken_and_gives_its_kernel(monkeypatch, tmp_path):
    monkeypatch.setattr(forkserver, "WAKE_AFTER_S", 0.2)
    with KernelPool() as kernels:
        server = psutil.Process(kernels.server._process.pid)
        server.suspend()
        wait_for(lambda: server.status() == psutil.STATUS_STOPPED)
        fork = kernels.server.fork(["-f", str(tmp_path / "none.json")], str(tmp_path), dict(os.environ))
        assert fork is not None
        fork.kill()


def test_changed_code_is_not_run_from_memory(monkeypatch, tmp_path):
    with KernelPool() as kernels:
        monkeypatch.setattr(forkserver, "latest_mtime", lambda: 0)
        assert kernels.server.fork(["-f", "none"], str(tmp_path), dict(os.environ)) is None
