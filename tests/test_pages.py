"""The pages: their links lead somewhere, their commands are accepted, and the names that they give exist."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from evidence import tables

from dgs_utils import cli
from dgs_utils.params import STAGES
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = (".", "notebooks", "params", "dgs_utils", "outputs", "outputs/evidence", "findings", ".github",
           "tests/benchmarks")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md") if page.name != "claims.md")
SHELL = {"bash", "curl", "done", "for", "git", "hf", "jupyter", "mkdir", "pipx", "pre-commit", "printf", "source",
         "wait"}
MODELS = {stage[3:]: model for stage, model in STAGES.items()}


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges name them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{target} has no such heading"


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.encode()) <= 10_000
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)\s#]+)", page.read_text())]
        waiting += [link for link in links if link in PAGES and link not in reached]
    assert reached == {*PAGES}


def test_the_readme_has_the_sections_in_order():
    titles = re.findall(r"^## (.*)$", README, re.M)
    assert titles == ["Two commands", "What comes out", "Pipeline", "From Python", "With your own pool",
                      "The paper's tables", "Results", "Where things are", "Licence and citation"]
    first_screen = README.partition("\n## ")[0]
    assert all(words in first_screen for words in ("$$d(x, y) = 1 - p", "figure1.png", "not\nreproduced"))


QUICKSTART = ROOT / "outputs" / "evidence" / "quickstart"
SITE = QUICKSTART / "notebooks"  # made by tests/notebook_pages.py


def test_the_rendered_notebooks_are_small_whole_and_linked():
    assert "outputs/evidence/quickstart/notebooks/README.md" in README
    files = [path for path in SITE.rglob("*") if path.is_file()]
    assert sum(file.stat().st_size for file in files) <= 3_000_000
    for page in SITE.glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
            assert target.startswith("http") or (SITE / target).exists(), (page.name, target)
    assert {f"{stage}.md" for stage in STAGES} <= {file.name for file in files}


# ---- Commands --------------------------------------------------------------------------------------------------------

def commands(page: Path) -> list[list[str]]:
    """Return the words of each command in a page's shell blocks, and of each ``dgs`` or script in backticks."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("\\\n", " ")
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    inline = re.findall(r"`((?:dgs (?!COMMAND)[a-z]+|papermill|python|pytest) [^`]+)`", prose)
    found = []
    for line in [*blocks.splitlines(), *(" ".join(one.split()) for one in inline)]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split, words = True, []
        for word in [*lexer, ";"]:
            if word[0] in ";&|":
                found += [words] if words else []
                words = []
            elif words or not re.fullmatch(r"\w+=.*|do", word):  # no assignment before a command, nor a loop's do
                words.append(word)
    return found


def check_command(words: list[str]) -> None:
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "dgs":
        check_dgs(arguments)
    elif program == "papermill":
        notebook = ROOT / arguments[0]
        assert notebook.exists()
        model = STAGES[notebook.stem]
        values = {name: value for flag, name, value in zip(arguments, arguments[1:], arguments[2:], strict=False)
                  if flag == "-p"}
        assert model(**{name: int(value) if value.isdigit() else value for name, value in values.items()})
    elif program == "pip":
        extras = re.search(r"\[(.*)\]", arguments[-1])
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert arguments[0] == "install"
        assert not extras or {*extras[1].split(",")} <= {*known}
    elif program in ("python", "python3", "pytest", "ruff", "mypy"):
        files = [word for word in arguments if word.endswith(".py")]
        assert all((ROOT / file).exists() for file in files), files
    else:
        assert program in SHELL, program


def check_dgs(arguments: list[str]) -> None:
    options = cli._parser().parse_args(arguments)
    file, changes = getattr(options, "file", ""), getattr(options, "changes", [])
    if file.startswith("params/") and "NAME" not in file and "published" not in file:
        assert read_experiment(ROOT / file, [change.replace("$k", "1") for change in changes]).name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_are_accepted(page):
    for words in commands(page):
        if "--help" not in words:
            check_command(words)


def test_some_pages_have_commands():
    programs = [words[0].removeprefix(".venv/bin/") for page in PAGES for words in commands(page)]
    assert programs.count("dgs") > 40
    assert {"papermill", "pip", "python", "pytest", "hf", "jupyter"} <= {*programs}


@pytest.mark.parametrize("line", ["dgs status", "dgs verify outputs/evidence", "dgs clean",
                                  "dgs run params/quickstart.yaml --set sample.ipc=5,10 "
                                  "--set sample.seed=0,1,2 --dry-run"])
def test_commands_that_only_look_run(line, outputs, capsys, monkeypatch):
    assert any(words == shlex.split(line) or words[:2] == shlex.split(line) for page in PAGES
               for words in commands(page))
    monkeypatch.chdir(ROOT)
    assert cli.main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


# ---- Names -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_parameters_and_files_in_backticks_exist(page):
    text = page.read_text()
    for stage, name in re.findall(rf"`(?:--set \W?)?({'|'.join(MODELS)})\.([a-z_]+)\b(?!\()", text):
        is_module = (ROOT / "dgs_utils" / stage / f"{name}.py").exists() or name in ("py", "yaml", "csv")
        assert is_module or name in MODELS[stage].model_fields, f"{stage}.{name}"
    for file in re.findall(r"`((?:params|notebooks|dgs_utils|tests)/[\w/.-]+)`", text):
        assert (ROOT / file).exists() or (page.parent / file).exists() or "NAME" in file, file
    if page.parent.name == "params":
        for file in re.findall(r"`(\w+\.yaml)`", text):
            assert (ROOT / "params" / file).exists() or file in ("other.yaml",), file


def test_the_readme_counts_notebooks_and_trainings_of_the_paper_s_tables(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    rows = re.findall(r"^\| (\d): .* \| `dgs run (params/table\d\.yaml)` \| (\d+) \| (\d+) \|$", README, re.M)
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4]
    for number, file, notebooks, trainings in rows:
        changes = [f"prepare.root={tmp_path}"] if number == "2" else []
        nodes = plan(read_experiment(ROOT / file, changes), lambda missing: None)
        students = [node.params.repeats for node in nodes if node.stage == "06_evaluate"]
        assert (len(nodes), sum(students)) == (int(notebooks), int(trainings)), file


def test_the_times_on_pages_are_those_of_the_quickstart_s_evidence():
    """Of the longest notebook of each stage, three times faster or slower at the most."""
    seconds = pd.read_csv(QUICKSTART / "nodes.csv").groupby("stage")["seconds"].max()
    for stage, measured in seconds.items():
        head = "".join(json.loads((ROOT / "notebooks" / f"{stage}.ipynb").read_text())["cells"][0]["source"])
        [printed] = re.findall(r"\| quickstart (\d+ seconds|half a minute) on two cores", head)
        assert 1 / 3 <= measured / (30 if "half" in printed else int(printed.split()[0])) <= 3, stage


def test_what_the_readme_says_of_the_quickstart_s_comparisons():
    differences = tables("quickstart")["differences"]
    [significant] = differences[differences["p_holm"] < 0.05].itertuples()
    assert (len(differences), significant.first, significant.second) == (7, "DGS", "Herding")
    assert (f"After Holm's correction for seven comparisons one with DGS is significant: herding of real images is "
            f"{-significant.difference:.1f} points better") in " ".join(README.split())


def test_the_first_block_is_the_two_commands():
    """Which `.ci/run` and people copy."""
    first, second = re.search(r"```bash\n(.*?)```", README, re.S)[1].splitlines()
    assert first.endswith("dgs run params/quickstart.yaml")
    assert second.endswith("-m pytest")
    taken = subprocess.run(["bash", "-c", "awk '/^```/ { block++; next } block == 1' README.md | sed -n 2p"], cwd=ROOT,
                           capture_output=True, text=True).stdout.strip()
    assert taken == second
