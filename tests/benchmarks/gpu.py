"""All that is to be known of a GPU, by one command: ``python tests/benchmarks/gpu.py``, in 20 minutes at the most.

Each part measures the kit against the published way of working in the same run, with random weights of the right
shapes, the rows that matter most first. It has a share of the time, and is cut off there, in the middle of what it
does; what a part leaves goes to those after it. One that fails or is cut off is told with the rows that it has, and the
others go on; after each, ``gpu.json`` and ``gpu.md`` are written anew. ``--small`` takes small models, for a CPU, where
it is a test of this script and the ratios say little.
"""

import argparse
import gc
import json
import platform
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.difficulty import score_images
from dgs_utils.diffusion.caching import enable_taylorseer
from dgs_utils.diffusion.difffit import fold
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.devices import autocast, resolve_device


@dataclass(frozen=True)
class Size:
    """How large the work is."""

    matrix: int
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
    scorer: str
    scored: int


FULL = Size(8192, "DiT-XL/2", 256, (1, 8, 32, 50), 50, 20, 20, ("convnet6", "resnet_ap10", "resnet18"), 224, 10, 500, 3,
            "resnet18", 1000)
SMALL = Size(256, "tiny", 64, (1, 2), 3, 2, 1, ("convnet3",), 16, 1, 8, 1, "convnet3", 12)
MINUTES = 20.0
INTERVAL, ORDER = 5, 1  # of TaylorSeer, the pool's own defaults
WARM = 6  # steps before a pool is timed, one of them extrapolated


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


# ---- Parts: each gives rows of a table -------------------------------------------------------------------------------

def matmul(size: Size, device: torch.device) -> Iterator[dict]:
    """The card's own rates, which the others are held against."""
    with autocast(device, "fp32"):
        for precision, name in (("fp32", "TF32" if device.type == "cuda" else "fp32"), ("bf16", "bf16")):
            yield {"precision": name, "TFLOP/s": bench_generation.matmul_rate(device, precision, size.matrix) / 1e12}


def pool(size: Size, device: torch.device) -> Iterator[dict]:
    """Images a second with decoding and PNG. Goal: 40 % of the matmul rate, 4 × the published way, 10 × in 20 steps."""
    rate, one = bench_generation.matmul_rate(device, "bf16", size.matrix), bench_generation.forward_flops(size.model)
    autoencoder = bench_generation.build_autoencoder(device, size.model)
    model = fold(bench_generation.build_model(size.model, device)).eval()
    with tempfile.TemporaryDirectory() as folder, autocast(device, "fp32"):
        def published() -> None:
            bench_generation.published_pool(model, autoencoder, Path(folder), 1)

        base = seconds(published, device, 1)
        yield {"way": "published: batch 1", "precision": "fp32", "images/s": 1 / base, "ratio": 1.0,
               "% of matmul": np.nan, "peak GiB": peak(device)}

        def row(way: str, batch: int, solver: str, steps: int, precision: str = "bf16") -> dict:
            def ours(steps: int = WARM) -> None:
                bench_generation.our_pool(model, autoencoder, Path(folder), batch, batch, precision, solver, steps)

            cache = f", taylorseer {INTERVAL}/{ORDER}" if model.is_cache_enabled else ""
            found = {"way": f"{way}, batch {batch}, {solver}, {steps} steps{cache}", "precision": precision}
            try:
                ours()
                spent = bench_generation.timed(lambda: ours(steps), device) / batch
            except torch.OutOfMemoryError:
                return found | dict.fromkeys(("images/s", "ratio", "% of matmul"), np.nan) | {"peak GiB": peak(device)}
            share = np.nan if cache or precision == "fp32" else 100 * 2 * steps * one / spent / rate
            return found | {"images/s": 1 / spent, "ratio": base / spent, "% of matmul": share,
                            "peak GiB": peak(device)}

        most = size.batches[-1]
        yield row("eager", most, "ancestral", size.steps, "fp32")
        model.store_matrices("bf16")
        for batch in reversed(size.batches):
            yield row("eager", batch, "ancestral", size.steps)
        yield row("eager", most, "dpm++", size.few_steps)
        enable_taylorseer(model, INTERVAL, ORDER)
        for steps in (size.steps, size.few_steps):
            yield row("eager", most, "dpm++", steps)
        model.disable_cache()
        if device.type == "cuda":
            model.compile()
            yield row("compiled", most, "ancestral", size.steps)
            yield row("compiled", most, "dpm++", size.few_steps)


def fine_tuning(size: Size, device: torch.device) -> Iterator[dict]:
    """Steps a second. Goal: 3 × the published way, in 16 GB."""
    spent = dict[str, float]()
    for precision in ("bf16", "fp32"):
        with tempfile.TemporaryDirectory() as folder:
            trainers = [bench_generation.our_training(bench_generation.build_model(size.model, device), 80, precision,
                                                      Path(folder))]

            def ours(steps: int = size.training_steps, trainers: list = trainers) -> None:
                trainers[0].run(until=trainers[0].step + steps)

            spent[precision] = seconds(ours, device)
            yield {"way": "kit", "precision": precision, "steps/s": size.training_steps / spent[precision],
                   "peak GiB": peak(device), "operations a step": operations(lambda: ours(1))}
        trainers.clear()  # so that the next way's memory is its own
    model = bench_generation.build_model(size.model, device)
    autoencoder = bench_generation.build_autoencoder(device, size.model)
    baseline = bench_generation.PublishedTraining(model, autoencoder, bench_generation.jpegs(80))
    with autocast(device, "fp32"):
        base = seconds(lambda: [baseline.step() for _ in range(size.training_steps)], device)
        yield {"way": "published", "precision": "fp32", "steps/s": size.training_steps / base,
               "peak GiB": peak(device), "operations a step": operations(baseline.step)} | {
               f"ratio of the kit, {precision}": base / own for precision, own in spent.items()}


def evaluation(size: Size, device: torch.device) -> Iterator[dict]:
    """Training and testing of the evaluator. Goal: 6 × the published way."""
    train, test = (bench_evaluate.noise(count, size.pixels) for count in (10 * size.ipc, size.tests))
    mine, held_out = train.to(device), test.to(device)
    base, theirs = dict[str, float](), dict[str, float]()
    for name in size.networks:
        baseline = bench_evaluate.Baseline(build_network(name, 10, size.pixels).to(device), train, test, size.pixels,
                                           2 if device.type == "cuda" else 0, device)

        def published(baseline: bench_evaluate.Baseline = baseline) -> None:
            for _ in range(size.epochs):
                baseline.epoch()
            baseline.test()

        with autocast(device, "fp32"):
            base[name] = seconds(published, device, 1)
            theirs[name] = operations(baseline.epoch) if device.type == "cpu" else np.nan
    for compiled, name, precision in product(("off", "on") if device.type == "cuda" else ("off",), size.networks,
                                             ("fp32", "bf16")):
        recipe = Recipe(size.epochs, evaluations=1, precision=precision, compile=compiled)
        network = build_network(name, 10, size.pixels).to(device)

        def ours(network: Any = network, recipe: Recipe = recipe) -> None:
            train_classifier(network, mine, held_out, recipe)

        spent = seconds(ours, device, 1)
        yield {"network": name, "precision": precision, "compile": compiled, "seconds": spent,
               "images/s": size.epochs * len(mine.labels) / spent,
               "published": base[name], "ratio": base[name] / spent, "peak GiB": peak(device),
               "operations an epoch": operations(ours) / size.epochs if compiled == "off" else np.nan,
               "published operations": theirs[name]}


def scoring(size: Size, device: torch.device) -> Iterator[dict]:
    """Images from files to scores. Goal: 80 % of what the scorer's forward passes alone take."""
    network = build_network(size.scorer, 10, size.pixels, "batch")
    transform = ResizeCrop(round(size.pixels * 8 / 7), size.pixels)
    scorer = Classifier(network, ClassifierConfig(f"dgs:{size.scorer}", 10, transform, "batch"))
    scorer = scorer.to(device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        for place, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (size.scored, 8, 8, 3), np.uint8)):
            file = Path(folder) / str(place % 2) / f"{place}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).resize((size.side, size.side)).save(file)
        images = ImageSet.read(Path(folder))
        for precision in ("fp32", "bf16"):
            whole = seconds(lambda p=precision: score_images(images, scorer, precision=p, device=device.type), device,
                            1)
            batch = torch.zeros(min(128, size.scored), 3, size.pixels, size.pixels, dtype=torch.uint8, device=device)

            @torch.inference_mode()
            def forward(precision: str = precision, batch: torch.Tensor = batch) -> None:
                with autocast(device, precision):
                    for _ in range(-(-size.scored // len(batch))):
                        scorer(batch)

            alone = seconds(forward, device)
            yield {"precision": precision, "images/s": size.scored / whole, "% of forward": 100 * alone / whole}


def layouts(size: Size, device: torch.device) -> Iterator[dict]:
    """Seconds of a training step by layout, norm and compilation: what `devices.memory_format` is to go by."""
    images = torch.randn(10 * size.ipc, 3, size.pixels, size.pixels, device=device)
    for compiled, name, norm, layout in product((False, True) if device.type == "cuda" else (False,), size.networks,
                                                ("instance", "batch"),
                                                (torch.contiguous_format, torch.channels_last)):
        network = build_network(name, 10, size.pixels, norm).to(device, memory_format=layout)
        batch = images.contiguous(memory_format=layout)
        run = torch.compile(network, dynamic=False) if compiled else network

        def step(run: Any = run, batch: torch.Tensor = batch) -> None:
            with autocast(device, "bf16"):
                run(batch).float().square().mean().backward()

        yield {"network": name, "norm": norm, "layout": str(layout).removeprefix("torch."), "compiled": compiled,
               "ms": 1000 * seconds(step, device, 3)}


PARTS = {matmul: 1, pool: 6, fine_tuning: 3, evaluation: 5, scoring: 1, layouts: 4}  # each with its share of the time


# ---- The whole -------------------------------------------------------------------------------------------------------

class Overtime(BaseException):
    """A part's share of the time is over; no handler of failures inside the part is to take it for one."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Cut off what is done inside after some seconds, between any two operations of Python's.

    Raises:
        Overtime: it was cut off.
    """
    def stop(*_: Any) -> None:
        raise Overtime

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))  # 0 would be no limit
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measured(part: Callable[..., Iterator[dict]], size: Size, device: torch.device, budget: float) -> dict[str, Any]:
    """Return the rows that a part gives within some seconds, and why they are not all."""
    found: dict[str, Any] = {"about": (part.__doc__ or "").strip(), "rows": []}
    started = time.monotonic()
    try:
        with within(budget):
            for row in part(size, device):
                found["rows"].append(row)
    except Overtime:
        found["error"] = f"cut off after {budget:.0f} seconds, its share of the time"
    except Exception as error:  # the others still tell something
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}"
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found | {"seconds": round(time.monotonic() - started, 1)}


def measure(size: Size, device: torch.device, folder: Path, parts: dict[Callable, float] | None = None,
            minutes: float = MINUTES) -> dict[str, Any]:
    """Measure all parts, and write ``gpu.json`` and ``gpu.md``; return what the former holds."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda,
                             "model": size.model, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "parts": {}}
    end, to_come = time.monotonic() + 60 * minutes, dict(parts or PARTS)
    while to_come:
        part = next(iter(to_come))
        budget = max(end - time.monotonic(), 0.0) * to_come[part] / sum(to_come.values())
        del to_come[part]
        label = part.__name__
        found["parts"][label] = measured(part, size, device, budget)
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
        if part["rows"]:
            table = pd.DataFrame(part["rows"])
            lines += [f"| {' | '.join(table)} |", "|" + " --- |" * len(table.columns)]
            lines += [f"| {' | '.join(_shown(value) for value in row)} |" for row in table.itertuples(index=False)]
        if "error" in part:
            lines += ["", f"Not all measured: {part['error']}"]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "·" if np.isnan(value) else f"{value:.3g}"
    return str(value)


def main(options: argparse.Namespace) -> None:
    size, device = SMALL if options.small else FULL, resolve_device(options.device)
    bench_generation.SIDE, bench_generation.STEPS = size.side, size.steps
    options.output.mkdir(parents=True, exist_ok=True)
    measure(size, device, options.output, minutes=options.minutes)
    print((options.output / "gpu.md").read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small models, for a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that all of it may take")
    main(parser.parse_args())
