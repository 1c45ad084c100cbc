"""The code fingerprint of a stage: hashes of its notebook and of the modules that decide its result.

These are the modules that the notebook imports, those that they import, and so on, also inside functions. Bookkeeping
and plotting modules are excluded, so that another colour in a plot makes no pool stale; for notebook 07 plots are the
result.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from dgs_utils.store.paths import notebook_path

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
EXCLUDED_PACKAGES = {"params", "store", "workflow", "publish", "cli"}
PLOTTING_STAGES = {"07_figures"}
IMPORT = re.compile(rf"(?:^|;)[ \t]*(?:from|import)[ \t]+({NAME}\b(?:\([^)]*\)|\\\n|[^\n;])*)", re.MULTILINE)
LAZY_KEYWORD = "submod_attrs"  # what `lazy_loader.attach` calls the modules that it loads
LAZY_MODULE = re.compile(r'"([\w.]+)": \[')


def code_hashes(stage: str) -> dict[str, str]:
    """Return short hashes of a stage's notebook (its sources, not its outputs) and of the modules that are its own."""
    package = hashlib.sha256()
    for module in stage_modules(stage):
        package.update(f"{module.relative_to(PACKAGE).as_posix()}\n".encode() + module.read_bytes())
        if (beside := module.with_suffix(".c")).exists():  # which it compiles
            package.update(beside.read_bytes())
    notebook = hashlib.sha256(json.dumps([source for _, source in _cells(stage)]).encode())
    return {"package": package.hexdigest()[:12], "notebook": notebook.hexdigest()[:12]}


def stage_modules(stage: str) -> list[Path]:
    """Return the files of the modules that are a stage's own, sorted."""
    excluded = EXCLUDED_PACKAGES if stage in PLOTTING_STAGES else EXCLUDED_PACKAGES | {"plots"}
    own = _file(f"{NAME}.{stage.split('_', 1)[1]}")  # a module or a package
    left, modules = [own] if own else [], set[Path]()
    for kind, source in _cells(stage):
        left += _modules_in(source) if kind == "code" else ()
    while left:
        module = left.pop()
        if module not in modules and module.relative_to(PACKAGE).parts[0].removesuffix(".py") not in excluded:
            modules.add(module)
            left += _modules_in(module.read_text(encoding="utf-8"), module.parent)
    return sorted(modules)


def _cells(stage: str) -> list[tuple[str, str]]:
    """Return type and source of each cell of a stage's notebook; [] where there is no notebook."""
    path = notebook_path(stage)
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"] if path.exists() else []
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def _modules_in(source: str, folder: Path = PACKAGE) -> list[Path]:
    """Return the files of this package that a piece of code imports, or loads lazily as the package in a folder."""
    names = []
    for statement in IMPORT.findall(source):
        module, *imported = re.findall(r"[\w.]+", statement)
        names += [module, *imported, *(f"{module}.{name}" for name in imported)]
    if LAZY_KEYWORD in source:
        inside = ".".join((NAME, *folder.relative_to(PACKAGE).parts))
        names += [f"{inside}.{name}" for name in LAZY_MODULE.findall(source)]
    return [file for name in names if name.startswith(NAME) and (file := _file(name))]


def _file(module: str) -> Path | None:
    """Return the file of a dotted name, or None where it names something inside a module, or the package itself."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    if path == PACKAGE:
        return None
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file if file.exists() else None
