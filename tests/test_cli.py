"""The ``dgs`` command as its users meet it."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import small_grid
from filelock import FileLock
from restamp import restamp
from small_grid import dgs, manifests
from waits import HANG, calls

from dgs_utils import cli

FILE = "params/small.yaml"


@pytest.fixture
def workspace(tmp_path):
    return small_grid.build(tmp_path / "grid")


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A finished workspace of the test's own."""
    return shutil.copytree(small_grid.finished(tmp_path_factory.getbasetemp())[0], tmp_path / "copy")


def columns(printed, stage):
    [line] = [line for line in printed.splitlines() if line.startswith(stage)]
    return line.split()[1:]


def test_help_comes_at_once():
    check = "import sys, dgs_utils.cli; print(*sorted({'yaml', 'pydantic', 'numpy', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == ""
    for command in ([], ["run"], ["status"], ["clean"], ["node"]):
        result = subprocess.run(small_grid.command(*command, "--help"), capture_output=True, text=True)
        assert result.returncode == 0
        assert result.stdout.startswith("usage: dgs")


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["params/smal.yaml"], "does not exist; did you mean 'small.yaml'?"),
    (["small"], "does not exist; did you mean 'params/small.yaml'?"),
    (["params/small.yaml", "sample.ipc=5,10"], "unrecognized arguments: sample.ipc=5,10; a parameter follows --set;"),
    ([FILE, "--set", "evaluate.repets=1"], "evaluate.repets is not a parameter of 06_evaluate; did you mean 'repeats'"),
    ([FILE, "--set", "sample.ipc=11"], "asks for 55 images of each class, but pool.images_per_class is 50"),
    ([FILE, "--only", "evaluat"], "evaluat is not a stage; did you mean 'evaluate'"),
    ([FILE, "--until", "7"], "7 is not a stage; valid names are prepare"),
    ([FILE, "--force", "figure"], "figure is not a stage; did you mean 'figures'"),
    ([FILE, "--only", "condense"], "plans no condense"),
    ([FILE, "--per-gpu", "0"], "--per-gpu is 0; give how many notebooks may share a GPU"),
    ([FILE, "--limit", "inf"], "--limit is inf; give minutes"),
    ([FILE, "--limit", "-1"], "--limit is -1; give minutes"),
    ([FILE, "--limit", "nan"], "--limit is nan; give minutes"),
    ([FILE, "--jobs", "-3"], "--jobs is -3; give how many notebooks run at a time"),
    ([FILE, "--jobs", str(10**20)], f"--jobs is {10**20}; give how many notebooks run at a time, 1 or more"),
    ([FILE, "--jobs", "two"], "argument --jobs: invalid int value: 'two'; see dgs run --help"),
    ([FILE, "--set", "sample.distribution=hil"], "did you mean 'hill'"),
    ([FILE, "--set", 'figures.title="../up"'], "figures.title is '../up', which holds a separator"),
])
def test_wrong_calls_end_before_the_first_notebook(workspace, arguments, sentence):
    result = dgs(workspace, "run", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("dgs: ")
    assert result.stderr.count("\n") == 1
    assert not (workspace / "outputs").exists()


def test_dry_run_shows_and_does_nothing(workspace):
    result = dgs(workspace, "run", FILE, "--dry-run")
    assert result.returncode == 0
    assert columns(result.stdout, "06_evaluate") == ["2", "·", "·", "·", "·", "2", "0:00", "?"]
    assert not (workspace / "outputs").exists()


def test_dry_run_of_twice_the_nodes_costs_twice_as_much(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("DGS_OUTPUTS", str(workspace / "outputs"))

    def dry_run(seeds: int) -> int:
        cost = calls(cli.main, ["run", FILE, "--dry-run", "--set", f"pool.seed={[*range(5)]}",
                                "--set", f"sample.seed={[*range(5)]}", "--set", f"evaluate.seed={[*range(seeds)]}"])
        assert columns(capsys.readouterr().out, "06_evaluate")[0] == str(seeds * (5 + 25))
        return cost

    dry_run(1)  # imports
    assert dry_run(20) < 2.2 * dry_run(10)


def test_dry_run_estimates_from_earlier_runs(copy):
    for path in (copy / "outputs" / "06_evaluate").glob("*/manifest.json"):
        restamp(path, seconds=30.0)
    printed = dgs(copy, "run", FILE, "--dry-run", "--set", "evaluate.seed=[0, 1, 2]").stdout
    assert columns(printed, "06_evaluate") == ["6", "2", "·", "·", "·", "4", "1:00", "2:00"]
    assert columns(printed, "07_figures")[-1] == "?"  # figures of two trainings say nothing about those of six


def test_status_tells_states_time_and_disk(copy):
    shutil.rmtree(copy / "outputs" / "07_figures")
    printed = dgs(copy, "status", FILE).stdout
    assert columns(printed, "05_sample")[:6] == ["2", "2", "·", "·", "·", "·"]
    assert columns(printed, "05_sample")[-1] == "kB"
    assert columns(printed, "07_figures")[:6] == ["1", "·", "·", "·", "·", "1"]
    assert "another version" not in printed


def test_status_tells_what_is_stale_why_and_what_it_costs(copy):
    [transform] = (copy / "outputs" / "04_transform").iterdir()
    for number, path in enumerate(sorted((copy / "outputs").glob("0[567]*/*/manifest.json"))):
        restamp(path, seconds=60.0 * 2**number)
    small_grid.replace_cell(copy, "04_transform", 3, "(run.folder / 'part0.txt').write_text('other thresholds')")
    assert dgs(copy, "run", FILE, "--until", "transform", "--force", "transform").returncode == 0
    printed = dgs(copy, "status", FILE).stdout
    by_stage = {stage: sorted(path.name for path in (copy / "outputs" / stage).iterdir())
                for stage in ("05_sample", "06_evaluate")}
    minutes = dict(zip([*by_stage["05_sample"], *by_stage["06_evaluate"], "figures"], (1, 2, 4, 8, 16), strict=True))
    [sample], [evaluation] = ([name for name in names if "-dgs-" in name] for names in by_stage.values())
    assert (f"outputs/04_transform/{transform.name} holds another content than before; what was made from it is made "
            f"again by the next run: 1 of 05_sample (took {minutes[sample]}:00); if it comes out different, "
            f"1 of 06_evaluate, 1 of 07_figures (took {minutes[evaluation] + minutes['figures']}:00) too") in printed
    assert columns(printed, "05_sample")[:6] == ["2", "1", "·", "·", "1", "·"]


def test_status_tells_results_of_other_code_and_run_keeps_them(copy):
    small_grid.replace_cell(copy, "04_transform", 3, "print('looked at more closely')")
    assert "another version of the code, and kept: 1 of 04_transform" in dgs(copy, "status", FILE).stdout
    before = manifests(copy)
    assert "Nothing was left to do." in dgs(copy, "run", FILE).stdout
    assert manifests(copy) == before


def test_clean_removes_only_what_no_file_refers_to(copy):
    strangers = [copy / "outputs" / "notes.txt", copy / "outputs" / "05_sample" / "mine" / "image.png",
                 copy / "outputs" / "05_sample" / "mine-0123abcd" / "image.png", copy / "outputs" / "other" / "x"]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = manifests(copy)
    assert dgs(copy, "clean").stdout.startswith("0 B that no experiment file refers to")
    (copy / FILE).write_text(small_grid.EXPERIMENT.replace("random, dgs", "random"))
    printed = dgs(copy, "clean").stdout
    listed = {line.split("outputs/")[1] for line in printed.splitlines() if "outputs/" in line}
    assert {name.split("/")[0] for name in listed} == {
        "01_fine_tune", "02_pool", "03_difficulty", "04_transform", "05_sample", "06_evaluate", "07_figures"}
    assert manifests(copy) == before
    [held] = [name for name in listed if name.startswith("04")]
    with FileLock(copy / "outputs" / held / ".lock"):
        assert "kept: a process is working in it" in dgs(copy, "clean", "--yes").stdout
    assert manifests(copy).keys() == before.keys() - listed | {held}
    assert "removed" in dgs(copy, "clean", "--yes").stdout
    assert manifests(copy).keys() == before.keys() - listed
    assert all(path.exists() for path in strangers)


def test_clean_keeps_what_given_folders_were_made_from(copy):
    [dgs_set] = (copy / "outputs" / "05_sample").glob("*dgs*")
    (copy / FILE).write_text(f"evaluate: {{distilled: outputs/05_sample/{dgs_set.name}}}")
    printed = dgs(copy, "clean").stdout
    assert "06_evaluate" in printed
    assert "04_transform" not in printed


def test_clean_refuses_where_a_file_cannot_be_read(copy):
    before = manifests(copy)
    (copy / "params" / "broken.yaml").write_text("evaluate: [")
    result = dgs(copy, "clean", "--yes")
    assert result.returncode == 2
    assert "broken.yaml is not valid YAML" in result.stderr
    assert manifests(copy) == before


# ---- Where output goes -----------------------------------------------------------------------------------------------

def in_shell(workspace, line, **environment):
    """Run a shell line with ``dgs`` in it; return its result, whose status is that of ``dgs`` itself."""
    line = line.replace("dgs", shlex.join(small_grid.command()), 1)
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=workspace, capture_output=True, text=True,
                          env=small_grid.environment(workspace) | environment, encoding="utf-8", errors="replace")


def test_a_terminal_without_the_characters_gets_others(workspace):
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        result = in_shell(workspace, f"dgs run {FILE} --dry-run", **environment)
        assert result.returncode == 0, result.stderr
        assert columns(result.stdout, "06_evaluate")[:3] == ["2", "?", "?"]
        wrong = in_shell(workspace, f"dgs run {FILE} --set 'figures.title=\"ü/\"'", **environment)
        assert wrong.returncode == 2
        assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(("line", "status"), [
    (f"dgs run {FILE} --dry-run >&-", 0), (f"dgs run {FILE} --dry-run >&- 2>&-", 0), ("dgs run x.yaml >&- 2>&-", 2),
    (f"dgs status {FILE} > /dev/full", 2)])
def test_output_that_nobody_takes(workspace, line, status):
    result = in_shell(workspace, line)
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


@pytest.mark.parametrize("words", [["status", FILE], ["run", FILE, "--dry-run"]])
def test_a_pipe_that_nobody_reads_ends_it_as_other_tools(workspace, words):
    ours, theirs = os.pipe()
    os.close(ours)
    result = subprocess.run(small_grid.command(*words), cwd=workspace, env=small_grid.environment(workspace),
                            stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (result.returncode, result.stderr) == (141, b"")


def test_a_run_whose_reader_goes_leaves_results_that_the_next_one_takes_up(workspace):
    small_grid.replace_cell(workspace, "00_prepare", 3, "import time\nfrom pathlib import Path\n"
                            "while not Path('go').exists(): time.sleep(0.02)")
    runner = small_grid.start(workspace, "run", FILE, "--until", "fine_tune")
    assert runner.stdout.readline() == "2 of 2 notebooks to run\n"
    runner.stdout.close()
    (workspace / "go").touch()
    assert runner.wait(HANG) == 141
    assert runner.stderr.read() == ""
    again = dgs(workspace, "run", FILE, "--until", "fine_tune")
    assert again.returncode == 0
    assert "1 of 2 notebooks to run" in again.stdout
