"""diffusers' DiTs: weights under its names, and what its class computes otherwise than the original [F §2.6]."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FREQUENCY_SHIFTS = {"original": 0, "diffusers": 1}  # timestep frequencies are 10000^(−i/(128 − shift))
DIFFUSERS_NORM_EPS = 1e-5  # default of diffusers' norms before the MLPs
HUB_CONFIG = {"_class_name": "Transformer2DModel", "num_layers": 28, "num_attention_heads": 16,
              "attention_head_dim": 72, "in_channels": 4, "patch_size": 2, "num_embeds_ada_norm": 1000}
BLOCK_NAME = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
OUTER_NAMES = {"pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1",
               "proj_out_2": "final_layer.linear"}
BLOCK_NAMES = {"norm1.linear": "adaLN_modulation.1", "attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1",
               "ff.net.2": "mlp.fc2", "attn1.to_q": "attn.q", "attn1.to_k": "attn.k", "attn1.to_v": "attn.v",
               "norm1.emb.timestep_embedder.linear_1": "embedder.t_embedder.mlp.0",
               "norm1.emb.timestep_embedder.linear_2": "embedder.t_embedder.mlp.2",
               "norm1.emb.class_embedder.embedding_table": "embedder.y_embedder.embedding_table"}


def frequency_shift_of(frequencies: str, is_hub_model: bool, path: str) -> int:
    """Return the shift of the timestep frequencies of weights under diffusers' names.

    ``frequencies`` are "original" or "diffusers", or "" where the user set none, which only the original's weights as
    the hub has them (`HUB_CONFIG`) may leave open.

    Raises:
        ValueError: the frequencies are unknown.
    """
    if not frequencies and not is_hub_model:
        raise ValueError(f"{path} holds a DiT under diffusers' names, without its timestep frequencies; set "
                         f"prepare.dit_frequencies to diffusers if it was trained as a DiTTransformer2DModel, or to "
                         f"original if it was converted from the original's format, as facebook/DiT-XL-2-256 was")
    return FREQUENCY_SHIFTS[frequencies or "original"]


def differences(config: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return "name value" of each entry of a configuration that differs from the expected one; missing ones agree.

    >>> differences({"beta_start": 0.1, "beta_end": 0.02}, {"beta_start": 1e-4, "beta_end": 0.02})
    ['beta_start 0.1']
    """
    return [f"{name} {config[name]}" for name, value in expected.items() if config.get(name) not in (value, None)]


def from_diffusers_names(state: Mapping[str, Tensor], path: str = "the state") -> dict[str, Tensor]:
    """Return a diffusers DiT's weights under the original names.

    diffusers keeps a copy of the timestep and label embedders in every block. If all are equal they become the
    original's single one; if not, each block keeps its own (`DiT`, ``own_embedders``).

    Raises:
        ValueError: a name is missing or unknown.
    """
    renamed = {_original_name(name, path): tensor for name, tensor in state.items()
               if name != "pos_embed.pos_embed"}  # the fixed table, in older files
    depth = count_blocks(renamed)
    try:
        for block in range(depth):
            for kind in ("weight", "bias"):
                parts = [renamed.pop(f"blocks.{block}.attn.{part}.{kind}") for part in "qkv"]
                renamed[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
        embedders = [{name.partition(".embedder.")[2]: renamed.pop(name) for name in list(renamed)
                      if name.startswith(f"blocks.{block}.embedder.")} for block in range(depth)]
        shared = all(torch.equal(own[name], tensor) for own in embedders for name, tensor in embedders[0].items())
    except KeyError as error:
        raise ValueError(f"{path} lacks {error.args[0]}; it is a part of a DiT, or one of another kind") from None
    for block, own in enumerate(embedders):
        if block == 0 or not shared:
            prefix = f"blocks.{block}.embedder." if block else ""
            renamed |= {f"{prefix}{name}": tensor for name, tensor in own.items()}
    return renamed


def count_blocks(state: Mapping[str, Tensor]) -> int:
    """Return the depth of a DiT by the original names of its weights."""
    return 1 + max((int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))), default=-1)


def _original_name(name: str, path: str) -> str:
    layer, _, kind = name.rpartition(".")
    if match := BLOCK_NAME.fullmatch(layer):
        if match[2] in BLOCK_NAMES:
            return f"blocks.{match[1]}.{BLOCK_NAMES[match[2]]}.{kind}"
    elif layer in OUTER_NAMES:
        return f"{OUTER_NAMES[layer]}.{kind}"
    raise ValueError(f"{path} holds {name}, which no DiT has; it is a model of another kind")
