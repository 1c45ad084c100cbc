"""Layers of networks on the CPU in C, compiled in a second: Winograd's convolution, and norm, ReLU and pool in one.

A convolution of 3 × 3 becomes 36 matrix products, one for each number of a tile of 6 × 6, with a quarter of the
multiplications [Lavin and Gray, arXiv:1509.09308]. Between layers images lie as (N, S, S, C), "channels last".
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgs_utils.runtime.compiling import compile_c
from dgs_utils.runtime.devices import full_precision

SOURCE = Path(__file__).with_suffix(".c")
C_OPTIONS: dict[str, tuple[str, ...]] = {"fp32": (), "bf16": ("-DBF16",)}  # by precision
LANES, TILE = 16, 4  # channels that the C works on at a time, and output pixels a side of a tile
TO_TILE = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
KERNEL_MAP = torch.kron(TO_TILE, TO_TILE)  # (36, 9), from a kernel to its tile


class Fusible(nn.Module):
    """A module whose convolutions and norms are PyTorch's, or those of this file (`fuse`)."""

    fused = False

    def convolve(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """Return the convolution of x; fused without its bias, which the instance norm that follows takes out again."""
        if not self.fused:
            return layer(x)
        if layer.kernel_size == (3, 3) and layer.stride == (1, 1) and not (x.shape[1] % LANES or x.shape[2] % TILE):
            return Winograd.apply(x, layer.weight)
        return F.conv2d(channels_last(x), channels_last(layer.weight), None, layer.stride, layer.padding)

    def normalise(self, norm: nn.Module, x: Tensor, relu: bool = True, pool: int = 1) -> Tensor:
        """Return the norm of x, after a ReLU if that is wanted, averaged over squares of ``pool`` pixels a side."""
        if self.fused and x.shape[2] % pool == 0:
            return NormReluPool.apply(x, norm.weight, norm.bias, norm.eps, relu, pool)
        x = F.relu(norm(x)) if relu else norm(x)
        return F.avg_pool2d(x, pool) if pool > 1 else x


def can_fuse(network: nn.Module) -> bool:
    """Return whether layers can be fused: of networks of ours, in fp32 on the CPU, with instance norms alone."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm | nn.BatchNorm2d)]
    return isinstance(network, Fusible) and all(
        isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels and norm.num_channels % LANES == 0
        and (norm.weight.device.type, norm.weight.dtype) == ("cpu", torch.float32) for norm in norms)


def fuse(network: nn.Module, fused: bool = True) -> None:
    """Let a network that `can_fuse` run in the layers of this file from now on, or in PyTorch's."""
    for module in network.modules():
        if isinstance(module, Fusible):
            module.fused = fused


def channels_last(x: Tensor) -> Tensor:
    """Return images (N, C, S, S) that lie in memory as (N, S, S, C)."""
    return x.contiguous(memory_format=torch.channels_last)


def _empty(n: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(n, channels, side, side, dtype=dtype, memory_format=torch.channels_last)


def _call(function: str, first: Tensor, *args: Tensor | float) -> None:
    """Call a function of the C, in the storage of the first tensor."""
    library = compile_c(SOURCE, *C_OPTIONS["bf16" if first.dtype == torch.bfloat16 else "fp32"])
    getattr(library, function)(*(ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, Tensor)
                                 else ctypes.c_float(arg) if isinstance(arg, float) else ctypes.c_int(arg)
                                 for arg in (first, *args, torch.get_num_threads())))


def _to_tiles(function: str, x: Tensor) -> Tensor:
    """Return images (N, C, S, S) as tiles (36, tiles, C)."""
    n, channels, side = x.shape[:3]
    tiles = x.new_empty(36, n * (side // TILE) ** 2, channels)
    _call(function, channels_last(x), tiles, n, side, channels)
    return tiles


def _convolve_tiles(tiles: Tensor, weight: Tensor, n: int, side: int) -> Tensor:
    """Return the images (N, K, S, S) of tiles (36, tiles, C) multiplied by a kernel (K, C, 3, 3)."""
    outputs, inputs = weight.shape[:2]
    product = tiles @ (KERNEL_MAP @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, inputs, outputs).to(tiles)
    images = _empty(n, outputs, side, tiles.dtype)
    _call("output_tiles", product, images, n, side, outputs)
    return images


class Winograd(torch.autograd.Function):
    """Convolution (N, C, S, S) → (N, K, S, S) by a kernel (K, C, 3, 3) with padding 1; S is a multiple of 4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        tiles = _to_tiles("input_tiles", x)
        ctx.save_for_backward(tiles, weight)
        with full_precision(x.device):
            return _convolve_tiles(tiles, weight, len(x), x.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        tiles, weight = ctx.saved_tensors
        product = (tiles.mT @ _to_tiles("gradient_tiles", gradient)).float()
        kernel = (KERNEL_MAP.T @ product.view(36, -1)).view(3, 3, *product.shape[1:]).permute(3, 2, 0, 1)
        del product  # larger than the network's weights
        tiles, mirrored = _to_tiles("input_tiles", gradient), weight.flip(2, 3).transpose(0, 1)
        return _convolve_tiles(tiles, mirrored, len(gradient), gradient.shape[-1]), kernel


class NormReluPool(torch.autograd.Function):
    """Instance norm with weights, a ReLU if wanted, and an average pool of images (N, C, S, S)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, relu: bool, pool: int) -> Tensor:
        x, (n, channels, side) = channels_last(x), x.shape[:3]
        out, statistics = _empty(n, channels, side // pool, x.dtype), bias.new_empty(n, 2, channels)
        _call("norm", x, weight, bias, out, statistics, n, side, channels, epsilon, relu, pool)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.options = n, side, channels, relu, pool
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        out, sums = torch.empty_like(x), torch.empty_like(statistics)
        _call("norm_backward", channels_last(gradient), x, weight, bias, statistics, out, sums, *ctx.options)
        return out, *sums.sum(0).flip(0), None, None, None
