"""Reading images: files a second by the kit's own reader, and by a plain Pillow loop over the same files.

Two sets of noise, as PNG of 32 px (where the overhead of each file shows) and as JPEG of 256 px (where decoding does),
or the images below a given folder: ``python tests/benchmarks/bench_reading.py [FOLDER]``.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb

ROUNDS = 7


def plain(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def rate(reader: Callable, paths: list[Path]) -> float:
    """Return images a second of processor time."""
    started = time.process_time()  # which a busy machine does not change
    for path in paths:
        reader(path)
    return len(paths) / (time.process_time() - started)


def sets(scratch: Path) -> Iterator[tuple[str, list[Path]]]:
    if len(sys.argv) > 1:
        yield sys.argv[1], ImageSet.read(Path(sys.argv[1])).paths[:2000]
        return
    rng = np.random.default_rng(0)
    for suffix, side, count in (("png", 32, 1000), ("jpg", 256, 300)):
        folder = scratch / suffix
        folder.mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{i}.{suffix}")
        yield f"{suffix}, {side} px", sorted(folder.iterdir())


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        for name, paths in sets(Path(scratch)):
            pairs = [(rate(load_rgb, paths), rate(plain, paths)) for _ in range(ROUNDS)]
            ours, theirs = np.median(pairs, axis=0)
            ratio = np.median([a / b for a, b in pairs])
            print(f"{name}: {ours:,.0f} images/s, plain Pillow {theirs:,.0f}, ratio {ratio:.2f}")
