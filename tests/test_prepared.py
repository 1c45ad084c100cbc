"""Kernels that are copies of a prepared process: as good as new ones, and gone with their runner."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import small_grid
from small_grid import contents
from waits import HANG, wait_for

from dgs_utils.artifacts import own_code
from dgs_utils.batch import copies, prepared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels are never copies")
FILE = "params/small.yaml"
ONE = ("--set", "sample.method=dgs")  # one set
HEAVY = """
from dgs_utils import difficulty
from dgs_utils.artifacts import begin, files, manifests
run = begin("03_difficulty", globals())
"""
NUMBERS = """
from dgs_utils.artifacts import begin, files, manifests
from dgs_utils.plots.live import LiveFigure
run = begin("01_fine_tune", globals())
"""  # loads numpy, but not its random numbers
TELL = """
import json, os, random, sys
import numpy as np
told = {"stage": run.node.stage, "program": os.path.basename(sys.argv[0]), "folder": os.getcwd(),
        "pid": os.getpid(), "parent": os.getppid(), "random": [random.random(), np.random.random()],
        "torch": "torch" in sys.modules,
        "cuda": "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(), "mark": os.environ["MARK"]}
(run.folder / ".told").write_text(json.dumps(told))
"""


def start(workspace, *options: str) -> subprocess.Popen:
    """Start a run whose kernels are copies."""
    environment = small_grid.environment(workspace) | {"MARK": "of the runner"}
    return subprocess.Popen(small_grid.command("run", FILE, *options), cwd=workspace, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def told(workspace) -> list[dict]:
    """Return what notebooks told of their kernels."""
    return [json.loads(path.read_text() or "{}") for path in sorted((workspace / "outputs").rglob(".told"))]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def workspace(tmp_path):
    return small_grid.build(tmp_path / "grid")


def assert_as_ever(workspace, tmp_path_factory) -> None:
    """Compare what was made with the same results of a whole run."""
    found, expected = contents(workspace), contents(small_grid.finished(tmp_path_factory.getbasetemp())[0])
    assert found == {name: expected[name] for name in found}


def test_copies_do_what_new_kernels_do(workspace, tmp_path_factory):
    small_grid.replace_cell(workspace, "01_fine_tune", 1, NUMBERS)
    small_grid.replace_cell(workspace, "03_difficulty", 1, HEAVY)
    for stage in ("00_prepare", "01_fine_tune", "03_difficulty", "04_transform", "05_sample"):
        small_grid.replace_cell(workspace, stage, 3, TELL)
    runner = start(workspace, *ONE, "--until", "sample")
    printed, errors = runner.communicate(timeout=HANG)
    assert runner.returncode == 0, printed + errors
    assert_as_ever(workspace, tmp_path_factory)
    kernels = told(workspace)
    assert len({kernel["pid"] for kernel in kernels}) == 6  # a process each
    for kernel in kernels:
        assert (kernel["program"], kernel["mark"]) == ("copies.py", "of the runner")
        assert kernel["folder"] == str(workspace)
        assert (kernel["torch"], kernel["cuda"]) == (kernel["stage"] > "02", False)  # once loaded
    assert len({number for kernel in kernels for number in kernel["random"]}) == 12
    assert "NOTE" not in printed  # a kernel that does not know its parent says so
    assert "Warning" not in errors


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_runner(workspace, number):
    small_grid.replace_cell(workspace, "00_prepare", 3, f"{TELL}\nwhile True: pass")
    runner = start(workspace)
    wait_for(lambda: any(told(workspace)))
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) == 2  # the prepared process and its copy
    runner.send_signal(number)
    runner.communicate(timeout=HANG)
    wait_for(lambda: all(gone(process.pid) for process in family))
    assert small_grid.manifests(workspace) == {}


def test_a_killed_copy_fails_alone_and_without_the_prepared_process_the_run_goes_on(workspace):
    small_grid.replace_cell(workspace, "01_fine_tune", 3, f"{TELL}\nos.kill(os.getpid(), 9)")
    small_grid.replace_cell(workspace, "05_sample", 3, TELL)
    runner = start(workspace, *ONE, "--until", "sample")
    printed, _ = runner.communicate(timeout=HANG)
    assert "FAILED 01_fine_tune (defaults): the kernel died" in printed
    small_grid.replace_cell(workspace, "01_fine_tune", 3, f"{TELL}\nos.kill(os.getppid(), 9)")
    for path in workspace.rglob(".told"):
        path.unlink()
    runner = start(workspace, *ONE, "--until", "sample")
    printed, errors = runner.communicate(timeout=HANG)
    assert runner.returncode == 0, printed + errors
    assert [kernel["program"] for kernel in told(workspace)] == ["copies.py", "kernel.py"]


def test_jobs_share_the_prepared_process(workspace, tmp_path_factory):
    for stage in ("00_prepare", "01_fine_tune", "03_difficulty"):
        small_grid.replace_cell(workspace, stage, 3, TELL)
    runner = start(workspace, "--jobs", "2", "--until", "difficulty")
    printed, errors = runner.communicate(timeout=HANG)
    assert runner.returncode == 0, printed + errors
    assert_as_ever(workspace, tmp_path_factory)
    kernels = told(workspace)
    assert {kernel["program"] for kernel in kernels} == {"copies.py"}
    assert len({kernel["parent"] for kernel in kernels}) == 1
    assert all(gone(kernel[who]) for kernel in kernels for who in ("pid", "parent"))


@pytest.mark.parametrize("who", ["job", "runner"])
def test_a_copy_ends_with_the_job_that_asked_for_it_and_with_the_run(workspace, who):
    small_grid.replace_cell(workspace, "00_prepare", 3, f"{TELL}\nwhile True: pass")
    runner = start(workspace, "--jobs", "2")
    wait_for(lambda: any(told(workspace)))
    [kernel] = told(workspace)
    [job] = [process for process in psutil.Process(runner.pid).children(recursive=True)
             if "node" in process.cmdline() and process.name().startswith("python")]
    (job if who == "job" else runner).kill()
    wait_for(lambda: gone(kernel["pid"]))
    runner.communicate(timeout=HANG)
    wait_for(lambda: gone(job.pid) and gone(kernel["parent"]))
    assert small_grid.manifests(workspace) == {}


def test_a_copy_speaks_where_the_one_who_asked_does(tmp_path):
    with prepared.prepared([None] * prepared.WORTH), (tmp_path / "said").open("w") as said:
        ours = os.dup(1)
        os.dup2(said.fileno(), 1)
        try:
            copy = prepared.copy_of_prepared(["python", "-m", "kernel", "--help"], str(tmp_path), dict(os.environ))
        finally:
            os.dup2(ours, 1)
            os.close(ours)
        copy.wait()
    assert "IPython" in (tmp_path / "said").read_text()


def test_nobody_else_may_ask_for_a_copy():
    with prepared.prepared([None] * prepared.WORTH):
        folder = Path(os.environ[prepared.PLACE]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IRWXU
    assert not folder.exists()
    assert prepared.PLACE not in os.environ


def test_code_is_parsed_once_and_not_in_each_copy():
    """A stage's own code is known by following imports; what is loaded before there are copies is followed before."""
    own_code._imports.cache_clear()
    copies._load("from dgs_utils import difficulty")
    parsed = own_code._imports.cache_info().misses
    own_code.code_hashes("03_difficulty")
    assert own_code._imports.cache_info().misses - parsed < parsed / 5


def test_changed_code_is_not_run_from_memory(monkeypatch, tmp_path):
    with prepared.prepared([None] * prepared.WORTH):
        monkeypatch.setattr(prepared, "newest_code", lambda: 0)
        assert prepared.copy_of_prepared(["python", "-m", "kernel", "-f", "none"], str(tmp_path), {}) is None
