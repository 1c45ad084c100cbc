"""Named seeds: every random draw of the kit comes from an rng that is named after what it is for.

A name such as ``("pool", 0, "n02086240", 17)`` (stage, pool seed, class, image) is hashed into a seed, so that two
draws share a stream only if they share a name, and no draw depends on how many others came before it. Every name begins
with the stage that draws, so that no two stages share a stream; only weights that are overwritten at once, such as
those of a network about to be loaded, are drawn as "overwritten" whatever the stage.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def named_seed(*parts: str | int | float) -> int:
    """Hash a name into an integer in [0, 2**63), the same on every machine and in every session."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(*parts: str | int | float) -> np.random.Generator:
    """Return NumPy's default rng, seeded by name."""
    return np.random.default_rng(named_seed(*parts))


def torch_rng(*parts: str | int | float, device="cpu"):
    """Return a `torch.Generator` on ``device``, seeded by name."""
    import torch  # here, so that planning a grid never imports torch

    return torch.Generator(device=device).manual_seed(named_seed(*parts))


@contextmanager
def torch_seeded(*parts: str | int | float, device: "torch.device | None" = None) -> Iterator[None]:
    """Seed torch's global CPU rng, and that of a GPU, by name inside the block, and put their state back afterwards.

    For code that takes no rng, such as the initial weights of torch's layers, or dropout.
    """
    import torch

    gpu = device if device is not None and device.type == "cuda" else None
    with torch.random.fork_rng(devices=[gpu] if gpu else []):  # `torch.manual_seed` would seed all GPUs, too
        torch.random.default_generator.manual_seed(named_seed(*parts))
        if gpu:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(named_seed(*parts))
        yield
