"""A distilled set or a scored pool as a folder to pass on, which Hugging Face, torchvision and this kit read alike.

``images/<class>/<file>`` sorts by label for whoever goes by folders, ``metadata.csv`` says the same to whoever goes by
lists, and beside them stands what the images are worth: thresholds, results, manifests, and a dataset card. Nothing in
it tells where the maker's files lie.
"""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from dgs_utils.artifacts.files import atomic, write_csv, write_json
from dgs_utils.artifacts.manifests import MANIFEST, check_input, history, input_folder, is_done, read_manifest, remedy
from dgs_utils.artifacts.places import locate, outputs_root, workspace
from dgs_utils.batch.card import dataset_card
from dgs_utils.batch.verify import differing
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.pixels import copy_image
from dgs_utils.images.tables import read_table
from dgs_utils.methods import METHODS
from dgs_utils.selection.score_tables import read_scores

HUB = "hf://datasets/"
COLUMNS = ["file_name", "class", "label", "score", "transformed", "generator", "seed", "index", "source"]
PATH = re.compile(r"(?<![\w:/.<~])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:<>|]+[/\\])+([^\s/\\'\",;:<>|]*)")


@dataclass(frozen=True)
class Found:
    """What is published.

    Attributes:
        images: the images, whose table has the columns `COLUMNS` as far as they are known.
        manifests: of the folder itself and of all that went into it, by stage name, the key behind it from the second
            of a stage on.
        thresholds: stage 04's table, or None.
        results: one row a training on this set; may be empty.
    """

    images: ImageSet
    manifests: dict[str, dict[str, Any]]
    thresholds: pd.DataFrame | None
    results: pd.DataFrame


def publish(folder: Path, destination: str, licence: str, yes: bool = False) -> str:
    """Write a finished set or pool as a dataset of its own; return one sentence on where it is.

    Args:
        folder: a finished folder of stage 05 or 08; or of 03 or 02, for a pool with its scores.
        destination: a folder that is new or empty, or ``hf://datasets/OWNER/NAME``.
        licence: under which the images may be passed on, such as "cc-by-nc-4.0".
        yes: upload; without it, nothing leaves this machine.

    Raises:
        ValueError: no licence, an unfinished or changed folder, a destination that is in use, or a failed upload.
    """
    if not licence.strip():
        raise ValueError("a licence is missing; say by --licence under which the images may be passed on, such as "
                         "cc-by-nc-4.0")
    found = gather(locate(folder))
    if not destination.startswith(HUB):
        target = Path(destination).expanduser().absolute()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"{target} is there already; give a folder that is new or empty")
        with atomic(target) as partial:
            write_dataset(partial, found, licence)
        return f"{len(found.images)} images in {target}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", destination.removeprefix(HUB)):
        raise ValueError(f"{destination} names no dataset; write {HUB}OWNER/NAME")
    with tempfile.TemporaryDirectory(prefix="dgs-publish-") as scratch:
        write_dataset(Path(scratch) / "set", found, licence)
        return _upload(Path(scratch) / "set", destination.removeprefix(HUB), yes)


# ---- What there is to publish ----------------------------------------------------------------------------------------

def gather(folder: Path) -> Found:
    """Collect what belongs to a set or a pool, after checking every byte of it.

    Raises:
        ValueError: a folder of another stage, a pool without scores, or a file that is not what its stage wrote.
    """
    manifest = check_input(folder, "publish", ["02_pool", "03_difficulty", "05_sample", "08_condense"])
    if manifest["stage"] == "02_pool":
        folder = _scores_of(folder, manifest)
        manifest = read_manifest(folder)
    scored = manifest["stage"] == "03_difficulty"
    pool = input_folder(manifest, "pool")
    if scored and (manifest["params"].get("source") != "pool" or pool is None):
        raise ValueError(f"{folder} holds scores of the originals, which are not ours to pass on; give the scores of "
                         f"a pool")
    for checked in (folder, pool, input_folder(manifest, "transform")):
        if checked is not None:
            _verify(checked)
    manifests: dict[str, dict[str, Any]] = {}
    for _, one in history(folder):
        first = manifests.setdefault(one["stage"], one)
        if first["key"] != one["key"]:
            manifests[f"{one['stage']}-{one['key']}"] = one
    transform = None if scored else input_folder(manifest, "transform")
    thresholds = read_table(transform / "thresholds.csv") if transform else None
    images = _pool(folder, pool) if scored and pool else ImageSet.read(folder)
    places = ImageSet.read(pool).table.set_index("file_name").get("index") if pool else None
    table = _with_origin(images.table, manifests, places)
    results = pd.DataFrame() if scored else _results(manifest)
    return Found(ImageSet(images.root, table), manifests, thresholds, results)


def _verify(folder: Path) -> None:
    """Raise ValueError where any byte of a finished folder is not as its manifest says."""
    if lost := differing(folder):
        raise ValueError(f"{folder / lost[0]} is missing or changed since its stage finished; "
                         f"{remedy(read_manifest(folder))}")


def _scores_of(pool: Path, manifest: dict[str, Any]) -> Path:
    """Return the 03 folder that scored a pool."""
    for path in sorted((outputs_root() / "03_difficulty").glob(f"*/{MANIFEST}")):
        if is_done(path.parent) and any(source["content"] == manifest["content"]
                                        for source in read_manifest(path.parent)["inputs"]):
            return path.parent
    raise ValueError(f"{pool} has no scores yet; run notebook 03 for it first")


def _pool(scores: Path, pool: Path) -> ImageSet:
    images, found = ImageSet.read(pool), read_scores(scores)
    table = images.table.drop(columns=["score"], errors="ignore").merge(
        found[["file_name", "score"]], on="file_name", validate="one_to_one")
    return ImageSet(images.root, table)


def _with_origin(table: pd.DataFrame, manifests: dict[str, dict[str, Any]], places: pd.Series | None) -> pd.DataFrame:
    """Add to each image what made it, with which seed, and its place there.

    Args:
        table: the images.
        manifests: of all that went into them.
        places: the pool's indices, by file name.
    """
    made = manifests.get("02_pool", manifests.get("08_condense"))
    params = made["params"] if made else {}
    method = manifests.get("05_sample", {}).get("params", {}).get("method", "pool_random")
    generated = made is not None and METHODS[method].source == "pool"
    generator = params.get("generator", params.get("method", "")) if generated else "originals"
    former = table["source"] if "source" in table else table["file_name"]
    index = table["index"] if "index" in table else former.map(places) if places is not None else None
    if index is None:  # of an image that was optimised, the name tells
        index = pd.to_numeric(former.str.extract(r"(\d+)\.\w+$")[0])
    return table.assign(generator=table.get("generator", generator), source=former, index=index.astype("Int64"),
                        seed=params.get("seed", "") if generated else "")


def _results(manifest: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of all finished evaluations of this very set."""
    tables = []
    for path in sorted((outputs_root() / "06_evaluate").glob(f"*/{MANIFEST}")):
        if is_done(path.parent) and any(source["name"] == "distilled" and source["content"] == manifest["content"]
                                        for source in read_manifest(path.parent)["inputs"]):
            _verify(path.parent)
            tables.append(read_table(path.parent / "results.csv"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# ---- What is written -------------------------------------------------------------------------------------------------

def write_dataset(target: Path, found: Found, licence: str) -> None:
    """Write images, lists and card into a new folder.

    Raises:
        ValueError: the package for parquet files is missing.
    """
    names = class_folders(found.images.classes)
    files = list[str]()
    for name, path in zip(found.images.table["class"], found.images.paths, strict=True):
        copy = target / "images" / names[name] / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.exists():  # of the same name in two subfolders
            copy = copy.with_name(f"{path.parent.name}-{len(files)}-{path.name}")
        files.append(copy_image(path, copy).relative_to(target).as_posix())
    table = found.images.table.assign(file_name=files)
    table = without_places(table[[name for name in COLUMNS if name in table]])
    write_csv(target / "metadata.csv", table)
    _write_parquet(table, target / "images.parquet")
    if found.thresholds is not None:
        write_csv(target / "thresholds.csv", without_places(found.thresholds))
    results = without_places(found.results)
    if len(results):
        write_csv(target / "results.csv", results)
    for stage, manifest in found.manifests.items():
        write_json(target / "manifests" / f"{stage}.json", without_places(manifest))
    card = dataset_card(found.images.classes, table, results, without_places(found.manifests), licence)
    (target / "README.md").write_text(card, encoding="utf-8")


def class_folders(classes: list[str]) -> dict[str, str]:
    """Return a folder name for each class, such that sorted folders are in label order, as torchvision takes them."""
    if classes == sorted(classes):
        return {name: name for name in classes}
    digits = len(str(len(classes) - 1))
    return {name: f"{label:0{digits}d}_{name}" for label, name in enumerate(classes)}


def without_places(value: Any) -> Any:
    """Return a table, text, list or dictionary in which of each absolute path only the end is left."""
    if isinstance(value, pd.DataFrame):
        return value.map(without_places)
    if isinstance(value, dict):
        return {without_places(name): without_places(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    return _without_place(value) if isinstance(value, str) else value


def _without_place(text: str) -> str:
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name  # it takes either kind of slash
    for place in (outputs_root(), workspace(), Path.home()):  # whose names may have spaces
        text = text.replace(f"{place}/", "") if len(place.parts) > 1 else text
    return PATH.sub(r"\1", text)


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    try:
        table.to_parquet(path, index=False)
    except ImportError:
        raise ValueError("publishing needs a writer of parquet files; install it with pip install "
                         "'dgs-utils[publish]'") from None


def _upload(folder: Path, name: str, yes: bool) -> str:
    """Upload a folder as a dataset of the hub, if this is wanted."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    if not yes:
        return f"{len(files)} files, {size:.1f} MB, would go to {HUB}{name}; to upload them, add --yes"
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=str(folder))
    except Exception as error:  # the hub's library and its network have their own kinds
        raise ValueError(f"{HUB}{name} could not be written ({' '.join(str(error).split())[:200]}); log in by "
                         f"\"hf auth login\", and check the name and the network") from None
    shutil.rmtree(folder)
    return f"{len(files)} files, {size:.1f} MB, are at {HUB}{name}"
