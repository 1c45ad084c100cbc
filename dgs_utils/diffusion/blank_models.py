"""Diffusion models and autoencoders that stage 00's parameters describe, as far as they are known without weights."""

from typing import Any

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from dgs_utils.diffusion.dit import DiT
from dgs_utils.params import PrepareParams
from dgs_utils.store.paths import resolve_path

DEFAULT_SIZE = "DiT-XL/2"  # of the published checkpoints
USUAL_SIDE, IMAGENET_CLASSES = 256, 1000
# Stable Diffusion's autoencoder, as its published configuration has it; TAESD's is diffusers' default.
KL_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 256,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def described_size(params: PrepareParams) -> dict[str, int]:
    """Return the size that is described; {} where it is a published one, or that of weights that tell it themselves."""
    names = ("patch_size", "hidden_size", "depth", "num_heads")
    own = {name: getattr(params, name) for name in names}
    unset = {name: PrepareParams.model_fields[name].default for name in names}
    filled = params.model_copy(update=unset).with_defaults({})  # whose numbers say nothing of weights from elsewhere
    is_described = params.base_model in ("train", "none") or own != {name: getattr(filled, name) for name in names}
    return own if is_described and not params.dit_size and params.hidden_size and params.patch_size else {}


def blank_dit(params: PrepareParams) -> DiT:
    """Return a DiT of the described or published size, with weights from torch's global rng."""
    factor, channels = (1, params.channels) if params.autoencoder == "none" else (8, 4)
    config = {"input_size": (params.image_size or USUAL_SIDE) // factor, "in_channels": channels,
              "num_classes": IMAGENET_CLASSES}
    own = described_size(params)
    return DiT(**own, **config) if own else DiT.from_size(params.dit_size or DEFAULT_SIZE, **config)


def blank_autoencoder(kind: str) -> Any:
    """Return TAESD or Stable Diffusion's autoencoder, with weights from torch's global rng."""
    return diffusers.AutoencoderTiny() if kind == "taesd" else diffusers.AutoencoderKL(**KL_CONFIG)


def operations_of_image(params: PrepareParams, steps: int) -> float:
    """Return the floating-point operations of an image: guided steps of the DiT, and the decoder.

    A DiT on this machine whose size is not described has as many as its weights in fp32 take bytes.

    >>> params = PrepareParams(image_size=256, autoencoder="sd-vae-ft-mse", dit_size="DiT-XL/2")
    >>> f"{operations_of_image(params, 1):.2e}"  # a pass has 118.6 billion multiplications with additions
    '1.10e+12'
    """
    with torch.device("meta"), torch.no_grad():
        dit, label = blank_dit(params), torch.zeros(1, dtype=torch.long)
        latent = torch.zeros(1, dit.config.in_channels, *[dit.config.input_size] * 2)
        with FlopCounterMode(display=False) as one_pass:
            dit(latent, label, label)
        with FlopCounterMode(display=False) as decoder:
            if params.autoencoder != "none":
                blank_autoencoder(params.autoencoder).decode(latent)
    weights = resolve_path(params.base_model)
    is_own = params.base_model not in ("train", "none") and not (params.dit_size or described_size(params))
    bytes_here = sum(file.stat().st_size for file in (weights, *weights.rglob("*")) if file.is_file()) if is_own else 0
    share = min(bytes_here / (4 * sum(values.numel() for values in dit.parameters())), 1.0) if bytes_here else 1.0
    return 2.0 * steps * share * one_pass.get_total_flops() + decoder.get_total_flops()
