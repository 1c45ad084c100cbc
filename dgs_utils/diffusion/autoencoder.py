"""Autoencoders: from pictures to the latents that a diffusion model works on, and back.

Pictures are (N, 3, H, W) in [−1, 1], latents (N, C, h, w) scaled to about unit variance.
"""

import re
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file
from torch import Tensor

from dgs_utils.artifacts import atomic, locate

HUB = {
    "taesd": "madebyollin/taesd",
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
}


class Autoencoder:
    """What all autoencoders can do; this one leaves pixels as they are.

    Args:
        channels: 3, or 1 for grey pictures.
    """

    factor = 1  # pixels of the picture for one of the latent, along a side

    def __init__(self, channels: int = 3):
        self.channels = channels

    def to(self, device: torch.device) -> "Autoencoder":
        """Move to a device."""
        return self

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents' posterior; None where there is no deviation."""
        return pictures[:, : self.channels], None

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures in [−1, 1]."""
        return latents.expand(-1, 3, -1, -1).clamp(-1, 1)


class LatentAutoencoder(Autoencoder):
    """A diffusers autoencoder: AutoencoderKL (Stable Diffusion's) or AutoencoderTiny (TAESD)."""

    factor = 8

    def __init__(self, model: diffusers.AutoencoderKL | diffusers.AutoencoderTiny):
        super().__init__(channels=4)
        self.model = model.eval().requires_grad_(False)

    def to(self, device: torch.device) -> "Autoencoder":
        """Move to a device."""
        self.model.to(device)
        return self

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents' posterior, scaled; TAESD has no deviation."""
        output = self.model.encode(pictures.to(self.model.device))
        scale = self.model.config.scaling_factor
        if isinstance(self.model, diffusers.AutoencoderTiny):
            return output.latents * scale, None
        return output.latent_dist.mean * scale, output.latent_dist.std * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures in [−1, 1]."""
        return self.model.decode(latents / self.model.config.scaling_factor).sample.clamp(-1, 1)


def fetch(kind: str, path: str, folder: Path) -> None:
    """Put an autoencoder into a stage folder as ``autoencoder/``, in diffusers' own layout.

    Args:
        kind: "none", "taesd", "sd-vae-ft-ema" or "sd-vae-ft-mse".
        path: local diffusers folder, or for TAESD the folder with its two original files; "" for the hub.
        folder: the stage folder.

    Raises:
        ValueError: the files are not there, or cannot be downloaded.
    """
    target = folder / "autoencoder"
    if kind == "none" or target.is_dir():
        return
    source = locate(path) if path else None
    if source is not None and not source.is_dir():
        raise ValueError(f"prepare.autoencoder_path is {source}, which is no folder; give the one with {kind}'s files")
    if kind == "taesd" and source is not None and (source / "taesd_encoder.safetensors").exists():
        model = _taesd(source)
    else:
        model = _download(kind, source)
    with atomic(target) as partial:
        model.save_pretrained(partial)


def _download(kind: str, source: Path | None):
    model_class = diffusers.AutoencoderTiny if kind == "taesd" else diffusers.AutoencoderKL
    try:
        return model_class.from_pretrained(str(source or HUB[kind]))
    except OSError as error:
        raise ValueError(f"the autoencoder {kind} could not be loaded from {source or 'the hub'}; run "
                         f"'hf download {HUB[kind]} --local-dir {kind}' on a machine with a network and set "
                         f"prepare.autoencoder_path to that folder ({str(error).splitlines()[0]})") from None


def _taesd(folder: Path) -> diffusers.AutoencoderTiny:
    """Load TAESD's original files, whose names are places in plain sequences; the decoder's first is a clamp."""
    state = {}
    for part, shift in (("encoder", 0), ("decoder", 1)):
        for name, tensor in load_file(folder / f"taesd_{part}.safetensors").items():
            moved = re.sub(r"^\d+", lambda place: str(int(place[0]) - shift), name)  # noqa: B023
            state[f"{part}.layers.{moved}"] = tensor.float()
    model = diffusers.AutoencoderTiny()
    model.load_state_dict(state)
    return model


def load(prepare: Path, channels: int) -> Autoencoder:
    """Open a 00 folder's autoencoder; without one, pixels with ``channels`` channels."""
    folder = prepare / "autoencoder"
    if not folder.is_dir():
        return Autoencoder(channels)
    config = diffusers.AutoencoderKL.load_config(folder)
    return LatentAutoencoder(getattr(diffusers, config["_class_name"]).from_pretrained(folder))
