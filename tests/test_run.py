"""Runs of a small grid, with real kernels and real processes."""

import io
import json
import os
import pty
import re
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack, suppress

import nbformat
import pytest
import small_grid
from filelock import FileLock
from small_grid import contents, dgs, manifests
from waits import HANG, wait_for

from dgs_utils.artifacts import parts
from dgs_utils.artifacts.manifests import content_hash, digest
from dgs_utils.artifacts.nodes import default_node
from dgs_utils.batch import display
from dgs_utils.batch.display import duration
from dgs_utils.batch.gpu import leased_gpus
from dgs_utils.batch.node import clear_unless_held
from dgs_utils.batch.state import lock_file
from dgs_utils.params import (
    DifficultyParams,
    EvaluateParams,
    FiguresParams,
    FineTuneParams,
    PoolParams,
    SampleParams,
    TransformParams,
)
from dgs_utils.runtime import threads


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace whose grid has been run, and what the runner printed; tests leave it as they found it."""
    return small_grid.finished(tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(finished, tmp_path):
    """A finished workspace of the test's own."""
    return shutil.copytree(finished[0], tmp_path / "a {copy}")


def test_a_run_finishes_every_node_and_tells_where_to_look(finished):
    workspace, printed = finished
    assert len(manifests(workspace)) == 11
    assert "[11/11] 07_figures small: done in" in printed
    [figures] = (workspace / "outputs" / "07_figures").iterdir()
    assert f"Figures and tables: outputs/07_figures/{figures.name}" in printed
    best = f"52.0 ± {statistics.stdev([50, 52, 54]):.1f}"
    [line] = [line for line in printed.splitlines() if " DGS " in line]
    assert line.split() == ["ConvNet-3", "10", "DGS", *best.split(), "50.0", "±", "1.0", "3"]
    assert "\r" not in printed  # plain lines where nobody watches


def test_a_second_run_has_nothing_to_do(finished):
    workspace, _ = finished
    before = manifests(workspace)
    result = dgs(workspace, "run", "params/small.yaml")
    assert result.returncode == 0
    assert result.stdout.endswith("Nothing was left to do.\n")
    assert manifests(workspace) == before


def test_executed_notebook_and_log_stay_in_the_folder(finished):
    workspace, _ = finished
    [folder] = (workspace / "outputs" / "04_transform").iterdir()
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    [injected] = [cell.source for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    [scores] = (workspace / "outputs" / "03_difficulty").glob("*minimax*")
    assert f'pool_scores = "outputs/03_difficulty/{scores.name}"' in injected
    assert "objective = \"code\"" in injected
    assert "looked at" in (folder / "log.txt").read_text()
    assert not (folder / "progress.json").exists()


def test_kernel_is_this_interpreter_whatever_is_registered(copy, tmp_path):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    small_grid.replace_cell(copy, "07_figures", 3, "import sys; (run.folder / 'which.txt').write_text(sys.executable)")
    environment = small_grid.environment(copy) | {"JUPYTER_PATH": str(tmp_path / "jupyter")}
    result = subprocess.run(small_grid.command("run", "params/small.yaml", "--force", "figures"), cwd=copy,
                            env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    [which] = (copy / "outputs" / "07_figures").glob("*/which.txt")
    assert which.read_text() == sys.executable


def test_force_makes_a_stage_anew_from_nothing(copy):
    """A finished one, and one that is not and holds what nobody wrote."""
    before = manifests(copy)
    [folder] = (copy / "outputs" / "04_transform").iterdir()
    [unfinished] = (copy / "outputs" / "07_figures").iterdir()
    (folder / "part1.txt").write_text("from another time")
    leave_odd_parts(unfinished, copy / "params")
    result = dgs(copy, "run", "params/small.yaml", "--force", "transform", "--force", "figures")
    assert result.returncode == 0
    assert "2 of 11 notebooks to run" in result.stdout
    assert not (unfinished / "repeats").exists()
    after = manifests(copy)
    again = {name for name in after if after[name]["finished"] != before[name]["finished"]}
    assert again <= {f"04_transform/{folder.name}", f"07_figures/{unfinished.name}"}  # within a second nobody can tell
    assert contents(copy) == {name: manifest["files"] for name, manifest in before.items()}
    assert (copy / "params" / "small.yaml").read_text() == small_grid.EXPERIMENT


def leave_odd_parts(folder, elsewhere):
    """Make a stage folder unfinished, with part results that pass for whole ones, and links that lead out of it."""
    (folder / "manifest.json").unlink(missing_ok=True)
    (folder / "repeats").mkdir(parents=True)
    with parts.kept(folder / "repeats" / "0.csv") as partial:
        partial.write_text("cut")
    (folder / "part0.txt").unlink(missing_ok=True)
    (folder / "part0.txt").symlink_to(elsewhere / "small.yaml")
    (folder / "part1.txt").unlink(missing_ok=True)
    (folder / "part1.txt").symlink_to(elsewhere)


def test_jobs_begin_forced_nodes_anew_unless_another_process_works_there(tmp_path, outputs):
    (tmp_path / "small.yaml").write_text("precious")
    missing, unfinished, held = (default_node("06_evaluate", {"seed": seed}) for seed in range(3))
    for node in (unfinished, held):
        leave_odd_parts(node.folder, tmp_path)
    with FileLock(lock_file(held)):
        for node in (missing, unfinished, held):
            clear_unless_held(node)
    assert not list(missing.folder.glob("[!.]*"))
    assert not list(unfinished.folder.glob("[!.]*"))
    assert len(list(held.folder.glob("[!.]*"))) == 3
    assert (tmp_path / "small.yaml").read_text() == "precious"


def test_only_and_until(tmp_path):
    workspace = small_grid.build(tmp_path / "w")
    result = dgs(workspace, "run", "params/small.yaml", "--only", "fine_tune")
    assert result.returncode == 2
    assert "01_fine_tune needs 00_prepare/digits-" in result.stderr
    assert "which is missing; run it first" in result.stderr
    assert dgs(workspace, "run", "params/small.yaml", "--until", "00_prepare").returncode == 0
    assert [name.split("/")[0] for name in manifests(workspace)] == ["00_prepare"]
    assert dgs(workspace, "run", "params/small.yaml", "--only", "fine_tune").returncode == 0
    assert [name.split("/")[0] for name in manifests(workspace)] == ["00_prepare", "01_fine_tune"]


def test_what_was_made_from_an_input_that_is_another_now_is_made_again(copy):
    [random] = (copy / "outputs" / "05_sample").glob("*random*")
    manifest = json.loads((random / "manifest.json").read_text())
    (random / "part0.txt").write_text("made anew")
    held = manifest["files"] | {"part0.txt": digest(random / "part0.txt")}
    content = content_hash(manifest["stage"], manifest["key"], held)
    (random / "manifest.json").write_text(json.dumps(manifest | {"files": held, "content": content}))
    assert dgs(copy, "status", "params/small.yaml").stdout.count(f"05_sample/{random.name}") >= 1
    result = dgs(copy, "run", "params/small.yaml")
    assert result.returncode == 0
    done = [line.split("] ")[1].split()[0] for line in result.stdout.splitlines() if "done in" in line]
    assert done == ["06_evaluate", "07_figures"]
    assert result.stdout.count(f"outputs/05_sample/{random.name} holds another content than before") == 1
    assert "Nothing was left to do." in dgs(copy, "run", "params/small.yaml").stdout


def test_work_done_by_hand_is_accepted(tmp_path):
    workspace = small_grid.build(tmp_path / "w")
    script = "from dgs_utils.artifacts import begin; begin('00_prepare', {}).finish()"
    subprocess.run([sys.executable, "-c", script], cwd=workspace / "notebooks", check=True,
                   env=small_grid.environment(workspace))
    result = dgs(workspace, "run", "params/small.yaml", "--until", "prepare")
    assert "Nothing was left to do." in result.stdout


def test_two_runners_share_the_work(copy):
    for stage in ("05_sample", "06_evaluate", "07_figures"):
        shutil.rmtree(copy / "outputs" / stage)
    small_grid.replace_cell(copy, "06_evaluate", 1, "from dgs_utils.artifacts import begin, files, manifests\n"
                            "run = begin('06_evaluate', globals())\n"
                            "with open(run.folder / '.runs', 'a') as file: file.write('x')")
    other = small_grid.EXPERIMENT.replace("small", "more").replace("random, dgs", "dgs, k_center")
    (copy / "params" / "more.yaml").write_text(other)
    runners = [small_grid.start(copy, "run", f"params/{name}.yaml", loaded=True) for name in ("small", "more")]
    printed = [runner.communicate(timeout=HANG)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], printed
    assert len(manifests(copy)) == 14
    ran = [line.split("] ")[1].split(":")[0] for text in printed for line in text.splitlines() if "done in" in line]
    assert sorted(ran) == sorted(set(ran))
    assert len(ran) == 8
    assert all(path.read_text() == "x" for path in (copy / "outputs").rglob(".runs"))


def test_progress_can_be_read_while_a_notebook_runs(tmp_path):
    workspace = small_grid.build(tmp_path / "w", seconds=1)
    ours, theirs = pty.openpty()
    runner = subprocess.Popen(small_grid.command("run", "params/small.yaml", "--until", "prepare"), cwd=workspace,
                              env=small_grid.environment(workspace) | {"COLUMNS": "120"}, stdout=theirs)
    os.close(theirs)
    shown = b""
    while b"steps 1/3" not in shown:  # a terminal's line is rewritten as the notebook goes on
        shown += os.read(ours, 1000)
    assert b"\r[1/1] 00_prepare digits" in shown
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


# ---- GPUs ------------------------------------------------------------------------------------------------------------

@pytest.mark.slow  # real notebooks
def test_shares_of_a_pool_fill_one_folder_side_by_side(tmp_path, tmp_path_factory):
    whole, _ = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_real)
    parts = shutil.copytree(whole, tmp_path / "parts")
    shutil.rmtree(parts / "outputs" / "02_pool")
    shares = [small_grid.start(parts, "run", "params/small.yaml", "--only", "pool", "--set", "sample.method=dgs",
                               "--set", f"pool.shard={share}", loaded=True) for share in ("1/2", "2/2")]
    printed = [share.communicate(timeout=HANG) for share in shares]
    assert [share.returncode for share in shares] == [0, 0], printed
    assert contents(parts) == contents(whole)
    assert len(list((parts / "outputs" / "02_pool").glob("*/shares/*/notebook.ipynb"))) == 2


def test_gpus_are_leased_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    script = ("import sys, time; from pathlib import Path; from dgs_utils.batch.gpu import leased_gpus\n"
              "from dgs_utils.params import EvaluateParams\n"
              "with leased_gpus(EvaluateParams(), int(sys.argv[2]), Path(sys.argv[1])) as gpus:\n"
              "    print(*gpus, flush=True); sys.stdin.read()")

    def lease(per_gpu):
        return subprocess.Popen([sys.executable, "-c", script, tmp_path, str(per_gpu)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)

    holders = [lease(1)]
    first = holders[0].stdout.readline().strip()
    with leased_gpus(EvaluateParams(), places=tmp_path) as [second]:
        assert {first, second} == {"4", "7"}
        assert os.environ["CUDA_VISIBLE_DEVICES"] == second
        holders.append(lease(2))  # both are taken, so it shares one
        assert holders[1].stdout.readline().strip() in ("4", "7")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    holders[0].kill()  # what a killed holder held is free again
    holders[0].wait()
    with leased_gpus(EvaluateParams(), places=tmp_path) as again:
        assert again == ["4"]
    holders[1].communicate()
    with leased_gpus(FineTuneParams(processes=3), places=tmp_path) as all_there_are:
        assert all_there_are == ["4", "7"]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


def test_several_small_evaluations_share_a_gpu_and_one_more_waits_for_a_place(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)

    def lease(stack, tell=lambda sentence: None):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")  # as in another process
        return stack.enter_context(leased_gpus(EvaluateParams(), 2, tmp_path, tell))

    with ExitStack() as held:
        assert [lease(held) for _ in range(4)] == [["4"], ["7"], ["4"], ["7"]]  # an empty one before a shared one
        four = held.pop_all()
        told = []
        with four, ExitStack() as fifth:
            assert lease(fifth, lambda sentence: (told.append(sentence), four.close())) == ["4"]
    assert "waiting since" in told[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{gpu}.{place}.lock" for gpu in "47" for place in "01"]


def test_waiting_for_a_gpu_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    told = []

    def tell(sentence):
        told.append(sentence)
        lock.release()

    lock = FileLock(tmp_path / "7.0.lock")
    with FileLock(tmp_path / "4.0.lock"), lock, leased_gpus(EvaluateParams(), places=tmp_path, tell=tell) as gpus:
        assert gpus == ["7"]
    assert re.fullmatch(r"waiting since \d\d:\d\d for 1 of the GPUs 4, 7, which other notebooks use", told[0])
    assert told[1:] == [""]
    with pytest.raises(ValueError, match="per_gpu is 0"), leased_gpus(EvaluateParams(), 0, tmp_path):
        pass


def test_no_gpu_is_leased_where_none_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    for params in (TransformParams(), EvaluateParams(device="cpu"), EvaluateParams(device="cuda:1")):
        with leased_gpus(params, places=tmp_path) as gpus:
            assert gpus == []
    for params in (SampleParams(), SampleParams(method="random"), PoolParams(generator="folder"),
                   DifficultyParams(published_scores=True), FiguresParams()):
        with leased_gpus(params, places=tmp_path) as gpus:
            assert gpus == []
    for params in (SampleParams(method="herding"), SampleParams(method="rded"), PoolParams(), DifficultyParams()):
        with leased_gpus(params, places=tmp_path) as gpus:
            assert len(gpus) == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


@pytest.mark.parametrize("given", ["4", None])
def test_a_job_that_has_one_gpu_or_does_not_say_is_left_with_it(given, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with leased_gpus(EvaluateParams(), places=tmp_path) as gpus:
        assert gpus == []
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == given


def test_notebooks_spread_over_the_gpus_of_a_job_and_jobs_do_not_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with leased_gpus(EvaluateParams()) as first:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as in another process of the job
        with leased_gpus(EvaluateParams()) as second:
            assert {*first, *second} == {"0", "1"}
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
            monkeypatch.setenv("SLURM_JOB_ID", "2")  # another two GPUs
            with leased_gpus(EvaluateParams()) as others:
                assert others == ["0"]


def test_threads_follow_the_affinity_mask_and_the_share_of_a_job(monkeypatch):
    assert threads.threads(3) == 3
    monkeypatch.delenv(threads.SHARE, raising=False)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads.threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert threads.threads() == len(allowed)
    monkeypatch.setenv(threads.SHARE, "1")
    assert threads.threads() == 1
    monkeypatch.setenv(threads.SHARE, str(10 * len(allowed)))
    assert threads.threads() == len(allowed)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00")])
def test_durations(seconds, text):
    assert duration(seconds) == text


# ---- What is printed -------------------------------------------------------------------------------------------------

def test_where_nobody_watches_a_line_a_minute_tells_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(display, "MINUTE", 0.05)
    node, stream = default_node("02_pool"), io.StringIO()
    node.folder.mkdir(parents=True)
    (node.folder / "progress.json").write_text(json.dumps({"label": "images", "step": 30, "total": 90}))
    shown = display.Display(stream)
    shown.start([node], 3)
    with shown.node(node):
        shown.at_cell({}, 4)
        wait_for(lambda: stream.getvalue().count("images 30/90") > 2)
    first, second, *_ = [line for line in stream.getvalue().splitlines() if "02_pool" in line]
    assert re.fullmatch(rf"\[3/3\] 02_pool {re.escape(node.label)} · 0:00 · starting · images 30/90", first)
    assert re.fullmatch(rf"\[3/3\] 02_pool {re.escape(node.label)} · 0:0\d · cell 5 · images 30/90", second)
