"""Public data sets' folders: read with the right classes, or refused in a sentence that names the layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.folder_roles import is_role
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.imagefolder import find_images

PETS = "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\nbeagle_2 2 2 1\n"


ONE_HOT = "filename, cat, dog\n1.jpg, 1, 0\n2.jpg, 0, 1\n"


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
    "tiny-imagenet": (("train/n01/images/a.JPEG", "train/n02/images/b.JPEG", "val/images/v_0.JPEG",
                       "val/images/v_1.JPEG", "test/images/t_0.JPEG"),
                      {"val__val_annotations_dot_txt": "v_0.JPEG\tn02\t0\t0\t62\t62\nv_1.JPEG\tn01\t1\t2\t3\t4\n",
                       "wnids_dot_txt": "n01\nn02\n", "train__n01__n01_boxes_dot_txt": "a.JPEG\t0\t0\t1\t1\n"},
                      {"train/n01/images/a.JPEG": "n01", "train/n02/images/b.JPEG": "n02",
                       "val/images/v_0.JPEG": "n02", "val/images/v_1.JPEG": "n01"}),
    "Roboflow": (("train/1.jpg", "train/2.jpg", "valid/1.jpg", "valid/2.jpg"),
                 {"train___classes_dot_csv": ONE_HOT, "valid___classes_dot_csv": ONE_HOT},
                 {"train/1.jpg": "cat", "train/2.jpg": "dog", "valid/1.jpg": "cat", "valid/2.jpg": "dog"}),
    "one-hot metadata": (("1.jpg", "2.jpg"), {"metadata_dot_csv": ONE_HOT.replace("filename", "file_name")},
                         {"1.jpg": "cat", "2.jpg": "dog"}),
    "Kaggle": (("train/1.png", "train/2.png", "test/3.png"),
               {"train_dot_csv": "id,label\n1,frog\n2,ship\n", "sample_submission_dot_csv": "id,label\n3,frog\n"},
               {"train/1.png": "frog", "train/2.png": "ship"}),
    "Kaggle, images": (FLAT[:2], {"labels_dot_csv": "image_id,breed\n1,pug\n2,corgi\n"},
                       {"images/1.jpg": "pug", "images/2.jpg": "corgi"}),
    "list in text": (("val/1.JPEG", "val/2.JPEG"), {"val_dot_txt": "1.JPEG 65\n2.JPEG 970\n"},
                     {"val/1.JPEG": "65", "val/2.JPEG": "970"}),
    "headings as people write them": (("photos/1.jpg", "photos/2.jpg"), {"list_dot_csv": "Image Path,Class-Name,width\n"
                                      "photos/1.jpg,cat,7\nphotos/2.jpg,007,8\n"},
                                      {"photos/1.jpg": "cat", "photos/2.jpg": "007"}),
    "several pieces": (("images_001/1.png", "images_002/2.png"), {"labels_dot_csv": "image,label\n1.png,a\n2.png,b\n"},
                       {"images_001/1.png": "a", "images_002/2.png": "b"}),
    "list above images": (("images/x/1.png", "images/y/2.png"), {"labels_dot_csv": "path,label\nimages/x/1.png,a\n"
                                                                "images/y/2.png,b\n"},
                          {"images/x/1.png": "a", "images/y/2.png": "b"}),
}


REFUSED = {
    "paths of another machine": (FLAT[:2], {"labels_dot_csv": "filepath,target\n/kaggle/images/1.jpg,cat\n"},
                                 "labels.csv, row 2: a file is '/kaggle/images/1.jpg', an absolute path"),
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
    "Open Images": (FLAT, {"train_dot_csv": "ImageID,Source,LabelName,Confidence\n1,verification,/m/1,1\n"
                                            "1,verification,/m/2,1\n2,verification,/m/1,0\n"},
                    r"train.csv, row 3 lists images/1.jpg again"),
    "columns of other names": (("HAM_images_part_1/1.jpg", "HAM_images_part_2/2.jpg"),
                               {"HAM_dot_csv": "lesion,picture,dx\n1,1,nv\n2,2,mel\n"},
                               r"which are no classes \(beside them HAM.csv: a table that has no columns file_name"),
    "unknown headings": (("shots/1.jpg", "shots/2.jpg"), {"list_dot_csv": "picture,y\n1.jpg,cat\n2.jpg,dog\n"},
                         "images in shots alone, and list.csv, which names them, has no columns .*, but picture, y"),
    "no headings": (("shots/1.jpg", "shots/2.jpg"), {"list_dot_csv": "shots/1.jpg,cat\nshots/2.jpg,dog\n"},
                    "has no columns file_name and class, but shots/1.jpg, cat; call two of them so"),
    "other suffixes": (("shots/1.PNG", "shots/2.PNG"), {"list_dot_csv": "file,label\nshots/1.png,a\nshots/2.png,b\n"},
                       "row 2 lists shots/1.png, which does not exist"),
    "several classes": (("train/1.jpg", "train/2.jpg", "valid/1.jpg"),
                        {"train___classes_dot_csv": "filename, cat, dog\n1.jpg, 1, 1\n2.jpg, 0, 1\n",
                         "valid___classes_dot_csv": ONE_HOT}, r"row 2: 1.jpg has the classes cat, dog among"),
    "no class": (FLAT[:2], {"labels_dot_csv": "image,cat,dog\n1,0,0\n2,0,1\n"}, "row 2: images/1.jpg has no class"),
    "attributes": (FLAT[:2], {"attributes_dot_csv": "image_id,young,smiling\n1.jpg,-1,1\n2.jpg,1,1\n"},
                   "2.jpg has the classes young, smiling"),
    "labels together": (FLAT, {"labels_dot_csv": 'image,label\n1,cat\n2,dog\n3,"cat,dog"\n'},
                        "'cat,dog', which names several"),
    "labels of two words": (FLAT, {"labels_dot_csv": "image,label\n1,Hot dog\n2,cat\n3,hot dog; cat\n"}, "; cat', "),
    "labels never alone": (FLAT, {"labels_dot_csv": "image,label\n1,cat|dog\n2,cat|fox\n3,dog|fox\n"}, "'cat|dog'"),
    "lists as text": (FLAT, {"labels_dot_csv": "image,labels\n1,['cat']\n2,['dog']\n3,\"['cat', 'dog']\"\n"}, "row 4"),
    "lists in JSON": (FLAT[:2], {"metadata_dot_jsonl": '{"file_name": "images/1.jpg", "label": ["cat", "dog"]}\n'
                                                       '{"file_name": "images/2.jpg", "label": ["cat"]}\n'},
                      "line 1: .* label .* a list of 2"),
    "captions": (FLAT[:2], {"metadata_dot_csv": "file_name,text\nimages/1.jpg,a cat\nimages/2.jpg,a dog\n"},
                 "has no class labels"),
    "captions of splits": (("train/1.jpg", "train/2.jpg"), {"metadata_dot_csv": "file_name,text\ntrain/1.jpg,a\n"
                                                            "train/2.jpg,b\n"}, "has no class labels"),
    "tests of others": (("train/cat/1.jpg", "train/dog/2.jpg", "val/3.jpg"), {"val__val_dot_txt": "3.jpg 65\n"},
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


def test_lists_of_a_split_that_is_not_read_are_told(tmp_path):
    images, texts, _ = READ["Food-101"]
    notes = find_images(lay(tmp_path, *images, **texts)).notes
    assert any("meta/train.txt" in note and "all images are of one split" in note for note in notes)


def test_no_class_of_imagenet_reads_as_a_role():
    names = [*imagenet_names(), *imagenet_names().values()]
    assert not [name for name in names for form in (name, name.replace(" ", "_")) if is_role(form)]
    assert not [name for name in ("train", "test", "dev", "mask", "label", "photo", "7", "class_1", "cats_images")
                if is_role(name)]


def test_classes_that_are_asked_for_may_be_called_anything(tmp_path):
    lay(tmp_path, "images/1.png", "masks/2.png", "data/3.png")
    assert ImageSet.read(tmp_path, classes=["images", "masks"]).classes == ["images", "masks"]
