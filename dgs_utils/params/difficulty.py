"""Parameters of stage 03."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dgs_utils.runtime.parameters import GIVEN, Batch, Count, Device, Folder, Input, Precision, StageParams, Workers


class DifficultyParams(StageParams):
    """03: difficulty of the pool's or the originals' images (Eq. 6)."""

    stage: ClassVar[str] = "03_difficulty"

    prepare: Folder = ""
    pool: Folder = ""
    originals: Folder = ""
    source: Literal["pool", "originals"] = "pool"
    measure: Literal["difficulty", "margin", "cross_entropy", "entropy", "el2n"] = "difficulty"
    classifiers: Annotated[list[str], Field(json_schema_extra=GIVEN)] = []  # others, averaged with that of 00
    published_scores: bool = False  # take scores from the metadata.jsonl beside each class's images
    round_scores: Count = 0  # decimals; 0 = full precision, 4 = as published
    batch_size: Batch = 128
    precision: Precision = "fp32"
    device: Device = "auto"
    workers: Workers = 0

    @property
    def computes(self) -> bool:
        return not self.published_scores

    def inputs(self) -> dict[str, Input]:
        found = {"prepare": Input(stage="00_prepare")}
        if self.source == "pool":
            found["pool"] = Input(stage="02_pool")
            found["originals"] = Input(stage="03_difficulty", overrides={"source": "originals"})
        return found

    def label(self, inputs: dict[str, str]) -> str:
        return inputs["pool"] if self.source == "pool" else f"{inputs['prepare']}-originals"
