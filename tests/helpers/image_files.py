"""Image files for tests: folders and archives from a dictionary of names, and the index of stage 00 over them."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
from PIL import Image

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate
from dgs_utils.runtime.table_io import read_table

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".JPEG": "JPEG", ".jfif": "JPEG", ".gif": "GIF", ".tif": "TIFF",
           ".bmp": "BMP", ".webp": "WEBP", ".ppm": "PPM", ".tga": "TGA", "": "PNG", ".img": "JPEG"}


def encoded(suffix: str, value: int = 0) -> bytes:
    """Return a grey image of a brightness as a file's content."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value % 256,) * 3).save(buffer, FORMATS[suffix])
    return buffer.getvalue()


def content_of(name: str, content: bytes | str | int) -> bytes:
    """Return a file's bytes: bytes and text as they are, a number as an image of that brightness."""
    if isinstance(content, int):
        return encoded(Path(name).suffix, content)
    return content.encode() if isinstance(content, str) else content


def write_files(root: Path, files: dict[str, bytes | str | int]) -> Path:
    """Write files below a folder, as `content_of` has them."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content_of(name, content))
    return root


def packed(files: dict[str, bytes | str | int], suffix: str) -> bytes:
    """Return an archive (.zip, .tar or .tgz) of files, as `content_of` has them."""
    buffer = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files.items():
                zipped.writestr(name, content_of(name, content))
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if suffix == ".tgz" else "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content_of(name, content))
                tar.addfile(info, io.BytesIO(content_of(name, content)))
    return buffer.getvalue()


def index_folder(stage: Path, root: Path | str = "", **values) -> tuple[pd.DataFrame, list[str]]:
    """Run `index_originals` on a root into a stage folder; return originals.csv and the warnings."""
    stage.mkdir(exist_ok=True)
    values = {"dataset": "folder", "split": "given", "root": str(root)} | values
    warnings = index_originals(validate("00_prepare", values), stage)
    return read_table(stage / "originals.csv"), warnings


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (4, 4)) -> Path:
    """Write a grey image of a brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)
    return path


def write_images(root: Path, *names: str) -> Path:
    """Write one-pixel images under their names, as PNG whatever the suffix."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1), i % 256).save(root / name, format="PNG")
    return root


def write_classes(root: Path, per_class: int = 6, classes: tuple[str, ...] = ("a", "b")) -> Path:
    """Write class folders with as many images each."""
    return write_images(root, *[f"{c}/{i}.png" for c in classes for i in range(per_class)])


def link_image(root: Path, names: list[str]) -> Path:
    """Put one image under many names, as links."""
    root.mkdir(parents=True, exist_ok=True)
    Image.new("L", (1, 1)).save(root.parent / "one.png")
    for folder in {name.rsplit("/", 1)[0] for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        os.link(root.parent / "one.png", root / name)
    return root


def read_folder(root: Path, **options) -> tuple[dict[str, str], list[str]]:
    """Return the class of each image of a folder, and the notes."""
    notes: list[str] = []
    images = ImageSet.read(root, warn=notes.append, **options)
    assert all(path.exists() for path in images.paths)
    return dict(zip(images.table["file_name"], images.table["class"], strict=True)), notes


def index_table(stage: Path, **values) -> pd.DataFrame:
    """Return the originals.csv of `index_originals`, which warns of skipped or missing files at most."""
    stage.mkdir(exist_ok=True)
    warnings = index_originals(validate("00_prepare", values), stage)
    harmless = (" skipped (", "has no images for tests", "images of test are left out")
    assert [warning for warning in warnings if not any(part in warning for part in harmless)] == []
    return read_table(stage / "originals.csv")
