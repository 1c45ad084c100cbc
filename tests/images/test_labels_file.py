"""Labels files: classes from columns, labels or folders; labels of several classes; images inside a table."""

import json
from pathlib import Path

import pandas as pd
import pytest
from image_files import encoded, read_folder, write_image, write_images

from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.imagefolder import find_images


def write_listing(folder: Path, kind: str, rows: list[dict]) -> None:
    """Write a list of images and the images."""
    for row in rows:
        write_image(folder / row.get("file_name", "a.png"))
    if kind == "metadata.csv":
        pd.DataFrame(rows).to_csv(folder / kind, index=False)
    else:
        (folder / kind).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize(("rows", "names", "labels"), [
    # a column class, whose labels are kept
    ([{"file_name": "x/2.png", "class": "b", "label": 0}, {"file_name": "x/1.png", "class": "a", "label": 1}],
     ["b", "a"], [0, 1]),
    # a column class without labels
    ([{"file_name": "2.png", "class": "007"}, {"file_name": "1.png", "class": "0010"}], ["0010", "007"], [0, 1]),
    # the class as the label's text
    ([{"file_name": "2.png", "label": "cat"}, {"file_name": "1.png", "label": "ant"}], ["ant", "cat"], [0, 1]),
    # the class as the file's folder
    ([{"file_name": "images/b/2.png"}, {"file_name": "images/a/1.png"}], ["a", "b"], [0, 1]),
    # the class as the file's folder, in the order of the labels, whatever these count
    ([{"file_name": "b/2.png", "label": 0}, {"file_name": "a/1.png", "label": 1}], ["b", "a"], [0, 1]),
    ([{"file_name": "b/2.png", "label": 193}, {"file_name": "a/1.png", "label": 207}], ["b", "a"], [0, 1]),
    # labels that go across folders
    ([{"file_name": "part1/2.png", "label": 3}, {"file_name": "part2/1.png", "label": 3},
      {"file_name": "part2/3.png", "label": 10}], ["3", "10"], [0, 0, 1]),
    ([{"file_name": "part1/2.png", "label": 3}, {"file_name": "part2/1.png", "label": 3}], ["3"], [0, 0]),
    # numbers alone
    ([{"file_name": "2.png", "label": 0}, {"file_name": "1.png", "label": 1}], ["0", "1"], [0, 1]),
    # numbers, and a folder that says nothing about the class
    ([{"file_name": "train/2.png", "label": 1}, {"file_name": "train/1.png", "label": 0}], ["0", "1"], [0, 1]),
])
def test_hugging_face_folders(tmp_path, kind, rows, names, labels):
    write_listing(tmp_path, kind, rows)
    images = ImageSet.read(tmp_path)
    assert images.classes == names
    assert images.labels.tolist() == labels
    expected = {row["file_name"]: str(row.get("class", row["file_name"])) for row in rows}
    assert set(images.table["file_name"]) == set(expected)
    if "class" in rows[0]:
        assert {row["file_name"]: row["class"] for row in images.table.to_dict("records")} == expected


def test_further_columns_are_kept(tmp_path):
    write_listing(tmp_path, "metadata.csv", [{"file_name": "a/1.png", "class": "a", "score": 0.25, "seed": 3}])
    assert ImageSet.read(tmp_path).table[["score", "seed"]].to_numpy().tolist() == [[0.25, 3]]


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl"])
def test_listings_without_the_needed_columns(tmp_path, kind):
    write_listing(tmp_path, kind, [{"name": "a.png", "class": "a"}])
    with pytest.raises(ValueError, match=f"{tmp_path}/{kind} has no column file_name, but .*; add one"):
        ImageSet.read(tmp_path)
    write_listing(tmp_path, kind, [{"file_name": "a.png", "score": 1}])
    with pytest.raises(ValueError, match=f"{tmp_path}/{kind} has no class labels: add a column class, or put"):
        ImageSet.read(tmp_path)


def test_images_inside_a_list_are_told(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    images = [{"bytes": encoded(".png", i), "path": f"{i}.png"} for i in range(3)]
    pd.DataFrame({"image": images, "label": [0, 1, 0]}).to_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata.parquet holds the images themselves in its column image; write"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["lion tree", "lion_tree", "lion and tree", "fox|sky", "(fox sky)"])
def test_what_may_name_several_classes_is_told(tmp_path, name):
    """It may be one class, as "tiger cat" is one of ImageNet's, so it is read; folders are no question."""
    write_images(tmp_path, "1.png", "2.png", "3.png")
    table = pd.DataFrame({"file_name": ["1.png", "2.png", "3.png"], "class": ["lion", "tree", name]})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    assert ImageSet.read(tmp_path).classes == sorted(["lion", "tree", name])
    assert f"the label {name!r} is taken for one class; if it names several" in " ".join(find_images(tmp_path).notes)
    folders = write_images(tmp_path / "folders", *(f"{folder}/1.png" for folder in table["class"]))
    assert not find_images(folders).notes


def test_names_of_imagenet_are_labels_of_one_class(tmp_path):
    names = sorted(set(imagenet_names().values()))
    write_images(tmp_path, *(f"{place}.png" for place in range(len(names))))
    long = [f"{name}, {name} of {place}" for place, name in enumerate(names)]
    for found in (names, long, [name.replace(" ", "_") for name in names]):
        table = pd.DataFrame({"file_name": [f"{place}.png" for place in range(len(names))], "class": found})
        table.to_csv(tmp_path / "metadata.csv", index=False)
        assert find_images(tmp_path).notes == []
