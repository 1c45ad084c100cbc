"""DiTs with published weights: the original's checkpoints, and diffusers' folders and files."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from dgs_utils.classifiers.state_dicts import Warn, read_tensors, select_state_dict
from dgs_utils.diffusion.difffit import add_difffit, fold
from dgs_utils.diffusion.diffusers_conversion import (
    DIFFUSERS_NORM_EPS,
    FREQUENCY_SHIFTS,
    HUB_CONFIG,
    count_blocks,
    differences,
    frequency_shift_of,
    from_diffusers_names,
)
from dgs_utils.diffusion.diffusers_folders import download_model, open_model_folder
from dgs_utils.diffusion.dit import DIT_SIZES, DiT
from dgs_utils.diffusion.published_dit import HUB_REPOSITORIES, download_hint, find_dit

# A name that every DiT has, by the original code and by diffusers.
ORIGINAL, DIFFUSERS = "x_embedder.proj.weight", "transformer_blocks.0.norm1.linear.weight"
LABEL_DROPOUT = 0.1  # share of labels that published DiTs, and those trained here, do not see; guidance needs it
LABELS = "y_embedder.embedding_table.weight"
OWN_EMBEDDER = "blocks.1.embedder.t_embedder.mlp.0.weight"  # of a model whose blocks have embedders of their own
PROCESS = {"prediction_type": "epsilon", "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
           "num_train_timesteps": 1000}


def load_dit(path: str, size: str = "", own_size: Mapping[str, int] | None = None, *, frequencies: str = "",
             side: int = 0, warn: Warn = warnings.warn, classes: int = 0) -> DiT:
    """Return a DiT with published weights, set to evaluation.

    Args:
        path: checkpoint under the original's names or diffusers' (``.pt``, ``.pth``, ``.ckpt``, ``.safetensors`` …;
            nested dictionaries and key prefixes are stripped), a folder that `DiT.save_pretrained` wrote, a diffusers
            ``DiTTransformer2DModel`` folder or the pipeline folder around it, or the hub's name of such a folder.
            DiffFit scales are folded in.
        size: key of `DIT_SIZES`; "" takes the published size with the checkpoint's shapes.
        own_size: patch_size, hidden_size, depth and num_heads of a checkpoint file of no published size.
        frequencies: of the timesteps, "original" or "diffusers"; "" if the format defines them.
        side: of the latents, for a checkpoint without a position table.
        warn: called with a sentence for each thing that was stripped or assumed.
        classes: that need labels of the model's own; a checkpoint with as many rows has none for "no class".

    Raises:
        ValueError: no such file, no DiT, one of another size, or size, side or frequencies are unknown.
    """
    source = find_dit(path)
    if source is None:
        folder = download_model(path, download_hint(path), "transformer")
        model = _load_folder(folder, frequencies, is_hub_model=path in HUB_REPOSITORIES)
    elif (source / "transformer").is_dir():
        _check_scheduler(source / "scheduler")
        model = _load_folder(source / "transformer", frequencies)
    elif source.is_dir():
        model = _load_folder(source, frequencies)
    else:
        model = _load_file(source, size, own_size or {}, frequencies, side, warn, classes)
    shape = {name: model.config[name] for name in ("patch_size", "hidden_size", "depth")}
    if size and DIT_SIZES[size] != shape | {"num_heads": model.config.num_heads}:
        raise ValueError(f"{path} is no {size}; {_size_hint(shape)}")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path} holds values in {name} that are no numbers, as of a training that diverged; take "
                             f"an earlier checkpoint")
    return model.eval()


def check_fit(model: DiT, path: str, channels: int, side: int, factor: int = 1) -> None:
    """Raise ValueError if a model was not made for latents of so many channels and such a side, each pixel of which
    stands for ``factor`` pixels a side of an image; ``path`` is that of its weights.
    """
    made_for = model.config.in_channels, model.config.input_size
    if made_for != (channels, side):
        theirs, ours = (f"{c} channels and side {s}" for c, s in (made_for, (channels, side)))
        cure = (f"set prepare.image_size to {made_for[1] * factor}, the size of its images" if made_for[0] == channels
                else "choose those that it was trained with")
        raise ValueError(f"{path} was made for latents of {theirs}, but prepare.autoencoder and prepare.image_size "
                         f"lead to {ours}; {cure}")


# ---- Files -----------------------------------------------------------------------------------------------------------

def _load_file(source: Path, size: str, own_size: Mapping[str, int], frequencies: str, side: int, warn: Warn,
               classes: int) -> DiT:
    tensors = read_tensors(source)
    # Of several networks the moving average is sampled, as in the original.
    state = select_state_dict(tensors, {ORIGINAL, DIFFUSERS}, source, warn, prefer_average=True)
    shift, norm_eps = FREQUENCY_SHIFTS[frequencies or "original"], 1e-6
    if DIFFUSERS in state:
        shift = frequency_shift_of(frequencies, False, str(source))
        norm_eps = DIFFUSERS_NORM_EPS if shift else norm_eps
        state = from_diffusers_names(state, str(source))
    elif ORIGINAL not in state:
        raise ValueError(f"{source} has no {ORIGINAL} and no {DIFFUSERS}, so it holds no DiT; it has "
                         f"{', '.join(list(tensors)[:3])} …; give DiT-XL-2-256x256.pt or alike")
    try:
        patches, _, inner, bias = (state[name] for name in (
            ORIGINAL, LABELS, "blocks.0.mlp.fc1.weight", "final_layer.linear.bias"))
    except KeyError as error:
        raise ValueError(f"{source} lacks {error.args[0]}; it is a part of a DiT, or one of another kind") from None
    if patches.dim() != 4 or inner.dim() != 2:
        raise ValueError(f"{source} has x_embedder.proj.weight of shape {tuple(patches.shape)}, which embeds no "
                         f"patches of images; it is a model of another kind")
    shape = {"patch_size": patches.shape[-1], "hidden_size": len(patches), "depth": count_blocks(state)}
    size = size or _published_size(shape)
    numbers = DIT_SIZES[size] if size else own_size
    if any(numbers.get(name) != number for name, number in shape.items()):
        raise ValueError(f"{source} is no {size or 'DiT of the size given'}; {_size_hint(shape)}")
    state, dropout = _with_null_row(state, classes, source, warn)
    channels, outputs = patches.shape[1], len(bias) / shape["patch_size"] ** 2
    if outputs not in (channels, 2 * channels):
        raise ValueError(f"{source} returns {outputs:g} channels for {channels}, which are neither noise alone nor "
                         f"noise and variance; it is a model of another kind")
    model = DiT(input_size=_latent_side(state, shape["patch_size"], side, source, warn), in_channels=channels,
                num_classes=len(state[LABELS]) - 1, class_dropout=dropout,
                mlp_ratio=len(inner) / len(patches), learn_sigma=outputs > channels,
                frequency_shift=shift, norm_eps=norm_eps, own_embedders=OWN_EMBEDDER in state, **numbers)
    scaled_blocks = count_blocks({name: tensor for name, tensor in state.items() if "gamma" in name})
    try:
        return fold(add_difffit(model, scaled_blocks).load_original(state))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _with_null_row(state: dict[str, torch.Tensor], classes: int, source: Path, warn: Warn,
                   ) -> tuple[dict[str, torch.Tensor], float]:
    """Return weights that have a row for "no class", and the label dropout that they were trained with.

    A model that was trained without label dropout has no such row; it gets one of zeros, which nothing reads.
    """
    rows = len(state[LABELS])
    if rows not in (1000, classes):  # as many as ImageNet has classes, or as the data set's need
        return state, LABEL_DROPOUT
    warn(f"{source} has {rows:,} rows of labels, as many as there are classes, and so none for no class; set "
         f"pool.guidance to 1, or give a DiT that was trained with label dropout")
    tables = {name: torch.cat([table, torch.zeros_like(table[:1])]) for name, table in state.items()
              if name.endswith(LABELS)}
    return state | tables, 0.0


def _latent_side(state: Mapping[str, torch.Tensor], patch: int, side: int, source: Path, warn: Warn) -> int:
    """Return the side of the latents that a checkpoint was made for."""
    if "pos_embed" not in state:
        if not side:
            raise ValueError(f"{source} has no pos_embed, so the side of its latents is unknown; give side")
        warn(f"{source} has no pos_embed, so the side of its latents is unknown; {side} is used, as given")
        return side
    tokens = state["pos_embed"].shape[-2]
    if math.isqrt(tokens) ** 2 != tokens:
        raise ValueError(f"{source} has {tokens} places in its pos_embed, which are no square; it is a model of "
                         f"another kind")
    return math.isqrt(tokens) * patch


def _published_size(shape: Mapping[str, int]) -> str:
    return next((name for name, numbers in DIT_SIZES.items() if shape.items() <= numbers.items()), "")


def _size_hint(shape: Mapping[str, int]) -> str:
    if name := _published_size(shape):
        return f"set prepare.dit_size to {name}"
    numbers = ", ".join(f"{name} {number}" for name, number in shape.items())
    return f"it has {numbers}: leave prepare.dit_size empty and set these, and num_heads as it was trained with"


# ---- Folders ---------------------------------------------------------------------------------------------------------

def _load_folder(folder: Path, frequencies: str, is_hub_model: bool = False) -> DiT:
    hint = "give the folder that save_pretrained wrote for a DiT, with config.json and the weights"
    written = DiT.load_config(folder) if (folder / "config.json").is_file() else {}
    if written.get("_class_name") == "DiT":
        model = open_model_folder(DiT, folder, hint)
        if frequencies and FREQUENCY_SHIFTS[frequencies] != model.config.frequency_shift:
            raise ValueError(f"{folder} records its timestep frequencies, and they are not "
                             f"prepare.dit_frequencies {frequencies!r}; leave that empty")
        return model
    # The hub's own folder has the class's first name.
    theirs = open_model_folder(diffusers.DiTTransformer2DModel, folder, hint,
                               ("DiTTransformer2DModel", "Transformer2DModel"))
    config: Any = theirs.config
    _check_kind(config, folder)
    shift = frequency_shift_of(frequencies, is_hub_model or HUB_CONFIG.items() <= written.items(), str(folder))
    state = from_diffusers_names(theirs.state_dict(), str(folder))
    model = DiT(input_size=config.sample_size, patch_size=config.patch_size, in_channels=config.in_channels,
                hidden_size=config.num_attention_heads * config.attention_head_dim, depth=config.num_layers,
                num_heads=config.num_attention_heads, num_classes=config.num_embeds_ada_norm,
                learn_sigma=theirs.out_channels == 2 * config.in_channels, frequency_shift=shift,
                norm_eps=config.norm_eps if shift else 1e-6, own_embedders=OWN_EMBEDDER in state)
    return model.load_original(state)


def _check_kind(config: Any, folder: Path) -> None:
    """Raise ValueError for settings of diffusers' class that no DiT has."""
    channels, outputs = config.in_channels, config.out_channels or config.in_channels
    others = differences(config, {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate",
                                  "attention_bias": True, "norm_elementwise_affine": False})
    if outputs not in (channels, 2 * channels):
        others.append(f"out_channels {outputs} for {channels}")
    if others:
        raise ValueError(f"{folder} is a DiT of another kind: its config.json has {', '.join(others)}; give one that "
                         f"was made with diffusers' defaults")


def _check_scheduler(folder: Path) -> None:
    """Raise ValueError if a pipeline's scheduler, if there is one, has another noise process or prediction than ours.
    """
    if not (folder / "scheduler_config.json").is_file():
        return
    config = diffusers.DDPMScheduler.load_config(folder)
    others = differences(config, PROCESS)
    if config.get("trained_betas") is not None or "Flow" in config.get("_class_name", ""):
        others.append("a noise process of its own")
    if others:
        raise ValueError(f"{folder} has {', '.join(others)}, but a DiT here predicts the noise of 1,000 linear steps "
                         f"(β from 0.0001 to 0.02); give a model that was trained so")
