"""A distilled set or a scored pool as a folder to publish, read alike by Hugging Face, torchvision, timm and this kit.

Images are in ``images/<class folder>/<file>``, in label order (`dgs_utils.images.portable_names`), their list is
``metadata.csv``. Beside them are thresholds, results, manifests, a dataset card with a picture and a Croissant file
(`publish.croissant`), without paths of the maker's machine.
"""

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from dgs_utils.images.classes import display_names, read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import copy_image
from dgs_utils.images.portable_names import class_folders, portable_filename
from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, validate
from dgs_utils.params.types import SOFT_LABEL_KINDS, soft_labels_file
from dgs_utils.publish.card import PICTURE, dataset_card, subject_of
from dgs_utils.publish.croissant import write_croissant
from dgs_utils.results.rows import check_columns
from dgs_utils.runtime.table_io import read_table
from dgs_utils.runtime.terminal import printable
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.store.atomic import atomic, write_csv, write_json
from dgs_utils.store.lineage import check_input, input_folder, lineage, repair_hint
from dgs_utils.store.manifest import MANIFEST, read_manifest
from dgs_utils.store.paths import outputs_root, resolve_path, workspace
from dgs_utils.store.verify import corrupt_files

COLUMNS = ["file_name", "class", "label", "score", "transformed", "generator", "seed", "index", "source"]
PATH = re.compile(r"(?<![\w:/.<~])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:<>|]+[/\\])+([^\s/\\'\",;:<>|]*)")


@dataclass(frozen=True)
class Publication:
    """The contents of a published set."""

    images: ImageSet  # whose table has the columns `COLUMNS` as far as they are known
    # Of the folder itself and of all that it was made from, by stage; from a stage's second result on with its key.
    manifests: dict[str, dict[str, Any]]
    thresholds: pd.DataFrame | None  # stage 04's table
    results: pd.DataFrame  # one row a training on this set; may be empty
    titles: dict[str, str]  # the readable name of each class, where it is known
    recognised: pd.Series | None  # by class, the fraction of its images that the scorer assigns to it, if known
    soft_labels: dict[str, Path] = field(default_factory=dict)  # by kind, a file of stored ones


def publish(folder: Path, destination: str, licence: str) -> str:
    """Write a finished set (05, 08), or a pool with its scores (03, 02), as a dataset of its own into a folder that is
    new or empty, with the licence of the images, such as "cc-by-nc-4.0"; return a sentence with its location.

    Raises:
        ValueError: no licence, an unfinished or changed folder, or a destination that is in use.
    """
    if not licence.strip():
        raise ValueError("the licence is empty; give by --licence the one of the images, such as cc-by-nc-4.0")
    target = Path(os.path.expanduser(destination)).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists already; give a folder that is new or empty")
    publication = collect(resolve_path(folder))
    with atomic(target) as partial:
        write_dataset(partial, publication, licence)
    return (f"{len(publication.images)} images in {target}; to upload them: hf upload OWNER/NAME "
            f"{shlex.quote(destination)} --repo-type dataset")


# ---- What is published -----------------------------------------------------------------------------------------------

def collect(folder: Path) -> Publication:
    """Collect what belongs to a set or a pool, after checking every byte of it.

    Raises:
        ValueError: a folder of another stage, a pool without scores, a file that differs from its manifest, or a
            manifest with wrong parameters.
    """
    manifest = check_input(folder, "publish", ["02_pool", "03_difficulty", "05_sample", "08_condense"])
    if manifest["stage"] == "02_pool":
        folder = _scores_of(folder, manifest)
        manifest = read_manifest(folder)
    scored = manifest["stage"] == "03_difficulty"
    pool = input_folder(manifest, "pool")
    if scored and (manifest["params"].get("source") != "pool" or pool is None):
        raise ValueError(f"{folder} has scores of the originals, which are not yours to publish; give the scores of "
                         f"a pool")
    transform = None if scored else input_folder(manifest, "transform")
    manifests: dict[str, dict[str, Any]] = {}
    prepare = scores = None
    for path, upstream in lineage(folder):
        check_bytes(path)
        _check_params(path, upstream)
        first = manifests.setdefault(upstream["stage"], upstream)
        if first["key"] != upstream["key"]:
            manifests[f"{upstream['stage']}-{upstream['key']}"] = upstream
        prepare = path if upstream["stage"] == "00_prepare" and prepare is None else prepare
        scores = path if upstream["stage"] == "03_difficulty" and upstream["params"]["source"] == "pool" else scores
    images = _scored_pool(folder, pool) if scored and pool else ImageSet.read(folder)
    indices = ImageSet.read(pool).table.set_index("file_name").get("index") if pool else None
    table = _with_origin(images.table, manifests, indices)
    return Publication(ImageSet(images.root, table), manifests,
                       read_table(transform / "thresholds.csv") if transform else None,
                       pd.DataFrame() if scored else _results(manifest),
                       display_names(read_classes(prepare)) if prepare else {},
                       _recognised(table, scores, prepare) if scores and prepare else None,
                       {} if scored else _soft_labels(manifest))


def _soft_labels(manifest: dict[str, Any]) -> dict[str, Path]:
    """Return a file of each kind of soft labels that evaluations of a set have stored; print which, of several."""
    chosen: dict[str, Path] = {}
    for folder in _results_with_input("06_evaluate", "distilled", manifest["content"]):
        for kind in SOFT_LABEL_KINDS:
            if (path := folder / soft_labels_file(kind)).is_file():
                check_bytes(folder)
                if chosen.setdefault(kind, path) != path:
                    print(f"Several evaluations have soft labels per {kind}; those of {chosen[kind].parent.name} go "
                          f"along")
    return chosen


def check_bytes(folder: Path) -> None:
    """Compare every byte of a finished folder with its manifest; raise ValueError for a file that differs."""
    if wrong := corrupt_files(folder):
        raise ValueError(f"{folder / wrong[0]} is missing or changed since its stage finished; "
                         f"{repair_hint(read_manifest(folder))}")


def _check_params(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError if a manifest's parameters are none of its stage; those of other versions are ignored."""
    try:
        model = STAGES[manifest["stage"]]
        params = {name: value for name, value in manifest["params"].items() if name in model.model_fields}
        validate(manifest["stage"], params)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST}: {error}; run its stage again") from None


def _scores_of(pool: Path, manifest: dict[str, Any]) -> Path:
    """Return the 03 folder that scored a pool."""
    for folder in _results_with_input("03_difficulty", "pool", manifest["content"]):
        return folder
    raise ValueError(f"{pool} has no scores yet; run notebook 03 for it first")


def _results_with_input(stage: str, name: str, content: str) -> list[Path]:
    """Return the finished folders of a stage whose input of this name has this content."""
    folders = []
    for path in sorted((outputs_root() / stage).glob(f"*/{MANIFEST}")):
        try:
            sources = read_manifest(path.parent)["inputs"]
        except ValueError as error:
            print(f"Warning: these results are left out: {printable(str(error))}")
            continue
        if any((source["name"], source["content"]) == (name, content) for source in sources):
            folders.append(path.parent)
    return folders


def _scored_pool(scores: Path, pool: Path) -> ImageSet:
    images = ImageSet.read(pool)
    table = images.table.drop(columns=["score"], errors="ignore").merge(
        read_scores(scores)[["file_name", "score"]], on="file_name", validate="one_to_one")
    return ImageSet(images.root, table)


def _recognised(table: pd.DataFrame, scores: Path, prepare: Path) -> pd.Series | None:
    """Return by class the fraction of images whose predicted class is their own; None without all predictions."""
    predictions = read_table(scores / "scores.csv")
    if "prediction" not in predictions or not table["source"].isin(predictions["file_name"]).all():
        return None
    outputs = read_classes(prepare).set_index("class")["index"]
    correct = predictions["prediction"] == predictions["class"].map(outputs)
    return table["source"].map(correct.set_axis(predictions["file_name"])).astype(float).groupby(table["class"]).mean()


def _with_origin(table: pd.DataFrame, manifests: dict[str, dict[str, Any]], indices: pd.Series | None) -> pd.DataFrame:
    """Add generator, seed, source and index of each image; ``indices`` are those of the pool's images by file name."""
    made = manifests.get("02_pool", manifests.get("08_condense"))
    params = made["params"] if made else {}
    method = manifests.get("05_sample", {}).get("params", {}).get("method", "pool_random")
    generated = made is not None and METHODS[method].source == "pool"
    generator = params.get("generator", params.get("method", "")) if generated else "originals"
    source = table["source"] if "source" in table else table["file_name"]
    index = table["index"] if "index" in table else source.map(indices) if indices is not None else None
    if index is None:  # the file name of an optimised image is its index
        index = pd.to_numeric(source.str.extract(r"(\d+)\.\w+$")[0])
    return table.assign(generator=table.get("generator", generator), source=source, index=index.astype("Int64"),
                        seed=params.get("seed", "") if generated else "")


def _results(manifest: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of all finished evaluations of this set; print a warning for each that cannot be used."""
    tables = []
    for folder in _results_with_input("06_evaluate", "distilled", manifest["content"]):
        try:
            check_bytes(folder)
            rows = read_table(folder / "results.csv")
            check_columns(rows, folder / "results.csv")
            tables.append(rows)
        except ValueError as error:
            print(f"Warning: these results are left out: {printable(str(error))}")
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# ---- What is written -------------------------------------------------------------------------------------------------

def write_dataset(target: Path, publication: Publication, licence: str) -> None:
    """Write images, lists and card into a new folder."""
    images = publication.images
    names = class_folders(images.classes)
    copies = list[str]()
    for name, path in zip(images.table["class"], images.paths, strict=True):
        copy = target / "images" / names[name] / portable_filename(path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.exists():  # two subfolders have an image of this name
            copy = copy.with_name(portable_filename(f"{path.parent.name}-{len(copies)}-{path.name}"))
        copies.append(copy_image(path, copy).relative_to(target).as_posix())
    former = dict(zip(images.table["file_name"], copies, strict=True))
    for kind, path in publication.soft_labels.items():
        from dgs_utils.classifiers.soft_labels import SoftLabels  # here, because torch takes a while to import

        SoftLabels.read(path).renamed(former).save(target / soft_labels_file(kind))
    table = images.table.assign(file_name=copies)
    table = strip_paths(table[[name for name in COLUMNS if name in table]])
    write_csv(target / "metadata.csv", table)
    if publication.thresholds is not None:
        write_csv(target / "thresholds.csv", strip_paths(publication.thresholds))
    results = strip_paths(publication.results)
    if len(results):
        write_csv(target / "results.csv", results)
    manifests = strip_paths(publication.manifests)
    for stage, manifest in manifests.items():
        write_json(target / "manifests" / f"{stage}.json", manifest)
    _write_picture(target, table, publication.titles)
    card = dataset_card(images.classes, table, results, manifests, licence, publication.titles, publication.recognised,
                        list(publication.soft_labels))
    (target / "README.md").write_text(card, encoding="utf-8")
    last, kind = subject_of(manifests)
    what = f"A {kind} of {len(table)} images of {len(images.classes)} classes, with origin and difficulty of each image"
    write_croissant(target, table, last["label"], what, licence, last["finished"][:10])


def _write_picture(target: Path, table: pd.DataFrame, titles: dict[str, str]) -> None:
    """Write the card's picture, where no reader of image folders takes it for an image of the set."""
    import matplotlib.pyplot as plt

    from dgs_utils import plots

    with plt.rc_context():
        plots.use_style()
        figure = plots.set_gallery(table, target, titles)
        (target / PICTURE).parent.mkdir()
        figure.savefig(target / PICTURE, format="webp", dpi=150, bbox_inches="tight")
        plt.close(figure)


def strip_paths(value: Any) -> Any:
    """Return a table, text, list or dictionary in which of each absolute path only the last part is left.

    >>> strip_paths({"root": "/scratch/me/photos", "note": "read from /data/a/b.png"})
    {'root': 'photos', 'note': 'read from b.png'}
    """
    if isinstance(value, pd.DataFrame):
        return value.map(strip_paths)
    if isinstance(value, dict):
        return {strip_paths(name): strip_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [strip_paths(item) for item in value]
    return _strip_path(value) if isinstance(value, str) else value


def _strip_path(text: str) -> str:
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name  # it splits at either slash
    for folder in (outputs_root(), workspace(), Path.home()):  # whose names may have spaces
        text = text.replace(f"{folder}/", "") if len(folder.parts) > 1 else text
    return PATH.sub(r"\1", text)
