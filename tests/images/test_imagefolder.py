"""Image folders: what each layout means, and one sentence where there is no or more than one meaning."""

import io
import json
from collections import Counter

import pandas as pd
import pytest
from image_files import index_folder, read_folder, write_files
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import pool
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.table_io import read_table

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
], ids=range(20))
def test_layouts_with_one_meaning(tmp_path, files, expected):
    assert read_folder(write_files(tmp_path, files))[0] == expected


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("text", [TEXT, NUMBERS])
@pytest.mark.parametrize("held", ["test", "validation", "val"])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_lists_of_splits(tmp_path, kind, text, held, place):
    """Hugging Face's forms: a list in each of train and test, or one beside them."""
    root, parts = tmp_path / "set", []
    for split in ("train", held):
        write_files(root / split, FLAT)
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
    table, _ = index_folder(tmp_path / "out", root)
    assert sorted(map(tuple, table[["file_name", "split", "class", "label"]].to_numpy())) == sorted(
        (f"{folder}/{name}", split, kind, int(kind in ("cat", "1"))) for folder, split in (("train", "train"),
                                                                                         (held, "val"))
        for name, kind in classes.items())
    assert read_folder(root)[0] == {f"train/{name}": kind for name, kind in classes.items()}


def test_what_lies_around_is_counted(tmp_path):
    write_files(tmp_path, {"README": "", "ILSVRC/x.txt": "", "ILSVRC/.x": "", "ILSVRC/Annotations/1.xml": "",
                     "ILSVRC/Data/train/cat/1.png": 0, "ILSVRC/Data/train/ant/1.png": 0,
                     "ILSVRC/Data/test/1.png": 0, "ILSVRC/Data/test/2.png": 0})
    assert read_folder(tmp_path)[1] == [f"{tmp_path}: 2 images used, 6 skipped (test images without classes 2, .txt 1, "
                                 ".xml 1, hidden 1, no suffix 1)"]


def test_class_folders_without_images_are_named(tmp_path):
    write_files(tmp_path, {"train/a/1.png": 0, "train/b/1.heic": b"", "test/a/1.png": 0})
    (tmp_path / "train" / "c").mkdir()
    assert read_folder(tmp_path)[1] == [f"{tmp_path}: 2 images used, 1 skipped (.heic 1)",
                                 f"2 folders of {tmp_path} contain no images and are not classes: train/b, train/c",
                                 f"{tmp_path}: 1 images of val and test are left out"]


def test_a_test_folder_beside_val_is_left_out(tmp_path):
    write_files(tmp_path / "set", {f"{split}/{name}/1.png": 0 for split in ("train", "val", "test") for name in "ab"})
    table, notes = index_folder(tmp_path / "out", tmp_path / "set")
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


NFC, NFD = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"


def test_names_are_alike_however_their_accents_are_stored(tmp_path, outputs):
    write_files(tmp_path / "real", {f"{NFD}/1.png": 0, f"{NFD}/2.png": 0, "tea/1.png": 0, "tea/2.png": 0})
    (tmp_path / "index.csv").write_text(f"class,index\n{NFC},3\ntea,1\n")
    table, _ = index_folder(tmp_path / "out", tmp_path / "real", classes=["tea", NFC],
                            class_index=str(tmp_path / "index.csv"), classifier="resnet18",
                            classifier_weights="best.pth", base_model="none")
    assert Counter(table["class"]) == {NFC: 2, "tea": 2}
    assert read_table(tmp_path / "out" / "classes.csv")["index"].tolist() == [1, 3]
    write_files(tmp_path / "made", {f"{NFC}.png": 0, "tea.png": 0,
                              "metadata.csv": f"file_name,class\n{NFD}.png,{NFD}\ntea.png,tea\n"})
    assert read_folder(tmp_path / "made", classes=["tea", NFC])[0] == {f"{NFC}.png": NFC, "tea.png": "tea"}
    write_files(tmp_path / "real", {f"{NFC}/3.png": 0})
    with pytest.raises(ValueError, match=f"holds two folders {NFC}, whose names differ only in how accents are"):
        read_folder(tmp_path / "real")


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
    ({**FLAT, "metadata.csv": "file_name,class\n1.png,cat \n"}, r"a class is 'cat ', which begins or ends with"),
    ({**FLAT, "a.csv": TEXT, "b.csv": TEXT}, r"holds several lists of images \(a.csv, b.csv\); keep one"),
    ({"1.png": 0, "1.cls": "a"}, r"among 1 other files \(.cls 1\) \(beside them 1.cls: labels of"),
], ids=range(20))
def test_what_has_no_meaning_is_told_with_the_way_out(tmp_path, files, sentence):
    write_files(tmp_path / "set", files)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_folder(tmp_path / "set")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_do_not_match_are_told(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    write_files(tmp_path / "set", {"zero/1.png": 0, "one/1.png": 0, "two/1.png": 0})
    run = open_stage("02_pool", generator="folder", root=str(tmp_path / "set"), prepare=str(prepare))
    with pytest.raises(ValueError, match=r"class 0 has no images in .*/set, where classes are called one, two, zero"):
        pool.generate(run)
