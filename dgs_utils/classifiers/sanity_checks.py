"""Sanity checks of a scorer on the originals, before its scores are used."""

import pandas as pd
from scipy.special import bdtrc


def scorer_sanity_checks(scores: pd.DataFrame, outputs: int, scorer: str = "the scorer",
                         index_source: str = "prepare.class_index", alpha: float = 0.05) -> list[str]:
    """Return the problems of a scorer, one sentence each.

    Args:
        scores: one row an original image: class, and correct (bool, whether the scorer's first choice is the class).
        outputs: number of the scorer's outputs.
        scorer: its title in sentences.
        index_source: where the user assigns outputs to classes, for sentences.
        alpha: a scorer that guesses is reported with probability 1 − alpha (one-sided binomial test against 1 over the
            outputs).
    """
    right, size = int(scores["correct"].sum()), len(scores)
    problems = []
    if bdtrc(right - 1, size, 1 / outputs) > alpha:
        problems.append(f"{scorer} recognises {right} of {size} original images, no better than guessing among its "
                        f"{outputs} classes, so difficulties by it mean nothing; check {index_source}, or train it "
                        f"longer")
    shares = scores.groupby("class", sort=False)["correct"].mean()
    never = list(shares.index[shares == 0])
    if never and right:
        problems.append(f"{scorer} recognises no original image of {_list_classes(never)}; check the class's index in "
                        f"{index_source}, and its images")
    return problems


def _list_classes(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"class {', '.join(names[:5])}{more}" if len(names) == 1 else f"classes {', '.join(names[:5])}{more}"
