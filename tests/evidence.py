"""Make the committed evidence anew, from committed rows or from those of a new run.

    python tests/evidence.py                                                # all, from the rows that are there
    python tests/evidence.py quickstart=outputs/07_figures/quickstart-KEY   # this alone, from a finished run's rows

The checkout must have no uncommitted changes, on a commit that stays (not one that is to be rebased), whose hash the
manifests record. Kept of an experiment: its rows, the manifests behind them, its findings in words, and the figures
that a page shows. The ledger, the tables beside it, and what the pages say of `ASKED`, table and verdicts, are written
from the rows. Sentences on other experiments are written by hand; tests/results/test_evidence.py names those that are
no longer true.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from functools import cache
from pathlib import Path

import pandas as pd

from dgs_utils.figures import tables_of
from dgs_utils.results.claims import claims_table
from dgs_utils.results.comparisons import compare_with_others, signed
from dgs_utils.results.gain_vs_shift import add_differences_to_dgs, gains_by_bias
from dgs_utils.results.reports import write_claims
from dgs_utils.results.result_tables import write_table
from dgs_utils.results.rows import read_results

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "outputs" / "evidence"
LEDGER, README = EVIDENCE / "README.md", ROOT / "README.md"
NAMES = ("cifar10_pools", "cifar10_ipc", "cifar10_rules", "cifar10_sizes", "bias_fashion", "bias_cifar10",
         "compute_fashion", "which_images", "quickstart", "woof128_over")
ONE_BY_ONE = {"which_images", "quickstart", "cifar10_ipc"}
COMMANDS = {name: f"dgs run params/{name}.yaml{'' if name in ONE_BY_ONE else ' --jobs 2'}" for name in NAMES}
KEPT = {"results.csv", "rows.json", "nodes.csv", "manifest.json", "findings.md"}  # beside figures
ASKED = "cifar10_pools"  # whose table the README shows
README_RULES = {"Easiest": "Easiest", "DGS": "DGS", "Hardest": "Hardest",
                "DGS (cut errors)": "DGS, without misclassified images",
                "Random of pool (cut errors)": "Random, without misclassified images"}
IN_SENTENCES = {"Random": "random real images", "Easiest": "the easiest", "Hardest": "the hardest",
                "Random of pool (cut errors)": "random images without misclassified ones",
                "DGS (cut errors)": "DGS without misclassified images"}
BASELINE = "Random of pool"
FREE = {"digits", "fashion"}  # data sets whose images may be passed on; of others they may only be measured
OWN = {"", "minimax", "dit", "plain", "mgd3", "strata"}  # pools that the kit generates; "" in older rows
OF_RUN = ("figure1.png", "figure2.png", "figure3.png", "sets.png")  # made where the sets are, and not from rows alone


# ---- Rows and what is made of them -----------------------------------------------------------------------------------

def nodes_behind(folder: Path, outputs: Path) -> pd.DataFrame:
    """Return a line for each stage folder behind a finished one: stage, key, git, device, seconds, finished."""
    found: dict[str, dict] = {}

    def visit(place: Path) -> None:
        manifest = json.loads((place / "manifest.json").read_text())
        if f"{manifest['stage']} {manifest['key']}" not in found:
            found[f"{manifest['stage']} {manifest['key']}"] = {
                name: manifest[name] for name in ("stage", "key", "git", "device", "seconds", "finished")}
            for source in manifest["inputs"]:
                if (outputs / source["folder"] / "manifest.json").exists():
                    visit(outputs / source["folder"])

    visit(folder)
    return pd.DataFrame(found.values()).sort_values(["stage", "key"])


def shows_images(folder: Path) -> bool:
    """Tell whether Figure 3 of a folder shows free images, or generated ones without originals: it may be passed on."""
    rows = read_results([folder])
    if set(rows["dataset"]) <= FREE:
        return True
    file = folder / "rows.json"
    params = json.loads((file if file.exists() else folder / "manifest.json").read_text())["params"]
    return not params["show_originals"] and set(rows.loc[rows["method"] == "dgs", "generator"]) <= OWN


def shown_figures(name: str) -> set[str]:
    """Return the files of an experiment's figures that a page shows or links to."""
    pages = [README, LEDGER, *(ROOT / "params").glob("*.md"), *(ROOT / "notebooks").glob("*.md")]
    return {file for page in pages for file in re.findall(rf"\]\((?:[^)]*/)?{name}/(\w+\.png)\)", page.read_text())}


def figures_of_run(name: str, folder: Path) -> list[str]:
    """Return those of `OF_RUN` that are shown and may be passed on; Figure 3 and the strip of sets show images."""
    allowed = {"figure3.png": shows_images(folder), "sets.png": set(read_results([folder])["dataset"]) <= FREE}
    return [figure for figure in OF_RUN if allowed.get(figure, True) and figure in shown_figures(name)]


def collect(name: str, folder: Path) -> None:
    """Take over the rows of a finished 07 folder, and which stages are behind them."""
    kept = EVIDENCE / name
    kept.mkdir(exist_ok=True)
    shutil.copy(folder / "results.csv", kept / "results.csv")
    shutil.copy(folder / "manifest.json", kept / "rows.json")
    for figure in figures_of_run(name, folder):
        if (folder / figure).exists():
            shutil.copy(folder / figure, kept / figure)
    nodes_behind(folder, folder.parents[1]).to_csv(kept / "nodes.csv", index=False)


def make(name: str, rows: Path, scratch: Path) -> Path:
    """Run notebook 07 on a file of rows, elsewhere, so that the checkout stays clean; return what it wrote."""
    place = f"evidence/{name}/results.csv"
    (scratch / place).parent.mkdir(parents=True)
    shutil.copy(rows, scratch / place)
    values = f"{{results: [outputs/{place}], title: {name}}}"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(ROOT / "notebooks" / "07_figures.ipynb"),
               str(scratch / f"{name}.ipynb"), "-y", values]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"DGS_OUTPUTS": str(scratch)}, check=True)
    [made] = (scratch / "07_figures").glob(f"{name}-*")
    return made


def take_over(name: str, made: Path) -> None:
    """Put what notebook 07 wrote in place of what was there; rows, and the run's own figures, stay."""
    kept = EVIDENCE / name
    stay = {"results.csv", "rows.json", "nodes.csv", *figures_of_run(name, kept)}
    for file in kept.iterdir():
        if file.is_file() and file.name not in stay:
            file.unlink()
    for file in (KEPT | shown_figures(name)) - stay - {*OF_RUN}:
        shutil.copy(made / file, kept / file)


@cache
def tables(name: str) -> dict[str, pd.DataFrame]:
    """Return the tables of an experiment's rows (`figures.tables_of`); the gains have the differences to DGS, too."""
    found = tables_of(read_results([EVIDENCE / name]))
    return found | {"gains": gains_by_bias(add_differences_to_dgs(found["pool_gains"]))}


# ---- Texts -----------------------------------------------------------------------------------------------------------

def nodes_of(name: str) -> pd.DataFrame:
    """Return the stages behind the rows; 2828730e8193 is a commit, not a number."""
    return pd.read_csv(EVIDENCE / name / "nodes.csv", dtype={"key": str, "git": str})


def minutes(name: str) -> int:
    """Return how long the notebooks behind the rows took, from their manifests."""
    return round(nodes_of(name)["seconds"].sum() / 60)


def ledger_line(name: str) -> str:
    """Return the ledger's line of an experiment."""
    rows, made = (json.loads((EVIDENCE / name / file).read_text()) for file in ("rows.json", "manifest.json"))
    return (f"| [{name}](#{name}) | [findings]({name}/findings.md) | `{COMMANDS[name]}` | {rows['git']} "
            f"| {made['git']} | {rows['device']} | {minutes(name)} minutes of notebooks |")


def accuracies(name: str) -> str:
    """Return the table of accuracies of an experiment, with its caption, without that of bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        write_table(read_results([EVIDENCE / name]), "comparison", Path(scratch))
        return "\n\n".join((Path(scratch) / "accuracy.md").read_text().strip().split("\n\n")[:2])


def claims_in_words(table: pd.DataFrame) -> str:
    """Return how many of the paper's claims its own tables support, as a sentence of the pages."""
    kinds = table["published_verdict"].str.extract("^(holds in [0-9]|holds|contradicted|cannot be decided:?)")[0]
    counts = kinds.str.replace(r" in \d", " in part", regex=True).value_counts()
    part, against, open_ = (counts.get(kind, "none") for kind in ("holds in part", "contradicted", "cannot be decided"))
    return (f"Of {len(table)} sentences of the paper that numbers could contradict, its own tables support "
            f"{counts['holds']} and {part} in part, contradict {against} and leave {open_} open; for "
            f"{counts['cannot be decided:']} the paper gives no numbers")


def rule_lines() -> list[str]:
    """Return the lines of the findings' table: each rule beside random images of the pool, the best first."""
    table = tables(ASKED)["rules"].sort_values("difference", ascending=False, kind="stable")
    return [f"| {row.rule} | {row.best:.1f} | {signed(row.difference)} ({signed(row.low)} to {signed(row.high)}) |"
            for row in table[table["source"] == "pool"].itertuples()]


def readme_lines() -> list[str]:
    """Return the lines of the README's table: some of the rules, and the random images that they are compared with."""
    lines = [line.replace(name, title) for line in rule_lines() for name, title in README_RULES.items()
             if line.startswith(f"| {name} |")]
    [baseline] = tables(ASKED)["summary"].query(f"series == {BASELINE!r}")["best"]
    worse = next((n for n, line in enumerate(lines) if "| −" in line), len(lines))
    return [*lines[:worse], f"| Random (baseline) | {baseline:.1f} | – |", *lines[worse:]]


@cache
def against_random() -> pd.DataFrame:
    """Return the comparison of each arm of `ASKED` with random images of the pool: arm, gain, low, high, verdict."""
    rows = read_results([EVIDENCE / ASKED])
    table = compare_with_others(rows, BASELINE, list(rows["series"].unique()))
    swapped = {"better": "worse", "worse": "better", "better alone": "worse alone", "worse alone": "better alone"}
    return pd.DataFrame({"arm": table["second"], "gain": -table["difference"], "low": -table["high"],
                         "high": -table["low"], "verdict": table["verdict"].replace(swapped)}).sort_values(
                             "gain", ascending=False, ignore_index=True)


def interval(row) -> str:
    """Return a difference with its interval in parentheses, as sentences have it."""
    return f"({signed(row.gain)}, {signed(row.low)} to {signed(row.high)})"


def verdict_sentences(shown: Collection[str] = ()) -> str:
    """Return what `against_random` decides, without numbers of arms ``shown`` beside it, and DGS beside the easiest."""
    arms = against_random()
    kinds = {"better": "better than random images of the same pool", "worse": "worse",
             "as good": "as good within ± 2 points"}
    parts = []
    for verdict, words in kinds.items():
        decided = arms[arms["verdict"] == verdict].itertuples()
        named = [f"{IN_SENTENCES.get(row.arm, row.arm)}{'' if row.arm in shown else f' {interval(row)}'}"
                 for row in decided]
        if named:
            verb = "is" if len(named) == 1 and named[0].startswith("DGS") else "are"
            parts.append(f"{' and '.join(filter(None, [', '.join(named[:-1]), named[-1]]))} {verb} {words}")
    left = int((~arms["verdict"].isin(list(kinds))).sum())
    parts += [f"{left} of {len(arms)} {'is' if left == 1 else 'are'} not decided"] * (left > 0)
    [row] = tables(ASKED)["differences"].query("first == 'DGS' and second == 'Easiest'").itertuples()
    ends, side = f"{signed(row.low)} to {signed(row.high)}", "above" if row.difference > 0 else "below"
    apart = (f"DGS is {abs(row.difference):.1f} points {side} the easiest ({ends})" if row.low * row.high > 0 else
             f"DGS does not differ significantly from the easiest ({signed(row.difference)}, {ends})")
    return f"{'; '.join(parts)}. {apart}."


def asked_setting() -> str:
    """Return how many selections and trainings the rows of `ASKED` have, as a sentence."""
    rows = read_results([EVIDENCE / ASKED])
    counts = rows.groupby("series")[["selection_seed", "training_seed"]].nunique()
    most, trainings = int(counts["selection_seed"].max()), int(counts["training_seed"].max())
    fewer = [f"{count} of {IN_SENTENCES.get(str(name), name)}" for name, count in counts["selection_seed"].items()
             if count < most]
    but = f" ({', '.join(fewer)})" if fewer else ""
    shares = ", each from another 80 % of the pool" if (rows["method"] == "easiest").sum() > trainings else ""
    return f"{most} selections a rule{but}{shares}, {trainings} training{'s' * (trainings > 1)} a set"


def put_findings() -> None:
    """Write what the rows of `ASKED` decide into the README and the ledger."""
    readme, ledger = README.read_text(), LEDGER.read_text()
    readme = between(readme, "## Results\n\n", "\n\n![", readme_table())
    README.write_text(between(readme, POOL, "\n* ", readme_verdicts()))
    LEDGER.write_text(between(ledger, f"({ASKED})\n\n", "\n\n![", ledger_findings()))


POOL = "* **On this pool**"


def readme_table() -> str:
    """Return the README's table with what it is of."""
    intro = (f"CIFAR-10: each rule selects ten of 500 images per class by five public GANs; ConvNet-3 students, "
             f"{asked_setting()}; differences in points with 95 % intervals, each for one comparison "
             f"(`{COMMANDS[ASKED]}`, {minutes(ASKED)} minutes):")
    head = ["| Selected by | Accuracy (%) | Minus random images of the pool |", "| --- | --- | --- |"]
    return "\n".join([intro, "", *head, *readme_lines()])


def readme_verdicts() -> str:
    """Return the rest of the README's sentence that begins with `POOL`."""
    text = f"{POOL}, after Holm's correction for {len(against_random())} comparisons: {verdict_sentences(README_RULES)}"
    return wrapped(text).replace("\n", "\n  ").removeprefix(POOL)


def ledger_findings() -> str:
    """Return what the ledger says of `ASKED`: the setting, the verdicts, and the table of all rules."""
    text = (f"The pool is 500 images per class of CIFAR-10 by five GANs, the scorer a ResNetAP-10 trained on the "
            f"originals, the student a ConvNet-3 (80 epochs, one test at the end, on all 10,000 test images); "
            f"{asked_setting()}. After Holm's correction for {len(against_random())} comparisons: "
            f"{verdict_sentences()}")
    head = ["| Selected by | Accuracy | Minus random images of the pool |", "| --- | --- | --- |"]
    return "\n".join([wrapped(text), "", *head, *rule_lines()])


def between(text: str, before: str, after: str, new: str) -> str:
    """Return a text with what is between two others, the second the next one after the first, replaced."""
    start = text.index(before) + len(before)
    return text[:start] + new + text[text.index(after, start):]


def write_ledger() -> None:
    """Write the ledger's lines and the accuracies that it shows."""
    text = between(LEDGER.read_text(), "| --- | --- | --- | --- | --- | --- | --- |\n", "\n\n",
                   "\n".join(map(ledger_line, NAMES)))
    for name in NAMES:
        shown = accuracies(name)
        start = text.index("| Dataset |", text.index(f"\n## {name}\n"))
        end = text.index("\n\n", text.index("\n\n", start) + 2)  # the table, and its caption
        text = text[:start] + shown + text[end:]
    LEDGER.write_text(text)


def wrapped(text: str, width: int = 120) -> str:
    """Return a paragraph in lines."""
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def main(changes: list[str]) -> None:
    """Make everything anew; see the module."""
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout:
        sys.exit("the checkout has uncommitted changes; commit them first, so that manifests name a clean commit")
    new = {name: Path(folder).absolute() for name, folder in (change.split("=", 1) for change in changes)}
    with tempfile.TemporaryDirectory() as scratch:
        sources = new or {name: EVIDENCE / name for name in NAMES}
        made = {name: make(name, folder / "results.csv", Path(scratch)) for name, folder in sources.items()}
        for name, folder in new.items():
            collect(name, folder)
        for name, folder in made.items():
            take_over(name, folder)
    write_claims(claims_table(), "claims", EVIDENCE)
    (EVIDENCE / "claims.csv").unlink()
    write_ledger()
    put_findings()


if __name__ == "__main__":
    main(sys.argv[1:])
