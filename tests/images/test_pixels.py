"""Image files: every mode against arithmetic or another reader, orientation, odd and damaged files, and copies."""

import ast
import colorsys
import io
import pickle
import struct
import threading
import time
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dgs_utils.images.pixels import (
    UnreadableImage,
    center_crop,
    copy_image,
    image_suffixes,
    is_image,
    load_rgb,
    map_files,
    read_header,
    to_rgb,
)

PACKAGE = Path(__file__).resolve().parents[2] / "dgs_utils"
RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = SCENE[..., 0]
ALPHA = np.linspace(0, 255, GREY.size).astype(np.uint8).reshape(GREY.shape)


def read(path: Path) -> np.ndarray:
    found = load_rgb(path)
    assert found.mode == "RGB"
    return np.asarray(found).astype(int)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def png(path: Path, bits: int, colour: int, rows: list[bytes], size: tuple[int, int], extra: bytes = b"") -> Path:
    """Write a PNG by hand, from its scan lines."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + extra + data + chunk(b"IEND", b""))
    return path


# ---- One place -------------------------------------------------------------------------------------------------------

def test_nothing_else_opens_image_files():
    readers = {"Image": "open", "plt": "imread", "torchvision": "io", "imageio": "imread", "cv2": "imread"}
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).as_posix() == "images/pixels.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert readers.get(node.value.id) != node.attr, f"{file.name} line {node.lineno} opens image files"
            names = [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
            assert not {"read_image", "default_loader", "pil_loader", "imread"} & set(names), file.name


# ---- Modes -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_eight_bit_modes(tmp_path, mode, suffix):
    image = Image.fromarray(SCENE).convert(mode)
    image.save(tmp_path / f"a{suffix}")
    values = np.asarray(image)
    if mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        expected = palette[values]
    else:
        expected = np.broadcast_to(values.reshape(6, 9, -1) * (255 if mode == "1" else 1), (6, 9, 3))
    assert np.array_equal(read(tmp_path / f"a{suffix}"), expected)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_images_lie_on_white(tmp_path, mode, suffix):
    colours = SCENE if mode == "RGBA" else np.broadcast_to(GREY[..., None], SCENE.shape)
    image = Image.fromarray(np.dstack([SCENE if mode == "RGBA" else GREY[..., None], ALPHA]), mode)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    image.save(tmp_path / f"a{suffix}", **options)
    assert np.abs(read(tmp_path / f"a{suffix}") - over_white(colours, ALPHA)).max() <= 1


def test_a_transparent_colour_lies_on_white(tmp_path):
    """PNG's transparent palette entry, grey or colour, and GIF's."""
    indices = np.arange(54, dtype=np.uint8).reshape(6, 9) % 4
    palette = np.array([[250, 0, 0], [0, 200, 0], [0, 0, 150], [9, 9, 9]], dtype=np.uint8)
    paletted = Image.fromarray(indices, "L")
    paletted = Image.frombytes("P", paletted.size, paletted.tobytes())
    paletted.putpalette(palette.tobytes())
    for name in ("a.png", "a.gif"):
        paletted.save(tmp_path / name, transparency=2)
        expected = np.where((indices == 2)[..., None], 255, palette[indices])
        assert np.array_equal(read(tmp_path / name), expected)
    for pixels, colour in ((SCENE, tuple(map(int, SCENE[2, 3]))), (GREY, int(GREY[2, 3]))):
        Image.fromarray(pixels).save(tmp_path / "a.png", transparency=colour)
        hidden = (pixels.reshape(6, 9, -1) == colour).all(-1, keepdims=True)
        assert hidden[2, 3]
        expected = np.where(hidden, 255, pixels.reshape(6, 9, -1)).repeat(3 if pixels.ndim == 2 else 1, -1)
        assert np.array_equal(read(tmp_path / "a.png"), expected)


def test_premultiplied_and_palette_alpha(tmp_path):
    rgba = Image.fromarray(np.dstack([SCENE, ALPHA]), "RGBA")
    expected = over_white(SCENE, ALPHA)
    assert np.abs(np.asarray(to_rgb(rgba.convert("RGBa"))) - expected).max() <= 2  # premultiplying rounds
    grey = Image.fromarray(np.dstack([GREY, ALPHA]), "LA")
    expected = over_white(np.broadcast_to(GREY[..., None], SCENE.shape), ALPHA)
    assert np.abs(np.asarray(to_rgb(grey.convert("La"))) - expected).max() <= 2
    both = grey.convert("PA")
    both.save(tmp_path / "a.tif")
    colours = np.array(both.getpalette()).reshape(-1, 3)[np.asarray(both)[..., 0]]
    expected = over_white(colours, np.asarray(both)[..., 1])
    assert np.abs(read(tmp_path / "a.tif") - expected).max() <= 1


def test_cmyk_from_a_jpeg_and_a_tiff(tmp_path):
    inks = np.dstack([SCENE, GREY // 2])
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    ink, black = 255 - inks[..., :3].astype(float), 255 - inks[..., 3:].astype(float)
    assert np.abs(read(tmp_path / "a.tif") - ink * black / 255).max() <= 1
    flat = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    flat.save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read(tmp_path / "a.jpg") - [0, 255, 255]).max() <= 3


def test_luma_chroma_and_hue(tmp_path):
    y, cb, cr = (channel.astype(float) for channel in np.moveaxis(SCENE, -1, 0))
    expected = np.dstack([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
                          y + 1.772 * (cb - 128)]).clip(0, 255)  # JFIF
    assert np.abs(np.asarray(to_rgb(Image.fromarray(SCENE, "YCbCr"))) - expected).max() <= 1
    hsv = Image.fromarray(SCENE, "HSV")
    expected = [[colorsys.hsv_to_rgb(*pixel) for pixel in row] for row in SCENE / 255]
    assert np.abs(np.asarray(to_rgb(hsv)) - 255 * np.array(expected)).max() <= 4  # hue in 256 steps
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(SCENE).convert("RGBX"))), SCENE)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Follow the definitions of CIE Lab (D50), Bradford's adaptation to D65, and sRGB."""
    light, a, b = np.moveaxis(lab, -1, 0)
    y = (light + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    d65 = xyz @ np.array([[0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077],
                          [0.0122982, -0.0204830, 1.3299098]]).T
    linear = (d65 @ np.array([[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560],
                              [0.0556434, -0.2040259, 1.0572252]]).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lab(tmp_path):
    lab = np.array([[50, 0, 0], [100, 0, 0], [0, 0, 0], [60, 30, 20], [40, -5, -20], [70, -30, 40]], dtype=float)
    stored = np.stack([lab[:, 0] * 255 / 100, lab[:, 1] % 256, lab[:, 2] % 256], -1).round().astype(np.uint8)
    Image.frombytes("LAB", (6, 1), stored.tobytes()).save(tmp_path / "a.tif")
    assert np.abs(read(tmp_path / "a.tif")[0] - lab_to_srgb(lab)).max() <= 3
    srgb = ImageCms.applyTransform(Image.fromarray(SCENE), ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"))
    assert np.abs(np.asarray(to_rgb(srgb)).astype(int) - SCENE).mean() < 3  # there and back, in 8 bits


def test_sixteen_bit_grey_is_scaled(tmp_path):
    values = RNG.integers(0, 65536, (6, 9)).astype(np.uint16)
    values[0, :2] = 0, 65535
    expected = np.round(values[..., None] / 65535 * 255).repeat(3, -1)
    png(tmp_path / "hand.png", 16, 0, [row.astype(">u2").tobytes() for row in values], (9, 6))
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values).save(tmp_path / "a.jp2", irreversible=False)
    (tmp_path / "a.pgm").write_bytes(b"P5 9 6 65535\n" + values.astype(">u2").tobytes())
    big = Image.frombytes("I;16B", (9, 6), values.astype(">u2").tobytes())
    big.save(tmp_path / "big.tif")
    for name in ("hand.png", "a.tif", "a.jp2", "a.pgm", "big.tif"):
        assert np.array_equal(read(tmp_path / name), expected), name
    little = Image.frombytes("I;16L", (9, 6), values.astype("<u2").tobytes())
    assert np.array_equal(np.asarray(to_rgb(little)), expected)


def test_sixteen_bit_colour(tmp_path):
    values = RNG.integers(0, 65536, (6, 9, 3)).astype(np.uint16)
    png(tmp_path / "a.png", 16, 2, [row.astype(">u2").tobytes() for row in values], (9, 6))
    assert np.abs(read(tmp_path / "a.png") - values / 257).max() <= 1


def tiff(path: Path, values: np.ndarray, bits: int, photometric: int) -> Path:
    """Write a grey TIFF by hand: one strip, little-endian, 12 or 16 bits a sample."""
    if bits == 12:
        stream = "".join(f"{value:012b}" for value in values.ravel())
        data = int(stream, 2).to_bytes(len(stream) // 8, "big")
    else:
        data = values.astype("<u2").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
            (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data
                     + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def test_tiffs_of_other_depths_and_whites(tmp_path):
    values = RNG.integers(0, 65536, (4, 6)).astype(np.uint16)
    inverted = 255 - np.round(values / 65535 * 255)
    assert np.array_equal(read(tiff(tmp_path / "a.tif", values, 16, 0))[..., 0], inverted)
    twelve = values >> 4
    assert np.array_equal(read(tiff(tmp_path / "a.tif", twelve, 12, 1))[..., 0], np.round(twelve / 4095 * 255))


def test_integers_and_floats_take_the_smallest_white_that_holds_them(tmp_path):
    for values, white in ((np.array([[0, 200, 255]]), 255), (np.array([[0, 256, 40000]]), 65535)):
        for kind in (np.int32, np.float32):
            Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
            assert read(tmp_path / "a.tif")[0, :, 0].tolist() == np.round(values[0] * 255 / white).tolist()
    Image.fromarray(np.array([[0, 0.25, 1]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif")[0, :, 2].tolist() == [0, 64, 255]


@pytest.mark.parametrize("values", [np.array([[-1, 5]], np.int32), np.array([[0, 70000]], np.int32),
                                    np.array([[-0.5, 1]], np.float32), np.array([[np.nan, 1]], np.float32),
                                    np.array([[1, np.inf]], np.float32)])
def test_values_without_a_white_are_an_error(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=rf"{tmp_path}/a.tif cannot be read as an image \(its values go from .*"
                                              r"store it with 8 or 16 bits\); replace or remove"):
        load_rgb(tmp_path / "a.tif")


# ---- Orientation -----------------------------------------------------------------------------------------------------

def turned(scene: np.ndarray, orientation: int) -> np.ndarray:
    """Return what a camera stores of an upright scene, by EXIF's words: where row 0 and column 0 lie."""
    return {1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.swapaxes(0, 1),
            6: np.rot90(scene), 7: np.rot90(scene, 2).swapaxes(0, 1), 8: np.rot90(scene, -1)}[orientation]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(tmp_path, name, orientation):
    scene = np.kron(np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 0, 0], [250, 250, 250]]],
                             dtype=np.uint8), np.ones((16, 16, 1), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned(scene, orientation))).save(tmp_path / name, exif=exif, quality=95)
    found = read(tmp_path / name)
    assert found.shape == scene.shape
    assert np.abs(found - scene).mean() < 6
    copy = copy_image(tmp_path / name, tmp_path / f"copy-{name}")
    naive = np.asarray(Image.open(copy).convert("RGB")).astype(int)  # a reader that knows nothing of EXIF
    assert np.array_equal(naive, found)
    assert np.array_equal(read(copy), found)
    assert (copy.read_bytes() == (tmp_path / name).read_bytes()) == (orientation == 1 and name in ("a.jpg", "a.png"))


def test_damaged_exif_beside_sound_pixels(tmp_path):
    Image.fromarray(SCENE).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read(tmp_path / "a.png"), SCENE)


# ---- Files of other kinds --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_several_frames_the_first_is_read(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (40, 130, 220)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name
                                                                                else {}))
    assert read(tmp_path / name)[0, 0].tolist() == [40, 0, 0]
    assert read_header(tmp_path / name).animated
    (tmp_path / "copies").mkdir()
    copy = copy_image(tmp_path / name, tmp_path / "copies" / name)
    assert copy.name == ("a.png" if name == "a.png" else f"{name}.png")
    assert not read_header(copy).animated
    assert read(copy)[0, 0].tolist() == [40, 0, 0]
    frames[0].save(tmp_path / name)
    assert not read_header(tmp_path / name).animated


def test_images_are_told_by_suffix_or_bytes(tmp_path):
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm"} <= image_suffixes()
    assert not {".pdf", ".eps", ".h5", ".mpg", ".txt", ".csv", ".npy", ".zip"} & image_suffixes()
    Image.fromarray(SCENE).save(tmp_path / "photo", "JPEG")
    (tmp_path / "notes").write_text("a list of words")
    (tmp_path / "empty").touch()
    (tmp_path / "numbers").write_bytes(bytes(1000))
    assert [is_image(tmp_path / name) for name in ("photo", "notes", "empty", "numbers")] == [True, False, False, False]


@pytest.mark.parametrize(("name", "kept", "suffix"), [
    ("a.jpg", True, "a.jpg"), ("a.jfif", True, "a.jfif.jpg"), ("a.bmp", False, "a.bmp.png"), ("a.png", True, "a.png"),
    ("a.tif", False, "a.tif.png"), ("a.gif", False, "a.gif.png"), ("a.ppm", False, "a.ppm.png")])
def test_copies_look_the_same_to_torchvision(tmp_path, name, kept, suffix):
    (tmp_path / "root" / "x").mkdir(parents=True)
    Image.fromarray(SCENE).save(tmp_path / name)
    copy = copy_image(tmp_path / name, tmp_path / "root" / "x" / name)
    assert copy.name == suffix
    assert (copy.read_bytes() == (tmp_path / name).read_bytes()) == kept
    [(found, _)] = torchvision.datasets.ImageFolder(tmp_path / "root")
    assert np.array_equal(np.asarray(found), read(tmp_path / name))


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "RGBA", "LA", "F"])
def test_copies_of_rare_modes_are_plain(tmp_path, mode):
    image = Image.new(mode, (5, 4), {"RGBA": (9, 8, 7, 100), "CMYK": (9, 8, 7, 6), "LA": (9, 60)}.get(mode, 100))
    image.save(tmp_path / "a.tif")
    copy = copy_image(tmp_path / "a.tif", tmp_path / "b.png")
    assert (Image.open(copy).mode, Image.open(copy).format) == ("RGB", "PNG")
    assert np.array_equal(np.asarray(Image.open(copy)), read(tmp_path / "a.tif"))


def test_a_png_called_jpeg_keeps_its_name_and_bytes(tmp_path):
    Image.fromarray(SCENE).save(tmp_path / "a.JPEG", "PNG")  # as one image of ImageNet
    copy = copy_image(tmp_path / "a.JPEG", tmp_path / "b.JPEG")
    assert copy == tmp_path / "b.JPEG"
    assert copy.read_bytes() == (tmp_path / "a.JPEG").read_bytes()


# ---- What cannot be read ---------------------------------------------------------------------------------------------

def test_too_large_an_image_is_named(tmp_path):
    rows = [bytes(20_000 // 8)] * 10_001
    png(tmp_path / "a.png", 1, 0, rows, (20_000, 10_001))  # 200 million pixels in 25 kB
    for reader in (load_rgb, read_header):
        with pytest.raises(UnreadableImage, match=f"{tmp_path}/a.png has more than 178,956,970 pixels, .*; scale it"):
            reader(tmp_path / "a.png")
    png(tmp_path / "b.png", 1, 0, rows[:5000], (20_000, 5000))  # a large photograph: Pillow only warns
    assert load_rgb(tmp_path / "b.png").size == (20_000, 5000)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".eps"])
@pytest.mark.parametrize("read", [load_rgb, read_header])
def test_pages_for_an_interpreter_are_no_images_whatever_they_are_called(tmp_path, suffix, read):
    """Pillow itself would start Ghostscript on them."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    page = (tmp_path / "a.eps").rename(tmp_path / f"b{suffix}")
    with pytest.raises(UnreadableImage, match=r"cannot be read as an image \(cannot identify image file"):
        read(page)


@cache
def encoded(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, name)
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]), data=st.data())
def test_damaged_files_are_read_or_named(tmp_path_factory, name, data):
    content = bytearray(encoded(name))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 8))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        assert load_rgb(path).mode == "RGB"
    except UnreadableImage as error:
        sentence = str(error)
    else:
        return  # not every damage shows
    assert str(path) in sentence
    assert "\n" not in sentence


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(UnreadableImage, match=f"{tmp_path}/a.png does not exist; restore the image or list"):
        load_rgb(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=f"{tmp_path} cannot be read as an image"):
        load_rgb(tmp_path)


def test_the_error_survives_a_process_boundary(tmp_path):
    with pytest.raises(UnreadableImage) as caught:
        load_rgb(tmp_path / "none.png")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, str(copy)) == (tmp_path / "none.png", str(caught.value))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"no image", lambda data: data[:len(data) // 2]])
def test_unreadable_images_are_named(tmp_path, damage):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
        with pytest.raises(ValueError, match=rf"{tmp_path / name} cannot be read as an image .*; replace or remove"):
            load_rgb(tmp_path / name)


# ---- Centre crop -----------------------------------------------------------------------------------------------------

def halve(pixels: np.ndarray) -> np.ndarray:
    """Average neighbours along the first side, which is even, and round half up."""
    return np.floor((pixels[0::2] + pixels[1::2]) / 2 + 0.5)


def plain_crop(image: Image.Image, size: int) -> np.ndarray:
    """Crop as [F §3.5] words it: halve (box), scale the shorter side (bicubic), cut the middle."""
    pixels = np.asarray(image).astype(float)
    while min(pixels.shape[:2]) >= 2 * size:
        pixels = halve(halve(pixels.swapaxes(0, 1)).swapaxes(0, 1))
    height, width = pixels.shape[:2]
    short = min(height, width)
    height, width = round(height * size / short), round(width * size / short)
    scaled = np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return scaled[top:top + size, left:left + size]


@pytest.mark.parametrize("size", [8, 17, 32])
@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (48, 64), (128, 256), (256, 128), (20, 48), (300, 20), (8, 8),
                                   (4, 12), (12, 4), (256, 320), (36, 100)])
def test_center_crop_equals_arithmetic(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = np.asarray(center_crop(image, size)).astype(int)
    assert found.shape == (size, size, 3)
    assert np.abs(found - plain_crop(image, size)).max() <= 2  # Pillow rounds after each side, whichever comes first


def test_a_image_of_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(pixels), 16)), pixels)
    wide = np.random.default_rng(0).integers(0, 256, (16, 21, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(wide), 16)), wide[:, 2:18])


def test_center_crop_of_real_photographs(shared_data):
    with zipfile.ZipFile(shared_data / "imagewoof320-sample" / "sample.zip") as archive:
        for name in archive.namelist()[::12]:
            image = Image.open(archive.open(name)).convert("RGB")
            image = image.crop((0, 0, *(side // 4 * 4 for side in image.size)))  # halves evenly, twice
            for size in (256, 128, 64):
                found = np.asarray(center_crop(image, size)).astype(int)
                assert np.abs(found - plain_crop(image, size)).max() <= 2


def test_center_crop_keeps_grey_images_and_enlarges_a_pixel():
    assert center_crop(Image.new("L", (1, 7), 77), 5).getcolors() == [(25, 77)]


def test_center_crop_needs_a_size():
    with pytest.raises(ValueError, match="size is 0; an image needs at least 1 pixel a side"):
        center_crop(Image.new("RGB", (4, 4)), 0)


# ---- Many files ------------------------------------------------------------------------------------------------------

@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(), max_size=40), workers=st.integers(1, 4))
def test_map_files_keeps_the_order(items, workers):
    assert list(map_files(lambda x: 2 * x, iter(items), workers)) == [2 * x for x in items]


def test_map_files_never_runs_far_ahead():
    started, lock = [], threading.Lock()

    def note(item):
        with lock:
            started.append(item)
        return item

    results = map_files(note, range(1000), workers=2)
    for _ in range(5):
        next(results)
    time.sleep(0.05)
    assert len(started) <= 5 + 4 * 2 + 2
    results.close()


def test_map_files_hands_errors_on():
    def fail(item):
        if item == 3:
            raise ValueError("the fourth")
        return item

    results = map_files(fail, range(10), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
