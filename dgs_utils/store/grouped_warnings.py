"""Warnings of one kind as one line: one that holds for each of 1,000 classes is printed once, with their number."""

import re
from collections.abc import Iterable

CLASS_NAME = re.compile(r"\b(class|classes) .+?(?=: | of (?=\S*/|the )| has | have | is | are |[;,] |$)")  # its name
VARYING_TEXT = re.compile(r"'[^']*'|\S*/\S*|\d[\d.,]*")  # what is quoted, paths, numbers


def warning_kind(sentence: str) -> str:
    """Return a warning without what differs among warnings of one kind: its class, paths, quotes and numbers."""
    return VARYING_TEXT.sub("…", CLASS_NAME.sub(r"\1 …", sentence))


def group_warnings(sentences: Iterable[str], all_in: str = "") -> list[str]:
    """Return a line a kind: a single sentence as it is; else how many there are, where (``all_in``), and the first."""
    kinds: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(sentences):
        kinds.setdefault(warning_kind(sentence), []).append(sentence)
    where = f", all in {all_in}" if all_in else ""
    lines = []
    for alike in kinds.values():
        named = {match.group() for sentence in alike if (match := CLASS_NAME.search(sentence))}
        things = "classes" if len(named) == len(alike) else "warnings of one kind"
        lines.append(f"{len(alike)} {things}{where}; the first: {alike[0]}" if alike[1:] else alike[0])
    return lines
