"""DiffFit: fine-tune biases, label embeddings and a few scales, and leave everything else frozen [F §3.1–3.2]."""

import torch
from torch import nn

from dgs_utils.diffusion.dit import DiT

TRAINABLE = ("bias", "norm", "gamma", "y_embed")  # a parameter is trained if its name contains one of these


def add_difffit(model: DiT, blocks: int | None = None) -> DiT:
    """Give the first blocks of a DiT their DiffFit scales, at 1, in place.

    Args:
        model: a DiT; existing scales are kept.
        blocks: number of blocks with scales; None for half of them, as published.

    Raises:
        ValueError: the model has fewer blocks than that.
    """
    depth = len(model.blocks)
    count = depth // 2 if blocks is None else blocks
    if not 0 <= count <= depth:
        raise ValueError(f"scaled_blocks is {count}, but the DiT has {depth} blocks")
    for block in model.blocks[:count]:
        width = block.attn.proj.out_features
        for module, name, size in ((block.attn, "gamma1", 3 * width), (block.attn, "gamma2", width),
                                   (block, "gamma1", width), (block, "gamma2", width)):
            if getattr(module, name) is None:
                weight = block.attn.proj.weight
                setattr(module, name, nn.Parameter(torch.ones(size, dtype=weight.dtype, device=weight.device)))
    return model


def trainable_parameters(model: DiT) -> dict[str, nn.Parameter]:
    """Freeze all that DiffFit does not train, and return what it does, by name."""
    chosen = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINABLE))
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


@torch.no_grad()
def fold(model: DiT) -> DiT:
    """Multiply the DiffFit scales into the weights that they scale and remove them, in place.

    γ scales a linear layer's output, weight and bias alike, and commutes with the per-channel gate, so that the folded
    model is the same function up to rounding.
    """
    for block in model.blocks:
        attention, mlp = block.attn, block.mlp
        for layer, gammas in ((attention.qkv, [attention.gamma1]), (attention.proj, [attention.gamma2, block.gamma1]),
                              (mlp.fc2, [block.gamma2])):
            for gamma in gammas:
                if gamma is not None:
                    layer.weight.mul_(gamma[:, None])
                    layer.bias.mul_(gamma)
        attention.gamma1 = attention.gamma2 = block.gamma1 = block.gamma2 = None
    return model
