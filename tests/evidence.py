"""Make the committed evidence anew, from committed rows or from those of a new run.

    python tests/evidence.py                                                # all tables, from the rows that are there
    python tests/evidence.py quickstart=outputs/07_figures/quickstart-KEY   # the rows of a finished run first

The checkout must have no uncommitted changes, on a commit that stays (not one that is to be rebased), whose hash the
manifests record. Notebook 07 makes tables, comparisons and figures; the table in the README, the ledger, and the tables
and the paragraph on older rows beside it are written from them. Sentences that quote single numbers are written by
hand; tests/results/test_evidence.py names those that are no longer true.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from dgs_utils.results.claims import claims_table
from dgs_utils.results.comparisons import signed
from dgs_utils.results.reports import write_claims
from dgs_utils.results.rows import read_results

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "outputs" / "evidence"
LEDGER, README = EVIDENCE / "README.md", ROOT / "README.md"
NAMES = ("cifar10_pools", "cifar10_rules", "cifar10_sizes", "bias_fashion", "bias_cifar10", "compute_fashion",
         "which_images", "quickstart", "woof128_photos", "fashion_table", "nette64_cpu", "woof128_cpu",
         "fashion_precision")
ONE_BY_ONE = {"which_images", "quickstart"}
COMMANDS = {name: f"dgs run params/{name}.yaml{'' if name in ONE_BY_ONE else ' --jobs 2'}" for name in NAMES}
ASKED = "cifar10_pools"  # whose table the README shows
README_RULES = {"Easiest": "Easiest", "Herding of pool": "Herding", "DGS": "DGS", "Hardest": "Hardest",
                "DGS (cut errors)": "DGS, without misclassified images",
                "Random of pool (cut errors)": "Random, without misclassified images"}
BASELINE = "Random of pool"
FREE = {"digits", "fashion"}  # data sets whose images may be passed on; of others they may only be measured
OWN = {"", "minimax", "dit", "plain", "mgd3", "strata"}  # pools that the kit generates; "" in older rows
OF_RUN = ("figure1.png", "figure2.png", "figure3.png", "sets.png")  # made where the sets are, and not from rows alone
TITLES = {"quickstart": "digits", "woof128_photos": "ImageWoof photographs, 32 px", "fashion_table": "Fashion-MNIST",
          "nette64_cpu": "ImageNette, 64 px", "woof128_cpu": "ImageWoof, 64 px"}
RIVALS = ["Random of pool", "Minimax", "Confidence (CaO2)", "Random", "Herding"]
PRINTED = {"findings": "findings in words", "accuracy": "accuracies", "differences": "differences and verdicts",
           "gains": "gains by the bias of pools", "claims": "the paper's claims"}
OLDER = "*Older rows*: "


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
    """Tell whether the images in Figure 3 may be passed on: free ones, or generated ones without originals beside them.

    Args:
        folder: a 07 folder, or one of the evidence: with results.csv, and its manifest as manifest.json or rows.json.
    """
    rows = read_results([folder])
    if set(rows["dataset"]) <= FREE:
        return True
    file = folder / "rows.json"
    params = json.loads((file if file.exists() else folder / "manifest.json").read_text())["params"]
    return not params["show_originals"] and set(rows.loc[rows["method"] == "dgs", "generator"]) <= OWN


def figures_of_run(folder: Path) -> list[str]:
    """Return those of `OF_RUN` that may be passed on; Figure 3 shows images, and the strip of sets all methods'."""
    allowed = {"figure3.png": shows_images(folder), "sets.png": set(read_results([folder])["dataset"]) <= FREE}
    return [name for name in OF_RUN if allowed.get(name, True)]


def collect(name: str, folder: Path) -> None:
    """Take over the rows of a finished 07 folder, and which stages are behind them."""
    kept = EVIDENCE / name
    kept.mkdir(exist_ok=True)
    shutil.copy(folder / "results.csv", kept / "results.csv")
    shutil.copy(folder / "manifest.json", kept / "rows.json")
    for figure in figures_of_run(folder):
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
    stay = {"results.csv", "rows.json", "nodes.csv", *figures_of_run(kept)}
    for file in kept.iterdir():
        if file.is_file() and file.name not in stay:
            file.unlink()
    for file in made.iterdir():
        if file.suffix in (".csv", ".md", ".png", ".json") and not file.name.startswith(".") and (
                file.name not in {*stay, *OF_RUN, "inputs.json", "checksums.json"}):
            shutil.copy(file, kept / file.name)


# ---- Texts -----------------------------------------------------------------------------------------------------------

def nodes_of(name: str) -> pd.DataFrame | None:
    """Return the stages behind the rows, or None where they are not kept; 2828730e8193 is a commit, not a number."""
    file = EVIDENCE / name / "nodes.csv"
    return pd.read_csv(file, dtype={"key": str, "git": str}) if file.exists() else None


def took(name: str) -> str:
    """Return how long the notebooks behind the rows took, from their manifests, or as the ledger has it."""
    nodes = nodes_of(name)
    if nodes is not None:
        return f"{round(nodes['seconds'].sum() / 60)} minutes of notebooks"
    [*_, line] = [line for line in LEDGER.read_text().splitlines() if line.startswith(f"| {name}: ")]
    return line.split(" | ")[-1].removesuffix(" |")


def ledger_lines(name: str) -> list[str]:
    """Return the ledger's lines of one folder, one a printed table."""
    folder = EVIDENCE / name
    rows, tables = (json.loads((folder / file).read_text()) for file in ("rows.json", "manifest.json"))
    stems = sorted((file.stem for file in folder.glob("*.md")), key=lambda stem: (stem not in PRINTED, stem))
    return [f"| {name}: {PRINTED.get(stem, f'ablation of {stem}')} | [{stem}.md]({name}/{stem}.md) "
            f"| `{COMMANDS[name]}` | {rows['git']} | {tables['git']} | {rows['device']} | {took(name)} |"
            for stem in stems]


def older(names: list[str]) -> str:
    """Return the paragraph on rows that no commit stands behind; "" where there are none."""
    found = []
    for name in names:
        nodes = nodes_of(name)
        if nodes is None or nodes["git"].str.endswith("-dirty").any():
            found.append(f"{name} ({json.loads((EVIDENCE / name / 'rows.json').read_text())['git']})")
    if not found:
        return ""
    return (f"{OLDER}the trainings behind {', '.join(found)} predate `nodes.csv`. `-dirty` means uncommitted "
            f"changes: no commit contains exactly that code, so these numbers are provisional. Tables and intervals "
            f"are made from the rows by a clean commit.")


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
    table = pd.read_csv(EVIDENCE / ASKED / "rules.csv").sort_values("difference", ascending=False, kind="stable")
    return [f"| {row.rule} | {row.best:.1f} | {signed(row.difference)} ({signed(row.low)} to {signed(row.high)}) |"
            for row in table[table["source"] == "pool"].itertuples()]


def readme_lines() -> list[str]:
    """Return the lines of the README's table: some of the rules, and the random images that they are compared with."""
    lines = [line.replace(name, title) for line in rule_lines() for name, title in README_RULES.items()
             if line.startswith(f"| {name} |")]
    [baseline] = pd.read_csv(EVIDENCE / ASKED / "accuracy.csv").query(f"series == {BASELINE!r}")["best"]
    worse = next(n for n, line in enumerate(lines) if "| −" in line)
    return [*lines[:worse], f"| Random (baseline) | {baseline:.1f} | – |", *lines[worse:]]


def difference_lines() -> list[str]:
    """Return the lines of the table of what difficulty-guided sampling has above its rivals, beside the ledger."""
    lines = []
    for name, title in TITLES.items():
        table = pd.read_csv(EVIDENCE / name / "differences.csv")
        for (condition, ipc), part in table.groupby(["condition", "ipc"], sort=False):
            known = {row.second: f"{signed(row.difference)} ({signed(row.low)} to {signed(row.high)})"
                     for row in part.itertuples()}
            cells = [f"{title}, {condition}, IPC {ipc}", *(known.get(rival, "–") for rival in RIVALS)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_ledger(names: list[str]) -> None:
    """Write the ledger's lines and the accuracies that it shows."""
    text, lines = LEDGER.read_text(), [line for name in names for line in ledger_lines(name)]
    head = "| --- | --- | --- | --- | --- | --- | --- |\n"
    before, _, after = text.partition(head)
    text = before + head + "\n".join(lines) + "\n\n" + after.partition("\n\n")[2]
    for name in names:
        shown = (EVIDENCE / name / "accuracy.md").read_text().strip()
        start = text.index("| Dataset |", text.index(f"\n## {name}\n"))
        end = text.index("\n\n", text.index("\n\n", start) + 2)  # the table, and its caption
        text = text[:start] + shown + text[end:]
    LEDGER.write_text(text)


def put_table(file: Path, title: str, lines: list[str]) -> None:
    """Put lines in place of those of the table whose heading begins so."""
    before, head, after = file.read_text().partition(title)
    old = re.match(r"([^\n]*\n\| ---[^\n]*\n)(\|[^\n]*\n)*", after)
    file.write_text(before + head + old[1] + "".join(f"{line}\n" for line in lines) + after[old.end():])


def write_older(names: list[str]) -> None:
    """Write the paragraph on older rows after the table of differences."""
    text = re.sub(rf"{re.escape(OLDER)}.*?\n\n", "", LEDGER.read_text(), flags=re.S)
    paragraph = older(names)
    place = text.index("\n\n", text.index("| DGS minus |")) + 2
    LEDGER.write_text(text[:place] + (f"{wrapped(paragraph)}\n\n" if paragraph else "") + text[place:])


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
    names, new = list(COMMANDS), {name: Path(folder).absolute() for name, folder in (c.split("=", 1) for c in changes)}
    with tempfile.TemporaryDirectory() as scratch:
        made = {name: make(name, new.get(name, EVIDENCE / name) / "results.csv", Path(scratch)) for name in names}
        for name, folder in new.items():
            collect(name, folder)
        for name in names:
            take_over(name, made[name])
    write_claims(claims_table(), "claims", EVIDENCE)
    write_ledger(names)
    put_table(LEDGER, "| DGS minus |", difference_lines())
    write_older(names)
    put_table(LEDGER, "| Selected by |", rule_lines())
    put_table(README, "| Selected by |", readme_lines())


if __name__ == "__main__":
    main(sys.argv[1:])
