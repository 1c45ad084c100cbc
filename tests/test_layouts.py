"""Image folders from anywhere: what each layout means, that every file is accounted for, and what is said instead."""

import gzip
import io
import json
import os
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import pool
from dgs_utils.images.archives import Bounds, unpack
from dgs_utils.images.datasets import index_originals
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.layouts import find_images
from dgs_utils.images.tables import read_table
from dgs_utils.images.trees import is_hidden
from dgs_utils.params import validate

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".JPEG": "JPEG", ".jfif": "JPEG", ".gif": "GIF", ".tif": "TIFF",
           ".bmp": "BMP", ".webp": "WEBP", ".ppm": "PPM", ".tga": "TGA", "": "PNG", ".img": "JPEG"}


def encoded(suffix: str, value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value % 256,) * 3).save(buffer, FORMATS[suffix])
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str | int]) -> Path:
    """Write files: bytes and text as they are, a number as an image of that brightness."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (root / name).write_text(content)
        else:
            (root / name).write_bytes(encoded(Path(name).suffix, content) if isinstance(content, int) else content)
    return root


def read(root: Path, **options) -> tuple[dict[str, str], list[str]]:
    """Return the class of each image, and the notes."""
    notes = []
    images = ImageSet.read(root, warn=notes.append, **options)
    assert all(path.exists() for path in images.paths)
    return dict(zip(images.table["file_name"], images.table["class"], strict=True)), notes


def originals(tmp_path: Path, root: Path, **values) -> tuple[pd.DataFrame, list[str]]:
    (tmp_path / "out").mkdir(exist_ok=True)
    values = {"dataset": "folder", "split": "given", "root": str(root)} | values
    notes = index_originals(validate("00_prepare", values), tmp_path / "out")
    return read_table(tmp_path / "out" / "originals.csv"), notes


# ---- Every file is used or counted -----------------------------------------------------------------------------------

names = st.text("ab1é ._-~", min_size=1, max_size=6).filter(lambda text: text.strip(". ") == text)
junk = st.sampled_from(["notes.txt", ".hidden.png", "._1.png", "Thumbs.db", "desktop.ini", ".DS_Store", "a.npy",
                        "x.csv", "photo.heic", "README", "data.h5", "page.pdf", "code.py"])
folders = st.sampled_from(["cat", "dog", "10", "9", "nan", "NA", "true", "1e5", ".ipynb_checkpoints", "__MACOSX",
                           "@eaDir", "lost+found"])


@settings(max_examples=80, deadline=None)
@given(files=st.lists(st.tuples(folders, st.lists(names, max_size=2), names, st.sampled_from(sorted(FORMATS))),
                      min_size=1, max_size=12),
       others=st.lists(st.tuples(folders | st.just(""), junk), max_size=6))
def test_every_file_is_used_or_counted(tmp_path_factory, files, others):
    root = tmp_path_factory.mktemp("tree")
    expected = {}
    for i, (folder, deeper, name, suffix) in enumerate(files):
        path = "/".join([folder, *deeper, f"{name}{i}{suffix}"])
        try:
            write(root, {path: encoded(suffix, i)})
        except (NotADirectoryError, IsADirectoryError, FileExistsError):  # a file of that name is in the way
            continue
        if not any(map(is_hidden, path.split("/"))):
            expected[path] = folder
    for folder, name in others:
        path = f"{folder}/{name}".removeprefix("/")
        if not (root / path).exists():
            write(root, {path: "some text"})
    number = sum(path.is_file() for path in root.rglob("*"))
    places = {folder for folder in expected.values()}
    if not expected or (len(places) == 1 and not any(name.count("/") == 1 for name in expected)):
        return  # nothing there, or folders around it that are looked through
    seconds = {name.split("/")[1] for name in expected if name.count("/") > 1}
    if not any(name.count("/") == 1 for name in expected) and len(seconds) > 1:
        with pytest.raises(ValueError, match="two folders deep"):
            find_images(root)
        return
    visible = [[d.name for d in folder.iterdir() if d.is_dir() and not is_hidden(d.name)]
               for folder in (root, root / min(places))]
    if visible[0] == [min(places)] and visible[1]:
        return  # a folder around others, which is looked through
    found, notes = read(root)
    assert found == expected
    [note] = [note for note in notes if note.startswith(f"{root}: ")] or [""]  # another names empty class folders
    counted = int(re.search(r"(\d+) skipped", note)[1]) if note else 0
    assert len(found) + counted == number
    if note:
        assert note.startswith(f"{root}: {len(found)} images used, ")
        assert counted == sum(map(int, re.findall(r" (\d+)[,)]", note.split("skipped")[1])))


def test_counts_are_told_by_kind(tmp_path):
    write(tmp_path, {"a/1.png": 0, "a/2.tif": 0, "b/1.gif": 0, "b/notes.txt": "", "b/.x.png": 0, "@eaDir/1.png": 0,
                     "@eaDir/more/2.png": 0, "__MACOSX/._1.png": 0, "Thumbs.db": "", "top.png": 0})
    assert read(tmp_path)[1] == [f"{tmp_path}: 3 images used, 7 skipped (hidden 5, .txt 1, "
                                 f"images outside class folders 1)"]


def test_what_the_kit_keeps_beside_images_is_no_news(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    folder = open_stage("02_pool", generator="folder", root=str(tmp_path), prepare=str(prepare)).folder  # not finished
    write(folder, {"images/a/1.png": 0, "metadata.csv": "file_name,class\nimages/a/1.png,a\n", "log.txt": "",
                   "checkpoints/1.npy": "", "notebook.ipynb": "{}", "progress.json": "{}"})
    assert {file.name for file in folder.iterdir()} >= {"inputs.json", ".lock.work"}
    assert read(folder) == ({"images/a/1.png": "a"}, [])
    write(folder, {"mine.txt": "", "images/a/2.png": 0, ".hidden": ""})
    assert read(folder)[1] == [f"{folder}: 1 images used, 3 skipped (.txt 1, hidden 1, images not in the list 1)"]
    write(tmp_path / "set", {**{f"{name}/1.png": 0 for name in ("checkpoints", "shares", "manifests")},
                             "inputs.json": "{}", "manifest.json": "{}"})  # a stranger may use these names, too
    assert read(tmp_path / "set") == ({f"{name}/1.png": name for name in ("checkpoints", "shares", "manifests")},
                                      [f"{tmp_path}/set: 3 images used, 2 skipped (.json 2)"])


def test_links_are_followed_and_circles_are_not(tmp_path):
    write(tmp_path, {"set/a/1.png": 0, "set/b/1.png": 0, "elsewhere/1.png": 0})
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "gone.png").symlink_to(tmp_path / "none.png")
    found, notes = read(tmp_path / "set")
    assert found == {"a/1.png": "a", "b/1.png": "b", "c/1.png": "c"}
    assert notes == [f"{tmp_path}/set: 3 images used, 2 skipped (broken links 1, links in a circle 1)",
                     f"1 images of {tmp_path}/set are links to elsewhere, such as c/1.png; make sure that these may be "
                     f"read and passed on"]


def test_links_to_themselves_are_broken(tmp_path):
    write(tmp_path, {"a/1.png": 0, "b/1.png": 0})
    for name in ("loop", "a/loop.png"):
        (tmp_path / name).symlink_to(Path(name).name)
    assert read(tmp_path) == ({"a/1.png": "a", "b/1.png": "b"},
                              [f"{tmp_path}: 2 images used, 2 skipped (broken links 2)"])


def test_class_folders_without_images_are_named(tmp_path):
    write(tmp_path, {"train/a/1.png": 0, "train/b/1.heic": b"", "test/a/1.png": 0})
    (tmp_path / "train" / "c").mkdir()
    assert read(tmp_path)[1] == [f"{tmp_path}: 2 images used, 1 skipped (.heic 1)",
                                 f"2 folders of {tmp_path} hold no images, and so are no classes: train/b, train/c",
                                 f"{tmp_path}: 1 images of val and test are left out"]


NFC, NFD = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"


def test_names_are_alike_however_their_accents_are_stored(tmp_path, outputs):
    write(tmp_path / "real", {f"{NFD}/1.png": 0, f"{NFD}/2.png": 0, "tea/1.png": 0, "tea/2.png": 0})
    (tmp_path / "index.csv").write_text(f"class,index\n{NFC},3\ntea,1\n")
    table, _ = originals(tmp_path, tmp_path / "real", classes=["tea", NFC], class_index=str(tmp_path / "index.csv"),
                         classifier="resnet18", classifier_weights="best.pth", base_model="none")
    assert Counter(table["class"]) == {NFC: 2, "tea": 2}
    assert read_table(tmp_path / "out" / "classes.csv")["index"].tolist() == [1, 3]
    write(tmp_path / "made", {f"{NFC}.png": 0, "tea.png": 0,
                              "metadata.csv": f"file_name,class\n{NFD}.png,{NFD}\ntea.png,tea\n"})
    assert read(tmp_path / "made", classes=["tea", NFC])[0] == {f"{NFC}.png": NFC, "tea.png": "tea"}
    write(tmp_path / "real", {f"{NFC}/3.png": 0})
    with pytest.raises(ValueError, match=f"holds two folders {NFC}, whose names differ only in how accents are"):
        read(tmp_path / "real")


def test_names_that_are_no_text_are_told(tmp_path):
    write(tmp_path, {"a/1.png": 0, "b/1.png": 0})
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff.png")).write_bytes(encoded(".png"))
    with pytest.raises(ValueError, match=rf"{tmp_path}: a file is 'a/\\udcff.png', which holds a control character"):
        read(tmp_path)


def test_labels_are_those_of_other_tools(tmp_path):
    write(tmp_path, {f"{name}/1.png": 0 for name in [*map(str, range(11)), "nan", "NA", "Zebra", "ant"]})
    theirs = torchvision.datasets.ImageFolder(tmp_path)
    ours = ImageSet.read(tmp_path)
    assert ours.classes == theirs.classes
    assert ours.labels.tolist() == theirs.targets


# ---- Layouts ---------------------------------------------------------------------------------------------------------

FLAT = {"1.png": 1, "2.png": 2, "3.png": 3}
TEXT = "file_name,label\n1.png,cat\n2.png,ant\n3.png,cat\n"
NUMBERS = "file_name,label\n1.png,1\n2.png,0\n3.png,1\n"
CATS = {"1.png": "cat", "2.png": "ant", "3.png": "cat"}


def lines(text: str) -> str:
    head, *rows = [row.split(",") for row in text.splitlines()]
    return "\n".join(json.dumps(dict(zip(head, row, strict=True))) for row in rows)


@pytest.mark.parametrize(("files", "expected"), [
    ({**FLAT, "metadata.csv": TEXT}, CATS),
    ({**FLAT, "metadata.jsonl": lines(TEXT)}, CATS),
    ({**FLAT, "metadata.csv": NUMBERS}, {"1.png": "1", "2.png": "0", "3.png": "1"}),
    ({**FLAT, "labels.csv": TEXT}, CATS),
    ({**FLAT, "labels.csv": "filename,class\n1,cat\n2,ant\n3,cat\n"}, CATS),
    ({**{f"images/{name}": i for name, i in FLAT.items()}, "labels.csv": TEXT},
     {f"images/{name}": kind for name, kind in CATS.items()}),
    ({f"pets/{name}": i for name, i in {**FLAT, "metadata.csv": TEXT}.items()},
     {f"pets/{name}": kind for name, kind in CATS.items()}),
    ({"1.png": 1, "1.cls": "cat", "2.png": 2, "2.cls": "ant\n"}, {"1.png": "cat", "2.png": "ant"}),
    ({"1.jpg": 1, "1.cls": "0", "1.json": "{}", "2.jpg": 2, "2.cls": "10"}, {"1.jpg": "0", "2.jpg": "10"}),
    ({"cat/images/1.png": 1, "ant/images/2.png": 2}, {"cat/images/1.png": "cat", "ant/images/2.png": "ant"}),
    ({"data/pets/cat/1.png": 1, "data/pets/ant/2.png": 2},
     {"data/pets/cat/1.png": "cat", "data/pets/ant/2.png": "ant"}),
    ({"cat/1.png": 1, "cat/more/2.png": 2, "ant/3.png": 3}, {"cat/1.png": "cat", "cat/more/2.png": "cat",
                                                             "ant/3.png": "ant"}),
    ({"train/1.png": 1, "bus/2.png": 2}, {"train/1.png": "train", "bus/2.png": "bus"}),  # a class called train
    ({"train/cat/1.png": 1, "train/ant/2.png": 2, "test/cat/3.png": 3}, {"train/cat/1.png": "cat",
                                                                         "train/ant/2.png": "ant"}),
    ({**FLAT, "metadata.csv": "\ufeff" + TEXT.replace(",", ";").replace("\n", "\r\n")}, CATS),  # as Excel saves it
    ({**FLAT, "labels.tsv": TEXT.replace(",", "\t")}, CATS),
    ({**FLAT, "METADATA.CSV": TEXT.replace("file_name,label", "File_Name,Label")}, CATS),
    ({**FLAT, "metadata.csv": TEXT.replace("file_name,label", "file_name, label")}, CATS),
    ({"x/1.png": 1, "y/1.png": 2, "metadata.csv": "file_name,class\nx\\1.png,cat\ny\\1.png,ant\n"},
     {"x/1.png": "cat", "y/1.png": "ant"}),  # as pandas writes paths on Windows
    ({**FLAT, "metadata.csv": "file_name,class,split\n1.png,cat,Train\n2.png,ant,train\n3.png,cat,validation\n"},
     {"1.png": "cat", "2.png": "ant"}),
    ({"ILSVRC/Data/CLS-LOC/train/cat/1.png": 1, "ILSVRC/Data/CLS-LOC/train/ant/1.png": 1,
      "ILSVRC/Data/CLS-LOC/val/cat/2.png": 1, "ILSVRC/Annotations/CLS-LOC/val/2.xml": "", "LOC_val_solution.csv": ""},
     {"ILSVRC/Data/CLS-LOC/train/cat/1.png": "cat", "ILSVRC/Data/CLS-LOC/train/ant/1.png": "ant"}),
    ({"train/cat/1.png": 1, "train/ant/2.png": 2, "test/3.png": 3, "test/4.png": 3},
     {"train/cat/1.png": "cat", "train/ant/2.png": "ant"}),  # as competitions have it
], ids=range(22))
def test_layouts_with_one_meaning(tmp_path, files, expected):
    assert read(write(tmp_path, files))[0] == expected


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("text", [TEXT, NUMBERS])
@pytest.mark.parametrize("held", ["test", "validation", "val"])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_lists_of_splits(tmp_path, kind, text, held, place):
    """Hugging Face's forms: a list in each of train and test, or one beside them."""
    root, parts = tmp_path / "set", []
    for split in ("train", held):
        write(root / split, FLAT)
        table = pd.read_csv(io.StringIO(text))
        parts.append(table.assign(file_name=f"{split}/" + table["file_name"]) if place == "beside" else table)
    places = [""] if place == "beside" else ["train", held]
    for folder, table in zip(places, [pd.concat(parts)] if place == "beside" else parts, strict=True):
        path = root / folder / kind
        if kind.endswith("parquet"):
            pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
            table.to_parquet(path)
        elif kind.endswith("csv"):
            table.to_csv(path, index=False)
        else:
            table.to_json(path, orient="records", lines=True)
    classes = {"1.png": "cat", "2.png": "ant", "3.png": "cat"} if text == TEXT else {"1.png": "1", "2.png": "0",
                                                                                     "3.png": "1"}
    table, _ = originals(tmp_path, root)
    assert sorted(map(tuple, table[["file_name", "split", "class", "label"]].to_numpy())) == sorted(
        (f"{folder}/{name}", split, kind, int(kind in ("cat", "1"))) for folder, split in (("train", "train"),
                                                                                         (held, "val"))
        for name, kind in classes.items())
    assert read(root)[0] == {f"train/{name}": kind for name, kind in classes.items()}  # as a pool: the training images


def test_what_lies_around_is_counted(tmp_path):
    write(tmp_path, {"README": "", "ILSVRC/x.txt": "", "ILSVRC/.x": "", "ILSVRC/Annotations/1.xml": "",
                     "ILSVRC/Data/train/cat/1.png": 0, "ILSVRC/Data/train/ant/1.png": 0,
                     "ILSVRC/Data/test/1.png": 0, "ILSVRC/Data/test/2.png": 0})
    assert read(tmp_path)[1] == [f"{tmp_path}: 2 images used, 6 skipped (test images without classes 2, .txt 1, "
                                 ".xml 1, hidden 1, no suffix 1)"]


def test_a_test_folder_beside_val_is_left_out(tmp_path):
    write(tmp_path / "set", {f"{split}/{name}/1.png": 0 for split in ("train", "val", "test") for name in "ab"})
    table, notes = originals(tmp_path, tmp_path / "set")
    assert Counter(table["split"]) == {"train": 2, "val": 2}
    assert notes == [f"{tmp_path}/set: 2 images of test are left out"]


def test_the_same_for_originals_pools_and_distilled_sets(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    root = write_digits(tmp_path / "flat", 0, 12)
    rows = []
    for name in "012":
        for file in sorted((root / name).iterdir()):
            file.rename(root / f"{name}-{file.name}")
            rows.append((f"{name}-{file.name}", int(name)))
        (root / name).rmdir()
    pd.DataFrame(rows, columns=["file_name", "label"]).to_csv(root / "metadata.csv", index=False)
    (root / "notes.txt").write_text("mine")
    run = open_stage("02_pool", generator="folder", root=str(root), prepare=str(prepare))
    assert Counter(pool.generate(run)["class"]) == {"0": 12, "1": 12, "2": 12}
    assert run.warnings == [f"{root}: 36 images used, 1 skipped (.txt 1)"]
    assert ImageSet.read(root, classes=["0", "1", "2"], warn=print).labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12


@pytest.mark.parametrize("names", [["nan", "None", "NA", "null", "true", "1e5"], [str(i) for i in range(11)]])
def test_classes_that_look_like_something_else_stay_names(tmp_path, names):
    write(tmp_path / "set", {f"{name}/{i}.png": i for name in names for i in range(3)})
    table, _ = originals(tmp_path, tmp_path / "set", split="holdout", val_per_class=1)
    assert set(table["class"]) == set(names)
    assert ImageSet.read(tmp_path / "out", "val").classes == sorted(names)
    rows = "".join(f"{name}/{i}.png,{name}\n" for name in names for i in range(3))
    write(tmp_path / "set", {"metadata.csv": f"file_name,class\n{rows}"})
    assert ImageSet.read(tmp_path / "set", warn=print).classes == sorted(names)


def test_animated_images_are_counted(tmp_path):
    write(tmp_path / "set", {"a/1.png": 0, "a/2.png": 0})
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 200)]
    frames[0].save(tmp_path / "set" / "a" / "3.gif", save_all=True, append_images=frames[1:])
    notes = originals(tmp_path, tmp_path / "set")[1]
    assert notes[0] == f"1 of 3 images of {tmp_path}/set have several frames, such as a/3.gif; only the first is used"


def test_missing_test_images_are_told_at_the_start(tmp_path):
    write(tmp_path / "set", {"a/1.png": 0, "a/2.png": 0})
    _, [note] = originals(tmp_path, tmp_path / "set")
    assert "set has no images for tests" in note
    assert "stage 06 needs a folder val or test there, or prepare.split holdout" in note


# ---- One sentence ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("files", "sentence"), [
    (FLAT, r"holds 3 images without class folders and no list of their classes; it needs one folder"),
    ({"x/a/1.png": 0, "y/b/1.png": 0}, r"holds images two folders deep \(x/a/1.png, y/b/1.png\), and either folder"),
    ({"a.tar": "", "b.tar": "", "notes.txt": ""},
     r"holds no images, but archives among 3 other files \(.tar 2, .txt 1\); unpack them"),
    ({"data/train-0.parquet": "x", "README.md": ""},
     r"holds no image files among .*; write the images that its .parquet"),
    ({".ipynb_checkpoints/1.png": 0}, r"holds no images among 1 other files \(hidden 1\); it needs one folder"),
    ({**FLAT, "metadata.csv": "file_name,label\n1.png,cat\n2.png,\n"}, r"metadata.csv, row 3: 2.png has no label"),
    ({**FLAT, "metadata.csv": "file_name,class\n1.png,\n"}, r"metadata.csv, row 2: 1.png has no class; fill"),
    ({**FLAT, "metadata.jsonl": '{"file_name": "1.png", "label": 0}\n{"file_name": "2.png"}'},
     r"metadata.jsonl, line 2: 2.png has no label; fill"),
    ({**FLAT, "metadata.jsonl": '{"file_name": "1.png", "label": 0}\n{"label": null}'},
     r"metadata.jsonl, line 2 names no file; fill in file_name"),
    ({**FLAT, "metadata.csv": TEXT + "9.png,cat\n"}, r"metadata.csv, row 5 lists 9.png, which does not exist in"),
    ({**FLAT, "a.txt": "", "metadata.csv": TEXT + "a.txt,cat\n"}, r"csv, row 5 lists a.txt, which is no image"),
    ({**FLAT, "metadata.csv": TEXT + "1.png,ant\n"}, r"metadata.csv, row 5 lists 1.png again; keep one row"),
    ({**FLAT, "metadata.csv": "file_name,class,label\n1.png,a,0\n2.png,a,1\n"},
     r"metadata.csv, row 3: class a has the label 1, but other rows say otherwise"),
    ({**FLAT, "metadata.csv": "file_name,class,label\n1.png,a,0\n2.png,b,0\n"},
     r"metadata.csv, row 3: class b has the label 0, but other rows say otherwise"),
    ({**FLAT, "metadata.csv": "name;label\n1.png;cat\n"}, r"has no column file_name, but name, label; add one"),
    ({**FLAT, "metadata.csv": "file_name,class,split\n1.png,a,train\n2.png,a,fold2\n"},
     r"metadata.csv, row 3: the split of 2.png is 'fold2'; write train, val or test, or leave out"),
    ({**FLAT, "1.jpg": 0, "labels.csv": "file,class\n1,a\n2,b\n"}, r"row 2 lists 1, which may be 1.jpg or 1.png in"),
    ({"1.jpg": 0, "1.seg.png": 0, "1.cls": "a"}, r"1.cls lies beside two images, 1.jpg and 1.seg.png; keep one"),
    ({**FLAT, "metadata.csv": "file_name,class\n1.png,cat \n"}, r"a class is 'cat ', which begins or ends with"),
    ({**FLAT, "a.csv": TEXT, "b.csv": TEXT}, r"holds several lists of images \(a.csv, b.csv\); keep one"),
    ({"1.png": 0, "1.cls": "a", "2.png": 0}, r"2.png has no 2.cls beside it"),
], ids=range(21))
def test_what_has_no_meaning_is_told_with_the_way_out(tmp_path, files, sentence):
    write(tmp_path / "set", files)
    with pytest.raises(ValueError, match=sentence) as caught:
        read(tmp_path / "set")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_do_not_match_are_told(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    write(tmp_path / "set", {"zero/1.png": 0, "one/1.png": 0, "two/1.png": 0})
    run = open_stage("02_pool", generator="folder", root=str(tmp_path / "set"), prepare=str(prepare))
    with pytest.raises(ValueError, match=r"class 0 has no images in .*/set, where classes are called one, two, zero"):
        pool.generate(run)


def test_an_unreadable_image_is_named_with_its_class_before_any_work(tmp_path):
    write(tmp_path / "set", {"a/1.png": 0, "b/2.png": b"", "b/3.png": 0})
    with pytest.raises(ValueError, match=f"^class b: {tmp_path}/set/b/2.png cannot be read as an image .*; replace or"):
        originals(tmp_path, tmp_path / "set")
    assert list((tmp_path / "out").iterdir()) == []


# ---- Archives --------------------------------------------------------------------------------------------------------

def packed(files: dict, suffix: str) -> bytes:
    buffer = io.BytesIO()
    contents = {name: content if isinstance(content, bytes) else encoded(Path(name).suffix, content)
                if isinstance(content, int) else content.encode() for name, content in files.items()}
    if suffix == ".zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if suffix == ".tgz" else "w") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_an_old_archive_beside_class_folders_is_named_and_left(tmp_path):
    write(tmp_path / "set", {f"{name}/{i}.png": i for name in "ab" for i in range(12)})
    write(tmp_path / "set", {"archive.zip": packed({"a/old.png": 0, "b/old.png": 0}, ".zip")})
    table, notes = originals(tmp_path, tmp_path / "set")
    assert len(table) == 24
    assert notes[0] == f"{tmp_path}/set: 24 images used, 1 skipped (.zip 1)"
    assert notes[1] == f"{tmp_path}/set/archive.zip is not used, since there are images beside it"


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".zip"])
def test_shards_of_a_webdataset(tmp_path, suffix):
    for shard in range(2):
        files = {f"{shard}{i}.jpg": i for i in range(3)} | {f"{shard}{i}.cls": "cat" if i else "ant" for i in range(3)}
        write(tmp_path / "set", {f"shard-{shard}{suffix}": packed(files, suffix)})
    table, _ = originals(tmp_path, tmp_path / "set")
    assert Counter(table["class"]) == {"cat": 4, "ant": 2}
    write(tmp_path / "again", {f"{i}{suffix}": packed({"1.jpg": i, "1.cls": "a"}, suffix) for i in range(2)})
    with pytest.raises(ValueError, match=rf"1{suffix} holds 1.jpg, which it or another archive beside it held already"):
        originals(tmp_path / "again", tmp_path / "again")


def test_archives_called_as_splits(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "set", {f"{split}.zip": packed({f"{name}/1.png": 0 for name in "ab"}, ".zip")})
    table, _ = originals(tmp_path, tmp_path / "set")
    assert sorted(table["file_name"]) == ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"]
    assert sorted(table["split"]) == ["train", "train", "val", "val"]


def test_archives_from_elsewhere(tmp_path):
    windows = packed({"a/1.png": 0, "b/1.png": 0}, ".zip")
    for name in (b"a/1.png", b"b/1.png"):
        windows = windows.replace(name, name.replace(b"/", b"\\"))  # as some packers there write them
    write(tmp_path, {"x.zip": windows})
    assert Counter(originals(tmp_path, tmp_path / "x.zip")[0]["file_name"]) == {"a/1.png": 1, "b/1.png": 1}
    locked = bytearray(packed({"a/1.png": 0}, ".zip"))
    locked[6] |= 1
    locked[locked.find(b"PK\1\2") + 8] |= 1  # the flag of a password
    write(tmp_path, {"y.zip": bytes(locked), "z.7z": b"7z\xbc\xaf"})
    for name, sentence in (("y.zip", "is encrypted; unpack it with its password, and give the folder"),
                           ("z.7z", r"cannot be unpacked \(.*\); unpack it yourself, and give the folder")):
        with pytest.raises(ValueError, match=f"{tmp_path}/{name} {sentence}"):
            unpack(tmp_path / name, tmp_path / "unpacked")


def test_images_inside_a_list_are_told(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    images = [{"bytes": encoded(".png", i), "path": f"{i}.png"} for i in range(3)]
    pd.DataFrame({"image": images, "label": [0, 1, 0]}).to_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata.parquet holds the images themselves in its column image; write"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("bounds", [Bounds(size=10_000), Bounds(members=3), Bounds(ratio=0.001)])
def test_archives_have_bounds(tmp_path, suffix, bounds):
    files = {f"a/{i}.bmp": np.random.default_rng(i).bytes(5_000) for i in range(4)}
    if bounds.ratio < 1:
        files = {"a/1.bmp": bytes(2**26 + 1)}  # the floor below which no ratio counts
    write(tmp_path, {f"x{suffix}": packed(files, suffix)})
    with pytest.raises(ValueError, match=rf"x{suffix} (.* unpacks to more than|holds more than 3 files)"):
        unpack(tmp_path / f"x{suffix}", tmp_path / "out", bounds)


@pytest.mark.parametrize("part", ["header", "name", "file", "end"])
def test_what_tar_archives_hold_beside_their_files_counts(tmp_path, part):
    """200 MB of zeros in 200 kB: where a name should be, in a file that is hidden, and behind the last file."""
    info = tarfile.TarInfo(".hidden" if part == "file" else "a/1.png")
    info.type = {"header": tarfile.XHDTYPE, "name": tarfile.GNUTYPE_LONGNAME}.get(part, tarfile.REGTYPE)
    info.size = 0 if part == "end" else 200 * 2**20
    (tmp_path / "x.tgz").write_bytes(gzip.compress(info.tobuf()) + gzip.compress(bytes(2**20)) * 200)
    with pytest.raises(ValueError, match=r"x.tgz .* unpacks to more than 67,108,864 bytes; if you trust it, raise"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.png"))


def test_a_file_that_should_be_a_folder_too(tmp_path):
    write(tmp_path, {"x.tar": packed({"a": "text", "a/1.png": 0}, ".tar")})
    with pytest.raises(ValueError, match=r"x.tar holds a/1.png, and a file where its folder should"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


def test_links_and_systems_files_in_archives(tmp_path):
    info = zipfile.ZipInfo("a/link.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "../../secret.png")
    with pytest.raises(ValueError, match=r"x.zip holds a/link.png, which is a link or device; pack the files"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    files = {"a/1.png": 0, "__MACOSX/a/._1.png": "x", "a/.DS_Store": "x", "a/Thumbs.db": "x"}
    write(tmp_path, {"y.zip": packed(files, ".zip")})
    unpack(tmp_path / "y.zip", tmp_path / "plain")
    assert [path.name for path in (tmp_path / "plain").rglob("*") if path.is_file()] == ["1.png"]


def test_an_archive_is_no_pool(tmp_path):
    write(tmp_path, {"x.zip": packed({"a/1.png": 0}, ".zip")})
    with pytest.raises(ValueError, match=r"x.zip is an archive; unpack it and give the folder"):
        ImageSet.read(tmp_path / "x.zip")
