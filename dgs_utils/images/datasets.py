"""The originals: fetch or open a dataset, settle its class table, and split it into train and val.

Whatever the source (arrays inside scikit-learn, torchvision's Fashion-MNIST, fastai's archives, an ImageNet root, any
tree of class folders), the result is the same three files in the stage folder: ``dataset.json`` (where the images
are), ``classes.csv`` (label, class, index, condition, name) and ``originals.csv`` (file_name, split, class, label).
"""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dgs_utils.artifacts.files import atomic, write_csv, write_json
from dgs_utils.artifacts.places import locate
from dgs_utils.images.classes import SUBSETS
from dgs_utils.images.download import fetch
from dgs_utils.images.image_sets import list_images
from dgs_utils.images.tables import natural_key, read_table
from dgs_utils.params import PrepareParams
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import numpy_rng

FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
ARCHIVES = {  # (data set, shorter side) -> address, checksum; those of ImageNette are torchvision's too
    ("imagewoof", "full"): (f"{FASTAI}imagewoof2.tgz", "md5:9aafe18bcdb1632c4249a76c458465ba"),
    ("imagewoof", "320"): (f"{FASTAI}imagewoof2-320.tgz", "md5:0f46d997ec2264e97609196c95897a44"),
    ("imagewoof", "160"): (f"{FASTAI}imagewoof2-160.tgz", "md5:3d200a7be99704a0d7509be2a9fbfe15"),
    ("imagenette", "full"): (f"{FASTAI}imagenette2.tgz", "md5:fe2fc210e6bb7c5664d602c3cd71e612"),
    ("imagenette", "320"): (f"{FASTAI}imagenette2-320.tgz", "md5:3df6f0d01a2c9592104656642f5e78a3"),
    ("imagenette", "160"): (f"{FASTAI}imagenette2-160.tgz", "md5:e793b78cc4c9e9a4ccc0c1155377a412"),
}
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

# Images of each class, in label order [F §1.2]: ImageNet's train split (its val split has 50 of each class; where
# train counts are not known, 0), and the train folders of fastai's archives, which hold the same images in all.
IMAGENET_TRAIN = {
    "imagewoof": (1300, 1300, 1300, 1300, 1300, 754, 1300, 1300, 1300, 1300),
    "imagenette": (1300, 1300, 1300, 1194, 1300, 1300, 1300, 1300, 1300, 1300),
    "imageidc": (0,) * 10,
}
IMAGENET_VAL = 50
FASTAI_TRAIN = {
    "imagewoof": (943, 949, 921, 932, 941, 580, 942, 940, 949, 928),
    "imagenette": (963, 955, 993, 858, 941, 956, 961, 931, 951, 960),
}


def index_originals(params: PrepareParams, folder: Path, progress: Callable = silent) -> list[str]:
    """Write a dataset's class table and split index into a stage folder, and its images where it has no files.

    Args:
        params: parameters of stage 00; used are dataset, root, archive, split, val_per_class, classes, class_index,
            channels and seed.
        folder: the stage folder.
        progress: wraps iterables that take long, as `artifacts.run.Run.progress`.

    Returns:
        Warnings, one sentence each (counts that differ from the published protocol).

    Raises:
        ValueError: unknown root, a class without images, or a split that the images do not allow.
    """
    sources = {"digits": _digits, "fashion": _fashion}
    root = sources.get(params.dataset, _files)(params, folder, progress)
    table = _list_files(root, _wanted(params))
    classes = class_table(params, table)
    table = table[table["class"].isin(classes["class"])].merge(classes[["class", "label"]], on="class")
    for name in classes["class"]:
        if not (table["class"] == name).any():
            raise ValueError(f"class {name} has no images in {root}; add some or leave it out of prepare.classes")
    table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
    table = split_table(table.drop(columns="order").reset_index(drop=True), params, root)
    inside = root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)
    write_csv(folder / "classes.csv", classes)
    write_csv(folder / "originals.csv", table[["file_name", "split", "class", "label"]])
    write_json(folder / "dataset.json", {"dataset": params.dataset, "root": inside, "channels": params.channels,
                                         "split": params.split})
    return _count_warnings(params, table)


def _wanted(params: PrepareParams) -> list[str]:
    """Return the class folders that are asked for, in label order; [] for all that there are.

    Raises:
        ValueError: ``classes`` names one twice, or one that is no class of the named subset.
    """
    if len(set(params.classes)) < len(params.classes):
        raise ValueError(f"prepare.classes names a class twice: {', '.join(params.classes)}")
    if params.dataset not in SUBSETS:
        return params.classes
    names = [wnid for wnid, *_ in SUBSETS[params.dataset]]
    foreign = [name for name in params.classes if name not in names]
    if foreign:
        raise ValueError(f"prepare.classes names {foreign[0]}, which is no class of {params.dataset}; "
                         f"its classes are {', '.join(names)}")
    return [name for name in names if not params.classes or name in params.classes]


def class_table(params: PrepareParams, table: pd.DataFrame) -> pd.DataFrame:
    """Return the classes in label order: label, class (folder name), index, condition, name.

    ``index`` is the class's column in the difficulty classifier's output, ``condition`` its label in the diffusion
    model. Both are the label for models that are trained here, and the ImageNet index for pre-trained ones; that is
    known for the three subsets, and read from ``class_index`` for any other class.

    Raises:
        ValueError: a pre-trained model is used and a class's index is not known.
    """
    known = {wnid: (index, name) for rows in SUBSETS.values() for wnid, index, name in rows}
    names = _wanted(params) or sorted(table["class"].unique(), key=natural_key)
    titles = {str(i): title for i, title in enumerate(FASHION)} if params.dataset == "fashion" else {}
    classes = pd.DataFrame({"label": range(len(names)), "class": names})
    classes["index"] = classes["condition"] = classes["label"]
    classes["name"] = [known[name][1] if name in known else titles.get(name, name) for name in names]
    indices = {name: index for name, (index, _) in known.items()} | _given_indices(params)
    for column, trained in (("index", params.classifier_weights == "train"),
                            ("condition", params.base_model in ("train", "none"))):
        if trained:
            continue
        missing = [name for name in names if name not in indices]
        if missing:
            raise ValueError(f"class {missing[0]} has no known index in the pre-trained model; give "
                             f"prepare.class_index, a CSV file with the columns class and index")
        classes[column] = [indices[name] for name in names]
    return classes


def _given_indices(params: PrepareParams) -> dict[str, int]:
    if not params.class_index:
        return {}
    path = locate(params.class_index)
    if not path.is_file():
        raise ValueError(f"prepare.class_index is {path}, which does not exist; give a CSV with class and index")
    table = read_table(path)
    if not {"class", "index"} <= set(table.columns):
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}; it needs class and index")
    return dict(zip(table["class"], table["index"], strict=True))


def split_table(table: pd.DataFrame, params: PrepareParams, root: Path) -> pd.DataFrame:
    """Return ``table`` with its column ``split`` settled (train or val) by the rule that ``params.split`` names.

    "given" and "fastai" keep the train and val folders; "imagenet" rebuilds the official split from file names, since
    ``ILSVRC2012_val_*`` files are ImageNet's validation images wherever fastai put them [F §1.3]; "holdout" draws
    ``val_per_class`` images of each class at random (seeded) as val.
    """
    if params.split == "imagenet":
        held_out = table["file_name"].str.rsplit("/", n=1).str[-1].str.startswith("ILSVRC2012_val_")
        # An ImageNet root already has the official folders; fastai's archives mix both kinds of names in train.
        table = table.assign(split=np.where(held_out, "val", "train"))
    elif params.split == "holdout":
        table = table.assign(split="train")
        for name, rows in table.groupby("class", sort=False):
            if len(rows) <= params.val_per_class:
                raise ValueError(f"class {name} has {len(rows)} images, too few to hold out {params.val_per_class}; "
                                 f"lower prepare.val_per_class")
            order = numpy_rng("holdout", params.seed, str(name)).permutation(rows.index)
            table.loc[order[: params.val_per_class], "split"] = "val"
    for split in ("train", "val"):
        empty = set(table["class"]) - set(table.loc[table["split"] == split, "class"])
        if empty and not (split == "val" and params.split == "given"):
            raise ValueError(f"class {min(empty)} has no {split} images in {root} under split {params.split!r}; "
                             f"choose another prepare.split")
    return table


def published_counts(dataset: str, split: str) -> pd.DataFrame | None:
    """Return how many images each class of a subset has in the published protocols, or None where that is not known.

    Returns:
        class names -> train (NaN where not known), val.
    """
    known = {"imagenet": IMAGENET_TRAIN, "fastai": FASTAI_TRAIN}.get(split, {})
    if dataset not in known:
        return None
    train, official = (np.array(counts[dataset], dtype=float) for counts in (known, IMAGENET_TRAIN))
    val = official + IMAGENET_VAL - train
    return pd.DataFrame({"train": np.where(train == 0, np.nan, train), "val": val},
                        index=[wnid for wnid, *_ in SUBSETS[dataset]])


def _count_warnings(params: PrepareParams, table: pd.DataFrame) -> list[str]:
    expected = published_counts(params.dataset, params.split)
    if expected is None:
        return []
    expected = expected.loc[table["class"].unique()]
    found = table.groupby("class")["split"].value_counts().unstack(fill_value=0).loc[expected.index, ["train", "val"]]
    differs = (found != expected) & expected.notna()
    if not differs.any(axis=None):
        return []
    first = differs.index[differs.any(axis=1)][0]
    rows = (found.sum(), expected.sum(min_count=len(expected)), found.loc[first], expected.loc[first])
    here, there, here_first, there_first = (_train_and_val(row) for row in rows)
    return [f"{params.dataset} with split {params.split!r} has {here} images here, {there} in the published "
            f"protocol; the first class that differs is {first}, with {here_first} here and {there_first} there"]


def _train_and_val(counts: pd.Series) -> str:
    return " and ".join(f"{'unknown' if np.isnan(counts[split]) else int(counts[split])} {split}"
                        for split in ("train", "val"))


# ---- Where the images come from ------------------------------------------------------------------------------------

def _digits(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Write scikit-learn's 1,797 scanned digits (8 × 8 pixels, 17 grey levels) as PNG files."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return _write_images(folder / "images", images, bunch.target, progress)


def _fashion(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Write Fashion-MNIST as PNG files, from torchvision's download or a local copy of its archives."""
    from torchvision.datasets import FashionMNIST

    scratch = folder / ".fashion"  # torchvision unpacks beside the archives, so it gets a copy
    if params.root:
        archives = list(locate(params.root).rglob("*-ubyte.gz"))
        if len(archives) != 4:
            raise ValueError(f"{locate(params.root)} holds {len(archives)} of the four Fashion-MNIST archives "
                             f"(*-ubyte.gz); point prepare.root at the folder that has them")
        (scratch / "FashionMNIST" / "raw").mkdir(parents=True, exist_ok=True)
        for archive in archives:
            shutil.copy(archive, scratch / "FashionMNIST" / "raw")
    for split, train in (("train", True), ("val", False)):
        try:
            data = FashionMNIST(str(scratch), train=train, download=True)
        except (RuntimeError, OSError) as error:  # no network, or archives that are not the published ones
            raise ValueError(f"Fashion-MNIST could not be had ({str(error).splitlines()[0]}); fetch its four archives "
                             f"(*-ubyte.gz) elsewhere and point prepare.root at their folder") from None
        _write_images(folder / "images" / split, data.data.numpy(), data.targets.numpy(), progress)
    shutil.rmtree(scratch)
    return folder / "images"


def _write_images(root: Path, images: np.ndarray, labels: np.ndarray, progress: Callable) -> Path:
    if root.is_dir():
        return root
    with atomic(root) as partial:
        for label in np.unique(labels):
            (partial / str(label)).mkdir(parents=True)
        numbers = pd.Series(labels).groupby(labels).cumcount()
        for image, label, number in progress(list(zip(images, labels, numbers, strict=True)), label="images"):
            Image.fromarray(image).save(partial / str(label) / f"{number}.png")
    return root


def _files(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Open a folder of images; archives (given, inside the given folder, or downloaded) are unpacked first."""
    if params.root:
        root = locate(params.root)
        if not root.exists():
            raise ValueError(f"prepare.root is {root}, which does not exist; give a folder, a .zip or a .tgz")
    elif (params.dataset, params.archive) in ARCHIVES:
        root = fetch(*ARCHIVES[params.dataset, params.archive], progress)
    else:
        raise ValueError(f"prepare.root is empty and {params.dataset} cannot be downloaded; "
                         f"give the folder with its images")
    archives = [root] if root.is_file() else sorted(root.glob("*.zip"))
    if not archives:
        return root
    target = folder / "images"
    if not target.is_dir():
        with atomic(target) as partial:
            for archive in progress(archives, label="archives"):
                unpack(archive, partial)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar archive; members that would land outside ``target`` are refused.

    Raises:
        ValueError: not an archive, damaged, or with an unsafe member.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as source:
                unsafe = [n for n in source.namelist() if not (target / n).resolve().is_relative_to(target.resolve())]
                if unsafe:
                    raise ValueError(f"{archive} holds {unsafe[0]}, which would land outside its folder; do not use it")
                source.extractall(target)
        else:
            with tarfile.open(archive) as source:
                source.extractall(target, filter="data")
                while source.fileobj.read(2**20):  # to the checksum, which stands after the last member
                    pass
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"{archive} cannot be unpacked ({reason}); delete it and fetch it again") from None


def _list_files(root: Path, classes: list[str]) -> pd.DataFrame:
    """List the images of a root: file_name, class, and the split of its ``train`` and ``val`` folders."""
    top = _top(root)
    splits = [split for split in ("train", "val") if (top / split).is_dir()] if (top / "train").is_dir() else [""]
    parts = []
    for split in splits:
        _, table = list_images(top / split, classes)
        prefix = (top / split).relative_to(root).as_posix().removeprefix(".")
        file_name = f"{prefix}/" + table["file_name"] if prefix else table["file_name"]
        parts.append(table.assign(file_name=file_name, split=split or "train"))
    table = pd.concat(parts, ignore_index=True)
    if table.empty and not classes:
        raise ValueError(f"{root} holds no images; it needs class folders, or train and val with class folders")
    return table


def _top(root: Path) -> Path:
    """Return where ``train`` and ``val``, or the class folders, lie: an archive may put one folder around them."""
    inner = [d for d in root.iterdir() if d.is_dir() and not d.name.startswith((".", "__"))]
    if len(inner) == 1 and inner[0].name != "train" and any(d.is_dir() for d in inner[0].iterdir()):
        return inner[0]
    return root
