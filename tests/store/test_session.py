"""Opening and finishing a stage."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from stage_folders import write_stage

import dgs_utils as dgs
from dgs_utils.params import validate
from dgs_utils.runtime import progress
from dgs_utils.store import atomic as files
from dgs_utils.store import session
from dgs_utils.store.hashing import hash_path
from dgs_utils.store.lock import other_owner
from dgs_utils.store.manifest import is_done, read_manifest
from dgs_utils.store.node import default_node
from dgs_utils.store.session import open_node
from dgs_utils.store.stage_result import next_notebook


def full_disk(*_):
    raise OSError("disk full")


def test_manifest_comes_last(outputs, monkeypatch):
    """Whatever fails while finishing, a folder without its manifest does not count as done."""
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="disk full"):
            run.finish()
    assert not is_done(run.folder)
    assert sorted(f.name for f in run.folder.glob("[!.]*")) == ["inputs.json", "result.csv"]


def test_finishing_again_keeps_what_is_finished_or_takes_what_changed(outputs):
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")
    first = run.finish()
    manifest = (run.folder / "manifest.json").read_bytes()
    assert run.finish() == first
    assert (run.folder / "manifest.json").read_bytes() == manifest
    (run.folder / "result.csv").write_text("y")  # by an earlier cell, run again
    again = run.finish()
    assert again["files"] != first["files"]
    assert read_manifest(run.folder) == again
    assert not other_owner(run.folder)


def test_finishing_again_leaves_the_work_of_others_alone(outputs):
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")
    run.finish()
    script = ("import dgs_utils as dgs; run = dgs.stage('00_prepare')\n"
              "(run.folder / 'result.csv').write_text('y'); run.finish()")
    subprocess.run([sys.executable, "-c", script], check=True)
    manifest = (run.folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="was changed by another process since this notebook finished it"):
        run.finish()
    assert (run.folder / "manifest.json").read_bytes() == manifest
    shutil.rmtree(run.folder)
    with pytest.raises(ValueError, match="was changed by another process"):
        run.finish()


@pytest.mark.parametrize("step", ["hash_entries", "sync_filesystem", "write_record"])
def test_an_interrupted_last_cell_can_be_run_again(outputs, monkeypatch, step):
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(session, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    assert not is_done(run.folder)
    assert run.finish()["files"].keys() == {"result.csv"}
    assert is_done(run.folder)


@pytest.mark.parametrize("work", ["raise KeyboardInterrupt", "run.folder / 1"])
def test_a_stage_is_not_finished_without_the_work_of_a_cell_that_failed(outputs, shell, work):
    finish = "run.finish()"
    error = run_cells(shell, "run = dgs.stage('00_prepare')", work, "looked = 1", finish)
    assert error.startswith(f"the cell that begins with {work!r} failed or was interrupted, so ")
    folder = shell.user_ns["run"].folder
    assert run_cells(shell, finish) == error
    assert not is_done(folder)
    shell.user_ns["KeyboardInterrupt"] = ValueError  # the cell fails again
    assert run_cells(shell, work, finish) == error
    assert run_cells(shell, "run = dgs.stage('00_prepare')", finish) == ""
    assert is_done(folder)


def test_a_cell_that_failed_and_then_ran_is_no_failed_one(outputs, shell):
    shell.user_ns["tries"] = iter([0, 1])
    work = "assert next(tries)"
    assert run_cells(shell, "run = dgs.stage('00_prepare')", work, work, "run.finish()") == ""


@pytest.mark.parametrize("finish", ["run.finish();", "# the end\nresult = run.finish()  # all", "run.finish()\n"])
def test_a_cell_that_works_and_finishes_is_run_again_before_another_one_finishes(outputs, shell, finish):
    shell.user_ns["tries"] = iter([0, 0, 1])
    both = "assert next(tries)\nrun.finish()"
    begins = "the cell that begins with 'assert next(tries)' failed or was interrupted, so "
    assert run_cells(shell, "run = dgs.stage('00_prepare')", both, finish).startswith(begins)
    assert run_cells(shell, both, finish).startswith(begins)
    assert not is_done(shell.user_ns["run"].folder)
    assert run_cells(shell, both, finish) == ""
    assert is_done(shell.user_ns["run"].folder)


def test_a_finished_stage_shows_what_it_holds(outputs, shell, tmp_path):
    write_stage("00_prepare")
    (tmp_path / "mine").mkdir()
    shell.user_ns |= {"mine": str(tmp_path / "mine"), "results": "best,last,n_test\n70,60,1500\n80,70,1500\n"}
    assert run_cells(shell, "run = dgs.stage('06_evaluate', distilled=mine, epochs=3)",
                     "(run.folder / 'results.csv').write_text(results); run.warn('a < b')",
                     "result = run.finish()") == ""
    result = shell.user_ns["result"]
    data, _ = shell.display_formatter.format(result)
    assert data["text/plain"] == repr(result)
    for text in data.values():
        assert re.search(r"06_evaluate is finished, in \d+:\d\d: ", text)
        assert str(result.folder) in text
        assert "top-1 75.0 ± 7.1 % (best test), 65.0 % (last test); 2 trainings, 1,500 test images" in text
        assert f"07_figures.ipynb, with evaluations = ['outputs/06_evaluate/{result.folder.name}']" in text
    assert "Warning: a < b" in data["text/plain"]
    assert "Warning: a &lt; b" in data["text/markdown"]
    assert next_notebook(validate("05_sample", {}), default_node("05_sample").folder)[0].endswith("06_evaluate.ipynb")


def test_an_image_folder_of_any_origin_can_be_evaluated(outputs, tmp_path):
    write_stage("00_prepare")
    (tmp_path / "mine").mkdir()
    run = open_node(validate("06_evaluate", {"distilled": str(tmp_path / "mine")}))
    assert run.inputs["distilled"] == tmp_path / "mine"
    assert run.sources[1] == {"name": "distilled", "folder": str(tmp_path / "mine"),
                              "key": f"sha256:{hash_path(tmp_path / 'mine')}", "content": ""}
    (tmp_path / "yours").mkdir()
    assert open_node(validate("06_evaluate", {"distilled": str(tmp_path / "yours")})).key == run.key  # both are empty
    (tmp_path / "yours" / "a.png").write_text("image")
    assert open_node(validate("06_evaluate", {"distilled": str(tmp_path / "yours")})).key != run.key
    with pytest.raises(ValueError, match=r"distilled: the folder .*/none does not exist"):
        open_node(validate("06_evaluate", {"distilled": str(tmp_path / "none")}))


def test_a_missing_default_input_names_its_parameter(outputs):
    with pytest.raises(ValueError, match=r"prepare: the folder .*00_prepare/digits-.* does not exist; run the stage"):
        open_node(validate("01_fine_tune", {}))


@pytest.fixture
def shell():
    """IPython itself, as a notebook's kernel has it."""
    before = sys.modules["__main__"]
    shell = InteractiveShell()
    yield shell
    shell.history_manager.end_session()
    sys.modules["__main__"] = before


def run_cells(shell: InteractiveShell, *cells: str) -> str:
    """Execute cells; return the error of the last one."""
    for cell in ("import dgs_utils as dgs", *cells):
        result = shell.run_cell(cell, store_history=True)
    return str(result.error_in_exec or "")


def test_a_notebook_s_parameters_are_those_of_its_cells(outputs, shell):
    cells = ["dataset: str = 'digits'\nseed: int = 0", "# Parameters\ndataset = 'folder'\nseed = 3\n", "other = 1"]
    assert run_cells(shell, *cells, "run = dgs.stage('00_prepare')") == ""
    run = shell.user_ns["run"]
    assert (run.params.dataset, run.params.seed) == ("folder", 3)
    assert run.folder.is_dir()
    assert run.folder == default_node("00_prepare", {"dataset": "folder", "seed": 3}).folder


def test_a_script_s_parameters_are_keywords_or_its_own_names(outputs, tmp_path):
    """As of a notebook that was exported as a script."""
    (tmp_path / "script.py").write_text(
        "import dgs_utils as dgs\nprint(dgs.stage('00_prepare').params.seed)\nseed: int = 2\n"
        "print(dgs.stage('00_prepare').params.seed, dgs.stage('00_prepare', folds=3).params.seed)")
    result = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    assert [line for line in result.stdout.splitlines() if not line.startswith("Output")] == ["0", "2 0"]


def test_keywords_beside_a_parameters_cell_are_refused(outputs, shell):
    keywords = "run = dgs.stage('00_prepare', seed=4)"
    expected = "00_prepare is opened with seed, so that the values of this notebook's parameters cell would be ignored"
    assert run_cells(shell, "seed: int = 0", keywords).startswith(expected)
    assert run_cells(shell, "# Parameters\nseed = 5", keywords).startswith(expected)
    assert run_cells(shell, "seed: int = 0", "run = dgs.stage('00_prepare')", keywords) == ""  # a second stage
    assert shell.user_ns["run"].params.seed == 4
    assert run_cells(shell, "seed = 7", keywords) == ""  # a variable of one's own


def test_wrong_parameters_are_refused_before_any_folder_is_made(outputs, shell):
    with pytest.raises(ValueError, match=r"prepare.seed is 'x', but input should be a valid integer"):
        dgs.stage("00_prepare", seed="x")
    with pytest.raises(ValueError, match="sead is not a parameter of 00_prepare; did you mean 'seed'"):
        dgs.stage("00_prepare", sead=3)
    with pytest.raises(ValueError, match="'00_prepar' is not a stage; did you mean '00_prepare'"):
        dgs.stage("00_prepar")
    error = run_cells(shell, "# Parameters\nsead = 3\n", "dgs.stage('00_prepare')")
    assert error.startswith("sead is not a parameter of 00_prepare; did you mean 'seed'")
    assert not list(outputs.iterdir())
    assert run_cells(shell, "del sead", "sead = 3", "# Parameters\nseed = 1\n", "dgs.stage('00_prepare')") == ""


def test_papermill_s_unknown_parameter_stops_the_notebook(outputs, tmp_path):
    """Papermill itself only warns about a misspelt parameter and carries on with the default."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3",
                                                                  "language": "python"}})
    cells = [nbformat.v4.new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("import dgs_utils as dgs\nrun = dgs.stage('00_prepare')\nrun.finish()")]
    notebook.cells = cells
    nbformat.write(notebook, tmp_path / "in.ipynb")

    def execute(**parameters):
        return papermill.execute_notebook(str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), parameters,
                                          progress_bar=False, cwd=str(tmp_path))

    with pytest.raises(papermill.PapermillExecutionError, match=r"sead is not a parameter of 00_prepare; did you mean"):
        execute(sead=5)
    assert not list(outputs.iterdir())
    execute(seed=5)
    [folder] = (outputs / "00_prepare").iterdir()
    assert read_manifest(folder)["params"]["seed"] == 5


def test_progress_passes_everything_on_and_is_readable_from_outside(outputs):
    run = open_node(validate("00_prepare", {}))
    seen = []
    for item in run.progress(range(5), label="counting"):
        seen.append(item)
        state = json.loads((run.folder / "progress.json").read_text())
        assert state["label"] == "counting"
        assert state["total"] == 5
        assert 0 <= state["step"] <= item
    assert seen == list(range(5))
    assert list(progress.no_progress("abc", label="x", total=3)) == ["a", "b", "c"]
    run.finish()
    assert not (run.folder / "progress.json").exists()


def test_what_a_manifest_certifies_is_on_disk_before_it(outputs, monkeypatch):
    run = open_node(validate("00_prepare", {}))
    (run.folder / "result.csv").write_text("x")
    seen = []
    monkeypatch.setattr("dgs_utils.store.session.sync_filesystem", lambda folder: seen.append(
        (files.sync_filesystem(folder), sorted(path.name for path in folder.glob("[!.]*")))))
    run.finish()
    assert seen == [(None, ["checksums.json", "inputs.json", "result.csv"])]
