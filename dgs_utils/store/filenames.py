"""Names from outside: classes and files of a data set, members of an archive, titles of experiments.

They must decide neither where results are written nor which files are read. So each passes `check_name` or
`check_relative` before it becomes part of a path.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

MAX_NAME_BYTES = 200  # bytes of one name; file systems take 255, and temporary names are longer
MAX_PATH_BYTES = 1000  # bytes of a relative path
MAX_LABEL_BYTES = 120  # bytes of the readable part of a folder's name
PLAIN_PATH = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}/){0,5}[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")  # at a glance
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")
ZERO_WIDTH_JOINERS = "\u200c\u200d"  # parts of Persian words and some symbols; other invisible characters only deceive


def check_name(name: str, what: str) -> str:
    """Return a name that is to become one part of a path, after checking that it can.

    ``what`` is what it names and where it is written, as the beginning of a sentence.

    Raises:
        ValueError: it is no text, empty, ``.`` or ``..``, hidden (begins with a dot), holds a separator or a control
            character, begins like a Windows drive, begins or ends with a blank, or has more than 200 bytes in UTF-8.
    """
    fault = _fault(name) or ("which begins with a dot" if name.startswith(".") else "")
    if fault:
        raise ValueError(f"{what} is {_quoted(name)}, {fault}; give it a plain name, such as {clean_name(str(name))!r}")
    return name


def check_relative(path: str, what: str) -> PurePosixPath:
    """Return a path with ``/`` between its parts, after checking that it stays below the folder that it starts from.

    Raises:
        ValueError: it is absolute, one of its parts is no name (as in `check_name`, only that files may be hidden), or
            it has more than 1,000 bytes in UTF-8.
    """
    if _is_plain(path):
        return PurePosixPath(path)
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()  # without "." and doubled separators
    if isinstance(path, str) and path.startswith("/"):
        fault = "an absolute path"
    elif not parts:
        fault = "which names nothing"
    elif len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        fault = f"which has more than {MAX_PATH_BYTES:,} bytes"
    else:
        fault = next(filter(None, map(_fault, parts)), "")
    if fault:
        raise ValueError(f"{what} is {_quoted(path)}, {fault}; give a path below the folder that it belongs to")
    return PurePosixPath(path)


def check_all_relative(paths: Iterable[str], what: str) -> None:
    """Check tens of thousands of paths as `check_relative` does, without an object for each that is plain."""
    for path in paths:
        if not _is_plain(path):
            check_relative(path, what)


def _is_plain(path: str) -> bool:
    return isinstance(path, str) and PLAIN_PATH.fullmatch(path) is not None


def clean_name(text: str, longest: int = MAX_LABEL_BYTES) -> str:
    """Return a text as a name that `check_name` accepts: other characters become ``-``, a long middle is left out."""
    if len(text) <= longest and PLAIN_PATH.fullmatch(text) and "/" not in text:
        return text
    text = "".join("-" if character in "/\\" or _is_odd(character) else character for character in text)
    text = _bare(text, ".") or "unnamed"  # first, since a drive may follow dots
    text = WINDOWS_DRIVE.sub(lambda drive: f"{drive[0][0]}-", text, count=1) if WINDOWS_DRIVE.match(text) else text
    raw = text.encode()
    if len(raw) > longest:
        half = (longest - 1) // 2
        head, tail = raw[:half].decode(errors="ignore"), raw[-half:].decode(errors="ignore")
        text = f"{_bare(head)}~{_bare(tail)}"
    return text


def links_outside(root: Path, names: Iterable[str]) -> list[str]:
    """Return those of some files below a folder that lead out of it, by a link of their own or of a folder above."""
    top = os.path.realpath(root)

    @cache
    def leaves(path: str) -> bool:
        return os.path.commonpath([top, os.path.realpath(path)]) != top

    files = {name: os.path.join(root, name) for name in names}
    return [name for name, file in files.items()
            if leaves(os.path.dirname(file)) or (os.path.islink(file) and leaves(file))]


def _fault(name: str) -> str:
    """Return what is wrong with one part of a path, as the middle of a sentence; "" where nothing is."""
    if not isinstance(name, str):
        return "which is no text"
    if name in ("", ".", ".."):
        return "which names no place of its own"
    if "/" in name or "\\" in name:
        return "which holds a separator of folders"
    if any(map(_is_odd, name)):
        return "which holds a control character"
    if WINDOWS_DRIVE.match(name):
        return "which begins like a drive"
    if name != _bare(name):
        return "which begins or ends with a blank"
    return f"which has more than {MAX_NAME_BYTES} bytes" if len(name.encode()) > MAX_NAME_BYTES else ""


def _is_odd(character: str) -> bool:
    """Return whether a character is a control, invisible, half of a surrogate pair, or ends a line or paragraph."""
    return not " " <= character <= "~" and (
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in ZERO_WIDTH_JOINERS)


def _bare(text: str, start: str = "") -> str:
    """Return a text without blanks, and joiners that join nothing, at both ends, and others at its start."""
    before = ""
    while text != before:
        before, text = text, text.strip().strip(ZERO_WIDTH_JOINERS).lstrip(start)
    return text


def _quoted(name) -> str:
    """Return a name for a sentence, escaped, and cut where it is long."""
    shown = ascii(name) if isinstance(name, str) and any(map(_is_odd, name)) else repr(name)
    return shown if len(shown) <= 80 else f"{shown[:60]}…{shown[-15:]}"
