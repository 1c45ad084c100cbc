"""Opening a stage's folder: partial results count only if they were made from the same inputs."""

import json
import shutil
from pathlib import Path

import pytest
import small_grid
from restamp import restamp
from small_grid import dgs

from dgs_utils.params import validate
from dgs_utils.store import code_fingerprint, resume
from dgs_utils.store.lineage import check_input
from dgs_utils.store.manifest import MANIFEST, RUN_INPUTS, is_done, parameter, read_manifest
from dgs_utils.store.session import Run, open_node


def opened(stage: str, **values) -> Run:
    return open_node(validate(stage, values))


def finished(stage: str, text: str = "x", **values) -> Path:
    run = opened(stage, **values)
    (run.folder / "result.csv").write_text(text)
    run.finish()
    return run.folder


def shown(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_a_folder_says_what_it_is_begun_with_before_any_work(outputs):
    prepare = finished("00_prepare")
    run = opened("01_fine_tune")
    begun = json.loads((run.folder / RUN_INPUTS).read_text())
    assert shown(run.folder) == [RUN_INPUTS]
    assert (begun["stage"], begun["key"], begun["identity"]) == ("01_fine_tune", run.key, run.node.fingerprint)
    [source] = begun["inputs"]
    assert source["content"] == read_manifest(prepare)["content"]
    assert begun["code"] == code_fingerprint.code_hashes("01_fine_tune")


def test_work_from_the_same_inputs_is_taken_up(outputs, capsys):
    finished("00_prepare")
    run = opened("01_fine_tune")
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.pt").write_text("step 50")
    del run
    again = opened("01_fine_tune")
    assert (again.folder / "checkpoints" / "last.pt").read_text() == "step 50"
    assert again.cached is None
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
    assert shown(again.folder) == [RUN_INPUTS]
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
    assert run.cached is None
    assert shown(run.folder) == [RUN_INPUTS]
    assert not is_done(tuned)


def test_a_finished_folder_is_used_as_it_is_and_says_so(outputs, capsys):
    folder = finished("00_prepare")
    before = (folder / MANIFEST).read_bytes()
    run = opened("00_prepare")
    assert f"{folder} is finished already, from the same inputs and by the same code" in capsys.readouterr().out
    assert run.cached["files"]
    assert run.finish() == run.cached
    assert (folder / MANIFEST).read_bytes() == before


def test_other_code_is_said_and_finished_work_keeps_its_stamp(outputs, capsys, monkeypatch):
    folder = finished("00_prepare")
    before = (folder / MANIFEST).read_bytes()
    monkeypatch.setattr(resume, "code_hashes", lambda stage: {"package": "new", "notebook": "new"})
    run = opened("00_prepare")
    assert "but by another version of the code; it is kept as it is" in capsys.readouterr().out
    run.finish()
    assert (folder / MANIFEST).read_bytes() == before


def test_work_that_two_versions_of_the_code_did_names_both(outputs, capsys, monkeypatch):
    folder = opened("00_prepare").folder
    new = {"package": "new", "notebook": "new"}
    monkeypatch.setattr(resume, "code_hashes", lambda stage: new)
    run = opened("00_prepare")
    assert f"{folder} was begun by another version of the code, and goes on from there" in capsys.readouterr().out
    manifest = run.finish()
    assert manifest["code"] == code_fingerprint.code_hashes("00_prepare")
    assert manifest["later_code"] == [new]


def test_files_of_which_nobody_knows_the_inputs_do_not_count(outputs, capsys):
    run = opened("00_prepare")
    (run.folder / "classifier_curve.csv").write_text("epoch\n")
    (run.folder / RUN_INPUTS).unlink()
    del run
    assert shown(opened("00_prepare").folder) == [RUN_INPUTS]
    assert "without a record of what it was made from" in capsys.readouterr().out


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
    assert run.cached is None
    assert not is_done(folder)
    assert not (folder / "result.csv").exists()


def test_a_manifest_without_a_parameter_says_which(outputs):
    folder = finished("00_prepare")
    assert parameter(folder, "seed") == 0
    params = {name: value for name, value in read_manifest(folder)["params"].items() if name != "seed"}
    restamp(folder / MANIFEST, params=params)
    with pytest.raises(ValueError, match="has no parameter seed; run its stage again, which writes it"):
        parameter(folder, "seed")


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
