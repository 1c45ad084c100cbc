"""Manifests: what a finished stage folder says of itself, and whether that still holds.

A manifest is a record (`store.records`), so that no edit of one passes. What it says of itself is recomputed when it is
read: the cache key from its fingerprint and its inputs' keys, the content hash from the hashes of its files.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on

from dgs_utils.params import STAGES
from dgs_utils.params.base import Count, hash_key, sorted_json
from dgs_utils.store.hashing import combine_hashes, hash_file, hash_files
from dgs_utils.store.records import read_record, write_record

MANIFEST = "manifest.json"
RUN_INPUTS = "inputs.json"  # what a folder's work is made from; see `session`
PARTIAL_CHECKSUMS = "checkpoints/sums"  # of images, until the stage has finished
CHECKSUMS = "checksums.json"  # of each file in the subfolders, so that a damaged one can be named
REQUEST = "asked.json"  # the command that asked for a result
SHARDS = "shares"  # executed notebooks of several processes that fill one folder
HTML_REPORT = "report.html"  # a finished stage 05 or 07 to read in a browser
STEP_TIMES = "DGS_STEP_TIMES"  # environment variable: sessions write the seconds of the steps of each loop
STEP_TIMES_FILE = "steps.json"
FINDINGS = "findings.md"  # of stage 07: a headline, and what its rows show
VOLATILE = {MANIFEST, RUN_INPUTS, CHECKSUMS, SHARDS, HTML_REPORT, REQUEST, "failure.json", "progress.json",
            "notebook.ipynb", "log.txt", "timing.csv", "checkpoints", "trackers", STEP_TIMES_FILE}

Text = Annotated[str, Field(max_length=10_000)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]


# ---- Schema ----------------------------------------------------------------------------------------------------------

STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(STRICT)
class InputEntry(TypedDict):
    """An input: its parameter, its folder below outputs, its key, and the hash of what was read of it."""

    name: Text
    folder: Text
    key: Text
    content: Text  # "" for a folder that no stage wrote, whose key is its content
    count: NotRequired[Count]  # images a class that were read of one that can grow


@with_config(STRICT)
class FileEntry(TypedDict):
    """A file, or a subfolder with its number of files."""

    sha256: Hash
    bytes: Count
    files: NotRequired[Count]


@with_config(STRICT)
class GivenEntry(TypedDict):
    """What a parameter names of the user's own files and folders, and what they held."""

    path: Text | list[Text]
    content: Text | list[Text]


@with_config(STRICT)
class RunInputs(TypedDict):
    """What a folder's work is made from, as its ``inputs.json`` says before any work."""

    stage: Text
    key: Text
    identity: dict[str, Any]  # the parameters that decide the result (`Node.fingerprint`)
    inputs: list[InputEntry]
    given: dict[str, GivenEntry]
    code: dict[str, Text]
    later_code: list[dict[str, Text]]  # other versions of the code that went on with the work


@with_config(STRICT)
class Manifest(RunInputs):
    """What a finished folder holds, and how it was made."""

    label: Text
    params: dict[str, Any]
    files: dict[str, FileEntry]
    content: Hash
    count: Count  # images a class, or trainings, of a result that can grow
    chain: list[Text]  # hashes of its beginnings (`prefix_hashes`)
    warnings: list[str]
    decisive: list[str]
    git: Text
    versions: dict[str, Text]
    device: Text
    seconds: Seconds
    peak_memory_mib: dict[str, Count]
    finished: Text


@with_config(STRICT)
class Checksums(TypedDict):
    """The files in a result's subfolders, by subfolder and relative name."""

    subfolders: dict[str, dict[str, FileEntry]]


SCHEMAS: dict[str, TypeAdapter] = {
    MANIFEST: TypeAdapter(Manifest), RUN_INPUTS: TypeAdapter(RunInputs), CHECKSUMS: TypeAdapter(Checksums)}


# ---- Reading and writing ---------------------------------------------------------------------------------------------

def read_checked(path: Path) -> Any:
    """Return the content of a manifest, or of another record of a stage folder, after checking it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read or is not what the kit wrote; the message is a phrase that names the fault.
    """
    try:
        content = SCHEMAS[path.name].validate_json(read_record(path))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:80] or 'it'}: {first['msg'][:80]}") from None
    if fault := _inconsistency(content) if "identity" in content else "":
        raise ValueError(fault)
    return content


def _inconsistency(content: dict[str, Any]) -> str:
    """Return what contradicts itself in a manifest, or in what a folder's work is made from, as a phrase; or ""."""
    if content["stage"] not in STAGES:
        return f"{content['stage'][:80]!r} is no stage"
    fields = STAGES[content["stage"]].model_fields
    keys: dict[str, list[str]] = {}
    for source in content["inputs"]:
        keys.setdefault(source["name"], []).append(source["key"])
    if unknown := keys.keys() - fields.keys():
        return f"{min(unknown)[:80]!r} is no input of its stage"
    single = {name: own[0] if len(own) == 1 and not isinstance(fields[name].default, list) else sorted(own)
              for name, own in keys.items()}
    if hash_key(content["stage"], content["identity"], single) != content["key"]:
        return "its key is not that of its parameters and inputs"
    if "files" not in content:
        return ""
    if wrong := [name for name in content["files"] if "/" in name or name in (".", "..")]:
        return f"{wrong[0][:80]!r} is no name of a file in it"
    own_hash = content_hash(content["stage"], content["key"], content["files"])
    return "" if own_hash == content["content"] else "its content is not that of its files"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a finished stage's manifest.

    Raises:
        ValueError: there is none, it cannot be read, or it is not what its stage wrote; the sentence names the fault.
    """
    try:
        return read_checked(folder / MANIFEST)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {MANIFEST}, so its stage was never finished; run that stage first") from None
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({error}); run its stage again, which writes a new "
                         f"one") from None


def entry_counts(manifest: dict[str, Any]) -> dict[str, int]:
    """Return the entries of a finished folder, each with the number of its files."""
    return {name: entry.get("files", 1) for name, entry in manifest["files"].items()}


def find_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a finished stage's manifest, or None where there is no readable one."""
    try:
        return read_manifest(folder)
    except ValueError:
        return None


def is_done(folder: Path) -> bool:
    """Return whether a folder holds a finished stage with a readable manifest."""
    return find_manifest(folder) is not None


def read_run_inputs(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's work is made from, or None where that is unknown."""
    return _read_or_none(folder / RUN_INPUTS)


def _read_or_none(path: Path) -> Any:
    try:
        return read_checked(path)
    except (OSError, ValueError):
        return None


def run_inputs_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in the ``inputs.json`` beside a manifest."""
    return {name: manifest[name] for name in RunInputs.__annotations__}


def read_checksums(folder: Path, manifest: dict[str, Any] | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the checksums of the single files in a result's subfolders, by subfolder and relative name.

    Left out are subfolders whose checksum in the manifest, if that is given, is another than theirs together.
    """
    checksums = _read_or_none(folder / CHECKSUMS) or {"subfolders": {}}
    return {name: files for name, files in checksums["subfolders"].items()
            if manifest is None or combine_hashes(files) == manifest["files"].get(name)}


def damaged_records(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return those of the records beside a manifest that are not what the kit wrote."""
    damaged = [] if read_run_inputs(folder) == run_inputs_of(manifest) else [RUN_INPUTS]
    checksums = _read_or_none(folder / CHECKSUMS) or {"subfolders": None}
    subfolders = {name: entry for name, entry in manifest["files"].items() if "files" in entry}
    if checksums["subfolders"] is None or subfolders != {
            name: combine_hashes(files) for name, files in checksums["subfolders"].items()}:
        damaged.append(CHECKSUMS)
    return damaged


def restore_records(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the records beside a manifest anew, from it and from its files, which are as it says."""
    if CHECKSUMS in damaged_records(folder, manifest):
        write_record(folder / CHECKSUMS, {"subfolders": hash_entries(folder)[1]})
    write_record(folder / RUN_INPUTS, run_inputs_of(manifest))
    write_record(folder / MANIFEST, manifest, durable=True)  # the last, as when the stage finished


# ---- Content ---------------------------------------------------------------------------------------------------------

def content_hash(stage: str, key: str, files: dict[str, dict[str, Any]]) -> str:
    """Return the hash of what a result holds: its stage, its key, and its entries' names, hashes and sizes."""
    return hashlib.sha256(sorted_json([stage, key, files]).encode()).hexdigest()


def hash_entries(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
    """Return the entries of a stage folder with their hashes, `VOLATILE` and hidden ones left out.

    A subfolder is one entry. Hashes of the files in it are the second result, by subfolder and relative name.
    """
    files, checksums = {}, {}
    for path in sorted(folder.iterdir()):
        if path.name in VOLATILE or path.name.startswith("."):
            continue
        if path.is_file():
            files[path.name] = hash_file(path)
        else:
            checksums[path.name] = hash_files(path)
            files[path.name] = combine_hashes(checksums[path.name])
    return files, checksums


def prefix_hashes(levels: Iterable[str]) -> list[str]:
    """Return a hash for each beginning of a result that grows: the n-th is of the first n levels."""
    hashes, before = [], ""
    for level in levels:
        before = hashlib.sha256(f"{before}\n{level}".encode()).hexdigest()[:16]
        hashes.append(before)
    return hashes


def prefix_hash(manifest: dict[str, Any], count: int = 0) -> str:
    """Return the hash of a result's content, or of its first ``count`` images a class; "" where it has fewer."""
    if not count:
        return manifest["content"]
    return manifest["chain"][count - 1] if 0 < count <= len(manifest["chain"]) else ""


def has_at_least(manifest: dict[str, Any], count: int) -> bool:
    """Return whether a result that can grow has as many images a class, or trainings, as are asked for."""
    return not count or manifest["count"] == 0 or manifest["count"] >= count


def parameter(folder: Path, name: str) -> Any:
    """Return a parameter that a finished stage was run with.

    Raises:
        ValueError: its manifest has none of this name, as one that was written before the parameter existed.
    """
    params = read_manifest(folder)["params"]
    if name not in params:
        raise ValueError(f"{folder / MANIFEST} has no parameter {name}; run its stage again, which writes it")
    return params[name]
