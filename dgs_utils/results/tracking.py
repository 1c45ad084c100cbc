"""Evaluations in an experiment tracker: any that accelerate knows, one run for each training of stage 06.

The list of trackers, and how values reach each of them, is accelerate's; addresses and keys are the tracker's own
environment variables. A run has the columns of its row as configuration, the curve, and best and last as summary.
"""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dgs_utils.params.base import did_you_mean
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import write_json

FOLDER = "trackers"  # of a stage folder: files of trackers that write any, and which trainings are logged
PROJECT = "DGS_PROJECT"  # environment variable: the name of the project
RUN_NAMES = {"mlflow": "run_name", "swanlab": "experiment_name", "trackio": "name", "wandb": "name"}  # keywords
PACKAGE_NAMES = {"comet_ml": "comet-ml"}  # that are called otherwise
MEASURED = ("best", "last", "best_epoch")  # of a row; the other columns are its configuration
_one_at_a_time = threading.Lock()  # several trackers have one run a process


def check_tracker(name: str) -> None:
    """Raise ValueError if accelerate knows no such tracker, or its package is not installed; "" is none."""
    if not name:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # here, because torch takes a while
    from accelerate.utils import LoggerType

    if name not in LOGGER_TYPE_TO_CLASS:
        hint = did_you_mean(name, sorted(LOGGER_TYPE_TO_CLASS))
        raise ValueError(f"evaluate.tracker is {name!r}, which accelerate does not know{hint}; '' logs nothing")
    if name in LoggerType.list() and name not in map(str, get_available_trackers()):
        raise ValueError(f"evaluate.tracker is {name!r}, whose package is not installed; install it with pip install "
                         f"{PACKAGE_NAMES.get(name, name)}, or set the tracker to ''")


def track_evaluation(folder: Path, name: str, notebook: Path | None = None) -> list[str]:
    """Log the trainings of a finished 06 folder that are not logged yet; return the names of their runs.

    Args:
        folder: of stage 06.
        name: accelerate's of the tracker.
        notebook: the executed notebook, an artefact where the tracker has them.
    """
    check_tracker(name)
    record = folder / FOLDER / f"{name}.json"
    rows, curves = read_table(folder / "results.csv"), read_table(folder / "curves.csv")
    with _one_at_a_time:
        logged = json.loads(record.read_text()) if record.exists() else []
        new = rows[~rows["training_seed"].isin(logged)]
        for row in new.to_dict("records"):
            curve = curves[curves["training_seed"] == row["training_seed"]].drop(columns="training_seed")
            _log_run(name, folder, row, curve, notebook)
            logged.append(row["training_seed"])
            write_json(record, logged)
    return [_run_name(folder, row) for row in new.to_dict("records")]


def _run_name(folder: Path, row: Mapping[str, Any]) -> str:
    return f"{folder.name}-seed{row['training_seed']}"


def _log_run(name: str, folder: Path, row: Mapping[str, Any], curve: pd.DataFrame, notebook: Path | None) -> None:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=True)  # which trackers ask whether this process is the one that logs
    kind, run, project = LOGGER_TYPE_TO_CLASS[name], _run_name(folder, row), os.environ.get(PROJECT) or "dgs"
    arguments = [project if name in RUN_NAMES else f"{project}-{run}"]
    arguments += [str(folder / FOLDER)] if kind.requires_logging_directory else []
    tracker = kind(*arguments, **{RUN_NAMES[name]: run} if name in RUN_NAMES else {})
    getattr(tracker, "start", lambda: None)()  # older ones start when they are made
    try:
        tracker.store_init_configuration({key: _plain(value) for key, value in row.items() if key not in MEASURED})
        for point in curve.to_dict("records"):
            step = int(point.pop("epoch"))
            tracker.log({key: float(value) for key, value in point.items()}, step=step)
        tracker.log({key: float(row[key]) for key in MEASURED}, step=int(curve["epoch"].max()))
        if notebook is not None and notebook.is_file():
            if name == "mlflow":
                tracker.log_artifact(str(notebook))
            elif name == "wandb":
                run_id = tracker.tracker.id
                tracker.tracker.log_artifact(str(notebook), name=f"notebook-{run_id}", type="notebook")
    finally:
        tracker.finish()


def _plain(value: Any) -> bool | int | float | str:
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float | str) else str(value)
