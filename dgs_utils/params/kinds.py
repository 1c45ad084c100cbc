"""Kinds of values that the parameters of several stages share, and what they take of a pool."""

from typing import Annotated, Literal

from pydantic import Field

from dgs_utils.runtime.parameters import LATER, MACHINE, Input

Bound = Annotated[float, Field(gt=0, allow_inf_nan=False, json_schema_extra=MACHINE)]
PoolImages = Annotated[int, Field(ge=0, json_schema_extra=LATER)]  # no more images a class of the pool; 0 = all
Shape = Literal["scale", "hill", "ground", "slope", "cliff", "uniform"]
Score = Annotated[Literal["", "difficulty", "margin", "cross_entropy", "entropy", "el2n", "confidence", "aum",
                          "forgetting", "dyn_unc", "dual", "el2n_early"], Field(json_schema_extra=LATER)]
Network = Literal["convnet3", "convnet4", "convnet5", "convnet6", "resnet_ap10", "resnet18"]
Trained = Annotated[Literal["", Network], Field(json_schema_extra=LATER)]  # in a stage 00 of its own; "" = none
Epochs = Annotated[int, Field(ge=0, json_schema_extra=LATER)]  # of that classifier; 0 = 300, as published
Protocol = Literal["idc", "rded"]
SOFT = ("rded",)  # protocols with soft labels
DISTILLED = Input(stage="05_sample", alternative="08_condense")


def least(*counts: int) -> int:
    """Return the least of some counts, of which 0 stands for no limit."""
    return min((count for count in counts if count), default=0)
