"""Workspaces with a small grid: of notebooks that do next to nothing, so that running is quick, or of the real ones."""

import ast
import atexit
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from waits import HANG

from dgs_utils.cli import main
from dgs_utils.params import STAGES
from dgs_utils.store import status as state
from dgs_utils.workflow import kernel
from dgs_utils.workflow.forkserver import ForkServer, imports_of_notebook
from dgs_utils.workflow.notebook import load_papermill

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import time

for step in run.progress(range(3), label="steps"):
    with files.atomic(run.folder / f"part{step}.txt") as partial:
        partial.write_text(f"{run.key} {[source['content'] for source in run.sources]} {step}")
    time.sleep(float("SECONDS"))
"""
RESULTS = """
import pandas as pd
from dgs_utils.results.rows import CELL_KEYS
method = manifests.read_manifest(run.inputs["distilled"])["identity"]["method"]
row = dict.fromkeys([*CELL_KEYS, "label", "pool_seed", "selection_seed"], "")
row |= {"distilled": run.inputs["distilled"].name, "method": method, "ipc": 10, "n_test": 500, "pool_factor": 5,
        "dataset": "digits", "split": "holdout"}
params = run.params.model_dump()
row |= {name: params[name] for name in row if name in params}
rows = [row | {"training_seed": seed, "best": 50 + 2 * seed, "last": 49 + seed} for seed in range(run.params.repeats)]
files.write_csv(run.folder / "results.csv", pd.DataFrame(rows))
"""
EXPERIMENT = """
name: small
evaluate: {}
figures: {}
grid:
  sample.method: [random, dgs]
"""
REAL = """
name: small
prepare: {classes: ["0", "1", "2"], train_steps: 60, classifier_epochs: 1, classifier_size: 8, hidden_size: 32,
          depth: 2, num_heads: 2}
fine_tune: {steps: 40}
pool: {images_per_class: 8, batch_size: 2, steps: 5}
sample: {ipc: 2, pool_factor: 4}
evaluate: {image_size: 8, epochs: 4, evaluations: 1, repeats: 2}
grid:
  sample.method: [herding, dgs]
"""


QUICKSTART = f"""
base: {ROOT}/params/quickstart.yaml
prepare: {{classes: ["0", "1", "2"], classifier_epochs: 6, train_batch: 32, train_steps: 500, hidden_size: 64,
          depth: 1}}
fine_tune: {{epochs: 1}}
pool: {{images_per_class: 30, steps: 25}}
sample: {{pool_factor: 3}}
evaluate: {{repeats: 1}}
grid: {{sample.method: [minimax, dgs]}}
"""


class _WithoutFigures(ast.NodeTransformer):
    """Leaves out statements that only draw."""

    def visit_Expr(self, node: ast.Expr | ast.Assign) -> ast.AST:
        called = node.value.func if isinstance(node.value, ast.Call) else node
        draws = ast.unparse(called).startswith("plots.") and ast.unparse(called) != "plots.use_style"
        return ast.parse("pass").body[0] if draws else node

    visit_Assign = visit_Expr


def build_real(folder: Path) -> Path:
    """Make a workspace with the real notebooks and a grid of ten nodes that is as small as they allow.

    Figures, which have tests of their own and take longer than all else here, are not drawn.
    """
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for path in (folder / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("report.")]
        for cell in notebook.cells:
            if cell.cell_type == "code" and "plots." in cell.source:
                cell.source = ast.unparse(_WithoutFigures().visit(ast.parse(cell.source)))
        nbformat.write(notebook, path)
    (folder / "params").mkdir()
    (folder / "params" / "small.yaml").write_text(REAL)
    return folder


def build_quickstart(folder: Path) -> Path:
    """Make a workspace with the notebooks as they are and the quickstart on three digits, with a small model."""
    (folder / "params").mkdir(parents=True)
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    (folder / "params" / "small.yaml").write_text(QUICKSTART)
    return folder


def build(folder: Path, seconds: float = 0.0) -> Path:
    """Make a workspace; its notebooks open and finish their stages as the real ones do."""
    (folder / "params").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "params" / "small.yaml").write_text(EXPERIMENT)
    for stage, model in STAGES.items():
        fields = model.model_fields.items()
        cells = [nbformat.v4.new_code_cell("\n".join(f"{name} = {field.default!r}" for name, field in fields)),
                 nbformat.v4.new_code_cell("from dgs_utils.store import atomic as files, manifest as manifests\n"
                                           "import dgs_utils as dgs\n"
                                           f"run = dgs.stage({stage!r})"),
                 nbformat.v4.new_code_cell(WORK.replace("SECONDS", str(seconds))),
                 nbformat.v4.new_code_cell(RESULTS if stage == "06_evaluate" else "print('looked at')"),
                 nbformat.v4.new_code_cell("run.finish();")]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / "notebooks" / f"{stage}.ipynb")
    return folder


@cache
def finished(base: Path, make: Callable[[Path], Path] = build) -> tuple[Path, str]:
    """Make a workspace below ``base`` and run its grid, once a test session, for all of pytest's processes.

    Args:
        base: pytest's temporary folder, of this process.
        make: `build`, `build_real` or `build_quickstart`.

    Returns:
        The workspace, which no test may change, and what the runner printed.
    """
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    workspace, printed = shared / f"finished {make.__name__}", shared / f"{make.__name__}.txt"
    with FileLock(printed.with_suffix(".lock")):
        if not printed.exists():
            shutil.rmtree(workspace, ignore_errors=True)
            result = dgs(make(workspace), "run", "params/small.yaml")
            assert result.returncode == 0, result.stderr + result.stdout
            printed.write_text(result.stdout)
    return workspace, printed.read_text()


def replace_cell(workspace: Path, stage: str, place: int, source: str) -> None:
    """Change one cell of a stage's notebook."""
    path = workspace / "notebooks" / f"{stage}.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[place].source = source
    nbformat.write(notebook, path)


def command(*arguments: str) -> list[str]:
    """Return the command line of ``dgs`` with this interpreter."""
    return [sys.executable, "-m", "dgs_utils.cli", *arguments]


def environment(workspace: Path) -> dict[str, str]:
    """Return the environment in which ``dgs`` writes below a workspace, whatever the test run's own is."""
    return os.environ | {"DGS_OUTPUTS": str(workspace / "outputs"), "OMP_NUM_THREADS": "1"}


class SharedServer:
    """Stands for each run's fork server: one that all runs in this process share, as loading takes longer than work."""

    def __init__(self, *_: object):
        self.fork = _server().fork

    def close(self) -> None:
        """Leave it running for the next run."""


@cache
def _server() -> ForkServer:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = ForkServer(folder, {"OMP_NUM_THREADS": "1"})
    atexit.register(server.close)
    return server


def dgs(workspace: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run ``dgs`` in a workspace and return what it did.

    It runs in this process, and with libraries that are loaded once, as loading takes longer than most of what is
    asked; with options, which are those of `subprocess.run`, it runs in a process of its own.
    """
    if options:
        return subprocess.run(command(*arguments), cwd=workspace, env=environment(workspace), capture_output=True,
                              text=True, timeout=HANG, **options)
    state._current_code.cache_clear()  # a process looks once; between two commands tests change the code
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment(workspace).items():
            patch.setenv(name, value)
        patch.setattr(kernel, "ForkServer", SharedServer)
        patch.chdir(workspace)
        patch.setattr(tempfile, "tempdir", None)  # found anew, as the environment may have changed
        try:
            status = main(list(arguments))
        except SystemExit as end:
            status = end.code
    said = [stream.buffer.getvalue().decode() for stream in (out, err) if not stream.flush()]
    return subprocess.CompletedProcess(arguments, status, *said)


def execute(notebook: Path, executed: Path, /, **values) -> None:
    """Execute a notebook with some parameters, by papermill, in a fork of the process that all tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "ForkServer", SharedServer)
        with kernel.KernelPool() as kernels:
            load_papermill().execute_notebook(notebook, executed, values, kernel_name="python3", progress_bar=False,
                                              kernel_manager_class=kernels.manager_class(imports_of_notebook(notebook)))


def start(workspace: Path, *arguments: str) -> subprocess.Popen:
    """Start ``dgs`` in a workspace and return its process."""
    return subprocess.Popen(command(*arguments), cwd=workspace, env=environment(workspace), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def manifests(workspace: Path) -> dict[str, dict]:
    """Return all manifests below a workspace's outputs, by folder."""
    found = sorted((workspace / "outputs").glob("*/*/manifest.json"))
    return {path.parent.relative_to(workspace / "outputs").as_posix(): json.loads(path.read_text()) for path in found}


def contents(workspace: Path) -> dict[str, dict]:
    """Return what all finished stages wrote: checksums by folder."""
    return {folder: manifest["files"] for folder, manifest in manifests(workspace).items()}
