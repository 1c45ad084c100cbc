"""Cells of the running notebook that failed or were interrupted, so that a stage is not finished without their work."""

import re
from typing import Any

from dgs_utils.params.cells import main_namespace

# A cell that only finishes the stage, whose own errors leave nothing undone.
FINISHING = re.compile(r"(\s*#.*\n)*\s*(\w+ *= *)?\w+\.finish\(\) *;?\s*(#.*)?")
_failed: dict[str, str] = {}  # first lines of cells, by the cells' ids


def watch_cells() -> None:
    """Forget earlier cells, and keep in mind those that fail from now on; do nothing outside of IPython."""
    _failed.clear()
    if shell := main_namespace().get("get_ipython", lambda: None)():
        for event, note in (("pre_run_cell", _begin), ("post_run_cell", _end)):
            if note not in shell.events.callbacks[event]:
                shell.events.register(event, note)


def failed_cell() -> str:
    """Return the first line of a cell that failed and has not been run again since; "" for none."""
    return next(iter(_failed.values()), "")


def _begin(info: Any) -> None:
    """Forget that a cell failed, as it is run again; it may finish the stage itself."""
    _failed.pop(_name(info), None)


def _end(result: Any) -> None:
    source = result.info.raw_cell or ""
    if not result.success and not FINISHING.fullmatch(source):
        _failed[_name(result.info)] = source.strip().split("\n")[0]


def _name(info: Any) -> str:
    """Return a cell's id where the front end sends one, as JupyterLab does, or else its source."""
    return getattr(info, "cell_id", None) or info.raw_cell or ""
