"""The parameters of a running notebook, and names beside them that are none: Python and papermill accept any name."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from dgs_utils.params.base import did_you_mean, is_near

OPENING = re.compile(r"\bstage\(")  # in the cell that reads the parameters
PLAIN = (str, int, float, list)  # types of parameters
INJECTED = "# Parameters\n"  # papermill's own cell begins so


def main_namespace() -> dict[str, Any]:
    """Return the names of the running notebook or script; IPython keeps a notebook's in ``__main__``, too."""
    return vars(sys.modules["__main__"])


def check_keywords(stage: str, keywords: Iterable[str], namespace: dict[str, Any], fields: Iterable[str]) -> None:
    """Refuse keyword parameters where a parameters cell was run since a stage was opened last, and would be ignored.

    Raises:
        ValueError: there is such a cell.
    """
    cells, known = namespace.get("In"), set(fields)
    for cell in reversed(cells[:-1] if isinstance(cells, list) else []):
        if OPENING.search(cell):
            return
        if cell.startswith(INJECTED) or _assigned(cell, annotated=True)[0] & known:
            raise ValueError(f"{stage} is opened with {', '.join(keywords)}, so that the values of this notebook's "
                             f"parameters cell would be ignored; set them in that cell, and call "
                             f"dgs.stage({stage!r}) alone")


def check_names(stage: str, namespace: dict[str, Any], fields: Iterable[str]) -> list[str]:
    """Refuse unknown names that must be meant as parameters, and list those that may be.

    The first are all others in a cell that only assigns, and assigns a parameter; the second, in other cells of plain
    values, what is spelt almost like one. Cells count since the stage was opened last, if a parameter was given since
    then. Where no cells are kept, as in a script, names with a type are the first, and all others of plain values the
    second.

    Args:
        stage: its name, for the sentence.
        namespace: a notebook's ``globals()``, with IPython's cells in ``In``.
        fields: the parameters.

    Returns:
        A sentence about each name that may be meant as a parameter.

    Raises:
        ValueError: there is a name that must be.
    """
    doubts = []
    known, cells = set(fields), namespace.get("In")
    for names, are_parameters in _given(cells, known) if isinstance(cells, list) else _in_script(namespace):
        for name in sorted(names - known):
            sentence = f"{name} is not a parameter of {stage}{did_you_mean(name, sorted(known))}"
            if name not in namespace or name.startswith("_"):
                continue
            if are_parameters:
                raise ValueError(f"{sentence} (Variables of your own have a cell of their own.)")
            doubts += [sentence] if is_near(name, known) else []
    return doubts


def _given(cells: list[str], known: set[str]) -> Iterator[tuple[set[str], bool]]:
    """Yield the names that cells assign, and whether all are meant as parameters; the last cell first."""
    has_parameters = False
    for cell in reversed(cells):
        if OPENING.search(cell) and has_parameters:
            return
        names, plain = _assigned(cell)
        are_parameters = bool(names & known) or cell.startswith(INJECTED)
        has_parameters |= are_parameters
        if plain or are_parameters:
            yield names, are_parameters


def _in_script(namespace: dict[str, Any]) -> list[tuple[set[str], bool]]:
    """Return the names of a script like `_given`: those with a type, and the others of plain values."""
    typed = set(namespace.get("__annotations__", ()))
    return [(typed, True), ({name for name, value in namespace.items() if isinstance(value, PLAIN)} - typed, False)]


def _assigned(cell: str, annotated: bool = False) -> tuple[set[str], bool]:
    """Return the names that a cell assigns, if it does nothing else, and whether all values are plain ones.

    Args:
        cell: its source.
        annotated: whether only names with a type count, as in a generated parameters cell.
    """
    try:
        body = [node for node in ast.parse(cell).body
                if not isinstance(node, ast.Import | ast.ImportFrom) and not OPENING.search(ast.unparse(node))]
    except SyntaxError:
        return set(), False
    if not all(isinstance(node, ast.Assign | ast.AnnAssign) for node in body):
        return set(), False
    plain = not any(isinstance(part, ast.Call) for node in body for part in ast.walk(node))
    targets = [getattr(node, "targets", None) or [getattr(node, "target", node)] for node in body
               if isinstance(node, ast.AnnAssign) or not annotated]
    return {part.id for several in targets for target in several for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}, plain
