"""What is in a pool, told before anything is trained on it: `check_pool`, ``dgs check``."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.checkup.copies import find_copies
from dgs_utils.checkup.coverage import MAX_REAL, coverage_beside_real
from dgs_utils.checkup.figures import copies_sheet, coverage_panels, effective_curves
from dgs_utils.checkup.planning import UNKNOWN, plan_classes
from dgs_utils.checkup.vendi import effective_numbers
from dgs_utils.classifiers.pretrained import open_scorer
from dgs_utils.classifiers.sanity_checks import scorer_sanity_checks
from dgs_utils.classifiers.scorer import Classifier, extract_features
from dgs_utils.difficulty.scoring import outputs_of_labels, score_images
from dgs_utils.images.classes import default_class_names, imagenet_names
from dgs_utils.images.image_set import ImageSet
from dgs_utils.plots.heatmaps import confusion_matrix
from dgs_utils.plots.style import save, use_style
from dgs_utils.results.correctness import count_confusions
from dgs_utils.runtime.progress import no_progress
from dgs_utils.selection.targets import check_ipc
from dgs_utils.selection.transforms import default_limit, transform_class
from dgs_utils.store.atomic import write_csv

TABLES, FIGURES = ("pairs", "coverage", "effective", "confusion"), ("copies", "coverage", "effective", "confusion")
MAX_CHECKED = 2000  # originals that a scorer is checked on, about


@dataclass(frozen=True)
class PoolCheck:
    """The result of `check_pool`.

    Attributes:
        table: a row a class, and "all": images, blank, repeated (images that show a picture of the pool once more),
            for each other set how many show one of its pictures; with a scorer also recognised, and images to generate
            until the target is filled by different pictures (generate, low, high; see `planning.Plan`).
        pairs: of images that show one picture (`copies.find_copies`).
        coverage: class, and `coverage.coverage_beside_real` of it; empty without a scorer.
        effective: `vendi.effective_numbers`; empty without a scorer.
        confusion: true, predicted, images; empty without a scorer.
        roots: folder of each set, by name.
        problems: of the scorer, by its answers to originals (`sanity_checks.scorer_sanity_checks`), a sentence each.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    coverage: pd.DataFrame = field(default_factory=pd.DataFrame)
    effective: pd.DataFrame = field(default_factory=pd.DataFrame)
    confusion: pd.DataFrame = field(default_factory=pd.DataFrame)
    roots: Mapping[str, Path] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def sentences(self) -> list[str]:
        """What the check-up found, a sentence each."""
        row = self.table.iloc[-1]
        lines = list(self.problems)
        lines += [f"{row[name]} of {row['images']} images {text}" for name, text in (
            ("blank", "are of one colour"), ("repeated", "show a picture that the pool has already"),
            ("original", "show one of the originals"), ("test", "show a test image"),
            ("recognised", "are recognised by the scorer as their class")) if name in row]
        if "test" not in row:
            lines.append("copies of test images were not looked for, as no test images were given")
        if "generate" in row and self.coverage.empty:
            lines.append("coverage is not known: no class has enough different images")
        for measure, part in self.coverage.groupby("measure", sort=False) if len(self.coverage) else ():
            pool, low, high = part[["pool", "real_low", "real_high"]].mean()
            side = "below" if pool < low else "above" if pool > high else "within"
            lines.append(f"{measure} {pool:.3f} is {side} the {low:.3f} to {high:.3f} of as many real images "
                         f"(means over {len(part)} class{'es' * (len(part) > 1)})")
        if len(self.effective):
            together = self.effective.query("`class` == ''").pivot(index="images", columns="set")["effective"].dropna()
            lines += [f"{images} images are worth {pair['pool']:.1f} different ones, as many originals "
                      f"{pair['original']:.1f}" for images, pair in together.iloc[[0, -1][: len(together)]].iterrows()
                      if {"pool", "original"} <= set(together)]
        if "generate" in row:
            high = "without a bound" if math.isinf(row["high"]) else f"up to {row['high']:.0f}"
            lines.append("the pool fills the target of each class" if not row["missing"] else UNKNOWN if math.isinf(
                row["generate"]) else f"the target of each class is filled with {row['generate']:.0f} generated images "
                         f"a class ({row['low']:.0f} {high})")
        return lines

    def figures(self) -> dict[str, Figure]:
        """Return the figures by name, of what there is to draw."""
        drawn = {"copies": copies_sheet(self.pairs, self.roots) if len(self.pairs) else None,
                 "coverage": coverage_panels(self.coverage) if len(self.coverage) else None,
                 "effective": effective_curves(self.effective) if len(self.effective) else None,
                 "confusion": confusion_matrix(self.confusion) if len(self.confusion) else None}
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def write(self, folder: Path | str) -> None:
        """Write tables as CSV, figures as PNG and PDF, and the sentences as README.md."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        figures = [f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf")]
        for earlier in (*(f"{name}.csv" for name in TABLES), *figures):
            (Path(folder) / earlier).unlink(missing_ok=True)  # this check-up may lack it
        for name in ("table", *TABLES):
            if len(frame := getattr(self, name)):
                write_csv(Path(folder) / f"{name}.csv", frame)
        use_style()
        for name, figure in self.figures().items():
            save(figure, Path(folder), name)
        text = "\n".join(["# Check-up", "", *(f"- {line}" for line in self.sentences), ""])
        (Path(folder) / "README.md").write_text(text, encoding="utf-8")


def check_pool(pool: ImageSet | Path | str, originals: ImageSet | Path | str,
               test: ImageSet | Path | str | None = None, scorer: Classifier | str | None = None, ipc: int = 10, *,
               index: Sequence[int] | None = None, device: str = "auto", workers: int = 0,
               progress: Callable = no_progress) -> PoolCheck:
    """Tell what is in a pool: copies, what it covers, how many different images it has, what a scorer makes of it.

    Args:
        pool: image set, or folder with a folder for each class.
        originals: the training images, with the same classes.
        test: test images, of which none should be in the pool.
        scorer: a classifier of the classes, or its name or folder (`open_scorer`); None leaves out what needs one.
        ipc: images per class of the set that the pool is for.
        index: the scorer's output of each label; None finds it by the names (see `score_images`).
        device: where the scorer runs.
        workers: threads that read images; 0 = one per core.
        progress: wraps the images.

    Raises:
        ValueError: a class that is not in both sets or has no known output, or an image that cannot be read.
    """
    check_ipc(ipc)
    pool, originals = (s if isinstance(s, ImageSet) else ImageSet.read(Path(s)) for s in (pool, originals))
    if pool.classes != originals.classes:
        raise ValueError(f"{pool.root} has the classes {', '.join(pool.classes)} and {originals.root} has "
                         f"{', '.join(originals.classes)}; give both the same folders of classes")
    others = {name: s if isinstance(s, ImageSet) else ImageSet.read(Path(s))
              for name, s in (("original", originals), ("test", test)) if s is not None}
    scorer = open_scorer(scorer) if isinstance(scorer, str) else scorer
    count = scorer.config.num_classes if scorer else 0
    known = (scorer.config.classes or default_class_names(count)) if scorer else ()
    if scorer and index is None and count != len(pool.classes) and not known:
        raise ValueError(f"the scorer has {count} outputs without names, and {pool.root} has {len(pool.classes)} "
                         f"classes; give the outputs' names as classes in its config.json, or index in Python")
    pairs, images = find_copies(pool, others, workers, progress)
    roots = {"pool": pool.root} | {name: images.root for name, images in others.items()}
    counted = images.assign(images=1).groupby("class", sort=False)
    table = counted[["images", "blank", "repeated", *others]].sum().reset_index()
    if scorer is None:
        return PoolCheck(_with_all(table), pairs, roots=roots)
    sample = originals.sample_each_class(MAX_REAL, "checkup", "originals")
    options: dict = {"index": index, "device": device, "workers": workers, "progress": progress}
    scored = score_images(pool, scorer, **options)
    real = score_images(sample, scorer, **options)
    parts = [_by_class(s, extract_features(s, scorer, device, workers=workers, progress=progress))
             for s in (pool, sample)]
    covered = [coverage_beside_real(parts[1][name], parts[0][name], name).assign(**{"class": name})
               for name in pool.classes]
    outputs = outputs_of_labels(pool, [scorer], index)[0]
    titles = [imagenet_names().get(name, name) for name in known]
    names = dict(enumerate(titles)) | dict(zip(outputs[pool.labels], pool.table["class"], strict=True))
    predicted = [names.get(output, f"output {output}") for output in scored["prediction"]]
    some = originals.sample_each_class(max(1, MAX_CHECKED // len(pool.classes)), "checkup", "scorer")
    logits = extract_features(some, scorer, device, workers=workers, progress=progress, logits=True)
    source = "their order" if index is None and not titles else "the table of classes"
    problems = scorer_sanity_checks(logits, some.labels, outputs, pool.classes, titles, index_source=source)
    right = pd.Series(np.array(predicted) == pool.table["class"].to_numpy()).groupby(images["class"].to_numpy()).sum()
    table["recognised"] = table["class"].map(right)
    once = scored[~images["repeated"].to_numpy()]  # a picture that is there twice fills one place of the target
    table = table.merge(_plan(once, real, ipc), on="class")
    return PoolCheck(_with_all(table), pairs, pd.concat(covered, ignore_index=True),
                     effective_numbers(parts[0], parts[1], ipc),
                     count_confusions(pool.table["class"], predicted, pool.classes), roots, problems)


def _by_class(images: ImageSet, features: np.ndarray) -> dict[str, np.ndarray]:
    return {name: features[images.table["class"].to_numpy() == name] for name in images.classes}


def _plan(pool: pd.DataFrame, real: pd.DataFrame, ipc: int) -> pd.DataFrame:
    """Return the columns of `planning.plan_classes`, after the transform of stage 04 with its defaults."""
    rows = []
    for name, part in pool.groupby("class", sort=False):
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # stage 04 will give them
            scaled = transform_class(part["difficulty"], real["difficulty"][real["class"] == name], default_limit(ipc))
        rows += [pd.DataFrame({"class": name, "set": kind, "transformed": values})
                 for kind, values in (("pool", scaled.pool), ("original", scaled.originals))]
    return plan_classes(pd.concat(rows), ipc).drop(columns="pool")


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """Add a row "all": sums, and of what is to be generated the largest, as all classes get as many."""
    largest = [name for name in ("generate", "low", "high") if name in table]
    total = table.drop(columns=["class", *largest]).sum()
    return pd.concat([table, pd.DataFrame([{"class": "all", **total, **table[largest].max()}])], ignore_index=True)
