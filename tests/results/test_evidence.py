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
    IN_SENTENCES,
    KEPT,
    README_RULES,
    accuracies,
    against_random,
    asked_setting,
    claims_in_words,
    collect,
    ledger_findings,
    ledger_line,
    nodes_behind,
    nodes_of,
    readme_lines,
    readme_table,
    readme_verdicts,
    rule_lines,
    shown_figures,
    shows_images,
    tables,
    verdict_sentences,
)
from restamp import restamp
from scipy import stats

from dgs_utils.results.claims import claims_table
from dgs_utils.results.comparisons import signed
from dgs_utils.results.findings import find
from dgs_utils.results.published_tables import published_table
from dgs_utils.results.reports import write_claims
from dgs_utils.results.rows import read_results

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "outputs" / "evidence"
FOLDERS = sorted(folder for folder in EVIDENCE.iterdir() if folder.is_dir())
RESULTS = (ROOT / "README.md").read_text().partition("## Results")[2].partition("\n## ")[0]
LEDGER = (EVIDENCE / "README.md").read_text()
FINDINGS = LEDGER.partition("## Findings")[2].partition("\n## ")[0]
PROSE = " ".join(f"{RESULTS} {FINDINGS}".split())
DATA_PAGE = " ".join((ROOT / "params" / "data.md").read_text().split())
MAIN_EXPERIMENTS = ("cifar10_pools", "cifar10_ipc", "cifar10_rules", "cifar10_sizes", "bias_fashion", "bias_cifar10",
                    "compute_fashion", "woof128_over")


def files_in(folder: Path) -> list[Path]:
    """Return the files of one folder of the evidence; a folder in it has the pages of its notebooks."""
    return [path for path in folder.iterdir() if path.is_file()]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_findings_and_accuracies_follow_from_the_rows(folder):
    made = tables(folder.name)
    headline, sentences = find(read_results([folder]), made["differences"], made["summary"])
    text = "\n".join([f"## {folder.name}: {headline}", "", *(f"* {sentence}" for sentence in sentences)])
    assert (folder / "findings.md").read_text() == f"{text}\n"
    assert accuracies(folder.name) in LEDGER


def test_the_paper_s_claims_follow_from_its_tables(tmp_path):
    table = claims_table()
    write_claims(table, "claims", tmp_path)
    assert (tmp_path / "claims.md").read_text() == (EVIDENCE / "claims.md").read_text()
    for text in (LEDGER, (ROOT / "notebooks" / "published_code.md").read_text()):
        assert claims_in_words(table) in " ".join(text.split())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_are_those_of_their_manifest_and_no_others(folder):
    made, rows = (json.loads((folder / name).read_text()) for name in ("manifest.json", "rows.json"))
    digest = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files_in(folder)}
    assert set(digest) == KEPT | shown_figures(folder.name)
    assert rows["files"]["results.csv"]["sha256"] == digest["results.csv"]  # as they were collected
    assert made["identity"]["results"] == [f"sha256:{digest['results.csv']}"]
    assert not made["git"].endswith("-dirty")
    told = {name for name in digest if name in made["files"]} - {"results.csv"}
    assert "findings.md" in told
    assert all(made["files"][name]["sha256"] == digest[name] for name in told)


def test_notebook_07_makes_them_from_the_rows_alone(tmp_path, monkeypatch):
    folder = EVIDENCE / "quickstart"
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path))
    small_grid.execute(ROOT / "notebooks" / "07_figures.ipynb", tmp_path / "out.ipynb", title="quickstart",
                       results=[str(folder / "results.csv")], output=str(tmp_path / "made"))
    assert (tmp_path / "made" / "findings.md").read_text() == (folder / "findings.md").read_text()
    assert (tmp_path / "made" / "accuracy.md").read_text().startswith(accuracies("quickstart"))
    again, kept = pd.read_csv(tmp_path / "made" / "differences.csv"), tables("quickstart")["differences"]
    for name in ("second", "difference", "low", "high", "p_holm", "verdict"):
        pd.testing.assert_series_equal(again[name], kept[name], check_dtype=False)
    made = {file.name for file in (tmp_path / "made").iterdir()}
    assert {"accuracy.png", "differences.png", "claims.md", "manifest.json"} <= made


def narrower(experiment: str, ipc: int, first: str, second: str) -> tuple[int, str]:
    """Return the seeds that two arms share, and how far pairs narrow their difference, in words."""
    rows = read_results([EVIDENCE / experiment]).query("ipc == @ipc")
    pairs = rows.pivot(index="selection_seed", columns="series", values="best")[[first, second]].dropna()
    r = stats.pearsonr(pairs[first], pairs[second])
    values = (r.statistic, *reversed(r.confidence_interval()))
    parts = [f"{(1 - value) ** 0.5:.2f}".removeprefix("0") for value in values]
    return len(pairs), "{} ({} to {})".format(*parts)


def test_the_page_of_the_draw_says_how_far_pairs_narrow_differences():
    page = (ROOT / "params" / "drawing.md").read_text().partition("| experiment |")[2].splitlines()[2:]
    lines = [line.strip("| ").split(" | ") for line in page if line.startswith("|")]
    assert len(lines) == 6
    for experiment, ipc, difference, seeds, part in lines:
        assert (int(seeds), part) == narrower(experiment, int(ipc), *difference.split(" − "))


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_commits_are_part_of_the_history(folder):
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no git history here")
    commits = {json.loads((folder / file).read_text())["git"] for file in ("rows.json", "manifest.json")}
    commits |= set(nodes_of(folder.name)["git"])
    for commit in commits:
        if git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
            pytest.skip(f"this copy of the history does not hold {commit}")
        assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, commit


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_rows_are_those_of_clean_commits(folder):
    nodes = nodes_of(folder.name)
    assert not nodes["git"].str.endswith("-dirty").any()
    trained = set(nodes.loc[nodes["stage"] == "06_evaluate", "key"])
    assert set(pd.read_csv(folder / "results.csv", dtype=str)["key"]) == trained


def test_ledger_and_readme_are_as_the_command_writes_them():
    lines = [line for line in LEDGER.splitlines() if line.startswith("| [")]
    assert lines == [ledger_line(name) for name in COMMANDS]
    assert sorted(COMMANDS) == [folder.name for folder in FOLDERS]
    assert ledger_findings() in FINDINGS
    assert readme_table() in RESULTS
    assert readme_verdicts() in RESULTS
    assert len(readme_lines()) <= 7


def test_evidence_is_small():
    files = [file for file in EVIDENCE.rglob("*") if file.is_file()]
    assert len(files) <= 120
    assert sum(file.stat().st_size for file in files) <= 5_000_000
    assert max(file.stat().st_size for file in files) <= 350_000


def test_what_stands_behind_a_run_is_read_from_its_manifests(tmp_path_factory):
    workspace, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    expected = small_grid.manifests(workspace)
    [figures] = [workspace / "outputs" / name for name in expected if name.startswith("07_figures/")]
    found = nodes_behind(figures, workspace / "outputs")
    assert sorted(found["key"]) == sorted(manifest["key"] for manifest in expected.values())
    assert found["seconds"].sum() == pytest.approx(sum(manifest["seconds"] for manifest in expected.values()))


# ---- The pages -------------------------------------------------------------------------------------------------------

def differences_of(name: str) -> pd.DataFrame:
    return tables(name)["differences"]


def interval(row: pd.Series) -> str:
    return f"({signed(row['low'])} to {signed(row['high'])})"


def test_the_tables_of_rules_are_those_of_the_rows():
    """Their accuracies are means of the rows, and their gains those of the comparisons with random images."""
    means = read_results([EVIDENCE / ASKED]).groupby("series")["best"].mean()
    arms = against_random().set_index("arm")
    full = {cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in rule_lines())}
    assert len(full) >= 5
    for rule, (accuracy, gain) in full.items():
        assert accuracy.strip() == f"{means[rule]:.1f}"
        row = arms.loc[rule]
        assert gain.strip() == f"{signed(row['gain'])} {interval(row)}"
    short = {cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in readme_lines())}
    baseline = short.pop("Random (baseline)")
    assert [cell.strip() for cell in baseline] == [f"{means['Random of pool']:.1f}", "–"]
    assert short == {title: full[rule] for rule, title in README_RULES.items()}


def test_what_is_said_of_the_strangers_pools_follows_from_their_rows():
    """Each verdict by Student's t over the seeds that an arm shares with random images, where each is trained once."""
    arms, said = against_random().set_index("arm"), verdict_sentences()
    for arm, row in arms.iterrows():
        named = IN_SENTENCES.get(arm, arm)
        assert (f"{named} ({signed(row['gain'])}, {signed(row['low'])} to {signed(row['high'])})" in said) == (
            row["verdict"] in ("better", "worse", "as good"))
        assert (row["low"] > 0) == row["verdict"].startswith("better")
        assert (row["high"] < 0) == row["verdict"].startswith("worse")
    left = (~arms["verdict"].isin(["better", "worse", "as good"])).sum()
    assert (f"{left} of {len(arms)} " in said) == (left > 0)
    [ours] = differences_of(ASKED).query("second == 'Easiest'").itertuples()
    assert f"{signed(ours.low)} to {signed(ours.high)})." in said
    rows = read_results([EVIDENCE / ASKED])
    best = rows.pivot_table(index="selection_seed", columns="series", values="best")
    if (rows.groupby(["series", "selection_seed"]).size() == 1).all() and len(best) > 2:
        for arm in best.columns.drop("Random of pool"):
            apart = (best[arm] - best["Random of pool"]).dropna()
            t = stats.ttest_1samp(apart, 0).confidence_interval()
            assert arms.loc[arm, ["low", "high"]].astype(float).tolist() == pytest.approx([t.low, t.high])
    assert asked_setting() in " ".join(RESULTS.split())


STRONG, FOLDED = "scored by cifar10_resnet_ap10", "scored by convnet3, 2 folds"


@pytest.mark.parametrize(("rival", "words"), [
    (f"DGS (scale, code, {STRONG}, cut errors)", "DGS gains {} points ({} to {}) here"),
    (f"DGS (scale, paper, {STRONG})", "in the paper's text is {} points better ({} to {}) than"),
    (f"DGS (scale, code, shared scale, {STRONG})", "with one scale for originals and pool {} ({} to {})"),
    (f"Easiest ({FOLDED})", "which is {} points above DGS by the strong scorer ({} to {})")])
def test_the_readme_quotes_why(rival, words):
    row = differences_of("cifar10_rules").set_index("second").loc[rival]  # DGS minus the rival
    told = words.format(f"{-row['difference']:.1f}", signed(-row["high"]), signed(-row["low"]))
    assert told in PROSE
    assert row["high"] < 0


def test_misclassified_images_are_judged_by_the_larger_experiment_too():
    row = differences_of("cifar10_pools").set_index("second").loc["DGS (cut errors)"]  # DGS minus that
    gain, low, high = (signed(-row[name]) for name in ("difference", "high", "low"))
    seen = f"no difference is seen in the {row['selections']} selections of cifar10_pools ({gain}, {low} to {high})"
    assert seen in PROSE
    assert row["low"] < 0 < row["high"]
    [random] = re.findall(r"Random, without misclassified images \| [\d.]+ \| \+(\S+ \(.*?)\) \|", RESULTS)
    assert f"without them it gains {random.replace(' ', ' points ', 1)}; cifar10_pools)" in PROSE


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
    found = tables("cifar10_sizes")["rules"]
    ours, easiest = (found[found["rule"] == rule] for rule in ("DGS", "Easiest"))
    several, alone = ours[ours["ipc"] > 10].sort_values("ipc"), ours[ours["ipc"] == 10].set_index("generator")
    assert several["ipc"].tolist() == [20, 50]
    quoted = "; ".join(f"{signed(row['difference'])}, {interval(row).strip('()')}" for _, row in several.iterrows())
    assert f"images of the pool ({quoted}; three selections, and cifar10_ipc has more), nor with 10 of four" in PROSE
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


def test_what_the_readme_says_of_one_and_fifty_images_holds():
    gains, verdicts = (frame.set_index([name, "ipc"]) for frame, name in (
        (tables("cifar10_ipc")["rules"], "rule"), (differences_of("cifar10_ipc"), "second")))
    one, fifty = gains.loc["DGS"].to_dict("records")
    for page in map(" ".join, (RESULTS.split(), FINDINGS.split())):
        assert f"({signed(one['difference'])}, {interval(one).strip('()')}" in page
        assert re.search(rf"fifty.{{,8}}{fifty['difference']:.1f} points .*{re.escape(interval(fifty))}", page)
    assert verdicts.loc["Random of pool", "verdict"].tolist() == ["as good", "better"]
    assert (gains.loc[["Easiest", "Herding of pool"], "low"] > 0).all()
    leads = verdicts.loc["Easiest", "high"].tolist()
    assert leads[0] < differences_of(ASKED).query("second == 'Easiest'")["difference"].item() < leads[1] < 0
    assert read_results([EVIDENCE / "cifar10_ipc"]).groupby("ipc")["selection_seed"].nunique().tolist() == [24, 16]


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
    found = tables(name)["gains"]
    [row] = found[(found["rule"] == rule) & (found["bias"] == str(bias))].to_dict("records")
    undecided, lost = "{}, {}" in words, "costs" in words or "below" in words
    told = signed(row["gain"]) if undecided else f"{abs(row['gain']):.1f}"
    assert words.format(told, interval(row).strip("()")) in PROSE
    assert (row["low"] <= 0 <= row["high"]) == undecided
    assert undecided or (row["gain"] < 0) == lost
    assert row["pools"] == 4
    assert (found.groupby("bias")["pools"].first() == 4).all()


def test_what_the_readme_says_of_the_number_of_pools_holds():
    biases = {name: set(tables(name)["gains"]["bias"]) for name in ("bias_fashion", "bias_cifar10")}
    assert len(biases["bias_fashion"]) * 4 == 20
    assert len(biases["bias_cifar10"]) * 4 == 12
    assert "Twenty pools of real Fashion-MNIST images and twelve of CIFAR-10, " in PROSE
    assert biases["bias_cifar10"] == {"-6", "0", "6"}


def test_what_the_readme_says_of_training_longer_holds():
    every = tables("compute_fashion")["rules"].sort_values("steps")
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
    made = [tables(name)[kind] for name in MAIN_EXPERIMENTS for kind in ("differences", "rules", "gains")]
    for table in (frame.rename(columns={"gain": "difference"}) for frame in [*made, against_random()]):
        for value, low, high in table.reindex(columns=["difference", "low", "high"]).itertuples(index=False):
            known[signed(low), signed(high)].add(f"{abs(value):.1f}")
            known[signed(-high), signed(-low)].add(f"{abs(value):.1f}")
    quoted = re.findall(r"(\d+\.\d)\D{1,45}([−+]\d+\.\d) to ([−+]\d+\.\d)", PROSE)
    assert len(quoted) == len(re.findall(r"[−+]\d+\.\d\s+to\s+[−+]\d", PROSE)) > 30
    assert [(value, low, high) for value, low, high in quoted if value not in known[low, high]] == []


def test_dgs_gains_over_random_only_where_the_pool_is_harder():
    """By all rows there are, with its logarithm; so the README's first screen says it."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert ("DGS gains over random images of the same pool only where that pool is harder than the originals, and not "
            "on all such pools.") in readme
    gains = []
    for folder in FOLDERS:
        rules, rows = tables(folder.name)["rules"], read_results([folder])
        ours = rules[rules["rule"].str.match(r"DGS(?! \(none)") & (rules["source"] == "pool") & (rules["low"] > 0)]
        gains += [rows.loc[(rows["method"] == "dgs") & (rows["bias"] == bias), "shift"].min() for bias in ours["bias"]]
    assert gains
    assert min(gains) > 0


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
    monkeypatch.setattr("evidence.shown_figures", lambda name: figures)
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


def test_what_is_said_of_photographs_holds():
    rows = read_results([EVIDENCE / "woof128_over"])
    assert set(rows["bias"]) == {"3"}
    assert (rows["shift"].dropna() < 0).all()
    task = rows["judge"].str.endswith("task's outputs").map({True: "task", False: "all"})
    best = rows.assign(arm=rows["method"] + " " + task).pivot(index="pool_seed", columns="arm", values="best")
    assert best.shape == (24, 5)
    random = best["pool_random all"]
    for words, apart in (("DGS is better by {} points ({} to {})", best["dgs task"] - best["dgs all"]),
                         ("{} ({} to {}) over all outputs", best["dgs all"] - random),
                         ("{} ({} to {}) over the task's", best["dgs task"] - random),
                         ("from random ones ({}, {} to {};", best["easiest all"] - random),
                         ("; {}, {} to {})", best["easiest task"] - random)):
        ends = stats.ttest_1samp(apart, 0).confidence_interval()
        assert words.format(*(signed(value) for value in (apart.mean(), *ends))).replace("by +", "by ") in PROSE
    ends = stats.ttest_1samp(best["easiest all"] - best["easiest task"], 0).confidence_interval()
    assert ends.low < 0 < ends.high
    assert f"reach no more than {best.mean().max():.1f} %" in PROSE


def test_the_readme_quotes_the_published_values():
    woof = published_table(1).query("network == 'resnet_ap10'")
    ours = woof[woof["method"] == "dgs"].set_index("ipc")["mean"].round().astype(int)
    full = int(woof.loc[woof["method"] == "full", "mean"].iloc[0])
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert (f"*Published* for ResNetAP-10 on ImageWoof: {ours[10]} % from 10 images a class, {ours[50]} % from 50, "
            f"{full} % from all") in readme


@pytest.mark.parametrize(("rule", "ipc", "words"), [
    ("Hardest", 2, "of two images a class the hardest are {} points below random ones {}"),
    ("Hardest", 10, "of ten, the hardest are {} points below {}"),
    ("Easiest", 10, "and the easiest {} {}")])
def test_the_readme_quotes_what_rules_have_above_random(rule, ipc, words):
    found = tables("which_images")["rules"]
    [row] = found.query("rule == @rule and ipc == @ipc and score == '1 − p(class)'").to_dict("records")
    assert row["high"] < 0
    assert words.format(signed(row["difference"]).removeprefix("−"), interval(row)) in DATA_PAGE


def test_which_rules_do_not_differ_from_random():
    assert "DGS and CCS do not differ significantly from random." in DATA_PAGE
    found = tables("which_images")["rules"]
    held = found[found["rule"].isin(["DGS", "CCS"])]
    assert len(held) == 8
    assert (held["low"] * held["high"] < 0).all()
