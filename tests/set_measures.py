"""How much of what students reach do measures of a set explain? A regression over sets, tested on rules left out.

    python tests/set_measures.py outputs/05_sample outputs/evidence/cifar10_pools outputs/evidence/cifar10_ipc

measures the sets below the first folder that the experiments' rows are of (`dgs run FILE --until 05_sample` makes them
again without training) and writes outputs/evidence/set_measures.csv; without arguments it prints what follows from that
file. A set's measures are means over classes by the features of its scorer: difficulty, share misclassified, effective
number of images (Vendi), and density and coverage of the originals. A ridge regression predicts the accuracy of each
rule's sets from those of all others, and, within rules, of each selection's sets from those of all other selections;
R² below 0 is worse than the mean.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from dgs_utils.checkup.coverage import NEAREST, coverage_measures
from dgs_utils.checkup.vendi import effective_number
from dgs_utils.classifiers.scorer import Classifier, extract_features, load_classifier
from dgs_utils.difficulty.scoring import score_images
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.results.rows import read_results
from dgs_utils.store.lineage import input_folder
from dgs_utils.store.manifest import read_manifest

TABLE = Path(__file__).parents[1] / "outputs" / "evidence" / "set_measures.csv"
REAL = 200  # originals a class
MEASURES = ["difficulty", "misclassified", "effective", "density", "coverage"]


def by_class(images: ImageSet, features: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of each class's images."""
    return {str(name): features[part.index] for name, part in images.table.groupby("class", sort=False)}


def real_features(prepare: Path, scorer: Classifier) -> dict[str, np.ndarray]:
    """Return the features of some originals of each class."""
    some = ImageSet.read(prepare, split="train").sample_each_class(REAL, "sets", "originals")
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


def explained(table: pd.DataFrame, measures: list[str], left_out: str = "series") -> float:
    """Return R² of the accuracies of sets, predicted from sets of other values of a column (rules, say).

    Args:
        table: one row a set: the measures, best (percent) and ``left_out``.
    """
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11)))
    guessed = cross_val_predict(model, table[measures], table["best"], groups=table[left_out], cv=LeaveOneGroupOut())
    best = table["best"].to_numpy()
    return float(1 - ((best - guessed) ** 2).sum() / ((best - best.mean()) ** 2).sum())


def within_rules(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each rule's mean taken off accuracies and measures."""
    columns = ["best", *MEASURES]
    return table.assign(**(table[columns] - table.groupby("series")[columns].transform("mean")))


def measure(sets: Path, experiments: list[Path]) -> pd.DataFrame:
    """Return a row for each set of the experiments that coverage can be told of: its rule, accuracy and measures."""
    rows = read_results(experiments)
    rows = rows[rows["ipc"] > NEAREST].reset_index(drop=True)
    folders = {folder.name.rpartition("-")[2]: folder for folder in sets.iterdir()}  # by key; names are of experiments
    chosen = [folders[key] for key in rows["distilled"].str.rpartition("-")[2]]
    prepare = input_folder(read_manifest(chosen[0]), "prepare")
    scorer = load_classifier(prepare / "classifier")
    real = real_features(prepare, scorer)
    measured = [set_measures(folder, prepare, scorer, real) for folder in tqdm(chosen)]
    told = rows[["key", "ipc", "series", "selection_seed", "best"]]
    return pd.concat([told, pd.DataFrame(measured).round(5)], axis=1)


def main(arguments: list[str]) -> None:
    """Print the measures by rule, and R² of all, of each alone, and of all but each, for each number of images."""
    if arguments:
        measure(Path(arguments[0]), [Path(name) for name in arguments[1:]]).to_csv(TABLE, index=False)
    for ipc, table in pd.read_csv(TABLE, dtype={"key": str}).groupby("ipc"):
        print(f"\n{ipc} images per class, {len(table)} sets")
        print(table.groupby("series")[["best", *MEASURES]].mean().sort_values("best").round(3).to_string())
        for title, part, left_out in (("rules left out", table, "series"),
                                      ("selections left out, within rules", within_rules(table), "selection_seed")):
            print(f"R², {title}: all {explained(part, MEASURES, left_out):.2f}")
            for name in MEASURES:
                others = [other for other in MEASURES if other != name]
                print(f"  {name}: alone {explained(part, [name], left_out):.2f}, "
                      f"without it {explained(part, others, left_out):.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
