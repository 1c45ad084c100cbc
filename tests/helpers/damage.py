"""What happens to files on disks: cut, emptied, a bit flipped, exchanged with another, gone, something else there."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = ("cut", "empty", "flip", "swap", "delete")
REPLACED = ("folder", "link")  # what may be in a file's place


def damage(path: Path, kind: str, others: list[Path], chance: random.Random) -> bool:
    """Damage a file.

    Args:
        path: the file.
        kind: one of `KINDS` or `REPLACED`.
        others: files to exchange it with.
        chance: draws place and partner.

    Returns:
        Whether its bytes are others now.
    """
    before = path.read_bytes()
    if kind == "cut":
        path.write_bytes(before[: chance.randrange(len(before) or 1)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "flip" and before:
        place = chance.randrange(len(before))
        path.write_bytes(before[:place] + bytes([before[place] ^ 1 << chance.randrange(8)]) + before[place + 1 :])
    elif kind == "swap" and (others := [other for other in others if other != path]):
        other = chance.choice(others)
        path.write_bytes(other.read_bytes())
        other.write_bytes(before)
    elif kind == "delete":
        path.unlink()
    elif kind in REPLACED:
        path.unlink()
        path.mkdir() if kind == "folder" else path.symlink_to(chance.choice([*others, path.with_name("nothing")]))
    return not path.is_file() or path.read_bytes() != before


def fields(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every field of a JSON value, by keys and indices."""
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inside, dict | list):
            yield from fields(inside, (*path, key))


def edit(file: Path, path: tuple) -> None:
    """Change one field of a JSON file to another value of its kind; a list or a dictionary loses what it holds."""
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    value = place[path[-1]]
    if isinstance(value, bool):
        place[path[-1]] = not value
    elif isinstance(value, int | float):
        place[path[-1]] = value + 1
    elif isinstance(value, str):
        place[path[-1]] = value[:-1] + ("x" if value[-1:] != "x" else "y")
    else:
        place[path[-1]] = type(value)() if value else None
    file.write_text(json.dumps(content, indent=1) + "\n")
