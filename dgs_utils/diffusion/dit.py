"""The diffusion transformer (DiT), numerically the original definition [F §2.1].

Parameter names are the original's, so that published checkpoints load directly. As a diffusers model it saves and loads
with ``save_pretrained`` and ``from_pretrained``. Note that diffusers' own `DiTTransformer2DModel` is *not* the same
function (timestep frequencies, label tables, the norm's ε; [F §2.6]); one trained there needs `frequency_shift` and
`norm_eps`.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dgs_utils.runtime.devices import full_precision, store_matrices

# name -> (depth, hidden size, heads); the number after the slash is the patch size.
_SIZES = {"XL": (28, 1152, 16), "L": (24, 1024, 16), "B": (12, 768, 12), "S": (12, 384, 6)}
DIT_SIZES: dict[str, dict[str, int]] = {
    f"DiT-{size}/{patch}": {"patch_size": patch, "depth": depth, "hidden_size": width, "num_heads": heads}
    for size, (depth, width, heads) in _SIZES.items()
    for patch in (2, 4, 8)
}


def sinusoid_angles(positions: Tensor, width: int, shift: int = 0) -> Tensor:
    """Return the angles (N, width/2) of ``width`` sinusoidal features of positions (N,), in float64.

    Their frequencies are 10000^(−i/(width/2 − shift)).
    """
    indices = torch.arange(width // 2, dtype=torch.float64, device=positions.device)
    return positions.double()[:, None] * torch.exp(-math.log(10_000) * indices / (width // 2 - shift))


def position_table(grid: int, width: int) -> Tensor:
    """Return the fixed position embedding (1, grid², width) float32: columns in the first half, rows in the second."""
    axis = torch.arange(grid)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    halves = [sinusoid_angles(positions.flatten(), width // 2) for positions in (columns, rows)]
    return torch.cat([part for angles in halves for part in (angles.sin(), angles.cos())], dim=1)[None].float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (N, T, D) by per-sample vectors (N, D)."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


class TimestepEmbedder(nn.Module):
    """Timesteps to vectors: 256 sinusoids in the order [cos, sin], then a two-layer perceptron."""

    def __init__(self, hidden_size: int, shift: int = 0, frequencies: int = 256):
        super().__init__()
        self.frequencies, self.shift = frequencies, shift
        self.mlp = nn.Sequential(nn.Linear(frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps (N,), in steps of the full process, as (N, hidden_size)."""
        angles = sinusoid_angles(t, self.frequencies, self.shift)
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(features.to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """Labels to vectors; the last row of the table means "no class" and replaces dropped labels in training."""

    def __init__(self, num_classes: int, hidden_size: int, dropout: float):
        super().__init__()
        self.null, self.dropout = num_classes, dropout
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Embed labels (N,) as (N, hidden_size); in training mode each is dropped with probability ``dropout``."""
        return self.embedding_table(self.dropped(y, rng))

    def dropped(self, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Return labels (N,), in training mode with some of them replaced by "no class"."""
        if not self.training or self.dropout <= 0:
            return y
        device = rng.device if rng else y.device
        lost = torch.rand(y.shape, generator=rng, device=device).to(y.device) < self.dropout
        return torch.where(lost, self.null, y)


class ConditionEmbedder(nn.Module):
    """Embedders of a block's own, as diffusers' class has in each block once it was trained."""

    def __init__(self, hidden_size: int, num_classes: int, shift: int):
        super().__init__()
        self.t_embedder = TimestepEmbedder(hidden_size, shift)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, dropout=0.0)  # the model drops labels for all blocks

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Embed timesteps (N,) and labels (N,) as (N, hidden_size)."""
        return self.t_embedder(t) + self.y_embedder(y)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection, whose output is [q; k; v]."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_parameter("gamma1", None)  # DiffFit scales of the two projections, see `add_difffit`
        self.register_parameter("gamma2", None)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (N, T, D)."""
        n, tokens, width = x.shape
        qkv = scaled(self.qkv(x), self.gamma1)
        q, k, v = qkv.view(n, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        return scaled(self.proj(mixed), self.gamma2)


class Mlp(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, hidden_size: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden_size, inner), nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (N, T, D) one by one."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Transformer block with adaLN-zero conditioning: shift, scale and gate for attention, then for the MLP."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, norm_eps: float = 1e-6):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=norm_eps)
        self.attn = Attention(hidden_size, num_heads)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.register_module("embedder", None)  # see `DiT`, own_embedders
        self.register_parameter("gamma1", None)  # DiffFit scales of the two gated branches
        self.register_parameter("gamma2", None)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Transform tokens (N, T, D) under the condition c (N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        attended = self.attn(modulate(self.norm(x), shift1, scale1))
        x = x + scaled(gate1.unsqueeze(1) * attended, self.gamma1)
        transformed = self.mlp(modulate(self.norm2(x), shift2, scale2))
        return x + scaled(gate2.unsqueeze(1) * transformed, self.gamma2)


class FinalLayer(nn.Module):
    """Last norm, its conditioning, and the projection of each token to a patch."""

    def __init__(self, hidden_size: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens (N, T, D) to flattened patches (N, T, outputs), in the layer's own precision.

        Guidance takes the difference of two predictions several times, and so would magnify the rounding of bf16.
        """
        with full_precision(x.device):
            x, c = x.to(self.linear.weight.dtype), c.to(self.linear.weight.dtype)
            shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
            return self.linear(modulate(self.norm(x), shift, scale))


class PatchEmbedder(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Turn latents (N, C, H, W) into tokens (N, H·W/p², D), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


def scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Multiply by a DiffFit scale, if there is one."""
    return x if gamma is None else x * gamma


class DiT(ModelMixin, ConfigMixin, CacheMixin):
    """Class-conditional diffusion transformer.

    Args:
        input_size: side of the (latent) input in pixels; a multiple of ``patch_size``.
        patch_size: side of a patch.
        in_channels: channels of the input (4 for Stable Diffusion's latents).
        hidden_size: width; a multiple of 4 and of ``num_heads``.
        depth: number of blocks.
        num_heads: attention heads.
        num_classes: classes; label ``num_classes`` means "no class".
        learn_sigma: also predict the variance, in as many further channels.
        class_dropout: share of labels replaced by "no class" in training mode.
        mlp_ratio: inner width of the MLPs over ``hidden_size``.
        frequency_shift: timestep frequencies are 10000^(−i/(128 − shift)): 0 in the original, 1 in diffusers' class.
        norm_eps: ε of the norms before the MLPs: 1e-6 in the original, 1e-5 by default in diffusers' class.
        own_embedders: each block but the first has timestep and label embedders of its own, as in diffusers' class.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, input_size: int = 32, patch_size: int = 2, in_channels: int = 4, hidden_size: int = 1152,
                 depth: int = 28, num_heads: int = 16, num_classes: int = 1000, learn_sigma: bool = True,
                 class_dropout: float = 0.1, mlp_ratio: float = 4.0, frequency_shift: int = 0, norm_eps: float = 1e-6,
                 own_embedders: bool = False):
        super().__init__()
        if input_size % patch_size or hidden_size % 4 or hidden_size % num_heads:
            raise ValueError(f"a DiT of input_size {input_size}, patch_size {patch_size}, hidden_size {hidden_size} "
                             f"and num_heads {num_heads} does not divide evenly; input_size must be a multiple of "
                             f"patch_size, and hidden_size of 4 and of num_heads")
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        self.gradient_checkpointing = False
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size, frequency_shift)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout)
        self.pos_embed = nn.Parameter(position_table(input_size // patch_size, hidden_size), requires_grad=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, norm_eps) for _ in range(depth))
        for block in self.blocks[1:] if own_embedders else []:
            block.embedder = ConditionEmbedder(hidden_size, num_classes, frequency_shift)
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels)
        self._initialise()

    @classmethod
    def from_size(cls, name: str, **config) -> "DiT":
        """Return a model of a published size, "DiT-S/8" … "DiT-XL/2"; ``config`` sets the other arguments.

        Raises:
            ValueError: an unknown size.
        """
        if name not in DIT_SIZES:
            raise ValueError(f"{name!r} is no DiT size; choose one of {', '.join(DIT_SIZES)}")
        return cls(**DIT_SIZES[name], **config)

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, 0.02²) for embedders, zero for all that gates or outputs (adaLN-zero)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patches = self.x_embedder.proj
        nn.init.xavier_uniform_(patches.weight.data.flatten(1))
        nn.init.zeros_(patches.bias)
        for part in (self, *(block.embedder for block in self.blocks if block.embedder is not None)):
            for weight in (part.y_embedder.embedding_table.weight, part.t_embedder.mlp[0].weight,
                           part.t_embedder.mlp[2].weight):
                nn.init.normal_(weight, std=0.02)
        for layer in (*(block.adaLN_modulation[1] for block in self.blocks), self.final_layer.adaLN_modulation[1],
                      self.final_layer.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Predict noise, and variance where it is learned.

        Args:
            x: noisy latents (N, C, H, W).
            t: timesteps (N,), integers or reals in [0, 1000).
            y: labels (N,) int64 in [0, num_classes].
            rng: source of the label dropout (training mode only).

        Returns:
            (N, C or 2C, H, W): noise, then the variance's interpolation coefficient.
        """
        y = self.y_embedder.dropped(y, rng)
        c = self.t_embedder(t) + self.y_embedder.embedding_table(y)
        tokens = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            own = c if block.embedder is None else block.embedder(t, y)
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, own, use_reentrant=False)
            else:
                tokens = block(tokens, own)
        return self._unpatchify(self.final_layer(tokens, c))

    def _unpatchify(self, patches: Tensor) -> Tensor:
        size, channels = self.config.patch_size, self.out_channels
        grid = self.config.input_size // size
        pixels = patches.view(-1, grid, grid, size, size, channels)
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, grid * size, grid * size)

    def forward_with_guidance(self, x: Tensor, t: Tensor, y: Tensor, scale: float, channels: int = 0) -> Tensor:
        """Predict with classifier-free guidance: ε = ε_null + scale · (ε_class − ε_null).

        Args:
            x, t, y: latents (N, C, H, W), timesteps (N,) and labels (N,).
            scale: guidance scale; at 1 the null half is not computed at all.
            channels: how many of the noise channels are guided. 0 means as published: the first three of four latent
                channels [F §2.5], and all channels of any other input. The rest keep the conditional prediction.

        Returns:
            (N, C or 2C, H, W), as `forward`.
        """
        if scale == 1:
            return self(x, t, y)
        width = self.config.in_channels
        channels = channels or (3 if width == 4 else width)
        null = torch.full_like(y, self.config.num_classes)
        conditional, unconditional = self(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null])).chunk(2)
        guided = torch.lerp(unconditional[:, :channels], conditional[:, :channels], scale)
        return torch.cat([guided, conditional[:, channels:]], dim=1)

    def store_matrices(self, precision: str) -> "DiT":
        """Store all matrices but the last layer's in a precision, for sampling (see `devices.store_matrices`)."""
        for part in (self.x_embedder, self.t_embedder, self.blocks):
            store_matrices(part, precision)
        return self

    def load_original(self, state: dict[str, Tensor]) -> "DiT":
        """Load weights under the original's names and return the model.

        A frozen ``pos_embed`` may be present or absent; ``gamma`` entries need `add_difffit` first.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape.
        """
        own = self.state_dict()
        state = {"pos_embed": own["pos_embed"], **state}
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which this DiT does not have"
            raise ValueError(f"the checkpoint {what}; it was made for another size or kind of model")
        for name, tensor in state.items():
            if tensor.shape != own[name].shape:
                raise ValueError(f"the checkpoint's {name} has shape {tuple(tensor.shape)}, this DiT needs "
                                 f"{tuple(own[name].shape)}; check dit_size, image_size and the number of classes")
        self.load_state_dict(state)
        return self
