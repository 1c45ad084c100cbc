"""A notebook loads what it uses, and nothing else: libraries take seconds, at the start of each of hundreds of runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"accelerate", "diffusers", "ipywidgets", "scipy.stats", "seaborn._statistics", "sklearn", "torch",
         "torchvision"}


def loaded(notebook: str) -> set[str]:
    """Return the heavy libraries that a notebook's first cell loads."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    imports = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))
    program = f"{imports}\nimport sys\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return HEAVY & set(found.stdout.split())


@pytest.mark.parametrize("notebook", ["04_transform", "05_sample"])
def test_notebooks_that_only_look_at_scores_load_no_heavy_library(notebook):
    assert loaded(notebook) == set()


@pytest.mark.parametrize("notebook", ["03_difficulty", "06_evaluate", "08_condense"])
def test_notebooks_without_a_diffusion_model_do_not_load_its_library(notebook):
    assert not loaded(notebook) & {"accelerate", "diffusers", "seaborn._statistics", "sklearn"}
