"""Parameters of stage 01."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.base import EXECUTION_ONLY, Count, Folder, Input, OpenNumber, Positive, Precision, StageParams
from dgs_utils.params.dataset_defaults import is_quickstart


class FineTuneParams(StageParams):
    """01: DiffFit fine-tuning with the minimax criteria (Eqs. 1–4)."""

    stage: ClassVar[str] = "01_fine_tune"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folder": "prepare",
        "training": "epochs steps batch_size learning_rate seed",
        "criteria": "criteria memory_size weight_representative weight_diverse",
        "machine and output folder": "precision gradient_checkpointing processes output",
    }

    prepare: Folder = Field("", description="stage 00")
    epochs: Count = Field(0, description="passes over the originals; 0 = 2 for digits, 8 as published for others")
    steps: Count = Field(0, description="training steps; 0 = epochs × (images // batch_size)")
    batch_size: Positive = Field(8, description="images in each step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate of AdamW")
    ema_decay: Annotated[OpenNumber, Field(le=1)] = Field(
        -1.0, description="decay of the average of the weights; -1 = 0.99 for digits, 0.9999 as published for others")
    memory_size: Positive = Field(64, description="latents of a class that each criterion compares with")
    criteria: Literal["minimax", "none"] = Field("minimax", description="minimax (Eqs. 3–4), or none: Eq. 2 alone")
    weight_representative: Annotated[float, Field(ge=0)] = Field(
        0.002, description="weight of representativeness (Eq. 3)")
    weight_diverse: Annotated[float, Field(ge=0)] = Field(0.008, description="weight of diversity (Eq. 4)")
    gradient_checkpointing: Annotated[bool, Field(json_schema_extra=EXECUTION_ONLY)] = Field(
        False, description="less memory, more time")
    processes: Annotated[int, Field(ge=0, json_schema_extra=EXECUTION_ONLY)] = Field(
        0, description="processes that share each batch, a GPU each; 0 = one for each visible GPU")
    seed: Count = Field(0, description="seed of every random draw of this stage")
    precision: Precision = Field("fp32", description="fp32, or bf16 on GPUs")

    def defaults(self, originals: Mapping[str, Any]) -> dict[str, Any]:
        quick = is_quickstart(originals)
        return {"epochs": 2 if quick else 8, "ema_decay": 0.99 if quick else 0.9999}

    def inputs(self) -> dict[str, Input]:
        return {"prepare": Input(stage="00_prepare")}

    def unused(self) -> tuple[str, ...]:
        """Return epochs beside steps, and the criteria's parameters where there are no criteria."""
        criteria = ("memory_size", "weight_representative", "weight_diverse") if self.criteria == "none" else ()
        return (*(("epochs",) if self.steps else ()), *criteria)

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['prepare']}-{'minimax' if self.criteria == 'minimax' else 'plain'}"
