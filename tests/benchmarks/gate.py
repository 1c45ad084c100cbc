"""What each way to be faster changes of the results: ``python tests/benchmarks/gate.py FOLDER_OF_00 --help``.

Every switch makes the same pools as without it, seed by seed, and tells by how much the images differ, how the
distribution of their difficulty shifts in each class, and what the accuracy of networks trained on them comes to. The
first line is no switch but another seed: what chance alone does. It carries on if a switch fails and goes on where it
was stopped, since pools are stages' folders; after each switch ``gate.json`` and ``gate.md`` are written anew.
"""

import argparse
import hashlib
import json
import os
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from gpu import markdown
from PIL import Image
from scipy import stats

from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.difficulty import score_images
from dgs_utils.evaluate import as_tensors, evaluate_set
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import validate
from dgs_utils.pool import generate
from dgs_utils.results.comparisons import compare, holm
from dgs_utils.runtime.compiling import COMPILE
from dgs_utils.runtime.devices import TF32, resolve_device
from dgs_utils.store.session import open_node

OTHER = 1000  # added to pool seeds for pools that have nothing in common


@dataclass(frozen=True)
class Way:
    """A way to work: what it sets of stages 02, 03 and 06, and of TF32 on a GPU; exact and without a hurry at first."""

    pool: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    tf32: str = "off"
    compile: str = "off"  # of pools


EXACT = Way()
SMOOTH = {"solver": "ddim"}  # what caches are for
SWITCHES = {  # a way, and what it is held against
    "another seed": (Way({"seed": OTHER}), EXACT),
    "TF32": (Way(tf32="on"), EXACT),
    "pool in bf16": (Way({"precision": "bf16"}), EXACT),
    "pool compiled": (Way(compile="on"), EXACT),
    "guidance interval": (Way({"guidance_interval": [0.1, 0.8]}), EXACT),
    "dpm++ in 20 steps": (Way({"solver": "dpm++", "steps": 20}), EXACT),
    "unipc in 20 steps": (Way({"solver": "unipc", "steps": 20}), EXACT),
    "taylorseer": (Way(SMOOTH | {"cache": "taylorseer"}), Way(SMOOTH)),
    "scorer in bf16": (Way(score={"precision": "bf16"}), EXACT),
    "evaluator in bf16": (Way(evaluate={"precision": "bf16"}), EXACT),
    "evaluator compiled": (Way(evaluate={"compile": "on"}), EXACT),
}


class Gate:
    """Works in one way and another on the same pools.

    Args:
        prepare: a finished 00 folder, with a diffusion model and a scorer.
        folder: where pools and findings land.
        pool: parameters of stage 02 for every way.
        train: parameters of `evaluate_set` for every way.
        ipc: images a class that networks are trained on, the first of a pool.
        pools, trainings: how many of each stand behind an accuracy.
    """

    def __init__(self, prepare: Path, folder: Path, pool: dict[str, Any], train: dict[str, Any], ipc: int,
                 pools: int = 2, trainings: int = 3):
        self.folder, self.pool, self.train, self.ipc = folder, {"prepare": str(prepare)} | pool, train, ipc
        self.pools, self.trainings = range(pools), range(trainings)
        self.classes, self.scorer = read_classes(prepare), load_classifier(prepare / "classifier")
        self.test = as_tensors(ImageSet.read(prepare, "val", list(self.classes["class"])), train["image_size"])
        self.done: dict[str, tuple] = {}

    def hold(self, way: Way, against: Way) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what a way changes: of the images and the accuracy, and of the difficulty, one row a class."""
        (new, scores, rows), (old, before, others) = self.work(way), self.work(against)
        difficulty = [{"class": name} | shift(scores.loc[scores["class"] == name, "score"],
                                              before.loc[before["class"] == name, "score"])
                      for name in self.classes["class"]]
        for row, p in zip(difficulty, holm([row["p"] for row in difficulty]), strict=True):
            row["p"] = p
        results = pd.concat([rows.assign(method="with"), others.assign(method="without")]).drop(columns="precision")
        [found] = compare(results, "with", "without", measure="last").to_dict("records")
        lost = found["high"] < 0 or min(row["p"] for row in difficulty) < 0.05
        accuracy = {"accuracy": found["difference"], "low": found["low"], "high": found["high"]}
        return differences(new, old) | {"largest KS": max(row["KS"] for row in difficulty),
                                        "mean shift": float(np.mean([row["mean shift"] for row in difficulty])),
                                        **accuracy, "passes": not lost}, difficulty

    def work(self, way: Way) -> tuple[list[Path], pd.DataFrame, pd.DataFrame]:
        """Return the images of all pools, their scores, and the rows of the trainings on them."""
        if repr(way) not in self.done:
            with patch.dict(os.environ, {TF32: way.tf32, COMPILE: way.compile}):
                pools = [self.made(way, number) for number in self.pools]
                scores = [score_images(images, self.scorer, self.classes["index"].to_numpy(), **way.score)
                          for images in pools]
                rows = [evaluate_set(as_tensors(first_of(images, self.ipc), self.train["image_size"]), self.test,
                                     seeds=self.trainings, pool_seed=number, **self.train | way.evaluate)
                        for number, images in zip(self.pools, pools, strict=True)]
            self.done[repr(way)] = [path for images in pools for path in images.paths], *map(pd.concat, (scores, rows))
        return self.done[repr(way)]

    def made(self, way: Way, number: int) -> ImageSet:
        """Make a pool as stage 02 does, in a folder of its own, which is opened where it is finished already."""
        values = {"precision": "fp32"} | self.pool | way.pool
        values["seed"] = values.get("seed", 0) + number
        name = hashlib.sha256(json.dumps([values, way.tf32, way.compile], sort_keys=True).encode()).hexdigest()[:12]
        torch.compiler.reset()  # each pool's model counts against the number of recompilations
        run = open_node(validate("02_pool", values | {"output": str(self.folder / "pools" / name)}))
        generate(run)
        run.finish()
        return ImageSet.read(run.folder, classes=list(self.classes["class"]))


def first_of(images: ImageSet, ipc: int) -> ImageSet:
    """Return the first images of each class."""
    return ImageSet(images.root, images.table.groupby("class", sort=False).head(ipc).reset_index(drop=True))


def differences(new: Sequence[Path], old: Sequence[Path]) -> dict[str, float]:
    """Return the mean absolute difference of images in grey levels of 255, and their PSNR in dB; NaN where equal."""
    pairs = [[np.asarray(Image.open(path), dtype=np.float64) for path in pair] for pair in zip(new, old, strict=True)]
    apart = [new - old for new, old in pairs]
    error = float(np.mean([np.square(part).mean() for part in apart]))
    return {"grey levels": float(np.mean([np.abs(part).mean() for part in apart])),
            "PSNR": 10 * np.log10(255**2 / error) if error else np.nan}


def shift(new: pd.Series, old: pd.Series) -> dict[str, float]:
    """Return by how much scores have shifted: the Kolmogorov–Smirnov statistic with its p, and the means' difference.

    Scores of the same seeds lie closer than the test expects, so that its p is larger than it need be.
    """
    test = stats.ks_2samp(new, old)
    return {"KS": float(test.statistic), "p": float(test.pvalue), "mean shift": float(new.mean() - old.mean())}


def hold_all(gate: Gate, switches: dict[str, tuple[Way, Way]]) -> dict[str, Any]:
    """Hold all switches, and write what was found; return what ``gate.json`` holds."""
    device = resolve_device()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__, "cuda": torch.version.cuda, "model": f"{gate.pool['prepare']}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "parts": {
            "switches": {"about": f"Images at equal seeds (mean absolute difference in grey levels of 255), difficulty "
                         f"(largest Kolmogorov–Smirnov statistic of a class, shift of the mean), last accuracy in "
                         f"points with its 95 % interval ({len(gate.pools)} pools, {len(gate.trainings)} trainings). "
                         f"A switch passes if no class's difficulty has shifted (p < 0.05, Holm) and no accuracy is "
                         f"lost beyond chance.", "rows": []},
            "difficulty": {"about": "Difficulty by class; p is corrected for the number of classes.", "rows": []}}}
    for name, (way, against) in switches.items():
        try:
            row, difficulty = gate.hold(way, against)
        except Exception as error:  # the others still tell something
            traceback.print_exc()
            found["parts"][name] = {"about": "", "rows": [], "error": f"{type(error).__name__}: {error}"}
        else:
            found["parts"]["switches"]["rows"].append({"switch": name} | row)
            found["parts"]["difficulty"]["rows"] += [{"switch": name} | line for line in difficulty]
        (gate.folder / "gate.json").write_text(json.dumps(found, indent=1, default=float) + "\n")
        (gate.folder / "gate.md").write_text(markdown(found))
        print(f"{name}: {found['parts'].get(name, {}).get('error', 'held')}", flush=True)
    return found


def main(options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    pool = {"generator": options.generator, "images_per_class": options.images, "steps": options.steps,
            "guidance": options.guidance, "batch_size": options.batch_size}
    pool |= {"fine_tune": str(options.fine_tune)} if options.fine_tune else {}
    train = {"network": options.network, "image_size": options.image_size, "epoch_factor": options.epoch_factor,
             "evaluations": 1, "compile": "off"}
    gate = Gate(options.prepare, options.output, pool, train, options.ipc, options.pools, options.trainings)
    hold_all(gate, {name: SWITCHES[name] for name in options.only or SWITCHES})
    print((options.output / "gate.md").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepare", type=Path, help="finished folder of stage 00")
    parser.add_argument("--fine-tune", type=Path, help="finished folder of stage 01, for generator minimax or plain")
    parser.add_argument("--generator", default="dit", choices=["dit", "minimax", "plain"])
    parser.add_argument("--images", type=int, default=50, help="of a class in each pool")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--pools", type=int, default=2)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--network", default="resnet_ap10")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epoch-factor", type=float, default=0.1, help="of the protocol's epochs")
    parser.add_argument("--only", nargs="+", choices=SWITCHES, metavar="SWITCH", help=f"some of {', '.join(SWITCHES)}")
    parser.add_argument("--output", type=Path, default=Path("gate"))
    main(parser.parse_args())
