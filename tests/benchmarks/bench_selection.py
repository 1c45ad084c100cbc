"""How fast every rule is on one large class, and how much memory it takes beside the features.

Run it: ``OMP_NUM_THREADS=1 python tests/benchmarks/bench_selection.py``. A line a rule: seconds, and bytes an image,
from the peaks at N and at N / 2, so that buffers of a fixed size do not count. Nothing fails for being slow.
"""

import argparse
import gc
import time
import tracemalloc

import numpy as np

from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates
from dgs_utils.selection.select import select
from dgs_utils.selection.targets import quantiles_of_scores, scale_counts


def candidates(size: int, k: int, dimension: int) -> Candidates:
    """Return a class as a classifier sees one: clusters of unequal size in a few dimensions, behind a ReLU."""
    rng = numpy_rng("bench selection", size)
    centres, spread = rng.normal(size=(40, dimension)), rng.normal(size=(30, dimension)) / 4
    features = centres[rng.choice(40, size, p=rng.dirichlet(np.ones(40)))]
    features = features + rng.normal(size=(size, 30)) @ spread + 0.1 * rng.normal(size=(size, dimension))
    features = np.maximum(features, 0).astype(np.float32)
    scores, originals = rng.beta(0.5, 2, size), rng.beta(0.5, 1.5, 1300)
    return Candidates("bench", size, numpy_rng("bench"), scores=scores, confidence=rng.random(size),
                      correct=scores < 0.5, counts=scale_counts(originals, k),
                      quantiles=quantiles_of_scores(originals, k), features=features, real_features=features[:200],
                      mean_probability=1 - scores)


def peak(name: str, given: Candidates, k: int) -> int:
    gc.collect()
    tracemalloc.start()
    select(name, [given], k)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=5000)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--dimension", type=int, default=512)
    args = parser.parse_args()
    whole, half = (candidates(n, args.ipc, args.dimension) for n in (args.size, args.size // 2))
    print(f"{args.size} candidates, ipc {args.ipc}, {args.dimension} features")
    for name in sorted(RULE_FUNCTIONS):
        select(name, [half], args.ipc)  # imports and warms up
        times = []
        for _ in range(3):
            start = time.process_time()
            select(name, [whole], args.ipc)
            times.append(time.process_time() - start)
        more = (peak(name, whole, args.ipc) - peak(name, half, args.ipc)) / (args.size - args.size // 2)
        print(f"{name:20} {min(times):7.3f} s {more:9.1f} bytes an image")


if __name__ == "__main__":
    main()
