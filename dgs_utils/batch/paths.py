"""Relative paths: in an experiment file they start from its folder, on the command line from the current one.

What is not there is looked for in the workspace, where notebooks' own relative paths start (`artifacts.places.locate`).
Paths inside the workspace or a checkout stay relative to it, so that results are the same ones in every copy of it and
wherever the command was typed.
"""

import json
import os
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.places import CHECKOUT, locate, workspace
from dgs_utils.params import STAGES

FILES = {"root", "class_index", "autoencoder_path"}  # parameters that are files or folders of the user's
PERHAPS = {"base_model", "classifier", "classifier_weights", "classifiers", "features"}  # or a name; or "name:file"


def given_file(text: str) -> str:
    """Return an experiment file that was named in the current folder, as an absolute path."""
    here = Path(text).expanduser().absolute()
    return str(here if here.exists() else locate(text))


def placed_change(change: str, parse: Any) -> str:
    """Return one "stage.name=value" of the command line with its paths placed; anything wrong in it stays.

    Args:
        change: the text.
        parse: reads a YAML value.
    """
    axis, equals, text = change.partition("=")
    section, _, name = axis.partition(".")
    if not equals or name not in FILES | PERHAPS | _folders(section):
        return change
    try:
        value = parse(text)
    except Exception:  # told where the change is carried out
        return change
    found = _placed(section, name, value, Path.cwd())
    return change if found == value else f"{axis}={json.dumps(found)}"


def placed_content(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content of an experiment file with the paths in its sections and grids placed."""
    def grid(axes: Any) -> Any:
        if not isinstance(axes, dict):
            return axes
        return {axis: _placed(*str(axis).partition(".")[::2], values, folder) for axis, values in axes.items()}

    found = {}
    for section, values in content.items():
        if section == "grid":
            found[section] = [grid(axes) for axes in values] if isinstance(values, list) else grid(values)
        elif isinstance(values, dict):
            found[section] = {name: _placed(section, str(name), value, folder) for name, value in values.items()}
        else:
            found[section] = values
    return found


def _folders(section: str) -> set[str]:
    """Return the parameters of a section that name stages' folders."""
    return {name for stage, model in STAGES.items() if stage[3:] == section for name in model.marked("folder")}


def _placed(section: str, name: str, value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_placed(section, name, item, folder) for item in value]
    if not isinstance(value, str) or not value or name not in FILES | PERHAPS | _folders(section):
        return value
    if name == "classifier" and "/" not in value:  # a network's name, also where something is called so
        return value
    head, colon, tail = value.partition(":")
    if name in ("classifiers", "features") and colon:
        return f"{head}:{_path(tail, folder, sure=False)}"
    return _path(value, folder, sure=name not in PERHAPS)


def _path(text: str, folder: Path, sure: bool) -> str:
    """Return a path that was written in a folder so that `locate` finds it.

    Args:
        text: the path.
        folder: where it was written.
        sure: it can be nothing else than a path, so that one that is nowhere is told as it was meant.
    """
    written = Path(text).expanduser()
    if written.is_absolute() or written.parts[:1] == ("outputs",):
        return text
    here = Path(os.path.normpath(folder / written))
    if not here.exists() and (not sure or locate(text).exists()):
        return text
    for root in (workspace(), CHECKOUT):
        if here.is_relative_to(root) and here != root:
            return here.relative_to(root).as_posix()
    return str(here)
