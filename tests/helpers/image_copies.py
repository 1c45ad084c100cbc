"""Copies of images as they come about: saved again, resized, mirrored, cropped, shifted."""

import io

import numpy as np
from PIL import Image, ImageOps


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def crop(image: Image.Image, left: float, top: float, share: float = 0.9) -> Image.Image:
    side = round(image.size[0] * share)
    x, y = (round((image.size[0] - side) * at) for at in (left, top))
    return image.crop((x, y, x + side, y + side)).resize(image.size, Image.Resampling.BICUBIC)


def shift(image: Image.Image, right: int, down: int, mode: str) -> Image.Image:
    pixels, side = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode=mode), image.size[0] + 4
    return Image.fromarray(pixels[4 - down : side - down, 4 - right : side - right])


def rescale(image: Image.Image, side: int) -> Image.Image:
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


PLANTED = {"JPEG 75": jpeg, "JPEG 50": lambda image: jpeg(image, 50), "scaled to 64": lambda image: rescale(image, 64),
           "scaled to 24": lambda image: rescale(image, 24), "mirrored": ImageOps.mirror,
           "grey": lambda image: image.convert("L").convert("RGB"),
           "90 % crop, centre": lambda image: crop(image, 0.5, 0.5),
           "90 % crop, corner": lambda image: crop(image, 0, 0),
           "2 px right and down, edge": lambda image: shift(image, 2, 2, "edge"),
           "2 px right and down, black": lambda image: shift(image, 2, 2, "constant"),
           "2 px right, wrapped": lambda image: shift(image, 2, 0, "wrap"),
           "corner crop, mirrored, JPEG 75": lambda image: jpeg(ImageOps.mirror(crop(image, 1, 0)))}


def planted(images: list[Image.Image], kind: str) -> np.ndarray:
    return np.stack([np.asarray(PLANTED[kind](image)) for image in images])


def hash_distances(images: np.ndarray, known: np.ndarray, package: str = "imagehash") -> np.ndarray:
    """Return in how many of 64 bits a package's perceptual hashes of images differ from those of others, (N, M)."""
    if package == "imagehash":
        import imagehash

        hashes = [[str(imagehash.phash(Image.fromarray(image))) for image in part] for part in (images, known)]
    else:
        from imagededup.methods import PHash

        encoder = PHash(verbose=False)
        hashes = [[encoder.encode_image(image_array=image) for image in part] for part in (images, known)]
    signs = [np.array([list(f"{int(code, 16):064b}") for code in part], float) * 2 - 1 for part in hashes]
    return ((64 - signs[0] @ signs[1].T) / 2).round()
