"""All that is to be known of a GPU, by one command: ``python tests/benchmarks/gpu.py``, in 20 minutes at the most.

Each part measures the kit against the published way of working in the same run, with random weights of the right
shapes. A part that fails is told and the others go on; after each, ``gpu.json`` and ``gpu.md`` are written anew.
``--small`` takes small models, for a CPU, where it is a test of this script and the ratios say little.
"""

import argparse
import gc
import json
import platform
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import bench_evaluate
import bench_generation
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from dgs_utils.classifiers.judge import Classifier, ClassifierConfig
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.difficulty import score_images
from dgs_utils.diffusion.difffit import fold
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.runtime.devices import autocast, resolve


@dataclass(frozen=True)
class Size:
    """How large the work is."""

    model: str
    side: int
    batches: tuple[int, ...]
    steps: int
    few_steps: int
    training_steps: int
    networks: tuple[str, ...]
    pixels: int
    ipc: int
    tests: int
    epochs: int
    judge: str
    scored: int


FULL = Size("DiT-XL/2", 256, (1, 8, 32, 50), 50, 20, 20, ("convnet6", "resnet_ap10", "resnet18"), 224, 10, 500, 3,
            "resnet18", 1000)
SMALL = Size("DiT-S/8", 64, (1, 2), 3, 2, 1, ("convnet3",), 16, 1, 8, 1, "convnet3", 12)
MINUTES = 20.0


class Operations(TorchDispatchMode):
    """Counts operations that are no views: about the kernels that eager PyTorch launches."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += not any(out.alias_info and not out.alias_info.is_write for out in func._schema.returns)
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], Any]) -> int:
    with Operations() as counted:
        work()
    return counted.count


def seconds(work: Callable[[], Any], device: torch.device, rounds: int = 2) -> float:
    """Return the best time of some work, after it was done once."""
    work()
    return min(bench_generation.timed(work, device) for _ in range(rounds))


def peak(device: torch.device) -> float:
    """Return the peak of a GPU's memory since the last call, in GiB; 0 elsewhere."""
    if device.type != "cuda":
        return 0.0
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return found


# ---- Parts: each returns rows of a table -----------------------------------------------------------------------------

def matmul(size: Size, device: torch.device) -> list[dict]:
    """The card's own rates, which the others are held against."""
    with autocast(device, "fp32"):
        rates = {"TF32" if device.type == "cuda" else "fp32": bench_generation.matmul_rate(device, "fp32"),
                 "bf16": bench_generation.matmul_rate(device, "bf16")}
    return [{"precision": name, "TFLOP/s": rate / 1e12} for name, rate in rates.items()]


def pool(size: Size, device: torch.device) -> list[dict]:
    """Images a second with decoding and PNG. Goal: 40 % of the matmul rate, 4 × the published way, 10 × in 20 steps."""
    rate, one = bench_generation.matmul_rate(device, "bf16"), bench_generation.forward_flops(size.model)
    codec, rows = bench_generation.build_codec(device), []
    model = fold(bench_generation.build_model(size.model, device)).eval()
    with tempfile.TemporaryDirectory() as folder, autocast(device, "fp32"):
        def published() -> None:
            bench_generation.published_pool(model, codec, Path(folder), 1)

        base = seconds(published, device, 1)
        rows.append({"way": "published: batch 1, TF32", "images/s": 1 / base, "ratio": 1.0, "% of matmul": np.nan,
                     "peak GiB": peak(device)})
        model.store_matrices("bf16")

        def row(way: str, batch: int, solver: str, steps: int) -> None:
            spent = seconds(lambda: bench_generation.our_pool(model, codec, Path(folder), batch, batch, "bf16", solver,
                                                              steps), device, 1) / batch
            rows.append({"way": f"{way}, batch {batch}, {solver}, {steps} steps", "images/s": 1 / spent,
                         "ratio": base / spent, "% of matmul": 100 * 2 * steps * one / spent / rate,
                         "peak GiB": peak(device)})

        for batch in size.batches:
            row("eager", batch, "ancestral", size.steps)
        row("eager", size.batches[-1], "dpm++", size.few_steps)
        if device.type == "cuda":
            model.compile()
            row("compiled", size.batches[-1], "ancestral", size.steps)
            row("compiled", size.batches[-1], "dpm++", size.few_steps)
    return rows


def fine_tuning(size: Size, device: torch.device) -> list[dict]:
    """Steps a second. Goal: 3 × the published way, in 16 GB."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = [bench_generation.our_training(bench_generation.build_model(size.model, device), 80, "bf16",
                                                  Path(folder))]

        def ours(steps: int = size.training_steps) -> None:
            trainers[0].run(until=trainers[0].step + steps)

        spent = seconds(ours, device)
        mine = {"way": "kit, bf16", "steps/s": size.training_steps / spent, "peak GiB": peak(device),
                "operations a step": operations(lambda: ours(1))}
    trainers.clear()  # so that the other way's memory is its own
    baseline = bench_generation.PublishedTraining(bench_generation.build_model(size.model, device),
                                                  bench_generation.build_codec(device), bench_generation.jpegs(80))
    with autocast(device, "fp32"):
        base = seconds(lambda: [baseline.step() for _ in range(size.training_steps)], device)
        theirs = {"way": "published, TF32", "steps/s": size.training_steps / base, "peak GiB": peak(device),
                  "operations a step": operations(baseline.step)}
    return [row | {"ratio": ratio} for row, ratio in ((mine, base / spent), (theirs, 1.0))]


def evaluation(size: Size, device: torch.device) -> list[dict]:
    """Training and testing of the evaluator. Goal: 6 × the published way."""
    train, test = (bench_evaluate.noise(count, size.pixels) for count in (10 * size.ipc, size.tests))
    rows = []
    mine, held_out = train.to(device), test.to(device)
    for name in size.networks:
        baseline = bench_evaluate.Baseline(build_network(name, 10, size.pixels).to(device), train, test, size.pixels,
                                           2 if device.type == "cuda" else 0, device)

        def published(baseline: bench_evaluate.Baseline = baseline) -> None:
            for _ in range(size.epochs):
                baseline.epoch()
            baseline.test()

        with autocast(device, "fp32"):
            base = seconds(published, device, 1)
            theirs = operations(baseline.epoch) if device.type == "cpu" else np.nan
        for precision, compiled in product(("fp32", "bf16"), ("off", "on") if device.type == "cuda" else ("off",)):
            recipe = Recipe(size.epochs, evaluations=1, precision=precision, compile=compiled)
            network = build_network(name, 10, size.pixels).to(device)

            def ours(network: Any = network, recipe: Recipe = recipe) -> None:
                train_classifier(network, mine, held_out, recipe)

            spent = seconds(ours, device, 1)
            rows.append({"network": name, "precision": precision, "compile": compiled, "seconds": spent,
                         "images/s": size.epochs * len(mine.labels) / spent,
                         "published": base, "ratio": base / spent, "peak GiB": peak(device),
                         "operations an epoch": operations(ours) / size.epochs if compiled == "off" else np.nan,
                         "published operations": theirs})
    return rows


def scoring(size: Size, device: torch.device) -> list[dict]:
    """Images from files to scores. Goal: 80 % of what the judge's forward passes alone take."""
    network = build_network(size.judge, 10, size.pixels, "batch")
    judge = Classifier(network, ClassifierConfig(size.judge, 10, round(size.pixels * 8 / 7), size.pixels, norm="batch"))
    judge = judge.to(device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        for place, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (size.scored, 8, 8, 3), np.uint8)):
            file = Path(folder) / str(place % 2) / f"{place}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).resize((size.side, size.side)).save(file)
        images, rows = ImageSet.read(Path(folder)), []
        for precision in ("fp32", "bf16"):
            whole = seconds(lambda p=precision: score_images(images, judge, precision=p, device=device.type), device, 1)
            batch = torch.zeros(min(128, size.scored), 3, size.pixels, size.pixels, dtype=torch.uint8, device=device)

            @torch.inference_mode()
            def forward(precision: str = precision, batch: torch.Tensor = batch) -> None:
                with autocast(device, precision):
                    for _ in range(-(-size.scored // len(batch))):
                        judge(batch)

            alone = seconds(forward, device)
            rows.append({"precision": precision, "images/s": size.scored / whole, "% of forward": 100 * alone / whole})
    return rows


def layouts(size: Size, device: torch.device) -> list[dict]:
    """Seconds of a training step by layout, norm and compilation: what `training.layout_of` is to go by."""
    rows, images = [], torch.randn(10 * size.ipc, 3, size.pixels, size.pixels, device=device)
    for name, norm, layout, compiled in product(size.networks, ("instance", "batch"),
                                                (torch.contiguous_format, torch.channels_last), (False, True)):
        if compiled and device.type != "cuda":
            continue
        network = build_network(name, 10, size.pixels, norm).to(device, memory_format=layout)
        batch = images.contiguous(memory_format=layout)
        run = torch.compile(network, dynamic=False) if compiled else network

        def step(run: Any = run, batch: torch.Tensor = batch) -> None:
            with autocast(device, "bf16"):
                run(batch).float().square().mean().backward()

        rows.append({"network": name, "norm": norm, "layout": str(layout).removeprefix("torch."), "compiled": compiled,
                     "ms": 1000 * seconds(step, device, 3)})
    return rows


PARTS = {part.__name__: part for part in (matmul, pool, fine_tuning, evaluation, scoring, layouts)}


# ---- The whole -------------------------------------------------------------------------------------------------------

def measure(size: Size, device: torch.device, folder: Path, parts: dict[str, Callable] | None = None,
            minutes: float = MINUTES) -> dict[str, Any]:
    """Measure all parts that there is time for, and write ``gpu.json`` and ``gpu.md``; return what the former holds."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda,
                             "model": size.model, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "parts": {}}
    begun = time.monotonic()
    for label, part in (parts or PARTS).items():
        started = time.monotonic()
        if started - begun > 60 * minutes:
            found["parts"][label] = {"error": f"left out, since {minutes:g} minutes are over"}
        else:
            try:
                found["parts"][label] = {"rows": part(size, device)}
            except Exception as error:  # the others still tell something
                traceback.print_exc()
                found["parts"][label] = {"error": f"{type(error).__name__}: {error}"}
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        spent = round(time.monotonic() - started, 1)
        found["parts"][label] |= {"about": (part.__doc__ or "").strip(), "seconds": spent}
        (folder / "gpu.json").write_text(json.dumps(found, indent=1, default=float) + "\n")
        (folder / "gpu.md").write_text(markdown(found))
        print(f"{label}: {found['parts'][label].get('error', 'measured')}", flush=True)
    return found


def markdown(found: dict[str, Any]) -> str:
    """Return the tables of all parts."""
    lines = [f"# {found['device']}", "", f"PyTorch {found['torch']}, CUDA {found['cuda']}, {found['model']}, "
                                         f"{found['date']}"]
    for name, part in found["parts"].items():
        lines += ["", f"## {name.replace('_', ' ')}", "", part["about"], ""]
        if "error" in part:
            lines.append(f"Not measured: {part['error']}")
            continue
        table = pd.DataFrame(part["rows"])
        lines += [f"| {' | '.join(table)} |", "|" + " --- |" * len(table.columns)]
        lines += [f"| {' | '.join(_shown(value) for value in row)} |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "·" if np.isnan(value) else f"{value:.3g}"
    return str(value)


def main(options: argparse.Namespace) -> None:
    size, device = SMALL if options.small else FULL, resolve(options.device)
    bench_generation.SIDE, bench_generation.STEPS = size.side, size.steps
    options.output.mkdir(parents=True, exist_ok=True)
    measure(size, device, options.output, minutes=options.minutes)
    print((options.output / "gpu.md").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small models, for a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no part begins after these")
    main(parser.parse_args())
