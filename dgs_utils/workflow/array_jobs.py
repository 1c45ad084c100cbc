"""Array jobs for SLURM: a script a stage, a task a notebook, and one script that submits them all.

No process waits for them: each task is `dgs node`, and SLURM's dependencies keep the order of the stages. Time, memory,
cores and GPUs are those of a cluster's profile (`workflow.cluster`).
"""

import re
import shlex
from collections import defaultdict
from pathlib import Path

from dgs_utils.store.atomic import atomic, remove_path
from dgs_utils.store.node import Node, input_nodes
from dgs_utils.store.paths import display_path
from dgs_utils.workflow.cluster import node_command, profile_config
from dgs_utils.workflow.notebook import Options
from dgs_utils.workflow.scheduler import check_start, unaffected

MAX_TASKS = 1000  # of an array: SLURM's default for MaxArraySize is 1,001, and it bounds the index, too
DEFAULT_PROFILE = "slurm"
SUBMIT, LOGS = "submit.sh", "logs"
Group = tuple[str, int]  # a stage, and how many of its own stage a node's inputs have behind each other
OPTIONS = {"runtime": "--time={}", "mem_mb": "--mem={}M", "cpus_per_task": "--cpus-per-task={}",
           "slurm_account": "--account={}", "slurm_partition": "--partition={}"}  # by the profile's names of resources

TASK = """\
#!/bin/bash
{options}#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Runs one notebook: that of the line $SLURM_ARRAY_TASK_ID, counted from $1, of the list in this script,
# of which SLURM keeps a copy.
# Two minutes before its time is up it saves its state, and is queued again, at most three times.
cd {folder} || exit
line=$(sed -n "$((${{1:-0}} + SLURM_ARRAY_TASK_ID))p" << 'KEYS'
{keys}KEYS
)
{command} "${{line%% *}}" --attempt "$((${{SLURM_RESTART_COUNT:-0}} + 1))" &
node=$!
again() {{
    kill -TERM "$node"
    wait "$node"
    [ "${{SLURM_RESTART_COUNT:-0}}" -lt 3 ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    exit 1
}}
trap again USR1
trap 'kill -TERM "$node"; wait "$node"; exit 143' TERM
wait "$node"
"""
SUBMIT_HEAD = """\
#!/bin/bash
# Submits all notebooks; words behind it are options of each sbatch, such as --partition=gpu.
# A notebook that fails blocks what needs it; `dgs status` shows which, and --sbatch writes what is left anew.
set -euo pipefail
submit() {{  # name, tasks, the jobs before it, script, line to begin behind, options; prints the job
    local name=$1 tasks=$2 after=$3 script=$4 first=$5 job
    shift 5
    job=$(sbatch --parsable --job-name="$name" --array="$tasks{limit}" --output={logs}/"$name"-%A_%a.txt \\
        ${{after:+"--dependency={dependency}$after"}} --kill-on-invalid-dep=yes "$@" "$script" "$first") || return
    echo "$name: job ${{job%%;*}}, tasks $tasks" >&2
    echo ":${{job%%;*}}"
}}
"""


def write_array_jobs(folder: Path, file: str, changes: list[str], nodes: list[Node], options: Options,
                     profile: str = "", jobs: int = 0) -> list[str]:
    """Write the scripts of all nodes that are not finished; return lines on what there is to submit, [] for nothing.

    Scripts that an earlier call wrote are replaced. Each task plans the file, with ``changes`` by --set, for itself.
    With ``options.fail_fast`` a stage begins only when all before it have succeeded. Jobs ask for a profile's
    resources; so many ``jobs`` of an array run at a time, 0 for any number.

    Raises:
        ValueError: the folder holds other files, the profile is missing, or the run cannot begin (see
            `scheduler.check_start`).
    """
    left = check_start(nodes, options)
    finished = unaffected(nodes, left)
    groups = _groups([node for node in nodes if node.key not in finished])
    resources = profile_config(profile or DEFAULT_PROFILE)
    asked = {group: _asked(members, resources) for group, members in groups.items()}
    if not groups:
        return []
    _clear(folder)
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    logs = shlex.quote(str(folder / LOGS).replace("%", "%%"))  # SLURM fills in what follows a single one
    submit = SUBMIT_HEAD.format(limit=f"%{jobs}" if jobs else "", logs=logs,
                                dependency="afterok" if options.fail_fast else "afterany")
    lines = []
    of_node = {node.key: _name(group) for group, members in groups.items() for node in members}
    for group, members in groups.items():
        name = _name(group)
        sources = {of_node[source.key] for node in members for source in input_nodes(node) if source.key in of_node}
        script, keys = shlex.quote(str(folder / f"{name}.sh")), "".join(f"{node.key} {node.name}\n" for node in members)
        _write(folder / f"{name}.keys", keys)  # for people, and as a mark of ours; the script holds its own
        _write(folder / f"{name}.sh", TASK.format(
            options="".join(f"#SBATCH {word}\n" for word in asked[group]), folder=shlex.quote(str(Path.cwd())),
            keys=keys, command=node_command(file, changes, options)))
        submit += f"\njobs_{name}=\n"
        after = "".join(f"$jobs_{source}" for source in sorted(sources))
        for first in range(0, len(members), MAX_TASKS):
            tasks = f"1-{min(len(members) - first, MAX_TASKS)}"
            submit += f'jobs_{name}+=$(submit dgs_{name} {tasks} "{after}" {script} {first} "$@")\n'
        lines.append(f"{name}: {len(members)} tasks")
    _write(folder / SUBMIT, submit)
    return [*lines, f"To submit them: bash {shlex.quote(display_path(folder / SUBMIT))}"]


def _groups(nodes: list[Node]) -> dict[Group, list[Node]]:
    """Return the nodes by what may run at the same time, in the order of the plan."""
    groups: dict[Group, list[Node]] = defaultdict(list)
    ranks: dict[str, int] = {}
    for node in nodes:
        own = [ranks[source.key] + 1 for source in input_nodes(node) if source.stage == node.stage
               and source.key in ranks]
        ranks[node.key] = max(own, default=0)
        groups[node.stage, ranks[node.key]].append(node)
    return groups  # inputs come before their readers, so each group after those that it needs


def _name(group: Group) -> str:
    stage, rank = group
    return f"{stage}_{rank + 1}" if rank else stage


def _asked(members: list[Node], resources: dict) -> list[str]:
    """Return what sbatch is to give a group's tasks.

    Raises:
        ValueError: a resource is no plain value, as one that Snakemake computes.
    """
    own = resources.get("default-resources", {}) | resources.get("set-resources", {}).get(members[0].stage[3:], {})
    for name in (name for name in (*OPTIONS, "gpu") if name in own):
        if not re.fullmatch(r"[\w.,@-]+" if name.startswith("slurm_") else r"\d+", str(own[name])):
            raise ValueError(f"the profile's {name} is {own[name]!r}; give a plain value, as in "
                             f"profiles/slurm/config.yaml")
    words = [form.format(own[name]) for name, form in OPTIONS.items() if name in own]
    gpus = max((max(getattr(node.params, "processes", 1), 1) for node in members if node.params.needs_gpu), default=0)
    return [*words, f"--gres=gpu:{int(own['gpu']) * gpus}"] if gpus and own.get("gpu") else words


def _clear(folder: Path) -> None:
    """Remove what an earlier call wrote into a folder, but for the logs.

    Raises:
        ValueError: it holds something else.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    own = [entry for entry in entries if entry.name == SUBMIT or entry.suffix == ".keys"
           or entry.with_suffix(".keys") in entries]
    if other := [entry for entry in entries if entry not in own and entry.name != LOGS]:
        raise ValueError(f"--sbatch {display_path(folder)} holds {other[0].name}; give a new folder, or one that "
                         f"--sbatch wrote")
    for entry in own:
        remove_path(entry)


def _write(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
