"""A notebook loads what it uses, and nothing else: libraries take seconds, at the start of each of hundreds of runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"accelerate", "diffusers", "ipywidgets", "jinja2", "scipy.stats", "seaborn", "sklearn", "torch", "torchvision"}


def loaded(*notebooks: str) -> set[str]:
    """Return the heavy libraries that the first cells of notebooks load."""
    imports = []
    for notebook in notebooks:
        cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
        imports.append("".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code")))
    program = "\n".join([*imports, "import sys", "print(*sys.modules)"])
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return HEAVY & set(found.stdout.split())


def test_notebooks_that_only_look_at_scores_load_no_heavy_library():
    assert loaded("04_transform", "05_sample") == set()


def test_notebooks_without_a_diffusion_model_do_not_load_its_library():
    found = loaded("03_difficulty", "06_evaluate", "08_condense")
    assert not found & {"accelerate", "diffusers", "scipy.stats", "seaborn", "sklearn"}
    assert {"torch", "torchvision"} <= found


def test_the_notebook_of_figures_loads_no_network():
    assert not loaded("07_figures") & {"accelerate", "diffusers", "ipywidgets", "scipy.stats", "seaborn", "sklearn",
                                       "torch", "torchvision"}


SHEETS = """
import numpy as np, pandas as pd
from dgs_utils import plots
plots.use_style()
plots.contact_sheet({"a": [np.zeros((2, 2), np.uint8)]})
plots.training_curves(pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5]}), "step", ["loss"])
import sys
print(*sys.modules)
"""
DRAWN = """
import numpy as np, pandas as pd
from dgs_utils import plots
plots.use_style()
scores = pd.DataFrame({"class": "a", "set": ["original", "pool"] * 5, "score": np.linspace(0, 1, 10)})
plots.score_histograms(scores)
plots.figure2({"a": {"with transform": dict.fromkeys(("original", "pool", "distilled"), np.linspace(0, 1, 5))}}, 5)
plots.objective_map({"a": np.eye(3)}, {"a": (1, 0)})
plots.in_sample_shift(scores.assign(seen=scores["score"]))
plots.confusion_matrix(pd.DataFrame({"true": ["a", "a"], "predicted": ["a", "b"], "images": [3, 1]}))
plots.table_heatmaps({"target": pd.DataFrame(np.eye(2))})
import sys
print(*sys.modules)
"""


def test_drawing_loads_no_network_and_only_what_seaborn_draws_loads_seaborn():
    plain, drawn = (set(subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
                                       check=True).stdout.split()) for program in (SHEETS, DRAWN))
    assert not {"torch", "diffusers"} & drawn
    assert "seaborn" in drawn - plain


def test_running_notebooks_builds_no_grammar_of_addresses():
    program = ("from dgs_utils.workflow.notebook import load_papermill; load_papermill(); "
               "import sys; print(*sys.modules)")
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"rfc3987_syntax", "lark"} & set(found.stdout.split())
    assert {"papermill", "jsonschema"} <= set(found.stdout.split())


SUMMARISED = """
import sys
from pathlib import Path
from dgs_utils.results.rows import read_results
from dgs_utils.results.summaries import summarise
assert len(summarise(read_results([Path("outputs/evidence/quickstart")])))
print(*sys.modules)
"""


def test_the_table_at_the_end_of_a_run_needs_neither_torch_nor_statistics():
    found = subprocess.run([sys.executable, "-c", SUMMARISED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pandas" in found.stdout.split()
    assert not HEAVY & set(found.stdout.split())


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "5"}])
def test_threads_wait_briefly_unless_the_user_says_otherwise(given):
    """Torch's threads read it when torch is loaded, which the kit leaves to whoever needs it."""
    program = ("import os, sys, dgs_utils; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], "
               "'torch' in sys.modules)")
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
                           env=clean | given)
    assert found.stdout.split() == ([*given.values()] or ["PASSIVE", "3000"]) + ["False"]
