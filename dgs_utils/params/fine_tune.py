"""Parameters of stage 01."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgs_utils.runtime.parameters import (
    LATER,
    MACHINE,
    Count,
    Device,
    Folder,
    Fraction,
    Input,
    Positive,
    Precision,
    StageParams,
)

Tracker = Literal["", "tensorboard", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow"]  # accelerate's names


class FineTuneParams(StageParams):
    """01: DiffFit fine-tuning with the minimax criteria (Eqs. 1–4)."""

    stage: ClassVar[str] = "01_fine_tune"

    prepare: Folder = ""
    epochs: Positive = 2
    steps: Count = 0  # 0 = epochs × (images // batch_size)
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    ema_decay: Fraction = 0.99
    scaled_blocks: Count = 0  # blocks that carry DiffFit scales; 0 = the first half
    memory_size: Positive = 64
    criteria: Annotated[Literal["minimax", "none"], Field(json_schema_extra=LATER)] = "minimax"  # none: Eq. 2 alone
    weight_representative: Annotated[float, Field(ge=0)] = 0.002
    weight_diverse: Annotated[float, Field(ge=0)] = 0.008
    sampled_step: Count = 0  # the step whose EMA is sampled; 0 = the last
    checkpoint_every: Annotated[int, Field(ge=1, json_schema_extra=MACHINE)] = 1000
    gradient_checkpointing: Annotated[bool, Field(json_schema_extra=MACHINE)] = False  # less memory for more time
    tracker: Annotated[Tracker, Field(json_schema_extra=MACHINE)] = ""
    processes: Annotated[int, Field(ge=0, json_schema_extra=MACHINE)] = 0  # that share a batch; 0 = one a visible GPU
    seed: Count = 0
    precision: Precision = "fp32"
    device: Device = "auto"

    def inputs(self) -> dict[str, Input]:
        return {"prepare": Input(stage="00_prepare")}

    def identity(self) -> dict[str, Any]:
        """Return the parameters that decide the result; those of the criteria are left out where there are none."""
        apart = ("memory_size", "weight_representative", "weight_diverse") if self.criteria == "none" else ()
        return {name: value for name, value in super().identity().items() if name not in apart}

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['prepare']}-{'minimax' if self.criteria == 'minimax' else 'plain'}"
