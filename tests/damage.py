"""What happens to files on disks: cut, emptied, a bit flipped, exchanged with another, gone."""

import random
from pathlib import Path

KINDS = ("cut", "empty", "flip", "swap", "delete")


def damage(path: Path, kind: str, others: list[Path], chance: random.Random) -> bool:
    """Damage a file.

    Args:
        path: the file.
        kind: one of `KINDS`.
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
    return not path.exists() or path.read_bytes() != before
