"""A result's inputs: whether they are whole and up to date, and all that a result was made from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dgs_utils.store.integrity import RECORDS, damaged_files
from dgs_utils.store.manifest import MANIFEST, entry_counts, find_manifest, prefix_hash, read_manifest
from dgs_utils.store.paths import outputs_root
from dgs_utils.store.status import changed_inputs


def check_input(folder: Path, what: str, stages: Sequence[str]) -> dict[str, Any]:
    """Return an input folder's manifest after checking that it exists, is of the right stage, whole and up to date.

    Raises:
        ValueError: it is not; the sentence names the parameter (``what``), the folder and the remedy.
    """
    if not folder.is_dir():
        raise ValueError(f"{what}: the folder {folder} does not exist; run the stage that writes it first, "
                         f"or give the path of a finished one")
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if manifest["stage"] not in stages:
        raise ValueError(f"{what}: {folder} was written by {manifest['stage']}; "
                         f"give a folder that {' or '.join(stages)} wrote")
    if lost := [name for name in damaged_files(folder, entry_counts(manifest)) if name not in RECORDS]:
        raise ValueError(f"{what}: {folder / lost[0]} is missing or changed since its stage finished; "
                         f"{repair_hint(manifest)}")
    for changed in changed_inputs(manifest):
        raise ValueError(f"{what}: {folder} is stale, since its input {outputs_root() / changed} was made anew with "
                         f"another content; run {manifest['stage']} again")
    return manifest


def repair_hint(manifest: dict[str, Any]) -> str:
    """Return what makes a damaged result again, as the second half of a sentence."""
    return (f"dgs verify FILE --repair and then dgs run FILE, with its experiment file, make it again, and so does "
            f"notebook {manifest['stage']} with its parameters")


def input_unchanged(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether an input still holds what was read of it, whatever was added since beyond its ``count``."""
    if before.get("count", 0) == now.get("count", 0):
        return before["content"] == now["content"]
    manifest = find_manifest(outputs_root() / now["folder"])
    return manifest is not None and prefix_hash(manifest, before.get("count", 0)) == before["content"]


def lineage(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a result and all that it was made from, each before its own inputs: folders and their manifests.

    Left out are folders that no stage wrote, that are gone, and that no longer hold what was read of them.

    Raises:
        ValueError: one of the manifests is damaged.
    """
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    yield folder, manifest
    for source in manifest["inputs"]:
        upstream = outputs_root() / source["folder"]
        if (upstream / MANIFEST).exists() and source["content"] == prefix_hash(
                read_manifest(upstream), source.get("count", 0)):
            yield from lineage(upstream)


def input_folder(manifest: dict[str, Any], name: str) -> Path | None:
    """Return the folder of the input called ``name`` that a manifest records, or None."""
    return next((outputs_root() / source["folder"] for source in manifest["inputs"] if source["name"] == name), None)
