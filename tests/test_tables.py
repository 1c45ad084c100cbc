"""Result tables: statistics by hand, layout, and that published and measured values never mix."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgs_utils.artifacts.files import write_csv
from dgs_utils.batch.experiment import read_experiment
from dgs_utils.batch.plan import expand
from dgs_utils.methods import METHODS
from dgs_utils.params import validate
from dgs_utils.results import tables
from dgs_utils.results.comparisons import compare_with_rivals
from dgs_utils.results.controls import with_controls
from dgs_utils.results.labels import PUBLISHED_GENERATION, earned_label, generation_of, is_comparable, judge_name
from dgs_utils.results.published_values import published
from dgs_utils.results.rows import CELL, LATER, condition_of, main_series, read_results, series_of
from dgs_utils.results.summaries import ablations, summarise
from dgs_utils.results.tables import EMPTY, LAYOUTS, caption, cells_of, lay_out, write_comparisons, write_table

PARAMS = Path(__file__).parents[1] / "params"
BASE = {"protocol": "idc", "dataset": "imagewoof", "split": "imagenet", "image_size": 224, "epoch_factor": 1.0,
        "batch_size": 64, "learning_rate": 0.01, "augment": True, "flip": True, "precision": "fp32",
        "evaluations": 100, "norm": "instance", "label": "H-A", "objective": "code", "measure": "difficulty",
        "judge": "", "variant": "a1", "test_list": "", "prepare_seed": "", "fine_tune_seed": "", "pool": "",
        "teacher": "", "features": "", "generator": "", "cut": "", "compute": "", "bias": "",
        "generation": "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 4",
        "network": "resnet_ap10", "ipc": 10, "method": "dgs", "distribution": "scale", "pool_factor": 5, "pool_seed": 0,
        "selection_seed": 0, "training_seed": 0, "distilled": "a", "best": 50.0, "last": 49.0, "n_test": 500}


def rows(*changes: dict) -> pd.DataFrame:
    return pd.DataFrame([{**BASE, **change} for change in changes])


def runs(accuracies, **cell) -> pd.DataFrame:
    """Return one row a training run of the same cell."""
    return rows(*[{**cell, "training_seed": seed, "best": best} for seed, best in enumerate(accuracies)])


# ---- Statistics ------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(best=st.lists(st.floats(0, 100), min_size=1, max_size=6), drop=st.floats(0, 5), n_test=st.integers(1, 5000))
def test_statistics_of_a_cell(best, drop, n_test):
    results = runs(best, n_test=n_test).assign(last=[b - drop for b in best])
    [cell] = summarise(results).to_dict("records")
    n, mean = len(best), sum(best) / len(best)
    assert cell["best"] == pytest.approx(mean)
    assert cell["n"] == cell["trainings"] == n
    if n > 1:
        spread = (sum((b - mean) ** 2 for b in best) / (n - 1)) ** 0.5
        assert cell["std"] == pytest.approx(spread, abs=1e-9)
    else:
        assert np.isnan(cell["std"])
    assert cell["optimism"] == pytest.approx(drop, abs=1e-9)
    assert cell["test_se"] == pytest.approx((mean * max(100 - mean, 0) / n_test) ** 0.5, abs=1e-6)


def test_no_cut_is_named_in_the_table_of_cuts():
    table = lay_out(summarise(pd.concat([runs([40]), runs([50], cut="0.3")])), "cut")
    assert table.index.get_level_values("cut").tolist() == ["none", "0.3"]


def test_factors_of_epochs_are_written_short():
    results = pd.concat([runs([40], epoch_factor=4 / 1500), runs([50], epoch_factor=0.003)])
    assert condition_of(results).tolist() == ["ResNetAP-10, epoch factor 0.00266667", "ResNetAP-10, epoch factor 0.003"]
    table = lay_out(summarise(results), "comparison")
    assert table.index.get_level_values("epoch_factor").tolist() == ["0.00266667", "0.003"]


def test_seeds_of_each_kind_are_counted_apart():
    results = rows({"pool_seed": 0, "selection_seed": 0, "training_seed": 0},
                   {"pool_seed": 1, "selection_seed": 0, "training_seed": 0},
                   {"pool_seed": 1, "selection_seed": 7, "training_seed": 0},
                   {"pool_seed": 1, "selection_seed": 8, "training_seed": 0})
    [cell] = summarise(results).to_dict("records")
    assert [cell[name] for name in ("n", "pools", "selections", "trainings")] == [4, 2, 3, 1]
    [cell] = summarise(rows({"pool_seed": "", "selection_seed": ""})).to_dict("records")
    assert [cell[name] for name in ("pools", "selections", "trainings")] == [0, 0, 1]  # it has none of these


@pytest.mark.parametrize("column", CELL)
def test_runs_that_differ_in_anything_but_seeds_are_never_averaged(column):
    other = 7 if isinstance(BASE[column], (int, float)) else "other"
    summary = summarise(pd.concat([runs([40, 50]), runs([60, 80], **{column: other})]))
    assert summary["best"].tolist() == [45, 70]


# ---- Reading ---------------------------------------------------------------------------------------------------------

def test_folders_are_joined_and_repeated_rows_counted_once(tmp_path):
    first, second = rows({"training_seed": 0}, {"training_seed": 1}), rows({"training_seed": 1}, {"training_seed": 2})
    for name, frame in (("a", first), ("b", second)):
        write_csv(tmp_path / name / "results.csv", frame)
    results = read_results([tmp_path / "a", tmp_path / "b"])
    assert results["training_seed"].tolist() == [0, 1, 2]


def test_an_empty_distribution_stays_text(tmp_path):
    write_csv(tmp_path / "results.csv", rows({"method": "random", "distribution": "", "pool_factor": 0}))
    [row] = read_results([tmp_path]).to_dict("records")
    assert row["distribution"] == ""
    assert len(summarise(read_results([tmp_path]))) == 1


def test_older_results_are_read_too(tmp_path):
    old = runs([40, 42]).drop(columns=[name for name in LATER if name in BASE and name not in (
        "method", "distribution", "dataset", "distilled", "pool_seed", "selection_seed")])
    write_csv(tmp_path / "results.csv", old)
    [cell] = summarise(read_results([tmp_path])).to_dict("records")
    assert (cell["n"], cell["best"], cell["objective"], cell["augment"]) == (2, 41, "", True)


def test_no_folders_is_an_error():
    with pytest.raises(ValueError, match="no evaluation folders were given; run notebook 06 first"):
        read_results([])


# ---- Published values ------------------------------------------------------------------------------------------------

def test_published_tables_are_the_paper_s():
    sizes = {1: 81, 2: 24, 3: 15, 4: 15}
    for number, size in sizes.items():
        frame = published(number)
        assert len(frame) == size
        assert not frame[["dataset", "ipc", "network", "method", "mean", "pool_factor"]].isna().any(axis=None)
        assert set(frame["method"]) <= METHODS.keys()
    first = published(1).set_index(["network", "ipc", "method"])
    for key, mean, std in [(("resnet_ap10", 10, "dgs"), 37.4, 0.3), (("convnet6", 50, "minimax"), 51.4, 0.4),
                           (("resnet18", 10, "idc"), 36.9, 0.4), (("convnet6", 10, "first"), 24.3, 1.1)]:
        assert first.loc[key, ["mean", "std"]].tolist() == [mean, std]
    # [F §8.4]: the same three cells stand in three tables
    woof = first.xs("resnet_ap10").xs("dgs", level="method")["mean"]
    scale = published(3).query("distribution == 'scale'").set_index("ipc")["mean"]
    five = published(4).query("pool_factor == 5").set_index("ipc")["mean"]
    assert woof.to_dict() == scale.to_dict() == five.to_dict() == {10: 37.4, 20: 45.5, 50: 57.1}


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.published])
def test_published_values_fill_their_own_columns_completely(name):
    """Without a single run of ours every measured cell is empty and every published one stands in its place."""
    layout = LAYOUTS[name]
    table = lay_out(summarise(rows({"ipc": 999})), name)
    assert set(table["measured"].to_numpy().ravel()) == {EMPTY}
    paper = published(layout.published)
    shown = [cell for cell in table["published"].to_numpy().ravel() if cell != EMPTY]
    # Spreads are missing where the paper gives none.
    expected = [f"{m:.1f}" if np.isnan(s) else f"{m:.1f} ± {s:.1f}" for m, s in zip(paper["mean"], paper["std"],
                                                                                   strict=True)]
    assert sorted(shown) == sorted(expected)


def test_measured_cells_hold_measured_values_only():
    summary = summarise(pd.concat([runs([11.1, 11.3]), runs([22.2], method="dit", distribution="", pool_factor=0,
                                                      generation=PUBLISHED_GENERATION["dit"]),
                                   runs([33.3, 33.3], network="convnet6", ipc=50)]))
    table = lay_out(summary, "table1")
    found = {(*row, column): text for row, line in table["measured"].iterrows() for column, text in line.items()
             if text != EMPTY}
    assert found == {(10, "ResNetAP-10", "DGS"): "11.2 ± 0.1", (10, "ResNetAP-10", "DiT"): "**22.2**",
                     (50, "ConvNet-6", "DGS"): "**33.3 ± 0.0**"}
    assert table.loc[(10, "ResNetAP-10"), ("published", "DGS")] == "37.4 ± 0.3"
    assert table.shape == (9, 20)


# ---- Layout ----------------------------------------------------------------------------------------------------------

@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from([10, 20, 50]), st.sampled_from(["random", "dit", "dgs", "full"])),
                       st.integers(1, 999).map(lambda tenth: tenth / 10), min_size=1))
def test_the_best_of_each_rivalry_is_bold_and_all_else_is_there(values):
    summary = summarise(pd.concat([runs([mean], ipc=ipc, method=method) for (ipc, method), mean in values.items()]))
    table = lay_out(summary, "comparison")
    methods = {METHODS[method].label: method for _, method in values}
    shown = [method.label for name, method in METHODS.items() if name in methods.values()]
    assert list(table.index) == [("ImageWoof", label) for label in shown]
    assert list(table.columns) == [("ResNetAP-10", ipc) for ipc in sorted({ipc for ipc, _ in values})]
    for (_, ipc), line in table.loc["ImageWoof"].items():
        known = {label: values[ipc, methods[label]] for label in line.index if (ipc, methods[label]) in values}
        for label, text in line.items():
            if label not in known:
                assert text == EMPTY
            elif known[label] == max(known.values()):
                assert text == f"**{known[label]:.1f}**"
            else:
                assert text == f"{known[label]:.1f}"


def test_two_results_for_one_cell_are_refused():
    summary = summarise(pd.concat([runs([40]), runs([50], objective="paper")]))
    with pytest.raises(ValueError, match=r"table1 has several results for .*dgs.*, which differ in objective; give 07"):
        lay_out(summary, "table1")


def test_a_setting_that_differs_is_shown_in_the_lines():
    table = lay_out(summarise(pd.concat([runs([40]), runs([50], image_size=128)])), "comparison")
    assert table.index.names == ["dataset", "series", "image_size"]
    assert table["ResNetAP-10", 10].to_dict() == {("ImageWoof", "DGS", 128): "**50.0**",
                                                  ("ImageWoof", "DGS", 224): "**40.0**"}


def test_series_name_what_tells_sets_of_a_method_apart():
    plain = {"method": "random", "distribution": "", "pool_factor": 0, "objective": "", "measure": "", "judge": "",
             "cut": "", "compute": "", "bias": "", "variant": "x"}
    results = pd.concat([runs([40]), runs([50], objective="paper"), runs([30], distribution="hill"),
                         runs([20], **plain)])
    assert series_of(results).tolist() == ["DGS (scale, code)", "DGS (scale, paper)", "DGS (hill, code)", "Random"]
    assert main_series(results.assign(series=series_of(results))) == "DGS (scale, code)"
    cuts = {"": "DGS", "errors": "DGS (cut errors)", "errors, 0.3": "DGS (cut errors, 0.3)"}
    assert series_of(pd.concat([runs([40], cut=cut) for cut in cuts])).tolist() == list(cuts.values())
    looked = {**plain, "method": "pool_random"}  # a cut looks at a judge's score, where chance does not
    plainly, one, two = ({**looked, **cut} for cut in (
        {}, {"cut": "0.3", "measure": "margin", "judge": "one"}, {"cut": "0.3", "measure": "margin", "judge": "two"}))
    results = pd.concat([runs([40], **plainly), runs([40], **one)])
    assert series_of(results).tolist() == ["Random of pool", "Random of pool (cut 0.3)"]
    assert series_of(pd.concat([results, runs([40], **two)])).tolist()[1:] == [
        f"Random of pool (judged by {judge}, cut 0.3)" for judge in ("one", "two")]
    results = pd.concat([runs([40]), runs([50], variant="b2"), runs([20], **plain)])
    assert series_of(results).tolist() == ["DGS (set a1)", "DGS (set b2)", "Random"]
    results = pd.concat([runs([40]), runs([50], pool_factor=2, variant="b2")])  # the first difference says enough
    assert series_of(results).tolist() == ["DGS (5 × IPC)", "DGS (2 × IPC)"]


def test_the_full_set_stands_beside_each_ipc():
    whole = {"method": "full", "ipc": 0, "distribution": "", "pool_factor": 0, "evaluations": 300, "generation": ""}
    results = pd.concat([runs([50], ipc=10), runs([60], ipc=20), runs([86, 87], **whole)])
    assert summarise(results)["n"].tolist() == [1, 1, 2]  # it is counted once
    table = lay_out(summarise(results), "table1")
    published = table["measured"]["Full"]
    own = lay_out(summarise(results), "comparison").loc["ImageWoof", "Full"]
    for cells, ipcs in ((published, [10, 20, 50]), (own, [10, 20])):
        run = cells[cells != EMPTY]
        assert run.index.get_level_values("ipc").tolist() == ipcs
        assert set(run) == {"**86.5 ± 0.7**"}


@pytest.mark.parametrize("change", [
    {"protocol": "rded"}, {"epoch_factor": 0.5}, {"image_size": 128}, {"n_test": 3929}, {"split": "fastai"},
    {"norm": "batch"}, {"evaluations": 10}, {"batch_size": 32}, {"learning_rate": 0.02}, {"precision": "bf16"},
    {"generation": "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 1.5"}, {"flip": False},
    {"generation": "a DiT of its own size trained here, 50 steps, guidance 4"}])
def test_published_values_stand_only_beside_runs_of_their_kind(change):
    table = lay_out(summarise(runs([40, 42], **change)), "table1")
    assert table.shape == (9, 10)
    assert "37.4" not in table.to_string()
    assert "Published values are left out" in caption(summarise(runs([40, 42], **change)), "table1")
    assert "Published values" not in caption(summarise(runs([40, 42])), "table1")
    assert "ours a seeded draw" in caption(summarise(runs([40, 42])), "table1")


def test_ablations_show_what_varies():
    results = pd.concat([runs([40, 42]), runs([50, 54], objective="paper"), runs([30], ipc=20)])
    summary = summarise(results)
    assert ablations(summary) == ["objective"]
    table = lay_out(summary, "objective")
    assert table.to_dict("index") == {("ImageWoof", "ResNetAP-10", "code"): {10: "41.0 ± 1.4", 20: "**30.0**"},
                                      ("ImageWoof", "ResNetAP-10", "paper"): {10: "**52.0 ± 2.8**", 20: EMPTY}}


def test_an_ablation_shows_only_sets_that_differ_in_nothing_else():
    summary = summarise(pd.concat([
        runs([40]), runs([41], distribution="hill"), runs([42], pool_factor=2), runs([43], objective="paper"),
        runs([44], distribution="cliff", pool_factor=4),  # two steps away from any other
        runs([45], network="convnet6"), runs([46], method="random", pool_factor=0, distribution="", objective="")]))
    assert ablations(summary) == ["distribution", "pool_factor", "objective"]
    shown = {name: sorted(cells_of(summary, name)["best"]) for name in ablations(summary)}
    assert shown == {"distribution": [40, 41], "pool_factor": [40, 42], "objective": [40, 43]}
    assert sorted(cells_of(summary, "comparison")["best"]) == [40, 44, 45, 46]  # what no ablation shows stays


PLAIN = {"distribution": "", "objective": "", "measure": "", "generation": ""}
REAL = {**PLAIN, "pool_factor": 0, "pool_seed": ""}


def test_controls_stand_beside_each_result():
    results = pd.concat([
        runs([50, 52]), runs([44, 45], method="random", **REAL), runs([47, 50], method="pool_random", **PLAIN),
        runs([60], network="convnet6"), runs([48, 49], method="k_center", selection_seed="", **REAL)])
    table = with_controls(results).set_index(["network", "method"])
    ours = table.loc[("resnet_ap10", "dgs")]
    assert ours[["random", "pool_random", "over_random", "over_pool"]].tolist() == [44.5, 48.5, 6.5, 2.5]
    half = stats.t.ppf(0.975, 1) * 0.5  # differences of pairs: 6 and 7; 3 and 2
    assert ours[["over_random_low", "over_random_high"]].tolist() == pytest.approx([6.5 - half, 6.5 + half])
    assert ours[["over_pool_low", "over_pool_high"]].tolist() == pytest.approx([2.5 - half, 2.5 + half])
    assert table.loc[("resnet_ap10", "k_center"), ["random", "over_random"]].tolist() == [44.5, 4]
    assert np.isnan(table.loc[("resnet_ap10", "k_center"), "over_pool"])  # it uses no pool
    assert np.isnan(table.loc[("convnet6", "dgs"), "over_random"])  # not run there
    assert np.isnan(table.loc[("resnet_ap10", "random"), "over_random"])  # nothing is its own control


@pytest.mark.parametrize("other", [{"pool_factor": 2}, {"pool": "b"}, {"pool_seed": 1, "pool": "b"},
                                   {"fine_tune_seed": "1"}, {"image_size": 128}, {"test_list": "ab"}, {"ipc": 20},
                                   {"prepare_seed": "7"}])
def test_a_control_is_one_of_the_same_pool_size_and_condition(other):
    ours = runs([50, 52], pool="a")
    control = runs([40, 41], method="pool_random", **{"pool": "a", **PLAIN})
    foreign = runs([20, 21], method="pool_random", **{"pool": "a", **PLAIN, **other})
    found = with_controls(pd.concat([ours, control, foreign]))
    assert found.loc[found["method"] == "dgs", "pool_random"].tolist() == [40.5]
    alone = with_controls(pd.concat([ours, foreign]))
    assert alone.loc[alone["method"] == "dgs", "pool_random"].isna().all()


def test_older_rows_tell_their_pool_by_generator_and_seed():
    control = runs([40, 41], method="pool_random", **PLAIN)
    results = pd.concat([control, runs([50, 51], pool_factor=5, method="dit", **PLAIN),
                         runs([50, 51], method="confidence", **PLAIN)])
    found = with_controls(results).set_index("method")["pool_random"]
    assert np.isnan(found["dit"])  # another generator's pool
    assert found["confidence"] == 40.5


# ---- Labels ----------------------------------------------------------------------------------------------------------

HARD = {**BASE, "epochs": 2000}
SOFT = {**BASE, "protocol": "rded", "norm": "batch", "batch_size": 50, "learning_rate": 0.001, "epochs": 300,
        "teacher": "resnet18 trained on the subset, rded, 300 epochs, 224 px"}


@pytest.mark.parametrize(("row", "label"), [
    (HARD, "H-A"),
    ({**HARD, "image_size": 64, "epoch_factor": 0.015, "epochs": 30, "evaluations": 1},
     "H-A, scaled: 64 px, 30 epochs, 1 test"),
    ({**HARD, "norm": "batch", "batch_size": 32, "learning_rate": 0.1, "augment": False, "flip": False},
     "H-A, scaled: batch norm, batch 32, learning rate 0.1, no augmentation, no flips"),
    ({**HARD, "split": "fastai", "n_test": 3929}, "H-A, scaled: split fastai, 3929 test images"),
    ({**HARD, "method": "full", "ipc": 0, "evaluations": 100}, "H-A, scaled: 100 tests"),
    ({**HARD, "method": "full", "ipc": 0, "evaluations": 300}, "H-A"),
    ({**HARD, "evaluations": 200}, "H-A, scaled: 200 tests"),  # the best of more is higher
    (SOFT, "S-R"),
    ({**SOFT, "teacher": "resnet50 IMAGENET1K_V1"}, "S-R, scaled: teacher resnet50 IMAGENET1K_V1"),
    ({**SOFT, "teacher": "resnet18 trained on the subset, rded, 30 epochs, 224 px"},
     "S-R, scaled: teacher resnet18 trained on the subset, rded, 30 epochs, 224 px"),
    ({**SOFT, "norm": "instance", "teacher": ""}, "S-R, scaled: instance norm, teacher unknown"),
    ({**HARD, "protocol": "own", "label": "mine"}, "mine")])
def test_a_label_is_earned(row, label):
    assert earned_label(row) == label


def test_generation_is_told_from_the_stages_behind_a_set():
    stages = {"00_prepare": {"dit_size": "DiT-XL/2", "base_model": "data/dit.pt"},
              "01_fine_tune": {"steps": 12000, "epochs": 8, "precision": "fp32"},
              "02_pool": {"generator": "minimax", "steps": 50, "guidance": 4.0, "precision": "fp32"}}
    assert generation_of(stages) == PUBLISHED_GENERATION["minimax"]
    raw = {**stages, "02_pool": {**stages["02_pool"], "generator": "dit"}}
    assert generation_of(raw) == PUBLISHED_GENERATION["dit"]
    small = {"00_prepare": {"dit_size": "", "base_model": "train"}, "01_fine_tune": {"steps": 0, "epochs": 2},
             "02_pool": {"generator": "minimax", "steps": 20, "guidance": 1.5, "precision": "bf16"}}
    assert generation_of(small) == ("a DiT of its own size trained here, 2 fine-tuning epochs, 20 steps, guidance 1.5, "
                                    "sampled in bf16")
    assert generation_of({"02_pool": {"generator": "folder"}}) == generation_of({}) == ""


def test_what_judged_is_named():
    folds = validate("00_prepare", {"classifier": "convnet3", "folds": 3}).model_dump()
    assert judge_name(folds, {}) == "convnet3, 3 folds"
    given = {"classifier": "resnet50", "classifier_weights": "weights/best.pth"}
    assert judge_name(given, {"classifiers": ["some/where/other"]}) == "resnet50 best.pth + other"
    assert judge_name(given, {"published_scores": True}) == "published scores"


@pytest.mark.parametrize(("stage", "other", "told"), [
    ("00_prepare", {"autoencoder": "taesd"}, "autoencoder taesd"),
    ("01_fine_tune", {"ema_decay": 0.99}, "ema decay 0.99"),
    ("01_fine_tune", {"weight_diverse": 0.0}, "weight diverse 0.0"),
    ("01_fine_tune", {"precision": "bf16"}, "fine-tuned in bf16"),
    ("02_pool", {"solver": "dpm++"}, "solver dpm++"),
    ("02_pool", {"solver": "ddim", "cache": "taylorseer"}, "solver ddim, cache taylorseer"),
    ("02_pool", {"guidance_channels": 4}, "guidance channels 4"),
    ("02_pool", {"guidance_interval": [0.0, 0.7]}, "guidance interval [0.0, 0.7]")])
def test_no_published_value_stands_beside_a_pool_that_was_made_in_another_way(stage, other, told):
    """What params/imagewoof.yaml plans is as published; one setting that differs is told, and parts them."""
    nodes = {node.stage: node.params.model_dump() for node in expand(read_experiment(PARAMS / "imagewoof.yaml"))}
    stages = {name: nodes[name] for name in ("00_prepare", "01_fine_tune", "02_pool")}
    assert generation_of(stages) == PUBLISHED_GENERATION["minimax"]
    changed = generation_of({**stages, stage: {**stages[stage], **other}})
    assert changed == f"{PUBLISHED_GENERATION['minimax']}, {told}"
    assert is_comparable(summarise(runs([40, 42])))
    assert not is_comparable(summarise(runs([40, 42], generation=changed)))


def test_labels_of_a_table_are_merged():
    results = pd.concat([runs([50], epoch_factor=0.02, epochs=40), runs([50], ipc=20, epoch_factor=0.02, epochs=30)])
    assert "(protocol idc, H-A, scaled: 40 epochs or 30 epochs)" in caption(summarise(results))


def test_runs_of_one_pool_are_not_independent():
    results = rows(*[{"pool_seed": pool, "training_seed": seed, "best": 40 + 6 * pool + seed}
                     for pool in range(3) for seed in range(4)])
    [cell] = summarise(results).to_dict("records")
    assert cell["units"] == 3
    assert cell["error"] == pytest.approx(6 / 3**0.5)


def test_protocols_are_never_laid_out_together():
    summary = summarise(pd.concat([runs([40]), runs([50], protocol="other")]))
    with pytest.raises(ValueError, match="comparison mixes the protocols idc, other; make one table each"):
        lay_out(summary, "comparison")


# ---- Files -----------------------------------------------------------------------------------------------------------

def test_files_of_one_protocol(tmp_path):
    results = pd.concat([runs([40, 42]), runs([50, 51, 55], method="dit", distribution="", pool_factor=0)])
    table = write_table(results, "comparison", tmp_path)["idc"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["comparison.csv", "comparison.md", "comparison.tex"]
    tidy = pd.read_csv(tmp_path / "comparison.csv", keep_default_na=False).set_index("method")
    assert float(tidy.loc["dgs", "best"]) == 41
    assert float(tidy.loc["dit", "std"]) == pytest.approx(np.std([50, 51, 55], ddof=1))
    assert table.loc[("ImageWoof", "DiT"), ("ResNetAP-10", 10)] == "**52.0 ± 2.6**"

    markdown = (tmp_path / "comparison.md").read_text().splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in markdown[:4]]
    assert cells == [["Dataset", "Method", "ResNetAP-10 IPC 10"], ["---"] * 3,
                     ["ImageWoof", "DiT", "**52.0 ± 2.6**"], ["ImageWoof", "DGS", "41.0 ± 1.4"]]
    assert markdown[5] == caption(summarise(results))

    latex = (tmp_path / "comparison.tex").read_text()
    assert latex.startswith("\\begin{tabular}{lll}\n\\toprule\n")
    assert r"ImageWoof & DiT & \textbf{52.0 $\pm$ 2.6} \\" in latex
    assert "±" not in latex


def test_latex_of_awkward_names_by_hand(tmp_path):
    results = pd.concat([runs([40, 42], dataset="a_b & 50% #1"), runs([43], ipc=20, dataset="a_b & 50% #1")])
    write_table(results, "comparison", tmp_path)
    assert (tmp_path / "comparison.tex").read_text().splitlines()[:7] == [
        r"\begin{tabular}{llll}", r"\toprule", r"Dataset & Method & ResNetAP-10 IPC 10 & ResNetAP-10 IPC 20 \\",
        r"\midrule", r"a\_b \& 50\% \#1 & DGS & \textbf{41.0 $\pm$ 1.4} & \textbf{43.0} \\", r"\bottomrule",
        r"\end{tabular}"]


def test_markdown_has_the_cells_that_pandas_would_write():
    text = lay_out(summarise(pd.concat([runs([40, 42], ipc=ipc) for ipc in (10, 20)])), "comparison")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables._markdown(text).splitlines()]
    flat = tables._flat(text)
    assert lines == [list(flat), ["---"] * flat.shape[1], *flat.astype(str).to_numpy().tolist()]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_line_of_every_file_has_all_its_cells(tmp_path, name):
    write_table(pd.concat([runs([40, 42], ipc=ipc) for ipc in (10, 20)]), name, tmp_path)
    lines = [line for line in (tmp_path / f"{name}.md").read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    latex = (tmp_path / f"{name}.tex").read_text()
    body = [line for line in latex.splitlines() if "&" in line]
    assert len(body) == len(lines) - 1  # Markdown has a ruler too
    columns = len(re.search(r"\{(l+)\}", latex)[1])
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {columns - 1} == {lines[0].count("|") - 2}
    assert latex.count(r"\toprule") == latex.count(r"\midrule") == latex.count(r"\bottomrule") == 1
    assert all(line.rstrip().endswith((r"\\", r"\midrule")) for line in body)
    assert EMPTY not in latex


def test_each_protocol_gets_files_of_its_own(tmp_path):
    results = pd.concat([runs([40, 42]), runs([90, 92], protocol="other")])
    shown = write_table(results, "comparison", tmp_path)
    names = [f"comparison-{protocol}.{kind}" for protocol in ("idc", "other") for kind in ("csv", "md", "tex")]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    for protocol, own, others in (("idc", "41.0", "91.0"), ("other", "91.0", "41.0")):
        text = (tmp_path / f"comparison-{protocol}.md").read_text()
        assert own in text
        assert others not in text
        assert f"(protocol {protocol}, H-A)" in text
        assert pd.read_csv(tmp_path / f"comparison-{protocol}.csv")["protocol"].unique().tolist() == [protocol]
    assert list(shown) == ["idc", "other"]


def test_an_ablation_s_csv_holds_its_own_cells(tmp_path):
    write_table(pd.concat([runs([40, 42]), runs([50, 51], distribution="hill"), runs([60], method="dit")]),
                "distribution", tmp_path)
    assert pd.read_csv(tmp_path / "distribution.csv")["best"].tolist() == [41, 50.5]


def test_comparisons_have_a_line_a_rival(tmp_path):
    random = {"method": "random", "distribution": "", "pool_factor": 0}
    results = pd.concat([
        runs([60, 61, 63]), runs([50, 52, 53], **random), runs([60, 62, 62], method="dit"),
        runs([55], method="herding"), runs([60, 62, 63], ipc=20), runs([61, 62, 64], ipc=20, **random)])
    results = results.assign(series=series_of(results), condition=condition_of(results))
    found = compare_with_rivals(results, "DGS", ["Random", "DiT", "Herding"])
    text = write_comparisons(found, "comparisons", tmp_path)
    half = stats.t.ppf(0.975, 2) / 3  # differences 10, 9, 10; 0, −1, 1; −1, 0, −1
    low, high = 9 + 2 / 3 - half, 9 + 2 / 3 + half
    assert text.splitlines()[:7] == [
        "| DGS minus | ResNetAP-10 IPC 10 | ResNetAP-10 IPC 20 |", "| --- | --- | --- |",
        f"| Random | **+9.7 ({low:+.1f} to {high:+.1f})** | −0.7 (−2.1 to +0.8) |",
        "| DiT | +0.0 (−2.5 to +2.5) | – |", "| Herding | +5.0 | – |", "",
        "Percentage points, by the accuracy at the best epoch of each training, with 95 % intervals; bold where zero "
        "is outside after Holm's correction for 3 comparisons."]
    assert (tmp_path / "comparisons.md").read_text() == text
    p = 2 * stats.t.sf((9 + 2 / 3) * 3, 2)
    assert (f"* ResNetAP-10, IPC 10: For this pool, this selection and these test images, DGS is 9.7 points above "
            f"Random at the best epoch (95 % interval {low:+.1f} to {high:+.1f}; 1 pool, 1 selection, 3 trainings). "
            f"p = {p:.2g}, Holm {3 * p:.2g}.") in text
    assert pd.read_csv(tmp_path / "comparisons.csv")["second"].tolist() == ["Random", "Random", "DiT", "Herding"]
    assert write_comparisons(pd.DataFrame({"sentence": []}), "none", tmp_path) == ""


def test_caption_tells_how_the_numbers_came_about():
    results = pd.concat([runs([50, 51, 52]), runs([40, 41], ipc=20)])
    text = caption(summarise(results))
    assert "protocol idc, H-A" in text
    assert "(ddof 1) of 2 to 3 runs: pool seeds 1, selection seeds 1, training seeds 2 to 3" in text
    assert "one test (500 images) is up to 2.2 points" in text
    assert "Epochs" not in text
    assert "Epochs are the protocol's × 0.01." in caption(summarise(runs([50], epoch_factor=0.01)))


def test_a_key_that_looks_like_a_number_stays_text(tmp_path):
    rows({"key": "2828730e8193", "pool": "000012345678"}).to_csv(tmp_path / "results.csv", index=False)
    [row] = read_results([tmp_path]).to_dict("records")
    assert (row["key"], row["pool"]) == ("2828730e8193", "000012345678")
