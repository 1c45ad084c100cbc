"""Keeps the notebooks' parameters cells and the page of parameters equal to the typed models."""

import json
from pathlib import Path

from dgs_utils.params import STAGES
from dgs_utils.params.base import PAGE
from dgs_utils.params.parameter_docs import parameters_cell, parameters_page
from dgs_utils.store.paths import notebook_path, workspace


def outdated_files() -> dict[Path, str]:
    """Return the notebooks, and the page, that differ from the models, with the text that they should have.

    Raises:
        ValueError: a notebook has no cell, or several, with the tag ``parameters``.
    """
    texts = {notebook_path(stage): _with_parameters(notebook_path(stage), parameters_cell(model))
             for stage, model in STAGES.items()}
    page = workspace() / PAGE
    texts[page] = parameters_page()
    return {path: text for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text}


def _with_parameters(path: Path, source: str) -> str:
    """Return a notebook's text with another source of its parameters cell."""
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path} has {len(cells)} cells with the tag parameters; it needs one, as papermill does")
    cells[0]["source"] = source.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
