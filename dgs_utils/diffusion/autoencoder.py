"""Autoencoders: from images to the latents that a diffusion model works on, and back.

Images are (N, 3, H, W) in [−1, 1], latents (N, C, h, w) scaled to about unit variance.
"""

from pathlib import Path

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dgs_utils.diffusion.diffusers_folders import download_model, open_model_folder
from dgs_utils.runtime.devices import memory_format, store_matrices
from dgs_utils.store.partial_results import verify_or_remove, write_verified
from dgs_utils.store.paths import resolve_path

HUB = {"taesd": "madebyollin/taesd", "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
       "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse"}
CHUNK_PIXELS = 8 * 256 * 256  # 256 × 256 pixels take Stable Diffusion's decoder 0.1–0.3 GiB in fp32 (measured on a CPU)


class Autoencoder:
    """The interface of autoencoders; this one returns pixels as they are.

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
        return images if self.channels == 3 else luminance(images), None

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [−1, 1]; values that are not finite become NaN."""
        return _clamp(latents.expand(-1, 3, -1, -1))


def luminance(images: Tensor) -> Tensor:
    """Return the luma of ITU-R BT.601 of RGB images (N, 3, H, W), as (N, 1, H, W); a grey keeps its exact value."""
    red, green, blue = images.split(1, dim=1)
    return red + 0.587 * (green - red) + 0.114 * (blue - red)


class LatentAutoencoder(Autoencoder):
    """A diffusers autoencoder: AutoencoderKL (Stable Diffusion's) or AutoencoderTiny (TAESD).

    It takes images in chunks of `CHUNK_PIXELS`, so that memory does not grow with their number.
    """

    # Either is loaded where it is needed, since that takes seconds: hence types in quotes.
    def __init__(self, model: "diffusers.AutoencoderKL | diffusers.AutoencoderTiny"):
        config = model.config
        super().__init__(channels=config.latent_channels)
        self.model = model.eval().requires_grad_(False)
        self.tiny = isinstance(model, diffusers.AutoencoderTiny)
        stages = config.encoder_block_out_channels if self.tiny else config.block_out_channels
        self.factor = 2 ** (len(stages) - 1)
        mean, deviation = (config.get(name) or default for name, default in
                           (("latents_mean", [config.shift_factor or 0.0]), ("latents_std", [1.0])))
        self.shift = torch.tensor(mean)[:, None, None]
        self.scale = config.scaling_factor / torch.tensor(deviation)[:, None, None]

    def to(self, device: torch.device) -> "Autoencoder":
        """Move to a device, laid out by the norm that it has (`devices.memory_format`)."""
        self.model.to(device, memory_format=memory_format(self.model))
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    def store_matrices(self, precision: str) -> "Autoencoder":
        """Store all matrices in a precision (see `devices.store_matrices`)."""
        store_matrices(self.model, precision)
        return self

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents' posterior, shifted and scaled as the autoencoder's
        configuration says, as diffusers' pipelines do; TAESD has no deviation.
        """
        chunks = images.to(self.model.device).split(_images_per_chunk(images[0, 0].numel()))
        if self.tiny:
            means, deviations = torch.cat([self.model.encode(chunk).latents for chunk in chunks]), None
        else:
            posteriors = [self.model.encode(chunk).latent_dist for chunk in chunks]
            means, deviations = (torch.cat([getattr(p, kind) for p in posteriors]) for kind in ("mean", "std"))
        return (means - self.shift) * self.scale, None if deviations is None else deviations * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [−1, 1]; values that are not finite become NaN."""
        chunks = (latents / self.scale + self.shift).split(_images_per_chunk(self.factor**2 * latents[0, 0].numel()))
        return torch.cat([_clamp(self.model.decode(chunk).sample) for chunk in chunks])


def _clamp(images: Tensor) -> Tensor:
    """Clamp to [−1, 1] without hiding an overflow: infinite values become NaN."""
    return torch.where(images.isfinite(), images.clamp(-1, 1), torch.nan)


def _images_per_chunk(pixels: int) -> int:
    return max(CHUNK_PIXELS // pixels, 1)


def store_autoencoder(kind: str, path: str, folder: Path) -> None:
    """Write an autoencoder into a stage folder as ``autoencoder/``, in diffusers' own layout.

    Args:
        kind: "none", "taesd", "sd-vae-ft-ema" or "sd-vae-ft-mse".
        path: local diffusers folder, or that of a pipeline around it, or for TAESD the folder with its two original
            files; "" for the hub.
        folder: the stage folder.

    Raises:
        ValueError: the files are missing, are those of another model, or cannot be downloaded.
    """
    target = folder / "autoencoder"
    if kind == "none" or verify_or_remove(target):
        return
    hint = (f"fetch it with 'hf download {HUB[kind]} --local-dir {kind}', on another machine if need be, and set "
            f"prepare.autoencoder_path to that folder")
    source = resolve_path(path) if path else download_model(HUB[kind], hint)
    if not source.is_dir():
        raise ValueError(f"prepare.autoencoder_path is {source}, which is no folder; {hint}")
    source = source / "vae" if (source / "vae").is_dir() else source  # of a pipeline
    if kind == "taesd" and not (source / "config.json").exists():
        model = _open_original_taesd(source, hint)
    else:
        model = open_model_folder(diffusers.AutoencoderTiny if kind == "taesd" else diffusers.AutoencoderKL, source,
                                  hint)
    channels = model.config.in_channels, model.config.out_channels
    if channels != (3, 3):
        raise ValueError(f"the autoencoder in {source} takes images of {channels[0]} channels and returns "
                         f"{channels[1]}, but images have 3 here; give one of RGB images")
    with write_verified(target) as partial:
        model.save_pretrained(partial)


def _open_original_taesd(folder: Path, hint: str) -> "diffusers.AutoencoderTiny":
    """Load TAESD's original files, whose names are indices in plain sequences; the decoder's first is a clamp."""
    state = {}
    for part, shift in (("encoder", 0), ("decoder", 1)):
        path = folder / f"taesd_{part}.safetensors"
        try:
            for name, tensor in load_file(path).items():
                index, rest = name.split(".", 1)
                state[f"{part}.layers.{int(index) - shift}.{rest}"] = tensor.float()
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as TAESD's {part} ({error}); {hint}") from None
    model = diffusers.AutoencoderTiny()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not hold TAESD's weights ({str(error).splitlines()[1].strip()}); "
                         f"{hint}") from None
    return model


def load_autoencoder(prepare: Path, channels: int) -> Autoencoder:
    """Open a 00 folder's autoencoder; without one, pixels with ``channels`` channels."""
    folder = prepare / "autoencoder"
    if not folder.is_dir():
        return Autoencoder(channels)
    kind = diffusers.AutoencoderKL.load_config(folder)["_class_name"]
    hint = f"delete {folder} and run stage 00_prepare again"
    return LatentAutoencoder(open_model_folder(getattr(diffusers, kind), folder, hint))
