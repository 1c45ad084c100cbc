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

import numpy as np


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
def torch_seeded(*parts: str | int | float) -> Iterator[None]:
    """Seed torch's global CPU rng by name inside the block, and put its state back afterwards.

    For code that takes no rng, such as the initial weights of torch's layers.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # `torch.manual_seed` would seed the GPUs, too
        torch.random.default_generator.manual_seed(named_seed(*parts))
        yield
