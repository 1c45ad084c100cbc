"""Library networks with a modified first or last layer: detected in their weights, and applied to a new network."""

from typing import Any, NamedTuple

from torch import nn

from dgs_utils.classifiers.architectures import output_layer
from dgs_utils.classifiers.state_dicts import StateDict, format_shape

CIFAR_STEM = {"kernel_size": 3, "stride": 1, "max_pool": False}  # of ResNets for images of 32 pixels


class ModifiedLayers(NamedTuple):
    """What differs from the library's network."""

    channels: int  # of the images: 3, or 1 for grey
    stem: dict[str, Any]  # kernel_size, stride and max_pool of the first convolution of a ResNet; {} as it is
    head: str  # name of the module that a single linear layer replaces; "" as the library has it
    outputs: int


def modify(network: nn.Module, channels: int, stem: dict[str, Any], head: str, outputs: int) -> None:
    """Replace first and last layers of a network, in replaced, if they differ; see `ModifiedLayers`."""
    name, first = first_convolution(network)
    if stem or (first.in_channels, channels) == (3, 1):
        kernel, stride = stem.get("kernel_size", first.kernel_size), stem.get("stride", first.stride)
        padding = (kernel - stride + 1) // 2 if stem else first.padding
        network.set_submodule(name, nn.Conv2d(channels, first.out_channels, kernel, stride, padding, first.dilation,
                                              bias=first.bias is not None).to(first.weight.dtype))
    pools = [name for name, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
    if stem and not stem.get("max_pool", True) and pools:
        network.set_submodule(pools[0], nn.Identity())
    if head:
        network.set_submodule(head, nn.Linear(_in_features(network.get_submodule(head)), outputs))


def detect_modifications(network: nn.Module, state: StateDict) -> tuple[ModifiedLayers, StateDict]:
    """Return how the network that weights come from differs from the library's, and the weights under its names; raise
    ValueError for weights without an output layer, or with several in its place.
    """
    channels, stem = _stem_in(network, state)
    head, outputs, state = _head_in(network, state)
    return ModifiedLayers(channels, stem, head, outputs), state


def _stem_in(network: nn.Module, state: StateDict) -> tuple[int, dict[str, Any]]:
    name, first = first_convolution(network)
    weight = state.get(f"{name}.weight")
    if weight is None or weight.ndim != 4 or first.groups > 1 or len(weight) != first.out_channels:
        return 3, {}
    small = weight.shape[2:] == (3, 3) != first.kernel_size and name == "conv1" and hasattr(network, "maxpool")
    return 1 if weight.shape[1] == 1 else 3, CIFAR_STEM if small else {}


def _head_in(network: nn.Module, state: StateDict) -> tuple[str, int, StateDict]:
    """Return the module that a linear layer replaced, or "" if none was; the outputs; the weights, renamed."""
    last, layer = output_layer(network)
    if f"{last}.weight" in state:
        return "", len(state[f"{last}.weight"]), state
    container = last.rpartition(".")[0] or last
    own = {name for name in network.state_dict() if name.startswith(f"{container}.")}
    replaced = last if own & state.keys() else container  # the last layer alone, or the module around it
    linear = sorted(name.removesuffix(".weight") for name, value in state.items()
                    if name.startswith(f"{replaced}.") and name.endswith(".weight") and value.ndim == 2)
    if not linear:
        raise ValueError(f"has no {last}.weight, but {min(state, default='nothing')}, so it does not hold the weights "
                         f"of this network")
    if len(linear) > 1:
        layers = ", ".join(f"{name}.weight of {format_shape(state[f'{name}.weight'])}" for name in linear)
        raise ValueError(f"has several layers where the network has {replaced} ({layers}), and no file of weights "
                         f"holds what comes between them, such as ReLU")
    weight = state[f"{linear[0]}.weight"]
    outputs = len(weight)
    if not isinstance(network.get_submodule(replaced), (nn.Linear, nn.Sequential)):  # more than layers: another's names
        return "", outputs, state
    if weight.shape[1] != (features := _in_features(network.get_submodule(replaced))):
        raise ValueError(f"has {linear[0]}.weight of {format_shape(weight)}, and what comes before it in the network "
                         f"gives {features} features")
    renamed = {f"{replaced}{name.removeprefix(linear[0])}" if name.startswith(f"{linear[0]}.") else name: value
               for name, value in state.items()}
    return "" if replaced == last and isinstance(layer, nn.Linear) else replaced, outputs, renamed


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return name and module of a network's first convolution."""
    return next(((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)),
                ("", nn.Conv2d(3, 1, 1)))


def _in_features(module: nn.Module) -> int:
    """Return how many features enter the first linear layer of a module."""
    return next((part.in_features for part in module.modules() if isinstance(part, nn.Linear)), 0)
