"""The whole pipeline on real digit scans, through the same runner and notebooks as the quickstart."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import small_grid
from small_grid import dgs

from dgs_utils.figures.from_folders import figure3_images
from dgs_utils.plots.paper_figures import BOXES
from dgs_utils.results.figure1_texts import figure1_texts
from dgs_utils.store.stage_result import NUMBERS, main_numbers

ROOT = Path(__file__).resolve().parents[2]
CHANCE = 100 / 3  # percent, three classes
FILE = "params/small.yaml"
OTHER = ["run", FILE, "--set", "sample.method=dgs", "--set", "evaluate.network=resnet_ap10", "--set",
         "evaluate.epoch_factor=0.005", "--only", "evaluate"]


def only(outputs: Path, stage: str, part: str = "") -> Path:
    [folder] = [path for path in (outputs / stage).iterdir() if part in path.name and path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Outputs of the quickstart on three digits: two methods, a small model and pool, the paper's network."""
    quickstart, printed = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_quickstart)
    assert "Figures and tables:" in printed
    workspace = shutil.copytree(quickstart, tmp_path_factory.mktemp("quickstart") / "w", symlinks=True)
    other = dgs(workspace, *OTHER)
    assert other.returncode == 0, other.stdout + other.stderr
    return workspace / "outputs"


@pytest.mark.slow  # the real quickstart takes minutes
def test_pool_shows_digits(finished):
    scores = pd.read_csv(only(finished, "03_difficulty", "minimax") / "scores.csv", dtype={"class": str})
    classes = pd.read_csv(only(finished, "00_prepare") / "classes.csv", dtype={"class": str})
    right = scores["prediction"] == scores["class"].map(classes.set_index("class")["index"])
    assert len(scores) == 90
    assert right.mean() >= 0.8  # 87 of 90 on the processor that it was tried on; a third by chance


@pytest.mark.slow  # needs the run above
@pytest.mark.parametrize("network", ["convnet3", "resnet_ap10"])
def test_networks_learn_from_the_guided_set(finished, network):
    results = pd.read_csv(only(finished, "06_evaluate", f"dgs-ipc10-{network}") / "results.csv")
    assert results["method"].tolist() == ["dgs"]
    assert results["last"].min() > 2 * CHANCE
    assert (results["best"] >= results["last"]).all()


@pytest.mark.slow  # needs the run above
def test_batch_runs_draw_static_twins_and_make_no_widget(finished):
    for stage, count in (("03_difficulty", 4), ("04_transform", 4), ("05_sample", 2), ("06_evaluate", 3)):
        for notebook in (finished / stage).glob("*/notebook.ipynb"):
            text = notebook.read_text()
            assert "application/vnd.jupyter.widget" not in text, notebook
            assert text.count('"image/png"') >= count, notebook


@pytest.mark.slow  # needs the run above
def test_distilled_set_follows_its_target(finished):
    folder = only(finished, "05_sample", "dgs")
    report = pd.read_csv(folder / "report.csv")
    metadata = pd.read_csv(folder / "metadata.csv")
    assert report["images"].tolist() == [10] * 3
    assert metadata.groupby("class")["source"].nunique().eq(10).all()  # nothing twice
    for row in report.itertuples():
        target, found, short = ([int(n) for n in text.split()] for text in (row.target, row.found, row.shortage))
        assert all(f >= t - s for t, f, s in zip(target, found, short, strict=True))


@pytest.mark.slow  # needs the run above
def test_figures_and_tables_are_there(finished):
    folder = only(finished, "07_figures")
    for name in ("accuracy", "figure1", "figure2", "figure3", "figure4"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table = (folder / "accuracy.md").read_text()
    for label in ("Minimax", "DGS", "ConvNet-3"):
        assert label in table
    claims = pd.read_csv(folder / "claims.csv").set_index("name")
    assert claims.loc["log_flattens", "own"].startswith("bits ")
    assert claims.loc["best_everywhere", "own_verdict"].startswith("cannot be decided with 1 pool, 1 selection")


@pytest.mark.slow  # needs the run above
def test_figure_1_tells_the_numbers_of_the_run(finished, monkeypatch):
    monkeypatch.setenv("DGS_OUTPUTS", str(finished))
    distilled = only(finished, "05_sample", "dgs")
    results = pd.read_csv(only(finished, "06_evaluate", "dgs-ipc10-convnet3") / "results.csv")
    texts = figure1_texts(distilled, results)
    originals = pd.read_csv(only(finished, "00_prepare") / "originals.csv").query("split == 'train'")
    assert texts["Original data"] == f"{len(originals):,} images\n3 classes"
    assert texts["Image pool"] == "90 images\n3 × IPC"
    assert texts["Distilled set"] == "30 images\nIPC 10"
    scores = pd.read_csv(only(finished, "04_transform") / "transformed.csv").groupby("set")["score"].mean()
    assert f"originals {scores['original']:.2f},\npool {scores['pool']:.2f}" in texts["Difficulty"]
    steps = len(pd.read_csv(only(finished, "01_fine_tune") / "losses.csv"))
    assert texts["Fine-tuning"].startswith(f"DiffFit, {steps:,} steps")
    assert texts["Classification"].startswith(f"ConvNet-3: {results['best'].mean():.1f} %")
    assert set(texts) == set(BOXES) - {"Given images", "Biased draw"}


@pytest.mark.slow  # needs the run above
def test_figure_3_leaves_the_originals_out_where_asked(finished, monkeypatch):
    monkeypatch.setenv("DGS_OUTPUTS", str(finished))
    distilled = only(finished, "05_sample", "dgs")
    both, own = (figure3_images(distilled, (), originals, print) for originals in (True, False))
    assert list(both) == ["0, original", "0, distilled", "1, original", "1, distilled"]
    assert list(own) == ["0, distilled", "1, distilled"]
    assert {path.parents[2] for part in own.values() for path in part["path"]} == {distilled}
    assert not any(path.is_relative_to(distilled) for path in both["0, original"]["path"])


@pytest.mark.slow  # needs the run above
@pytest.mark.parametrize("stage", sorted(NUMBERS.keys() - {"08_condense"}))
def test_stages_show_their_main_numbers(finished, stage):
    """A table with other columns leaves the line out, without a word."""
    folders = [folder for folder in (finished / stage).iterdir() if (folder / "manifest.json").exists()]
    assert folders
    assert all(main_numbers(stage, folder) for folder in folders)


@pytest.mark.slow  # needs the run above
def test_second_run_has_nothing_to_do(finished):
    result = dgs(finished.parent, "run", FILE)
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
    result = dgs(tmp_path, "run", str(ROOT / "params" / "quickstart.yaml"), *changes)
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
