"""Text for the terminal: streams that may be closed or lack characters, text of strangers, and tables."""

import os
import sys
from collections.abc import Collection, Sequence

MAX_CHARACTERS = 4000  # of one printed line of text


def make_streams_safe() -> None:
    """Have output replace characters that the terminal's encoding lacks, and discard it where a stream is closed."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # closed by a shell's >&-: else the next file or socket would get its number
            os.open(os.devnull, mode)  # gets the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the process ends)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def discard_output() -> None:
    """Discard what is still in the buffers of a broken stream, so that Python does not fail on it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())


def printable(text: str) -> str:
    r"""Return text as one line for the terminal: escape codes and other invisible characters are shown, long text cut.

    >>> print(printable("class \x1b[31mcat\u202e"))
    class \x1b[31mcat\u202e
    """
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS // 2]} … {text[-MAX_CHARACTERS // 2:]}"
    return "".join(character if character.isprintable() or character in "\t\xa0\u3000" else
                   character.encode("unicode_escape").decode() for character in text)


def format_table(rows: Sequence[Sequence[str]], left: Collection[str] = ()) -> list[str]:
    """Return the lines of a table; the first row is the header, and ``left`` the columns not aligned to the right.

    >>> print(*format_table([["stage", "done"], ["00_prepare", "1"]], left=["stage"]), sep="\\n")
    stage       done
    00_prepare     1
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{'<' if name in left else '>'}{width}}"
                      for name, cell, width in zip(rows[0], row, widths, strict=True)).rstrip() for row in rows]
