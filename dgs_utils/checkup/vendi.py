"""The effective number of different images in a set (Vendi score, Friedman and Dieng 2023)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dgs_utils.runtime.seeds import numpy_rng


def effective_number(features: ArrayLike) -> float:
    """Return how many different images as many as these are worth: exp of the entropy of their similarities.

    The similarity of two images is the cosine of their features. n equal images are worth 1, n whose features are
    orthogonal n.

    Args:
        features: shape (N, D), no row of zeros.

    >>> round(effective_number(np.eye(3).repeat(4, axis=0)), 6)
    3.0
    """
    rows = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True) if rows.ndim == 2 else np.zeros(1)
    if not len(lengths) or not (lengths > 0).all():
        raise ValueError(f"the features have the shape {rows.shape} or a row of zeros; give one row of features an "
                         f"image, none of them empty")
    rows = rows / lengths
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows  # both have the same eigenvalues but for 0
    shares = np.linalg.eigvalsh(gram / len(rows))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def effective_numbers(pool: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], ipc: int) -> pd.DataFrame:
    """Return the effective number of images of pools of n × IPC, n = 1 … 6, and of as many real images, a class and in
    all.

    Args:
        pool: features (M, D) of each class, in the order in which a pool is made longer.
        real: features of the originals of the same classes.
        ipc: images per class of the distilled set; n for which a class has too few images are left out.

    Returns:
        factor, class ("" = all together), set ("pool", "original"), images, effective.
    """
    rows = []
    real = {name: part[numpy_rng("checkup", "vendi", name).permutation(len(part))] for name, part in real.items()}
    for kind, sets in (("pool", pool), ("original", real)):
        for factor in range(1, 7):
            size = factor * ipc
            parts = {name: part[:size] for name, part in sets.items() if len(part) >= size}
            together = {"": np.concatenate(list(parts.values()))} if parts and len(parts) == len(sets) else {}
            rows += [{"factor": factor, "class": name, "set": kind, "images": len(part),
                      "effective": effective_number(part)} for name, part in (together | parts).items()]
    return pd.DataFrame(rows, columns=["factor", "class", "set", "images", "effective"])
