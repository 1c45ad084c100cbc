"""The committed evidence: its tables follow from its rows, the pages quote them, and no file is too large."""

import hashlib
import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
import small_grid
from evidence import (
    ASKED,
    COMMANDS,
    README_RULES,
    RIVALS,
    TITLES,
    claims_in_words,
    collect,
    difference_lines,
    ledger_lines,
    nodes_behind,
    nodes_of,
    older,
    readme_lines,
    rule_lines,
    shows_images,
    took,
    wrapped,
)
from restamp import restamp

from dgs_utils.results.claims import ClaimInputs, claims_table
from dgs_utils.results.comparisons import compare_with_others, signed
from dgs_utils.results.gain_vs_shift import add_differences_to_dgs, pool_gains
from dgs_utils.results.published_tables import published_table
from dgs_utils.results.random_effects import UnitTable, half_width, p_equivalent, variance_of_difference
from dgs_utils.results.reports import write_claims, write_differences, write_gains
from dgs_utils.results.result_tables import write_table
from dgs_utils.results.rows import main_series, read_results
from dgs_utils.results.summaries import ablated_columns, summarise

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "outputs" / "evidence"
FOLDERS = sorted(folder for folder in EVIDENCE.iterdir() if folder.is_dir())
RESULTS = (ROOT / "README.md").read_text().partition("## Results")[2].partition("\n## ")[0]
LEDGER = (EVIDENCE / "README.md").read_text()
FINDINGS = LEDGER.partition("## Findings")[2].partition("\n## ")[0]
PROSE = " ".join(f"{RESULTS} {FINDINGS}".split())
DATA_PAGE = " ".join((ROOT / "params" / "data.md").read_text().split())
MAIN_EXPERIMENTS = ("cifar10_pools", "cifar10_rules", "cifar10_sizes", "bias_fashion", "bias_cifar10",
                    "compute_fashion")
RIVALRY = LEDGER.partition("## DGS against the baselines")[2].partition("\n## ")[0]
LOG = " ".join(LEDGER.partition("## Log")[2].partition("\n## ")[0].split())


README_RULES_BACK = {title: rule for rule, title in README_RULES.items()}


def files_in(folder: Path) -> list[Path]:
    """Return the files of one folder of the evidence; a folder in it has the pages of its notebooks."""
    return [path for path in folder.iterdir() if path.is_file()]


def assert_same(again: Path, kept: Path) -> None:
    """Compare two tables; columns that came later are missing in the committed one."""
    found = pd.read_csv(kept)
    pd.testing.assert_frame_equal(pd.read_csv(again)[list(found)], found)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_follow_from_the_runs(tmp_path, folder):
    shutil.copy(folder / "results.csv", tmp_path)
    results = read_results([tmp_path])
    for name in ("comparison", *ablated_columns(summarise(results))):
        write_table(results, name, tmp_path)
    names = sorted(file.stem for file in tmp_path.glob("*.tex"))
    for name in names:
        assert (tmp_path / f"{name}.md").read_text() == (folder / f"{name}.md").read_text()
        assert_same(tmp_path / f"{name}.csv", folder / f"{name}.csv")
    kept = {file.stem for file in folder.glob("*.md")}
    gains = pool_gains(results)
    if len(gains):
        names.append("gains")
        write_gains(add_differences_to_dgs(gains), "gains", tmp_path)
        assert (tmp_path / "gains.md").read_text() == (folder / "gains.md").read_text()
        assert_same(tmp_path / "gains.csv", folder / "gains.csv")
    if "claims" in kept:
        write_claims(claims_table(ClaimInputs(results)), "claims", tmp_path)
        assert (tmp_path / "claims.md").read_text() == (folder / "claims.md").read_text()
    assert kept - {"claims"} == {*names, "differences", "findings"}


def test_the_paper_s_claims_follow_from_its_tables(tmp_path):
    table = claims_table()
    write_claims(table, "claims", tmp_path)
    for name in ("claims.md", "claims.csv"):
        assert (tmp_path / name).read_text() == (EVIDENCE / name).read_text()
    for text in (LEDGER, (ROOT / "notebooks" / "published_code.md").read_text()):
        assert claims_in_words(table) in " ".join(text.split())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_comparisons_follow_from_the_runs(tmp_path, folder):
    results = read_results([folder])
    main, rivals = main_series(results), list(dict.fromkeys(results["series"]))
    rivals.remove(main)
    again = compare_with_others(results, main, rivals)
    write_differences(again, summarise(results), tmp_path)
    assert (tmp_path / "differences.md").read_text() == (folder / "differences.md").read_text()
    assert_same(tmp_path / "differences.csv", folder / "differences.csv")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_ledger_tells_every_table(folder):
    assert (folder / "accuracy.md").read_text().strip() in LEDGER
    tables, rows = (json.loads((folder / name).read_text()) for name in ("manifest.json", "rows.json"))
    lines = [line for line in LEDGER.splitlines() if line.startswith(f"| {folder.name}: ")]
    assert len(lines) == len(list(folder.glob("*.md")))
    for line in lines:
        assert f"| {rows['git']} | {tables['git']} | {rows['device']} |" in line
        assert f"`dgs run params/{folder.name}.yaml" in line
    assert not tables["git"].endswith("-dirty")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_are_those_of_their_manifest(folder):
    tables, rows = (json.loads((folder / name).read_text()) for name in ("manifest.json", "rows.json"))
    digest = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files_in(folder)}
    assert rows["files"]["results.csv"]["sha256"] == digest["results.csv"]  # as they were collected
    assert tables["identity"]["results"] == [f"sha256:{digest['results.csv']}"]
    made = {name for name in digest if name in tables["files"]} - {"results.csv"}
    assert {"accuracy.csv", "accuracy.md", "accuracy.png", "differences.csv", "differences.md", "differences.png",
            "findings.md", "summary.csv", "figure4.png"} <= made
    assert all(tables["files"][name]["sha256"] == digest[name] for name in made)


def test_notebook_07_makes_them_from_the_rows_alone(tmp_path, monkeypatch):
    folder = EVIDENCE / "quickstart"
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path))
    small_grid.execute(ROOT / "notebooks" / "07_figures.ipynb", tmp_path / "out.ipynb", title="quickstart",
                       results=[str(folder / "results.csv")], output=str(tmp_path / "made"))
    for name in ("accuracy.md", "differences.md", "findings.md"):
        assert (tmp_path / "made" / name).read_text() == (folder / name).read_text()
    made = {file.name for file in (tmp_path / "made").iterdir()}
    assert {"accuracy.png", "differences.png", "claims.md", "manifest.json"} <= made


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def is_kept_whole(folder: Path) -> bool:
    """Tell whether a clean commit stands behind each row: the manifests of all stages behind it are listed."""
    nodes = nodes_of(folder.name)
    return nodes is not None and not nodes["git"].str.endswith("-dirty").any()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_commits_are_part_of_the_history(folder):
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no git history here")
    commits = {json.loads((folder / file).read_text())["git"] for file in ("rows.json", "manifest.json")}
    if (nodes := nodes_of(folder.name)) is not None:
        commits |= set(nodes["git"])
    for commit in (text.removesuffix("-dirty") for text in commits):
        if git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
            pytest.skip(f"this copy of the history does not hold {commit}")
        assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, commit


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_rows_are_those_of_a_clean_commit_or_called_older(folder):
    paragraph = " ".join(RIVALRY.partition("*Older rows*")[2].partition("\n\n")[0].split())
    assert (f"{folder.name} (" in paragraph) != is_kept_whole(folder)
    if is_kept_whole(folder):
        nodes = pd.read_csv(folder / "nodes.csv", dtype=str)
        trained = set(nodes.loc[nodes["stage"] == "06_evaluate", "key"])
        assert set(pd.read_csv(folder / "results.csv", dtype=str)["key"]) == trained
        minutes = round(nodes["seconds"].astype(float).sum() / 60)
        assert took(folder.name) == f"{minutes} minutes of notebooks"


def test_ledger_and_readme_are_as_the_command_writes_them():
    lines = [line for name in COMMANDS for line in ledger_lines(name)]
    assert [line for line in LEDGER.splitlines() if "](" in line and line.startswith("| ")] == lines
    assert sorted(COMMANDS) == [folder.name for folder in FOLDERS]
    assert [line for line in RIVALRY.splitlines() if line.startswith("|")][2:] == difference_lines()
    assert [line for line in FINDINGS.splitlines() if line.startswith("|")][2:] == rule_lines()
    assert [line for line in RESULTS.splitlines() if line.startswith("|")][2:] == readme_lines()
    assert len(readme_lines()) <= 7
    paragraph = older(list(COMMANDS))
    assert wrapped(paragraph) in RIVALRY
    assert bool(paragraph) == ("*Older rows*" in RIVALRY)
    assert is_kept_whole(EVIDENCE / ASKED)  # what the README shows


def test_what_stands_behind_a_run_is_read_from_its_manifests(tmp_path_factory):
    workspace, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    expected = small_grid.manifests(workspace)
    [figures] = [workspace / "outputs" / name for name in expected if name.startswith("07_figures/")]
    found = nodes_behind(figures, workspace / "outputs")
    assert sorted(found["key"]) == sorted(manifest["key"] for manifest in expected.values())
    assert found["seconds"].sum() == pytest.approx(sum(manifest["seconds"] for manifest in expected.values()))


# ---- The pages -------------------------------------------------------------------------------------------------------

def differences_of(name: str) -> pd.DataFrame:
    return pd.read_csv(EVIDENCE / name / "differences.csv")


def interval(row: pd.Series) -> str:
    return f"({signed(row['low'])} to {signed(row['high'])})"


def test_the_table_of_rivals_is_that_of_the_comparisons():
    lines = []
    for name, title in TITLES.items():
        for (condition, ipc), part in differences_of(name).groupby(["condition", "ipc"], sort=False):
            known = {row["second"]: f"{signed(row['difference'])} {interval(row)}" for _, row in part.iterrows()}
            cells = [f"{title}, {condition}, IPC {ipc}", *(known.get(rival, "–") for rival in RIVALS)]
            lines.append(f"| {' | '.join(cells)} |")
    assert [line for line in RIVALRY.splitlines() if line.startswith("|")][2:] == lines


def test_the_tables_of_rules_are_those_of_the_evidence():
    found = pd.read_csv(EVIDENCE / ASKED / "rules.csv").query("source == 'pool'")
    expected = {row["rule"]: [f"{row['best']:.1f}", f"{signed(row['difference'])} {interval(row)}"]
                for _, row in found.iterrows()}
    full, short = ({cells[0]: cells[1:] for cells in (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| "))}
        for text in (FINDINGS, RESULTS))
    assert {rule: cells for rule, cells in full.items() if rule in expected} == expected
    summary = pd.read_csv(EVIDENCE / ASKED / "accuracy.csv").set_index("series")["best"]
    baseline = short.pop("Random (baseline)")
    assert baseline == [f"{summary['Random of pool']:.1f}", "–"]
    shown = {README_RULES_BACK[title]: cells for title, cells in list(short.items())[2:]}
    assert shown == {rule: expected[rule] for rule in shown}
    assert len(shown) == 6


@pytest.mark.parametrize(("rival", "words"), [
    ("Easiest", "DGS is {} points below the easiest ({} to {})"),
    ("Hardest", "and {} above the hardest ({} to {})"),
    ("Random", "random real images within ± 2 points** ({}, {} to {})"),
    ("Random of pool (cut errors)", "images of the pool that the scorer does not misclassify ({}, {} to {})"),
    ("Random of pool", "difference to random images of the whole pool is not decided ({}, {} to {})")])
def test_the_readme_s_sentences_are_those_of_the_comparisons(rival, words):
    table = differences_of(ASKED).set_index("second")
    row = table.loc[rival]
    told = signed(row["difference"]) if "({}, " in words else f"{abs(row['difference']):.1f}"
    assert words.format(told, signed(row["low"]), signed(row["high"])) in PROSE
    assert (row["p_equivalent"] < 0.05) == (rival in ("Random", "Random of pool (cut errors)"))
    assert (row["p_holm"] < 0.05) == (rival == "Hardest")


def test_what_the_readme_says_of_its_draws_holds():
    results, table = read_results([EVIDENCE / ASKED]), differences_of(ASKED).set_index("second")
    means = results.groupby(["series", "selection_seed"])["best"].mean()
    chance, ours = (" and ".join(", ".join(f"{mean:.1f}" for mean in sorted(means[name])).rsplit(", ", 1))
                    for name in ("Random of pool", "DGS"))
    assert f"three random sets reached {chance}, three by DGS {ours}. " in PROSE
    needed = table.loc["Random of pool", "selections_needed"]
    assert f"{needed:.0f} selections would decide a gain of 2 points" in PROSE
    assert len(table) == 10
    assert (table["p_holm"] < 0.05).sum() == 1
    assert results.loc[results["series"] == "Easiest", "best"].tolist() == results.loc[
        results["series"] == "Confidence (CaO2)", "best"].tolist()


STRONG, FOLDED = "scored by cifar10_resnet_ap10", "scored by convnet3, 2 folds"


@pytest.mark.parametrize(("rival", "words"), [
    (f"DGS (scale, code, {STRONG}, cut errors)", "without them DGS gains {} points ({} to {})"),
    (f"DGS (scale, paper, {STRONG})", "in the paper's text is {} points better ({} to {}) than"),
    (f"DGS (scale, code, shared scale, {STRONG})", "with one scale for originals and pool {} ({} to {})"),
    (f"Easiest ({FOLDED})", "which is {} points above DGS by the strong scorer ({} to {})")])
def test_the_readme_quotes_why(rival, words):
    row = differences_of("cifar10_rules").set_index("second").loc[rival]  # DGS minus the rival
    told = words.format(f"{-row['difference']:.1f}", signed(-row["high"]), signed(-row["low"]))
    assert told in PROSE
    assert row["high"] < 0


def test_what_the_readme_calls_an_exploration_is_one():
    table, results = differences_of("cifar10_rules"), read_results([EVIDENCE / "cifar10_rules"])
    means = results.groupby("series")["best"].mean()
    assert set(table["first"]) == {f"DGS (scale, code, {STRONG})"}
    assert f"after Holm's correction over its {len(table)} comparisons of DGS only one is significant" in PROSE
    assert (table["p_holm"] < 0.05).sum() == 1
    quoted = table[table["second"].isin([f"DGS (scale, code, {STRONG}, cut errors)", f"DGS (scale, paper, {STRONG})"])]
    assert len(quoted) == 2
    assert "an exploration: neither is significant after Holm's correction)" in PROSE
    assert (quoted["p_holm"] >= 0.05).all()
    assert f"by a cross-fitted ConvNet-3 the easiest reach {means[f'Easiest ({FOLDED})']:.1f}, " in PROSE
    assert f"and DGS {means[f'DGS (scale, code, {FOLDED})']:.1f}." in PROSE
    assert (results.groupby("series")["training_seed"].nunique() == 2).all()


def test_what_the_readme_says_of_sizes_and_generators_holds():
    found = pd.read_csv(EVIDENCE / "cifar10_sizes" / "rules.csv")
    ours, easiest = (found[found["rule"] == rule] for rule in ("DGS", "Easiest"))
    several, alone = ours[ours["ipc"] > 10].sort_values("ipc"), ours[ours["ipc"] == 10].set_index("generator")
    assert several["ipc"].tolist() == [20, 50]
    quoted = "; ".join(f"{signed(row['difference'])}, {interval(row).strip('()')}" for _, row in several.iterrows())
    assert f"DGS does not differ significantly from random images of the pool ({quoted}), nor with 10 of four" in PROSE
    big = alone.loc["BigGAN"]
    assert f"of BigGAN's it is {-big['difference']:.1f} below {interval(big)}" in PROSE
    undecided = pd.concat([several, alone.drop("BigGAN")])
    assert len(undecided) == 6
    assert ((undecided["low"] < 0) & (undecided["high"] > 0)).all()
    assert big["high"] < 0
    gains = easiest["difference"]
    assert len(gains) == 7
    assert f"in all seven cases, by {gains.min():.1f} to {gains.max():.1f} points" in PROSE
    assert easiest["low"].isna().all()
    assert gains.min() > 0


@pytest.mark.parametrize(("name", "rule", "bias", "words"), [
    ("bias_fashion", "DGS (code)", -6, "DGS gains {} points over random images of its pool ({})"),
    ("bias_fashion", "Easiest", -6, "images gain {} ({})"),
    ("bias_fashion", "DGS (code)", 6, "DGS gains nothing** ({}, {} at β 6; −1.3"),
    ("bias_fashion", "DGS (code)", 3, "; {}, {} at β 3)"),
    ("bias_fashion", "Easiest", 6, "Keeping the easiest costs {} points there ({})"),
    ("bias_fashion", "DGS (code) minus DGS (none)", 6, "is seen ({}, {})"),
    ("bias_fashion", "DGS (code) minus DGS (none)", -6, "on the hardest it costs {} ({})"),
    ("bias_cifar10", "DGS (code)", 6, "on easier pools DGS is {} points below random images ({})"),
    ("bias_cifar10", "DGS (code)", 0, "on the others no gain is seen ({}, {} at β 0;"),
    ("bias_cifar10", "DGS (code)", -6, "; {}, {} at β −6)"),
    ("bias_cifar10", "DGS (none)", -6, "Without the logarithm it gains {} on the hard ones ({})")])
def test_the_readme_quotes_the_gains_on_pools_of_known_bias(name, rule, bias, words):
    found = pd.read_csv(EVIDENCE / name / "gains.csv")
    [row] = found[(found["rule"] == rule) & (found["bias"] == bias)].to_dict("records")
    undecided, lost = "{}, {}" in words, "costs" in words or "below" in words
    told = signed(row["gain"]) if undecided else f"{abs(row['gain']):.1f}"
    assert words.format(told, interval(row).strip("()")) in PROSE
    assert (row["low"] <= 0 <= row["high"]) == undecided
    assert undecided or (row["gain"] < 0) == lost
    assert row["pools"] == 4
    assert (found.groupby("bias")["pools"].first() == 4).all()


def test_what_the_readme_says_of_the_number_of_pools_holds():
    biases = {name: set(pd.read_csv(EVIDENCE / name / "gains.csv")["bias"])
              for name in ("bias_fashion", "bias_cifar10")}
    assert len(biases["bias_fashion"]) * 4 == 20
    assert len(biases["bias_cifar10"]) * 4 == 12
    assert "Twenty pools of real Fashion-MNIST images and twelve of CIFAR-10, " in PROSE
    assert biases["bias_cifar10"] == {-6, 0, 6}


def test_what_the_readme_says_of_training_longer_holds():
    every = pd.read_csv(EVIDENCE / "compute_fashion" / "rules.csv").sort_values("steps")
    found, ours = every[every["ipc"] == 10], every[every["rule"] == "DGS"]
    easiest, hardest = (found[found["rule"] == rule] for rule in ("Easiest", "Hardest"))
    first, last = easiest.iloc[0], easiest.iloc[-1]
    assert f"10 images per class, {first['steps']} to {last['steps']:,} steps; " in PROSE
    assert (f"the easiest go from {first['difference']:.1f} points above random images {interval(first)} to "
            f"{-last['difference']:.1f} below {interval(last)}. ") in PROSE
    assert first["low"] > 0 > last["high"]
    assert easiest["difference"].is_monotonic_decreasing
    assert "DGS does not differ significantly from random images at any of the eight lengths" in PROSE
    assert len(ours) == 8
    assert ((ours["low"] < 0) & (ours["high"] > 0)).all()
    lost = -hardest["difference"]
    assert f"the hardest stay {int(lost.min())} to {lost.max():.0f} points below them" in PROSE
    assert (hardest["high"] < 0).all()


def test_every_quoted_interval_is_one_of_the_evidence():
    """Of the README and the findings: each is in some table, lost or gained, with the number before it."""
    known = defaultdict(set)
    for file in (file for name in MAIN_EXPERIMENTS for file in (EVIDENCE / name).glob("*.csv")):
        if file.stem in ("differences", "rules", "gains"):
            table = pd.read_csv(file).rename(columns={"gain": "difference"})
            for value, low, high in table[["difference", "low", "high"]].itertuples(index=False):
                known[signed(low), signed(high)].add(f"{abs(value):.1f}")
                known[signed(-high), signed(-low)].add(f"{abs(value):.1f}")
    quoted = re.findall(r"(\d+\.\d)\D{1,45}([−+]\d+\.\d) to ([−+]\d+\.\d)", PROSE)
    assert len(quoted) == len(re.findall(r"[−+]\d+\.\d\s+to\s+[−+]\d", PROSE)) > 40
    assert [(value, low, high) for value, low, high in quoted if value not in known[low, high]] == []


def test_dgs_gains_over_random_only_where_the_pool_is_harder():
    """By all rows there are, with its logarithm; so the README's first screen says it."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "DGS gains over random images of the same pool only where that pool is harder than the originals." in readme
    rules = pd.concat([pd.read_csv(file).assign(name=file.parent.name) for file in EVIDENCE.glob("*/rules.csv")])
    gains = rules[rules["rule"].str.match(r"DGS(?! \(none)") & (rules["source"] == "pool") & (rules["low"] > 0)]
    assert set(gains["name"]) == {"bias_fashion"}
    assert set(gains["bias"]) == {-6}


def test_the_readme_says_how_long_each_experiment_took():
    minutes = {name: took(name).split()[0] for name in MAIN_EXPERIMENTS}
    listed = ", ".join(f"{name} {minutes[name]}" for name in MAIN_EXPERIMENTS)
    assert f"`dgs run params/{ASKED}.yaml --jobs 2`, {minutes[ASKED]} minutes on two cores" in PROSE
    assert f"The notebooks of these experiments took, in minutes on two cores: {listed}. " in PROSE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_image_is_passed_on_that_may_only_be_measured(folder):
    of_numbers = {"accuracy", "accuracy_by_ipc", "differences", "figure1", "figure2", "figure4", "gain_over_shift",
                  "rules", "rules_by_ipc", "rules_by_steps"}
    rows = pd.read_csv(folder / "results.csv")
    others = rows["dataset"].isin(["cifar10", "imagewoof", "imagenette", "imageidc"]).any()
    given = "generator" in rows and set(rows["generator"].dropna()) - {"dit", "minimax", "mgd3"}  # not generated here
    images = {file.stem for file in files_in(folder) if file.suffix not in (".csv", ".json", ".md")} - of_numbers
    assert images <= (set() if others and given else {"figure3", "sets"})
    assert not others or "sets" not in images


@pytest.mark.parametrize(("dataset", "generator", "originals", "shown"), [
    ("digits", "originals", True, True),
    ("imagewoof", "originals", False, False),
    ("imagewoof", "minimax", False, True),
    ("imagewoof", "minimax", True, False),
    ("cifar10", "BigGAN", False, False),
    ("folder", "originals", False, False)])
def test_what_is_taken_over_of_a_run_holds_no_image_of_others(tmp_path, tmp_path_factory, monkeypatch, dataset,
                                                              generator, originals, shown):
    workspace, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    shutil.copytree(workspace / "outputs", tmp_path / "outputs")
    [folder] = (tmp_path / "outputs" / "07_figures").glob("small-*")
    [rated] = (tmp_path / "outputs" / "06_evaluate").glob("*-dgs-*")
    rows = pd.read_csv(rated / "results.csv").assign(dataset=dataset, generator=generator)
    rows.to_csv(folder / "results.csv", index=False)
    params = json.loads((folder / "manifest.json").read_text())["params"]
    restamp(folder / "manifest.json", params=params | {"show_originals": originals})
    figures = {"figure1.png", "figure2.png", "figure3.png", "sets.png"}
    for name in figures:
        (folder / name).write_bytes(b"a figure")
    monkeypatch.setattr("evidence.EVIDENCE", tmp_path)
    collect("taken", folder)
    assert shows_images(folder) == shows_images(tmp_path / "taken") == shown
    assert {file.name for file in (tmp_path / "taken").glob("*.png")} == (
        figures - ({"figure3.png"} if not shown else set()) - ({"sets.png"} if dataset != "digits" else set()))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_evidence_tells_no_place_on_a_machine(folder):
    places = re.compile(r"(?<![\w.)/-])/(?:home|root|tmp|work|mnt|media|data|srv|opt|var|Users)/|[A-Z]:\\\\")
    for file in files_in(folder):
        if file.suffix in (".csv", ".json", ".md"):
            assert not places.search(file.read_text()), file.name


@pytest.mark.parametrize(("rival", "ipc", "words"), [
    ("Random", 20, "4.0 points below random real images at IPC 20"), ("DM", 10, "5.8 below DM"),
    ("IDC-1", 10, "6.4 below IDC-1")])
def test_the_log_s_sentences_are_those_of_the_comparisons(rival, ipc, words):
    table = differences_of("fashion_table")
    [row] = [row for _, row in table[(table["second"] == rival) & (table["ipc"] == ipc)
                                     & (table["network"] == "convnet3")].iterrows()]
    assert f"{words} {interval(row)}" in LOG
    assert f"{-row['difference']:.1f}" == words.split()[0]
    assert row["high"] < 0


def test_what_the_log_says_of_photographs_holds():
    table = differences_of("woof128_photos").set_index("second")
    random, easiest = table.loc["Random of pool"], table.loc["Easiest"]
    told = interval(random).strip("()")
    assert f"from random images of its pool ({signed(random['difference'])}, {told})" in LOG
    assert f"is {-easiest['difference']:.1f} points below the easiest images {interval(easiest)}" in LOG
    assert random["low"] < 0 < random["high"]
    assert easiest["high"] < 0
    assert (table["p_holm"] >= 0.05).all()
    reached = pd.read_csv(EVIDENCE / "woof128_photos" / "accuracy.csv")["best"].max()
    assert f"reach no more than {reached:.1f} %" in LOG
    rows = pd.read_csv(EVIDENCE / "woof128_photos" / "results.csv")
    assert set(rows["bias"]) == {3}
    assert (rows["shift"].dropna() < 0).all()
    assert rows["pool_seed"].nunique() == 4


def test_what_the_log_says_of_the_kit_s_own_pools_holds():
    found = pd.concat([differences_of(name) for name in ("fashion_table", "nette64_cpu", "woof128_cpu")],
                      ignore_index=True)
    assert (found["p_holm"].dropna() >= 0.05).all()  # none is decided
    pools = found[found["second"] == "Random of pool"]
    alike = pools[pools["p_equivalent"] < 0.05]
    assert alike["dataset"].tolist() == ["imagewoof"]
    others = pools.drop(alike.index)[lambda rows: rows["dataset"] != "imagewoof"]
    assert ((others["low"] < -2) & (others["high"] > 2)).all()  # both a loss and a gain that matter
    fashion = differences_of("fashion_table")
    small = fashion[fashion["network"] == "convnet3"]
    assert (small.loc[small["second"].isin(["K-Center", "RDED crops"]), "low"] > 0).all()


def test_the_readme_quotes_the_published_values():
    woof = published_table(1).query("network == 'resnet_ap10'")
    ours = woof[woof["method"] == "dgs"].set_index("ipc")["mean"].round().astype(int)
    full = int(woof.loc[woof["method"] == "full", "mean"].iloc[0])
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert (f"*Published* for ResNetAP-10 on ImageWoof: {ours[10]} % from 10 images a class, {ours[50]} % from 50, "
            f"{full} % from all") in readme


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_evidence_is_small_and_complete(folder):
    assert {"results.csv", "rows.json", "manifest.json", "accuracy.png", "figure2.png", "figure4.png"} <= {
        file.name for file in files_in(folder)}
    assert all(file.stat().st_size <= 350_000 for file in files_in(folder))


def test_bf16_trains_as_well_as_fp32():
    """A set and a training seed are shared by several pairs, so that a difference is of sets × trainings."""
    rows = read_results([ROOT / "outputs" / "evidence" / "fashion_precision"])
    best = rows.pivot_table(index=["precision", "method"], columns="training_seed", values="best")  # of two networks
    grid = (best.loc["bf16"] - best.loc["fp32"]).to_numpy()
    terms = variance_of_difference([UnitTable(grid, "selections")], [[0]])
    low, high = grid.mean() - half_width(terms), grid.mean() + half_width(terms)
    assert grid.shape == (4, 3)
    assert p_equivalent(grid.mean(), 2.0, terms) < 0.05
    assert (f"Over four sets × three trainings it is {grid.mean():.1f} points above ({signed(low)} to "
            f"{signed(high)}), so as good within ± 2 points") in LOG


@pytest.mark.parametrize(("rule", "ipc", "words"), [
    ("Hardest", 2, "of two images a class the hardest are {} points below random ones {}"),
    ("Hardest", 10, "of ten, the hardest are {} points below {}"),
    ("Easiest", 10, "and the easiest {} {}")])
def test_the_readme_quotes_what_rules_have_above_random(rule, ipc, words):
    found = pd.read_csv(EVIDENCE / "which_images" / "rules.csv")
    [row] = found.query("rule == @rule and ipc == @ipc and score == '1 − p(class)'").to_dict("records")
    assert row["high"] < 0
    assert words.format(signed(row["difference"]).removeprefix("−"), interval(row)) in DATA_PAGE


def test_which_rules_do_not_differ_from_random():
    assert "DGS and CCS do not differ significantly from random." in DATA_PAGE
    found = pd.read_csv(EVIDENCE / "which_images" / "rules.csv")
    held = found[found["rule"].isin(["DGS", "CCS"])]
    assert len(held) == 8
    assert (held["low"] * held["high"] < 0).all()
