"""Texts of Figure 1 for a run, from the manifests and tables of the stages behind a distilled set."""

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import SCORES
from dgs_utils.results.protocol_labels import describe_generation
from dgs_utils.results.provenance_columns import own_scoring, pool_generator
from dgs_utils.results.rows import network_title
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.lineage import lineage

LINE_CHARACTERS = 24  # of a box
LOGARITHMS = {"code": "both ends clipped at thresholds (Eq. 9, as in the published code)",
              "paper": "both ends clipped at thresholds (Eqs. 7–9)", "none": "left out"}


def figure1_texts(distilled: Path, results: pd.DataFrame) -> dict[str, str]:
    """Return a text for each box of Figure 1 (`plots.paper_figures.BOXES`) that applies to a 05 folder of
    difficulty-guided sampling; ``results`` are rows, among them those of this set.
    """
    steps = list(lineage(distilled))
    params = {one["stage"]: one["params"] for _, one in reversed(steps)} | {"03_difficulty": own_scoring(steps)}
    folders = {manifest["stage"]: folder for folder, manifest in reversed(steps)}
    lines = _data(params, folders) | _sampling(params) | _generation(params, folders)
    own = results[results["distilled"].str.endswith(distilled.name.rpartition("-")[2])]
    if len(own):
        best = own.groupby("network", sort=False)["best"].mean().head(3)
        lines["Classification"] = [*(f"{network_title(name)}: {mean:.1f} %" for name, mean in best.items()),
                                   "of real test images"]
    return {box: "\n".join(textwrap.fill(line.replace("β ", "β\u00a0"), LINE_CHARACTERS) for line in parts)
            for box, parts in lines.items()}  # β stays beside its number


def _data(params: dict[str, dict[str, Any]], folders: dict[str, Path]) -> dict[str, list[str]]:
    sample, scores = params["05_sample"], read_table(folders["04_transform"] / "transformed.csv")
    counts, means = scores["set"].value_counts(), scores.groupby("set")["score"].mean()
    measure = params["04_transform"].get("score") or params["03_difficulty"].get("measure", "difficulty")
    return {
        "Original data": [f"{len(ImageSet.read(folders['00_prepare'], 'train')):,} images",
                          f"{len(read_classes(folders['00_prepare']))} classes"],
        "Image pool": [f"{counts['pool']:,} images",
                       f"{sample['pool_factor']} × IPC" if sample.get("pool_factor") else "all there are"],
        "Distilled set": [f"{len(read_table(folders['05_sample'] / 'metadata.csv')):,} images", f"IPC {sample['ipc']}"],
        "Difficulty": [SCORES.get(measure, measure), f"by {_scorer_of(params)}",
                       f"mean: originals {means['original']:.2f},", f"pool {means['pool']:.2f}"],
    }


def _scorer_of(params: dict[str, dict[str, Any]]) -> str:
    """Return the names of the scorers, without the sources of their weights."""
    scoring = params["03_difficulty"]
    names = [params["00_prepare"]["classifier"], *scoring.get("scorers", [])]
    return "published scores" if scoring.get("published_scores") else " + ".join(
        network_title(name) for name in (Path(name).name.removeprefix("timm:") for name in names))


def _sampling(params: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    sample, objective = params["05_sample"], params["04_transform"]["objective"]
    shape = sample["distribution"]
    shape = ("counts of one's own" if isinstance(shape, list) else
             f"the distribution “{shape}”" if shape != "scale" else "the originals' distribution, scaled down")
    return {"Logarithm": [LOGARITHMS.get(objective, objective)], "Sampling": [f"{shape} to IPC {sample['ipc']}"]}


def _generation(params: dict[str, dict[str, Any]], folders: dict[str, Path]) -> dict[str, list[str]]:
    """Return the texts on the diffusion model, or on another origin of the pool."""
    prepare, pool = params["00_prepare"], params["02_pool"]
    if pool["generator"] == "originals":
        return {"Biased draw": [describe_generation(params)]}
    if pool["generator"] == "folder":
        return {"Given images": [pool_generator(folders["02_pool"])]}
    here = prepare["base_model"] == "train"
    lines = {"Diffusion model": [prepare.get("dit_size") or "a small DiT",
                                 f"trained here, {prepare['train_steps']:,} steps" if here else "trained before"],
             "Generation": [f"{pool['steps']} denoising steps", f"guidance {pool['guidance']:g}"]}
    if "01_fine_tune" in params:
        steps = read_table(folders["01_fine_tune"] / "losses.csv")["step"].max()
        plain = params["01_fine_tune"].get("criteria") == "none"
        lines["Fine-tuning"] = [f"DiffFit, {steps:,} steps",
                                "by Eq. 2 alone" if plain else "representative and diverse (minimax)"]
    return lines
