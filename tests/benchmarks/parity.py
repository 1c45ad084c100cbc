"""Whether fast students learn as well: ``python tests/benchmarks/parity.py``, paired trainings on digits.

Each seed trains a network on 10 of scikit-learn's digits a class in PyTorch's fp32 layers, and in each other way from
the same weights, order and draws. A line a way gives the mean difference of last and best top-1 in points, with its
95 % interval.
"""

import argparse

import pandas as pd
from scipy import stats
from sklearn.datasets import load_digits

from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.evaluate import evaluate_set

WAYS = {"fused fp32": {"compile": "on"}, "fused bf16": {"compile": "on", "precision": "bf16"}}
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="convnet3")
    parser.add_argument("--size", type=int, default=16, help="side in pixels, a multiple of 8")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * 255 / 16).astype("uint8").repeat(options.size // 8, 1)
    images = images.repeat(options.size // 8, 2)
    chosen = pd.Series(labels).groupby(labels).head(10).index
    train = ImageTensors.from_arrays(images[chosen], labels[chosen])
    test = ImageTensors.from_arrays(images[-1000:], labels[-1000:])  # none of the first 10 of a class
    shared = {"network": options.network, "epochs": options.epochs, "evaluations": 4, "flip": False, "device": "cpu"}
    seeds = range(options.first, options.first + options.trainings)
    runs = []
    for seed in seeds:
        for name, way in {"eager fp32": {"compile": "off"}, **WAYS}.items():
            runs.append(evaluate_set(train, test, seeds=[seed], **shared, **way).assign(way=name))
            print(seed, name, runs[-1]["last"].item(), runs[-1]["best"].item(), sep=", ", flush=True)
    table = pd.concat(runs).pivot(index="training_seed", columns="way", values=["last", "best"])
    for name in WAYS:
        for kind in ("last", "best"):
            apart = table[kind][name] - table[kind]["eager fp32"]
            half = stats.t.ppf(0.975, len(apart) - 1) * apart.sem()
            print(f"{options.network}, {options.size} px, {name} minus eager fp32, {kind}: {apart.mean():+.2f} points "
                  f"(95 % {apart.mean() - half:+.2f} to {apart.mean() + half:+.2f}), {len(apart)} pairs")
