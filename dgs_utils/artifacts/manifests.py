"""Manifests: what a finished stage folder says of itself, and whether it still holds."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dgs_utils.artifacts.places import outputs_root

MANIFEST = "manifest.json"


SHARES = "shares"  # executed notebooks of several processes that fill one folder


PAGE = "report.html"  # a finished stage 07 to read in a browser
VOLATILE = {MANIFEST, SHARES, PAGE, "progress.json", "notebook.ipynb", "log.txt", "timing.csv", "checkpoints",
            "trackers"}


LARGEST = 64 * 2**20  # bytes; that of figures of 100,000 evaluations takes half as much

# What every reader relies on; `inputs` and `files` hold more of it. Older kits wrote less, strangers write anything.
SCHEMA = {"stage": str, "key": str, "label": str, "content": str, "inputs": list, "files": dict, "params": dict,
          "identity": dict, "seconds": float | int}
INPUT = {"name": str, "folder": str, "key": str, "content": str}
FILE = {"sha256": str, "bytes": int}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a finished stage's manifest.

    Raises:
        ValueError: there is none, it cannot be read, or it lacks what `SCHEMA` says; the sentence names the fault.
    """
    path = Path(folder) / MANIFEST
    try:
        if path.stat().st_size > LARGEST:
            _broken(path, f"it has more than {LARGEST // 2**20} MiB")
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} has no {MANIFEST}, so its stage was never finished; run that stage first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        _broken(path, "it is no JSON")
    except OSError as error:
        _broken(path, f"it cannot be read: {error.strerror}")
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
        if fault := _mismatch(source, INPUT):
            return f"of an input, {fault}"
    for name, entry in manifest["files"].items():
        if fault := _mismatch(entry, FILE):
            return f"of {name!r}, {fault}"
    return ""


def _mismatch(value: Any, schema: dict[str, Any]) -> str:
    if not isinstance(value, dict):
        return "it is no JSON object"
    for name, kind in schema.items():
        if name not in value:
            return f"{name} is missing, as from an older kit"
        if not isinstance(value[name], kind):
            return f"{name} is {json.dumps(value[name])[:40]}"
    return ""


def _broken(path: Path, fault: str) -> NoReturn:
    raise ValueError(f"{path} is damaged ({fault}); delete that file and run the stage again") from None


def is_done(folder: Path) -> bool:
    """Return whether a folder holds a finished stage with a readable manifest."""
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return True


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return SHA-256 and size of each entry of a stage folder, `VOLATILE` and hidden ones left out.

    A subfolder is one entry: the hash of its files' relative names and hashes, in order.
    """
    return {
        entry.name: _digest(entry)
        for entry in sorted(folder.iterdir())
        if entry.name not in VOLATILE and not entry.name.startswith(".")
    }


def _digest(entry: Path) -> dict[str, Any]:
    if entry.is_file():
        with entry.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": entry.stat().st_size}
    files = sorted(f for f in entry.rglob("*") if f.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(entry).as_posix()} {_digest(file)['sha256']}\n".encode())
    return {"sha256": total.hexdigest(), "bytes": sum(f.stat().st_size for f in files), "files": len(files)}


def _changed(path: Path, entry: dict[str, Any]) -> bool:
    """Return whether an entry lost something since its manifest was written, as far as a quick look tells.

    A file has the same size; a folder has no fewer files and bytes (others may stand beside them).
    """
    if path.is_file():
        return path.stat().st_size != entry["bytes"]
    sizes = [f.stat().st_size for f in path.rglob("*") if f.is_file()]
    return len(sizes) < entry.get("files", 1) or sum(sizes) < entry["bytes"]


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
    for name, entry in manifest["files"].items():
        path = folder / name
        if _changed(path, entry):
            raise ValueError(f"{what}: {path} is missing or changed since its stage finished; "
                             f"delete {folder / MANIFEST} and run {manifest['stage']} again")
    for source in manifest["inputs"]:
        upstream = outputs_root() / source["folder"]
        if source["content"] and is_done(upstream) and read_manifest(upstream)["content"] != source["content"]:
            raise ValueError(f"{what}: {folder} is stale, since its input {upstream} was made anew with another "
                             f"content; delete {folder / MANIFEST} and run {manifest['stage']} again")
    return manifest


def input_folder(manifest: dict[str, Any], name: str) -> Path | None:
    """Return the folder of the input called ``name`` that a manifest records, or None."""
    found = [outputs_root() / source["folder"] for source in manifest["inputs"] if source["name"] == name]
    return found[0] if found else None


def content_hash(stage: str, key: str, files: dict) -> str:
    payload = json.dumps([stage, key, {name: entry["sha256"] for name, entry in files.items()}])
    return hashlib.sha256(payload.encode()).hexdigest()
