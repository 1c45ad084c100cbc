"""How fast the method is: threshold search, sampling, scoring. Run it: ``python tests/benchmarks/bench_method.py``.

Each line gives a time and a ratio to a baseline measured in the same run; nothing fails for being slow.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig
from dgs_utils.difficulty import score_images
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.devices import autocast, resolve_device
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.histograms import divergence, histogram
from dgs_utils.selection.rule_registry import Candidates
from dgs_utils.selection.score_rules import match
from dgs_utils.selection.targets import draw, quantiles_of_scores, scale_counts
from dgs_utils.selection.thresholds import log_transform, search_thresholds


def seconds(function, repeats: int) -> float:
    """Return the best time of one call, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def plain_search(scores: np.ndarray, limit: int) -> np.ndarray:
    """Search pair by pair, as the definition reads."""
    raw, uniform = histogram(scores), np.ones(10)
    surface = np.empty((limit, limit))
    for bottom in range(limit):
        for top in range(limit):
            h = histogram(log_transform(scores, bottom, top))
            surface[bottom, top] = (divergence(raw, h) + divergence(uniform, h)) / 2
    return surface


def bench_search() -> None:
    classes = numpy_rng("bench").beta(0.5, 2, (1000, 250))
    one, plain = (seconds(lambda f=f: f(classes[0], 25), 20) for f in (search_thresholds, plain_search))
    print(f"threshold search, pool 250, limit 25   {1e3 * one:8.2f} ms a class   {plain / one:5.1f} × a plain loop")
    start = time.perf_counter()
    for scores in classes:
        search_thresholds(scores, 25)
    total = time.perf_counter() - start
    print(f"threshold search, 1,000 classes        {total:8.2f} s            {total / (1000 * one):5.2f} × 1,000 × one")


def bench_sampling() -> None:
    rng = numpy_rng("bench")
    originals, pools = rng.random((1000, 1300)), rng.random((1000, 250))

    def draw_all():
        for name, (real, made) in enumerate(zip(originals, pools, strict=True)):
            draw(made, scale_counts(real, 50), numpy_rng("bench", name))

    def match_all():
        for real, made in zip(originals, pools, strict=True):
            match(Candidates("a", 250, rng, scores=made, quantiles=quantiles_of_scores(real, 50)), 50)

    plain = seconds(lambda: [rng.choice(250, 50, replace=False) for _ in range(1000)], 3)
    for name, function in (("draw", draw_all), ("match", match_all)):
        found = seconds(function, 1)
        print(f"sampling by {name:5}, 1,000 classes {found:8.2f} s            {found / plain:5.1f} × a plain draw")


def bench_scoring(network: str, count: int, batch: int, precision: str) -> None:
    torch.manual_seed(0)
    device = resolve_device("auto")
    config = ClassifierConfig(f"torchvision:{network}", 1000, ResizeCrop(256, 224))
    scorer = Classifier(torchvision.models.get_model(network, weights=None), config)
    scorer = scorer.to(device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = write_images(root, count)
        pixels = torch.stack([scorer.read(path) for path in images.paths[:batch]])  # the same images for both
        pixels = pixels.to(device).contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def forward():
            with autocast(device, precision):
                for _ in range(-(-count // batch)):
                    scorer(pixels)
                if device.type == "cuda":
                    torch.cuda.synchronize()

        def stream():
            score_images(images, scorer, batch_size=batch, precision=precision)

        times = [(seconds(forward, 1), seconds(stream, 1)) for _ in range(3)]  # in turns, as machines have moods
    alone, whole = np.min(times, axis=0)
    print(f"scoring with {network}, {precision}, {device.type}: {count / whole:7.1f} images/s, "
          f"{100 * alone / whole:.0f} % of the forward pass alone")


def write_images(root: Path, count: int) -> ImageSet:
    """Write JPEG files of 256 pixels with some structure."""
    (root / "a").mkdir(parents=True)
    rows, columns = np.arange(256)[:, None, None], np.arange(256)[None, :, None]
    waves = 127.5 + 127.5 * np.sin(rows * np.array([0.05, 0.11, 0.02]) + columns / 9)
    for i in range(count):
        Image.fromarray(np.roll(waves, i, axis=0).astype(np.uint8)).save(root / "a" / f"{i}.jpg", quality=90)
    return ImageSet.read(root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    bench_search()
    bench_sampling()
    bench_scoring(options.network, options.images, options.batch, options.precision)
