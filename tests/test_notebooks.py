"""Notebooks explain: a picture of the road, their equations, a word after each figure; and they hold little code."""

import ast
import json
import re
from pathlib import Path

import pytest
from road import STATIONS, road, write_roads

from dgs_utils.params import STAGES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CODE_LINES = 190  # of all notebooks, without imports and parameters
EQUATIONS = {"01_fine_tune": ("(1)", "(2)", "(3)", "(4)"), "03_difficulty": ("(Eq. 6)", "(Eq. 5)"),
             "04_transform": ("(7)", "(8)", "(9)")}  # as the paper numbers them
FORMULAS = {"00_prepare": (r"\epsilon_\theta(z_t, t, c)", r"\ln\sigma_\theta^2"),
            "02_pool": (r"s\,\big(\epsilon_\theta(z_t, t, c)",), "03_difficulty": ("1 - P_{f_\\theta}",),
            "05_sample": (r"\left\lfloor", r"\min(n_k, m_k)"), "06_evaluate": (r"\max_e a_e",),
            "08_condense": (r"\rVert_2^2", r"\rVert_1")}


def cells(path: Path) -> list[tuple[str, str]]:
    """Return type and source of each cell but that of the parameters."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]
            if "parameters" not in cell["metadata"].get("tags", [])]


def code_lines(source: str) -> int:
    """Return the number of lines that are neither blank nor part of an import."""
    imports = {line for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)
               for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    return sum(bool(text.strip()) and line not in imports for line, text in enumerate(source.splitlines(), 1))


def test_notebooks_hold_little_code():
    sizes = {path.stem: sum(code_lines(source) for kind, source in cells(path) if kind == "code")
             for path in NOTEBOOKS}
    assert sum(sizes.values()) <= MAX_CODE_LINES, sizes


@pytest.mark.parametrize("name", EQUATIONS | FORMULAS)
def test_notebooks_hold_their_formulas(name):
    text = "\n".join(source for kind, source in cells(ROOT / "notebooks" / f"{name}.ipynb") if kind == "markdown")
    formulas = re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, re.DOTALL)
    assert formulas
    for number in EQUATIONS.get(name, ()):
        assert number in text, number
    for formula in FORMULAS.get(name, ()):
        assert any(formula in block or formula in inline for block, inline in formulas), formula
    assert all(both.count("{") == both.count("}") and both.count(r"\left") == both.count(r"\right")
               for both in map("".join, formulas))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "07_figures"])
def test_notebooks_say_what_to_look_at_and_what_a_surprise_means(stage):
    texts = [source for kind, source in cells(ROOT / "notebooks" / f"{stage}.ipynb") if kind == "markdown"]
    assert f"](road/{stage[:2]}.svg)" in texts[0]
    assert any("*Look" in text and "*If*" in text for text in texts)


def test_terms_are_defined_where_they_first_occur():
    text = "\n".join(source for path in NOTEBOOKS for kind, source in cells(path) if kind == "markdown")
    for term in ("scorer", "pool", "original", "images per class", "distilled set", "Students", "label", "index",
                 "condition", "teacher", "difficulty", "top-1", "latents", "bin", "thresholds", "target",
                 "arm", "protocol"):
        before, defined, _ = text.partition(f"*{term}*")
        assert defined, term
        uses = re.sub(r"`[^`]*`|\$[^$]*\$|\([^)]*\)|^#.*$|^\|.*$", "", before, flags=re.MULTILINE)
        assert not re.search(rf"\b{term}s?\b", uses), f"{term} is used before it is defined"


def test_the_pictures_of_the_road_are_what_the_script_draws(tmp_path):
    assert list(STATIONS) == list(STAGES)
    write_roads(tmp_path)
    committed = {file.name: file.read_text() for file in (ROOT / "notebooks" / "road").iterdir()}
    assert committed == {file.name: file.read_text() for file in tmp_path.iterdir()}
    for stage in STAGES:
        assert road(stage).count('fill="#dd8452"') == 1, "one stage is highlighted"
        assert len(road(stage)) < 5000
