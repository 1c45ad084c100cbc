"""Kinds of values that the parameters of several stages share, and what they take of a pool."""

from typing import Annotated, Literal

from pydantic import Field

from dgs_utils.params.base import Input

PoolImages = Annotated[int, Field(ge=0)]  # no more images a class of the pool; 0 = all
Shape = Literal["scale", "hill", "ground", "slope", "cliff", "uniform"]
Score = Literal["", "difficulty", "margin", "cross_entropy", "entropy", "el2n", "confidence", "aum", "forgetting",
                "dyn_unc", "dual", "el2n_early"]
NetworkName = Literal["convnet3", "convnet4", "convnet5", "convnet6", "resnet_ap10", "resnet18"]
Trained = Literal["", NetworkName]  # in a stage 00 of its own; "" = none
ProtocolName = Literal["idc", "rded"]
SOFT_LABEL_PROTOCOLS = ("rded",)  # protocols with soft labels
DISTILLED_SET = Input(stage="05_sample", alternative="08_condense")


def min_nonzero(*counts: int) -> int:
    """Return the smallest count; 0 means no limit."""
    return min((count for count in counts if count), default=0)
