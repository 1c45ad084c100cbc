"""Networks with random weights, and images such as photographs are, for tests of scorers."""

from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dgs_utils.runtime.seeds import numpy_rng


class _Unfilled(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        undrawn = (func in (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.erfinv_)
                   or getattr(func, "__module__", "") == "torch.nn.init")
        return (args or [kwargs["tensor"]])[0] if undrawn else func(*args, **(kwargs or {}))


@contextmanager
def unfilled():
    """Let initial weights be whatever is in memory, which costs nothing: they are overwritten, or not looked at."""
    with _Unfilled(), patch("torch.nn.init.trunc_normal_", lambda tensor, *_, **__: tensor):  # draws until it fits
        yield


def weights_for(network: nn.Module, *seed) -> dict[str, Tensor]:
    """Return random weights for a network, with its own names; large ones repeat, since drawing takes long."""
    drawn = torch.from_numpy(numpy_rng("weights", *seed).normal(0, 0.05, 65_537).astype(np.float32))
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            again = drawn.repeat(-(-value.numel() // len(drawn)))[: value.numel()].reshape(value.shape)
            state[key] = again + ("running_var" in key)
    return state


def photographs(folder: Path) -> list[Path]:
    """Write images such as photographs are, of several shapes and modes."""
    rng, paths = numpy_rng("photographs"), []
    shapes = [((310, 233), "RGB"), ((97, 240), "L"), ((640, 150), "P"), ((33, 33), "RGBA")]
    for place, (size, mode) in enumerate(shapes):
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
        ImageDraw.Draw(image).ellipse((5, 5, size[0] - 9, size[1] // 2), fill=(250, 40, 90))
        paths.append(folder / f"{place}.png")
        image.convert(mode).save(paths[-1])
    return paths
