"""How much of what students reach do measures of a set explain? A regression over sets, tested on rules left out.

    python tests/set_measures.py outputs/06_evaluate/cifar10-*

Each folder is a finished evaluation, whose set lies beside it. A set's measures are means over classes by the features
of its scorer: difficulty, share misclassified, effective number of images (Vendi), and density and coverage of the
originals. A ridge regression predicts the accuracy of each rule's sets from those of all others; R² below 0 is worse
than their mean.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dgs_utils.checkup.coverage import coverage_measures
from dgs_utils.checkup.vendi import effective_number
from dgs_utils.classifiers.scorer import Classifier, extract_features, load_classifier
from dgs_utils.difficulty.scoring import score_images
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.results.rows import read_results
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.store.lineage import input_folder
from dgs_utils.store.manifest import read_manifest

REAL = 200  # originals a class
MEASURES = ["difficulty", "misclassified", "effective", "density", "coverage"]


def by_class(images: ImageSet, features: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of each class's images."""
    return {str(name): features[part.index] for name, part in images.table.groupby("class", sort=False)}


def real_features(prepare: Path, scorer: Classifier) -> dict[str, np.ndarray]:
    """Return the features of some originals of each class."""
    images = ImageSet.read(prepare, split="train")
    rows = [part.iloc[np.sort(numpy_rng("sets", "originals", name).permutation(len(part))[:REAL])]
            for name, part in images.table.groupby("class", sort=False)]
    some = ImageSet(images.root, pd.concat(rows, ignore_index=True))
    return by_class(some, extract_features(some, scorer))


def set_measures(folder: Path, prepare: Path, scorer: Classifier, real: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the measures of one distilled set."""
    classes = read_classes(prepare)
    images = ImageSet.read(folder, classes=list(classes["class"]))
    index = classes["index"].to_numpy()
    scores = score_images(images, [scorer], index)
    features = by_class(images, extract_features(images, scorer))
    covered = [coverage_measures(real[name], part) for name, part in features.items()]
    return {"difficulty": float(scores["score"].mean()),
            "misclassified": float((scores["prediction"] != index[images.labels]).mean()),
            "effective": float(np.mean([effective_number(part) for part in features.values()])),
            **{name: float(np.mean([one[name] for one in covered])) for name in ("density", "coverage")}}


def explained(table: pd.DataFrame, measures: list[str]) -> float:
    """Return R² of the accuracy of each rule's sets, predicted from the sets of all other rules.

    Args:
        table: one row a set: the measures, best (percent) and series (its rule).
    """
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11)))
    guessed = cross_val_predict(model, table[measures], table["best"], groups=table["series"], cv=LeaveOneGroupOut())
    best = table["best"].to_numpy()
    return float(1 - ((best - guessed) ** 2).sum() / ((best - best.mean()) ** 2).sum())


def main(folders: list[Path]) -> pd.DataFrame:
    """Print the measures by rule, and R² of all, of each alone, and of all but each."""
    rows = read_results(folders).groupby(["folder", "series"], as_index=False)["best"].mean()
    prepare = input_folder(read_manifest(folders[0]), "prepare")
    scorer = load_classifier(prepare / "classifier")
    real = real_features(prepare, scorer)
    measured = [set_measures(input_folder(read_manifest(Path(folder)), "distilled"), prepare, scorer, real)
                for folder in rows["folder"]]
    table = pd.concat([rows, pd.DataFrame(measured)], axis=1)
    print(table.groupby("series")[["best", *MEASURES]].mean().sort_values("best").round(3).to_string())
    rules = table["series"].nunique()
    print(f"\n{len(table)} sets of {rules} rules; R² on rules left out: all {explained(table, MEASURES):.2f}")
    for name in MEASURES:
        others = [other for other in MEASURES if other != name]
        print(f"{name}: alone {explained(table, [name]):.2f}, without it {explained(table, others):.2f}")
    return table


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main([Path(name) for name in sys.argv[1:]])
