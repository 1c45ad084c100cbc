"""The whole road on real digit scans, through the same runner and notebooks as the quickstart."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from waits import HANG

from dgs_utils import figures

ROOT = Path(__file__).resolve().parents[1]
CHANCE = 100 / 3  # percent, three classes
SHORTER = ["prepare.classes=['0', '1', '2']", "prepare.classifier_epochs=6", "prepare.train_batch=32",
           "prepare.train_steps=800", "prepare.hidden_size=64", "prepare.depth=1", "fine_tune.epochs=1",
           "pool.images_per_class=30", "pool.steps=25", "sample.method=[minimax, dgs]", "sample.pool_factor=3",
           "evaluate.repeats=1"]
RUN = ["run", "params/quickstart.yaml", *(word for change in SHORTER for word in ("--set", change))]
OTHER = [*RUN, "--set", "sample.method=dgs", "--set", "evaluate.network=resnet_ap10", "--set",
         "evaluate.epoch_factor=0.005", "--only", "evaluate"]


def dgs(outputs: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dgs_utils.cli", *arguments], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {"DGS_OUTPUTS": str(outputs)}, timeout=2 * HANG)


def only(outputs: Path, stage: str, part: str = "") -> Path:
    [folder] = [path for path in (outputs / stage).iterdir() if part in path.name and path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """Outputs of the quickstart on three digits: two methods, a small model and pool, the paper's network."""
    outputs = tmp_path_factory.mktemp("road")
    result = dgs(outputs, *RUN)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Figures and tables:" in result.stdout
    other = dgs(outputs, *OTHER)
    assert other.returncode == 0, other.stdout + other.stderr
    return outputs


@pytest.mark.slow  # the real quickstart takes minutes
def test_pool_shows_digits(road):
    scores = pd.read_csv(only(road, "03_difficulty", "minimax") / "scores.csv", dtype={"class": str})
    classes = pd.read_csv(only(road, "00_prepare") / "classes.csv", dtype={"class": str}).set_index("class")["index"]
    right = scores["prediction"] == scores["class"].map(classes)
    assert len(scores) == 90
    assert right.mean() >= 0.8  # 87 of 90 on the processor that it was tried on; a third by chance


@pytest.mark.slow  # needs the road above
@pytest.mark.parametrize("network", ["convnet3", "resnet_ap10"])
def test_networks_learn_from_the_guided_set(road, network):
    results = pd.read_csv(only(road, "06_evaluate", f"dgs-ipc10-{network}") / "results.csv")
    assert results["method"].tolist() == ["dgs"]
    assert results["last"].min() > 2 * CHANCE
    assert (results["best"] >= results["last"]).all()


@pytest.mark.slow  # needs the road above
def test_distilled_set_follows_its_target(road):
    folder = only(road, "05_sample", "dgs")
    report = pd.read_csv(folder / "report.csv")
    metadata = pd.read_csv(folder / "metadata.csv")
    assert report["images"].tolist() == [10] * 3
    assert metadata.groupby("class")["source"].nunique().eq(10).all()  # nothing twice
    for row in report.itertuples():
        target, found, short = ([int(n) for n in text.split()] for text in (row.target, row.found, row.shortage))
        assert all(f >= t - s for t, f, s in zip(target, found, short, strict=True))


@pytest.mark.slow  # needs the road above
def test_figures_and_tables_are_there(road):
    folder = only(road, "07_figures")
    for name in ("accuracy", "figure2", "figure3", "figure4"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table = (folder / "comparison.md").read_text()
    for label in ("Minimax", "DGS", "ConvNet-3"):
        assert label in table


@pytest.mark.slow  # needs the road above
def test_figure_3_leaves_the_originals_out_where_asked(road, monkeypatch):
    monkeypatch.setenv("DGS_OUTPUTS", str(road))
    distilled = only(road, "05_sample", "dgs")
    both, own = figures.images_of(distilled), figures.images_of(distilled, originals=False)
    assert list(both) == ["0, original", "0, distilled", "1, original", "1, distilled"]
    assert list(own) == ["0, distilled", "1, distilled"]
    assert {path.parents[2] for paths, *_ in own.values() for path in paths} == {distilled}
    assert not any(path.is_relative_to(distilled) for path in both["0, original"][0])


@pytest.mark.slow  # needs the road above
def test_second_run_has_nothing_to_do(road):
    result = dgs(road, *RUN)
    assert result.returncode == 0
    assert "othing was left to do" in result.stdout


@pytest.mark.slow  # starts kernels
@pytest.mark.parametrize(("arguments", "names"), [
    (["evaluate.repeat=1"], ["evaluate.repeat", "repeats"]),
    (["sample.ipc=30"], ["images_per_class", "30"]),
    (["sample.ipc=ten"], ["sample.ipc", "ten"]),
    (["prepare.dataset=folder", "prepare.root=nowhere"], ["nowhere"]),
])
def test_bad_input_stops_before_any_notebook(tmp_path, arguments, names):
    changes = [part for argument in arguments for part in ("--set", argument)]
    result = dgs(tmp_path, "run", "params/quickstart.yaml", *changes)
    assert result.returncode != 0
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(name in result.stderr for name in names)
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.slow  # starts a kernel
def test_plain_papermill_refuses_unfinished_input(tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/05_sample.ipynb", str(tmp_path / "out.ipynb"), "-k",
               "python3", "-p", "ipc", "5"]
    unfinished = subprocess.run(command, cwd=ROOT, text=True, capture_output=True,
                                env=os.environ | {"DGS_OUTPUTS": str(tmp_path)})
    assert unfinished.returncode != 0
    assert "does not exist; run the stage that writes it first" in unfinished.stderr
