"""Expected run times: the median of finished runs of the same stage, parameters (but for the seed) and sizes."""

import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from dgs_utils.store.node import Node
from dgs_utils.store.paths import outputs_root
from dgs_utils.store.status import cached_manifest, size_key


def seconds_by_group(nodes: Collection[Node]) -> dict[str, list[float]]:
    """Return the seconds of all finished runs of the nodes' stages, by their `duration_group`."""
    seconds = defaultdict(list)
    for stage in {node.stage for node in nodes}:
        folder = outputs_root() / stage
        paths = sorted(entry.path for entry in os.scandir(folder)) if folder.is_dir() else []
        for manifest in filter(None, map(cached_manifest, paths)):
            inputs = [(cached_manifest(outputs_root() / source["folder"]), source.get("count", 0))
                      for source in manifest["inputs"]]
            seconds[_group(manifest, inputs)].append(manifest["seconds"])
    return seconds


def duration_group(node: Node) -> str:
    """Return a text that is equal for nodes whose notebooks take equally long.

    It has what decides the result but for the seed, its size, the data set, and the number of images read of inputs.
    """
    inputs = []
    for name, sources in node.inputs.items():
        images = node.params.images_read_from(name)
        for source in [sources] if isinstance(sources, Node | Path) else sources:
            inputs.append((_stage_and_size(source) if isinstance(source, Node) else cached_manifest(source), images))
    return _group(_stage_and_size(node), inputs)


def _stage_and_size(node: Node) -> dict[str, Any]:
    return {"stage": node.stage, "size": size_key(node.fingerprint, node.params.model_dump(mode="json"))}


def _group(result: Mapping[str, Any], inputs: Iterable[tuple[Mapping[str, Any] | None, int]]) -> str:
    """Return the group of a result whose inputs come with the images a class that it reads of each (0 = all)."""
    sizes = [[source["stage"], source["size"]["hash"]] if source["stage"] == "00_prepare" else
             [source["stage"], source["size"]["ipc"], images or source["size"]["count"]]
             for source, images in inputs if source]
    size = result["size"]
    return json.dumps([result["stage"], size["hash"], size["count"], sorted(map(str, sizes))])


def expected_seconds(left: Counter[str], seconds: Mapping[str, list[float]]) -> tuple[float, bool]:
    """Return the seconds of those numbers of runs, by `duration_group`, that have run before (`seconds_by_group`), and
    whether these are all.
    """
    groups = [group for group, count in left.items() if count > 0]
    known = [group for group in groups if seconds.get(group)]
    return sum(left[group] * statistics.median(seconds[group]) for group in known), known == groups
