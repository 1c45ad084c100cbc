"""The optimisers of the evaluation protocols, fused on a GPU."""

from collections.abc import Callable

from torch import nn, optim


def sgd(network: nn.Module, rate: float) -> optim.Optimizer:
    """Return SGD with momentum 0.9 and weight decay 5e-4 on every parameter."""
    kind = {"fused": True} if on_gpu(network) else {"foreach": True}
    return optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, **kind)


def adamw(network: nn.Module, rate: float) -> optim.Optimizer:
    """Return AdamW with weight decay 0.01 on weight matrices and kernels only."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    kind = {"fused": True} if on_gpu(network) else {}
    return optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=rate, weight_decay=0.01,
                       **kind)


def on_gpu(network: nn.Module) -> bool:
    """Return whether a network is on a GPU, where one kernel can do an optimiser's step for all of its parameters."""
    return any(parameter.is_cuda for parameter in network.parameters())


OPTIMISERS: dict[str, Callable[[nn.Module, float], optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}
