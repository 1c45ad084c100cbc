"""Evaluations in trackers: accelerate's list, and a run for each training with row, curve, summary and notebook."""

import json
import re
from pathlib import Path

import accelerate.tracking as library
import pandas as pd
import pytest

from dgs_utils.results.tracking import check_tracker, track_evaluation
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.plan_checks import check_plan
from dgs_utils.workflow.planner import plan

QUICKSTART = Path(__file__).parents[2] / "params" / "quickstart.yaml"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished evaluation of two trainings, with three tests each."""
    place = tmp_path / "digits-dgs-convnet3-0123456789ab"
    place.mkdir()
    pd.DataFrame([{"method": "dgs", "ipc": 10, "augment": True, "training_seed": seed, "best": 80.0 + seed,
                   "last": 79.5, "best_epoch": 2} for seed in (0, 1)]).to_csv(place / "results.csv", index=False)
    pd.DataFrame([{"epoch": epoch, "learning_rate": 0.01, "loss": 1 / epoch, "top1": 70.0 + epoch, "counts": True,
                   "training_seed": seed} for seed in (0, 1) for epoch in (1, 2, 3)]
                 ).to_csv(place / "curves.csv", index=False)
    (place / "notebook.ipynb").write_text("{}")
    return place


class Recorder(library.GeneralTracker):
    """A tracker of somebody's own, as accelerate takes them."""

    name = "recorder"
    requires_logging_directory = False
    runs: list = []  # noqa: RUF012 - accelerate makes the object

    def __init__(self, run_name, **options):
        super().__init__()
        self.runs.append({"run": run_name, "logged": [], "finished": False, **options})

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.runs[-1]["config"] = values

    def log(self, values, step=None):
        self.runs[-1]["logged"].append((step, values))

    def finish(self):
        self.runs[-1]["finished"] = True


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(library.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    Recorder.runs.clear()
    return Recorder.runs


def test_each_training_is_a_run_with_its_row_its_curve_and_its_outcome(folder, recorder):
    names = track_evaluation(folder, "recorder")
    assert names == [f"{folder.name}-seed0", f"{folder.name}-seed1"]
    assert [run["run"] for run in recorder] == [f"dgs-{name}" for name in names]
    assert all(run["finished"] for run in recorder)
    assert recorder[1]["config"] == {"method": "dgs", "ipc": 10, "augment": True, "training_seed": 1}
    assert [step for step, _ in recorder[1]["logged"]] == [1, 2, 3, 3]
    assert recorder[1]["logged"][0][1] == {"learning_rate": 0.01, "loss": 1.0, "top1": 71.0, "counts": 1.0}
    assert recorder[1]["logged"][-1][1] == {"best": 81.0, "last": 79.5, "best_epoch": 2.0}


def test_a_training_is_logged_once_however_often_the_stage_runs(folder, recorder):
    track_evaluation(folder, "recorder")
    assert track_evaluation(folder, "recorder") == []
    rows = pd.read_csv(folder / "results.csv")
    pd.concat([rows, rows.tail(1).assign(training_seed=2)]).to_csv(folder / "results.csv", index=False)
    curves = pd.read_csv(folder / "curves.csv")
    pd.concat([curves, curves.tail(3).assign(training_seed=2)]).to_csv(folder / "curves.csv", index=False)
    assert track_evaluation(folder, "recorder") == [f"{folder.name}-seed2"]
    assert json.loads((folder / "trackers" / "recorder.json").read_text()) == [0, 1, 2]


def test_unknown_trackers_are_refused_with_the_plan():
    for name in library.LOGGER_TYPE_TO_CLASS:
        if name in map(str, library.get_available_trackers()):
            check_tracker(name)
        else:
            with pytest.raises(ValueError, match=f"'{name}', whose package is not installed; install it with pip ins"):
                check_tracker(name)
    with pytest.raises(ValueError, match="is 'wandd', which accelerate does not know; did you mean 'wandb'"):
        check_plan(plan(read_experiment(QUICKSTART, ["evaluate.tracker=wandd"])))


def test_tensorboard_reads_what_was_logged(folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra test)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = track_evaluation(folder, "tensorboard")
    for seed, name in enumerate(names):
        events = EventAccumulator(str(folder / "trackers" / f"dgs-{name}")).Reload()
        assert [(event.step, event.value) for event in events.Scalars("top1")] == [(1, 71), (2, 72), (3, 73)]
        assert [event.value for event in events.Scalars("best")] == [80 + seed]
        [described] = (folder / "trackers" / f"dgs-{name}").rglob("hparams.yml")
        assert re.search(r"^ipc: 10$", described.read_text(), re.M)


def test_mlflow_has_runs_and_the_notebook(folder, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    track_evaluation(folder, "mlflow", folder / "notebook.ipynb")
    runs = {run.data.tags["mlflow.runName"]: run for run in mlflow.search_runs(search_all_experiments=True,
                                                                              output_format="list")}
    run = runs[f"{folder.name}-seed1"]
    assert run.data.metrics["best"] == 81
    assert (run.data.params["ipc"], run.info.status) == ("10", "FINISHED")
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)] == ["notebook.ipynb"]
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "top1")
    assert [(point.step, point.value) for point in history] == [(1, 71), (2, 72), (3, 73)]
