"""What a finished stage shows: its main numbers, warnings, and the next notebook."""

import html
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgs_utils.params.base import StageParams
from dgs_utils.runtime.units import format_duration
from dgs_utils.store.grouped_warnings import group_warnings
from dgs_utils.store.manifest import MANIFEST
from dgs_utils.store.node import default_node, input_nodes
from dgs_utils.store.on_demand import default_folders
from dgs_utils.store.paths import display_path, notebook_path, outputs_root

if TYPE_CHECKING:
    from pandas import DataFrame

NEXT = {"00_prepare": ("01_fine_tune", "prepare"), "01_fine_tune": ("02_pool", "fine_tune"),
        "02_pool": ("03_difficulty", "pool"), "03_difficulty": ("04_transform", "pool_scores"),
        "04_transform": ("05_sample", "transform"), "05_sample": ("06_evaluate", "distilled"),
        "06_evaluate": ("07_figures", "evaluations"), "08_condense": ("06_evaluate", "distilled")}


class StageResult(dict):
    """The manifest of a finished stage, which Jupyter shows as a summary; empty while other shards are at work.

    Attributes:
        folder: of the stage.
        params: its parameters.
    """

    def __init__(self, manifest: dict[str, Any], folder: Path, params: StageParams):
        super().__init__(manifest)
        self.folder, self.params = folder, params

    def __repr__(self) -> str:
        heading, *lines = self._lines()
        return "\n".join([heading, *(f"  {line}" for line in lines)])

    def _repr_markdown_(self) -> str:
        heading, *lines = self._lines()
        return "\n".join([f"**{html.escape(heading, quote=False)}**", "", *(f"- {html.escape(line, quote=False)}"
                                                                           for line in lines)])

    def _lines(self) -> list[str]:
        stage, folder = self.params.stage, display_path(self.folder)
        if not self:
            return [f"{stage} is not finished: other shards are still at work in {folder}",
                    "The shard that ends last finishes it; run this cell again when all have ended."]
        return [f"{stage} is finished, in {format_duration(self['seconds'])}: {folder}",
                *main_numbers(stage, self.folder),
                *(f"Warning: {sentence}" for sentence in group_warnings(self["warnings"], MANIFEST)),
                *next_notebook(self.params, self.folder)]


def main_numbers(stage: str, folder: Path) -> list[str]:
    """Return the main numbers of a stage's folder, a line each; [] where its tables are missing or are others."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        return NUMBERS[stage](folder)
    return []


def next_notebook(params: StageParams, folder: Path) -> list[str]:
    """Return a line with the notebook to open next, and the parameter to set where its default lacks this folder."""
    stage, name = NEXT.get(params.stage, ("", ""))
    if getattr(params, "source", "") == "originals":
        stage, name = "03_difficulty", "originals"
    elif getattr(params, "base_model", "") == "none":  # without a diffusion model
        stage, name = "02_pool", "prepare"
    if not stage:
        return []
    node = default_node(stage)
    takes_several = isinstance(getattr(node.params, name), list)
    usual = (default_folders(node.params.inputs()[name], {}) if takes_several
             else [source.folder for source in input_nodes(node)])
    line = f"Next: {display_path(notebook_path(stage))}"
    if folder in usual:
        return [line]
    root = outputs_root()
    path = f"outputs/{folder.relative_to(root).as_posix()}" if folder.is_relative_to(root) else str(folder)
    value = [path] if takes_several else path
    return [f"{line}, with {name} = {value!r}"]


# ---- Numbers ---------------------------------------------------------------------------------------------------------

def _table(folder: Path, name: str) -> "DataFrame":
    from dgs_utils.runtime.table_io import read_table  # here, because pandas takes a while to import

    return read_table(folder / f"{name}.csv")


def _prepare(folder: Path) -> list[str]:
    images = _table(folder, "originals")
    counts = images["split"].value_counts()
    scorer = [f"scorer: {_table(folder, 'classifier_curve')['top1'].iloc[-1]:.1f} % of the held-out images recognised"
              ] if (folder / "classifier_curve.csv").exists() else []
    return [f"{counts.get('train', 0):,} images to train on and {counts.get('val', 0):,} held out, of "
            f"{images['class'].nunique()} classes", *scorer]


def _losses(folder: Path) -> list[str]:
    losses = _table(folder, "losses").drop(columns=["step", "iteration", "class"], errors="ignore")
    last = losses.select_dtypes("number").tail(max(len(losses) // 10, 1)).mean()
    return [f"{len(losses):,} rows of losses; mean of the last tenth: "
            + ", ".join(f"{name} {value:.4g}" for name, value in last.items())]


def _images(folder: Path) -> list[str]:
    images = _table(folder, "metadata")
    return [f"{len(images):,} images of {images['class'].nunique()} classes"]


def _difficulty(folder: Path) -> list[str]:
    scores = _table(folder, "scores")["score"]
    return [f"{len(scores):,} images: mean score {scores.mean():.3f}, half of them below {scores.median():.3f}"]


def _transform(folder: Path) -> list[str]:
    table = _table(folder, "thresholds")
    return [f"{len(table)} classes: {table['bottom'].median():g} of the easiest and {table['top'].median():g} of the "
            f"hardest images clipped (medians)"]


def _evaluate(folder: Path) -> list[str]:
    rows = _table(folder, "results")
    spread = f" ± {rows['best'].std():.1f}" if len(rows) > 1 else ""
    return [f"top-1 {rows['best'].mean():.1f}{spread} % (best test), {rows['last'].mean():.1f} % (last test); "
            f"{len(rows)} trainings, {rows['n_test'].iloc[0]:,} test images"]


NUMBERS: dict[str, Callable[[Path], list[str]]] = {
    "00_prepare": _prepare, "01_fine_tune": _losses, "02_pool": _images, "03_difficulty": _difficulty,
    "04_transform": _transform, "05_sample": _images, "06_evaluate": _evaluate,
    "07_figures": lambda folder: [f"{len([*folder.glob('*.png')])} figures, {len([*folder.glob('*.md')])} tables"],
    "08_condense": lambda folder: [*_images(folder), *_losses(folder)]}
