"""Records that are edited together with their checksum, as whoever hides a change would, or as a stage would write."""

import json
from pathlib import Path
from typing import Any

from dgs_utils.store.manifest import CHECKSUMS, MANIFEST, RUN_INPUTS, content_hash, hash_entries, run_inputs_of
from dgs_utils.store.records import write_record


def load(path: Path) -> dict[str, Any]:
    """Return the fields of a record, unchecked."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}


def restamp(path: Path, **changes: Any) -> None:
    """Change fields of a record, with a checksum that fits."""
    write_record(path, load(path) | changes)


def certify(folder: Path) -> None:
    """Have a finished folder's manifest say what the folder holds now, as if its stage had written that."""
    files, checksums = hash_entries(folder)
    manifest = load(folder / MANIFEST)
    content = content_hash(manifest["stage"], manifest["key"], files)
    write_record(folder / CHECKSUMS, {"subfolders": checksums})
    write_record(folder / RUN_INPUTS, run_inputs_of(manifest))
    write_record(folder / MANIFEST, manifest | {"files": files, "content": content})
