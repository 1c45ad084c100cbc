"""Expected run times: the median of a plan's finished results of the same stage."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from dgs_utils.store.node import Node
from dgs_utils.store.status import node_manifest


def seconds_by_stage(nodes: Iterable[Node]) -> dict[str, list[float]]:
    """Return the seconds that a plan's finished results took, by stage."""
    seconds = defaultdict(list)
    for node in nodes:
        if manifest := node_manifest(node):
            seconds[node.stage].append(manifest["seconds"])
    return seconds


def expected_seconds(left: Counter[str], seconds: Mapping[str, list[float]]) -> tuple[float, bool]:
    """Return how long runs will take, as far as stages have run before, and whether these are all.

    Args:
        left: the number of runs by stage.
        seconds: from `seconds_by_stage`.
    """
    stages = [stage for stage, count in left.items() if count > 0]
    known = [stage for stage in stages if seconds.get(stage)]
    return sum(left[stage] * statistics.median(seconds[stage]) for stage in known), known == stages
