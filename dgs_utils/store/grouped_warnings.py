"""Warnings of one kind as one line: one that holds for each of 1,000 classes is printed once, with their number."""

import re
from collections.abc import Iterable

CLASS_NAME = re.compile(r"\b(class|classes) .+?(?=: | of (?=\S*/|the )| has | have | is | are |[;,] |$)")  # its name
VARYING_TEXT = re.compile(r"'[^']*'|\S*/\S*|\d[\d.,]*")  # what is quoted, paths, numbers


def warning_kind(sentence: str) -> str:
    """Return a warning without what differs among warnings of one kind: its class, paths, quotes and numbers."""
    return VARYING_TEXT.sub("…", CLASS_NAME.sub(r"\1 …", sentence))


def group_warnings(sentences: Iterable[str], all_in: str = "") -> list[str]:
    """Return a line a kind: a single sentence as it is; else how many there are of its kind, and the first.

    Args:
        sentences: warnings, in the order of which the kinds come.
        all_in: where all of them can be read, for the line; "" where they cannot.
    """
    kinds: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(sentences):
        kinds.setdefault(warning_kind(sentence), []).append(sentence)
    place = f", all in {all_in}" if all_in else ""
    return [found[0] if len(found) == 1 else f"{_count(found)}{place}; the first: {found[0]}"
            for found in kinds.values()]


def _count(found: list[str]) -> str:
    """Return how many warnings of one kind there are, as a phrase: of classes where each is of another one."""
    named = {match.group() for sentence in found if (match := CLASS_NAME.search(sentence))}
    return f"{len(found)} classes" if len(named) == len(found) else f"{len(found)} warnings of one kind"
