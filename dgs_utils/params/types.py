"""Kinds of values that the parameters of several stages share, and what they take of a pool."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from dgs_utils.params.base import Input, did_you_mean

PoolImages = Annotated[int, Field(ge=0)]  # no more images a class of the pool; 0 = all
Shape = Literal["scale", "hill", "ground", "slope", "cliff", "uniform"]
Score = Literal["", "difficulty", "margin", "cross_entropy", "entropy", "el2n", "confidence", "aum", "forgetting",
                "dyn_unc", "dual", "el2n_early", "mean_rank"]
NetworkName = Literal["convnet3", "convnet4", "convnet5", "convnet6", "resnet_ap10", "resnet18"]
LIBRARIES = ("torchvision:", "timm:")  # that students and teachers may come from, with random weights
OWN_NORM = "own"  # their norm, in rows
SMALL_STEM = "@small"  # at the end of such a name: with a first layer for small images


def is_library_network(name: str) -> bool:
    """Return whether a network is torchvision's or timm's, with its layers and norms."""
    return name.startswith(LIBRARIES)


def check_network_name(name: Any) -> Any:
    """Return a network's name; whether a library has it is checked with the plan.

    Raises:
        ValueError: it is neither ours nor any library's.
    """
    known = get_args(NetworkName)
    if name in known or (isinstance(name, str) and is_library_network(name)):
        return name
    hint = did_you_mean(str(name), known).replace("valid names are", "networks of this kit are")
    plain = name or "NAME"
    raise ValueError(f"but should be a network of this kit, torchvision:{plain} or timm:{plain}{hint}")


StudentName = Annotated[NetworkName | str, BeforeValidator(check_network_name)]
Trained = Annotated[Literal[""] | NetworkName | str,  # in a stage 00 of its own
                    BeforeValidator(lambda name: name if name == "" else check_network_name(name))]
ProtocolName = Literal["idc", "rded", "uag"]
SOFT_LABEL_PROTOCOLS = ("rded",)  # protocols with soft labels
SoftLabelKind = Literal["image", "crop"]  # of soft labels that can be stored
SOFT_LABEL_KINDS: tuple[SoftLabelKind, ...] = get_args(SoftLabelKind)
Over = Literal["all", "task"]  # outputs of a scorer that its probabilities are taken over
OVERS: tuple[Over, ...] = get_args(Over)
DISTILLED_SET = Input(stage="05_sample", alternative="08_condense")


def min_nonzero(*counts: int) -> int:
    """Return the smallest count; 0 means no limit."""
    return min((count for count in counts if count), default=0)


def soft_labels_file(kind: str) -> str:
    """Return the name of the file of a kind of soft labels, in a set and in its evaluation."""
    return f"soft_labels_{kind}.safetensors"
