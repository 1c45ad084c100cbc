"""Public data sets' folders: read with the right classes, or refused in a sentence that names the layout."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.folder_roles import is_role
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.imagefolder import find_images

PETS = "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\nbeagle_2 2 2 1\n"


def lay(root: Path, *names: str, **texts: str) -> Path:
    """Write images of these names, and texts: their names with ``__`` for a folder and ``_dot_`` for a point."""
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), place % 256, np.uint8)).save(root / name, "PNG")
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def classes_of(root: Path) -> dict[str, str]:
    table = find_images(root).table
    return dict(zip(table["file_name"], table["class"], strict=True))


FLAT = ("images/1.jpg", "images/2.jpg", "images/3.jpg")


COCO = json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": []})


READ = {
    "Food-101": (("images/pie/1.jpg", "images/soup/2.jpg"),
                 {"meta__classes_dot_txt": "pie\nsoup\n", "meta__train_dot_txt": "pie/1\n"}, {}),
    "CUB": (("images/001.Albatross/1.jpg", "images/002.Auk/2.jpg"),
            {"classes_dot_txt": "1 001.Albatross\n2 002.Auk\n", "image_class_labels_dot_txt": "1 1\n2 2\n",
             "images_dot_txt": "1 001.Albatross/1.jpg\n2 002.Auk/2.jpg\n", "attributes__a_dot_txt": "x",
             "train_test_split_dot_txt": "1 0\n2 1\n"}, {}),
    "DTD": (("images/dotted/1.jpg", "images/woven/2.jpg"), {"labels__test1_dot_txt": "dotted/1.jpg\n"}, {}),
}


REFUSED = {
    "images alone": (FLAT, {}, "holds images in images, which is no class; it needs one folder of images per class"),
    "COCO": (("train2017/1.jpg", "val2017/2.jpg"), {"annotations__instances_dot_json": COCO},
             r"train2017, val2017, which are no classes \(beside them annotations/instances.json: COCO's"),
    "COCO, one folder": (FLAT, {"annotations_dot_json": COCO}, r"images, which is no class \(beside them annotations"),
    "Roboflow's COCO": (("train/1.jpg", "valid/2.jpg"), {"train___annotations_dot_coco_dot_json": COCO},
                        r"no list of their classes among .*_annotations.coco.json: COCO's"),
    "splits and notes": (("train/1.jpg", "val/2.jpg"), {"annotations__a_dot_json": COCO}, "train, val, which are no c"),
    "YOLO": (("images/train/1.jpg", "images/val/2.jpg"),
             {"labels__train__1_dot_txt": "0 .5 .5 .1 .1\n", "labels__val__2_dot_txt": "1 .5 .5 .1 .1\n"},
             r"without class folders and no list of their classes"),
    "YOLO, flat": (FLAT, {"labels__1_dot_txt": "0 .5 .5 .1 .1\n"}, r"labels/1.txt: YOLO's boxes"),
    "VOC": (("JPEGImages/1.jpg", "SegmentationClass/1.png"), {"Annotations__1_dot_xml": "<a/>"}, "JPEGImages, Segment"),
    "masks": (("images/1.jpg", "masks/1.png"), {}, "holds images in images, masks, which are no classes"),
    "pets": (("images/beagle_2.jpg", "annotations/trimaps/beagle_2.png"), {"annotations__list_dot_txt": PETS},
             r"annotations, images, which are no classes \(beside them annotations/list.txt: .*lists in text"),
    "columns of other names": (("HAM_images_part_1/1.jpg", "HAM_images_part_2/2.jpg"),
                               {"HAM_dot_csv": "lesion,picture,dx\n1,1,nv\n2,2,mel\n"},
                               r"which are no classes \(beside them HAM.csv: a table of another name"),
    "Kaggle": (FLAT, {"labels_dot_csv": "id,label\n1,cat\n"}, r"beside them labels.csv: a table of another name"),
    "one folder and a list": (("shots/1.jpg", "shots/2.jpg"), {"list_dot_csv": "file,label\n1,cat\n2,dog\n"},
                              r"images in shots, which is no class \(beside them list.csv: a table of another name"),
    "Tiny ImageNet": (("train/n01/images/a.JPEG", "train/n02/images/b.JPEG", "val/images/v_0.JPEG"),
                      {"val__val_annotations_dot_txt": "v_0.JPEG\tn02\t0\t0\t62\t62\n"},
                      r"images, which is no class \(beside them val_annotations.txt: .*lists in text"),
    "Roboflow": (("train/1.jpg", "valid/1.jpg"), {"train___classes_dot_csv": "filename, cat, dog\n1.jpg, 1, 0\n"},
                 r"_classes.csv: a table of another name or other headings, from which a metadata.csv"),
    **{f"several classes, {labels}": (FLAT, {"metadata_dot_csv": "file_name,label\n" + "".join(
        f'images/{row}.jpg,"{label}"\n' for row, label in enumerate(labels, start=1))},
                                       re.escape(f"{labels[row]!r}, which names"))
       for labels, row in ((("cat", "dog", "cat,dog"), 2), (("Hot dog", "cat", "hot dog; cat"), 2),
                           (("cat|dog", "cat|fox", "dog|fox"), 0))},
    "lists in JSON": (FLAT[:2], {"metadata_dot_jsonl": '{"file_name": "images/1.jpg", "label": ["cat", "dog"]}\n'
                                                       '{"file_name": "images/2.jpg", "label": ["cat"]}\n'},
                      "line 1: .* label .* a list of 2"),
    "captions": (FLAT[:2], {"metadata_dot_csv": "file_name,text\nimages/1.jpg,a cat\nimages/2.jpg,a dog\n"},
                 "has no class labels"),
    "captions of splits": (("train/1.jpg", "train/2.jpg"), {"metadata_dot_csv": "file_name,text\ntrain/1.jpg,a\n"
                                                            "train/2.jpg,b\n"}, "has no class labels"),
    "tests of others": (("train/cat/1.jpg", "train/dog/2.jpg", "val/3.jpg"),
                        {"val__metadata_dot_csv": "file_name,label\n3.jpg,65\n"},
                        "are of classes such as 65, which no training image has, but cat"),
    "dogs and cats": (("train/cat.1.jpg", "train/dog.1.jpg", "test1/1.jpg"), {}, "test1, which is no class"),
}


@pytest.mark.parametrize("name", READ)
def test_is_read_with_its_classes(tmp_path, name):
    images, texts, expected = READ[name]
    lay(tmp_path, *images, **texts)
    assert classes_of(tmp_path) == (expected or {image: image.split("/")[1] for image in images})


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_a_sentence(tmp_path, name):
    images, texts, sentence = REFUSED[name]
    lay(tmp_path, *images, **texts)
    with pytest.raises(ValueError, match=sentence) as error:
        ImageSet.read(tmp_path)
    assert "\n" not in str(error.value)


def test_no_class_of_imagenet_reads_as_a_role():
    names = [*imagenet_names(), *imagenet_names().values()]
    assert not [name for name in names for form in (name, name.replace(" ", "_")) if is_role(form)]
    assert not [name for name in ("train", "test", "dev", "mask", "label", "photo", "7", "class_1", "cats_images")
                if is_role(name)]


def test_classes_that_are_asked_for_may_be_called_anything(tmp_path):
    lay(tmp_path, "images/1.png", "masks/2.png", "data/3.png")
    assert ImageSet.read(tmp_path, classes=["images", "masks"]).classes == ["images", "masks"]
