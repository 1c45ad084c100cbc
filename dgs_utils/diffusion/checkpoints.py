"""Published DiT weights: the original checkpoint, or the hub's diffusers folder with its renaming undone [F §2.6]."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file
from torch import Tensor

from dgs_utils.diffusion.difffit import add_difffit, fold
from dgs_utils.diffusion.dit import DIT_SIZES, DiT
from dgs_utils.diffusion.folders import from_hub, open_folder
from dgs_utils.diffusion.published import find_dit, hub_remedy

READABLE = ("patch_size", "hidden_size", "depth")  # what the shapes of weights tell of a size; heads they do not


def load_dit(path: str, size: str = "", own_size: Mapping[str, int] | None = None) -> DiT:
    """Return a DiT with published weights, set to evaluation.

    Args:
        path: original checkpoint (``.pt``, ``.pth``, ``.safetensors``; with or without training state around its
            "ema"), a folder that `DiT.save_pretrained` wrote, a diffusers ``DiTTransformer2DModel`` folder or the
            pipeline folder around it, or the hub's name of such a folder. DiffFit scales are folded in.
        size: key of `DIT_SIZES`; "" takes the published size with the checkpoint's shapes.
        own_size: patch_size, hidden_size, depth and num_heads of an original checkpoint of no published size.

    Raises:
        ValueError: there is no such file, it is not a DiT, or it is one of another size.
    """
    source = find_dit(path)
    if source is None:
        model = _load_folder(from_hub(path, hub_remedy(path), "transformer"))
    elif source.is_dir():
        model = _load_folder(source / "transformer" if (source / "transformer").is_dir() else source)
    else:
        model = _load_original(source, size, own_size or {})
    if size and any(model.config[name] != number for name, number in DIT_SIZES[size].items()):
        raise ValueError(f"{path} is no {size}; {_advice({name: model.config[name] for name in READABLE})}")
    return model.eval()


def check_fit(model: DiT, path: str, channels: int, side: int, conditions: int) -> None:
    """Check that a model was made for these latents and knows as many classes as it will be asked for.

    Args:
        model: the model.
        path: where it comes from, for the sentence.
        channels: of the latents.
        side: of the latents.
        conditions: the highest class label plus one.

    Raises:
        ValueError: it does not fit.
    """
    config = model.config
    made_for, needed = (config.in_channels, config.input_size), (channels, side)
    if made_for != needed:
        theirs, ours = (f"{c} channels and side {s}" for c, s in (made_for, needed))
        raise ValueError(f"{path} was made for latents of {theirs}, but prepare.autoencoder and prepare.image_size "
                         f"lead to {ours}; choose those that it was trained with")
    if conditions > config.num_classes:
        raise ValueError(f"{path} knows {config.num_classes} classes, but a class has the label {conditions - 1} in "
                         f"it; correct prepare.class_index")


# ---- The original's format -------------------------------------------------------------------------------------------

def _load_original(source: Path, size: str, own_size: Mapping[str, int]) -> DiT:
    state = _read_state(source)
    patches, inner = state["x_embedder.proj.weight"], state["blocks.0.mlp.fc1.weight"]
    found = {"patch_size": patches.shape[-1], "hidden_size": len(patches),
             "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))}
    numbers = DIT_SIZES[size or _published(found)] if size or _published(found) else own_size
    if any(numbers.get(name) != number for name, number in found.items()):
        raise ValueError(f"{source} is no {size or 'DiT of the size given'}; {_advice(found)}")
    channels = patches.shape[1]
    model = DiT(input_size=math.isqrt(state["pos_embed"].shape[1]) * numbers["patch_size"], in_channels=channels,
                num_classes=len(state["y_embedder.embedding_table.weight"]) - 1, mlp_ratio=len(inner) / len(patches),
                learn_sigma=len(state["final_layer.linear.bias"]) > channels * numbers["patch_size"] ** 2, **numbers)
    scaled = [int(name.split(".")[1]) for name in state if "gamma" in name]
    return fold(add_difffit(model, max(scaled, default=-1) + 1).load_original(state))


def _published(found: Mapping[str, int]) -> str:
    """Return the published size with these shapes, or ""."""
    return next((name for name, numbers in DIT_SIZES.items() if found.items() <= numbers.items()), "")


def _advice(found: Mapping[str, int]) -> str:
    if name := _published(found):
        return f"set prepare.dit_size to {name}"
    numbers = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"it has {numbers}: leave prepare.dit_size empty and set these, and num_heads as it was trained with"


def _read_state(source: Path) -> dict[str, Tensor]:
    try:
        if source.suffix == ".safetensors":
            state = load_file(source)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their arguments in it
                state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or foreign file
        raise ValueError(f"{source} cannot be read as weights ({type(error).__name__}); fetch it again") from None
    state = state.get("ema", state.get("model", state))
    needed = ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "pos_embed", "blocks.0.mlp.fc1.weight",
              "final_layer.linear.bias")
    for name in needed:
        if name not in state:
            raise ValueError(f"{source} has no {name}, so it holds no DiT weights under their original names; give "
                             f"DiT-XL-2-256x256.pt or alike")
    return state


# ---- diffusers' format -----------------------------------------------------------------------------------------------

def _load_folder(folder: Path) -> DiT:
    remedy = "give the folder that save_pretrained wrote for a DiT, with config.json and the weights"
    if (folder / "config.json").is_file() and DiT.load_config(folder).get("_class_name") == "DiT":
        return open_folder(DiT, folder, remedy)
    # the hub's own folder still has the class's first name
    names = ("DiTTransformer2DModel", "Transformer2DModel")
    theirs = open_folder(diffusers.DiTTransformer2DModel, folder, remedy, names)
    config = theirs.config
    model = DiT(input_size=config.sample_size, patch_size=config.patch_size, in_channels=config.in_channels,
                hidden_size=config.num_attention_heads * config.attention_head_dim, depth=config.num_layers,
                num_heads=config.num_attention_heads, num_classes=config.num_embeds_ada_norm,
                learn_sigma=theirs.out_channels == 2 * config.in_channels)
    return model.load_original(undo_diffusers(theirs.state_dict(), config.num_layers))


def undo_diffusers(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return a diffusers DiT's weights under the original names.

    diffusers keeps a copy of the timestep and label embedders in every block; all must be the same.

    Raises:
        ValueError: the copies differ, as after a fine-tuning that trained them apart.
    """
    first = "transformer_blocks.0.norm1.emb."
    shared = {name.removeprefix(first): tensor for name, tensor in state.items() if name.startswith(first)}
    for block in range(1, depth):
        for name, tensor in shared.items():
            if not torch.equal(state[f"transformer_blocks.{block}.norm1.emb.{name}"], tensor):
                raise ValueError(f"block {block} has its own {name}, but the original DiT shares one among all blocks; "
                                 f"these weights were fine-tuned in a form that cannot be undone")
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for block in range(depth):
        ours, theirs = f"blocks.{block}.", f"transformer_blocks.{block}."
        names |= {ours + "adaLN_modulation.1": theirs + "norm1.linear", ours + "attn.proj": theirs + "attn1.to_out.0",
                  ours + "mlp.fc1": theirs + "ff.net.0.proj", ours + "mlp.fc2": theirs + "ff.net.2"}
    found = {f"{ours}.{kind}": state[f"{theirs}.{kind}"]
             for ours, theirs in names.items() for kind in ("weight", "bias")}
    for block in range(depth):
        for kind in ("weight", "bias"):
            parts = [state[f"transformer_blocks.{block}.attn1.to_{part}.{kind}"] for part in "qkv"]
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    for ours, theirs in (("mlp.0", "linear_1"), ("mlp.2", "linear_2")):
        for kind in ("weight", "bias"):
            found[f"t_embedder.{ours}.{kind}"] = shared[f"timestep_embedder.{theirs}.{kind}"]
    found["y_embedder.embedding_table.weight"] = shared["class_embedder.embedding_table.weight"]
    return found
