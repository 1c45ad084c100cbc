"""Names of class folders and files that every reader of image folders takes alike: for sets that are passed on.

Readers disagree by their own nature. Hugging Face's ``datasets`` takes a word such as train, dev or test in any name
for a split, passes over folders that begin with two underscores, and takes two colons for a chain of files; torchvision
sorts class folders by characters, timm by the numbers in them and without regard to capitals. So names are changed, as
little as they can be, where it matters.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from dgs_utils.store.atomic import atomic

SPLIT_WORDS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
# Words count between these characters, digits among them, or at an end of the name.
_WORD = re.compile(rf"(?<![^-._ 0-9])(?:{'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})(?![^-._ 0-9])")


# Which files the hub's reader reads as images; without it, the most frequent kind of file in a folder.
CONFIGS: list[dict[str, Any]] = [{"config_name": "default",
                                  "data_files": [{"split": "train", "path": ["metadata.csv", "images/**"]}]}]
NOTES = f"""---
{yaml.safe_dump({"configs": CONFIGS}, sort_keys=False)}---

A distilled set: `metadata.csv` has class, label and origin of each image below `images`. `datasets` reads this
folder, by `load_dataset(FOLDER)`, torchvision's `ImageFolder` and timm read `FOLDER/images`, with the same labels.
"""


def write_readme(folder: Path) -> None:
    """Write the ``README.md`` of a set by which `datasets` finds its images, and people the way to read them."""
    with atomic(folder / "README.md") as partial:
        partial.write_text(NOTES, encoding="utf-8")


def portable_name(name: str) -> str:
    """Return a name that reads as nothing else: ``bullet+train`` for ``bullet_train``, ``test+`` for ``test``."""
    name = re.sub("::+", "+", name)
    while match := _WORD.search(name):
        before, word, after = name[: match.start()], match[0], name[match.end():]
        if before:
            name = f"{before if before[-1].isdigit() else before[:-1]}+{word}{after}"
        else:
            name = f"{word}+{after if after[:1].isdigit() else after[1:]}"
    return f"+{name}" if name.startswith("__") else name


def portable_filename(name: str) -> str:
    """Return a file's name, in which no word before the suffix reads as a split."""
    stem, point, suffix = name.rpartition(".")
    if not point or suffix in SPLIT_WORDS:  # no suffix of images, so that another one will follow
        return portable_name(name)
    return f"{portable_name(stem)}.{suffix}"


def class_folders(classes: list[str]) -> dict[str, str]:
    """Return a folder name for each class, in label order, such that every reader counts the folders in that order: its
    own name, without split words; where readers would sort those otherwise, after the label in as many digits as the
    last one has.
    """
    names = [portable_name(name) for name in classes]
    if not all(one < other and _natural(one) < _natural(other) for one, other in pairwise(names)):
        digits = len(str(len(classes) - 1))
        names = [portable_name(f"{label:0{digits}d}_{name}") for label, name in enumerate(classes)]
    return dict(zip(classes, names, strict=True))


def _natural(name: str) -> list[str | int]:
    """Return a sort key of a name's small letters and numbers, in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
