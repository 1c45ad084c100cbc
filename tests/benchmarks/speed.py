"""How much faster the kit is than it was and than its peers: ``python tests/benchmarks/speed.py``, one table.

Both sides of a row run in turns in this process, by processor time (``--clock wall`` on idle cores), medians of
``--rounds``. The reference of a student is PyTorch's layers in eager fp32, which `compile` "off" runs. The limit is the
rate of a matrix product in the same run; the last column is the arithmetic of direct convolutions divided by our time,
in percent of that rate, and passes 100 where Winograd's convolution saves multiplications.
``--row`` takes some of the functions of `ROWS`, to which other work adds its own.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from bench_compile import processor_time
from bench_evaluate import Baseline, noise
from bench_generation import dit_step_rows
from torch.utils.flop_counter import FlopCounterMode

from dgs_utils.classifiers.augmentation import normalise, to_float
from dgs_utils.classifiers.epoch_loader import TrainingBatch
from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.networks.fused import fuse
from dgs_utils.classifiers.optimisers import OPTIMISERS
from dgs_utils.classifiers.protocols import IDC
from dgs_utils.classifiers.training import Recipe, batch_loss, predict_logits, train_classifier
from dgs_utils.runtime import compiling
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.devices import autocast

CPU, CLASSES, BATCH = torch.device("cpu"), 10, 64
TARGETS = {"fp32": 0, "bf16": 1}  # places in a row's pair of targets


class Bench:
    """Measures work in turns and knows this machine's rates."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.clock = processor_time if options.clock == "processor" else time.perf_counter
        self.cores = torch.get_num_threads() if options.clock == "wall" else 1
        matrices = {name: torch.randn(1024, 1024).to(kind)
                    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
        spent = self.in_turns({name: lambda m=matrix: m @ m for name, matrix in matrices.items()}, 20)
        self.rates = {name: 2 * 1024**3 / seconds for name, seconds in spent.items()}

    def in_turns(self, work: dict[str, Callable[[], Any]], rounds: int = 0, warm: bool = True) -> dict[str, float]:
        """Return the median seconds of each piece of work."""
        times = dict[str, list[float]]()
        for turn in range((rounds or self.options.rounds) + warm):
            for name, function in work.items():
                started = self.clock()
                function()
                if turn or not warm:
                    times.setdefault(name, []).append(self.clock() - started)
        return {name: float(np.median(values)) for name, values in times.items()}

    def compare(self, title: str, reference: str, theirs: Callable, ours: dict[str, Callable], flops: float,
                targets: tuple[float, float], warm: bool = True) -> Iterator[dict]:
        """Yield a row for each precision of ``ours``."""
        spent = self.in_turns({"reference": theirs, **ours}, warm=warm)
        for name in ours:
            ratio, target = spent["reference"] / spent[name], targets[TARGETS[name]]
            yield {"work": f"{title}, {name}", "reference": reference, "reference ms": 1000 * spent["reference"],
                   "ours ms": 1000 * spent[name], "ratio": ratio, "target": target,
                   "met": met(ratio, target),
                   "% of matmul rate": 100 * flops / spent[name] / self.rates[name]}


def met(ratio: float, target: float) -> str:
    return "" if np.isnan(target) else "yes" if ratio >= target else "no"


def flops_of(work: Callable[[], Any]) -> float:
    """Return the floating point operations of some work in PyTorch's layers."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def student(name: str, fused: bool, precision: str, size: int) -> Callable[[], None]:
    """Return a training step."""
    network = build_network(name, CLASSES, size).train()
    fuse(network, fused)
    optimiser, data = OPTIMISERS[IDC.optimiser](network, IDC.learning_rate), noise(BATCH, size)
    batch = TrainingBatch(normalise(to_float(data.images)), data.labels, data.labels.flip(0), 0.7)

    def step() -> None:
        with autocast(CPU, precision):
            loss = batch_loss(network, batch, IDC)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def steps_of(bench: Bench, name: str, size: int, targets: tuple[float, float]) -> Iterator[dict]:
    eager = student(name, False, "fp32", size)
    ours = {precision: student(name, True, precision, size) for precision in bench.options.precisions}
    yield from bench.compare(f"training step, {name}, {size} px, batch {BATCH}", "eager fp32", eager, ours,
                             flops_of(eager), targets)


def convnet_step(bench: Bench) -> Iterator[dict]:
    yield from steps_of(bench, "convnet3", 32, (1.9, 4.0))


def resnet_step(bench: Bench) -> Iterator[dict]:
    yield from steps_of(bench, "resnet_ap10", 32, (1.5, 3.0))


def deep_step(bench: Bench) -> Iterator[dict]:
    yield from steps_of(bench, "convnet6", 128, (float("nan"), float("nan")))


def published_trainer(bench: Bench) -> Iterator[dict]:
    """Training and testing against the published loop (`bench_evaluate.Baseline`)."""
    train, test = noise(100, 32), noise(BATCH, 32)
    empty = noise(1, 32)
    theirs, ours = (build_network("convnet3", CLASSES, 32) for _ in range(2))
    baseline = Baseline(theirs, train, test, 32, 0, CPU)
    epoch = {precision: lambda p=precision: train_classifier(
                 ours, train, empty, Recipe(1, evaluations=1, precision=p, compile="on"))
             for precision in bench.options.precisions}
    yield from bench.compare("training, convnet3, 32 px, 100 images", "published trainer", baseline.epoch, epoch,
                             flops_of(baseline.epoch), (1.8, 3.5))
    fuse(ours)
    tests = {precision: lambda p=precision: predict_logits(ours, test.images, precision=p)
             for precision in bench.options.precisions}
    yield from bench.compare("testing, convnet3, 32 px", "published trainer", baseline.test, tests,
                             flops_of(baseline.test), (1.8, 3.5))


def whole_set(bench: Bench) -> Iterator[dict]:
    """A training with all its tests, compiled anew each time."""
    train, test = noise(100, 32), noise(bench.options.tests, 32)

    def evaluate(precision: str, switch: str) -> None:
        compiling.compile_c.cache_clear()
        recipe = Recipe(bench.options.epochs, evaluations=1, precision=precision, compile=switch)
        Evaluator("convnet3", train, test, recipe, CLASSES).train(0)

    ours = {precision: lambda p=precision: evaluate(p, "on") for precision in bench.options.precisions}
    title = f"a set: convnet3, 32 px, 100 images, {bench.options.epochs} epochs, {bench.options.tests} tests, compiling"
    yield from bench.compare(title, "eager fp32", lambda: evaluate("fp32", "off"), ours, float("nan"), (1.6, 3.5))


def dit_step(bench: Bench) -> Iterator[dict]:
    """DiT-B/2 against diffusers' class, in processor time whatever the clock."""
    targets = (float("nan"), 3.5, 1.2, 0.85)
    for (work, theirs, ours, ratio), target in zip(dit_step_rows(bench.options.rounds), targets, strict=True):
        name, reference = work.split(", against ")
        yield {"work": name, "reference": reference, "reference ms": 1000 * theirs, "ours ms": 1000 * ours,
               "ratio": ratio, "target": target, "met": met(ratio, target)}


ROWS = [convnet_step, resnet_step, deep_step, published_trainer, whole_set, dit_step]


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    bench = Bench(options)
    processor = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in processor]
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in bench.rates.items())
    print(f"{platform.machine()}, {', '.join(sets)}, torch {torch.__version__}, {options.threads} threads, "
          f"{options.clock} time, medians of {options.rounds}; matrix product: {rates}", flush=True)
    rows = []
    for function in ROWS:
        if function.__name__ in options.row:
            for row in function(bench):
                rows.append(row)
                print(f"{row['work']}: {row['ratio']:.2f} × {row['reference']}", flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f"))


if __name__ == "__main__":
    names = [function.__name__ for function in ROWS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", nargs="+", choices=names, default=names)
    parser.add_argument("--precisions", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["processor", "wall"], default="processor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=80, help="of a whole set")
    parser.add_argument("--tests", type=int, default=10_000, help="images that a whole set is tested on")
    main(parser.parse_args())
