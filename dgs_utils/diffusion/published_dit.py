"""Names of published DiT weights: a file, a folder or a hub repository, and the commands that download them.

It imports no torch, so that a plan is checked in no time.
"""

import re
from pathlib import Path

from dgs_utils.store.paths import resolve_path

ORIGINAL_URL = "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt"
HUB_REPOSITORIES = ("facebook/DiT-XL-2-256", "facebook/DiT-XL-2-512")  # the same weights in the hub's format
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def find_dit(base_model: str) -> Path | None:
    """Return the file or folder that ``base_model`` names, or None if it can only be a hub repository.

    Raises:
        ValueError: it is neither; the sentence has the command that downloads the file.
    """
    source = resolve_path(base_model)
    if source.exists():
        return source
    if HUB_NAME.fullmatch(base_model) and source.suffix not in SUFFIXES:
        return None
    raise ValueError(f"prepare.base_model is {source}, which does not exist; bring the weights with "
                     f"'curl -L --create-dirs -o {source} {ORIGINAL_URL}' (licence CC-BY-NC 4.0), or use base_model "
                     f"'train'")


def download_hint(name: str) -> str:
    """Return what to do if the hub repository ``name`` cannot be reached, as the end of a sentence."""
    command = f"hf download {name} --include 'transformer/*' --local-dir {Path(name).name}"
    return (f'there is no folder {resolve_path(name)} either; fetch one with "{command}", on another machine if need '
            f"be, and set prepare.base_model to it")
