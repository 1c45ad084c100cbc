"""The committed evidence: its tables follow from its runs, the README quotes them, and no file is too large."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from dgs_utils.results.comparisons import compare_with_rivals
from dgs_utils.results.rows import main_series, read_results
from dgs_utils.results.summaries import ablations, summarise
from dgs_utils.results.tables import write_comparisons, write_table

ROOT = Path(__file__).parents[1]
FOLDERS = sorted((ROOT / "outputs" / "evidence").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_follow_from_the_runs(tmp_path, folder):
    shutil.copy(folder / "results.csv", tmp_path)
    results = read_results([tmp_path])
    names = ["comparison", *ablations(summarise(results))]
    for name in names:
        write_table(results, name, tmp_path)
        assert (tmp_path / f"{name}.md").read_text() == (folder / f"{name}.md").read_text()
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), pd.read_csv(folder / f"{name}.csv"))
    kept = {file.stem for file in folder.glob("*.md")}
    assert kept == {*names, "comparisons"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_comparisons_follow_from_the_runs(tmp_path, folder):
    results, found = read_results([folder]), pd.read_csv(folder / "comparisons.csv")
    main, rivals = main_series(results), list(dict.fromkeys(results["series"]))
    rivals.remove(main)
    again = compare_with_rivals(results, main, rivals)
    write_comparisons(again, "comparisons", tmp_path)
    assert (tmp_path / "comparisons.md").read_text() == (folder / "comparisons.md").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "comparisons.csv"), found)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_quotes_the_tables(folder):
    readme = (ROOT / "README.md").read_text()
    assert (folder / "comparison.md").read_text() in readme
    assert f"outputs/evidence/{folder.name}" in readme


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_evidence_is_small_and_complete(folder):
    assert {"results.csv", "manifest.json", "accuracy.png", "figure2.png", "figure4.png"} <= {
        file.name for file in folder.iterdir()}
    assert all(file.stat().st_size <= 300_000 for file in folder.iterdir())


def test_bf16_trains_as_well_as_fp32():
    results = read_results([ROOT / "outputs" / "evidence" / "fashion_precision"])
    pairs = results.pivot(index=["network", "method", "training_seed"], columns="precision", values="best")
    found = stats.ttest_1samp(pairs["bf16"] - pairs["fp32"], 0)
    low, high = found.confidence_interval()
    assert (len(pairs), round(low, 1), round(high, 1)) == (24, -0.3, 0.3)  # as in the README
