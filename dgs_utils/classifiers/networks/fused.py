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

SOURCE = Path(__file__).with_suffix(".c")
LANES = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8  # numbers of a vector
# Whether products of pairs of bf16 are faster than those of fp32: on AMD's processors with such instructions; Intel's
# are half as fast.
PAIRS = False
C_OPTIONS: dict[str, tuple[str, ...]] = {  # by precision
    "fp32": (f"-DLANES={LANES}",), "bf16": (f"-DLANES={LANES}", "-DBF16", *["-DDOT"] * PAIRS)}
CHANNELS, TILE = 32, 4  # channels divide by this, and sides by output pixels a side of a tile


class Fusible(nn.Module):
    """A module whose convolutions and norms are PyTorch's, or those of this file (`fuse`)."""

    fused = False

    def block(self, layer: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, pool: int = 1) -> Tensor:
        """Return the norm of a convolution of x, after a ReLU if that is wanted, averaged over squares of ``pool``
        pixels a side. Fused, the convolution goes without its bias, which the instance norm takes out again.
        """
        ours = self.fused and layer.kernel_size == (3, 3) and layer.stride == (1, 1)
        kernel, dtype = None, x.dtype
        if ours and x.shape[1] == 3 and x.shape[2] % pool == 0 and not x.requires_grad:
            kernel, dtype = layer.weight, torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else dtype
        elif ours and not (x.shape[1] % CHANNELS or x.shape[2] % TILE):
            x = Winograd.apply(x, layer.weight)
        elif self.fused:
            x = F.conv2d(channels_last(x), channels_last(layer.weight), None, layer.stride, layer.padding)
            dtype = x.dtype
        else:
            x = layer(x)
        if self.fused and x.shape[2] % pool == 0:
            return NormReluPool.apply(x, kernel, norm.weight, norm.bias, norm.eps, relu, pool, dtype)
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


def _call(function: str, first: Tensor, *args: Tensor | float | None) -> None:
    """Call a function of the C, in the storage of the first tensor."""
    library = compile_c(SOURCE, *C_OPTIONS["bf16" if first.dtype == torch.bfloat16 else "fp32"])
    getattr(library, function)(*(ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, Tensor)
                                 else ctypes.c_void_p() if arg is None
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
    """Instance norm with weights, a ReLU if wanted, and an average pool of images (N, C, S, S).

    With a kernel (C, 3, 3, 3) the images are the convolution of x (N, 3, S, S) with padding 1, which need not be stored.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float, relu: bool,
                pool: int, dtype: torch.dtype) -> Tensor:
        n, channels, side = len(x), len(weight), x.shape[2]
        x = channels_last(x) if kernel is None else F.pad(x.float().permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        taps = None if kernel is None else kernel.permute(2, 3, 1, 0).contiguous()
        out, statistics = _empty(n, channels, side // pool, dtype), bias.new_empty(n, 2, channels)
        _call("norm", out, x, taps, weight, bias, statistics, n, side, channels, epsilon, relu, pool)
        ctx.save_for_backward(x, taps, weight, bias, statistics)
        ctx.options = n, side, channels, relu, pool
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, weight, bias, statistics = ctx.saved_tensors
        out = torch.empty_like(x) if taps is None else x.new_empty(len(x), 3, 3, 3, len(weight))
        sums = torch.empty_like(statistics)
        _call("norm_backward", channels_last(gradient), x, taps, weight, bias, statistics, out, sums, *ctx.options)
        of_x, of_kernel = (out, None) if taps is None else (None, out.sum(0).permute(3, 2, 0, 1))
        return of_x, of_kernel, *sums.sum(0).flip(0), None, None, None, None
