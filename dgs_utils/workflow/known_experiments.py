"""The experiment files that results beside them come from: those in ``params``, and those that were run."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from dgs_utils.store.atomic import atomic
from dgs_utils.store.node import Node
from dgs_utils.store.paths import outputs_root, workspace
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

EXPERIMENTS_DIR = ".experiments"  # of the outputs folder: a file for each experiment file that was run


def remember_experiment(file: Path) -> None:
    """Keep in the outputs folder that an experiment file was run, so that its results are known to be wanted.

    Those in ``params`` beside that folder are found without it, also where both are copied.
    """
    if file.parent == outputs_root().parent / "params":
        return
    name = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    with atomic(outputs_root() / EXPERIMENTS_DIR / f"{name}.txt") as partial:
        partial.write_text(str(file), encoding="utf-8")


def experiment_files() -> list[Path]:
    """Return the experiment files that exist: those in ``params``, and those that were run, wherever they are."""
    beside = {folder / "params" for folder in (workspace(), outputs_root().parent)}
    files = {file.resolve() for folder in beside for file in folder.glob("*.y*ml")}
    notes = [Path(note.read_text(encoding="utf-8")) for note in (outputs_root() / EXPERIMENTS_DIR).glob("*.txt")]
    return sorted(files | {file.resolve() for file in notes if file.is_file()})


def wanted_nodes() -> Iterator[Node]:
    """Yield the nodes of all experiment files.

    Raises:
        ValueError: there is no experiment file, or one cannot be read.
    """
    files = experiment_files()
    if not files:
        raise ValueError(f"{workspace() / 'params'} holds no experiment file, so it is unknown which results are "
                         f"wanted; run dgs clean in the folder that holds params")
    for file in files:
        yield from expand(read_experiment(file))
