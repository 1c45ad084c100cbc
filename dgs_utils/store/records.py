"""Records: JSON files that end with a checksum of their own text, so that no edit of one passes unnoticed."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from dgs_utils.store.atomic import atomic

MAX_RECORD_BYTES = 64 * 2**20  # the manifest of figures of 100,000 evaluations takes half as much
END = re.compile(rb',\n "checksum": "([0-9a-f]{64})"\n}\n')
END_BYTES = 84


def write_record(path: Path, fields: dict[str, Any], durable: bool = False) -> None:
    """Write fields as a record, atomically (``durable``: see `atomic`); there is at least one."""
    body = json.dumps(fields, indent=1).removesuffix("\n}").encode()
    with atomic(path, durable) as partial:
        partial.write_bytes(body + b',\n "checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n')


def read_record(path: Path) -> bytes:
    """Return the JSON text of a record, without its checksum.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large, or not as it was written; the message is a phrase that names the fault.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_RECORD_BYTES:
            raise ValueError(f"it has more than {MAX_RECORD_BYTES // 2**20} MiB")
        text = file.read()
    body, end = text[:-END_BYTES], END.fullmatch(text[-END_BYTES:])
    if end is None:
        raise ValueError("it does not end with its checksum")
    if hashlib.sha256(body).hexdigest() != end[1].decode():
        raise ValueError("it was changed, since its text differs from its checksum")
    return body + b"\n}"
