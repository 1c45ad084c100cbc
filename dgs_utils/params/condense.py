"""Parameters of stage 08."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dgs_utils.params.kinds import Network
from dgs_utils.runtime.parameters import LATER, Count, Device, Folder, Input, Positive, Precision, StageParams, Workers


class CondenseParams(StageParams):
    """08: distilled sets by pixel optimisation: DM and IDC-1."""

    stage: ClassVar[str] = "08_condense"

    prepare: Folder = ""
    method: Literal["dm", "idc"] = "dm"
    ipc: Positive = 10
    network: Network = "convnet3"
    image_size: Positive = 16
    iterations: Positive = 100  # of DM (20,000 as published); outer loops of IDC-1 (500)
    image_learning_rate: Annotated[float, Field(ge=0)] = 0.0  # 0: the published rule; short runs of IDC-1 go faster
    real_batch: Positive = 64  # real images a class in each comparison
    inner_loops: Positive = 10  # IDC-1: comparisons for each network (100 as published)
    pretrain_epochs: Count = 0  # IDC-1: epochs on real images before the first comparison (10 as published)
    bank: Annotated[int, Field(ge=0, json_schema_extra=LATER)] = 0  # IDC-1: networks that are pre-trained once and
    # begin the outer loops in turn; 0 = each loop pre-trains a new one, as published
    net_batches: Count = 2  # IDC-1: training batches of 64 between comparisons (8 as published)
    flip: bool = False
    precision: Annotated[Precision, Field(json_schema_extra=LATER)] = "fp32"
    seed: Count = 0
    device: Device = "auto"
    workers: Workers = 0

    @model_validator(mode="after")
    def _trained_bank(self):
        if self.bank and not self.pretrain_epochs:
            raise ValueError(f"condense.bank is {self.bank}, but condense.pretrain_epochs is 0, which leaves its "
                             f"networks untrained; set pretrain_epochs (10 as published), or bank to 0")
        return self

    def inputs(self) -> dict[str, Input]:
        return {"prepare": Input(stage="00_prepare")}

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['prepare']}-{self.method}-ipc{self.ipc}"
