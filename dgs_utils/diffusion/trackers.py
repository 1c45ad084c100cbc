"""Experiment trackers: TensorBoard and the others that accelerate knows, behind one function."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

PACKAGES = {"comet_ml": "comet-ml"}  # where the package is called differently; TensorBoard comes with an extra

Log = Callable[[dict[str, float], int], None]


def check_tracker(kind: str) -> None:
    """Make sure that a tracker's package is there.

    Raises:
        ValueError: it is not; the sentence has the command that installs it.
    """
    if kind and kind not in map(str, get_available_trackers()):
        command = "pip install 'dgs-utils[trackers]'" if kind == "tensorboard" else f"pip install {_package(kind)}"
        raise ValueError(f"fine_tune.tracker is {kind!r}, whose package is not installed; install it with {command}, "
                         f"or set the tracker to ''")


def _package(kind: str) -> str:
    return PACKAGES.get(kind, kind)


def tracking(kind: str, folder: Path, name: str, settings: dict) -> AbstractContextManager[Log | None]:
    """Open a tracker.

    Args:
        kind: accelerate's name of it, or "" for none.
        folder: where trackers that write files put them.
        name: the project.
        settings: the run's parameters, shown beside its curves.

    Returns:
        A context of a function that logs values by name at a step; of None without a tracker.
    """
    return _open(kind, folder, name, settings) if kind else nullcontext()


@contextmanager
def _open(kind: str, folder: Path, name: str, settings: dict):
    check_tracker(kind)
    accelerator = Accelerator(log_with=kind, project_dir=folder)
    accelerator.init_trackers(name, {key: value if isinstance(value, (bool, int, float, str)) else str(value)
                                     for key, value in settings.items()})
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
