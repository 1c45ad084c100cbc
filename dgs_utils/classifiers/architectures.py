"""Networks by name: ``dgs:<name>`` for ours, ``torchvision:<name>``, and ``timm:<name>`` (extra ``timm``)."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dgs_utils.classifiers.networks import NETWORKS, build_network
from dgs_utils.params.base import did_you_mean
from dgs_utils.runtime.seeds import torch_seeded

DGS, TORCHVISION, TIMM = "dgs:", "torchvision:", "timm:"


def qualified_name(name: str) -> str:
    """Return a network's name with its library; without one it is torchvision's, or ours if only we have it.

    Raises:
        ValueError: the library has no such classifier.

    >>> qualified_name("resnet18"), qualified_name("convnet3")
    ('torchvision:resnet18', 'dgs:convnet3')
    """
    if name.startswith(TIMM):
        _check_timm_name(name)
        return name
    library, _, plain = name.rpartition(":")
    known = torchvision.models.list_models(module=torchvision.models)
    if library in ("", "torchvision") and plain in known:
        return TORCHVISION + plain
    if library in ("", "dgs") and plain in NETWORKS:
        return DGS + plain
    if library == "dgs":
        raise ValueError(f"{name!r} is no network of this kit{did_you_mean(plain, NETWORKS)}")
    hint = did_you_mean(plain, known, "torchvision.models.list_models()")
    raise ValueError(f"{name!r} is no classifier of torchvision{hint}, or of timm, such as timm:resnet50")


def _check_timm_name(name: str) -> None:
    timm = import_timm()
    plain, _, tag = name.removeprefix(TIMM).partition(".")
    known = timm.list_models()
    if plain not in known:
        hint = did_you_mean(name.removeprefix(TIMM), known, "timm.list_models()")
        raise ValueError(f"{name!r} is no classifier of timm{hint}")
    tags = [model.partition(".")[2] for model in timm.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in tags:
        hint = did_you_mean(tag, tags, f"timm.list_models('{plain}.*', pretrained=True)")
        raise ValueError(f"{name!r} is no classifier of timm, whose {plain} has no tag {tag}{hint}")


def refuse_hub_address(text: str) -> None:
    """Raise ValueError if a scorer is given by its address on a hub; it is read by timm's name or from a folder."""
    library, _, address = text.removeprefix(TIMM).partition(":")
    if library in ("hf-hub", "hf_hub"):
        address = address.partition(":")[0]
        name = address.removeprefix("timm/")
        timms = f"give it as timm:{name} with the weights pretrained, or " if name != address else ""
        raise ValueError(f"{text!r} is a place on a hub; {timms}download its folder with 'hf download {address} "
                         f"--local-dir DIR', and give DIR")


class _SkipInit(TorchFunctionMode):
    """Initial weights are zeros, since drawing them takes most of the time of building a network."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).zero_()
        return func(*args, **kwargs)


def build(name: str, num_classes: int = 0, size: int = 0, norm: str = "batch", **arguments: Any) -> nn.Module:
    """Return a network in evaluation mode whose weights are to be overwritten: those of libraries are not drawn.

    ``name`` has its library; 0 outputs are the library's default; ``size`` of the images and ``norm`` are for ours,
    further ``arguments`` of the library's function.
    """
    library, _, plain = name.partition(":")
    outputs = {"num_classes": num_classes} if num_classes else {}
    with torch_seeded("overwritten"):
        if library == "dgs":
            return build_network(plain, num_classes, size, norm).eval()
        with _SkipInit():
            if library == "timm":
                return import_timm().create_model(plain, pretrained=False, **outputs, **arguments).eval()
            if plain in ("googlenet", "inception_v3"):  # which warn otherwise
                outputs["init_weights"] = False
            return torchvision.models.get_model(plain, weights=None, **outputs, **arguments).eval()


def output_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return name and module of the output layer: timm's configuration has it; else the last linear layer, or the
    last convolution, or an error.
    """
    modules = dict(network.named_modules())
    for name in reversed(_timm_heads(network)):
        if isinstance(layer := modules.get(name), (nn.Linear, nn.Conv2d)):
            return name, layer
    for kind in (nn.Linear, nn.Conv2d):
        if layers := [(name, module) for name, module in modules.items() if isinstance(module, kind)]:
            return layers[-1]
    raise ValueError(f"{type(network).__name__} has no layer that gives outputs; choose another classifier")


def output_layers(network: nn.Module) -> list[str]:
    """Return the names of a network's output layers: several if timm averages them."""
    return _timm_heads(network) or [output_layer(network)[0]]


def _timm_heads(network: nn.Module) -> list[str]:
    heads = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    return [heads] if isinstance(heads, str) else list(heads)


def input_error(network: nn.Module, shape: Sequence[int], batch: int = 1, outputs: int = 0) -> str:
    """Return why a network cannot take images of a shape (channels, height, width), or "" if it can.

    Only shapes are computed, on PyTorch's meta device, in the network's mode of training or evaluation. It must return
    so many ``outputs`` for each image, or 0 for anything.
    """
    state = {name: torch.empty_like(value, device="meta") for name, value in
             [*network.named_parameters(), *network.named_buffers()]}
    try:
        with torch.no_grad(), torch.device("meta"):
            logits = torch.func.functional_call(network, state, (torch.empty(batch, *shape),))
    except NotImplementedError:  # a layer needs values
        return ""
    except Exception as error:  # each network has errors of its own
        return short_reason(error)
    is_right = not outputs or (isinstance(logits, Tensor) and logits.shape == (batch, outputs))
    return "" if is_right else "it returns no logits of shape (images, classes)"


def short_reason(error: Exception) -> str:
    """Return the beginning of an error's text, for brackets in a sentence."""
    return " ".join(str(error).split())[:120].rstrip(". ") or type(error).__name__


def timm_class_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a timm classifier's outputs: its own, else WordNet ids by timm's lists, or ()."""
    data, names = import_timm().data, network.pretrained_cfg.get("label_names") or ()
    if names:
        by_number = isinstance(names, dict) and all(str(key).isdecimal() for key in names)
        return tuple(str(names[key]) for key in sorted(names, key=int)) if by_number else tuple(map(str, names))
    subset = data.infer_imagenet_subset(network)
    return tuple(data.ImageNetInfo(subset).label_names()) if subset else ()


def import_timm() -> Any:
    """Return timm, or raise ValueError if it is not installed."""
    try:
        import timm
        import timm.data
    except ImportError:
        raise ValueError("classifiers named timm:… need timm; install it with pip install 'dgs-utils[timm]'") from None
    return timm
