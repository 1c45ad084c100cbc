"""How many images to generate for the targets of a plan, where its pools are scored already."""

import math
import warnings
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dgs_utils.params import SampleParams, TransformParams
from dgs_utils.store.manifest import parameter
from dgs_utils.store.node import Node, label_of
from dgs_utils.store.status import node_manifest

if TYPE_CHECKING:
    import pandas as pd


def pool_plan_lines(nodes: list[Node]) -> list[str]:
    """Return a line for each pool, IPC and target of a plan: how many generated images of a class fill the target.

    Transforms that differ in what their labels leave out, such as seeds, share a line, which has the largest number.
    There is none for pools that are not scored yet, for sets whose classes have budgets, and for candidates that are
    only a part of the pool. Damaged results are told of elsewhere.
    """
    plans: dict[str, dict[str, pd.DataFrame]] = defaultdict(dict)
    for node in nodes:
        params = node.params
        if not isinstance(params, SampleParams) or "target" not in params.needs or params.has_budgets:
            continue
        if params.pool_share < 1 or params.drop_duplicates or params.cut or params.cut_errors:
            continue
        pool, source = node.inputs["pool"], node.inputs["transform"]
        assert isinstance(pool, Node | Path)
        name = f"{label_of(pool)}, IPC {params.ipc}, target {params.distribution}"
        key = source.key if isinstance(source, Node) else str(source)
        if key not in plans[name]:
            with suppress(ValueError, OSError, KeyError):
                plans[name] |= {key: plan} if (plan := _plan(params, source)) is not None else {}
    return [_line(name, list(tables.values())) for name, tables in plans.items() if tables]


def _plan(params: SampleParams, source: object) -> "pd.DataFrame | None":
    """Return `plan_classes` of a stage 04 that is finished, or whose scores are; else None."""
    folder, pool, originals = _finished(source), None, None
    if isinstance(source, Node):
        pool, originals = (_finished(source.inputs[name]) for name in ("pool_scores", "original_scores"))
    if not (folder or (pool and originals)):
        return None
    from dgs_utils.checkup.planning import plan_classes  # here, because pandas takes a while to import
    from dgs_utils.runtime.table_io import read_table

    if folder:
        scores, bins = read_table(folder / "transformed.csv"), parameter(folder, "bins")
        return plan_classes(scores, params.ipc, params.distribution, bins)
    from dgs_utils import transform

    settings = getattr(source, "params", None)
    assert pool
    assert originals
    assert isinstance(settings, TransformParams)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # stage 04 will give them
        sets = transform.read_scored(settings, pool, originals)
        scores = transform.transform_scores(sets, **transform.settings_of(settings)).scores
    return plan_classes(scores, params.ipc, params.distribution, settings.bins)


def _finished(source: object) -> Path | None:
    """Return the folder of an input, if it is finished."""
    if isinstance(source, Node):
        return source.folder if node_manifest(source) else None
    return source if isinstance(source, Path) else None


def _line(name: str, tables: "list[pd.DataFrame]") -> str:
    import pandas as pd

    from dgs_utils.checkup.planning import UNKNOWN

    classes, several = pd.concat(tables), f" (the most of {len(tables)} plans)" if len(tables) > 1 else ""
    short = int((classes["missing"] > 0).sum())
    if not short:
        return f"{name}: the pool fills the target of each class"
    low, high, generate = classes[["low", "high", "generate"]].max()
    upper = "without a bound" if math.isinf(high) else f"to {high:.0f}"
    return f"{name}: the pool lacks images for the target of {short} of {len(classes)} classes; " + (
        f"{UNKNOWN} (see `dgs check`)" if math.isinf(generate) else
        f"{generate:.0f} generated images of each class fill it with 95 % probability ({low:.0f} {upper}){several}, "
        f"now {classes['pool'].max()}")
