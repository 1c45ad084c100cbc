"""Image files: the one module that opens them. All formats of Pillow become upright 8-bit RGB by one definition.

What a file holds besides RGB is defined here and nowhere else:

* orientation: EXIF's (or XMP's) turn or mirror is carried out;
* transparency (alpha of LA, La, PA, RGBA, RGBa; a transparent colour of 1, L, P, RGB): laid over white;
* 16-bit grey: scaled, so that 65,535 (or the file's own highest value, as in 12-bit TIFF) becomes 255;
* 32-bit integers and floats (I, F), which state no white: the smallest of 1 (floats only), 255 and 65,535 that holds
  all values becomes 255; negative, larger and missing values are an error;
* Lab: converted from D50 to sRGB; CMYK, YCbCr, HSV, grey and palettes as Pillow converts them;
* several frames: the first; colour profiles: not applied, as in other training code.
"""

import io
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms

from dgs_utils.runtime.threads import reader_threads

# Pillow opens these, but they are no raster images of their own: stubs, films, and pages for an interpreter.
FOREIGN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
SNIFFED = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")  # recognised by their first bytes
COMMON = {"JPEG": ".jpg", "PNG": ".png"}  # what any viewer and trainer opens; timm lists no others
ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # keys that may hold an orientation
WHITES = (1, 255, 65535)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue
T = TypeVar("T")

# Pillow refuses images of more than twice MAX_IMAGE_PIXELS (179 million), which `_from_file` turns into a sentence;
# from half of that on it only warns, without the file's name, of what is an ordinary photograph today.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(ValueError):
    """An image file (``path``) that cannot be read; the sentence names it and the cure."""

    def __init__(self, path: Path, sentence: str):
        super().__init__(sentence)
        self.path = Path(path)

    def __reduce__(self):  # exceptions are pickled by their arguments
        return type(self), (self.path, str(self))


@dataclass(frozen=True)
class Header:
    """The header of an image file."""

    format: str  # Pillow's name of the format, such as "JPEG"
    mode: str  # Pillow's mode, such as "RGB"
    side: int  # shorter side in pixels
    animated: bool  # it has more than one frame, of which only the first is used


@cache
def image_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are opened, whatever a file is called; common ones first."""
    Image.init()
    return (*(name for name in SNIFFED if name in Image.OPEN), *sorted(Image.OPEN.keys() - FOREIGN - {*SNIFFED}))


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in small letters, of all formats that are opened, such as ".png"."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def is_image(path: Path) -> bool:
    """Return whether a file with another suffix than `image_suffixes` holds an image of a common format."""
    try:
        with Image.open(path, formats=[name for name in image_formats() if name in SNIFFED]):
            return True
    except Exception:  # a decoder that chokes on a foreign file has its own kinds of errors
        return False


def suffix_of_image(data: bytes | None) -> str:
    """Return the suffix of the format of an image's bytes, such as ".png"; "" where they are none."""
    try:
        with Image.open(io.BytesIO(data or b""), formats=image_formats()) as image:
            kind = image.format
    except Exception:  # as in `is_image`
        return ""
    return COMMON.get(kind) or next(end for end, name in Image.registered_extensions().items() if name == kind)


def read_header(path: Path) -> Header:
    """Return the header of an image file; errors are those of `load_rgb`, as far as they show without decoding."""
    return _from_file(path, _header)


def _header(image: Image.Image) -> Header:
    # A camera's MPO has a preview or a second view behind the photograph, which no viewer plays.
    animated = image.format != "MPO" and getattr(image, "is_animated", False)
    return Header(image.format, image.mode, min(image.size), bool(animated))


def load_rgb(path: Path) -> Image.Image:
    """Read an image file as a PIL image in mode RGB, upright, by this module's definition.

    Raises:
        UnreadableImage: the file is missing, damaged, too large, or holds values without a defined conversion.
    """
    return _from_file(path, to_rgb)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as upright RGB (see the module's definition); one that is so already, as it is.

    Raises:
        ValueError: its values have no defined conversion.
    """
    image.load()
    turn = TURNS.get(_orientation(image))
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = image
    elif image.mode in DEEP:
        rgb = Image.fromarray(_eight_bits(image)).convert("RGB")
    elif image.mode == "LAB":
        rgb = ImageCms.applyTransform(image, _lab_to_srgb())
    elif image.mode in ALPHA or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        rgb = Image.alpha_composite(white, image).convert("RGB")
    else:
        rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def copy_image(source: Path, target: Path) -> Path:
    """Copy an image so that any viewer and training code shows what `load_rgb` reads; return the copy's path.

    A file that a plain reader shows alike already (JPEG, PNG; one frame; upright, opaque, 8 bits) stays byte for byte;
    any other is written as an RGB PNG. If the suffix of ``target`` is not that of the written format, the right one is
    added, as in "scan.tif.png". Errors are those of `load_rgb`.
    """
    header, rgb, plain = _from_file(source, _as_stored)
    if not plain:
        target = target if target.suffix.lower() == ".png" else target.with_name(f"{target.name}.png")
        rgb.save(target, "PNG")
        return target
    if target.suffix.lower() not in {*COMMON.values(), ".jpeg"}:  # any of these will do: readers look at the bytes
        target = target.with_name(target.name + COMMON[header.format])
    shutil.copyfile(source, target)
    return target


def _as_stored(image: Image.Image) -> tuple[Header, Image.Image, bool]:
    """Return an image's header, the image as RGB, and whether a plain reader shows it alike."""
    header, rgb = _header(image), to_rgb(image)
    plain = header.format in COMMON and not header.animated and image.mode in ("1", "L", "P", "RGB", "LA", "RGBA")
    return header, rgb, plain and np.array_equal(np.asarray(image.convert("RGB")), np.asarray(rgb))


def _from_file(path: Path, take: Callable[[Image.Image], T]) -> T:
    """Return what ``take`` makes of an image file; any error becomes an `UnreadableImage`.

    A function instead of a context manager, which would take a tenth of the time of small images.
    """
    try:
        with Image.open(path, formats=image_formats()) as image:
            return take(image)
    except FileNotFoundError:
        raise UnreadableImage(path, f"{path} does not exist; restore the image or list the folder's files again"
                              ) from None
    except Image.DecompressionBombError:
        raise UnreadableImage(path, f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, the most that is "
                                    f"opened; scale it down or remove that file") from None
    except Exception as error:  # decoders have many kinds of errors for damaged files
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise UnreadableImage(path, f"{path} cannot be read as an image ({reason}); replace or remove that file"
                              ) from None


def _orientation(image: Image.Image) -> int:
    if image.format != "TIFF" and ORIENTATION_KEYS.isdisjoint(image.info):
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged notes beside sound pixels: viewers show them as they are stored
        return 1


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Return the values of a 16- or 32-bit image, scaled to 8 bits: uint8 (H, W)."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        white = 2 ** tags.get(BITS, (16,))[0] - 1
    elif image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000"):  # 16 bits, in Pillow's wider type
        white = 65535
    else:
        low, high = values.min(), values.max()
        fitting = [white for white in WHITES[image.mode == "I":] if low >= 0 and high <= white]  # NaN fits nowhere
        if not fitting:
            raise ValueError(f"its values go from {low:g} to {high:g}, for which no white is defined: store it with "
                             f"8 or 16 bits")
        white = fitting[0]
    scaled = np.round(values.astype(np.float64) * (255 / white)).clip(0, 255).astype(np.uint8)
    inverted = image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == 0  # TIFF's "white is zero"
    return 255 - scaled if inverted else scaled


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


# ---- Squares, and many files -----------------------------------------------------------------------------------------

def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the central square and scale it to ``size`` pixels, as ADM does [F §3.5].

    While the shorter side is at least twice ``size``, the image is halved with a box filter; then its shorter side is
    scaled to ``size`` (bicubic) and the integer-centred square is cut out.

    Args:
        image: PIL image of any mode and size.
        size: side of the result in pixels, ≥ 1.

    Returns:
        PIL image of size × size pixels, mode unchanged.

    >>> center_crop(Image.new("RGB", (640, 480)), 256).size
    (256, 256)
    """
    if size < 1:
        raise ValueError(f"size is {size}; an image needs at least 1 pixel a side")
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def map_files(function: Callable, items: Iterable, workers: int = 0) -> Iterator:
    """Apply ``function`` to every item in threads and yield the results in order, with bounded look-ahead.

    Unlike `ThreadPoolExecutor.map` it never holds more than a few results a thread.
    """
    count = reader_threads(workers)
    with ThreadPoolExecutor(count) as pool:
        source = iter(items)
        waiting = [pool.submit(function, item) for item in islice(source, 4 * count)]
        while waiting:
            future = waiting.pop(0)
            waiting += [pool.submit(function, item) for item in islice(source, 1)]
            yield future.result()
