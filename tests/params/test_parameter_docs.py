"""Descriptions of parameters, and what is written from them: the notebooks' parameters cells, and a page."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import papermill
import pytest

from dgs_utils.cli import main
from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, validate
from dgs_utils.params.base import choices_of
from dgs_utils.params.parameter_docs import parameters_cell, parameters_page, type_of
from dgs_utils.workflow.sync_notebooks import outdated_files

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {f"{stage[3:]}.{name}": field for stage, model in STAGES.items() for name, field in model.model_fields.items()}


@pytest.fixture(params=STAGES.values(), ids=STAGES)
def model(request):
    return request.param


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_has_one_plain_line(name):
    text = FIELDS[name].description
    assert text == text.strip()
    assert 0 < len(text) <= 100
    assert not text.endswith(".")
    assert text[0].islower() or text.split()[0].strip(",.;:") in ("CSV", "λ", "β", '"k/n"')
    default = FIELDS[name].default
    if default in (-1, -1.0) or (default == 0 and name.endswith(("steps", "epochs", "size"))):
        assert re.search(rf"(?<!\w){int(default)} = ", text), "what the special value means"


# ---- Cells -----------------------------------------------------------------------------------------------------------

def test_notebooks_and_page_are_those_of_the_models(monkeypatch, capsys):
    """If this fails: dgs notebooks --sync."""
    monkeypatch.chdir(ROOT)
    assert outdated_files() == {}
    assert main(["notebooks"]) == 0
    assert capsys.readouterr().out == "All are equal to the models.\n"


def test_the_command_writes_what_differs(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    notebook = tmp_path / "notebooks" / "05_sample.ipynb"
    before = notebook.read_text()
    notebook.write_text(before.replace("ipc: int = 10", "ipc: int = 20"))
    assert main(["notebooks"]) == 1
    assert ("notebooks/05_sample.ipynb differs from the models; to write it anew, without values that were set in it: "
            "dgs notebooks --sync") in capsys.readouterr().out
    assert main(["notebooks", "--sync"]) == 0
    assert notebook.read_text() == before
    assert (tmp_path / "params" / "parameters.md").read_text() == (ROOT / "params" / "parameters.md").read_text()
    notebook.write_text(before.replace('"parameters"', '"others"'))
    assert main(["notebooks"]) == 2
    assert "05_sample.ipynb has 0 cells with the tag parameters" in capsys.readouterr().err


def test_a_cell_is_short_and_has_types_and_defaults_of_the_model(model):
    cell = parameters_cell(model)
    assert len(cell.splitlines()) <= 20
    assert max(map(len, cell.splitlines())) <= 120
    found = {}
    for statement in ast.parse(cell).body:
        name, value = statement.target.id, ast.literal_eval(statement.value)
        annotation = statement.annotation
        assert (ast.literal_eval(annotation) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)) == \
            type_of(model.model_fields[name].annotation)
        found[name] = value
    assert list(found) == model.names_in_cell()
    assert {name: model.model_fields[name].default for name in found} == found
    assert validate(model.stage, found) == validate(model.stage, {})
    assert next(reversed(found)) == "output"


def test_a_cell_names_all_choices_that_fit(model):
    lines = {line.split(":")[0]: line for line in parameters_cell(model).splitlines()}
    for name in model.names_in_cell():
        choices = [str(choice) for choice in choices_of(model.model_fields[name].annotation) if str(choice)]
        assert all(choice in lines[name] for choice in choices) or len(", ".join([lines[name], *choices])) > 117


def test_what_suits_the_machine_stands_last(model):
    last = list(model.in_cell.values())[-1].split()
    assert {*model.fields_tagged("execution_only")} & {*model.names_in_cell()} <= {*last}


def test_formatters_leave_a_cell_as_it_is(model):
    cell = parameters_cell(model) + "\n"
    formatted = subprocess.run([sys.executable, "-m", "ruff", "format", "--line-length", "120", "-"], input=cell,
                               capture_output=True, text=True, check=True).stdout
    assert formatted == cell


def test_papermill_finds_all_names_in_a_cell(model):
    """It reads the cell by a pattern of its own."""
    assert list(papermill.inspect_notebook(ROOT / "notebooks" / f"{model.stage}.ipynb")) == model.names_in_cell()


# ---- Parameters that a cell lacks ------------------------------------------------------------------------------------

def execute(tmp_path: Path, **values) -> str:
    """Run a notebook of stage 00 that is opened and finished, and return what it printed."""
    notebook = json.loads((ROOT / "notebooks" / "00_prepare.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    kept = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    kept += [{**code[0], "id": "x", "source": "import dgs_utils as dgs\nrun = dgs.stage('00_prepare')\nrun.params"}]
    (tmp_path / "in.ipynb").write_text(json.dumps(notebook | {"cells": kept}))
    done = papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", values, progress_bar=False)
    return "".join(output.get("text", "") or output["data"]["text/plain"] for output in done.cells[-1].outputs)


def test_a_rarely_used_parameter_is_taken_and_printed(tmp_path, outputs):
    printed = execute(tmp_path, folds=3, seed=2)
    assert "Also set, beside the parameters cell: folds = 3\n" in printed
    assert "folds=3" in printed
    assert "seed=2" in printed
    assert "Also set" not in execute(tmp_path, seed=2)


def test_a_misspelt_one_is_refused(tmp_path, outputs):
    with pytest.raises(papermill.PapermillExecutionError, match="fold is not a parameter of 00_prepare; did you"):
        execute(tmp_path, fold=3)


# ---- The page --------------------------------------------------------------------------------------------------------

def test_the_page_has_each_parameter_once():
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", parameters_page(), re.M | re.S))
    assert list(sections) == list(STAGES)
    for stage, text in sections.items():
        rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(.+)` \| (.+) \| (\w+) \|$", text, re.M)
        assert sorted(name for name, *_ in rows) == sorted(STAGES[stage].model_fields)
        for name, _, default, text, decides in rows:
            field = STAGES[stage].model_fields[name]
            assert ast.literal_eval(default) == field.default
            assert text == field.description
            if decides == "no":
                assert name not in validate(stage, {}).cache_params()


def test_the_page_lists_all_methods():
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w+) \| `(\w*)` \| (\w*) \|$", parameters_page(), re.M)
    assert {name: rest for name, *rest in rows} == {
        name: [method.source, method.rule_name, method.score] for name, method in METHODS.items()}


def test_the_page_says_what_is_accepted():
    page = parameters_page()
    for row in ("| `0`, `1`, `3` | `0` | channels", '| `"auto"`, `True`, `False` | `"auto"` |',
                "| int, 1 or more | `10` |", '`"uniform"` or list[int] | `"scale"` |',
                '| list of `"comparison"`, `"table1"`', "| float, above 0 |",
                '| str or list[str] | `""` | your images', "| int, 1 or more, at most 1000 | `50` |"):
        assert row in page, row
