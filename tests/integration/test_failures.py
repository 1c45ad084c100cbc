"""What goes wrong leaves a clear line, finished work as it was, and a state that the next call goes on from."""

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import small_grid
import torch
from restamp import load, restamp
from safetensors import safe_open
from small_grid import contents, dgs, manifests, start
from waits import HANG, wait_for

from dgs_utils.store.gc import unreferenced
from dgs_utils.store.lock import other_owner
from dgs_utils.store.records import write_record
from dgs_utils.store.status import fault_lines, node_manifest, node_status
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.notebook import Report
from dgs_utils.workflow.overview import overview
from dgs_utils.workflow.planner import expand
from dgs_utils.workflow.summary import summary

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


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_with_fail_fast_the_first_failure_ends_the_run(copy, undisturbed, jobs):
    """A notebook that is at work then is stopped as by Ctrl-C: it is no failure, and goes on in the next run."""
    shutil.rmtree(copy / "outputs" / "04_transform")
    shutil.rmtree(copy / "outputs" / "05_sample")
    healthy = {stage: (copy / "notebooks" / f"{stage}.ipynb").read_text() for stage in ("04_transform", "05_sample")}
    small_grid.replace_cell(copy, "04_transform", 3, "import time\nfrom pathlib import Path\n"
                            f"while {jobs} > 1 and not Path('busy').exists(): time.sleep(0.02)\n1 / 0")
    small_grid.replace_cell(copy, "05_sample", 3, "from pathlib import Path\nPath('busy').touch()\nwhile True: pass")
    result = dgs(copy, "run", FILE, "--fail-fast", "--jobs", jobs, "--set", "transform.weight=0.25,0.5")
    assert result.returncode == 1
    assert "The first failure ends the run (--fail-fast)" in result.stdout
    assert result.stdout.count("FAILED after") == 1
    table = {words[0]: words[1:5] for words in map(str.split, result.stdout.splitlines()) if len(words) == 6}
    assert table["04_transform"] == ["·", "·", "1", "1"]
    assert table["05_sample"] == ["·", "·", "·", "3"]
    assert not list((copy / "outputs" / "05_sample").glob("*/failure.json"))
    for stage, text in healthy.items():
        (copy / "notebooks" / f"{stage}.ipynb").write_text(text)
    assert dgs(copy, "run", FILE, "--fail-fast").returncode == 0
    assert contents(copy).items() >= undisturbed.items()


def test_each_failure_is_told_in_one_line(copy, caplog):
    failures = [("import os; os.kill(os.getpid(), 9)", "the kernel died; it was killed, or ran out of memory"),
                ("raise KeyboardInterrupt", "KeyboardInterrupt"),
                ("run.finish = lambda: None", "the notebook ended without a manifest"),
                ("dgs.stage('07_figures', title=3)", "ValueError: figures.title is 3"),
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
    assert not [record for record in caplog.records if record.name == "papermill"]  # which would tell it again


def test_a_notebook_without_a_last_call_is_finished_unless_it_failed(copy, undisturbed):
    """As a user's own copy may be, or one with the call behind a hash."""
    cells = {"04_transform": "# run.finish()", "05_sample": "run.folder", "06_evaluate": "1 / 0"}
    for stage, cell in cells.items():
        shutil.rmtree(copy / "outputs" / stage)
        small_grid.replace_cell(copy, stage, 4, cell)
    result = dgs(copy, "run", FILE)
    assert result.returncode == 1
    assert result.stdout.count("done in") == 3
    assert result.stdout.count("ZeroDivisionError") == 2
    assert not list((copy / "outputs" / "06_evaluate").glob("*/manifest.json"))
    assert contents(copy) == {name: kept for name, kept in undisturbed.items() if "06_evaluate" not in name}


def test_a_cell_that_takes_longer_than_the_limit_fails(workspace):
    small_grid.replace_cell(workspace, "00_prepare", 3, f"import time; time.sleep({2 * HANG})")
    result = dgs(workspace, "run", FILE, "--until", "prepare", "--limit", "0.02")
    assert result.returncode == 1
    assert "FAILED 00_prepare (defaults): a cell took longer than the limit of 0.02 minutes" in result.stdout


def test_a_missing_notebook_is_one_line(copy):
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
    assert "6 of 11 notebooks to run" in result.stdout  # also what read the result that names another one, until it is
    assert "06_evaluate       ·        2" in result.stdout  # made anew, as it was
    assert contents(copy) == undisturbed


MANIFESTS = {
    "it does not end with its checksum": lambda found: "[" * 100_000,
    "it was changed, since its text differs": lambda found: found,
    "inputs: Input should be a valid array": lambda found: found | {"inputs": None},
    "content: Field required": lambda found: {k: v for k, v in found.items() if k != "content"},
    "seconds: Input should be a valid number": lambda found: found | {"seconds": "12"},
    "seconds: Input should be a finite number": lambda found: found | {"seconds": float("nan")},
    "seconds: Input should be less than": lambda found: found | {"seconds": 1e300},
    "it: Invalid JSON: number out of range": lambda found: found | {"count": 10**5000},
    "it: Invalid JSON: recursion limit": lambda found: found | {"warnings": nested(900)},
    "inputs.0.content: Field required": lambda found: found | {"inputs": [{"name": "x", "folder": "y", "key": "z"}]},
    "inputs.0.count: Input should be a valid int": lambda found: found | {"inputs": [found["inputs"][0]
                                                                                     | {"count": "1"}]},
    "files.part0.txt.files: Input should be a val": lambda found: found | {"files": {
        "part0.txt": found["files"]["part0.txt"] | {"files": None}}},
    "inputs.0: Input should be an object": lambda found: found | {"inputs": ["../.."]},
    "files: Input should be an object": lambda found: found | {"files": []},
    "it has more than 64 MiB": lambda found: found | {"warnings": ["x" * 2**26]},
    "its key is not that of its parameters": lambda found: found | {"key": "0" * len(found["key"])},
    "its content is not that of its files": lambda found: found | {"files": {}},
    "'nowhere' is no stage": lambda found: found | {"stage": "nowhere"},
    "'nothing' is no input of its stage": lambda found: found | {"inputs": [found["inputs"][0] | {"name": "nothing"}]},
}


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("fault", MANIFESTS)
def test_a_manifest_that_lacks_something_counts_as_missing_in_one_line(copy, fault):
    """Also where its checksum fits."""
    [folder] = (copy / "outputs" / "07_figures").iterdir()
    path = folder / "manifest.json"
    damaged = MANIFESTS[fault](load(path))
    if isinstance(damaged, str):
        path.write_text(damaged)
    elif damaged == load(path):
        path.write_text(path.read_text().replace("small", "SMALL", 1))
    else:
        digits = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        write_record(path, damaged)
        sys.set_int_max_str_digits(digits)
    nodes = expand(read_experiment(copy / FILE))
    lines = fault_lines(nodes)
    assert len(lines) == 1
    assert lines[0].startswith("Counts as missing: ")
    assert fault in lines[0]
    assert str(path) in lines[0]
    assert [node_status(node) for node in nodes].count("missing") == 1
    assert overview(nodes, disk=True)[9:] == lines
    assert unreferenced(nodes) == {}
    assert summary([Report(node, "done" if node_manifest(node) else "failed") for node in nodes])


def test_what_a_damaged_manifest_and_failure_cost_is_one_line_each(copy, undisturbed):
    """Through the command: shown, run, and right again."""
    [figures] = (copy / "outputs" / "07_figures").iterdir()
    [transform] = (copy / "outputs" / "04_transform").iterdir()
    for folder in (figures, transform):
        restamp(folder / "manifest.json", inputs=None)
    for content in ("", "[]", '{"error": null}', "[" * 100_000):
        (transform / "failure.json").write_text(content)
        result = dgs(copy, "status", FILE)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.count("Counts as missing: ") == 2
    assert dgs(copy, "clean").returncode == 0
    result = dgs(copy, "run", FILE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("(inputs: Input should be a valid array)") == 2
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


def test_no_room_even_for_the_log_is_one_line(copy):
    shutil.rmtree(copy / "outputs" / "07_figures")
    result = dgs(copy, "run", FILE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250)))
    assert result.returncode == 1
    assert "FAILED 07_figures" in result.stdout
    assert "Traceback" not in result.stderr
    assert dgs(copy, "run", FILE).returncode == 0


def test_outputs_that_cannot_be_written_are_one_line(copy, tmp_path):
    (tmp_path / "a file").touch()
    result = dgs(copy, "run", FILE, "--outputs", str(tmp_path / "a file"))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "a file" in result.stderr


def test_read_only_outputs_are_one_line(copy, tmp_path):
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
    assert "Nothing was left to do.\n" in result.stdout
    assert not list(copy.rglob(".lock"))


# ---- Signals ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [30, 150])
def test_temporary_folders_of_killed_runners_are_removed(workspace, tmp_path, monkeypatch, length):
    """Also where the temporary folder has a longer name than sockets may have, so that another one is used."""
    place = Path(tempfile.mkdtemp(dir="/var/tmp" if os.access("/var/tmp", os.W_OK) else None)) / ("t" * length)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    used = place if length < 60 else Path("/tmp")
    small_grid.replace_cell(workspace, "00_prepare", 3, "from ipykernel import connect\n"
                            "(run.folder / '.where').write_text(connect.get_connection_file())\nwhile True: pass")
    runner = start(workspace, "run", FILE)
    [where] = wait_for(lambda: [Path(file.read_text()) for file in workspace.rglob(".where") if file.read_text()])
    assert where.parent.parent == used
    runner.kill()
    runner.communicate()
    wait_for(lambda: not where.parent.exists())
    assert not list(place.iterdir())
    shutil.rmtree(place.parent)


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
        runner = start(workspace, *prepare)
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
        runner = start(workspace, "run", FILE)
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
    owners = [other_owner(folder) for folder in (workspace / "outputs").glob("*/*")]
    return [int(match[1]) for match in map(re.compile(r"process (\d+) on").match, owners) if match]


def stamps(workspace) -> dict[str, int]:
    """Return when each manifest was written, in nanoseconds."""
    return {name: (workspace / "outputs" / name / "manifest.json").stat().st_mtime_ns for name in manifests(workspace)}


def assert_untouched(workspace, finished: dict[str, int]) -> None:
    now = stamps(workspace)
    assert {name: now.get(name) for name in finished} == finished


@pytest.mark.slow  # the real notebooks, which import PyTorch and leave checkpoints and half a pool behind
def test_real_notebooks_killed_again_and_again_end_as_if_undisturbed(tmp_path, tmp_path_factory):
    calm, _ = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_real)
    restless = small_grid.build_real(tmp_path / "restless")
    kill_at_random(restless, 2, 2.0, 6.0)
    assert contents(restless) == contents(calm)
    weights = list(calm.rglob("*.safetensors"))
    assert weights
    for path in weights:  # of two entries the order is chance, so that bytes differ now and then
        with safe_open(path, framework="numpy") as file:
            assert len(file.metadata() or {}) < 2, path
