"""The same grids, scheduled by Snakemake."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import small_grid
import yaml
from small_grid import contents, dgs, manifests
from waits import HANG, wait_for

from dgs_utils.artifacts.nodes import default_node
from dgs_utils.batch.engine import HERE, THREADS, _command, find_profile, share_of_cores
from dgs_utils.batch.experiment import SECTIONS
from dgs_utils.batch.node import Options

pytest.importorskip("snakemake", reason="the extra 'cluster' is not installed")
FILE = "params/small.yaml"


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A finished workspace of the test's own."""
    return shutil.copytree(small_grid.finished(tmp_path_factory.getbasetemp())[0], tmp_path / "a copy")


def empty(workspace, *stages):
    for stage in stages:
        shutil.rmtree(workspace / "outputs" / stage)


def test_either_way_of_running_goes_on_from_the_other(copy):
    expected = contents(copy)
    empty(copy, "05_sample", "06_evaluate", "07_figures")
    before = manifests(copy)
    result = dgs(copy, "run", FILE, "--jobs", "2")
    assert result.returncode == 0, result.stderr
    assert "5 of 11 notebooks to run" in result.stdout
    assert contents(copy) == expected
    assert {name: manifests(copy)[name] for name in before} == before
    assert "52.0 ± 2.0" in result.stdout
    assert not list((copy / "outputs" / ".snakemake").iterdir())
    assert "Nothing was left to do." in dgs(copy, "run", FILE, "--jobs", "2").stdout
    assert "Nothing was left to do." in dgs(copy, "run", FILE).stdout


def test_failures_end_in_the_same_summary(copy):
    empty(copy, "04_transform", "05_sample", "06_evaluate", "07_figures")
    small_grid.replace_cell(copy, "04_transform", 3, "raise ValueError('class 3 is odd')")
    small_grid.replace_cell(copy, "05_sample", 3, "assert run.params.method == 'random'")
    result = dgs(copy, "run", FILE, "--jobs", "2")
    assert result.returncode == 1
    summary = result.stdout[result.stdout.index("\nstage "):]
    table = {words[0]: words[1:5] for words in map(str.split, summary.splitlines()) if len(words) == 6}
    assert table["04_transform"] == ["·", "·", "1", "·"]
    assert table["05_sample"] == ["1", "·", "·", "1"]
    assert table["06_evaluate"] == ["1", "·", "·", "1"]
    [line] = [line for line in summary.splitlines() if line.startswith("FAILED")]
    assert "04_transform (defaults): ValueError: class 3 is odd; open outputs/04_transform" in line
    for stage in ("04_transform", "05_sample"):
        small_grid.replace_cell(copy, stage, 3, "print('mended')")
    result = dgs(copy, "run", FILE, "--jobs", "2")
    assert result.returncode == 0, result.stderr
    assert "FAILED" not in result.stdout  # as of the run before


def test_force_reaches_the_jobs(copy):
    before = manifests(copy)
    [folder] = (copy / "outputs" / "07_figures").iterdir()
    (folder / "part1.txt").write_text("from another time")
    result = dgs(copy, "run", FILE, "--jobs", "1", "--force", "figures")
    assert result.returncode == 0, result.stderr
    assert contents(copy) == {name: manifest["files"] for name, manifest in before.items()}


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])  # SIGKILL: see what a killed run leaves
def test_nothing_outlives_the_command(copy, number):
    empty(copy, "07_figures")
    small_grid.replace_cell(copy, "07_figures", 3, "(run.folder / '.busy').touch()\nwhile True: pass")
    runner = small_grid.start(copy, "run", FILE, "--jobs", "2")
    wait_for(lambda: list(copy.rglob(".busy")) or runner.poll() is not None)
    assert runner.poll() is None
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) >= 4  # guard, Snakemake, dgs node, kernel
    runner.send_signal(number)
    runner.wait(timeout=HANG)
    _, alive = psutil.wait_procs(family, timeout=HANG)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert "07_figures" not in "".join(manifests(copy))


WORDS = {"guard": "dgs_utils.batch.guard", "snakemake": "snakemake", "node": "node", "kernel": "dgs_utils.batch.kernel"}


def busy(copy, *words):
    """Start a run whose only node computes for ever; return the runner and all processes below it, by `WORDS`."""
    empty(copy, "07_figures")
    small_grid.replace_cell(copy, "07_figures", 3, "(run.folder / '.busy').touch()\nwhile True: pass")
    runner = small_grid.start(copy, "run", FILE, *words)
    deadline = time.monotonic() + 600
    while not list(copy.rglob(".busy")):
        assert time.monotonic() < deadline
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.05)
    family = psutil.Process(runner.pid).children(recursive=True)
    by_word = {name: [process for process in family if word in process.cmdline()[:6]] for name, word in WORDS.items()}
    return runner, family, by_word


def living(processes):
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("name", WORDS)
def test_whichever_process_is_killed_all_others_end(copy, name):
    """Nothing computes on for nobody: the guard, Snakemake, the node command or the kernel is killed with -9."""
    runner, family, found = busy(copy, "--jobs", "2")
    assert all(found.values()), [process.cmdline() for process in family]
    for process in found[name]:
        process.kill()
    try:
        runner.communicate(timeout=600)
        deadline = time.monotonic() + 600
        while living(family):
            assert time.monotonic() < deadline, [process.cmdline() for process in living(family)]
            time.sleep(0.1)
    finally:
        for process in living(family):
            process.kill()
    assert runner.returncode == 1
    assert "07_figures" not in "".join(manifests(copy))


HEARS = """
import time
try:
    print("up")
    time.sleep(1000)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("heard")
"""
LEAVES = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-u', '-c', sys.argv[1]]); time.sleep(1000)"


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_guard_ends_when_what_a_killed_command_left_has_ended(before):
    """Not before, since that may be writing a checkpoint; nohup and a script's & have interrupts ignored."""
    command = [sys.executable, "-m", "dgs_utils.batch.guard", str(os.getpid()), sys.executable, "-c", LEAVES, HEARS]
    guard = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, before))
    assert guard.stdout.readline() == "up\n"
    [killed] = psutil.Process(guard.pid).children()
    killed.kill()
    assert guard.communicate(timeout=HANG)[0] == "heard\n"


def test_a_home_that_cannot_be_written_is_no_reason_to_fail(copy):
    empty(copy, "07_figures")
    environment = small_grid.environment(copy) | {"HOME": "/dev/null/home"}
    environment.pop("XDG_CACHE_HOME", None)
    small_grid.replace_cell(copy, "07_figures", 3, "import os; assert 'XDG_CACHE_HOME' not in os.environ")
    result = subprocess.run(small_grid.command("run", FILE, "--jobs", "1"), cwd=copy, env=environment, text=True,
                            capture_output=True)
    assert result.returncode == 0, result.stdout


def test_what_snakemake_says_of_its_end_is_told(copy, tmp_path):
    empty(copy, "07_figures")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("cores: all\nscheduler: crystal-ball\n")
    result = dgs(copy, "run", FILE, "--profile", str(tmp_path / "mine"))
    assert result.returncode == 1
    [line] = [line for line in result.stdout.splitlines() if line.startswith("FAILED 07_figures")]
    assert "its job ended before its notebook did" in line
    assert "crystal-ball" in line


def test_what_a_killed_run_left_is_swept_by_the_next(copy):
    runner, family, _ = busy(copy, "--jobs", "2")
    place = copy / "outputs" / ".snakemake"
    [left] = place.iterdir()
    runner.kill()
    runner.communicate()
    deadline = time.monotonic() + 600
    while living(family):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert left.exists()
    small_grid.replace_cell(copy, "07_figures", 3, "print('looked at')")
    assert dgs(copy, "run", FILE, "--jobs", "1").returncode == 0
    assert list(place.iterdir()) == []


# ---- The node command ------------------------------------------------------------------------------------------------

def test_node_command_runs_one_node_once(tmp_path):
    workspace = small_grid.build(tmp_path / "grid")
    key, reader = (default_node(stage).key for stage in ("00_prepare", "01_fine_tune"))
    result = dgs(workspace, "node", FILE, reader)
    assert result.returncode == 2
    assert "01_fine_tune needs 00_prepare/digits" in result.stderr
    pair = [small_grid.start(workspace, "node", FILE, key) for _ in range(2)]
    printed = "".join(process.communicate(timeout=HANG)[0] for process in pair)
    assert [process.returncode for process in pair] == [0, 0]
    assert printed.count("done in") == 1
    assert dgs(workspace, "node", FILE, "01234567").stderr.startswith(f"dgs: {FILE} plans no node 01234567")


def test_a_later_attempt_leaves_a_notebook_that_failed_by_itself_alone(copy):
    [folder] = (copy / "outputs" / "07_figures").iterdir()
    key = folder.name.rpartition("-")[2]
    healthy = (copy / "notebooks" / "07_figures.ipynb").read_text()
    empty(copy, "07_figures")
    small_grid.replace_cell(copy, "07_figures", 3, "raise ValueError('odd')")
    assert dgs(copy, "node", FILE, key).returncode == 1
    (copy / "notebooks" / "07_figures.ipynb").write_text(healthy)
    result = dgs(copy, "node", FILE, key, "--attempt", "2")
    assert result.returncode == 1
    assert "ValueError: odd" in result.stdout
    (folder / "failure.json").unlink()  # killed notebooks leave none
    assert dgs(copy, "node", FILE, key, "--attempt", "2").returncode == 0


# ---- Profiles --------------------------------------------------------------------------------------------------------

def test_profiles_name_existing_stages():
    for path in (HERE / "profiles").glob("*/config.yaml"):
        profile = yaml.safe_load(path.read_text())
        assert set(profile.get("set-resources", {})) <= set(SECTIONS)
        assert profile["keep-going"] is True
        for resources in profile.get("set-resources", {}).values():
            assert set(resources) <= {"runtime", "mem_mb", "gpu", "cpus_per_task"}


def test_unknown_profile_and_missing_packages_are_told(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no profile slrum.*; did you mean 'slurm'"):
        find_profile("slrum")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("executor: moon-base")
    with pytest.raises(ValueError, match=r"needs snakemake-executor-plugin-moon-base; it comes with .*pip install"):
        find_profile(str(tmp_path / "mine"))
    check = ("import sys; sys.modules['snakemake'] = None\nimport importlib.util\n"
             "from dgs_utils.batch.engine import find_profile\nfind_profile('local')")
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert "pip install 'dgs-utils[cluster]'" in result.stderr


def test_jobs_on_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    local, slurm = find_profile("local"), HERE / "profiles" / "slurm"
    assert [share_of_cores(local, jobs) for jobs in (0, 1, 4, 5, 50)] == [1, 12, 3, 2, 1]
    assert share_of_cores(slurm) == 0  # a cluster's scheduler assigns them
    for name in (*THREADS, "DGS_CORES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    command = _command("params/small.yaml", [], Options(), 3)
    assert all(f"{name}=3" in command for name in (*THREADS, "DGS_CORES"))
    elsewhere = _command("params/small.yaml", [], Options(), 0)
    assert "=3" not in elsewhere
    assert "-uOMP_NUM_THREADS" in elsewhere
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what somebody has set holds
    assert "OMP_NUM_THREADS=2" in _command("params/small.yaml", [], Options(), 3)
