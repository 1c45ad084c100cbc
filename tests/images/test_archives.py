"""Archives: unpacked whole and below the folder only, within fixed limits, damage and hostile members named."""

import gzip
import io
import json
import stat
import tarfile
import zipfile
from collections import Counter
from functools import partial

import numpy as np
import pytest
from image_files import index_folder, packed, write_files
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import pool
from dgs_utils.images import archives
from dgs_utils.images.archives import unpack
from dgs_utils.images.image_set import ImageSet

SPLITS = {f"{split}/{name}/{split}.png": 0 for split in ("train", "val") for name in "ab"}


# ---- As roots --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("top", ["", "imagewoof2/"])
@pytest.mark.parametrize("suffix", [".zip", ".tgz", ".tar"])
def test_an_archive_is_unpacked_once_into_the_stage_folder(tmp_path, suffix, top):
    archive = tmp_path / f"x{suffix}"
    files = {f"{top}{name}": place for place, name in enumerate(SPLITS)} | {f"{top}noisy_labels.csv": "path\n"}
    archive.write_bytes(packed(files, suffix))
    table, _ = index_folder(tmp_path / "out", archive)
    assert dict(zip(table["file_name"], table["split"], strict=True)) == {
        f"{top}{name}": name.split("/")[0] for name in SPLITS}
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["root"] == "images"
    expected = write_files(tmp_path / "plain", files)
    assert all((tmp_path / "out" / "images" / name).read_bytes() == (expected / name).read_bytes() for name in files)
    archive.write_bytes(b"")  # not opened again: its images are there
    index_folder(tmp_path / "out", archive)


def test_archives_of_splits_in_one_folder(tmp_path):
    for top in ("", "{}/"):  # with and without the split's own folder inside
        root = tmp_path / f"root{len(top)}"
        write_files(root, {f"{split}.zip": packed({f"{top.format(split)}{name}/1.png": 0 for name in "ab"}, ".zip")
                           for split in ("train", "val")})
        table, _ = index_folder(tmp_path / f"out{len(top)}", root)
        assert sorted(table["file_name"]) == ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"]
        assert sorted(table["split"]) == ["train", "train", "val", "val"]


def test_an_old_archive_beside_class_folders_is_named_and_left(tmp_path):
    write_files(tmp_path / "set", {"a/1.png": 0, "b/1.png": 0, "old.zip": packed({"a/old.png": 0}, ".zip")})
    table, notes = index_folder(tmp_path / "out", tmp_path / "set")
    assert len(table) == 2
    assert notes[:2] == [f"{tmp_path}/set: 2 images used, 1 skipped (.zip 1)",
                         f"{tmp_path}/set/old.zip is not used, since there are images beside it"]


def test_two_archives_with_one_image_are_refused(tmp_path):
    write_files(tmp_path / "set", {f"{i}.zip": packed({"a/1.jpg": i, "README": "x"}, ".zip") for i in range(2)})
    with pytest.raises(ValueError, match=r"1.zip holds a/1.jpg, which it or another archive beside it held already"):
        index_folder(tmp_path / "out", tmp_path / "set")


def test_real_archives(shared_data, tmp_path):
    root = shared_data / "imagewoof320-sample"
    table, [warning] = index_folder(tmp_path / "out", root, dataset="imagewoof", split="fastai")
    assert "has 80 train and 40 val images here, 9025 train and 3929 val in the published protocol" in warning
    assert table.groupby(["label", "split"]).size().tolist() == [8, 4] * 10


def test_an_archive_is_no_image_folder(tmp_path):
    (tmp_path / "x.zip").write_bytes(packed({"a/1.png": 0}, ".zip"))
    with pytest.raises(ValueError, match=r"x.zip is an archive; unpack it and give the folder"):
        ImageSet.read(tmp_path / "x.zip")


def test_archives_from_windows(tmp_path):
    windows = packed({"a/1.png": 0, "b/1.png": 0}, ".zip")
    for name in (b"a/1.png", b"b/1.png"):
        windows = windows.replace(name, name.replace(b"/", b"\\"))  # as some packers there write them
    (tmp_path / "x.zip").write_bytes(windows)
    assert Counter(index_folder(tmp_path / "out", tmp_path / "x.zip")[0]["file_name"]) == {"a/1.png": 1, "b/1.png": 1}


def test_hidden_and_system_files_are_left_out(tmp_path):
    files = {"a/1.png": 0, "__MACOSX/a/._1.png": "x", "a/.DS_Store": "x", "a/Thumbs.db": "x"}
    (tmp_path / "y.zip").write_bytes(packed(files, ".zip"))
    unpack(tmp_path / "y.zip", tmp_path / "plain")
    assert [path.name for path in (tmp_path / "plain").rglob("*") if path.is_file()] == ["1.png"]


# ---- Limits ----------------------------------------------------------------------------------------------------------

LIMITS = [("MAX_BYTES", 10_000, r"unpacks to more than 10,000 bytes"), ("MAX_FILES", 3, r"holds more than 3 files"),
          ("MAX_RATIO", 0.001, r"unpacks to more than 67,108,864 bytes")]


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize(("limit", "value", "sentence"), LIMITS)
@pytest.mark.parametrize("stage", ["00_prepare", "02_pool"])
def test_limits_hold_in_every_stage_that_opens_archives(tmp_path, outputs, monkeypatch, suffix, limit, value, sentence,
                                                        stage):
    files = {f"a/{i}.bmp": np.random.default_rng(i).bytes(5_000) for i in range(4)}
    if limit == "MAX_RATIO":
        files = {"a/1.bmp": bytes(2**26 + 1)}  # the floor below which no ratio counts
    archive = tmp_path / f"x{suffix}"
    archive.write_bytes(packed(files, suffix))
    monkeypatch.setattr(archives, limit, value)
    if stage == "00_prepare":
        opened = partial(index_folder, tmp_path / "out", archive)
    else:
        made = make_prepare(write_digits(tmp_path / "originals", 0, 6))
        opened = partial(pool.generate, open_stage(stage, generator="folder", root=str(archive), prepare=str(made)))
    with pytest.raises(ValueError, match=rf"x{suffix} .*{sentence}; if you trust it, unpack it, and give the folder"):
        opened()
    assert not list(tmp_path.rglob("images/a"))


@pytest.mark.parametrize("part", ["header", "name", "file", "end"])
def test_what_tar_archives_hold_beside_their_files_counts(tmp_path, part):
    """200 MB of zeros in 200 kB: where a name should be, in a file that is hidden, and behind the last file."""
    info = tarfile.TarInfo(".hidden" if part == "file" else "a/1.png")
    info.type = {"header": tarfile.XHDTYPE, "name": tarfile.GNUTYPE_LONGNAME}.get(part, tarfile.REGTYPE)
    info.size = 0 if part == "end" else 200 * 2**20
    (tmp_path / "x.tgz").write_bytes(gzip.compress(info.tobuf()) + gzip.compress(bytes(2**20)) * 200)
    with pytest.raises(ValueError, match=r"x.tgz .* unpacks to more than 67,108,864 bytes; if you trust it, unpack"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.png"))


def test_a_long_tar_header_is_not_loaded_into_memory(tmp_path, monkeypatch):
    info = tarfile.TarInfo("a/1.png")
    info.pax_headers = {"comment": "x" * 8192}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    unpack(tmp_path / "x.tar", tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_HEADER_BYTES", 2**12)
    with pytest.raises(ValueError, match=r"x\.tar cannot be unpacked \(a header claims"):
        unpack(tmp_path / "x.tar", tmp_path / "other")
    assert not (tmp_path / "other" / "a").exists()


# ---- Hostile and damaged archives ------------------------------------------------------------------------------------

def with_link(suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".zip":
        info = zipfile.ZipInfo("a/b.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(buffer, "w") as target:
            target.writestr(info, "../../secret.png")
    else:
        link = tarfile.TarInfo("a/b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../secret"
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.addfile(link)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("member", ["../evil.png", "a/../../evil.png", "/evil.png", "link"])
def test_members_outside_the_folder_are_refused(tmp_path, suffix, member):
    archive, target = tmp_path / "in" / f"archive{suffix}", tmp_path / "out"
    archive.parent.mkdir()
    files = {"train/a/1.png": b"fine", member: b"x"}
    archive.write_bytes(with_link(suffix) if member == "link" else packed(files, suffix))
    with pytest.raises(ValueError, match=f"{archive}(: a member is .*evil.png'|.* holds a/b.png, which is a link)"):
        unpack(archive, target)
    outside = [f for f in tmp_path.rglob("*") if f.is_file() and not f.is_relative_to(target) and f != archive]
    assert outside == []
    with pytest.raises(ValueError, match="archive"):
        index_folder(tmp_path / "stage", archive)
    assert list((tmp_path / "stage").iterdir()) == []  # not even half of it


@pytest.mark.parametrize("damage", range(4))
@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_damaged_archives_are_named(tmp_path, suffix, damage):
    content = packed({"a/1.png": np.random.default_rng(0).bytes(3000)}, suffix)
    middle = len(content) // 2
    archive = tmp_path / f"x{suffix}"
    archive.write_bytes([b"", b"no archive", content[:middle],
                         content[:middle] + bytes(40) + content[middle + 40:]][damage])
    with pytest.raises(ValueError, match=f"{archive} cannot be unpacked .*; delete it and fetch it again"):
        index_folder(tmp_path / "out", archive)
    assert list((tmp_path / "out").iterdir()) == []


def test_archives_that_are_not_opened(tmp_path):
    locked = bytearray(packed({"a/1.png": 0}, ".zip"))
    locked[6] |= 1
    locked[locked.find(b"PK\1\2") + 8] |= 1  # the flag of a password
    write_files(tmp_path, {"y.zip": bytes(locked), "z.7z": b"7z\xbc\xaf",
                           "x.tar": packed({"a": "text", "a/1.png": 0}, ".tar")})
    for name, sentence in (("y.zip", "is encrypted; unpack it with its password, and give the folder"),
                           ("z.7z", r"cannot be unpacked \(.*\); unpack it yourself, and give the folder"),
                           ("x.tar", r"holds a/1.png, and a file where its folder should be; unpack it yourself")):
        with pytest.raises(ValueError, match=f"{tmp_path}/{name} {sentence}"):
            unpack(tmp_path / name, tmp_path / f"of-{name}")
