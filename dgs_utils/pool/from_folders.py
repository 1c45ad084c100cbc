"""Pools of images that exist already: a folder, or several folders and archives as one pool."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dgs_utils.images.hub_datasets import ADDRESS, download, needs_writing, pinned, write_files
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import copy_image
from dgs_utils.store.atomic import atomic
from dgs_utils.store.paths import HUB_DATASETS, resolve_path
from dgs_utils.store.session import Run


def list_folder(run: Run, classes: pd.DataFrame) -> pd.DataFrame:
    """List the images of a folder, or copy those of several folders or archives into one pool (`merge_folders`).

    The images of a single folder stay in place: ``file_name`` and ``source`` are relative to it (`images_root`), and
    ``index`` counts in natural file order.
    """
    roots = run.params.root
    if isinstance(roots, list) or _is_packed(roots):
        return merge_folders(run, [roots] if isinstance(roots, str) else roots, classes)
    root = resolve_path(roots)
    images = _read_images(run, root, classes)
    table = images.table[["file_name", "class"]].copy()
    table["label"] = table["class"].map(dict(zip(classes["class"], classes["label"], strict=True)))
    table["index"] = table.groupby("class").cumcount()
    return table.assign(generator=root.name, source=images.table["file_name"])


def images_root(run: Run) -> Path:
    """Return the folder that file names of the pool's table are relative to: the single folder of the user, or the
    stage's own.
    """
    root = run.params.root
    in_place = run.params.generator == "folder" and isinstance(root, str) and not _is_packed(root)
    return resolve_path(root) if in_place else run.folder


def _is_packed(root: str) -> bool:
    """Return whether images are in an archive, in tables or on the hub, and so have to be written as files first."""
    return root.startswith(HUB_DATASETS) or needs_writing(resolve_path(root))


def merge_folders(run: Run, roots: list[str], classes: pd.DataFrame) -> pd.DataFrame:
    """Copy several folders or archives of images into one pool, ``images/<class>/<index>-<generator>.<suffix>``.

    A generator has the name of its folder or archive. Generators take turns in each class, so that the first
    ipc × pool_factor images of a class have equal numbers of each.

    Returns:
        file_name, class, label, index, generator, and source: the file's name below its root.

    Raises:
        ValueError: no roots, two of the same name, or one without images of a class.
    """
    names = list(map(_generator_of, roots))
    if not roots or len(set(names)) < len(names):
        raise ValueError(f"pool.root is {run.params.root}; give folders or archives, each of a name of its own")
    parts = []
    for root, name in zip(roots, names, strict=True):
        folder = resolve_path(root)
        if _is_packed(root):
            folder = run.folder / "unpacked" / name
            with atomic(folder) as partial:  # replaces what a killed run left
                partial.mkdir(parents=True)
                path, column = resolve_path(root), ""
                if root.startswith(HUB_DATASETS):
                    path, column = download(root, run.folder)
                    run.params = run.params.model_copy(update={"root": pinned(run.params.root, run.folder)})
                write_files(path, partial, list(classes["class"]), column, run.progress, run.warn)
        images = _read_images(run, folder, classes)
        parts.append(images.table[["class"]].assign(generator=name, source=images.table["file_name"],
                                                    path=images.paths))
    table = pd.concat(parts, ignore_index=True)
    table["label"] = table["class"].map(dict(zip(classes["class"], classes["label"], strict=True)))
    table["turn"] = table.groupby(["label", "generator"]).cumcount()
    table = table.sort_values(["label", "turn"], kind="stable", ignore_index=True)  # stable: generators in given order
    table["index"] = table.groupby("label").cumcount()
    names = [f"{name}/{index}-{generator}{path.suffix}" for name, index, generator, path
             in zip(table["class"], table["index"], table["generator"], table["path"], strict=True)]
    table["file_name"] = copy_images(run, table["path"], names)
    shutil.rmtree(run.folder / "unpacked", ignore_errors=True)
    return table[["file_name", "class", "label", "index", "generator", "source"]]


def _generator_of(root: str) -> str:
    """Return the name of a folder, archive or data set of the hub, without suffixes and revision."""
    if root.startswith(HUB_DATASETS):
        parts = ADDRESS.fullmatch(root)  # `download` refuses others
        return (parts["folder"] or parts["name"]).rstrip("/").rpartition("/")[2] if parts else root
    path = resolve_path(root)
    return path.name.partition(".")[0] if path.is_file() else path.name


def _read_images(run: Run, root: Path, classes: pd.DataFrame) -> ImageSet:
    """Read the images of the originals' classes; warn of other classes and of what the headers show."""
    every = ImageSet.read(root, warn=run.warn)
    unknown = sorted(set(every.classes) - set(classes["class"]))
    if len(unknown) < len(every.classes) and unknown:
        run.warn(f"{root} has images of {', '.join(unknown[:5])}, which are no classes of {run.inputs['prepare']}; "
                 f"they are skipped")
    images = every.with_classes(list(classes["class"]))
    for warning in images.check_headers(progress=run.progress):
        run.warn(warning)
    return images


def copy_images(run: Run, sources: Iterable[Path], names: list[str]) -> list[str]:
    """Copy images into the pool under names relative to ``images``; return their paths relative to the pool."""
    copies = []
    for source, name in run.progress(zip(sources, names, strict=True), label="images", total=len(names)):
        target = run.folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copies.append(copy_image(source, target).relative_to(run.folder).as_posix())
    return copies
