"""A result's inputs: whether they are whole and up to date, and all that a result was made from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dgs_utils.store.hashing import hash_file, walk_files
from dgs_utils.store.manifest import MANIFEST, find_manifest, prefix_hash, read_checksums, read_manifest
from dgs_utils.store.paths import outputs_root

REHASH_MAX_BYTES = 8 * 2**20  # a file of up to so many bytes is hashed whenever it is read as an input


def check_input(folder: Path, what: str, stages: Sequence[str]) -> dict[str, Any]:
    """Return an input folder's manifest after checking that it exists, is of the right stage, whole and up to date.

    Args:
        folder: the folder.
        what: the parameter that names it.
        stages: the stages that write what is wanted.

    Raises:
        ValueError: it is not; the sentence names the parameter, the folder and the remedy.
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
    if lost := quick_check(folder, manifest):
        raise ValueError(f"{what}: {folder / lost[0]} is missing or changed since its stage finished; "
                         f"{repair_hint(manifest)}")
    for source in manifest["inputs"]:
        upstream = find_manifest(outputs_root() / source["folder"])
        if source["content"] and upstream and prefix_hash(upstream, source.get("count", 0)) != source["content"]:
            raise ValueError(f"{what}: {folder} is stale, since its input {outputs_root() / source['folder']} was made "
                             f"anew with another content; run {manifest['stage']} again")
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
    """Yield a result and all that it was made from, nearest first: folders and their manifests.

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


# ---- A quick look ----------------------------------------------------------------------------------------------------

def quick_check(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the entries that a finished folder lost since its manifest was written, as sizes and small files show.

    Files that were added do no harm. Where the hashes of a subfolder's files are known, those that differ are named.
    """
    lost = [name for name, entry in manifest["files"].items() if _is_changed(folder / name, entry)]
    checksums = read_checksums(folder, manifest) if lost else {}
    named = [f"{name}/{file}" for name in lost for file, entry in checksums.get(name, {}).items()
             if _size(folder / name / file) != entry["bytes"]]
    return [name for name in lost if not any(file.startswith(f"{name}/") for file in named)] + named


def _is_changed(path: Path, entry: dict[str, Any]) -> bool:
    try:
        if "files" not in entry:
            small = entry["bytes"] <= REHASH_MAX_BYTES
            return _size(path) != entry["bytes"] or (small and hash_file(path)["sha256"] != entry["sha256"])
        sizes = [status.st_size for _, status in walk_files(path)]
    except OSError:  # missing, or unreadable
        return True
    return len(sizes) < entry["files"] or sum(sizes) < entry["bytes"]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
