"""Reference numbers of the public implementations (tests/data, see its README) and the weights that belong to them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA = Path(__file__).parents[1] / "data"


def tensors(name: str, part: str = "") -> dict[str, Tensor]:
    """Return the tensors of ``data/<name>.safetensors`` whose names begin with ``part/``, without that beginning."""
    prefix = f"{part}/" if part else ""
    found = load_file(DATA / f"{name}.safetensors")
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def numbers(name: str):
    """Return the content of ``data/<name>.json``."""
    return json.loads((DATA / f"{name}.json").read_text())


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> nn.Module:
    """Fill a DiT with the normal draws that the reference outputs were computed from, and set it to evaluation.

    Every parameter but the position table is N(0, 0.05²), and DiffFit scales are N(1, 0.3²), in parameter order.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name != "pos_embed":
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * draw if "gamma" in name else 0.05 * draw)
    return model.eval()


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest deviation over the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
