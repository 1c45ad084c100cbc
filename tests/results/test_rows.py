"""Reading rows of results, and names of series and conditions."""

import pandas as pd
import pytest
from result_rows import BASE, rows, runs

from dgs_utils.results.result_tables import layout_table
from dgs_utils.results.rows import COLUMN_DEFAULTS, condition_names, main_series, read_results, series_names
from dgs_utils.results.summaries import summarise
from dgs_utils.store.atomic import write_csv


def test_factors_of_epochs_are_written_short():
    results = pd.concat([runs([40], epoch_factor=4 / 1500), runs([50], epoch_factor=0.003)])
    assert condition_names(results).tolist() == ["ResNetAP-10, epoch factor 0.00266667",
                                                 "ResNetAP-10, epoch factor 0.003"]
    table = layout_table(summarise(results), "comparison")
    assert table.index.get_level_values("epoch_factor").tolist() == ["0.00266667", "0.003"]


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
    old = runs([40, 42]).drop(columns=[name for name in COLUMN_DEFAULTS if name in BASE and name not in (
        "method", "distribution", "dataset", "distilled", "pool_seed", "selection_seed")])
    write_csv(tmp_path / "results.csv", old)
    [cell] = summarise(read_results([tmp_path])).to_dict("records")
    assert (cell["n"], cell["best"], cell["objective"], cell["augment"]) == (2, 41, "", True)


def test_no_folders_is_an_error():
    with pytest.raises(ValueError, match="no evaluation folders were given; run notebook 06 first"):
        read_results([])


def test_series_name_what_tells_sets_of_a_method_apart():
    plain = {"method": "random", "distribution": "", "pool_factor": 0, "objective": "", "measure": "", "judge": "",
             "cut": "", "compute": "", "budget": "", "bias": "", "variant": "x"}
    results = pd.concat([runs([40]), runs([50], objective="paper"), runs([30], distribution="hill"),
                         runs([20], **plain)])
    assert series_names(results).tolist() == ["DGS (scale, code)", "DGS (scale, paper)", "DGS (hill, code)", "Random"]
    assert main_series(results.assign(series=series_names(results))) == "DGS (scale, code)"
    shared = pd.concat([runs([40], budget="150 images, by difficulty")])
    assert series_names(shared).tolist() == ["DGS (150 images, by difficulty)"]  # alone, too
    cuts = {"": "DGS", "errors": "DGS (cut errors)", "errors, 0.3": "DGS (cut errors, 0.3)"}
    assert series_names(pd.concat([runs([40], cut=cut) for cut in cuts])).tolist() == list(cuts.values())
    looked = {**plain, "method": "pool_random"}  # a cut looks at a scorer's score, where chance does not
    plainly, one, two = ({**looked, **cut} for cut in (
        {}, {"cut": "0.3", "measure": "margin", "judge": "one"}, {"cut": "0.3", "measure": "margin", "judge": "two"}))
    results = pd.concat([runs([40], **plainly), runs([40], **one)])
    assert series_names(results).tolist() == ["Random of pool", "Random of pool (cut 0.3)"]
    assert series_names(pd.concat([results, runs([40], **two)])).tolist()[1:] == [
        f"Random of pool (scored by {scorer}, cut 0.3)" for scorer in ("one", "two")]
    results = pd.concat([runs([40]), runs([50], variant="b2"), runs([20], **plain)])
    assert series_names(results).tolist() == ["DGS (set a1)", "DGS (set b2)", "Random"]
    results = pd.concat([runs([40]), runs([50], pool_factor=2, variant="b2")])  # the first difference says enough
    assert series_names(results).tolist() == ["DGS (5 × IPC)", "DGS (2 × IPC)"]


def test_a_key_that_looks_like_a_number_stays_text(tmp_path):
    rows({"key": "2828730e8193", "pool": "000012345678"}).to_csv(tmp_path / "results.csv", index=False)
    [row] = read_results([tmp_path]).to_dict("records")
    assert (row["key"], row["pool"]) == ("2828730e8193", "000012345678")


@pytest.mark.parametrize("name", ["protocol", "training_seed", "best", "n_test"])
def test_a_missing_column_is_named(tmp_path, name):
    rows({}).drop(columns=name).to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(ValueError, match=rf"results\.csv has no column {name}; run notebook 06 again"):
        read_results([tmp_path])


@pytest.mark.parametrize(("name", "value"), [("best", "much"), ("last", ""), ("ipc", "ten")])
def test_a_column_without_numbers_is_named(tmp_path, name, value):
    rows({}, {name: value}).to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(ValueError, match=rf"results\.csv has no number in each row of column {name}"):
        read_results([tmp_path])
