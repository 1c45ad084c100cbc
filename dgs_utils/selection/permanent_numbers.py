"""Permanent random numbers: the chance of every draw is a property of the images (Ohlsson, 1995).

Each image has one number for ever, a hash of the selection seed, its class and its own identity, and a draw of n takes
the n smallest. That is a simple random sample without replacement; but now sets of one seed nest over IPCs and growing
pools, hardly change with noise of the scores, and share their chance where rules are compared.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from dgs_utils.runtime.seeds import named_seed


def permanent_numbers(seed: int, name: str, identities: Iterable[str], *purpose: str) -> np.ndarray:
    """Return the numbers of a class's images, each in [0, 1): float64 (N,).

    Args:
        seed: selection seed.
        name: of the class.
        identities: N texts, one an image, which no other image of the class has (see `score_tables.identities_of`).
        purpose: names other numbers, independent of those of the draw.

    >>> permanent_numbers(0, "cat", ["1", "2"])[1] == permanent_numbers(0, "cat", ["2", "3", "4"])[0]
    np.True_
    """
    seeds = [named_seed("sample", seed, name, one, *purpose) >> 10 for one in identities]
    return np.array(seeds, dtype=np.float64) / 2**53


def smallest(keys: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Return those ``count`` of some indices whose keys are smallest, in that order (the first of equal ones first)."""
    return among[np.argsort(keys[among], kind="stable")[:count]]


def second_numbers(keys: np.ndarray) -> np.ndarray:
    """Return another number of each image, independent of its key: uint64 (N,), the key's bits mixed (splitmix64).

    What a first draw leaves has large keys, and so cannot be drawn from by them once more.
    """
    bits = keys.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def check_keys(keys: ArrayLike, count: int) -> np.ndarray:
    """Return keys as a float64 array of shape (count,) after checking that they are finite."""
    checked = np.array(keys, dtype=np.float64)
    if checked.shape != (count,) or not np.isfinite(checked).all():
        raise ValueError(f"keys has shape {checked.shape}; give {count} finite numbers, one for each image")
    return checked


def weighted_order(logarithms: ArrayLike, rng: np.random.Generator | None = None,
                   keys: np.ndarray | None = None) -> np.ndarray:
    """Draw images one after the other, each in proportion to its weight among those that are left.

    Adding a standard Gumbel draw to each logarithm and sorting gives this order, so that the first n of it are a draw
    of n, and draws of the same keys nest whatever their size. Equal weights give the order of the keys.

    ``logarithms`` (N,) are natural ones of the weights; ``keys`` (N,), uniform in [0, 1), make the Gumbel draws in
    place of the ``rng``. Returned are all indices, (N,) int, in the order of the draw.
    """
    logarithms = np.asarray(logarithms, dtype=np.float64)
    if keys is None:
        gumbel = np.random.default_rng(rng).gumbel(size=len(logarithms))
    else:
        gumbel = -np.log(np.maximum(-np.log1p(-keys), np.finfo(float).tiny))
    return np.argsort(-(logarithms + gumbel), kind="stable")
