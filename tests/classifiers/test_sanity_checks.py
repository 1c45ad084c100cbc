"""Sanity checks of scorers: against exact tails of the binomial distribution."""

import math

import pandas as pd

from dgs_utils.classifiers.sanity_checks import scorer_sanity_checks


def recognised(right: dict[str, tuple[int, int]]) -> pd.DataFrame:
    return pd.DataFrame([{"class": name, "correct": i < hits} for name, (hits, size) in right.items()
                         for i in range(size)])


def test_a_scorer_that_guesses_is_reported():
    [problem] = scorer_sanity_checks(recognised({"a": (6, 50), "b": (5, 50)}), outputs=10)
    assert problem.startswith("the scorer recognises 11 of 100 original images, no better than guessing among its 10")
    assert scorer_sanity_checks(recognised({"a": (16, 50), "b": (5, 50)}), outputs=10) == []  # 21 of 100: p = 0.0008
    tails = sum(math.comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(16, 101))
    assert 0.03 < tails < 0.05  # so 16 of 100 pass, and 15 do not
    assert scorer_sanity_checks(recognised({"a": (16, 100)}), outputs=10) == []
    assert len(scorer_sanity_checks(recognised({"a": (15, 100)}), outputs=10)) == 1


def test_a_class_that_is_never_recognised_is_named():
    [problem] = scorer_sanity_checks(recognised({"a": (40, 50), "b": (0, 50), "c": (30, 50)}), outputs=10)
    assert problem.startswith("the scorer recognises no original image of class b; check")
    [_] = scorer_sanity_checks(recognised({"a": (0, 50), "b": (0, 50)}), outputs=1000)  # once, not of every class
