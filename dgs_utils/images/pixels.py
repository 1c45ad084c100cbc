"""Reading image files: decoding, cropping, and doing so in threads."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from dgs_utils.runtime.devices import threads

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the central square and scale it to ``size`` pixels, as ADM does [F §3.5].

    While the shorter side is at least twice ``size``, the image is halved with a box filter; then its shorter side is
    scaled to ``size`` (bicubic) and the integer-centred square is cut out.

    Args:
        image: PIL image of any mode and size.
        size: side of the result in pixels, ≥ 1.

    Returns:
        PIL image of size × size pixels, mode unchanged.
    """
    if size < 1:
        raise ValueError(f"size is {size}; an image needs at least 1 pixel a side")
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def load_rgb(path: Path) -> Image.Image:
    """Read an image file as a PIL image in mode RGB.

    Raises:
        ValueError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; restore the image or list the folder's files anew") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); replace or remove that file") from None


def map_files(function: Callable, items: Iterable, workers: int = 0) -> Iterator:
    """Apply ``function`` to every item in threads and yield the results in order, with bounded look-ahead.

    Unlike `ThreadPoolExecutor.map` it never holds more than a few results a thread, whatever the number of items.
    """
    count = threads(workers)
    with ThreadPoolExecutor(count) as pool:
        source = iter(items)
        waiting = [pool.submit(function, item) for item in islice(source, 4 * count)]
        while waiting:
            future = waiting.pop(0)
            waiting += [pool.submit(function, item) for item in islice(source, 1)]
            yield future.result()


