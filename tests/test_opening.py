"""Opening a stage's folder: what is there counts only if it was made from what its inputs hold, by one at a time."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import small_grid
from forks import forked
from small_grid import dgs

from dgs_utils.artifacts import opening, own_code
from dgs_utils.artifacts.manifests import BEGUN, MANIFEST, check_input, is_done, parameter, read_manifest
from dgs_utils.artifacts.run import Run, open_node
from dgs_utils.params import validate

ROOT = Path(__file__).resolve().parents[1]


def opened(stage: str, **values) -> Run:
    return open_node(validate(stage, values))


def finished(stage: str, text: str = "x", **values) -> Path:
    run = opened(stage, **values)
    (run.folder / "result.csv").write_text(text)
    run.finish()
    return run.folder


def shown(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


# ---- What counts -----------------------------------------------------------------------------------------------------

def test_a_folder_says_what_it_is_begun_with_before_any_work(outputs):
    prepare = finished("00_prepare")
    run = opened("01_fine_tune")
    begun = json.loads((run.folder / BEGUN).read_text())
    assert shown(run.folder) == [BEGUN]
    assert (begun["stage"], begun["key"], begun["identity"]) == ("01_fine_tune", run.key, run.node.identity)
    [source] = begun["inputs"]
    assert source["content"] == read_manifest(prepare)["content"]
    assert begun["code"] == own_code.code_hashes("01_fine_tune")


def test_work_from_the_same_inputs_is_taken_up(outputs, capsys):
    finished("00_prepare")
    run = opened("01_fine_tune")
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.pt").write_text("step 50")
    del run
    again = opened("01_fine_tune")
    assert (again.folder / "checkpoints" / "last.pt").read_text() == "step 50"
    assert again.reused is None
    assert "removed" not in capsys.readouterr().out


def test_work_from_other_inputs_is_removed_with_one_line(outputs, capsys):
    prepare = finished("00_prepare")
    run = opened("01_fine_tune")
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.pt").write_text("step 50")
    del run
    shutil.rmtree(prepare)
    finished("00_prepare", "another")
    capsys.readouterr()
    again = opened("01_fine_tune")
    assert shown(again.folder) == [BEGUN]
    [line] = [line for line in capsys.readouterr().out.splitlines() if "removed" in line]
    assert line == (f"{again.folder} held work from another content of prepare, 00_prepare/{prepare.name}; it is "
                    f"removed, and 01_fine_tune starts over")


def test_a_finished_folder_is_made_again_when_its_input_was(outputs):
    prepare, tuned = finished("00_prepare"), finished("01_fine_tune", "from the first")
    shutil.rmtree(prepare)
    finished("00_prepare", "another")
    with pytest.raises(ValueError, match="is stale"):
        check_input(tuned, "fine_tune", ["01_fine_tune"])
    run = opened("01_fine_tune")
    assert run.reused is None
    assert shown(run.folder) == [BEGUN]
    assert not is_done(tuned)


def test_a_finished_folder_is_used_as_it_is_and_says_so(outputs, capsys):
    folder = finished("00_prepare")
    before = (folder / MANIFEST).read_bytes()
    run = opened("00_prepare")
    assert f"{folder} is finished already, from the same inputs and by the same code" in capsys.readouterr().out
    assert run.reused["files"]
    assert run.finish() == run.reused
    assert (folder / MANIFEST).read_bytes() == before


def test_other_code_is_said_and_finished_work_keeps_its_stamp(outputs, capsys, monkeypatch):
    folder = finished("00_prepare")
    before = (folder / MANIFEST).read_bytes()
    monkeypatch.setattr(opening, "code_hashes", lambda stage: {"package": "new", "notebook": "new"})
    run = opened("00_prepare")
    assert "but by another version of the code; it is kept as it is" in capsys.readouterr().out
    run.finish()
    assert (folder / MANIFEST).read_bytes() == before


def test_work_that_two_versions_of_the_code_did_names_both(outputs, capsys, monkeypatch):
    folder = opened("00_prepare").folder
    new = {"package": "new", "notebook": "new"}
    monkeypatch.setattr(opening, "code_hashes", lambda stage: new)
    run = opened("00_prepare")
    assert f"{folder} was begun by another version of the code, and goes on from there" in capsys.readouterr().out
    manifest = run.finish()
    assert manifest["code"] == own_code.code_hashes("00_prepare")
    assert manifest["later_code"] == [new]


def test_files_of_which_nobody_knows_the_inputs_do_not_count(outputs, capsys):
    run = opened("00_prepare")
    (run.folder / "classifier_curve.csv").write_text("epoch\n")
    (run.folder / BEGUN).unlink()
    del run
    assert shown(opened("00_prepare").folder) == [BEGUN]
    assert "of which nobody knows what it was made from" in capsys.readouterr().out


def test_a_folder_of_the_user_s_own_files_is_left_alone(outputs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"output: .*mine holds thesis.tex, which no stage wrote; give an empty"):
        opened("00_prepare", output=str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("damage", [
    lambda file: file.write_text("y"),  # the same size
    lambda file: file.write_text(""),
    lambda file: file.unlink(),
])
def test_damage_in_a_finished_folder_is_found_when_it_is_opened(outputs, capsys, damage):
    folder = finished("00_prepare")
    damage(folder / "result.csv")
    with pytest.raises(ValueError, match=r"result.csv is missing or changed since its stage finished"):
        check_input(folder, "prepare", ["00_prepare"])
    run = opened("00_prepare")
    assert f"{folder}: result.csv is missing or damaged, and is made again" in capsys.readouterr().out
    assert run.reused is None
    assert not is_done(folder)
    assert not (folder / "result.csv").exists()


def test_a_manifest_of_an_older_kit_is_read(outputs):
    folder = finished("00_prepare")
    manifest = json.loads((folder / MANIFEST).read_text())
    needed = ("stage", "key", "label", "content", "inputs", "files", "params", "identity")
    old = {name: manifest[name] for name in needed}
    (folder / MANIFEST).write_text(json.dumps(old))
    found = check_input(folder, "prepare", ["00_prepare"])
    assert (found["content"], found["seconds"], found["code"], found["chain"]) == (manifest["content"], 0.0, {}, [])
    assert opened("01_fine_tune").sources == [
        {"name": "prepare", "folder": f"00_prepare/{folder.name}", "key": old["key"], "content": old["content"]}]
    for missing in ("content", "inputs", "identity"):  # rows of results are told apart by what decided each stage
        (folder / MANIFEST).write_text(json.dumps({name: value for name, value in old.items() if name != missing}))
        with pytest.raises(ValueError, match=rf"is damaged \({missing} is missing, as from an older kit\); run"):
            read_manifest(folder)


def test_a_manifest_from_before_a_parameter_says_which(outputs):
    folder = finished("00_prepare")
    assert parameter(folder, "seed") == 0
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["params"]["seed"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="does not tell seed, as from an older kit; run its stage again"):
        parameter(folder, "seed")


# ---- A stage's own code ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("stage", "own", "foreign"), [
    ("02_pool", ["pool", "diffusion/dit", "runtime/seeds"], ["plots/sheets", "difficulty", "classifiers/training"]),
    ("03_difficulty", ["difficulty", "classifiers/judge", "selection/measures"], ["plots/difficulty", "diffusion/dit"]),
    ("06_evaluate", ["evaluate", "classifiers/networks/convnet"], ["plots/accuracy", "results/rows", "diffusion/dit"]),
    ("07_figures", ["figures", "plots/accuracy", "results/rows"], ["evaluate", "pool", "batch/run"]),
])
def test_a_stage_s_own_code_is_what_its_notebook_imports(monkeypatch, stage, own, foreign):
    monkeypatch.chdir(ROOT)
    found = {path.relative_to(own_code.PACKAGE).with_suffix("").as_posix() for path in own_code.own_modules(stage)}
    assert set(own) <= found
    assert not set(foreign) & found


def test_no_module_that_is_loaded_is_forgotten(monkeypatch):
    monkeypatch.chdir(ROOT)
    code = "import sys, dgs_utils.difficulty; print(*[n for n in sys.modules if n.startswith('dgs_utils.')])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    loaded = {name.removeprefix("dgs_utils.").replace(".", "/") for name in printed}
    decide = {name for name in loaded if name.split("/")[0] not in own_code.BOOKS and name != "methods"}
    own = {path.relative_to(own_code.PACKAGE).with_suffix("").as_posix()
           for path in own_code.own_modules("03_difficulty")}
    assert {name for name in decide if (own_code.PACKAGE / f"{name}.py").exists()} <= own


def test_an_edited_plot_makes_no_pool_old(tmp_path, monkeypatch):
    package = shutil.copytree(own_code.PACKAGE, tmp_path / "dgs_utils")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(own_code, "PACKAGE", package)
    before = {stage: own_code.code_hashes(stage) for stage in ("02_pool", "03_difficulty", "07_figures")}

    def changed(module: str) -> set[str]:
        (package / module).write_text((package / module).read_text() + "\nEDITED = True\n")
        now = {stage: own_code.code_hashes(stage) for stage in before}
        found = {stage for stage in before if now[stage] != before[stage]}
        before.update(now)
        return found

    assert changed("plots/sheets.py") == {"07_figures"}
    assert changed("diffusion/sampler.py") == {"02_pool"}
    assert changed("selection/measures.py") == {"03_difficulty"}
    assert changed("runtime/seeds.py") == {"02_pool", "03_difficulty", "07_figures"}
    assert changed("batch/run.py") == set()


# ---- One at a time ---------------------------------------------------------------------------------------------------

HOLD = ("import sys, time; from dgs_utils.artifacts.run import open_node; from dgs_utils.params import validate\n"
        "run = open_node(validate('00_prepare', {}))\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "run.finish(); print('closed', flush=True); sys.stdin.readline()")


def holder() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def until(process: subprocess.Popen, word: str) -> str:
    lines = []
    while not lines or word not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    return "".join(lines)


def test_the_second_waits_and_says_for_whom(outputs):
    first = holder()
    until(first, "open")
    second = holder()
    assert f"is held by process {first.pid} on " in until(second, "waiting until it ends")
    print("", file=first.stdin, flush=True)
    until(first, "closed")  # whose process goes on, as a kernel does
    assert "is finished already, from the same inputs" in until(second, "open")
    for process in (first, second):
        process.kill()
        process.wait()


def test_a_killed_holder_holds_nothing(outputs):
    first = holder()
    until(first, "open")
    first.kill()
    first.wait()
    assert opened("00_prepare").reused is None


def test_shares_work_side_by_side_and_a_whole_pool_waits_for_them(outputs):
    folder = outputs / "pool"
    folder.mkdir()
    code = ("import sys; from pathlib import Path; from dgs_utils.artifacts.opening import take\n"
            "lock = take(Path(sys.argv[1]), sys.argv[2]); print('open', flush=True); sys.stdin.readline()")

    def started(share: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, folder, share], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)

    shares = [started("1-2"), started("2-2")]
    for share in shares:
        assert until(share, "open") == "open\n"
    whole = started("")  # only now, else it may be the first
    until(whole, "waiting until it ends")
    for share in shares:
        share.communicate("\n")
    until(whole, "open")
    whole.communicate("\n")


def test_a_runner_leaves_a_folder_to_the_notebook_that_has_it(tmp_path):
    """A notebook by hand beside `dgs run`: the runner says who works there, waits, and takes up the result."""
    workspace = small_grid.build(tmp_path / "w")
    hand = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            cwd=workspace, env=small_grid.environment(workspace))
    until(hand, "open")
    runner = small_grid.start(workspace, "run", "params/small.yaml", "--until", "prepare", loaded=True)
    assert f"is held by process {hand.pid} on " in until(runner, "it is left to that")
    hand.communicate("\n\n")
    printed = runner.communicate(timeout=600)[0]
    assert runner.returncode == 0, printed
    assert "done in" not in printed
    assert "Nothing was left to do." in printed


# ---- Killed in between -----------------------------------------------------------------------------------------------

WORK = """
import os, signal
from dgs_utils.artifacts import files
from dgs_utils.artifacts.manifests import read_manifest
from dgs_utils.artifacts.run import open_node
from dgs_utils.params import validate


def work(outputs, last):
    os.environ["DGS_OUTPUTS"] = outputs
    run = open_node(validate("01_fine_tune", {}))
    source = read_manifest(run.inputs["prepare"])["content"]
    for step in range(3):
        part = run.folder / f"part{step}.txt"
        if not part.exists():
            with files.atomic(part) as partial:
                partial.write_text(source)
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
    if last == FINISHED:
        run.finish()
"""
KILLED, UNFINISHED, FINISHED = range(3), 3, 4  # the last step of three, or how it ends after them


@pytest.fixture(scope="module")
def work() -> Iterator[Callable[[str, int], int]]:
    """Do a stage in a process of its own, up to a step at which it is killed or to its end; return its exit status."""
    with forked(WORK.replace("FINISHED", str(FINISHED))) as work:
        yield work


@pytest.mark.parametrize("steps", [*product([*KILLED, UNFINISHED], repeat=2)])
def test_killed_between_opening_and_manifest_while_an_input_changes(outputs, work, steps):
    """Whatever was left by a killed run, what is finished in the end was made from the input of the end alone."""
    prepare = finished("00_prepare", "first")
    for attempt, step in enumerate(steps):
        assert work(str(outputs), step) == (-signal.SIGKILL if step in KILLED else 0)
        if attempt == 0 and sum(steps) % 2:
            shutil.rmtree(prepare)
            finished("00_prepare", "changed")
    assert work(str(outputs), FINISHED) == 0
    [folder] = (outputs / "01_fine_tune").iterdir()
    content = read_manifest(prepare)["content"]
    assert {file.read_text() for file in folder.glob("part*.txt")} == {content}
    assert [source["content"] for source in read_manifest(folder)["inputs"]] == [content]
    check_input(folder, "fine_tune", ["01_fine_tune"])


def test_a_changed_input_is_seen_by_the_same_command(tmp_path):
    workspace = small_grid.build(tmp_path / "w")
    assert dgs(workspace, "run", "params/small.yaml").returncode == 0
    [pool] = (workspace / "outputs" / "02_pool").iterdir()
    manifest = json.loads((pool / MANIFEST).read_text())
    (pool / "part0.txt").write_text("other images")
    (pool / MANIFEST).unlink()
    again = dgs(workspace, "run", "params/small.yaml", "--until", "pool")
    assert again.returncode == 0, again.stdout
    assert json.loads((pool / MANIFEST).read_text())["content"] == manifest["content"]  # made again by the same code
    small_grid.replace_cell(workspace, "02_pool", 3, "(run.folder / 'part0.txt').write_text('other images')")
    result = dgs(workspace, "run", "params/small.yaml", "--force", "pool")
    assert result.returncode == 0, result.stdout
    assert result.stdout.count(f"outputs/02_pool/{pool.name} holds another content than before; what was made from it "
                               f"is made again") == 1
    done = [line.split("] ")[1].split()[0] for line in result.stdout.splitlines() if "done in" in line]
    assert set(done) == {"02_pool", "03_difficulty", "04_transform", "05_sample", "06_evaluate", "07_figures"}
    assert "Nothing was left to do." in dgs(workspace, "run", "params/small.yaml").stdout
