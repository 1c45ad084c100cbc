"""Result tables: layout, bold, files, and that published and measured values never mix."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import rows, runs

from dgs_utils.methods import METHODS
from dgs_utils.params import paper
from dgs_utils.results import result_tables as tables
from dgs_utils.results.published_tables import published_table
from dgs_utils.results.result_tables import (
    EMPTY_CELL,
    FILE_STEMS,
    TABLE_LAYOUTS,
    caption,
    cells_shown,
    layout_table,
    write_table,
)
from dgs_utils.results.summaries import ablated_columns, summarise


def test_no_cut_is_named_in_the_table_of_cuts():
    table = layout_table(summarise(pd.concat([runs([40]), runs([50], cut="0.3")])), "cut")
    assert table.index.get_level_values("cut").tolist() == ["none", "0.3"]


@pytest.mark.parametrize("name", [name for name, layout in TABLE_LAYOUTS.items() if layout.published])
def test_published_values_fill_their_own_columns_completely(name):
    """Without a single run of ours every measured cell is empty and every published one stands in its place."""
    layout = TABLE_LAYOUTS[name]
    table = layout_table(summarise(rows({"ipc": 999})), name)
    assert set(table["measured"].to_numpy().ravel()) == {EMPTY_CELL}
    paper = published_table(layout.published)
    assert not (table["published"] == EMPTY_CELL).all().any()  # no column of a method that the paper does not have
    shown = [cell.strip("*") for cell in table["published"].to_numpy().ravel() if cell != EMPTY_CELL]
    # Spreads are missing where the paper gives none.
    expected = [f"{m:.1f}" if np.isnan(s) else f"{m:.1f} ± {s:.1f}" for m, s in zip(paper["mean"], paper["std"],
                                                                                   strict=True)]
    assert sorted(shown) == sorted(expected)


def test_measured_cells_hold_measured_values_only():
    summary = summarise(pd.concat([runs([11.1, 11.3]), runs([22.2], method="dit", distribution="", pool_factor=0,
                                                      generation=paper.GENERATION["dit"]),
                                   runs([33.3, 33.3], network="convnet6", ipc=50)]))
    table = layout_table(summary, "table1")
    found = {(*row, column): text for row, line in table["measured"].iterrows() for column, text in line.items()
             if text != EMPTY_CELL}
    assert found == {("10 (0.8 %)", "ResNetAP-10", "Ours (DGS)"): "11.2 ± 0.1",
                     ("10 (0.8 %)", "ResNetAP-10", "DiT"): "**22.2**",
                     ("50 (3.8 %)", "ConvNet-6", "Ours (DGS)"): "**33.3 ± 0.0**"}
    assert table.loc[("10 (0.8 %)", "ResNetAP-10"), ("published", "Ours (DGS)")] == "**37.4 ± 0.3**"
    assert table.shape == (9, 10 + 9 + 10)

WOOF = {"originals": 12_454, "per_class": 1245.4}

FULL = {"method": "full", "ipc": 0, "distribution": "", "pool_factor": 0, "evaluations": 300, "generation": ""}


def test_table_1_is_the_paper_s_with_our_own_names_beside_its():
    sets = [runs([40 + pool, 42 + pool, 47 + pool], pool_seed=pool, distilled=f"set{pool}", **WOOF) for pool in (0, 6)]
    results = pd.concat([*sets, runs([39, 41], ipc=20, method="dit", distribution="", pool_factor=0,
                                     generation=paper.GENERATION["dit"]),
                         runs([30, 31, 33], method="random", distribution="", pool_factor=0, generation=""),
                         runs([86, 87], **FULL)])
    table = layout_table(summarise(results), "table1")
    line = table.loc[("10 (0.8 %)", "ResNetAP-10")]
    within = np.std([40, 42, 47])  # of one set, ddof 0 as NumPy has it; both sets have the same
    assert line["measured", "Ours (DGS)"] == f"**46.0 ± {within:.1f}**"
    assert line["all noise", "Ours (DGS)"] == f"± {np.std([40, 42, 47, 46, 48, 53], ddof=1):.1f} (n 6)"
    assert line["measured", "Random (seeded draw)"] == f"31.3 ± {np.std([30, 31, 33]):.1f}"
    assert line["measured", "Full dataset"] == "86.5 ± 0.5"  # a ceiling, never the best
    assert line["published", "Full dataset"] == "87.5 ± 0.5"
    assert line["published", "Ours (DGS)"] == "**37.4 ± 0.3**"
    assert list(table["published"]) == ["Random (first files)", "K-Center", "Herding", "DiT", "DM", "IDC-1", "Minimax",
                                        "Ours (DGS)", "Full dataset"]  # in the paper's order
    ratios = [f"{ipc} ({100 * ipc * 10 / 12_454:.1f} %)" for ipc in (10, 20, 50)]
    assert list(dict.fromkeys(table.index.get_level_values("IPC (ratio)"))) == ratios
    text = caption(summarise(results), "table1")
    assert "(ddof 0) over the n = 2 to 3 trainings of one set" in text
    assert "(ddof 1) over all n runs of a cell: pool seeds 1 to 2, selection seeds 1, training seeds 2 to 3." in text
    assert f"12,000 steps of fine-tuning are {12_000 / (12_454 // 8):.1f} epochs of ImageWoof's 12,454 images" in text


def test_the_best_published_value_is_bold_by_the_same_rule_as_ours():
    table = layout_table(summarise(rows({"ipc": 999})), "table1")["published"]
    paper = published_table(1)
    rivals = paper[paper["method"] != "full"]
    best = rivals.loc[rivals.groupby(["ipc", "network"])["mean"].idxmax()]
    assert sorted(cell for cell in table.to_numpy().ravel() if "**" in cell) == sorted(
        f"**{mean:.1f} ± {std:.1f}**" for mean, std in zip(best["mean"], best["std"], strict=True))
    assert table.loc[("10 (0.8 %)", "ResNet-18"), "IDC-1"] == "**36.9 ± 0.4**"
    assert (table["Ours (DGS)"].str.startswith("**")).sum() == 8


def test_tables_3_and_4_are_ordered_and_called_as_in_the_paper():
    shapes = ["hill", "ground", "slope", "cliff", "scale"]
    results = pd.concat([runs([40 + place], distribution=name) for place, name in enumerate(sorted(shapes))])
    table = layout_table(summarise(results), "table3")
    assert list(table.index) == ["Hill", "Ground", "Slope", "Cliff", "Scale"]
    assert table["published"][20].tolist() == ["41.7 ± 0.3", "42.7 ± 0.8", "42.7 ± 0.7", "44.3 ± 0.3", "**45.5 ± 0.4**"]
    ablation = layout_table(summarise(results), "distribution")
    assert list(ablation.index.get_level_values("distribution")) == list(table.index)
    assert table.loc["Slope", ("measured", 10)] == "**44.0**"  # the last in alphabetical order
    assert ablation[10].iloc[2] == "44.0"
    sizes = layout_table(summarise(pd.concat([runs([40], pool_factor=6), runs([41], pool_factor=2)])), "table4")
    assert list(sizes.index) == [f"{n} × IPC" for n in (2, 3, 4, 5, 6)]
    assert sizes["measured"][10].tolist() == ["**41.0**", EMPTY_CELL, EMPTY_CELL, EMPTY_CELL, "40.0"]


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from([10, 20, 50]), st.sampled_from(["random", "dit", "dgs", "full"])),
                       st.integers(1, 999).map(lambda tenth: tenth / 10), min_size=1))
def test_every_accuracy_is_there_and_no_cell_is_a_verdict(values):
    summary = summarise(pd.concat([runs([mean], ipc=ipc, method=method) for (ipc, method), mean in values.items()]))
    table = layout_table(summary, "comparison")
    methods = {METHODS[method].label: method for _, method in values}
    shown = [method.label for name, method in METHODS.items() if name in methods.values()]
    assert list(table.index) == [("ImageWoof", label) for label in shown]
    assert list(table.columns) == [("ResNetAP-10", ipc) for ipc in sorted({ipc for ipc, _ in values})]
    for (_, ipc), line in table.loc["ImageWoof"].items():
        known = {label: values[ipc, methods[label]] for label in line.index if (ipc, methods[label]) in values}
        for label, text in line.items():
            assert text == (f"{known[label]:.1f}" if label in known else EMPTY_CELL)


def test_two_results_for_one_cell_are_refused():
    summary = summarise(pd.concat([runs([40]), runs([50], objective="paper")]))
    with pytest.raises(ValueError, match=r"table1 has several results for .*dgs.*, which differ in objective; give 07"):
        layout_table(summary, "table1")


def test_a_setting_that_differs_is_shown_in_the_lines():
    table = layout_table(summarise(pd.concat([runs([40]), runs([50], image_size=128)])), "comparison")
    assert table.index.names == ["dataset", "series", "image_size"]
    assert table["ResNetAP-10", 10].to_dict() == {("ImageWoof", "DGS", 128): "50.0",
                                                  ("ImageWoof", "DGS", 224): "40.0"}


def test_the_full_set_stands_beside_each_ipc():
    results = pd.concat([runs([50], ipc=10), runs([60], ipc=20), runs([86, 87], **FULL)])
    assert summarise(results)["n"].tolist() == [1, 1, 2]  # it is counted once
    as_published = layout_table(summarise(results), "table1")["measured"]["Full dataset"]
    own = layout_table(summarise(results), "comparison").loc["ImageWoof", "Full"]
    for cells, lines, text in ((as_published, 3, "86.5 ± 0.5"), (own, 2, "86.5 ± 0.7")):
        run = cells[cells != EMPTY_CELL]
        assert run.tolist() == [text] * lines  # beside the distilled sets, never the best


@pytest.mark.parametrize("change", [
    {"protocol": "rded"}, {"epoch_factor": 0.5}, {"image_size": 128}, {"n_test": 3929}, {"split": "fastai"},
    {"norm": "batch"}, {"evaluations": 10}, {"batch_size": 32}, {"learning_rate": 0.02}, {"precision": "bf16"},
    {"generation": "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 1.5"}, {"flip": False},
    {"generation": "a DiT of its own size trained here, 50 steps, guidance 4"}])
def test_published_values_stand_only_beside_runs_of_their_kind(change):
    table = layout_table(summarise(runs([40, 42], **change)), "table1")
    assert list(dict.fromkeys(table.columns.get_level_values(0))) == ["measured", "all noise"]
    assert "37.4" not in table.to_string()
    assert "Published values are left out" in caption(summarise(runs([40, 42], **change)), "table1")
    assert "Published values" not in caption(summarise(runs([40, 42])), "table1")
    assert "a seeded draw of ours" in caption(summarise(runs([40, 42])), "table1")


def test_ablations_show_what_varies():
    results = pd.concat([runs([40, 42]), runs([50, 54], objective="paper"), runs([30], ipc=20)])
    summary = summarise(results)
    assert ablated_columns(summary) == ["objective"]
    table = layout_table(summary, "objective")
    assert table.to_dict("index") == {("ImageWoof", "ResNetAP-10", "code"): {10: "41.0 ± 1.4", 20: "30.0"},
                                      ("ImageWoof", "ResNetAP-10", "paper"): {10: "52.0 ± 2.8", 20: EMPTY_CELL}}


def test_an_ablation_shows_only_sets_that_differ_in_nothing_else():
    summary = summarise(pd.concat([
        runs([40]), runs([41], distribution="hill"), runs([42], pool_factor=2), runs([43], objective="paper"),
        runs([44], distribution="cliff", pool_factor=4),  # two steps away from any other
        runs([45], network="convnet6"), runs([46], method="random", pool_factor=0, distribution="", objective="")]))
    assert ablated_columns(summary) == ["distribution", "pool_factor", "objective"]
    shown = {name: sorted(cells_shown(summary, name)["best"]) for name in ablated_columns(summary)}
    assert shown == {"distribution": [40, 41], "pool_factor": [40, 42], "objective": [40, 43]}
    assert sorted(cells_shown(summary, "comparison")["best"]) == [40, 44, 45, 46]  # what no ablation shows stays


def test_labels_of_a_table_are_merged():
    results = pd.concat([runs([50], epoch_factor=0.02, epochs=40), runs([50], ipc=20, epoch_factor=0.02, epochs=30)])
    assert "(protocol idc, H-A, scaled: 40 epochs or 30 epochs)" in caption(summarise(results))


def test_protocols_are_never_laid_out_together():
    summary = summarise(pd.concat([runs([40]), runs([50], protocol="other")]))
    with pytest.raises(ValueError, match="comparison mixes the protocols idc, other; make one table each"):
        layout_table(summary, "comparison")


def test_files_of_one_protocol(tmp_path):
    results = pd.concat([runs([40, 42]), runs([50, 51, 55], method="dit", distribution="", pool_factor=0)])
    table = write_table(results, "comparison", tmp_path)["idc"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["accuracy.csv", "accuracy.md", "accuracy.tex"]
    tidy = pd.read_csv(tmp_path / "accuracy.csv", keep_default_na=False).set_index("method")
    assert float(tidy.loc["dgs", "best"]) == 41
    assert float(tidy.loc["dit", "std"]) == pytest.approx(np.std([50, 51, 55], ddof=1))
    assert table.loc[("ImageWoof", "DiT"), ("ResNetAP-10", 10)] == "52.0 ± 2.6"

    markdown = (tmp_path / "accuracy.md").read_text().splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in markdown[:4]]
    assert cells == [["Dataset", "Method", "ResNetAP-10 IPC 10"], ["---"] * 3,
                     ["ImageWoof", "DiT", "52.0 ± 2.6"], ["ImageWoof", "DGS", "41.0 ± 1.4"]]
    assert markdown[5] == caption(summarise(results))

    latex = (tmp_path / "accuracy.tex").read_text()
    assert latex.startswith("\\begin{tabular}{lll}\n\\toprule\n")
    assert r"ImageWoof & DiT & 52.0 $\pm$ 2.6 \\" in latex
    assert "±" not in latex


def test_latex_of_awkward_names_by_hand(tmp_path):
    results = pd.concat([runs([40, 42], dataset="a_b & 50% #1"), runs([43], ipc=20, dataset="a_b & 50% #1")])
    write_table(results, "comparison", tmp_path)
    assert (tmp_path / "accuracy.tex").read_text().splitlines()[:7] == [
        r"\begin{tabular}{llll}", r"\toprule", r"Dataset & Method & ResNetAP-10 IPC 10 & ResNetAP-10 IPC 20 \\",
        r"\midrule", r"a\_b \& 50\% \#1 & DGS & 41.0 $\pm$ 1.4 & 43.0 \\", r"\bottomrule",
        r"\end{tabular}"]


def test_markdown_has_the_cells_that_pandas_would_write():
    text = layout_table(summarise(pd.concat([runs([40, 42], ipc=ipc) for ipc in (10, 20)])), "comparison")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.markdown(text).splitlines()]
    flat = tables._flat(text)
    assert lines == [list(flat), ["---"] * flat.shape[1], *flat.astype(str).to_numpy().tolist()]


@pytest.mark.parametrize("name", TABLE_LAYOUTS)
def test_every_line_of_every_file_has_all_its_cells(tmp_path, name):
    write_table(pd.concat([runs([40, 42], ipc=ipc) for ipc in (10, 20)]), name, tmp_path)
    lines = [line for line in (tmp_path / f"{FILE_STEMS.get(name, name)}.md").read_text().splitlines()
             if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    latex = (tmp_path / f"{FILE_STEMS.get(name, name)}.tex").read_text()
    body = [line for line in latex.splitlines() if "&" in line]
    assert len(body) == len(lines) - 1  # Markdown has a ruler too
    columns = len(re.search(r"\{(l+)\}", latex)[1])
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {columns - 1} == {lines[0].count("|") - 2}
    assert latex.count(r"\toprule") == latex.count(r"\midrule") == latex.count(r"\bottomrule") == 1
    assert all(line.rstrip().endswith((r"\\", r"\midrule")) for line in body)
    assert EMPTY_CELL not in latex


def test_each_protocol_gets_files_of_its_own(tmp_path):
    results = pd.concat([runs([40, 42]), runs([90, 92], protocol="other")])
    shown = write_table(results, "comparison", tmp_path)
    names = [f"accuracy-{protocol}.{kind}" for protocol in ("idc", "other") for kind in ("csv", "md", "tex")]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    for protocol, own, others in (("idc", "41.0", "91.0"), ("other", "91.0", "41.0")):
        text = (tmp_path / f"accuracy-{protocol}.md").read_text()
        assert own in text
        assert others not in text
        assert f"(protocol {protocol}, H-A)" in text
        assert pd.read_csv(tmp_path / f"accuracy-{protocol}.csv")["protocol"].unique().tolist() == [protocol]
    assert list(shown) == ["idc", "other"]


def test_an_ablation_s_csv_holds_its_own_cells(tmp_path):
    write_table(pd.concat([runs([40, 42]), runs([50, 51], distribution="hill"), runs([60], method="dit")]),
                "distribution", tmp_path)
    assert pd.read_csv(tmp_path / "distribution.csv")["best"].tolist() == [41, 50.5]


def test_caption_tells_how_the_numbers_came_about():
    results = pd.concat([runs([50, 51, 52]), runs([40, 41], ipc=20)])
    text = caption(summarise(results))
    assert "protocol idc, H-A" in text
    assert "(ddof 1) of 2 to 3 runs: pool seeds 1, selection seeds 1, training seeds 2 to 3" in text
    assert "one test (500 images) is up to 2.2 points" in text
    assert "Epochs" not in text
    assert "Epochs are the protocol's × 0.01." in caption(summarise(runs([50], epoch_factor=0.01)))
