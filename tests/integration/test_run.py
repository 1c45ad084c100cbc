"""Runs of a small grid, with real kernels and real processes."""

import json
import shlex
import shutil
import statistics
import subprocess
import sys

import nbformat
import pytest
import small_grid
from restamp import restamp
from small_grid import contents, dgs, manifests
from waits import HANG

from dgs_utils.store import partial_results as parts
from dgs_utils.store.hashing import hash_file
from dgs_utils.store.manifest import content_hash


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
    assert "\r" not in printed  # plain lines where no terminal is


def test_a_second_run_has_nothing_to_do(finished):
    workspace, _ = finished
    before = manifests(workspace)
    result = dgs(workspace, "run", "params/small.yaml")
    assert result.returncode == 0
    assert "Nothing was left to do.\n" in result.stdout
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
    """A finished one, and one that is not and holds files that no stage wrote."""
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
    with parts.write_verified(folder / "repeats" / "0.csv") as partial:
        partial.write_text("cut")
    (folder / "part0.txt").unlink(missing_ok=True)
    (folder / "part0.txt").symlink_to(elsewhere / "small.yaml")
    (folder / "part1.txt").unlink(missing_ok=True)
    (folder / "part1.txt").symlink_to(elsewhere)


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
    held = manifest["files"] | {"part0.txt": hash_file(random / "part0.txt")}
    content = content_hash(manifest["stage"], manifest["key"], held)
    restamp(random / "manifest.json", files=held, content=content)
    assert dgs(copy, "status", "params/small.yaml").stdout.count(f"05_sample/{random.name}") >= 1
    result = dgs(copy, "run", "params/small.yaml")
    assert result.returncode == 0
    done = [line.split("] ")[1].split()[0] for line in result.stdout.splitlines() if "done in" in line]
    assert done == ["06_evaluate", "07_figures"]
    assert result.stdout.count(f"outputs/05_sample/{random.name} holds another content than before") == 1
    assert "Nothing was left to do." in dgs(copy, "run", "params/small.yaml").stdout


def test_work_done_by_hand_is_accepted(tmp_path):
    workspace = small_grid.build(tmp_path / "w")
    script = "import dgs_utils as dgs; dgs.stage('00_prepare').finish()"
    subprocess.run([sys.executable, "-c", script], cwd=workspace / "notebooks", check=True,
                   env=small_grid.environment(workspace))
    result = dgs(workspace, "run", "params/small.yaml", "--until", "prepare")
    assert "Nothing was left to do." in result.stdout


def test_two_runners_share_the_work(copy):
    for stage in ("05_sample", "06_evaluate", "07_figures"):
        shutil.rmtree(copy / "outputs" / stage)
    small_grid.replace_cell(copy, "06_evaluate", 1,
                            "import dgs_utils as dgs\n"
                            "from dgs_utils.store import atomic as files, manifest as manifests\n"
                            "run = dgs.stage('06_evaluate')\n"
                            "with open(run.folder / '.runs', 'a') as file: file.write('x')")
    other = small_grid.EXPERIMENT.replace("small", "more").replace("random, dgs", "dgs, k_center")
    (copy / "params" / "more.yaml").write_text(other)
    runners = [small_grid.start(copy, "run", f"params/{name}.yaml") for name in ("small", "more")]
    printed = [runner.communicate(timeout=HANG)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], printed
    assert len(manifests(copy)) == 14
    ran = [line.split("] ")[1].split(":")[0] for text in printed for line in text.splitlines() if "done in" in line]
    assert sorted(ran) == sorted(set(ran))
    assert len(ran) == 8
    assert all(path.read_text() == "x" for path in (copy / "outputs").rglob(".runs"))


@pytest.mark.slow  # real notebooks
def test_shares_of_a_pool_fill_one_folder_side_by_side(tmp_path, tmp_path_factory):
    whole, _ = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_real)
    parts = shutil.copytree(whole, tmp_path / "parts")
    shutil.rmtree(parts / "outputs" / "02_pool")
    shares = [small_grid.start(parts, "run", "params/small.yaml", "--only", "pool", "--set", "sample.method=dgs",
                               "--set", f"pool.shard={share}") for share in ("1/2", "2/2")]
    printed = [share.communicate(timeout=HANG) for share in shares]
    assert [share.returncode for share in shares] == [0, 0], printed
    assert contents(parts) == contents(whole)
    assert len(list((parts / "outputs" / "02_pool").glob("*/shares/*/notebook.ipynb"))) == 2


@pytest.mark.parametrize(("closed", "jobs"), [(">&-", []), ("<&- 2>&-", []), (">&- 2>&-", ["--jobs", "2"])])
def test_a_run_with_closed_streams_works(tmp_path, closed, jobs):
    """Else the first socket gets the number of the closed output, and kernels write into it, or take it for theirs."""
    workspace = small_grid.build(tmp_path / "grid")
    command = shlex.join(small_grid.command("run", "params/small.yaml", "--until", "pool", *jobs))
    done = subprocess.run(["bash", "-c", f"{command} {closed}"], cwd=workspace, capture_output=True, text=True,
                          env=small_grid.environment(workspace))
    assert (done.returncode, done.stderr) == (0, "")
    assert {folder.split("/")[0] for folder in map(str, manifests(workspace))} == {"00_prepare", "01_fine_tune",
                                                                                  "02_pool"}
