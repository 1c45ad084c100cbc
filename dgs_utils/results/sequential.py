"""An interval that may be looked at after every selection: it holds at all numbers of them at once.

The usual interval of a difference is too narrow for who adds selections until it leaves out zero. This one is a
confidence sequence: over all looks together it misses the true difference in at most 1 − confidence of experiments
(Ville's inequality). It is that of the t-test with a normal mixture over effect sizes and the invariant prior of the
scale (Lai, Annals of Statistics 1976; Wang & Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means
with unknown variance"), whose ratio of likelihoods has the closed form of Gönen et al. (American Statistician 2005).
"""

import numpy as np
from numpy.typing import ArrayLike

EFFECT_VARIANCE = 1.0  # of the mixture: differences about as large as their spread between selections are found soonest


def anytime_half_width(values: ArrayLike, confidence: float = 0.95) -> np.ndarray:
    """Return the half-width of the interval around the mean of normal differences, valid however often one looks.

    With t = √n · x̄ / s of ν + 1 = n values and the variance g of effect sizes, the mixture's likelihood ratio is
    (1 + n g)^(−1/2) · ((1 + t²/ν) / (1 + t²/(ν (1 + n g))))^(n/2), and the interval holds the means at which it is
    below 1 / (1 − confidence).

    Args:
        values: float (…, n), one difference a selection; each selection is drawn like the others.
        confidence: between 0 and 1.

    Returns:
        float64 (…); infinite for few values (fewer than five at 95 %), NaN where all are the same.

    >>> values = np.array([1.0, 2.0, 3.0, 2.0, 2.5, 1.5, 2.0, 2.0])
    >>> round(float(anytime_half_width(values)), 2), float(anytime_half_width(values[:4]))
    (0.9, inf)
    """
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.inf)
    error, spread = values.std(-1, ddof=1) / np.sqrt(n), 1 + n * EFFECT_VARIANCE
    most = (np.sqrt(spread) / (1 - confidence)) ** (2 / n)
    factor = (n - 1) * (most - 1) / (1 - most / spread) if most < spread else np.inf
    return np.where(error > 0, error, np.nan) * np.sqrt(factor)
