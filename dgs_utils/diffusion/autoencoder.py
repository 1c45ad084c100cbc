"""Autoencoders: from images to the latents that a diffusion model works on, and back.

Images are (N, 3, H, W) in [−1, 1], latents (N, C, h, w) scaled to about unit variance.
"""

from pathlib import Path

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dgs_utils.artifacts.parts import is_whole, kept
from dgs_utils.artifacts.places import locate
from dgs_utils.diffusion.folders import from_hub, open_folder
from dgs_utils.runtime.devices import layout_of, store_matrices

HUB = {
    "taesd": "madebyollin/taesd",
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
}
CHUNK_PIXELS = 8 * 256 * 256  # 256 × 256 pixels take Stable Diffusion's decoder 0.1–0.3 GiB in fp32 (measured on a CPU)


class Autoencoder:
    """What all autoencoders can do; this one leaves pixels as they are.

    Args:
        channels: 3, or 1 for grey images.
    """

    factor = 1  # pixels of the image for one of the latent, along a side

    def __init__(self, channels: int = 3):
        self.channels = channels

    def to(self, device: torch.device) -> "Autoencoder":
        """Move to a device."""
        return self

    def store_matrices(self, precision: str) -> "Autoencoder":
        """Store all matrices in a precision (see `devices.store_matrices`)."""
        return self

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents' posterior; None where there is no deviation."""
        return images[:, : self.channels], None

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [−1, 1]."""
        return latents.expand(-1, 3, -1, -1).clamp(-1, 1)


class LatentAutoencoder(Autoencoder):
    """A diffusers autoencoder: AutoencoderKL (Stable Diffusion's) or AutoencoderTiny (TAESD).

    Images go through it in chunks of so many pixels, so that memory does not grow with their number.
    """

    # Either is loaded where it is needed, since that takes seconds: hence types in quotes.
    def __init__(self, model: "diffusers.AutoencoderKL | diffusers.AutoencoderTiny"):
        super().__init__(channels=model.config.latent_channels)
        self.model = model.eval().requires_grad_(False)
        self.tiny = isinstance(model, diffusers.AutoencoderTiny)
        stages = model.config.encoder_block_out_channels if self.tiny else model.config.block_out_channels
        self.factor = 2 ** (len(stages) - 1)

    def to(self, device: torch.device) -> "Autoencoder":
        """Move to a device, laid out by the norm that it has (`devices.layout_of`)."""
        self.model.to(device, memory_format=layout_of(self.model))
        return self

    def store_matrices(self, precision: str) -> "Autoencoder":
        """Store all matrices in a precision (see `devices.store_matrices`)."""
        store_matrices(self.model, precision)
        return self

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents' posterior, scaled; TAESD has no deviation."""
        scale = self.model.config.scaling_factor
        chunks = images.to(self.model.device).split(_chunk(*images.shape[2:]))
        if self.tiny:
            return torch.cat([self.model.encode(chunk).latents for chunk in chunks]) * scale, None
        posteriors = [self.model.encode(chunk).latent_dist for chunk in chunks]
        return torch.cat([p.mean for p in posteriors]) * scale, torch.cat([p.std for p in posteriors]) * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [−1, 1]."""
        chunks = (latents / self.model.config.scaling_factor).split(
            _chunk(*(self.factor * side for side in latents.shape[2:])))
        return torch.cat([self.model.decode(chunk).sample.clamp(-1, 1) for chunk in chunks])


def _chunk(height: int, width: int) -> int:
    return max(CHUNK_PIXELS // (height * width), 1)


def fetch(kind: str, path: str, folder: Path) -> None:
    """Put an autoencoder into a stage folder as ``autoencoder/``, in diffusers' own layout.

    Args:
        kind: "none", "taesd", "sd-vae-ft-ema" or "sd-vae-ft-mse".
        path: local diffusers folder, or for TAESD the folder with its two original files; "" for the hub.
        folder: the stage folder.

    Raises:
        ValueError: the files are not there, are those of another model, or cannot be downloaded.
    """
    target = folder / "autoencoder"
    if kind == "none" or is_whole(target):
        return
    remedy = (f"fetch it with 'hf download {HUB[kind]} --local-dir {kind}', on another machine if need be, and set "
              f"prepare.autoencoder_path to that folder")
    source = locate(path) if path else from_hub(HUB[kind], remedy)
    if not source.is_dir():
        raise ValueError(f"prepare.autoencoder_path is {source}, which is no folder; {remedy}")
    model_class = diffusers.AutoencoderTiny if kind == "taesd" else diffusers.AutoencoderKL
    if kind == "taesd" and not (source / "config.json").exists():
        model = _taesd(source, remedy)
    else:
        model = open_folder(model_class, source, remedy)
    with kept(target) as partial:
        model.save_pretrained(partial)


def _taesd(folder: Path, remedy: str) -> "diffusers.AutoencoderTiny":
    """Load TAESD's original files, whose names are places in plain sequences; the decoder's first is a clamp."""
    state = {}
    for part, shift in (("encoder", 0), ("decoder", 1)):
        path = folder / f"taesd_{part}.safetensors"
        try:
            for name, tensor in load_file(path).items():
                place, rest = name.split(".", 1)
                state[f"{part}.layers.{int(place) - shift}.{rest}"] = tensor.float()
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as TAESD's {part} ({error}); {remedy}") from None
    model = diffusers.AutoencoderTiny()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not hold TAESD's weights ({str(error).splitlines()[1].strip()}); "
                         f"{remedy}") from None
    return model


def load(prepare: Path, channels: int) -> Autoencoder:
    """Open a 00 folder's autoencoder; without one, pixels with ``channels`` channels."""
    folder = prepare / "autoencoder"
    if not folder.is_dir():
        return Autoencoder(channels)
    kind = diffusers.AutoencoderKL.load_config(folder)["_class_name"]
    remedy = f"delete {folder} and run stage 00_prepare again"
    return LatentAutoencoder(open_folder(getattr(diffusers, kind), folder, remedy))
