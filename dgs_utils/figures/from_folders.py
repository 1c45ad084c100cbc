"""Contents of figures and tables, from the folders of finished stages."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils import plots
from dgs_utils.figures.from_rows import figure2_scores, scorer_confusion
from dgs_utils.images.classes import display_names, output_names, pick_figure_classes, read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import METHODS
from dgs_utils.results.claims import ClaimInputs
from dgs_utils.results.rows import sort_rows
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.selection.targets import counts_to_text, scale_counts
from dgs_utils.store.lineage import input_folder, lineage
from dgs_utils.store.manifest import parameter, read_manifest


def first_dgs_set(samples: Sequence[Path]) -> Path | None:
    """Return the first 05 folder of difficulty-guided sampling, or None."""
    return next((folder for folder in samples if read_manifest(folder)["identity"].get("method") == "dgs"), None)


def read_figure2_scores(distilled: Path, names: Sequence[str] = (),
                        warn: Callable[[str], None] = print) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the scores of Figure 2 (`figure2_scores`) for a 05 folder of difficulty-guided sampling.

    Args:
        distilled: that folder.
        names, warn: of `images.classes.pick_figure_classes`.
    """
    folder = _input_of(distilled, "transform")
    scores, drawn = read_table(folder / "transformed.csv"), read_table(distilled / "metadata.csv")
    shown = pick_figure_classes(names, _titles_of(distilled), warn)
    return figure2_scores(scores, drawn, parameter(distilled, "ipc"), parameter(folder, "bins"), shown)


def figure3_images(distilled: Path, names: Sequence[str] = (), originals: bool = True,
                   warn: Callable[[str], None] = print) -> dict[str, pd.DataFrame]:
    """Return the images of Figure 3 with path and score, by row name, for `plots.figure3`.

    Args:
        distilled: a 05 folder of difficulty-guided sampling.
        names, warn: of `images.classes.pick_figure_classes`.
        originals: include the originals, whose licence may forbid redistribution.
    """
    scored, titles = _scored_originals(distilled), _titles_of(distilled)
    sets = {"distilled": (distilled, read_table(distilled / "metadata.csv"))}
    if originals:
        root = ImageSet.read(_input_of(scored, "prepare"), "train").root
        sets = {"original": (root, read_scores(scored)), **sets}
    rows = {}
    for name, title in pick_figure_classes(names, titles, warn).items():
        for which, (root, table) in sets.items():
            rows[f"{title}, {which}"] = plots.scored_images(table[table["class"] == name], root)
    return rows


def sets_by_method(samples: Sequence[Path], results: pd.DataFrame, names: Sequence[str] = (), originals: bool = True,
                   warn: Callable[[str], None] = print, columns: int = 8) -> tuple[dict, list[str]]:
    """Return images of the first set of each method by its name, and heads of the columns, for `plots.contact_sheet`.

    Args:
        samples: 05 and 08 folders.
        results: rows with distilled (folder) and series, the names of sets; sets without rows are left out.
        names, warn: of `images.classes.pick_figure_classes`; without names two classes are shown, those in which the
            mean difficulty of methods differs most.
        originals: include sets of real images, whose licence may forbid redistribution.
        columns: images of a class, at the most.
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
    shown = pick_figure_classes(names or differing, titles, warn)
    images: dict[str, list[Path | None]] = {name: [] for name in order}
    heads = ["method"]
    for place, (label, title) in enumerate(shown.items()):
        parts = {name: table[table["class"] == label] for name, (_, table) in sets.items()}
        width = min(columns, max(map(len, parts.values())))
        heads += [""] * (place > 0) + ["" if column != width // 2 else title for column in range(width)]
        for name in order:
            part = parts[name].sort_values("score", kind="stable") if "score" in parts[name] else parts[name]
            spread = part.iloc[np.linspace(0, len(part) - 1, min(width, len(part))).round().astype(int)]
            files = [sets[name][0] / file for file in spread["file_name"]]
            images[name] += [None] * (place > 0) + [*files, *[None] * (width - len(files))]
    return images, heads


def generator_shares(samples: Sequence[Path], results: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of each generator in a pool of several, and in the sets that were selected from it.

    Args:
        samples: 05 folders.
        results: rows with distilled (folder) and series, the names of sets; other sets are called by their folders.

    Returns:
        A line a series, after that of the pool, and a column a generator; empty if no pool has several.
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
    """Return the own numbers for the paper's claims.

    Args:
        results: rows of results.
        samples: 05 folders; scores are those of sets of difficulty-guided sampling from a generated pool with a
            transform. Of several measures of difficulty and objectives of the transform, the first counts.
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
    """Return the confusion of the scorer behind some 05 folders, on the originals or else on the pool.

    Args:
        samples: 05 folders.

    Returns:
        "originals" or "pool", and `scorer_confusion`; None for sets that were not scored.
    """
    scored: dict[str, Path] = {}
    for folder, manifest in (behind for sample in samples for behind in lineage(sample)):
        if manifest["stage"] == "03_difficulty":
            scored.setdefault(parameter(folder, "source"), folder)
    for source in ("originals", "pool"):
        scores = read_scores(scored[source]) if source in scored else pd.DataFrame()
        if "prediction" in scores:
            prepare = _input_of(scored[source], "prepare")
            return source, scorer_confusion(scores, read_classes(prepare), output_names(prepare))
    return None


def scored_pool(sample: Path) -> tuple[pd.DataFrame, Path] | None:
    """Return the scores of the pool behind a 05 folder, and the folder of its images; None if it was not scored."""
    for folder, manifest in lineage(sample):
        if manifest["stage"] == "03_difficulty" and parameter(folder, "source") == "pool":
            return read_scores(folder), ImageSet.read(_input_of(folder, "pool")).root
    return None


def titles_of_set(sample: Path) -> dict[str, str]:
    """Return the readable name of each class of a distilled set; {} without a class table behind it."""
    prepared = next((folder for folder, manifest in lineage(sample) if manifest["stage"] == "00_prepare"), None)
    return display_names(read_classes(prepared)) if prepared else {}


def _series_by_key(results: pd.DataFrame) -> dict[str, str]:
    """Return the series of each distilled set by the key at the end of its folder's name, whatever its title."""
    keys = [folder.rpartition("-")[2] for folder in results["distilled"]]  # also of no rows, which have no dtype
    return dict(zip(keys, results["series"], strict=True))


def _scored_originals(distilled: Path) -> Path:
    """Return the 03 folder of the originals behind a distilled set."""
    return _input_of(_input_of(distilled, "transform"), "original_scores")


def _input_of(folder: Path, name: str) -> Path:
    """Return an input folder of a finished stage.

    Raises:
        ValueError: the stage had none, as that of a set which was not drawn by difficulty.
    """
    source = input_folder(read_manifest(folder), name)
    if source is None:
        raise ValueError(f"{folder} was made without the input {name}; give a set that difficulty-guided sampling drew")
    return source


def _titles_of(distilled: Path) -> dict[str, str]:
    """Return the readable name of each class."""
    return display_names(read_classes(_input_of(_scored_originals(distilled), "prepare")))
