"""Manifests: what a finished stage folder says of itself, and whether it still holds."""

import copy
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from dgs_utils.artifacts.places import outputs_root

MANIFEST = "manifest.json"
BEGUN = "inputs.json"  # what a folder was begun with; see `opening`
SUMS = "checksums.json"  # of each file in the subfolders, so that what is damaged can be named
SHARES = "shares"  # executed notebooks of several processes that fill one folder
PAGE = "report.html"  # a finished stage 07 to read in a browser
VOLATILE = {MANIFEST, BEGUN, SUMS, SHARES, PAGE, "asked.json", "failure.json", "progress.json", "notebook.ipynb",
            "log.txt", "timing.csv", "checkpoints", "trackers"}
SMALL = 8 * 2**20  # bytes of a file that is hashed whenever it is read as an input
LARGEST = 64 * 2**20  # bytes of a manifest; that of figures of 100,000 evaluations takes half as much

# What every reader relies on; `inputs` and `files` hold more of it. Older kits wrote less, strangers write anything.
SCHEMA = {"stage": str, "key": str, "label": str, "content": str, "inputs": list, "files": dict, "params": dict,
          "identity": dict, "warnings": list, "code": dict, "later_code": list, "versions": dict, "count": int,
          "chain": list, "seconds": float | int}
INPUT = {"name": str, "folder": str, "key": str, "content": str}
FILE = {"sha256": str, "bytes": int}
AT_TIMES = {"count": int, "files": int}  # what an input or a file may have besides
LATER = {"warnings": [], "code": {}, "later_code": [], "versions": {}, "seconds": 0.0, "count": 0,
         "chain": []}  # what manifests of older kits may lack, with what then holds


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a finished stage's manifest; what one of an older kit lacks and nothing needs is filled in.

    Raises:
        ValueError: there is none, it cannot be read, or it lacks what `SCHEMA` says; the sentence names the fault.
    """
    path = folder / MANIFEST
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                _broken(path, f"it has more than {LARGEST // 2**20} MiB")
            manifest = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} has no {MANIFEST}, so its stage was never finished; run that stage first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        _broken(path, "it is no JSON")
    except OSError as error:
        _broken(path, f"it cannot be read: {error.strerror}")
    if isinstance(manifest, dict):
        manifest = {name: copy.copy(value) for name, value in LATER.items() if name not in manifest} | manifest
    if fault := _fault(manifest):
        _broken(path, fault)
    return manifest


def _fault(manifest: Any) -> str:
    """Return what a manifest lacks of `SCHEMA`, as a phrase; "" where it lacks nothing."""
    fault = _mismatch(manifest, SCHEMA)
    if fault:
        return fault
    if not math.isfinite(manifest["seconds"]):
        return "seconds is not finite"
    for source in manifest["inputs"]:
        if fault := _mismatch(source, INPUT, AT_TIMES):
            return f"of an input, {fault}"
    for name, entry in manifest["files"].items():
        if "/" in name or name in (".", ".."):
            return f"{name!r} is no name of a file in it"
        if fault := _mismatch(entry, FILE, AT_TIMES):
            return f"of {name!r}, {fault}"
    return ""


def _mismatch(value: Any, schema: Mapping[str, Any], at_times: Mapping[str, Any] = MappingProxyType({})) -> str:
    if not isinstance(value, dict):
        return "it is no JSON object"
    for name, kind in schema.items():
        if name not in value:
            return f"{name} is missing, as from an older kit"
        if not isinstance(value[name], kind):
            return f"{name} is {json.dumps(value[name])[:40]}"
    for name, kind in at_times.items():
        if name in value and not isinstance(value[name], kind):
            return f"{name} is {json.dumps(value[name])[:40]}"
    return ""


def _broken(path: Path, fault: str) -> NoReturn:
    raise ValueError(f"{path} is damaged ({fault}); run its stage again, which writes a new one") from None


def read_begun(folder: Path) -> dict[str, Any] | None:
    """Return what a folder was begun with, or None where that is not known."""
    try:
        begun = json.loads((folder / BEGUN).read_text())
        return begun if {"stage", "key", "inputs"} <= begun.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def parameter(folder: Path, name: str) -> Any:
    """Return a parameter that a finished stage was run with.

    Raises:
        ValueError: its manifest has none of this name, as one of a kit that did not know it yet.
    """
    manifest = read_manifest(folder)
    if name not in manifest["params"]:
        raise ValueError(f"{folder / MANIFEST} does not tell {name}, as from an older kit; run its stage again")
    return manifest["params"][name]


def covers(manifest: dict[str, Any], count: int) -> bool:
    """Return whether a result that can grow has as many images a class, or trainings, as are asked for."""
    return not count or manifest["count"] == 0 or manifest["count"] >= count


def content_of(manifest: dict[str, Any], count: int = 0) -> str:
    """Return the hash of a result's content, or of its first ``count`` images a class; "" where it has fewer."""
    if not count:
        return manifest["content"]
    return manifest["chain"][count - 1] if 0 < count <= len(manifest["chain"]) else ""


def same_source(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether an input still holds what was read of it.

    Where it was read up to a number of images a class (``count``), what has been added since does not matter.
    """
    if before.get("count", 0) == now.get("count", 0):
        return before["content"] == now["content"]
    manifest = _readable(outputs_root() / now["folder"])
    return manifest is not None and content_of(manifest, before.get("count", 0)) == before["content"]


def _readable(folder: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(folder)
    except ValueError:
        return None


def is_done(folder: Path) -> bool:
    """Return whether a folder holds a finished stage with a readable manifest."""
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return True


def checksums(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
    """Return SHA-256 and size of each entry of a stage folder, `VOLATILE` and hidden ones left out.

    A subfolder is one entry: the hash of its files' relative names and hashes, in order. Those of the files themselves
    come as the second result, by subfolder and name from the stage folder on.
    """
    files, sums = {}, {}
    for entry in sorted(folder.iterdir()):
        if entry.name in VOLATILE or entry.name.startswith("."):
            continue
        if entry.is_file():
            files[entry.name] = digest(entry)
        else:
            inside = {f.relative_to(folder).as_posix(): digest(f) for f in files_in(entry)}
            files[entry.name], sums[entry.name] = together(inside, entry.name), inside
    return files, sums


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and below, hidden ones left out, in order."""
    return sorted(Path(entry.path) for entry in _entries_in(folder))


def _entries_in(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of `files_in` in no order; every notebook looks so at the tens of thousands of its inputs."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries_in(entry.path)
            elif not entry.name.startswith(".") and entry.is_file():
                yield entry


def digest(file: Path) -> dict[str, Any]:
    """Return SHA-256 and size of a file."""
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}


def entry_of(path: Path) -> dict[str, Any]:
    """Return SHA-256 and size of a file, or of a folder with all files in it."""
    if path.is_file():
        return digest(path)
    return together({file.relative_to(path).as_posix(): digest(file) for file in files_in(path)}, "")


def together(inside: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the entry of a subfolder of this name, whose files have these checksums by path from the stage folder."""
    total = hashlib.sha256()
    for file, entry in inside.items():
        total.update(f"{file.removeprefix(name + '/')} {entry['sha256']}\n".encode())
    size = sum(entry["bytes"] for entry in inside.values())
    return {"sha256": total.hexdigest(), "bytes": size, "files": len(inside)}


def chain(levels: Iterable[str]) -> list[str]:
    """Return a hash for each beginning of a result that grows: the n-th tells of the first n levels."""
    found, before = [], ""
    for level in levels:
        before = hashlib.sha256(f"{before}\n{level}".encode()).hexdigest()[:16]
        found.append(before)
    return found


def damaged(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return what a finished folder lost since its manifest was written, as far as a quick look tells.

    Small files have the same bytes, others the same size; a subfolder has no fewer files and bytes (others may stand
    beside them). Where the sizes of a subfolder's files are known, the files are named.
    """
    lost = [name for name, entry in manifest["files"].items() if _changed(folder / name, entry)]
    sums = read_sums(folder) if lost else {}
    named = [file for name in lost for file in sums.get(name, {}) if _size(folder / file) != sums[name][file]["bytes"]]
    return [name for name in lost if not any(file.startswith(f"{name}/") for file in named)] + named


def _changed(path: Path, entry: dict[str, Any]) -> bool:
    if path.is_file():
        small = entry["bytes"] <= SMALL and "files" not in entry
        return _size(path) != entry["bytes"] or (small and digest(path)["sha256"] != entry["sha256"])
    sizes = [file.stat().st_size for file in _entries_in(path)]
    return len(sizes) < entry.get("files", 1) or sum(sizes) < entry["bytes"]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def read_sums(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the checksums of single files in a folder's subfolders, by subfolder and name; {} where not known."""
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        return sums if all(_is_below(name, file, entry) for name, inside in sums.items()
                           for file, entry in inside.items()) else {}
    except (OSError, ValueError, AttributeError, RecursionError):  # damaged
        return {}


def _is_below(name: str, file: str, entry: Any) -> bool:
    """Return whether a file of a subfolder is called as one, and has a checksum."""
    return file.startswith(f"{name}/") and ".." not in file.split("/") and not _mismatch(entry, FILE)


def check_input(folder: Path, what: str, stages: Sequence[str]) -> dict[str, Any]:
    """Return an input folder's manifest after checking that it is there, of the right stage, whole and up to date.

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
    if lost := damaged(folder, manifest):
        raise ValueError(f"{what}: {folder / lost[0]} is missing or changed since its stage finished; "
                         f"{remedy(manifest)}")
    for source in manifest["inputs"]:
        upstream = _readable(outputs_root() / source["folder"])
        if source["content"] and upstream and content_of(upstream, source.get("count", 0)) != source["content"]:
            raise ValueError(f"{what}: {folder} is stale, since its input {outputs_root() / source['folder']} was made "
                             f"anew with another content; run {manifest['stage']} again")
    return manifest


def remedy(manifest: dict[str, Any]) -> str:
    """Return what makes a damaged result again, as the second half of a sentence."""
    return (f"dgs verify FILE --repair and then dgs run FILE, with its experiment file, make it again, and so does "
            f"notebook {manifest['stage']} with its parameters")


def history(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a result and all that went into it, nearest first: folders and their manifests.

    Left out are folders that no stage wrote, and what no longer holds what was read of it.
    """
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    yield folder, manifest
    for source in manifest["inputs"]:
        upstream = outputs_root() / source["folder"]
        now = _readable(upstream)
        if now and content_of(now, source.get("count", 0)) == source["content"]:
            yield from history(upstream)


def input_folder(manifest: dict[str, Any], name: str) -> Path | None:
    """Return the folder of the input called ``name`` that a manifest records, or None."""
    found = [outputs_root() / source["folder"] for source in manifest["inputs"] if source["name"] == name]
    return found[0] if found else None


def content_hash(stage: str, key: str, files: dict[str, dict[str, Any]]) -> str:
    """Return the hash of what a result holds: its stage, its key, and name and SHA-256 of each entry, in order."""
    payload = json.dumps([stage, key, {name: entry["sha256"] for name, entry in files.items()}])
    return hashlib.sha256(payload.encode()).hexdigest()
