"""Random weights in the published formats, which a rehearsal takes where the real ones are not on this machine.

What is measured with them (seconds, memory, whether files and options go together) holds; images and accuracies do not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import save_file
from torch import nn

from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.published_weights import PublishedWeights, find_published, list_published
from dgs_utils.classifiers.state_dicts import READERS
from dgs_utils.diffusion.autoencoder import HUB
from dgs_utils.diffusion.blank_models import DEFAULT_SIZE, blank_autoencoder, blank_dit, described_size
from dgs_utils.diffusion.published_dit import find_dit
from dgs_utils.params import PrepareParams
from dgs_utils.params.base import StageParams
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.atomic import atomic
from dgs_utils.store.paths import resolve_path


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
        names = getattr(params, name)
        items = names if isinstance(names, list) else [names] if names else []
        replaced = [_random_by_one_name(item, folder) for item in items]
        if replaced != items:
            changes[name] = replaced if isinstance(names, list) else replaced[0]
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
    size = "-".join(map(str, described_size(params).values())) or (params.dit_size or DEFAULT_SIZE).replace("/", "-")
    path = folder / f"{size}-{params.image_size}x{params.image_size}.pt"
    if not path.exists():
        with torch_seeded("rehearsal", "dit"):
            model = blank_dit(params)
        with atomic(path) as partial:
            torch.save(model.state_dict(), partial)
    return path


def _random_autoencoder(kind: str, folder: Path) -> Path:
    path = folder / kind
    if not path.exists():
        with torch_seeded("rehearsal", "autoencoder"):
            model = blank_autoencoder(kind)
        with atomic(path) as partial:
            model.save_pretrained(partial)
    return path


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
