"""Weights of classifiers from files: what others put around the names of a network's weights is taken off, and told."""

import argparse
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# Where trainers put a network's weights, the first that is there; an average is taken where there is nothing else.
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params", "model_state",
            "ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model")
COUNTERS = "num_batches_tracked"  # of batch norm, which may be missing


def read_weights(path: Path, wanted: set[str], warn: Callable[[str], None]) -> dict[str, Tensor]:
    """Read a file of weights and return those of one network, by its own names.

    Dictionaries around the weights, and prefixes such as ``module.``, ``_orig_mod.`` or ``model.backbone.`` before all
    their names, are taken off. Entries beside the network, as of a loss, are left out.

    Args:
        path: .safetensors, .npz (one array a name), or what PyTorch wrote (.pth, .pt, .ckpt, .bin, .pth.tar).
        wanted: the network's names.
        warn: takes a sentence that says what was taken off.

    Raises:
        ValueError: the file is damaged, holds a whole module, no weights, or two networks of this kind.
    """
    state, around = _unwrapped(READERS[path.suffix.lower()](path), path)
    background = {name: value for name, value in state.items() if name.startswith("background.")}
    state = {name: value for name, value in state.items() if name not in background}
    compiled = any("_orig_mod." in name for name in state)
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    prefix = _prefix(state, wanted, path)
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    taken = [*(f"the entry {name!r}" for name in around), *(["_orig_mod."] if compiled else []), *([prefix] if prefix
                                                                                                 else [])]
    others = sorted(state.keys() - {prefix + name for name in found})
    left = f"; {len(others)} other entries, such as {others[0]}, are left out" if others else ""
    if taken:
        warn(f"{path} holds the weights under {', '.join(taken)}, which was taken off{left}")
    return found | background


def _prefix(state: dict[str, Tensor], wanted: set[str], path: Path) -> str:
    """Return what stands before all of a network's names in a state; "" where nothing does.

    Raises:
        ValueError: as many names of the network stand behind another prefix, too.
    """
    last = max(wanted, key=lambda name: (name.endswith("weight"), name.count("."), name), default="")
    counts = {}
    for prefix in {name[: -len(last)] for name in state if name == last or name.endswith(f".{last}")} | {""}:
        counts[prefix] = sum(prefix + name in state for name in wanted)
    best = max(counts.values())
    # With the same names behind several prefixes, the plain one is the network; of two others neither is.
    prefixes = sorted((prefix for prefix, count in counts.items() if count == best), key=len)
    if len(prefixes) > 1 and prefixes[0] and best:
        raise ValueError(f"{path} holds such a network behind {prefixes[0]} and behind {prefixes[1]}; save the one "
                         f"that is meant to a file of its own")
    return prefixes[0] if best else ""


def _unwrapped(content: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the dictionary of tensors inside what was read, and the names of the dictionaries around it."""
    around: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping) and content[name]), None)
        if inner is None or len(tensors) > 2:  # a step count or a decay may stand beside the entry
            if not tensors:
                break
            return tensors, around
        around.append(inner)
        content = content[inner]
    keys = f" but {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) and content else ""
    raise ValueError(f"{path} holds no weights by name{keys}; save the network's state_dict()")


# ---- Readers ---------------------------------------------------------------------------------------------------------

def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in which trainers keep their settings
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        text = str(error)
        unsafe = re.search(r"GLOBAL ([\w.]+)", text)
        if unsafe or "TorchScript" in text:
            what = f"an object of {unsafe[1]}" if unsafe else "a TorchScript program"
            raise ValueError(f"{path} holds {what} instead of weights alone, and could run code when it is opened; "
                             f"save the network's state_dict() and give that file") from None
        if isinstance(error, pickle.UnpicklingError):  # whose text says how to open it unsafely
            raise ValueError(f"{path} cannot be read as weights (it is damaged, or PyTorch did not write it); fetch it "
                             f"again, or save the network's state_dict()") from None
        raise


def _read_numpy(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _told(reader: Callable[[Path], object]) -> Callable[[Path], object]:
    """Let a reader's own kinds of errors for a damaged file become one sentence."""
    def read(path: Path) -> object:
        try:
            return reader(path)
        except Exception as error:
            if isinstance(error, ValueError) and str(error).startswith(str(path)):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{path} cannot be read as weights ({reason}); fetch it again, or save the network's "
                             f"state_dict()") from None
    return read


READERS = {".safetensors": _told(load_file), ".npz": _told(_read_numpy)} | dict.fromkeys(
    (".pth", ".pt", ".ckpt", ".bin", ".tar"), _told(_read_torch))


def load_state(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Copy a state dict into a network; only counters of batch norm may be missing from it.

    Raises:
        ValueError: a missing or superfluous name, another shape, or a value that is no number; the sentence names it
            and ``path``.
    """
    wanted = network.state_dict()
    missing = sorted(name for name in wanted.keys() - state.keys() if not name.endswith(COUNTERS))
    extra = sorted(state.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    for names, what in ((missing, "lacks"), (extra, "has the unknown"), (wrong, "has another shape of")):
        if names:
            raise ValueError(f"{path} {what} {names[0]}; these are not the weights of this network")
    broken = sorted(name for name, value in state.items() if not torch.isfinite(value).all())
    if broken:
        raise ValueError(f"{path} holds values in {broken[0]} that are no numbers, as of a training that diverged; "
                         f"take an earlier checkpoint")
    network.load_state_dict(state, strict=False)
