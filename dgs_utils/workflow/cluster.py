"""Nodes as jobs of a cluster: Snakemake schedules, `dgs node` does the work.

Snakemake gets one job for each node that is left, and nothing else: which nodes are finished, stale or failed is read
from their own folders, as in a local run, so that each of the two resumes the other's work.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from dgs_utils.params.base import did_you_mean
from dgs_utils.runtime.process_lifetime import end_group, is_running, start_owned
from dgs_utils.runtime.threads import CORE_BUDGET, LIBRARY_THREADS
from dgs_utils.store.atomic import HOST_NAME
from dgs_utils.store.node import Node, input_nodes
from dgs_utils.store.paths import display_path, outputs_root, resolve_path
from dgs_utils.store.status import FAILURE, changed_external_data, failure, node_manifest, node_status, why_stale
from dgs_utils.workflow.display import WAIT_INTERVAL_S, Display
from dgs_utils.workflow.notebook import Options, Report, finished_report, manifest_identity
from dgs_utils.workflow.scheduler import FIRST_FAILURE, OK_OUTCOMES, check_start, interruptible, unaffected

SNAKEMAKE_FILES = Path(__file__).parent
ERROR_LINE = re.compile(r"^dgs: |error\b|exception\b|no space left", re.IGNORECASE)
JOB_ENDED_LINE = re.compile(r"Error in (rule|group)|RuleException|CalledProcessError")  # no cause
FOLDERS_POLL_S = 10.0  # between looks at the nodes' folders
NO_OUTPUT = "its job ended without a word, as when it is killed"
PRIVATE_FOLDERS = {"XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}  # environment variables, and Snakemake's own folders


def run_with_snakemake(file: str, changes: list[str], nodes: list[Node], display: Display, options: Options,
                       profile: str, jobs: int = 0) -> list[Report]:
    """Run all nodes that are not finished as jobs, each of which plans the file with ``changes`` by --set for itself.

    A profile is one of this package, or the path of a folder with Snakemake's ``config.yaml``; it says how many jobs
    run at a time, unless ``jobs`` does.

    Raises:
        ValueError: Snakemake or the profile is missing, or the run cannot begin (see `scheduler.run_plan`).
    """
    config = find_profile(profile)
    left = check_start(nodes, options)
    for line in [*changed_external_data(left), *(why_stale(node) for node in left if node_status(node) == "stale")]:
        display.note(line)
    display.start(left, len(nodes))
    reports = unaffected(nodes, left)
    planned = [node for node in nodes if node.key not in reports]  # finished ones, too, whose inputs may come out anew
    if planned:
        folder, before = _new_folder(), {node.key: manifest_identity(node) for node in planned}
        _write_plan(folder, planned, _command(file, changes, options))
        arguments = ["--snakefile", str(SNAKEMAKE_FILES / "Snakefile"), "--profile", str(config),
                     *(["--jobs", str(jobs)] if jobs else []), "--directory", str(folder), "--config",
                     f"plan={folder / 'plan.json'}"]
        ended = _call(arguments, folder, left, display, options.fail_fast)
        for node in planned:
            report = _report(node, reports, before[node.key] != manifest_identity(node), folder)
            began = not ended or report.outcome != "failed" or node_status(node) == "failed"
            reports[node.key] = report if began else Report(node, "blocked")
        if all(report.outcome in OK_OUTCOMES for report in reports.values()):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"The logs of Snakemake and its jobs are in {display_path(folder)}, until the next run")
    return [reports[node.key] for node in nodes]


def _new_folder() -> Path:
    """Return a new folder for Snakemake's files, where a cluster's machines see it; remove those of this user's ended
    runs.
    """
    root = outputs_root() / ".snakemake"
    for old in root.glob(f"{HOST_NAME}.*"):
        process = int(old.suffix[1:])
        with suppress(FileNotFoundError):  # another run has just removed it
            if old.stat().st_uid == os.getuid() and (process == os.getpid() or not is_running(process)):
                shutil.rmtree(old, ignore_errors=True)
    folder = root / f"{HOST_NAME}.{os.getpid()}"
    folder.mkdir(parents=True)
    return folder


def last_error_line(folder: Path, node: Node) -> str:
    """Return the last line about an error in the log of a node's job, or else in Snakemake's; "" for none."""
    for log in (folder / node.stage[3:] / f"{node.key}.log", folder / "snakemake.log"):
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        errors = [line.strip() for line in lines if ERROR_LINE.search(line) and not JOB_ENDED_LINE.match(line)]
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
        raise ValueError(f"--profile needs Snakemake; {install}")
    folder = _profile_folder(name)
    executor = profile_config(name).get("executor", "local")
    plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    if executor != "local" and importlib.util.find_spec(plugin) is None:
        raise ValueError(f"profile {name} needs {plugin.replace('_', '-')}; {install}")
    return folder


def _profile_folder(name: str) -> Path:
    folder = SNAKEMAKE_FILES / "profiles" / name
    if not folder.is_dir():
        folder = resolve_path(name)
    if not (folder / "config.yaml").is_file():
        known = sorted(path.name for path in (SNAKEMAKE_FILES / "profiles").iterdir())
        raise ValueError(f"there is no profile {name}, nor a folder {folder} with a config.yaml"
                         f"{did_you_mean(name, known)}")
    return folder


def profile_config(name: str) -> dict[str, Any]:
    """Return what a profile says.

    Raises:
        ValueError: there is no such profile, or its ``config.yaml`` holds no names and values.
    """
    path = _profile_folder(name) / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no names and values; see {SNAKEMAKE_FILES}/profiles/slurm/config.yaml")
    return content


def _write_plan(folder: Path, left: list[Node], command: str) -> None:
    marks = {node.key: f"{node.stage[3:]}/{node.key}" for node in left}
    inputs = {node.key: [marks[source.key] for source in input_nodes(node) if source.key in marks] for node in left}
    stages = list(dict.fromkeys(node.stage[3:] for node in left))
    plan = {"command": command, "stages": stages, "marks": list(marks.values()), "inputs": inputs}
    (folder / "plan.json").write_text(json.dumps(plan))


def node_command(file: str, changes: list[str], options: Options) -> str:
    """Return the command that runs a node, up to its key, for a shell in any folder."""
    words = [sys.executable, "-m", "dgs_utils.cli", "node", str(resolve_path(file)), "--outputs", str(outputs_root()),
             "--limit", str(options.limit), "--per-gpu", str(options.per_gpu)]
    words += [word for change in changes for word in ("--set", change)]
    words += [word for stage in sorted(options.force) for word in ("--force", stage)]
    return shlex.join(words)


def _command(file: str, changes: list[str], options: Options) -> str:
    """Return the command of a job up to its key, for a shell that Snakemake formats: braces doubled."""
    # Snakemake sets its jobs' threads to one and has folders of its own (`_call`); jobs get what the user has set.
    names = (*LIBRARY_THREADS, CORE_BUDGET, *PRIVATE_FOLDERS)
    own = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    unset = [f"-u{name}" for name in names if name not in os.environ]
    command = f"cd {shlex.quote(os.getcwd())} && {shlex.join(['env', *unset, *own])} "
    command += node_command(file, changes, options)
    return command.replace("{", "{{").replace("}", "}}")


def _call(arguments: list[str], folder: Path, left: list[Node], display: Display, fail_fast: bool) -> bool:
    """Run Snakemake, showing progress; its exit status does not matter, the nodes' folders do.

    Returns:
        Whether a failure has ended it.
    """
    earlier = {node.key: _failed_at(node) for node in left}
    private = {name: str(folder / own) for name, own in PRIVATE_FOLDERS.items()}  # the home may be read-only
    for path in private.values():
        os.mkdir(path)
    with interruptible() as check_interrupt, (folder / "snakemake.log").open("w") as messages:
        process = start_owned([sys.executable, "-m", "snakemake", *arguments], env=os.environ | private,
                              stdout=messages, stderr=subprocess.STDOUT)
        due = time.monotonic() + FOLDERS_POLL_S
        try:
            while process.poll() is None:
                check_interrupt()
                if time.monotonic() >= due:
                    counts = Counter[str](map(node_status, left))
                    numbers = ", ".join(f"{counts[status]} {status}" for status in ("done", "running", "failed")
                                        if counts[status])
                    display.note(f"Of {len(left)} jobs {numbers or 'none has begun'}; Snakemake's log is "
                                 f"{display_path(folder)}/snakemake.log", again_after=WAIT_INTERVAL_S)
                    due = time.monotonic() + FOLDERS_POLL_S
                    if fail_fast and any(_failed_at(node) not in (0, earlier[node.key]) for node in left):
                        display.note(FIRST_FAILURE)
                        return True
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        finally:
            end_group(process)
    return False


def _failed_at(node: Node) -> int:
    """Return when a node's last run failed, in its file system's time; 0 where none did."""
    try:
        return (node.folder / FAILURE).stat().st_mtime_ns
    except OSError:
        return 0


def _report(node: Node, reports: dict[str, Report], written: bool, folder: Path) -> Report:
    """Return what became of a node, from its folder and Snakemake's, after the reports of the nodes before it, by key;
    ``written`` says whether it has another manifest than before.
    """
    if report := finished_report(node):
        return Report(node, "done", (node_manifest(node) or {"seconds": 0.0})["seconds"]) if written else report
    if any(reports[source.key].outcome not in OK_OUTCOMES for source in input_nodes(node) if source.key in reports):
        return Report(node, "blocked")
    line = last_error_line(folder, node)
    cause = f"its job ended before its notebook did: {line}" if line else NO_OUTPUT
    return Report(node, "failed", error=failure(node) if node_status(node) == "failed" else cause)
