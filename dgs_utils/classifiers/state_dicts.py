"""State dicts from weight files: nested dictionaries and key prefixes are stripped, and a message lists them."""

import argparse
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Warn = Callable[[str], None]
StateDict = dict[str, Tensor]

# Added inside names by torch.compile, FSDP and activation checkpointing.
WRAPPED_MODULE = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
MOVING_AVERAGE = re.compile(r"ema|average|swa", re.IGNORECASE)
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # names in torchvision's published files


def read_tensors(path: Path) -> StateDict:
    """Read all tensors of a file.

    Args:
        path: .safetensors, .npz (one array a name), or a file of `torch.save` (.pth, .pt, .ckpt, .bin, .pth.tar).

    Returns:
        The tensors by name. Keys of nested dictionaries are joined by slashes: ``ema/module.fc.weight``.

    Raises:
        ValueError: an unknown suffix, a damaged file, or one with a whole module or without tensors.
    """
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path} is no file of weights by its name; give one that ends in {', '.join(READERS)}")
    try:
        content = READERS[path.suffix.lower()](path)
    except Exception as error:  # of many kinds, for a damaged file
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} cannot be read as weights ({reason}); fetch it again, or save the network's "
                         f"state_dict()") from None
    tensors = dict(_flatten(content))
    if not tensors:
        keys = f" but {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) and content else ""
        raise ValueError(f"{path} holds no weights by name{keys}; save the network's state_dict()")
    return tensors


def select_state_dict(tensors: StateDict, names: Collection[str], path: Path, warn: Warn,
                      prefer_average: bool = False) -> StateDict:
    """Return the state dict of one network, under the network's own names.

    ``names`` are those of the network's weights, or a few that are sure to be there; ``warn`` is called with a sentence
    on what was stripped and what is left out. Of several networks, ``prefer_average`` takes the moving average.

    Raises:
        ValueError: the file has several such networks.
    """
    wrappers = sorted({match[0] for name in tensors for match in WRAPPED_MODULE.finditer(name)})
    tensors = {WRAPPED_MODULE.sub("", name): value for name, value in tensors.items()}
    prefixes = _prefixes(tensors, names) or Counter(name[: name.rfind("/") + 1] for name in tensors)
    likely = [prefix for prefix, count in prefixes.items() if count == max(prefixes.values())]
    chosen = [prefix for prefix in likely if bool(MOVING_AVERAGE.search(prefix)) == prefer_average] or likely
    chosen = [""] if "" in chosen else chosen
    if len(chosen) > 1:
        raise ValueError(f"{path} holds such a network under {chosen[0]!r} and under {chosen[1]!r}; save one of them "
                         f"to a file of its own")
    [prefix] = chosen
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    others = [other for other in likely if other != prefix]
    state = {name: value for name, value in state.items() if "/" not in name
             and not any(other and (prefix + name).startswith(other) for other in others)
             and not (prefix and value.numel() == 1 and "." not in name and name not in names)}  # counters of averages
    beside = sorted(name for name in tensors.keys() - {prefix + name for name in state}
                    if name.rpartition("/")[0] == prefix.rpartition("/")[0])
    note = (f"; another under {others[0]!r} is left out" if others else
            f"; {len(beside)} other entries, such as {beside[0]}, are left out" if beside else "")
    if prefix or wrappers:
        warn(f"{path} holds the weights under {' and '.join([*filter(None, [prefix]), *wrappers])}, which is "
             f"stripped{note}")
    elif others:
        warn(f"{path} holds several such networks, of which the one without a prefix is used{note}")
    return state


def count_matching(tensors: StateDict, names: Collection[str]) -> int:
    """Return how many of a network's names a file has, under whichever prefix has most."""
    return max(_prefixes(tensors, names).values(), default=0)


def load_checked(network: nn.Module, state: StateDict, path: Path, title: str = "this network") -> None:
    """Load a state dict into a network, which may convert names of its older versions itself; only the counters of
    batch norm may be missing.

    Raises:
        ValueError: a missing or unknown name, another shape, or a value that is not finite.
    """
    own = network.state_dict()
    state = OrderedDict((OLD_DENSENET.sub(r"\1\2.", key) if key not in own else key, value)
                        for key, value in state.items())
    # Without it torchvision's MNASNet takes no weights; other files do not say by which version they were written.
    state._metadata = {"": getattr(own, "_metadata", {}).get("", {})}  # type: ignore[attr-defined]
    problems = [("has", [f"{key} of {format_shape(state[key])}, where the network has {format_shape(own[key])}"
                         for key in own if key in state and own[key].shape != state[key].shape])]
    infinite = sorted(key for key, value in state.items() if not torch.isfinite(value).all())
    if not problems[0][1]:
        result = network.load_state_dict(state, strict=False)
        problems = [("lacks", [f"{key} ({format_shape(own[key])})" for key in result.missing_keys
                               if not key.endswith("num_batches_tracked")]),
                    ("has the unknown", [f"{key} ({format_shape(state[key])})" for key in result.unexpected_keys])]
    sentences = [f"{verb} {keys[0]}{f' and {len(keys) - 1} more' if keys[1:] else ''}"
                 for verb, keys in problems if keys]
    if sentences:
        raise ValueError(f"{path} does not fit {title}: it {', and '.join(sentences)}; give the weights of this "
                         f"network, or the right name of theirs")
    if infinite:
        raise ValueError(f"{path} holds values in {infinite[0]} that are no numbers, as of a training that diverged; "
                         f"take an earlier checkpoint")


def _flatten(content: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor) and prefix:
        yield prefix.removesuffix("/"), content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flatten(value, f"{prefix}{name}/")


def _prefixes(tensors: StateDict, names: Collection[str]) -> Counter[str]:
    """Return each prefix, up to a dot or a slash, and how many of a network's names follow it."""
    starts = ((name, match.end()) for name in tensors for match in re.finditer(r"^|[./]", name))
    return Counter(name[:start] for name, start in starts if name[start:] in names)


def format_shape(value: Tensor) -> str:
    """Return a tensor's shape as text.

    >>> format_shape(torch.zeros(8, 512)), format_shape(torch.tensor(1.0))
    ('8×512', 'one number')
    """
    return "×".join(map(str, value.shape)) or "one number"


# ---- Readers ---------------------------------------------------------------------------------------------------------

def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in which training scripts keep their settings
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe or "TorchScript" in str(error):
            what = f"an object of {unsafe[1]}" if unsafe else "a TorchScript program"
            raise ValueError(f"{path} holds {what} instead of weights alone, and could run code when it is opened; "
                             f"save the network's state_dict() and give that file") from None
        if isinstance(error, pickle.UnpicklingError):  # whose text says how to open it unsafely
            raise ValueError("it is damaged, or PyTorch did not write it") from None
        raise


def _read_numpy(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


READERS: dict[str, Callable[[Path], object]] = {".safetensors": load_file, ".npz": _read_numpy} | dict.fromkeys(
    (".pth", ".pt", ".ckpt", ".bin", ".tar"), _read_torch)
