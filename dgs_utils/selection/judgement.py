"""Whether a judge can be trusted on the originals, before anything is drawn by what it says."""

import pandas as pd
from scipy.special import bdtrc


def doubts_about(scores: pd.DataFrame, outputs: int, alpha: float = 0.05) -> list[str]:
    """Return what speaks against a judge, one sentence each.

    Args:
        scores: one row an original image: class, and correct (bool, whether the judge's first choice is the class).
        outputs: number of classes that the judge tells apart.
        alpha: a judge that guesses is doubted with probability 1 − alpha (one-sided binomial test against 1 / outputs).
    """
    right, size = int(scores["correct"].sum()), len(scores)
    doubts = []
    if bdtrc(right - 1, size, 1 / outputs) > alpha:
        doubts.append(f"the judge recognises {right} of {size} original images, no better than guessing among its "
                      f"{outputs} classes, so difficulties by it mean nothing; check prepare.class_index, or train it "
                      f"longer")
    shares = scores.groupby("class", sort=False)["correct"].mean()
    never = list(shares.index[shares == 0])
    if never and right:
        doubts.append(f"the judge recognises no original image of {_listed(never)}; check the class's index in "
                      f"prepare.class_index, and its images")
    return doubts


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"class {', '.join(names[:5])}{more}" if len(names) == 1 else f"classes {', '.join(names[:5])}{more}"
