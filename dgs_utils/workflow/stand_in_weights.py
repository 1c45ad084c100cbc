"""Random weights in the published formats, which a rehearsal takes where the real ones are not on this machine.

What is measured with them (seconds, memory, whether files and options go together) holds; images and accuracies do not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.published_weights import PublishedWeights, find_published, list_published
from dgs_utils.classifiers.state_dicts import READERS
from dgs_utils.diffusion.autoencoder import HUB
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.published_dit import find_dit
from dgs_utils.params import PrepareParams
from dgs_utils.params.base import StageParams
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.atomic import atomic
from dgs_utils.store.paths import resolve_path

DEFAULT_SIZE = "DiT-XL/2"  # of the published checkpoints
IMAGENET_CLASSES = 1000
# Stable Diffusion's autoencoder, as its published configuration has it; TAESD's is diffusers' default.
KL_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 256,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def stand_ins(params: StageParams, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the parameters that name weights which are missing here, with random ones in their place.

    Args:
        params: of any stage.
        folder: where random weights are written, once each.
        say: takes a sentence for each.

    Raises:
        ValueError: a network or weights that no library knows.
    """
    changes: dict[str, Any] = {}
    if isinstance(params, PrepareParams):
        if _lacks_dit(params.base_model):
            changes["base_model"] = str(_random_dit(params, folder))
        if params.autoencoder != "none" and _lacks_autoencoder(params):
            changes["autoencoder_path"] = str(_random_autoencoder(params.autoencoder, folder))
        is_named = not params.trains_classifier and "/" not in params.classifier
        if is_named and (weights := _random_scorer(params.classifier, params.classifier_weights, folder)):
            changes["classifier_weights"] = weights
    for name in {"scorers", "features"} & type(params).model_fields.keys():
        given = getattr(params, name)
        items = given if isinstance(given, list) else [given] if given else []
        replaced = [_random_by_one_name(item, folder) for item in items]
        if replaced != items:
            changes[name] = replaced if isinstance(given, list) else replaced[0]
    for name in changes:
        missing = getattr(params, name) or getattr(params, "autoencoder", "")
        say(f"RANDOM WEIGHTS stand for {params.stage[3:]}.{name}: {missing} is not on this machine. Seconds and memory "
            f"hold; images and accuracies mean nothing.")
    return changes


def _lacks_dit(base_model: str) -> bool:
    if base_model in ("train", "none"):
        return False
    try:
        return find_dit(base_model) is None and not isinstance(
            try_to_load_from_cache(base_model, "transformer/config.json"), str)
    except ValueError:
        return True


def _lacks_autoencoder(params: PrepareParams) -> bool:
    if params.autoencoder_path:
        return not resolve_path(params.autoencoder_path).is_dir()
    return not isinstance(try_to_load_from_cache(HUB[params.autoencoder], "config.json"), str)


def _random_dit(params: PrepareParams, folder: Path) -> Path:
    """Write a DiT with its original names, of the size that is described, or the published one."""
    size = "-".join(map(str, _own_size(params).values())) or (params.dit_size or DEFAULT_SIZE).replace("/", "-")
    path = folder / f"{size}-{params.image_size}x{params.image_size}.pt"
    if not path.exists():
        with torch_seeded("rehearsal", "dit"):
            model = _new_dit(params)
        with atomic(path) as partial:
            torch.save(model.state_dict(), partial)
    return path


def _own_size(params: PrepareParams) -> dict[str, int]:
    """Return the size that is described; {} where it is a published one."""
    is_described = not params.dit_size and params.hidden_size and params.patch_size
    names = ("patch_size", "hidden_size", "depth", "num_heads")
    return {name: getattr(params, name) for name in names} if is_described else {}


def _new_dit(params: PrepareParams) -> DiT:
    factor, channels = (1, params.channels) if params.autoencoder == "none" else (8, 4)
    config = {"input_size": params.image_size // factor, "in_channels": channels, "num_classes": IMAGENET_CLASSES}
    own = _own_size(params)
    return DiT(**own, **config) if own else DiT.from_size(params.dit_size or DEFAULT_SIZE, **config)


def _random_autoencoder(kind: str, folder: Path) -> Path:
    path = folder / kind
    if not path.exists():
        with torch_seeded("rehearsal", "autoencoder"):
            model = _new_autoencoder(kind)
        with atomic(path) as partial:
            model.save_pretrained(partial)
    return path


def _new_autoencoder(kind: str) -> Any:
    return diffusers.AutoencoderTiny() if kind == "taesd" else diffusers.AutoencoderKL(**KL_CONFIG)


def operations_of_image(params: PrepareParams, steps: int) -> float:
    """Return the floating-point operations of an image: guided steps of the DiT, and the decoder.

    >>> params = PrepareParams(image_size=256, autoencoder="sd-vae-ft-mse", dit_size="DiT-XL/2")
    >>> f"{operations_of_image(params, 1):.2e}"  # a pass has 118.6 billion multiplications with additions
    '1.10e+12'
    """
    with torch.device("meta"), torch.no_grad():
        dit, label = _new_dit(params), torch.zeros(1, dtype=torch.long)
        latent = torch.zeros(1, dit.config.in_channels, *[dit.config.input_size] * 2)
        with FlopCounterMode(display=False) as one_pass:
            dit(latent, label, label)
        with FlopCounterMode(display=False) as decoder:
            if params.autoencoder != "none":
                _new_autoencoder(params.autoencoder).decode(latent)
    return 2.0 * steps * one_pass.get_total_flops() + decoder.get_total_flops()


def _random_by_one_name(text: str, folder: Path) -> str:
    """Return ``name:weights`` with random ones if they are missing; a folder or the name of a network as it is."""
    name, colon, weights = text.rpartition(":")
    if not colon or (resolve_path(text) / "config.json").exists() or text in ("", name):
        return text
    random = _random_scorer(name, weights, folder)
    return f"{name}:{random}" if random else text


def _random_scorer(name: str, weights: str, folder: Path) -> str:
    """Return a file with random weights and the published transform, if the weights are missing here; else ""."""
    network = architectures.qualified_name(name)
    file, _, transform_of = weights.rpartition("@") if "@" in weights else (weights, "", "")
    is_file = Path(file).suffix.lower() in READERS
    if network.startswith(architectures.DGS) or (is_file and resolve_path(file).exists()):
        return ""
    published = list_published(network)
    origin = published[0] if is_file and not transform_of else find_published(published, transform_of or weights, name)
    if not is_file and _is_cached(origin):
        return ""
    path = folder / f"{origin.network.replace(':', '-')}-{origin.name or 'random'}.safetensors"
    if not path.exists():
        built = architectures.build(origin.network, **origin.arguments)
        with torch_seeded("rehearsal", origin.network):
            for parameter in built.parameters():
                nn.init.normal_(parameter, std=0.02)
        with atomic(path) as partial:
            save_file({key: value.contiguous() for key, value in built.state_dict().items()}, partial)
    return f"{path}@{origin.name}" if origin.name else str(path)


def _is_cached(weights: PublishedWeights) -> bool:
    """Return whether the library has downloaded weights before."""
    if weights.network.startswith(architectures.TIMM):
        config = architectures.import_timm().models.get_pretrained_cfg(weights.network.removeprefix(architectures.TIMM))
        return isinstance(try_to_load_from_cache(config.hf_hub_id or "timm/none", "model.safetensors"), str)
    return (Path(torch.hub.get_dir()) / "checkpoints" / weights.file).exists()
