"""Layers of networks on the CPU in C, compiled in two seconds: Winograd's convolution; norm, ReLU and pool in one.

A convolution of 3 × 3 becomes 36 matrix products, one for each number of a tile of 6 × 6, with a quarter of the
multiplications [Lavin and Gray, arXiv:1509.09308], 72 tiles at a time, so that they stay in a cache. That of
the images themselves is computed with its norm, and again for the gradients, so that it need not be stored. Between
layers images lie as (N, S, S, C), "channels last".
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgs_utils.runtime.compiling import compile_c

SOURCE = Path(__file__).with_suffix(".c")
C_OPTIONS: dict[str, tuple[str, ...]] = {"fp32": (), "bf16": ("-DBF16",)}  # by precision
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
CHANNELS, TILE = 32, 4  # multiples of which the numbers of channels, and the sides of images, are


class Fusible(nn.Module):
    """A module whose convolutions and norms are PyTorch's, or those of this file (`fuse`)."""

    fused = False

    def block(self, layer: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, pool: int = 1) -> Tensor:
        """Return the norm of a convolution of x, after a ReLU if that is wanted, averaged over squares of ``pool``
        pixels a side. Fused, the convolution goes without its bias, which the instance norm takes out again.
        """
        if not self.fused:
            x = layer(x)
        else:
            small = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups) == (
                (3, 3), (1, 1), (1, 1), (1, 1), 1)
            if small and x.shape[1] == 3 and not (x.requires_grad or x.shape[2] % pool):
                return First.apply(x, layer.weight, norm.weight, norm.bias, norm.eps, relu, pool)
            if small and not (x.shape[1] % CHANNELS or x.shape[2] % TILE):
                x = Winograd.apply(x, layer.weight)
            else:
                x = F.conv2d(channels_last(x), channels_last(layer.weight), None, layer.stride, layer.padding)
        if self.fused and x.shape[2] % pool == 0:
            return NormReluPool.apply(x, norm.weight, norm.bias, norm.eps, relu, pool)
        x = F.relu(norm(x)) if relu else norm(x)
        return F.avg_pool2d(x, pool) if pool > 1 else x


def can_fuse(network: nn.Module) -> bool:
    """Return whether layers can be fused: of networks of ours, in fp32 on the CPU, with instance norms alone."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm | nn.BatchNorm2d)]
    return isinstance(network, Fusible) and all(
        isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels and norm.num_channels % CHANNELS == 0
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
    library = compile_c(SOURCE, *C_OPTIONS[PRECISIONS[first.dtype]])
    getattr(library, function)(*(ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, Tensor)
                                 else ctypes.c_float(arg) if isinstance(arg, float) else ctypes.c_int(arg)
                                 for arg in (first, *args, torch.get_num_threads())))


class Winograd(torch.autograd.Function):
    """Convolution (N, C, S, S) → (N, K, S, S) by a kernel (K, C, 3, 3) with padding 1; S is a multiple of 4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        x, kernel, shape = channels_last(x), kernel.contiguous(), (len(x), x.shape[2], x.shape[1], len(kernel))
        ctx.save_for_backward(x, kernel)
        ctx.shape, out = shape, _empty(len(x), len(kernel), x.shape[2], x.dtype)
        _call("winograd", x, kernel, out, *shape, False)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (x, kernel), (n, side, inputs, outputs) = ctx.saved_tensors, ctx.shape
        gradient, of_x, of_kernel = channels_last(gradient), torch.empty_like(x), torch.empty_like(kernel)
        _call("winograd_kernel", x, gradient, of_kernel, *ctx.shape)
        _call("winograd", gradient, kernel, of_x, n, side, outputs, inputs, True)
        return of_x, of_kernel


class NormReluPool(torch.autograd.Function):
    """Instance norm with weights, a ReLU if wanted, and an average pool of images (N, C, S, S)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, relu: bool, pool: int) -> Tensor:
        x, (n, channels, side) = channels_last(x), x.shape[:3]
        out, statistics = _empty(n, channels, side // pool, x.dtype), bias.new_empty(n, 2, channels)
        _call("norm", out, x, weight, bias, statistics, n, side, channels, epsilon, relu, pool)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.options = n, side, channels, relu, pool
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        of_x, sums = torch.empty_like(x), torch.empty_like(statistics)
        _call("norm_backward", channels_last(gradient), x, weight, bias, statistics, of_x, sums, *ctx.options)
        return of_x, *sums.sum(0).flip(0), None, None, None


class First(torch.autograd.Function):
    """`NormReluPool` of the convolution of images (N, 3, S, S), which need no gradient, by a kernel (C, 3, 3, 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor, epsilon: float, relu: bool,
                pool: int) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        bordered = F.pad(x.float().permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        taps, n, channels, side = kernel.permute(2, 3, 1, 0).contiguous(), len(x), len(kernel), x.shape[2]
        out, statistics = _empty(n, channels, side // pool, dtype), bias.new_empty(n, 2, channels)
        _call("first", out, bordered, taps, weight, bias, statistics, n, side, channels, epsilon, relu, pool)
        ctx.save_for_backward(bordered, taps, weight, bias, statistics)
        ctx.options = n, side, channels, relu, pool
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *saved, statistics = ctx.saved_tensors
        n, channels = gradient.shape[:2]
        of_kernel, sums = statistics.new_empty(n, 3, 3, 3, channels), torch.empty_like(statistics)
        _call("first_backward", channels_last(gradient), *saved, statistics, of_kernel, sums, *ctx.options)
        return None, of_kernel.sum(0).permute(3, 2, 0, 1), *sums.sum(0).flip(0), None, None, None
