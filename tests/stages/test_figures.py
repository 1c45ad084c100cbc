"""Stage 07: figures and tables of rows of results, and the confusion of a scorer."""

import itertools
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import small_grid
import torch
from result_rows import by_hand, rule_grid
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from small_world import make_world, open_stage

from dgs_utils import figures, sample
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.evaluate import evaluate_set
from dgs_utils.images.classes import display_names, pick_figure_classes
from dgs_utils.methods import METHODS
from dgs_utils.results.rows import read_folders

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("styled")


def digits(places: np.ndarray) -> ImageTensors:
    """Return scans of 0 and 1, 16 pixels wide, by their places."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[labels < 2], labels[labels < 2]
    pixels = np.round(images[places].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    pixels = np.kron(pixels, np.ones((1, 3, 2, 2), np.uint8))
    return ImageTensors(torch.tensor(pixels), torch.tensor(labels[places]))


@pytest.fixture(scope="module")
def trained():
    """Rows of real trainings: three rules on one pool, two IPCs, two lengths of training."""
    labels = load_digits().target
    labels = labels[labels < 2]
    pool, test = np.arange(200), digits(np.arange(200, 300))
    ink = load_digits().data[load_digits().target < 2][pool].sum(1)  # stands for difficulty here
    parts = []
    for ipc, epochs, method in itertools.product((2, 5), (1, 3), ("pool_random", "easiest", "hardest")):
        chosen = [sorted(pool[labels[pool] == c], key=lambda i: ink[i])[:ipc] if method == "easiest" else
                  sorted(pool[labels[pool] == c], key=lambda i: -ink[i])[:ipc] if method == "hardest" else
                  list(pool[labels[pool] == c][:ipc]) for c in (0, 1)]
        parts.append(evaluate_set(digits(np.concatenate(chosen)), test, "convnet3", seeds=(0, 1), method=method,
                                  pool_seed=0, epochs=epochs, batch_size=4, evaluations=1, device="cpu"))
    return pd.concat(parts, ignore_index=True)


def test_real_rows_without_folders_give_figures_and_tables(trained):
    tables, drawn = figures.tables_of(trained), figures.figures_of(trained)
    assert set(drawn) == {"accuracy", "accuracy_by_ipc", "rules", "rules_by_ipc", "rules_by_steps"}
    assert set(tables) == {"comparison", "bytes", "summary", "differences", "rules", "pool_gains", "gains"}
    best = trained.set_index(["method", "ipc", "steps", "training_seed"])["best"].sort_index()
    for row in tables["rules"].itertuples():
        arms = [best[name, row.ipc, row.steps].to_list() for name in (row.method, "pool_random")]
        assert row.difference == pytest.approx(np.mean(arms[0]) - np.mean(arms[1]))
        if np.ptp(np.subtract(*arms)) > 0:
            assert (row.difference, row.low, row.high) == pytest.approx(by_hand(*arms))
    # 2 or 5 images of 2 classes in batches of 4, for 1 or 3 epochs
    assert set(zip(trained["ipc"], trained["steps"], strict=True)) == {(2, 1), (2, 3), (5, 3), (5, 9)}


def test_errors_are_scikit_learn_s_confusion():
    rng = np.random.default_rng(0)
    classes = pd.DataFrame({"class": ["n1", "n2", "n3"], "index": [134, 517, 2], "name": ["crane", "crane", "shark"]})
    outputs = np.array([134, 517, 2, 5])
    true, taken = rng.integers(0, 3, 300), rng.integers(0, 4, 300)
    scores = pd.DataFrame({"class": classes["class"].to_numpy()[true], "prediction": outputs[taken]})
    found = figures.scorer_confusion(scores, classes)
    names = ["crane (n1)", "crane (n2)", "shark", "no. 5"]
    matrix = found.pivot_table("images", "true", "predicted", "sum").reindex(index=names[:3], columns=names)
    assert (matrix.to_numpy() == confusion_matrix(true, taken, labels=range(4))[:3]).all()
    assert list(dict.fromkeys(found["true"])) == names[:3]


def test_other_outputs_have_the_scorer_s_names():
    classes = pd.DataFrame({"class": ["n02086240", "n01440764"], "index": [155, 0], "name": ["Shih-Tzu", "my fish"]})
    scores = pd.DataFrame({"class": ["n02086240", "n01440764"], "prediction": [166, 0]})
    outputs = {166: "Walker hound", 0: "tench"}
    assert figures.scorer_confusion(scores, classes, outputs)["predicted"].tolist() == ["Walker hound", "my fish"]
    assert figures.scorer_confusion(scores, classes)["predicted"].tolist() == ["no. 166", "my fish"]


def test_the_scorer_behind_a_set_is_found_in_its_folders(tmp_path, outputs):
    world = make_world(tmp_path)
    made = {}
    for method, inputs in (("dgs", ("transform",)), ("easiest", ("scores",)), ("pool_random", ())):
        run = open_stage("05_sample", method=method, ipc=5, prepare=str(world["prepare"]), pool=str(world["pool"]),
                         **{name: str(world[name]) for name in inputs})
        source = sample.read_source(run)
        sample.write_set(run, source, sample.select_images(run, source))
        run.finish()
        made[method] = run.folder
    for method, source in (("dgs", "originals"), ("easiest", "originals")):
        found, errors = figures.scorer_errors([made["pool_random"], made[method]])
        scores = pd.read_csv(world[source] / "scores.csv")
        assert found == source
        right = errors.loc[errors["true"] == errors["predicted"], "images"].sum()
        assert right == (scores["prediction"] == scores["class"]).sum()  # classes 0, 1, 2 are outputs 0, 1, 2
        assert errors["images"].sum() == len(scores)
    assert figures.scorer_errors([made["pool_random"]]) is None


def test_notebook_07_draws_what_the_rows_hold_and_tells_what_they_lack(tmp_path):
    rule_grid().drop(columns="test_list").query("ipc == 10").to_csv(tmp_path / "results.csv", index=False)
    small_grid.execute(ROOT / "notebooks" / "07_figures.ipynb", tmp_path / "out.ipynb",
                       results=[str(tmp_path / "results.csv")], output=str(tmp_path / "made"))
    names = {file.name for file in (tmp_path / "made").iterdir()}
    assert {"rules.csv", "rules.png", "rules.pdf", "rules_by_steps.png"} <= names
    assert "rules_by_ipc.png" not in names
    told = [data["text/markdown"] for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells
            for output in cell.get("outputs", []) if "text/markdown" in (data := output.get("data", {}))]
    [missing] = [text for text in told if text.startswith("### Not drawn, because")]
    assert "* Gain over random images against images per class: no rule was run for several IPCs." in missing
    assert "* Where the scorer errs: no set was selected by a scorer's scores." in missing
    assert "Figure 1: the workflow, Figure 2" in missing
    assert "lengths of training" not in missing
    assert not any(text.startswith("### Gain over random images against images per class") for text in told)
    assert not [output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])
                if "text/plain" in output.get("data", {}) and output["data"]["text/plain"].startswith("'")]
    found = (tmp_path / "made" / "findings.md").read_text()
    assert found.startswith("## quickstart: ")
    assert 3 <= found.count("\n* ") <= 6


def test_a_report_without_tables_says_so(tmp_path, outputs):
    rule_grid().to_csv(tmp_path / "results.csv", index=False)
    report = figures.Report(open_stage("07_figures", results=[str(tmp_path / "results.csv")], table_names=[]))
    report.show("tables", "noise")
    report.not_drawn()
    assert {"table_names is empty": ["Tables"]}.items() <= report.missing.items()


def test_rows_do_not_depend_on_the_order_in_which_folders_are_listed(tmp_path):
    folders = []
    for (method, ipc), rows in rule_grid().groupby(["method", "ipc"]):
        folders.append(tmp_path / f"{method}-{ipc}")
        folders[-1].mkdir()
        rows[::-1].to_csv(folders[-1] / "results.csv", index=False)
    one_ipc = [read_folders(order).query("ipc == 10").reset_index(drop=True) for order in (folders, folders[::-1])]
    pd.testing.assert_frame_equal(*one_ipc)
    methods = list(one_ipc[0]["method"].unique())
    assert methods == [name for name in METHODS if name in methods]


def test_figures_show_the_classes_that_were_asked_for_and_tell_what_is_missing():
    table = pd.DataFrame({"class": ["n1", "n2", "n3"], "name": ["crane", "beagle", "crane"]})
    titles, told = display_names(table), []
    assert titles == {"n1": "crane (n1)", "n2": "beagle", "n3": "crane (n3)"}
    assert pick_figure_classes(["n3", "beagle"], titles, told.append) == {"n3": "crane (n3)", "n2": "beagle"}
    assert pick_figure_classes([], titles, told.append) == {"n1": "crane (n1)", "n2": "beagle"}
    assert told == []
    assert list(pick_figure_classes(["n9", "n2"], titles, told.append)) == ["n2"]
    assert list(pick_figure_classes(["n9"], titles, told.append)) == ["n1", "n2"]
    assert [text.rpartition("; ")[2] for text in told] == ["the others are shown", "the first two are shown"]
    assert "figure_classes has n9, which is none of the classes n1, n2, n3" in told[0]
