"""Parameters of stage 08."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.base import Count, Folder, Input, Positive, Precision, StageParams
from dgs_utils.params.dataset_defaults import image_defaults, is_quickstart
from dgs_utils.params.types import NetworkName

Published = Annotated[int, Field(ge=-1)]
QUICKSTART = {"iterations": 100, "inner_loops": 10, "pretrain_epochs": 0, "net_batches": 2}


class CondenseParams(StageParams):
    """08: distilled sets by pixel optimisation: DM and IDC-1."""

    stage: ClassVar[str] = "08_condense"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folder": "prepare",
        "optimisation": "method ipc network image_size iterations seed",
        "machine and output folder": "precision output",
    }

    prepare: Folder = Field("", description="stage 00")
    method: Literal["dm", "idc"] = Field("dm", description="dm (distribution matching) or idc (gradient matching)")
    ipc: Positive = Field(10, description="images per class")
    network: NetworkName = Field("convnet3", description="network whose features or gradients are matched")
    image_size: Count = Field(
        0, description="pixels a side; 0 = by data set: 16 for digits, 32, 224, or that of your images")
    iterations: Count = Field(
        0, description="of dm, or outer loops of idc; 0 = 100 for digits, as published for others (20,000; 500)")
    real_batch: Positive = Field(64, description="real images of a class in each comparison")
    inner_loops: Count = Field(
        0, description="idc: comparisons for each network; 0 = 10 for digits, 100 as published for others")
    pretrain_epochs: Published = Field(
        -1, description="idc: epochs on real images at first; -1 = 0 for digits, 10 as published for others")
    net_batches: Published = Field(
        -1, description="idc: training batches of 64 between comparisons; -1 = 2 for digits, 8 as published for others")
    precision: Precision = Field("fp32", description="fp32, or bf16 on GPUs")
    seed: Count = Field(0, description="seed of every random draw of this stage")

    def defaults(self, originals: Mapping[str, Any]) -> dict[str, Any]:
        published = {"iterations": 20000 if self.method == "dm" else 500, "inner_loops": 100, "pretrain_epochs": 10,
                     "net_batches": 8}
        return {"image_size": image_defaults(originals).seen} | (QUICKSTART if is_quickstart(originals) else published)

    def inputs(self) -> dict[str, Input]:
        return {"prepare": Input(stage="00_prepare")}

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['prepare']}-{self.method}-ipc{self.ipc}"
