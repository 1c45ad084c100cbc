"""Array jobs for SLURM, run by a stand-in for sbatch and its queue, which begins what it may, the last one first."""

import os
import re
import shlex
import shutil
import signal
import subprocess

import pytest
import small_grid
import yaml
from small_grid import contents, dgs
from waits import HANG, wait_for

from dgs_utils.workflow import array_jobs, cluster

FILE = "params/small.yaml"
SBATCH = r"""#!/bin/bash
# Queues a script: its tasks, what it waits for, where it prints, and the words behind it; prints its number.
number=$(( $(ls "$QUEUE" | wc -l) + 1 ))
mkdir "$QUEUE/$number"
while [[ $1 == --* ]]; do
    case $1 in --*=*) printf %s "${1#*=}" > "$QUEUE/$number/${1%%=*}";; esac
    shift
done
cp "$1" "$QUEUE/$number/script"
shift
printf '%s' "$*" > "$QUEUE/$number/words"
echo "$number;cluster"
"""


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    """A finished workspace of the test's own, below a name that has to be quoted."""
    finished = small_grid.finished(tmp_path_factory.getbasetemp())[0]
    return shutil.copytree(finished, tmp_path / "it's a $(false) %A grid; exit 3")


class Slurm:
    """Stands for a cluster: what is submitted waits in a folder, and `drain` runs it."""

    def __init__(self, folder):
        self.queue, self.bin = folder / "queue", folder / "bin"
        for path in (self.queue, self.bin):
            path.mkdir()
        (self.bin / "sbatch").write_text(SBATCH)
        (self.bin / "scontrol").write_text('#!/bin/bash\necho "$@" > "$QUEUE/../requeued"\n')
        for path in self.bin.iterdir():
            path.chmod(0o755)
        self.environment = {"QUEUE": str(self.queue), "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def submit(self, workspace, folder, *words):
        return subprocess.run(["bash", str(folder / "submit.sh"), *words], cwd="/", text=True, capture_output=True,
                              env=small_grid.environment(workspace) | self.environment, timeout=HANG)

    def read(self, number, name):
        path = self.queue / str(number) / name
        return path.read_text() if path.exists() else ""

    def start(self, workspace, number, task):
        """Start a task in a folder of the machine that runs it, as SLURM does: from a copy of its script."""
        output = self.read(number, "--output").replace("%%", "\0").replace("%A", str(number)).replace("%a", str(task))
        with open(output.replace("\0", "%"), "w") as printed:
            own = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": number, "SLURM_JOB_ID": number}
            return subprocess.Popen(["bash", str(self.queue / str(number) / "script"),
                                     *self.read(number, "words").split()], cwd="/", stdout=printed,
                                    stderr=subprocess.STDOUT, env=small_grid.environment(workspace) | self.environment
                                    | {name: str(value) for name, value in own.items()})

    def drain(self, workspace):
        """Run all that waits, of what may begin the last submitted job first; return the exit statuses by job name."""
        waiting, ended, statuses = set(map(int, os.listdir(self.queue))), {}, {}
        while waiting:
            may = []
            for number in waiting:
                kind, *before = self.read(number, "--dependency").split(":")
                if kind == "afterok" and any(ended.get(job) for job in map(int, before)):
                    statuses[self.read(number, "--job-name")], ended[number] = ["cancelled"], True
                elif all(int(job) in ended for job in before):
                    may.append(number)
            waiting -= ended.keys()
            if may:
                number = max(may)
                first, last = map(int, self.read(number, "--array").partition("%")[0].split("-"))
                own = [self.start(workspace, number, task).wait(HANG) for task in range(last, first - 1, -1)]
                statuses.setdefault(self.read(number, "--job-name"), []).extend(own)
                ended[number] = any(own)
                waiting.discard(number)
        return statuses


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path)


def test_array_jobs_make_what_a_local_run_makes(copy, slurm, monkeypatch):
    """Also where a stage has more tasks than an array may have."""
    monkeypatch.setattr(array_jobs, "MAX_TASKS", 1)
    expected, jobs = contents(copy), copy / "my jobs"
    for left in (copy / "outputs").glob("0[3-7]_*"):
        shutil.rmtree(left)
    words = ["run", FILE, "--sbatch", "my jobs", "--jobs", "7"]
    result = dgs(copy, *words)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ["07_figures: 1 tasks", "To submit them: bash 'my jobs/submit.sh'"]
    assert not list((copy / "outputs").glob("0[3-7]_*"))  # nothing has run
    for script in jobs.glob("*.sh"):
        assert subprocess.run(["bash", "-n", str(script)], capture_output=True).stderr == b""
    submitted = slurm.submit(copy, jobs, "--partition=gpu")
    assert submitted.returncode == 0, submitted.stderr
    assert slurm.read(1, "--partition") == "gpu"
    assert slurm.read(1, "--array") == "1-1%7"
    evaluations = [number for number in map(int, os.listdir(slurm.queue))
                   if slurm.read(number, "--job-name") == "dgs_06_evaluate"]
    assert [slurm.read(number, "words") for number in sorted(evaluations)] == ["0", "1"]
    statuses = slurm.drain(copy)
    printed = "".join(path.read_text() for path in (jobs / "logs").iterdir())
    assert statuses == {f"dgs_{stage}": [0] * count for stage, count in {
        "03_difficulty": 1, "03_difficulty_2": 1, "04_transform": 1, "05_sample": 2, "06_evaluate": 2,
        "07_figures": 1}.items()}, printed
    assert contents(copy) == expected
    assert dgs(copy, *words).stdout == "Nothing is left to do.\n"
    assert "Nothing was left to do." in dgs(copy, *words[:2]).stdout


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_failure_blocks_only_what_needs_it_unless_the_first_ends_all(copy, slurm, fail_fast):
    for stage in ("05_sample", "06_evaluate", "07_figures"):
        shutil.rmtree(copy / "outputs" / stage)
    small_grid.replace_cell(copy, "05_sample", 3, "assert run.params.method == 'random'")
    assert dgs(copy, "run", FILE, "--sbatch", "jobs", *["--fail-fast"] * fail_fast).returncode == 0
    assert slurm.submit(copy, copy / "jobs").returncode == 0
    statuses = slurm.drain(copy)
    assert sorted(statuses["dgs_05_sample"]) == [0, 1]
    later = [statuses["dgs_06_evaluate"], statuses["dgs_07_figures"]]
    assert (later == [["cancelled"], ["cancelled"]]) if fail_fast else (sorted(later[0]), later[1]) == ([0, 2], [2])
    if not fail_fast:
        printed = "".join(path.read_text() for path in (copy / "jobs" / "logs").iterdir())
        assert "FAILED 05_sample" in printed
        assert re.search("dgs: 06_evaluate needs 05_sample/.*, which is failed; run it first", printed)


def test_only_and_force_reach_the_tasks(copy, slurm):
    before = {folder: manifest["files"] for folder, manifest in small_grid.manifests(copy).items()}
    assert dgs(copy, "run", FILE, "--only", "figures", "--sbatch", "jobs").stdout == "Nothing is left to do.\n"
    assert not (copy / "jobs").exists()
    assert dgs(copy, "run", FILE, "--only", "sample", "--force", "sample", "--sbatch", "jobs").returncode == 0
    assert sorted(os.listdir(copy / "jobs")) == ["05_sample.keys", "05_sample.sh", "logs", "submit.sh"]
    assert slurm.submit(copy, copy / "jobs").returncode == 0
    assert slurm.drain(copy) == {"dgs_05_sample": [0, 0]}
    assert contents(copy) == before
    shutil.rmtree(copy / "outputs" / "07_figures")
    assert dgs(copy, "run", FILE, "--sbatch", "jobs").returncode == 0  # what it wrote before is replaced
    assert sorted(os.listdir(copy / "jobs")) == ["07_figures.keys", "07_figures.sh", "logs", "submit.sh"]


def test_tasks_that_wait_keep_their_list_where_the_scripts_are_written_anew(copy, slurm):
    assert dgs(copy, "run", FILE, "--only", "sample", "--force", "sample", "--sbatch", "jobs").returncode == 0
    assert slurm.submit(copy, copy / "jobs").returncode == 0
    shutil.rmtree(copy / "outputs" / "07_figures")
    assert dgs(copy, "run", FILE, "--only", "figures", "--sbatch", "jobs").returncode == 0
    assert slurm.drain(copy) == {"dgs_05_sample": [0, 0]}


def test_a_task_whose_time_is_up_is_queued_again(copy, slurm):
    """After its notebook has been ended as by Ctrl-C."""
    shutil.rmtree(copy / "outputs" / "07_figures")
    small_grid.replace_cell(copy, "07_figures", 3, "(run.folder / '.busy').touch()\nwhile True: pass")
    assert dgs(copy, "run", FILE, "--sbatch", "jobs").returncode == 0
    assert slurm.submit(copy, copy / "jobs").returncode == 0
    task = slurm.start(copy, 1, 1)
    wait_for(lambda: list(copy.rglob(".busy")) or task.poll() is not None)
    task.send_signal(signal.SIGUSR1)
    assert task.wait(HANG) == 1
    assert (slurm.queue.parent / "requeued").read_text() == "requeue 1_1\n"
    assert not list(copy.glob("outputs/07_figures/*/failure.json"))


def asked(workspace, stage):
    return re.findall(r"^#SBATCH (.*)$", (workspace / "jobs" / f"{stage}.sh").read_text(), flags=re.MULTILINE)


def test_jobs_ask_for_what_the_profile_says_and_for_gpus_where_networks_run(copy, tmp_path):
    shutil.rmtree(copy / "outputs")
    assert dgs(copy, "run", FILE, "--sbatch", "jobs", "--set", "fine_tune.processes=4").returncode == 0
    assert asked(copy, "01_fine_tune")[:4] == ["--time=720", "--mem=32000M", "--cpus-per-task=4", "--gres=gpu:4"]
    assert "--gres=gpu:1" in asked(copy, "06_evaluate")
    for stage in ("04_transform", "05_sample", "07_figures"):
        assert not [word for word in asked(copy, stage) if "gpu" in word]
    own = yaml.safe_load((cluster.SNAKEMAKE_FILES / "profiles" / "slurm" / "config.yaml").read_text())
    own["default-resources"] |= {"slurm_account": "me", "runtime": 7}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(yaml.safe_dump(own))
    words = ["run", FILE, "--sbatch", "jobs", "--profile", str(tmp_path / "mine")]
    assert dgs(copy, *words).returncode == 0
    assert asked(copy, "04_transform")[:4] == ["--time=7", "--mem=8000M", "--cpus-per-task=4", "--account=me"]
    own["default-resources"]["mem_mb"] = "attempt * 8000\n#SBATCH --uid=0"
    (tmp_path / "mine" / "config.yaml").write_text(yaml.safe_dump(own))
    assert "the profile's mem_mb is 'attempt * 8000" in dgs(copy, *words).stderr


def test_a_folder_of_other_files_is_left_alone(copy):
    shutil.rmtree(copy / "outputs" / "07_figures")
    (copy / "jobs").mkdir()
    (copy / "jobs" / "thesis.tex").touch()
    result = dgs(copy, "run", FILE, "--sbatch", "jobs")
    assert result.returncode == 2
    assert result.stderr == "dgs: --sbatch jobs holds thesis.tex; give a new folder, or one that --sbatch wrote\n"
    assert os.listdir(copy / "jobs") == ["thesis.tex"]


def test_words_of_every_kind_are_quoted(copy):
    title = "it's; $(touch owned) `touch owned` \"&& {}"
    shutil.rmtree(copy / "outputs" / "07_figures")
    change = "figures.title='" + title.replace("'", "''") + "'"
    assert dgs(copy, "run", FILE, "--sbatch", "jobs", "--set", change).returncode == 0
    text = (copy / "jobs" / "07_figures.sh").read_text()
    [command] = [line for line in text.splitlines() if " node " in line]
    assert change in shlex.split(command)
    assert subprocess.run(["bash", "-n", str(copy / "jobs" / "07_figures.sh")], capture_output=True).stderr == b""
