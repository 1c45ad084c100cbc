"""Coresets: images that represent a class in feature space [F §10.2–10.3, B §5].

Every function chooses within one class, greedily and without chance; among equally good images (to 1e-9, or 1e-6 where
similarities are float32, so that rounding noise decides nothing) the first wins. Features are read in blocks of rows,
so that memory beyond them grows by a few numbers an image only.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

ROWS = 512  # rows of features that are worked on at a time
CANDIDATES_AT_A_TIME = 256  # candidates whose gains are brought up to date at a time
AWAKE = 0.5  # share of the best gain from which facility location follows an image at every step
D2_NEIGHBOURS, D2_DECAY = 5, 0.1  # of the graph of D2, and how fast influence falls with distance in it
ROUNDS = 20  # of k-means, at the most


def k_center(features: ArrayLike, k: int) -> np.ndarray:
    """Choose ``k`` images so that every image is near a chosen one (greedy K-Center).

    The first centre is the image nearest to the class mean; each further one is the image farthest from its nearest
    centre.

    Args:
        features: shape (N, D), one row an image.
        k: number of images, 1 … N.

    Returns:
        int64 array of shape (k,), in the order of choice.

    Raises:
        ValueError: bad shape, non-finite features, or ``k`` out of range.

    >>> k_center([[0, 0], [1, 0], [0, 1], [5, 5]], k=2).tolist()
    [1, 3]
    """
    features = check_features(features, k)
    chosen = np.empty(k, dtype=np.int64)
    chosen[0] = _first_smallest(_squared_distances(features, mean_of(features)))
    nearest = np.full(len(features), np.inf)
    for step in range(1, k):
        nearest = np.minimum(nearest, _squared_distances(features, features[chosen[step - 1]]))
        nearest[chosen[:step]] = -1  # identical images are at distance 0, like the centres
        chosen[step] = np.argmax(nearest >= nearest.max() * (1 - 1e-9))
    return chosen


def herding(features: ArrayLike, k: int) -> np.ndarray:
    """Choose ``k`` images whose running mean follows the class mean (Welling, 2009).

    At step j, from 0, the image not yet chosen that is nearest to (j + 1) · mean − (sum of the chosen ones).

    Args, returns and errors as `k_center`.

    >>> herding([[0, 0], [1, 0], [0, 1], [5, 5]], k=2).tolist()
    [1, 2]
    """
    features = check_features(features, k)
    mean = mean_of(features)
    chosen = np.empty(k, dtype=np.int64)
    total = np.zeros_like(mean)
    taken = np.zeros(len(features), dtype=bool)
    for step in range(k):
        distances = np.where(taken, np.inf, _squared_distances(features, (step + 1) * mean - total))
        chosen[step] = _first_smallest(distances)
        taken[chosen[step]] = True
        total += features[chosen[step]]
    return chosen


def facility_location(features: ArrayLike, k: int) -> np.ndarray:
    """Choose ``k`` images that maximise Σ_i max_{j ∈ chosen} (1 + cos(φ_i, φ_j)) / 2, greedily.

    Evaluated lazily (Minoux, 1978): an image's gain only falls while others are chosen, so its last known gain bounds
    it, and only images whose bound can still win are looked at again. Those that came near at the last step are brought
    up to date first, by the images that have been covered better since, which are few.

    Args, returns and errors as `k_center`; a row of zeros has cosine 0 to every other.
    """
    features = check_features(features, k)
    scale = 1 / np.maximum(np.sqrt(_squared_distances(features, np.zeros(features.shape[1]))), 1e-30)
    covered = before = np.zeros(len(features), dtype=np.float32)  # the largest similarity to a chosen image
    bounds = _total_similarity(features, scale)
    fresh = np.zeros(len(features), dtype=np.int32)  # the step at which a bound was an exact gain
    chosen, best = np.empty(k, dtype=np.int64), -np.inf
    for step in range(k):
        bounds[chosen[:step]] = -np.inf
        if step:
            awake = np.flatnonzero((fresh == step - 1) & (bounds >= best * AWAKE))
            changed = np.flatnonzero(covered > before).astype(np.int32)
            for start in range(0, len(awake), 2 * CANDIDATES_AT_A_TIME):
                which = awake[start : start + 2 * CANDIDATES_AT_A_TIME]
                bounds[which] -= _lost(features, scale, before, covered, which, changed)
            fresh[awake] = step
        while True:
            best = bounds[fresh == step].max(initial=-np.inf)
            stale = np.flatnonzero((bounds > best - 1e-6 * abs(best)) & (fresh < step))
            if not len(stale):
                break
            highest = stale[np.argsort(-bounds[stale], kind="stable")[:CANDIDATES_AT_A_TIME]]
            bounds[highest] = _gains(features, scale, covered, highest)
            fresh[highest] = step
        chosen[step] = np.argmax(bounds >= best - 1e-6 * abs(best))
        before, covered = covered, covered.copy()
        for rows, products in _products(features, scale, chosen[step : step + 1]):
            covered[rows] = np.maximum(covered[rows], (0.5 + scale[rows] * products[:, 0]).astype(np.float32))
    return chosen


def _gains(features: np.ndarray, scale: np.ndarray, covered: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return how much better each of some images would cover the class: float64, Σ_i max(0, sim_ij − covered_i)."""
    total = np.zeros(len(which))
    for rows, products in _products(features, scale, which):
        products += ((0.5 - covered[rows]) / scale[rows]).astype(np.float32)[:, None]
        total += scale[rows].astype(np.float32) @ np.maximum(products, 0, out=products)
    return total


def _lost(features: np.ndarray, scale: np.ndarray, before: np.ndarray, covered: np.ndarray, which: np.ndarray,
          changed: np.ndarray) -> np.ndarray:
    """Return by how much gains have fallen since the class was covered as ``before``; only rows that changed count."""
    total = np.zeros(len(which))
    for rows, products in _products(features, scale, which, changed):
        products += ((0.5 - before[rows]) / scale[rows]).astype(np.float32)[:, None]
        most = ((covered[rows] - before[rows]) / scale[rows]).astype(np.float32)[:, None]
        np.minimum(np.maximum(products, 0, out=products), most, out=products)  # what has been covered of a gain
        total += scale[rows].astype(np.float32) @ products
    return total


def _products(features: np.ndarray, scale: np.ndarray, which: np.ndarray,
              of: np.ndarray | None = None) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """Yield, block by block of rows i (all, or some), φ_i · φ_j / (2 |φ_j|) of some images j: float32, (rows, images).

    The similarity (1 + cos) / 2 is ½ + scale_i times that.
    """
    columns = features[which].astype(np.float32, copy=False)  # a copy already, since images are listed
    columns *= (scale[which, None] / 2).astype(np.float32)
    for start in range(0, len(features) if of is None else len(of), ROWS):
        rows = slice(start, start + ROWS) if of is None else of[start : start + ROWS]
        yield rows, features[rows].astype(np.float32, copy=False) @ columns.T


def _total_similarity(features: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return every image's Σ_i (1 + cos(φ_i, φ_j)) / 2, its gain as the first choice, from the sum of directions."""
    total = np.zeros(features.shape[1])
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        total += scale[rows] @ features[rows].astype(np.float64)
    along = [scale[s : s + ROWS] * (features[s : s + ROWS] @ total) for s in range(0, len(features), ROWS)]
    return (len(features) + np.concatenate(along)) / 2


def graph_density(features: ArrayLike, scores: ArrayLike, k: int) -> np.ndarray:
    """Choose ``k`` hard images in dense regions, away from those chosen before: D2 (Maharana et al., 2024).

    On the graph of five nearest neighbours, with d the Euclidean distance over the mean length of features, the
    density of image i is s_i + Σ_j exp(−d_ij) s_j. The densest is chosen, and the densities of its neighbours j fall by
    exp(−0.1 · d_ij) of its own, until there are k.

    Args:
        features: shape (N, D), one row an image.
        scores: shape (N,), s.
        k: number of images, 1 … N.

    Returns and errors as `k_center`.
    """
    features = check_features(features, k)
    scores = np.asarray(scores, dtype=np.float64)
    count = min(D2_NEIGHBOURS, len(features) - 1)
    unit = max(float(np.sqrt(_squared_distances(features, np.zeros(features.shape[1]))).mean()), 1e-30)
    density, ids = scores.copy(), np.empty((len(features), count), dtype=np.int32)
    for rows, distances, neighbour_ids in nearest_neighbours(features, count):
        density[rows] += (np.exp(-distances / unit) * scores[neighbour_ids]).sum(axis=1)
        ids[rows] = neighbour_ids
    chosen = np.empty(k, dtype=np.int64)
    for step in range(k):
        best = density.max()
        chosen[step] = at = np.argmax(density >= best - 1e-9 * abs(best))
        gaps = np.sqrt(_squared_distances(features[ids[at]], features[at])) / unit
        density[ids[at]] -= np.exp(-D2_DECAY * gaps) * density[at]
        density[chosen[: step + 1]] = -np.inf
    return chosen


def nearest_neighbours(features: np.ndarray, count: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield, block by block of rows, distances and indices, both (rows, count), of each image's neighbours but itself.

    Distances are Euclidean. scikit-learn's brute force is exact.
    """
    from sklearn.neighbors import NearestNeighbors  # loading takes a second, which other rules are spared

    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(features)
    for start in range(0, len(features) if count else 0, 4 * ROWS):
        rows = slice(start, start + 4 * ROWS)
        distances, ids = search.kneighbors(features[rows])
        others = ids != np.arange(start, start + len(ids))[:, None]
        others[:, -1] &= ~others.all(axis=1)  # among many identical images, an image may not find itself
        yield rows, distances[others].reshape(len(ids), count), ids[others].reshape(len(ids), count)


def reliable_far(features: ArrayLike, scores: ArrayLike, reliable: ArrayLike, k: int) -> np.ndarray:
    """Choose ``k`` images, the reliable first, by score × distance to the nearest chosen one.

    The first is the reliable image of highest score; then, while there are reliable ones, that of the largest product,
    and after them the others by the same rule.

    Args:
        features: shape (N, D), one row an image.
        scores: shape (N,), not negative; the entropy of the scorer's prediction as proposed.
        reliable: shape (N,), bool.
        k: number of images, 1 … N.

    Returns and errors as `k_center`.
    """
    features = check_features(features, k)
    scores, open_ = np.asarray(scores, dtype=np.float64), np.ones(len(features), dtype=bool)
    reliable = np.asarray(reliable, dtype=bool)
    nearest = np.full(len(features), np.inf)
    chosen = np.empty(k, dtype=np.int64)
    for step in range(k):
        pool = open_ & reliable if (open_ & reliable).any() else open_
        value = np.where(pool, scores * np.sqrt(nearest) if step else scores, -1)
        chosen[step] = np.argmax(value >= value.max() * (1 - 1e-9))
        open_[chosen[step]] = False
        nearest = np.minimum(nearest, _squared_distances(features, features[chosen[step]]))
    return chosen


def k_means(features: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return the centres of ``k`` clusters: float64 (k, D), from one start of k-means++ and up to 20 rounds of Lloyd's.

    scikit-learn's own `KMeans` holds a second copy of all features, which this does not.
    """
    from sklearn.cluster import kmeans_plusplus

    centres, _ = kmeans_plusplus(features, k, random_state=int(rng.integers(2**31)))
    centres, members = centres.astype(np.float64), None
    for _ in range(ROUNDS):
        before, members = members, np.empty(len(features), dtype=np.int64)
        sums, sizes = np.zeros_like(centres), np.zeros(k)
        to, lengths = centres.T.astype(features.dtype), (centres**2).sum(axis=1) / 2
        for start in range(0, len(features), ROWS):
            block = features[start : start + ROWS]
            members[start : start + ROWS] = nearest = np.argmax(block @ to - lengths, axis=1)
            belongs = (nearest == np.arange(k)[:, None]).astype(features.dtype)
            sums += belongs @ block
            sizes += belongs.sum(axis=1)
        if before is not None and np.array_equal(before, members):
            break
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
    return centres


def distances_to_centres(features: ArrayLike, centres: np.ndarray) -> np.ndarray:
    """Return each row's Euclidean distance to the nearest of some points: float64 (N,); centres has shape (M, D)."""
    features = np.asarray(features)
    nearest = np.full(len(features), np.inf)
    for centre in np.asarray(centres, dtype=np.float64):
        nearest = np.minimum(nearest, _squared_distances(features, centre))
    return np.sqrt(nearest)


def mean_of(features: np.ndarray) -> np.ndarray:
    """Return the mean row, float64."""
    return features.mean(axis=0, dtype=np.float64)


def _squared_distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    point = np.asarray(point, dtype=np.float64)
    distances = np.empty(len(features))
    for start in range(0, len(features), ROWS):
        gap = features[start : start + ROWS] - point
        distances[start : start + ROWS] = np.square(gap, out=gap).sum(axis=1)
    return distances


def _first_smallest(values: np.ndarray) -> int:
    return int(np.argmax(values <= values.min() * (1 + 1e-9)))


def check_features(features: ArrayLike, k: int) -> np.ndarray:
    """Return features as an array of floats after checking them, and that ``k`` of them can be chosen."""
    features = np.asarray(features)
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float64)
    if features.ndim != 2:
        raise ValueError(f"features have shape {features.shape}; give one row of features per image")
    for start in range(0, len(features), ROWS):
        finite = np.isfinite(features[start : start + ROWS]).all(axis=1)
        if not finite.all():
            raise ValueError(f"the features of image {start + int(np.argmin(finite))} are not finite; "
                             f"check that image and the classifier")
    if not 1 <= k <= len(features):
        raise ValueError(f"k is {k} for {len(features)} images; choose 1 to {len(features)}")
    return features
