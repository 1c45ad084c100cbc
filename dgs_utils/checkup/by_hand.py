"""The check-up of a pool and the scores of a set in the notebooks, where somebody works through them by hand.

Both take longer than the stages themselves, so batch runs leave them out.
"""

import os
from typing import TYPE_CHECKING

import pandas as pd

from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.session import BATCH, Run

if TYPE_CHECKING:
    from dgs_utils.checkup.report import PoolCheck


def check_up(run: Run, ipc: int = 10) -> "PoolCheck":
    """Tell what is in the pool that a run of stage 03 scores, for sets of ``ipc`` images a class; print the sentences.

    Returns:
        `report.PoolCheck`; with empty tables, and a printed sentence, in batch runs and where no pool is scored.
    """
    from dgs_utils.checkup.report import PoolCheck, check_pool  # loading torch takes seconds
    from dgs_utils.classifiers.scorer import load_classifier

    if reason := "originals are scored, not a pool" if "pool" not in run.inputs else _left_out("dgs check"):
        print(f"not known: {reason}")
        return PoolCheck(pd.DataFrame(), pd.DataFrame())
    prepare, classes = run.inputs["prepare"], read_classes(run.inputs["prepare"])
    names = list(classes["class"])
    pool, originals = ImageSet.read(run.inputs["pool"], classes=names), ImageSet.read(prepare, "train", names)
    has_test = (read_table(prepare / "originals.csv")["split"] == "val").any()
    test = ImageSet.read(prepare, "val", names) if has_test else None
    scorer = None if run.params.published_scores else load_classifier(prepare / "classifier")
    checked = check_pool(pool, originals, test, scorer, ipc, index=classes["index"].tolist(), progress=run.progress)
    print(*checked.sentences, sep="\n")
    return checked


def score_chosen(run: Run) -> pd.DataFrame:
    """Score the set of a run of stage 05 without training on it (`set_scores.score_set`), on training images.

    Returns:
        One row, rounded; none, with a printed sentence, in batch runs, and where there is no scorer or a class of one
        image.
    """
    prepare = run.inputs["prepare"]
    reason = _left_out("dgs.score_set") or ("" if (prepare / "classifier").is_dir() else "stage 00 has no scorer")
    if not reason:
        from dgs_utils.classifiers.scorer import load_classifier  # loading torchvision takes seconds
        from dgs_utils.difficulty.set_scores import score_set
        from dgs_utils.sample import real_images

        classes = read_classes(prepare)
        chosen = ImageSet.read(run.folder, classes=list(classes["class"]))
        try:
            scores = score_set(chosen, real_images(run), load_classifier(prepare / "classifier"), classes["index"])
            return pd.DataFrame([scores], index=[run.params.method]).round(1)
        except ValueError as error:
            reason = str(error)
    print(f"not known: {reason}")
    return pd.DataFrame()


def _left_out(instead: str) -> str:
    """Return why nothing is looked at in a batch run; "" elsewhere."""
    return f"batch runs leave it out; run this notebook by hand, or {instead}" if BATCH in os.environ else ""
