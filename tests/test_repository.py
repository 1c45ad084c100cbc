"""Rules of the repository: stripped notebooks, equal parameters, layers of imports, dependencies listed once."""

import ast
import graphlib
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from dgs_utils.params import STAGES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PACKAGE = ROOT / "dgs_utils"
STAGE_MODULES = {stage.split("_", 1)[1] for stage in STAGES}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
           for path in PACKAGE.rglob("*.py")}
TOP_MODULES = {"cli.py", "methods.py"}
PACKAGES = {"images", "selection", "classifiers", "diffusion", "results", "plots", "store", "params", "runtime",
         "publish", "workflow", "checkup"}
# From the lowest: a module imports only from its own package and from lower layers.
LAYERS = [{"methods"}, {"runtime"}, {"params"}, {"store"}, {"images"}, {"classifiers"}, {"selection"},
          {"diffusion"}, {"results"}, {"plots"}, STAGE_MODULES, {"checkup"}, {"publish"}, {"workflow"}, {"cli"}]


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_every_stage_has_its_notebook_and_module():
    assert {path.stem for path in NOTEBOOKS} == set(STAGES)
    for stage in STAGES:
        module = f"dgs_utils.{stage.split('_', 1)[1]}"
        assert module in MODULES, module


def test_notebook_is_stripped_and_short(notebook):
    content = json.loads(notebook.read_text())
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert not {"papermill", "widgets"} & content["metadata"].keys()
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        is_parameters = "parameters" in cell["metadata"].get("tags", [])
        assert is_parameters or len(source(cell).splitlines()) <= 25


def test_notebook_opens_and_ends_like_the_others(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    head = source(cells[0])
    assert re.match(r"# 0\d · ", head)
    for column in ("Reads", "Writes", "Paper", "Time"):
        assert column in head
    code = code_cells(notebook)
    assert any(f'run = dgs.stage("{notebook.stem}")' in source(cell) for cell in code)
    assert source(code[-1]) == "run.finish()"
    assert all("finish()" not in source(cell) for cell in code[:-1])


def test_findings_are_scripts_that_stand_alone():
    """Each has its row in the table, pins what it installs, cleans up, and runs nothing of ours."""
    scripts = sorted((ROOT / "findings").glob("*.sh"))
    table = (ROOT / "findings" / "README.md").read_text()
    rows = re.findall(r"^\| \[([\w.-]+)\]\(([\w.-]+)\) \|", table, re.MULTILINE)
    assert [name for name, _ in rows] == [link for _, link in rows]
    assert sorted(link for _, link in rows) == [script.name for script in scripts]
    for script in scripts:
        text = script.read_text()
        assert text.startswith("#!/usr/bin/env bash\n"), script.name
        assert "set -euo pipefail" in text, script.name
        assert "mktemp -d" in text, script.name
        assert re.search(r"trap .*rm -rf .* EXIT", text), script.name
        installs = re.findall(r"pip install ([^\n|;&]+)", text)
        assert installs, script.name
        packages = [word.strip("'\"") for line in installs for word in line.split() if not word.startswith("-")]
        assert all(re.fullmatch(r"[\w.\[\]-]+==[\w.]+", package) for package in packages), (script.name, packages)
        assert "dgs_utils" not in text, script.name
        assert subprocess.run(["bash", "-n", script]).returncode == 0, script.name
        assert os.access(script, os.X_OK), script.name


def test_nothing_names_a_machine_path():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True).stdout.split()
    wrong = re.compile(r"(?<![\w.])/(?:work|root|tmp|home/\w+)/[\w.]")
    for name in listed:
        text_file = name.endswith((".py", ".ipynb", ".md", ".yaml", ".yml", ".toml", ".sh"))
        if text_file and name != "tests/test_repository.py":
            assert not wrong.search((ROOT / name).read_text()), name


def test_environment_is_a_front_for_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    [pip] = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert plain == [f"python{project['requires-python']}", "pip"]
    assert pip == ["-e .[all]"]
    others = sorted(set(project["optional-dependencies"]) - {"all"})
    assert project["optional-dependencies"]["all"] == [f"dgs-utils[{','.join(others)}]"]


def test_notebooks_name_only_what_the_package_has(notebook):
    tree = ast.parse("\n".join(source(cell) for cell in code_cells(notebook)))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dgs_utils"):
            importlib.import_module(node.module)
            for alias in node.names:
                if f"{node.module}.{alias.name}" in MODULES:
                    modules[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                else:
                    assert hasattr(sys.modules[node.module], alias.name), f"{node.module} has no {alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"


def imports_of(path: Path) -> set[str]:
    """Return the package's modules that a file imports, lazy ones too, as dotted names below dgs_utils."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if (node.module or "").split(".")[0] == "dgs_utils":
                base = node.module.removeprefix("dgs_utils").lstrip(".")
                found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("dgs_utils.") for a in node.names if a.name.startswith("dgs_utils.")}
    return found


def test_the_package_is_nine_stages_its_packages_and_a_spine():
    entries = {entry.name for entry in PACKAGE.iterdir() if not entry.name.startswith(("__pycache__", "."))}
    stages = {stage if (PACKAGE / stage).is_dir() else f"{stage}.py" for stage in STAGE_MODULES}
    assert len(stages) == 9
    assert entries == {"README.md", "__init__.py", *stages, *TOP_MODULES, *PACKAGES}
    for package in PACKAGES:
        assert (PACKAGE / package / "__init__.py").exists()


def test_imports_run_downwards_only():
    level = {name: height for height, layer in enumerate(LAYERS) for name in layer}
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        own = inside[0]
        if own == "__init__":
            continue
        for name in imports_of(path):
            other = name.split(".")[0]
            assert other == own or level[own] > level[other], f"{path} imports dgs_utils.{name}, which is not below it"


def test_there_is_no_cycle_among_modules():
    """Neither at the top of modules nor lazily; `TYPE_CHECKING` counts, too."""
    files = {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p
             for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__"}
    graph = {name: {".".join(found.split(".")[:n]) for found in imports_of(path)
                    for n in (1, 2, 3) if ".".join(found.split(".")[:n]) in files} - {name}
             for name, path in files.items()}
    packages = {name for name, path in files.items() if path.stem == "__init__"}
    graph = {name: needs - packages for name, needs in graph.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", ["params", "store.session", "methods", "workflow.planner", "cli"])
def test_planning_imports_neither_torch_nor_pandas(module):
    check = f"import sys, dgs_utils.{module}; sys.exit(bool({{'torch', 'pandas'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_ruff_finds_nothing():
    result = subprocess.run([sys.executable, "-m", "ruff", "check", ROOT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_supported_python_runs_the_readme_s_test_command():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", supported).groups()
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]
    assert "bash .ci/run" in [step.get("run", "").split("  #")[0] for step in job["steps"]]


def test_commits_are_checked_and_notebooks_stripped():
    hooks = {hook["id"]: hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
             for hook in repo["hooks"]}
    assert set(hooks) == {"ruff-check", "nbstripout"}
    assert "metadata.papermill" in hooks["nbstripout"]["args"][1]


def test_mypy_finds_nothing():
    """Under its default rules, where types stand; eight seconds of one core the first time, one afterwards."""
    result = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# ---- Budgets: who needs more takes something out ---------------------------------------------------------------------

MAX_PACKAGE_LINES, MAX_MACHINE_LINES, MAX_MODULE_LINES = 30_010, 8_025, 350
MAX_TEST_RATIO = 1.15
MACHINE = ("store", "workflow", "publish", "runtime", "cli")  # what is not the method


def lines_of(folder: Path) -> dict[str, int]:
    """Return the lines of each module below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): len(path.read_text().splitlines()) for path in folder.rglob("*.py")}


def test_the_package_keeps_its_budget_of_lines():
    modules = lines_of(PACKAGE)
    assert {name: count for name, count in modules.items() if count > MAX_MODULE_LINES} == {}
    assert sum(modules.values()) <= MAX_PACKAGE_LINES
    machine = {name: count for name, count in modules.items() if name.split("/")[0].removesuffix(".py") in MACHINE}
    assert sum(machine.values()) <= MAX_MACHINE_LINES


def test_tests_keep_their_budget_of_lines():
    tests = {name: count for name, count in lines_of(ROOT / "tests").items() if not name.startswith("benchmarks/")}
    assert sum(tests.values()) <= MAX_TEST_RATIO * sum(lines_of(PACKAGE).values())


def test_parameters_keep_their_budget():
    assert sum(len(model.model_fields) for model in STAGES.values()) <= 161
