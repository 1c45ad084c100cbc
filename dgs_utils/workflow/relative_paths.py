"""Relative paths: in an experiment file they start from its folder, on the command line from the current one.

A path that does not exist there starts from the workspace, as in notebooks (`store.paths.resolve_path`). Paths inside
the workspace or a checkout stay relative to it, so that every copy of it has the same results, from any folder.
"""

import os
from pathlib import Path
from typing import Any

from dgs_utils.params import STAGES
from dgs_utils.store.paths import HUB_DATASETS, REPO_ROOT, resolve_path, workspace

# A name, or a path, or both.
MAYBE_PATH = {"base_model", "classifier", "classifier_weights", "scorers", "features", "class_weights"}


def resolve_file(text: str) -> Path:
    """Return an experiment file that was named in the current folder, as an absolute path."""
    path = Path(os.path.expanduser(text)).absolute()
    return path if path.exists() else resolve_path(text)


def resolve_parameter(stage: str, name: str, value: Any, folder: Path) -> Any:
    """Return a parameter's value, or list of values, with paths resolved that are relative to a folder."""
    if isinstance(value, list):
        return [resolve_parameter(stage, name, item, folder) for item in value]
    paths = {*STAGES[stage].fields_tagged("folder"), *STAGES[stage].fields_tagged("external")}
    if not isinstance(value, str) or not value or name not in paths or value.startswith(HUB_DATASETS):
        return value
    if name in ("scorers", "features") and ":" in value:  # network:weights
        network, _, weights = value.rpartition(":")
        return f"{network}:{resolve_parameter('00_prepare', 'classifier_weights', weights, folder)}"
    if name == "classifier" and "/" not in value:  # the name of a network, even if a folder has it
        return value
    file, at, tag = value.rpartition("@")
    if name == "classifier_weights" and at and not (folder / value).exists():
        return f"{_resolve(file, folder, must_be_path=False)}@{tag}"
    return _resolve(value, folder, must_be_path=name not in MAYBE_PATH)


def _resolve(text: str, folder: Path, must_be_path: bool) -> str:
    """Return a path that was written in a folder so that `resolve_path` finds it; where it cannot be a name
    (``must_be_path``), an error about a missing file names the path in the folder.
    """
    written = Path(os.path.expanduser(text))  # of an unknown user, it stays as it is
    if written.is_absolute() or written.parts[:1] == ("outputs",):
        return text
    path = Path(os.path.normpath(folder / written))
    if not path.exists() and (not must_be_path or resolve_path(text).exists()):
        return text
    for root in (workspace(), REPO_ROOT):
        if path.is_relative_to(root) and path != root:
            return path.relative_to(root).as_posix()
    return str(path)
