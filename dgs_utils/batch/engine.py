"""Several nodes at a time, here or on a cluster: Snakemake schedules, `dgs node` does the work.

Snakemake gets one job for each node that is left, and nothing else: what is finished, stale or failed is told from the
nodes' own folders, as in a run one after another, so that either way of running takes up the other's work.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import yaml

from dgs_utils.artifacts.manifests import MANIFEST
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.places import locate, outputs_root, workspace
from dgs_utils.batch.changes import changed_data
from dgs_utils.batch.display import MINUTE, Display
from dgs_utils.batch.node import Options, Report, clear_unless_held, finished, input_nodes, is_forced, shown, stale_line
from dgs_utils.batch.prepared import prepared
from dgs_utils.batch.run import GOOD, check_start, nodes_by_key, terminate_as_interrupt
from dgs_utils.batch.scratch import run_folder
from dgs_utils.batch.state import FAILURE, failure, manifest, record_folder, state
from dgs_utils.runtime.parameters import nearest
from dgs_utils.runtime.threads import SHARE, cores

HERE = Path(__file__).parent
COMPLAINT = re.compile(r"^dgs: |error\b|exception\b|no space left", re.IGNORECASE)
KILLED = re.compile(r"Error in (rule|group)|RuleException|CalledProcessError")  # says no more than that a job ended
NOTHING_SAID = "its job ended without a word, as when it is killed"
CACHE = "XDG_CACHE_HOME"
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")] + ["VECLIB_MAXIMUM_THREADS"]


def run_with_snakemake(file: str, changes: list[str], nodes: list[Node], display: Display, options: Options,
                       profile: str = "local", jobs: int = 0) -> list[Report]:
    """Run all nodes that are not finished, several at a time.

    Args:
        file: the experiment file, and
        changes: what --set changed in it: each job plans for itself and must find the same nodes.
        nodes: the plan, or a part of it.
        display: shows progress.
        options: how nodes are run.
        profile: a profile of this package, or the path of a folder with Snakemake's ``config.yaml``.
        jobs: how many at a time; 0 = what the profile says.

    Raises:
        ValueError: Snakemake or the profile is missing, or the run cannot begin (see `run.run_plan`).
    """
    config = find_profile(profile)
    left = check_start(nodes, options)
    before = {node.key for node in nodes if node not in left}
    for node in left:
        if is_forced(node, options):
            clear_unless_held(node)  # from here on it counts as missing, also where this run is interrupted
    for line in changed_data(left):
        display.note(line)
    display.start(left, len(nodes))
    share = share_of_cores(config, jobs)
    limit = ["--cores" if profile == "local" else "--jobs", str(jobs)] if jobs else []
    arguments = ["--snakefile", str(HERE / "Snakefile"), "--profile", str(config), *limit]
    with prepared(left, _threads(share)) if share else nullcontext():  # jobs elsewhere could not ask it
        told = _rounds(nodes, left, before, display, _command(file, changes, options, share), arguments)
    return _reports(nodes, before, told)


def _rounds(nodes: list[Node], left: list[Node], before: set[str], display: Display, command: str,
            arguments: list[str]) -> dict[str, str]:
    """Call Snakemake until nothing is left to do, or something failed; return what its log says of what failed.

    Args:
        nodes: the plan.
        left: what is to be run of it.
        before: keys of what was finished before; those of what became stale meanwhile are taken out.
        display: shows progress.
        command: how a job runs a node.
        arguments: of Snakemake, but for its folder and the plan.
    """
    while left:
        for node in left:
            if found := manifest(node):  # its inputs have changed
                display.note(stale_line(node, found))
                (node.folder / MANIFEST).unlink()
        scratch = run_folder()
        folder = scratch.path
        _write_plan(folder, left, command)
        _call([*arguments, "--directory", str(folder), "--config", f"plan={folder / 'plan.json'}"],
              folder / "snakemake.log", _Watcher(left, display))
        if not all(finished(node) for node in left):
            print(f"What Snakemake and its jobs said is in {shown(folder)}, until the next run")
            return {node.key: last_words(folder, node) for node in left}
        scratch.remove_folder(folder)
        left = [node for node in nodes if state(node) == "stale"]  # made from something else than what came out now
        before -= {node.key for node in left}
    return {}


def last_words(folder: Path, node: Node) -> str:
    """Return what the log of a node's job, or else Snakemake's own, says last of an error; "" where neither does."""
    for log in (folder / node.stage[3:] / f"{node.key}.log", folder / "snakemake.log"):
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        errors = [line.strip() for line in lines if COMPLAINT.search(line) and not KILLED.match(line)]
        if errors:
            return errors[-1][:300]
    return ""


def find_profile(name: str) -> Path:
    """Return the folder of a Snakemake profile, after checking that what it needs is installed.

    Raises:
        ValueError: there is no such profile, or a package is missing; the sentence has the command that installs it.
    """
    install = "it comes with the extra: pip install 'dgs-utils[cluster]' (in a checkout: pip install -e '.[cluster]')"
    if importlib.util.find_spec("snakemake") is None:
        raise ValueError(f"--jobs and --profile need Snakemake; {install}")
    folder = HERE / "profiles" / name
    if not folder.is_dir():
        folder = locate(name)
    if not (folder / "config.yaml").is_file():
        known = sorted(path.name for path in (HERE / "profiles").iterdir())
        raise ValueError(f"there is no profile {name}, nor a folder {folder} with a config.yaml{nearest(name, known)}")
    executor = yaml.safe_load((folder / "config.yaml").read_text()).get("executor", "local")
    plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    if executor != "local" and importlib.util.find_spec(plugin) is None:
        raise ValueError(f"profile {name} needs {plugin.replace('_', '-')}; {install}")
    return folder


def _write_plan(folder: Path, left: list[Node], command: str) -> None:
    marks = {node.key: f"{node.stage[3:]}/{node.key}" for node in left}
    inputs = {node.key: [marks[source.key] for source in input_nodes(node) if source.key in marks] for node in left}
    stages = list(dict.fromkeys(node.stage[3:] for node in left))
    plan = {"command": command, "stages": stages, "marks": list(marks.values()), "inputs": inputs}
    (folder / "plan.json").write_text(json.dumps(plan))


def share_of_cores(config: Path, jobs: int = 0) -> int:
    """Return how many cores each of the jobs of a profile has that run here at a time; 0 where they run elsewhere."""
    profile = yaml.safe_load((config / "config.yaml").read_text())
    if profile.get("executor", "local") != "local":
        return 0
    at_a_time = jobs or profile.get("cores", "all")
    return max(cores() // at_a_time, 1) if isinstance(at_a_time, int) else 1  # "all": one a core


def _command(file: str, changes: list[str], options: Options, share: int) -> str:
    """Return the node command up to the key, for a shell that Snakemake formats: braces doubled."""
    words = [sys.executable, "-m", "dgs_utils.cli", "node", str(locate(file)), "--outputs", str(outputs_root()),
             "--limit", str(options.limit), "--per-gpu", str(options.per_gpu)]
    words += [word for change in changes for word in ("--set", change)]
    # Snakemake tells its jobs to use one thread and has a cache of its own (`_call`).
    own = _threads(share) | ({CACHE: os.environ[CACHE]} if CACHE in os.environ else {})
    before = [f"{name}={value}" for name, value in own.items()]
    unset = [f"-u{name}" for name in (*THREADS, CACHE) if name not in own]
    command = f"cd {shlex.quote(str(workspace()))} && {shlex.join(['env', *unset, *before, *words])}"
    return command.replace("{", "{{").replace("}", "}}")


def _threads(share: int) -> dict[str, str]:
    """Return the environment that tells a job its threads: here its share of the cores, elsewhere (0) all it is given.

    Numbers that somebody has set hold.
    """
    names = [*THREADS, SHARE]
    return (dict.fromkeys(names, str(share)) if share else {}) | {n: os.environ[n] for n in names if n in os.environ}


def _call(arguments: list[str], log: Path, watch: Callable[[], None]) -> None:
    """Run Snakemake, looking around now and then; its exit status does not matter, since the nodes' folders tell."""
    guard = [sys.executable, "-m", "dgs_utils.batch.guard", str(os.getpid())]
    environment = os.environ | {CACHE: str(log.parent / "cache")}  # a home that cannot be written is no reason to fail
    with terminate_as_interrupt(), log.open("w") as messages:
        process = subprocess.Popen([*guard, sys.executable, "-m", "snakemake", *arguments], env=environment,
                                   start_new_session=True, stdout=messages, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                watch()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


class _Watcher:
    """Reports nodes as they begin, go on, finish or fail, whichever machine runs them."""

    def __init__(self, left: list[Node], display: Display):
        self.left, self.display = list(left), display
        self.before = {node.key: _log_time(node) for node in left}  # what earlier runs left
        self.failures = {node.key: _failure_time(node) for node in left}  # and what has been told since
        self.failed: set[str] = set()
        self.begun: dict[str, float] = {}
        self.told: dict[str, float] = {}

    def __call__(self) -> None:
        self._ends()
        now = time.monotonic()
        for node in self.left:
            if node.key not in self.begun and _log_time(node) != self.before[node.key]:
                self.begun[node.key] = self.told[node.key] = now
                self.display.running(node, 0, "starting")
            elif now - self.told.get(node.key, now) >= MINUTE and node.key not in self.failed:
                self.told[node.key] = now
                self.display.running(node, now - self.begun[node.key], "running")

    def _ends(self) -> None:
        for node in list(self.left):
            if found := manifest(node):
                self.left.remove(node)
                self.display.finished(Report(node, "done", found["seconds"]))
            elif (since := _failure_time(node)) and since != self.failures[node.key]:
                self.failures[node.key] = since
                self.failed.add(node.key)
                self.display.finished(Report(node, "failed", error=failure(node)))


def _log_time(node: Node) -> float:
    """Return when a node's notebook last wrote to its log, by the clock of the file system; 0 if none has."""
    return _time(record_folder(node) / "log.txt")


def _failure_time(node: Node) -> float:
    """Return when a node's failure was written; 0 if it has none."""
    return _time(node.folder / FAILURE)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _reports(nodes: list[Node], before: set[str], told: dict[str, str]) -> list[Report]:
    """Tell what became of nodes from their folders."""
    reports: dict[str, Report] = {}
    planned = nodes_by_key(nodes)
    for node in nodes:
        report = finished(node)
        if report and report.outcome == "skipped" and node.key not in before:
            report = Report(node, "done", (manifest(node) or {"seconds": 0.0})["seconds"])
        elif report is None and any(reports[s.key].outcome not in GOOD for s in input_nodes(node) if s.key in planned):
            report = Report(node, "blocked")
        elif report is None:
            words = told.get(node.key)
            silent = f"its job ended before its notebook did: {words}" if words else NOTHING_SAID
            report = Report(node, "failed", error=failure(node) if state(node) == "failed" else silent)
        reports[node.key] = report
    return list(reports.values())
