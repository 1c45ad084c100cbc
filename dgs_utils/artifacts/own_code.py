"""A stage's own code: its notebook, and the modules of this package that decide what comes out of it.

These are the modules that the notebook imports, those that they import, and so on, also inside functions. What keeps
the books (parameters stand in the manifest, `artifacts` decides where results lie) and what only draws is left out, so
that another colour in a plot makes no pool look old; for notebook 07 drawings are the result.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from dgs_utils.artifacts.places import notebook_of

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
BOOKS = {"params", "artifacts", "batch", "cli"}
DRAWS = {"07_figures"}
ATTACHED = "submod_attrs"  # what `lazy_loader.attach` calls the modules that it loads


def code_hashes(stage: str) -> dict[str, str]:
    """Return short hashes of a stage's notebook (its sources, not its outputs) and of the modules that are its own."""
    path = notebook_of(stage)
    cells = [cell for cell in json.loads(path.read_text())["cells"]] if path.exists() else []
    sources = [text if isinstance(text, str) else "".join(text) for text in (cell["source"] for cell in cells)]
    package = hashlib.sha256()
    for module in own_modules(stage):
        package.update(f"{module.relative_to(PACKAGE).as_posix()}\n".encode() + module.read_bytes())
    notebook = hashlib.sha256(json.dumps(sources).encode())
    return {"package": package.hexdigest()[:12], "notebook": notebook.hexdigest()[:12]}


def own_modules(stage: str) -> list[Path]:
    """Return the files of the modules that are a stage's own, sorted."""
    apart = BOOKS if stage in DRAWS else BOOKS | {"plots"}
    left, found = [*_imported_by_notebook(stage), PACKAGE / f"{stage.split('_', 1)[1]}.py"], set()
    while left:
        module = left.pop()
        room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module not in found and room not in apart and module.is_file():
            found.add(module)
            left += _imports(module, module.stat().st_mtime_ns)
    return sorted(found)


def read_loaded() -> None:
    """Parse the package's modules that this process has loaded, so that its copies need not."""
    for name, module in list(sys.modules.items()):
        package, *rooms = name.split(".")
        if package == NAME and rooms and rooms[0] not in BOOKS:
            path = Path(str(module.__file__))
            _imports(path, path.stat().st_mtime_ns)


def _imported_by_notebook(stage: str) -> list[Path]:
    path = notebook_of(stage)
    if not path.exists():
        return []
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    found = []
    for cell in cells:
        try:
            found += _modules_in(ast.parse("".join(cell["source"])))
        except SyntaxError:  # a magic, or a cell that is being written
            continue
    return found


@lru_cache(maxsize=1000)
def _imports(module: Path, modified: int) -> tuple[Path, ...]:
    source = module.read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()
    return (*_modules_in(tree), *(_attached(tree, module.parent) if ATTACHED.encode() in source else ()))


def _attached(tree: ast.AST, room: Path) -> list[Path]:
    """Return the files that a room loads on first need, through `lazy_loader.attach`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    tables = [ast.literal_eval(word.value) for call in calls for word in call.keywords if word.arg == ATTACHED]
    return [room / f"{name.replace('.', '/')}.py" for table in tables for name in table]


def _modules_in(tree: ast.AST) -> list[Path]:
    """Return the files of this package that a piece of code imports."""
    found = []
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0 and node.module.split(".")[0] == NAME:
            found += [_file(node.module), *(_file(f"{node.module}.{alias.name}") for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [_file(alias.name) for alias in node.names if alias.name.split(".")[0] == NAME]
    return [file for file in found if file]


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements of a piece of code, those within others too; most of a tree is expressions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.expr):
            yield node
            yield from _statements(node)


def _file(module: str) -> Path | None:
    """Return the file of a dotted name, or None where it names something inside a module, or the package itself."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    if path == PACKAGE:
        return None
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file if file.exists() else None
