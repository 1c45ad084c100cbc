"""Score × rule against random images: differences by hand, what the figures show of them, and where a judge errs."""

import itertools
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import small_grid
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from small_world import make_world, open_stage
from test_tables import rows

from dgs_utils import figures, plots, sample
from dgs_utils.classifiers.training import ImageTensors
from dgs_utils.evaluate import evaluate_set
from dgs_utils.results.rules import over_ipc, over_steps, rules_over_random

ROOT = Path(__file__).resolve().parents[1]
POOL = {"pool": "p1"}
REAL = {"pool_factor": 0, "distribution": "", "pool_seed": ""}


pytestmark = pytest.mark.usefixtures("styled")


def arm(method: str, accuracies: list, **cell) -> list[dict]:
    return [{"method": method, "variant": method, "selection_seed": 0, **cell, "training_seed": seed, "best": best}
            for seed, best in enumerate(accuracies)]


def by_hand(accuracies: list, control: list) -> tuple[float, float, float]:
    """Return difference and interval of paired trainings of one pool and selection."""
    gaps = np.subtract(accuracies, control)
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


RANDOM, EASY, MARGIN, HARD = [50, 52, 51], [53, 54, 55], [49, 53, 52], [50, 58, 45]


def test_differences_are_those_of_paired_trainings_to_random_of_the_same_source():
    results = rows(*arm("pool_random", RANDOM, measure="", **POOL), *arm("easiest", EASY, **POOL),
                   *arm("easiest", MARGIN, measure="margin", **POOL), *arm("hardest", HARD, **POOL),
                   *arm("moderate", HARD, **POOL), *arm("pool_random", MARGIN, cut="0.3", **POOL),
                   *arm("easiest", EASY, pool="p2", variant="b"),  # no random images of that pool were run
                   *arm("random", HARD, measure="", **REAL), *arm("real_easiest", EASY, **REAL),
                   *arm("dit", EASY), *arm("full", EASY, **REAL))
    found = rules_over_random(figures.completed(results))
    expected = {("pool", "Random of pool (cut 0.3)", "1 − p(class)"): by_hand(MARGIN, RANDOM),  # of what the cut left
                ("pool", "Easiest", "1 − p(class)"): by_hand(EASY, RANDOM),
                ("pool", "Easiest", "margin"): by_hand(MARGIN, RANDOM),
                ("pool", "Hardest", "1 − p(class)"): by_hand(HARD, RANDOM),
                ("pool", "Moderate", ""): by_hand(HARD, RANDOM),
                ("originals", "Easiest, real", "1 − p(class)"): by_hand(EASY, HARD)}
    keys = list(zip(found["source"], found["rule"], found["score"], strict=True))
    assert sorted(keys) == sorted(expected)
    assert [source for source, _ in itertools.groupby(keys, lambda key: key[0])] == ["pool", "originals"]
    for key, values in zip(keys, found[["difference", "low", "high"]].to_numpy(), strict=True):
        assert tuple(values) == pytest.approx(expected[key])


def grid() -> pd.DataFrame:
    """Two scores, two rules, two IPCs and two lengths of training, all in one pool; Moderate for one IPC alone."""
    parts = []
    for ipc, (factor, steps) in itertools.product((10, 20), ((0.1, 400), (1.0, 4000))):
        place = {"ipc": ipc, "epoch_factor": factor, "steps": steps, **POOL}
        turn = 1 if steps == 400 else -1
        parts += arm("pool_random", RANDOM, measure="", **place)
        for score, more in (("difficulty", 0), ("margin", 1)):
            parts += arm("easiest", np.add(RANDOM, [3 * turn + more, 3 * turn, 3 * turn]), measure=score, **place)
            parts += arm("hardest", np.add(RANDOM, [-3 * turn, -3 * turn, 1 + more - 3 * turn]),
                         measure=score, **place)
        parts += arm("moderate", HARD, **place) if ipc == 10 else []
    return rows(*parts)


def test_the_grid_has_a_line_a_rule_a_colour_a_score_and_ipcs_side_by_side():
    found = rules_over_random(figures.completed(grid()))
    figure = plots.rule_grid(found)
    lines = [figure.axes[:2], figure.axes[2:]]
    assert [[axis.get_title() for axis in line] for line in lines] == [["IPC 10", "IPC 20"]] * 2
    assert [line[0].get_title("left").strip() for line in lines] == [
        f"ResNetAP-10, epoch factor {factor}\nminus random of the pool" for factor in ("0.1", "1")]
    for line, factor in zip(lines, (0.1, 1.0), strict=True):
        assert [text.get_text() for text in line[0].get_yticklabels()] == ["Easiest", "Hardest", "Moderate"]
        for axis, ipc in zip(line, (10, 20), strict=True):
            part = found[(found["ipc"] == ipc) & (found["epoch_factor"] == factor)]
            points = [shape for shape in axis.lines if shape.get_marker() == "o"]
            assert sorted(shape.get_xdata()[0] for shape in points) == pytest.approx(sorted(part["difference"]))
            spans = [tuple(shape.get_xdata()) for shape in axis.lines if len(shape.get_xdata()) == 2]
            assert {(row.low, row.high) for row in part.dropna(subset="low").itertuples()} <= set(spans)
            decided = [shape.get_xdata()[0] for shape in points if shape.get_markerfacecolor() != "white"]
            assert sorted(decided) == pytest.approx(sorted(part.loc[part["low"] * part["high"] > 0, "difference"]))
            assert len({shape.get_ydata()[0] for shape in points}) == len(points)  # none hides another
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["1 − p(class)", "margin", "no score"]


@pytest.mark.parametrize("x", ["ipc", "steps"])
def test_curves_go_through_the_differences(x):
    found = {"ipc": over_ipc, "steps": over_steps}[x](rules_over_random(figures.completed(grid())))
    figure = plots.rule_curves(found, x)
    told = "epoch factor {:g}" if x == "ipc" else "IPC {}"
    panels = (0.1, 1.0) if x == "ipc" else (10, 20)
    for axis, panel in zip(figure.axes, panels, strict=True):
        assert axis.get_title() == f"ResNetAP-10, {told.format(panel)}\nminus random of the pool"
        part = found[found["epoch_factor" if x == "ipc" else "ipc"] == panel].sort_values(x)
        curves = sorted(tuple(line.get_ydata()) for line in axis.lines if line.get_marker() != "None")
        assert curves == sorted(tuple(curve["difference"]) for _, curve in part.groupby(["rule", "score"]))
        assert [text.get_text() for text in axis.get_xticklabels()] == (
            ["10", "20"] if x == "ipc" else ["400", "4,000"])
    if x == "steps":  # the order turns round
        order = [found[found["steps"] == steps].groupby("rule")["difference"].mean() for steps in (400, 4000)]
        assert order[0]["Easiest"] > order[0]["Hardest"]
        assert order[1]["Easiest"] < order[1]["Hardest"]


def test_one_ipc_and_one_length_make_no_curve():
    found = rules_over_random(figures.completed(grid().query("ipc == 10 and steps == 400")))
    assert len(over_ipc(found)) == len(over_steps(found)) == 0
    assert len(over_steps(rules_over_random(figures.completed(grid().assign(steps=0))))) == 0  # older rows


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
    assert set(tables) == {"comparison", "summary", "differences", "rules", "gains"}
    best = trained.set_index(["method", "ipc", "steps", "training_seed"])["best"].sort_index()
    for row in tables["rules"].itertuples():
        arms = [best[name, row.ipc, row.steps].to_list() for name in (row.method, "pool_random")]
        assert row.difference == pytest.approx(np.mean(arms[0]) - np.mean(arms[1]))
        if np.ptp(np.subtract(*arms)) > 0:
            assert (row.difference, row.low, row.high) == pytest.approx(by_hand(*arms))
    # 2 or 5 images of 2 classes in batches of 4, for 1 or 3 epochs
    assert set(zip(trained["ipc"], trained["steps"], strict=True)) == {(2, 1), (2, 3), (5, 3), (5, 9)}


# ---- The judge -------------------------------------------------------------------------------------------------------

def test_errors_are_scikit_learn_s_confusion():
    rng = np.random.default_rng(0)
    classes = pd.DataFrame({"class": ["n1", "n2", "n3"], "index": [134, 517, 2], "name": ["crane", "crane", "shark"]})
    outputs = np.array([134, 517, 2, 5])
    true, taken = rng.integers(0, 3, 300), rng.integers(0, 4, 300)
    scores = pd.DataFrame({"class": classes["class"].to_numpy()[true], "prediction": outputs[taken]})
    found = figures.errors_of_judge(scores, classes)
    names = ["crane (n1)", "crane (n2)", "shark", "no. 5"]
    matrix = found.pivot_table("images", "true", "predicted", "sum").reindex(index=names[:3], columns=names)
    assert (matrix.to_numpy() == confusion_matrix(true, taken, labels=range(4))[:3]).all()
    assert list(dict.fromkeys(found["true"])) == names[:3]


def test_figure_of_errors_shows_recognised_shares_and_where_the_others_go():
    errors = pd.DataFrame([("a", "a", 8), ("a", "b", 2), ("b", "a", 5), ("b", "no. 7", 5)],
                          columns=["true", "predicted", "images"])
    shares, matrix = plots.judge_errors(errors).axes
    assert [bar.get_width() for bar in shares.patches] == [80, 0]
    assert [text.get_text() for text in matrix.get_xticklabels()] == ["a", "b", "no. 7"]
    assert [text.get_text() for text in matrix.texts] == ["80", "20", "0", "50", "0", "50"]
    many = pd.DataFrame({"true": [f"{i}" for i in range(40) for _ in range(2)],
                         "predicted": [name for i in range(40) for name in (f"{i}", f"{(i + 1) % 40}")],
                         "images": [n for i in range(40) for n in (i + 1, 100)]})
    shares, matrix = plots.judge_errors(many).axes
    assert [text.get_text() for text in shares.get_yticklabels()] == [f"{i}" for i in range(15)]
    assert matrix.get_title() == "the 15 of 40 classes recognised least"
    assert matrix.get_xticklabels()[-1].get_text() == "other classes"


def test_the_judge_behind_a_set_is_found_in_its_folders(tmp_path, outputs):
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
        found, errors = figures.judged_images([made["pool_random"], made[method]])
        scores = pd.read_csv(world[source] / "scores.csv")
        assert found == source
        right = errors.loc[errors["true"] == errors["predicted"], "images"].sum()
        assert right == (scores["prediction"] == scores["class"]).sum()  # classes 0, 1, 2 are outputs 0, 1, 2
        assert errors["images"].sum() == len(scores)
    assert figures.judged_images([made["pool_random"]]) is None


def test_notebook_07_draws_what_the_rows_hold_and_tells_what_they_lack(tmp_path):
    grid().drop(columns="test_list").query("ipc == 10").to_csv(tmp_path / "results.csv", index=False)
    small_grid.execute(ROOT / "notebooks" / "07_figures.ipynb", tmp_path / "out.ipynb",
                       results=[str(tmp_path / "results.csv")], output=str(tmp_path / "made"))
    names = {file.name for file in (tmp_path / "made").iterdir()}
    assert {"rules.csv", "rules.png", "rules.pdf", "rules_by_steps.png"} <= names
    assert "rules_by_ipc.png" not in names
    told = [data["text/markdown"] for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells
            for output in cell.get("outputs", []) if "text/markdown" in (data := output.get("data", {}))]
    assert "*Not drawn: no rule was run for several IPCs.*" in told
    assert "*Not drawn: no judge's scores stand behind the sets.*" in told
    assert not any("lengths of training" in text for text in told)
