"""Contents of figures and tables, from the folders of finished stages."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils import plots
from dgs_utils.figures.from_rows import scorer_confusion
from dgs_utils.images.classes import display_names, output_names, pick_figure_classes, read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import METHODS
from dgs_utils.results.claims import ClaimInputs
from dgs_utils.results.rows import sort_rows
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.score_tables import read_scores, sampling_panels
from dgs_utils.selection.targets import counts_to_text, scale_counts
from dgs_utils.store.lineage import input_folder, lineage
from dgs_utils.store.manifest import parameter, read_manifest

Warn = Callable[[str], None]


def read_figure2_scores(distilled: Path, names: Sequence[str], warn: Warn) -> dict[str, dict[str, dict]]:
    """Return the scores of Figure 2 (`sampling_panels`) for a 05 folder of difficulty-guided sampling; the row with
    transform has the set itself. ``names`` and ``warn`` are of `images.classes.pick_figure_classes`, here and below.
    """
    folder = _input_of(distilled, "transform")
    drawn, shown = read_table(distilled / "metadata.csv"), pick_figure_classes(names, titles_of_set(distilled), warn)
    panels = sampling_panels(read_table(folder / "transformed.csv"), shown, parameter(distilled, "ipc"),
                             parameter(folder, "bins"))
    for name, title in shown.items():
        panels[title]["with transform"]["distilled"] = drawn.loc[drawn["class"] == name, "transformed"].to_numpy()
    return panels


def figure3_images(distilled: Path, names: Sequence[str], originals: bool, warn: Warn) -> dict[str, pd.DataFrame]:
    """Return the images of Figure 3 with path and score, by row name, for `plots.figure3`, of a 05 folder of
    difficulty-guided sampling; with the originals only where these may be shown.
    """
    sets = {"distilled": (distilled, read_table(distilled / "metadata.csv"))}
    if originals:
        scored = _input_of(_input_of(distilled, "transform"), "original_scores")
        sets = {"original": (ImageSet.read(_input_of(scored, "prepare"), "train").root, read_scores(scored)), **sets}
    return {f"{title}, {which}": plots.scored_images(table[table["class"] == name], root)
            for name, title in pick_figure_classes(names, titles_of_set(distilled), warn).items()
            for which, (root, table) in sets.items()}


def sets_by_method(samples: Sequence[Path], results: pd.DataFrame, names: Sequence[str] = (), originals: bool = True,
                   warn: Warn = print) -> tuple[dict, list[str]]:
    """Return images of the first set of each method by its name, and heads of the columns, for `plots.contact_sheet`.

    Of 05 and 08 folders those are shown that have rows, sets of real images only with ``originals``, as their licence
    may forbid redistribution. Without names of classes two are shown, in which the difficulty of methods differs most.
    """
    series = _series_by_key(results)
    sets: dict[str, tuple[Path, pd.DataFrame]] = {}
    for folder in samples:
        method = read_manifest(folder)["identity"].get("method", "")
        name, real = series.get(folder.name.rpartition("-")[2]), method in METHODS and METHODS[method].source != "pool"
        if name and name not in sets and (originals or not real) and method != "full":
            sets[name] = folder, read_table(folder / "metadata.csv")
    if not sets:
        return {}, []
    order = [name for name in sort_rows(results)["series"].unique() if name in sets]
    titles = {name: name for _, table in sets.values() for name in table["class"].unique()}
    titles |= {name: title for folder, _ in sets.values() for name, title in titles_of_set(folder).items()}
    means = pd.DataFrame({name: table.groupby("class")["score"].mean() for name, (_, table) in sets.items()
                          if "score" in table})
    differing = list(means.std(axis=1).nlargest(2).index) if means.shape[1] > 1 else []
    images: dict[str, list[Path | None]] = {name: [] for name in order}
    heads = ["method"]
    for index, (label, title) in enumerate(pick_figure_classes(names or differing, titles, warn).items()):
        parts = {name: table[table["class"] == label] for name, (_, table) in sets.items()}
        width = min(8, max(map(len, parts.values())))
        heads += [""] * (index > 0) + ["" if column != width // 2 else title for column in range(width)]
        for name in order:
            part = parts[name].sort_values("score", kind="stable") if "score" in parts[name] else parts[name]
            spread = part.iloc[np.linspace(0, len(part) - 1, min(width, len(part))).round().astype(int)]
            files = [sets[name][0] / file for file in spread["file_name"]]
            images[name] += [None] * (index > 0) + [*files, *[None] * (width - len(files))]
    return images, heads


def generator_shares(samples: Sequence[Path], results: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of each generator in a pool of several, and in the sets that were selected from it: a line
    a series (or folder, where ``results`` have none), after that of the pool, and a column a generator; empty if no
    pool has several.
    """
    series = _series_by_key(results)
    sets: dict[str, list[pd.DataFrame]] = {}
    for folder in samples:
        pool = input_folder(read_manifest(folder), "pool")
        whole = read_table(pool / "metadata.csv") if pool else pd.DataFrame()
        if "generator" in whole and whole["generator"].nunique() > 1:
            sets.setdefault("the pool", [whole])
            name = series.get(folder.name.rpartition("-")[2], folder.name)
            sets.setdefault(name, []).append(read_table(folder / "metadata.csv"))
    if not sets:
        return pd.DataFrame()
    images = pd.concat({name: pd.concat(tables) for name, tables in sets.items()}, names=["set"])
    shares = images.groupby("set", sort=False)["generator"].value_counts(normalize=True)
    return 100 * shares.unstack(fill_value=0).reindex(list(sets))


def claim_inputs(results: pd.DataFrame, samples: Sequence[Path]) -> ClaimInputs:
    """Return the own numbers for the paper's claims, from rows of results and from the 05 folders of difficulty-guided
    sampling from a generated pool with a transform. Of several measures of difficulty and objectives of the transform,
    the first counts.
    """
    scores, thresholds, sets = dict[Path, pd.DataFrame](), dict[Path, pd.DataFrame](), list[pd.DataFrame]()
    kind: tuple = ()
    for folder in samples:
        manifest = read_manifest(folder)
        transform = input_folder(manifest, "transform")
        if (manifest["identity"].get("method") != "dgs" or transform is None
                or read_manifest(_input_of(folder, "pool"))["params"].get("generator") == "originals"):
            continue
        pool, originals = (_input_of(transform, name) for name in ("pool_scores", "original_scores"))
        reading = parameter(transform, "objective")
        own = (reading, parameter(transform, "score") or parameter(pool, "measure"))
        kind = kind or (own if reading != "none" else ())
        if own != kind:
            continue
        made = {name: parameter(transform, name) for name in ("ipc", "pool_factor", "bins")}
        made |= {"transform": transform.name, "scored": f"{pool.name} {originals.name}", "reading": reading}
        sets.append(read_table(folder / "metadata.csv")[["class", "score"]].assign(**made))
        if transform not in scores:
            table, chosen = (read_table(transform / f"{name}.csv") for name in ("transformed", "thresholds"))
            targets = table[table["set"] == "original"].groupby("class")["transformed"].apply(
                lambda part, made=made: counts_to_text(scale_counts(part.to_numpy(), made["ipc"], made["bins"])))
            scores[transform] = table.assign(**made)
            thresholds[transform] = chosen.assign(target=chosen["class"].map(targets), **made)
    joined = [pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
              for tables in (list(scores.values()), list(thresholds.values()), sets)]
    return ClaimInputs(results, *joined)


def scorer_errors(samples: Sequence[Path]) -> tuple[str, pd.DataFrame] | None:
    """Return what the scorer behind some 05 folders has scored, "originals" or else "pool", and its confusion on it
    (`scorer_confusion`); None for sets that were not scored.
    """
    for source in ("originals", "pool"):
        scored = next(filter(None, (_behind(sample, "03_difficulty", source) for sample in samples)), None)
        scores = read_scores(scored) if scored else pd.DataFrame()
        if scored and "prediction" in scores:
            prepare = _input_of(scored, "prepare")
            return source, scorer_confusion(scores, read_classes(prepare), output_names(prepare))
    return None


def scored_pool(sample: Path) -> tuple[pd.DataFrame, Path] | None:
    """Return the scores of the pool behind a 05 folder, and the folder of its images; None if it was not scored."""
    scored = _behind(sample, "03_difficulty", "pool")
    return (read_scores(scored), ImageSet.read(_input_of(scored, "pool")).root) if scored else None


def titles_of_set(sample: Path) -> dict[str, str]:
    """Return the readable name of each class of a distilled set; {} without a class table behind it."""
    prepared = _behind(sample, "00_prepare")
    return display_names(read_classes(prepared)) if prepared else {}


def describe_set(folder: Path) -> tuple[str, list[str | Figure]]:
    """Return a title, and Markdown texts and figures, of a finished 05 folder: the set, the pool behind it from easy to
    hard, and what the scorer recognises.
    """
    plots.use_style()
    manifest, table, titles = read_manifest(folder), read_table(folder / "metadata.csv"), titles_of_set(folder)
    label = METHODS[manifest["params"]["method"]].label
    title = f"{manifest['label']}: {len(table)} images of {table['class'].nunique()} classes, selected by {label}"
    contents: list[str | Figure] = [
        f"## {title}\n\nThe images are in `{folder.name}/images`, a folder a class, with `metadata.csv`.",
        "### The distilled set", plots.set_gallery(table, folder, titles),
        "Each class from the easiest image to the hardest, with its difficulty where it is known."]
    if scored := scored_pool(folder):
        contents += ["### The pool, from easy to hard", plots.set_gallery(*scored, titles, columns=12),
                     "At even steps of rank. If hard images look like another class, it is the scorer that errs, or "
                     "the pool."]
    if errors := scorer_errors([folder]):
        contents += ["### What the scorer recognises",
                     plots.confusion_matrix(errors[1], f"the scorer on the {errors[0]}"),
                     "Of a class that the scorer hardly recognises, difficulties mean little."]
    return title, contents


def _behind(folder: Path, stage: str, source: str | None = None) -> Path | None:
    """Return the nearest folder of a stage behind a result, of stage 03 that of a source."""
    return next((path for path, manifest in lineage(folder)
                 if manifest["stage"] == stage and manifest["params"].get("source") == source), None)


def _series_by_key(results: pd.DataFrame) -> dict[str, str]:
    """Return the series of each distilled set by the key at the end of its folder's name, whatever its title."""
    keys = [folder.rpartition("-")[2] for folder in results["distilled"]]  # also of no rows, which have no dtype
    return dict(zip(keys, results["series"], strict=True))


def _input_of(folder: Path, name: str) -> Path:
    """Return an input folder of a finished stage, or raise ValueError if it had none."""
    source = input_folder(read_manifest(folder), name)
    if source is None:
        raise ValueError(f"{folder} was made without the input {name}; give a set that difficulty-guided sampling drew")
    return source
