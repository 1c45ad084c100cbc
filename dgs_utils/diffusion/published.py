"""Published DiT weights by name: a file, a folder or a hub repository, and the commands that bring them by hand.

Free of torch, so that a plan can be checked in no time.
"""

import re
from pathlib import Path

from dgs_utils.artifacts.places import locate

ORIGINAL_URL = "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SUFFIXES = (".pt", ".pth", ".safetensors")


def find_dit(base_model: str) -> Path | None:
    """Return the file or folder that ``base_model`` names, or None where it can only be a hub repository.

    Raises:
        ValueError: it is neither; the sentence tells the command that brings the file.
    """
    source = locate(base_model)
    if source.exists():
        return source
    if HUB_NAME.fullmatch(base_model) and source.suffix not in SUFFIXES:
        return None
    raise ValueError(f"prepare.base_model is {source}, which does not exist; bring the weights with "
                     f"'curl -L --create-dirs -o {source} {ORIGINAL_URL}' (licence CC-BY-NC 4.0), or use base_model "
                     f"'train'")


def hub_remedy(name: str) -> str:
    """Return what to do where the hub repository ``name`` cannot be reached, as the end of a sentence."""
    command = f"hf download {name} --include 'transformer/*' --local-dir {Path(name).name}"
    return (f'there is no folder {locate(name)} either; fetch one with "{command}", on another machine if need be, and '
            f"set prepare.base_model to it")
