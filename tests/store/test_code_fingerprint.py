"""The code fingerprint: a stage's notebook and its own modules, without bookkeeping and plots."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgs_utils.store import code_fingerprint

ROOT = Path(__file__).resolve().parents[2]


def test_code_hashes_follow_notebook_sources_but_not_their_outputs(tmp_path, monkeypatch):
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    hashes = []
    for source, output in (("x = 1", []), ("x = 1", ["1"]), ("x = 2", [])):
        cell = {"cell_type": "code", "source": source, "outputs": output}
        (tmp_path / "notebooks" / "00_prepare.ipynb").write_text(json.dumps({"cells": [cell]}))
        hashes.append(code_fingerprint.code_hashes("00_prepare"))
    assert hashes[0] == hashes[1]
    assert hashes[0]["notebook"] != hashes[2]["notebook"]
    assert len({h["package"] for h in hashes}) == 1


def names(modules: list[Path]) -> set[str]:
    return {path.relative_to(code_fingerprint.PACKAGE).with_suffix("").as_posix() for path in modules}


@pytest.mark.parametrize(("stage", "own", "foreign"), [
    ("02_pool", ["pool/from_model", "diffusion/dit", "runtime/seeds"], ["plots/contact_sheets", "difficulty/scoring"]),
    ("03_difficulty", ["difficulty/scoring", "classifiers/measures"], ["plots/difficulty", "diffusion/dit"]),
    ("06_evaluate", ["evaluate", "classifiers/networks/convnet"], ["plots/accuracy", "results/rows", "diffusion/dit"]),
    ("07_figures", ["figures/report", "results/rows"], ["evaluate", "pool/from_model", "workflow/notebook"]),
])
def test_a_stage_s_own_code_is_what_its_notebook_imports(monkeypatch, stage, own, foreign):
    monkeypatch.chdir(ROOT)
    found = names(code_fingerprint.stage_modules(stage))
    assert set(own) <= found
    assert not set(foreign) & found


@pytest.mark.parametrize("statement", [
    "from dgs_utils import sample, pool", "x = 1; import dgs_utils.sample, dgs_utils.pool.from_model as two  # three",
    "  from dgs_utils import (\n    sample,  # here\n    pool)", "from dgs_utils import sample, \\\n  pool\n%magic"])
def test_imports_are_found_however_they_are_written(statement):
    found = names(code_fingerprint._modules_in(f"import numpy as np\n{statement}\n"))
    assert found in ({"sample", "pool/__init__"}, {"sample", "pool/from_model"})


def test_no_module_that_is_loaded_is_forgotten(monkeypatch):
    monkeypatch.chdir(ROOT)
    code = "import sys, dgs_utils.difficulty; print(*[n for n in sys.modules if n.startswith('dgs_utils.')])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    loaded = {name.removeprefix("dgs_utils.").replace(".", "/") for name in printed}
    excluded = {*code_fingerprint.EXCLUDED_PACKAGES, "methods"}
    decide = {name for name in loaded if name.split("/")[0] not in excluded} - {"runtime/units"}  # for what is printed
    own = names(code_fingerprint.stage_modules("03_difficulty"))
    assert {name for name in decide if (code_fingerprint.PACKAGE / f"{name}.py").exists()} <= own


def test_an_edited_plot_makes_no_pool_old(tmp_path, monkeypatch):
    package = shutil.copytree(code_fingerprint.PACKAGE, tmp_path / "dgs_utils")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(code_fingerprint, "PACKAGE", package)
    before = {stage: code_fingerprint.code_hashes(stage) for stage in ("02_pool", "03_difficulty", "07_figures")}

    def changed(module: str) -> set[str]:
        (package / module).write_text((package / module).read_text() + "\nEDITED = True\n")
        now = {stage: code_fingerprint.code_hashes(stage) for stage in before}
        found = {stage for stage in before if now[stage] != before[stage]}
        before.update(now)
        return found

    assert changed("plots/contact_sheets.py") == {"07_figures"}
    assert changed("diffusion/sampling.py") == {"02_pool"}
    assert changed("classifiers/measures.py") == {"03_difficulty"}
    assert changed("runtime/seeds.py") == {"02_pool", "03_difficulty", "07_figures"}
    assert changed("workflow/scheduler.py") == set()


def test_c_that_a_module_compiles_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(code_fingerprint, "PACKAGE", tmp_path)
    monkeypatch.setattr(code_fingerprint, "stage_modules", lambda stage: [tmp_path / "layers.py"])
    monkeypatch.setattr(code_fingerprint, "_cells", lambda stage: [])
    (tmp_path / "layers.py").touch()
    hashes = []
    for source in ("int one;", "int two;"):
        (tmp_path / "layers.c").write_text(source)
        hashes.append(code_fingerprint.code_hashes("06_evaluate")["package"])
    assert hashes[0] != hashes[1]
