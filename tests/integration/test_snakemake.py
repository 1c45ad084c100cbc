"""The same grids as jobs of a cluster, scheduled by Snakemake."""

import shutil
import signal
import subprocess

import psutil
import pytest
import small_grid
from small_grid import contents, dgs, manifests
from waits import HANG, wait_for

from dgs_utils.store.node import default_node
from dgs_utils.workflow import cluster

pytest.importorskip("snakemake", reason="the extra 'cluster' is not installed")
FILE = "params/small.yaml"


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A finished workspace of the test's own."""
    return shutil.copytree(small_grid.finished(tmp_path_factory.getbasetemp())[0], tmp_path / "a copy")


def empty(workspace, *stages):
    for stage in stages:
        shutil.rmtree(workspace / "outputs" / stage)


@pytest.fixture
def profile(tmp_path) -> list[str]:
    """Words for a profile of the user's own, whose jobs run on this machine."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("executor: local\ncores: 2\nscheduler: greedy\nkeep-going: true\n")
    return ["--profile", str(tmp_path / "mine")]


def test_a_cluster_and_a_local_run_resume_each_other_s_work(copy, profile):
    expected = contents(copy)
    empty(copy, "05_sample", "06_evaluate", "07_figures")
    before = manifests(copy)
    result = dgs(copy, "run", FILE, *profile)
    assert result.returncode == 0, result.stderr
    assert "5 of 11 notebooks to run" in result.stdout
    assert contents(copy) == expected
    assert {name: manifests(copy)[name] for name in before} == before
    assert "52.0 ± 2.0" in result.stdout
    assert not list((copy / "outputs" / ".snakemake").iterdir())
    assert "Nothing was left to do." in dgs(copy, "run", FILE, *profile).stdout
    assert "Nothing was left to do." in dgs(copy, "run", FILE, "--jobs", "2").stdout


@pytest.mark.parametrize("way", ["--jobs", "--profile"])
def test_failures_end_in_the_same_summary(copy, profile, way):
    words = profile if way == "--profile" else ["--jobs", "2"]
    empty(copy, "04_transform", "05_sample", "06_evaluate", "07_figures")
    small_grid.replace_cell(copy, "04_transform", 3, "raise ValueError('class 3 is odd')")
    small_grid.replace_cell(copy, "05_sample", 3, "assert run.params.method == 'random'")
    result = dgs(copy, "run", FILE, *words)
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
    result = dgs(copy, "run", FILE, *words)
    assert result.returncode == 0, result.stderr
    assert "FAILED" not in result.stdout  # as of the run before


def test_with_fail_fast_the_first_failure_ends_the_jobs(copy, profile, monkeypatch):
    monkeypatch.setattr(cluster, "FOLDERS_POLL_S", 0.1)
    empty(copy, "05_sample", "06_evaluate", "07_figures")
    small_grid.replace_cell(copy, "05_sample", 3, "from pathlib import Path\nimport time\n"
                            "if run.params.method == 'dgs':\n    while not Path('busy').exists(): time.sleep(0.02)\n"
                            "    1 / 0\nPath('busy').touch()\nwhile True: time.sleep(0.1)")
    result = dgs(copy, "run", FILE, *profile, "--fail-fast")
    assert result.returncode == 1
    assert result.stdout.count("FAILED 05_sample") == 1
    table = {words[0]: words[1:5] for words in map(str.split, result.stdout.splitlines()) if len(words) == 6}
    assert table["05_sample"] == ["·", "·", "1", "1"]
    assert table["06_evaluate"] == ["·", "·", "·", "2"]


def test_force_reaches_the_jobs(copy, profile):
    before = manifests(copy)
    [folder] = (copy / "outputs" / "07_figures").iterdir()
    (folder / "part1.txt").write_text("from another time")
    result = dgs(copy, "run", FILE, *profile, "--jobs", "1", "--force", "figures")
    assert result.returncode == 0, result.stderr
    assert contents(copy) == {name: manifest["files"] for name, manifest in before.items()}


def test_what_comes_out_different_has_all_that_follows_made_again(copy, profile):
    before = manifests(copy)
    small_grid.replace_cell(copy, "04_transform", 3, "(run.folder / 'more.txt').write_text('more')")
    result = dgs(copy, "run", FILE, *profile, "--force", "transform")
    assert result.returncode == 0, result.stdout + result.stderr
    after = manifests(copy)
    different = {name.split("/")[0] for name in after if after[name]["content"] != before[name]["content"]}
    assert different == {"04_transform", "05_sample", "06_evaluate", "07_figures"}
    same = [name for name in after if after[name] == before[name]]
    assert sorted(name.split("/")[0] for name in same) == [
        "00_prepare", "01_fine_tune", "02_pool", "03_difficulty", "03_difficulty", "05_sample", "06_evaluate"]
    assert "Nothing was left to do." in dgs(copy, "run", FILE).stdout


WORDS = {"snakemake": "snakemake", "node": "node", "kernel": "dgs_utils.workflow.forked_kernel", "runner": ""}


def busy(copy, *words):
    """Start a run whose only node computes for ever; return the runner and all processes below it, by `WORDS`."""
    empty(copy, "07_figures")
    small_grid.replace_cell(copy, "07_figures", 3, "(run.folder / '.busy').touch()\nwhile True: pass")
    runner = small_grid.start(copy, "run", FILE, *words)
    wait_for(lambda: list(copy.rglob(".busy")) or runner.poll() is not None)
    assert runner.poll() is None, runner.communicate()
    family = psutil.Process(runner.pid).children(recursive=True)
    by_word = {name: [process for process in family if word and word in process.cmdline()[:6]]
               for name, word in WORDS.items()}
    return runner, family, by_word | {"runner": [psutil.Process(runner.pid)]}


def living(processes):
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize(("name", "number"), [("runner", signal.SIGINT), ("runner", signal.SIGTERM),
                                              *((name, signal.SIGKILL) for name in WORDS)])
def test_whichever_process_is_ended_all_others_end(copy, profile, name, number):
    """And the next run removes what a killed one left of Snakemake's files."""
    runner, family, by_word = busy(copy, *profile)
    assert all(by_word.values()), [process.cmdline() for process in family]
    for process in by_word[name]:
        process.send_signal(number)
    runner.communicate(timeout=HANG)
    wait_for(lambda: not living(family))
    assert "07_figures" not in "".join(manifests(copy))
    small_grid.replace_cell(copy, "07_figures", 3, "print('looked at')")
    assert dgs(copy, "run", FILE, *profile).returncode == 0
    assert list((copy / "outputs" / ".snakemake").iterdir()) == []


def test_a_home_that_cannot_be_written_is_no_reason_to_fail(copy, profile, tmp_path):
    """Nor do Snakemake and its jobs leave anything of theirs in the temporary folder."""
    empty(copy, "07_figures")
    (tmp_path / "t").mkdir()
    environment = small_grid.environment(copy) | {"HOME": "/dev/null/home", "TMPDIR": str(tmp_path / "t")}
    environment.pop("XDG_CACHE_HOME", None)
    small_grid.replace_cell(copy, "07_figures", 3, f"import os\nassert 'XDG_CACHE_HOME' not in os.environ\n"
                                                   f"assert os.environ['TMPDIR'] == {str(tmp_path / 't')!r}")
    result = subprocess.run(small_grid.command("run", FILE, *profile), cwd=copy, env=environment, text=True,
                            capture_output=True)
    assert result.returncode == 0, result.stdout
    assert not [*(tmp_path / "t").glob("snakemake*"), *(tmp_path / "t").glob("dgs-*")]


def test_the_last_error_of_snakemake_is_shown(copy, tmp_path):
    empty(copy, "07_figures")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("cores: all\nscheduler: crystal-ball\n")
    result = dgs(copy, "run", FILE, "--profile", str(tmp_path / "mine"))
    assert result.returncode == 1
    [line] = [line for line in result.stdout.splitlines() if line.startswith("FAILED 07_figures")]
    assert "its job ended before its notebook did" in line
    assert "crystal-ball" in line


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
    made = (folder / "manifest.json").read_bytes()
    assert dgs(copy, "node", FILE, key, "--attempt", "2", "--force", "figures").returncode == 0
    assert (folder / "manifest.json").read_bytes() == made  # what a first attempt was forced to begin is gone on with
    assert dgs(copy, "node", FILE, key, "--force", "figures").returncode == 0
    assert (folder / "manifest.json").read_bytes() != made
