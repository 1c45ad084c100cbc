"""What is finished, what is missing, what is stale."""

import statistics
from collections import Counter, defaultdict

from dgs_utils.artifacts import Node, code_hashes, is_done, read_manifest
from dgs_utils.batch.display import duration
from dgs_utils.batch.run import is_finished


def state_of(node: Node) -> str:
    """Return "done", "done, other code" (finished by another version of the code), "stale" or "missing".

    Stale is a node whose inputs were made anew since; it runs again. Other code never makes a node run again.
    """
    if not is_done(node.folder):
        return "missing"
    if not is_finished(node):
        return "stale"
    manifest = read_manifest(node.folder)
    return "done" if manifest["code"] == code_hashes(node.stage) else "done, other code"


def node_table(nodes: list[Node], each: bool = False) -> str:
    """Return a table with a line a stage (how many nodes, how many in which state, time spent or expected).

    Args:
        nodes: the plan.
        each: add a line for every node that is not simply done.
    """
    stages: dict[str, Counter] = defaultdict(Counter)
    spent: dict[str, list[float]] = defaultdict(list)
    details = []
    for node in nodes:
        state = state_of(node)
        stages[node.stage][state] += 1
        if state != "missing":
            spent[node.stage].append(read_manifest(node.folder)["seconds"])
        if each and state != "done":
            details.append(f"  {state:<18}{node.stage} {node.folder.name}")
    lines = [f"{'stage':<16}{'nodes':>6}{'done':>6}{'missing':>9}{'stale':>7}{'spent':>9}{'to come':>9}"]
    for stage, states in stages.items():
        total, missing, stale = states.total(), states["missing"], states["stale"]
        times = spent[stage]
        expected = duration(statistics.median(times) * (missing + stale)) if times else "?" if missing else "0:00"
        lines.append(f"{stage:<16}{total:>6}{total - missing - stale:>6}{missing:>9}{stale:>7}"
                     f"{duration(sum(times)):>9}{expected:>9}")
    return "\n".join([*lines, *details])
