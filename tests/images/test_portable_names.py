"""Names of sets that are passed on: every reader finds the same images with the same labels.

The readers are the libraries themselves: `datasets` in both of its ways, torchvision and timm.
"""

import pandas as pd
import pytest
from PIL import Image
from small_world import make_prepare, open_stage
from torchvision.datasets import ImageFolder

from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.portable_names import SPLIT_WORDS, class_folders, portable_filename
from dgs_utils.publish.dataset import Publication, write_dataset
from dgs_utils.sample import read_source, select_images, write_set

datasets = pytest.importorskip("datasets", reason="comes with the extra test: pip install 'dgs-utils[test]'")
timm_data = pytest.importorskip("timm.data", reason="comes with the extra timm: pip install 'dgs-utils[timm]'")

NUMBERS = [str(number) for number in range(12)]
ODD = ["NA", "null", "007", "__cache__", "ab::c", "a#b", "100%", "a?b", "a*b", "[x]", "{x}", "ä", "Zebra", "a,b",
       'a"b', "images", "data", "train-00000-of-00001", "Test", "m2"]
FILES = ["train_0.png", "ILSVRC2012_val_00000001.JPEG", "test.png", "dev.bmp", "x-eval-2.webp", "3.png"]


def colour(label: int) -> tuple[int, int, int]:
    return label % 256, label // 256, 7


def write_images(root, classes, files=1):
    """Write ``root/<class>/<file>``, every image in the colour of its label."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(files):
            file = FILES[(label + k) % len(FILES)]
            kind = {"JPEG": "PNG", "webp": "WEBP"}.get(file.rpartition(".")[2])
            Image.new("RGB", (8, 8), colour(label)).save(root / name / file, kind, lossless=True)
    return root


def readings(folder, cache):
    """Return each reader's count of images by (colour, label)."""
    def count(pairs):
        return pd.Series([(image.convert("RGB").getpixel((0, 0)), int(label)) for image, label in pairs]).value_counts()

    def rows(*args, **options):
        splits = datasets.load_dataset(*args, **options, cache_dir=str(cache / str(len(args))))
        assert list(splits) == ["train"]
        return count((row["image"], row["label"]) for row in splits["train"])

    return {"datasets": rows(str(folder)), "imagefolder": rows("imagefolder", None, data_dir=str(folder)),
            "torchvision": count(ImageFolder(folder / "images")),
            "timm": count(timm_data.create_dataset("", root=str(folder))),
            "timm, images": count(timm_data.ImageDataset(str(folder / "images")))}


def check_alike(folder, classes, files, cache):
    expected = {(colour(label), label): files for label in range(len(classes))}
    for reader, found in readings(folder, cache).items():
        assert found.to_dict() == expected, reader
    own = ImageSet.read(folder, warn=pytest.fail)
    assert own.classes == list(classes)
    assert len(own) == len(classes) * files


@pytest.mark.parametrize(("classes", "files"), [
    ([*dict.fromkeys(name.replace(" ", "_") for name in imagenet_names().values()), *NUMBERS, *SPLIT_WORDS, *ODD], 1),
    (NUMBERS, 2), (["tench", "test", "train"], 3), (["9", "10", "dev"], 1), (["a", "b"], 6)],
    ids=["imagenet", "numbers", "words", "own order", "files"])
def test_published_sets_are_read_alike(tmp_path, classes, files):
    root = tmp_path / "source"
    for label, name in enumerate(classes):  # names may hold what a folder of ours would not
        write_images(root / str(label), [name], files)
        for path in (root / str(label) / name).iterdir():
            Image.new("RGB", (8, 8), colour(label)).save(path, Image.open(path).format, lossless=True)
    table = pd.DataFrame([(path.relative_to(root).as_posix(), name, label) for label, name in enumerate(classes)
                          for path in sorted((root / str(label) / name).iterdir())],
                         columns=["file_name", "class", "label"])
    images = ImageSet(root, table.assign(generator="made", index=table.groupby("label").cumcount(), seed=""))
    manifest = {"stage": "05_sample", "params": {"method": "dgs"}, "key": "0", "label": "made",
                "finished": "2026-01-01"}
    (tmp_path / "set").mkdir()
    publication = Publication(images, {"05_sample": manifest}, None, pd.DataFrame(), titles={}, recognised=None)
    write_dataset(tmp_path / "set", publication, "mit")
    check_alike(tmp_path / "set", classes, files, tmp_path / "cache")


@pytest.mark.parametrize(("classes", "ipc"), [
    (("bullet_train", "dev", "test", "test_tube"), 2), (("9", "10", "val"), 2), (tuple(NUMBERS), 2),
    (("a", "test"), 1)], ids=str)
def test_sets_of_stage_05_are_read_alike(tmp_path, outputs, classes, ipc):
    """Also where there are fewer images than files that the kit keeps beside them."""
    images = write_images(tmp_path / "originals", classes, files=3)
    prepare = make_prepare(images, classes)
    run = open_stage("05_sample", method="random", ipc=ipc, prepare=str(prepare))
    source = read_source(run)
    write_set(run, source, select_images(run, source))
    run.finish()
    check_alike(run.folder, classes, ipc, tmp_path / "cache")


def test_names_stay_where_no_reader_minds():
    for names in (list(imagenet_names()), ["testbed", "trainer"], [f"c{n}" for n in range(10)]):
        assert class_folders(names) == {name: name for name in names}
    assert class_folders(["bullet_train", "test", "x"]) == {"bullet_train": "bullet+train", "test": "test+", "x": "x"}
    assert class_folders(["10", "9"]) == {"10": "0_10", "9": "1_9"}
    assert portable_filename("trainer_tested_1.dev.png") == "trainer_tested_1+dev.png"


def test_labels_follow_sorted_folders_for_any_number_of_classes():
    from timm.utils.misc import natural_key

    for names in (["b", "a"], ["a", "b"], NUMBERS, [f"c{n}" for n in range(101)], ["B", "a"], list(SPLIT_WORDS)):
        folders = [class_folders(names)[name] for name in names]
        assert sorted(folders) == sorted(folders, key=natural_key) == folders
        assert len({folder.lower() for folder in folders}) == len(names)
