"""Misspelt names in a parameters cell: Python sets them without a word, and the default would run."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from dgs_utils.params import STAGES
from dgs_utils.params.cells import check_names

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
READ = "check_names('04_transform', globals(), fields)  # stage("
PLAIN = "weight: float = 0.5\nbins: int = 10"


@pytest.fixture
def shell():
    """IPython itself, as a notebook's kernel has it, with the parameters' names at hand."""
    before = sys.modules["__main__"]
    shell = InteractiveShell()
    shell.user_ns |= {"check_names": check_names, "fields": set(STAGES["04_transform"].model_fields)}
    yield shell
    shell.history_manager.end_session()
    sys.modules["__main__"] = before


def run(shell: InteractiveShell, *cells: str) -> str:
    """Execute cells as somebody does who goes through a notebook; return what the last of them raises."""
    for cell in cells:
        result = shell.run_cell(cell, store_history=True)
    return str(result.error_in_exec or "")


@pytest.mark.parametrize("cell", [
    "wieght = 0.3\nbins = 10", "wieght: float = 0.3\nbins: int = 10", "bins, wieght = 10, 0.3", "weight = wieght = 0.3",
    "import numpy as np\nbins = 10\nwieght = np.sqrt(0.09)", "bins = int('10')\nwieght = 0.3",
])
def test_a_misspelt_name_is_refused_by_hand(shell, cell):
    assert run(shell, cell, READ).startswith("wieght is not a parameter of 04_transform; did you mean 'weight'?")
    assert run(shell, READ).startswith("wieght is not a parameter of")  # again
    assert run(shell, cell.replace("wieght", "weight"), READ) == ""  # corrected
    assert run(shell, "len([])", READ) == ""


@pytest.mark.parametrize("before", [(), (PLAIN,)])
def test_a_cell_of_ones_own_is_told_but_not_refused(shell, before):
    """Somebody's loop over ``seeds`` is no misspelt ``seed``, though it may be one."""
    found = "doubts = " + READ
    assert run(shell, *before, "wieght = 0.3", found) == ""
    assert shell.user_ns["doubts"] == ["wieght is not a parameter of 04_transform; did you mean 'weight'?"]
    assert run(shell, PLAIN, READ, "wieght = 0.3", found) == ""
    assert len(shell.user_ns["doubts"]) == 1
    assert run(shell, "weight = 0.3", "del wieght", found) == ""
    assert shell.user_ns["doubts"] == []


def test_a_name_like_no_parameter_is_refused_beside_parameters(shell):
    said = run(shell, "bins = 3\nlearning = 1", READ)
    assert "learning is not a parameter of 04_transform; valid names are bins, " in said
    assert run(shell, PLAIN, "learning = 1\nimages = {'a': [1]}", "_wieght = 1", "total = sum([1])", READ) == ""


def test_what_papermill_sets_is_refused_however_it_is_called(shell):
    assert "quality is not a parameter of" in run(shell, PLAIN, "# Parameters\nquality = 1\n", READ)


def test_all_may_stand_in_one_cell(shell):
    assert "did you mean 'weight'" in run(shell, f"wieght = 0.3\nbins = 3\nrun = {READ.split('#')[0]} or 'stage('")


def test_scripts_are_refused_misspelt_names_with_a_type_and_warned_of_others():
    """Without a type a name may be the script's own."""
    def doubts(**names):
        return check_names("04_transform", {"__name__": "__main__", **names}, STAGES["04_transform"].model_fields)

    assert doubts(weight=1, other=2, weights=run, wieght_of=str, __annotations__={"weight": float}) == []
    assert doubts(wieght=1, other=2) == ["wieght is not a parameter of 04_transform; did you mean 'weight'?"]
    with pytest.raises(ValueError, match="wieght is not a parameter"):
        doubts(wieght=1, __annotations__={"wieght": float})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_is_refused_for_its_own_names(path):
    """After all of its cells, too, when somebody goes back to the parameters or to the cell after them."""
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    place = next(i for i, cell in enumerate(cells) if re.match(r"run = dgs\.stage\(", cell))
    names = set(re.findall(r"\b[a-zA-Z]\w*\b", "\n".join(cells)))  # as if all of them were set
    for ran in (cells[: place + 1], cells + cells[place : place + 1], cells + cells[place - 1 : place + 1]):
        check_names(path.stem, {"In": ran} | dict.fromkeys(names), STAGES[path.stem].model_fields)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_sets_a_parameter_after_its_parameters_cell(path):
    """Whoever goes back to the cell after it would open the stage with that value."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    later = [cell["source"] for cell in cells if "parameters" not in cell["metadata"].get("tags", [])]
    stored = {node.id for source in later for node in ast.walk(ast.parse("".join(source)))
              if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not stored & set(STAGES[path.stem].model_fields)


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_real_notebook_refuses_before_work(tmp_path, monkeypatch, by_hand):
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path / "outputs"))
    path = shutil.copy(ROOT / "notebooks" / "04_transform.ipynb", tmp_path)
    if by_hand:
        notebook = nbformat.read(path, 4)
        [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = cell.source.replace("weight: float = 0.5", "wieght: float = 0.3")
        with pytest.raises(CellExecutionError, match=r"wieght is not a parameter of 04_transform; did you mean 'we"):
            NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    else:
        with pytest.raises(papermill.PapermillExecutionError, match=r"wieght is not a parameter of 04_transform"):
            papermill.execute_notebook(path, tmp_path / "out.ipynb", {"wieght": 0.3}, progress_bar=False)
    assert not (tmp_path / "outputs").exists()
