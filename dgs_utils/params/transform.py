"""Parameters of stage 04."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from dgs_utils.params.base import EXECUTION_ONLY, Count, Folder, Fraction, Input, Positive, StageParams
from dgs_utils.params.types import PoolImages, Score, min_nonzero


class TransformParams(StageParams):
    """04: thresholds and log transform per class (Eqs. 7–9)."""

    stage: ClassVar[str] = "04_transform"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folders": "pool_scores original_scores",
        "thresholds": "ipc pool_factor objective weight bins search_on",
        "output folder": "output",
    }

    pool_scores: Folder = Field("", description="stage 03 with the pool's scores")
    original_scores: Folder = Field("", description="stage 03 with the originals' scores")
    ipc: Positive = Field(10, description="images per class of the distilled set")
    pool_factor: Count = Field(5, description="the pool is the first ipc × pool_factor images of each class; 0 = all")
    objective: Literal["code", "paper", "none"] = Field(
        "code", description="code (as published), paper (Eqs. 7–9) or none (no logarithm)")
    weight: Fraction = Field(0.5, description="λ of Eq. 9: likeness to the pool against uniformity")
    bins: Annotated[int, Field(ge=2)] = Field(10, description="bins of difficulty")
    search_on: Literal["pool", "originals"] = Field(
        "pool", description="images on which thresholds are searched: pool or originals")
    shared_scale: bool = Field(False, description="transform both sets with the pool's own bounds")
    score: Score = Field("", description='score of stage 03 that is transformed; "" = its measure')
    pool_images: PoolImages = Field(0, description="at most so many images of each class of the pool; 0 = all")
    figure_classes: Annotated[list[str], Field(json_schema_extra=EXECUTION_ONLY)] = Field(
        [], description="classes in Figure 2; [] = two")

    @property
    def needs_gpu(self) -> bool:
        return False

    def images_read_from(self, name: str) -> int:
        return min_nonzero(self.ipc * self.pool_factor, self.pool_images) if name == "pool_scores" else 0

    def with_pool_size(self, count: int) -> Self:
        is_whole = not 0 < self.images_read_from("pool_scores") <= count
        return self.model_copy(update={"pool_images": count}) if is_whole else self

    def inputs(self) -> dict[str, Input]:
        return {
            "pool_scores": Input(stage="03_difficulty", overrides={"source": "pool"}),
            "original_scores": Input(stage="03_difficulty", overrides={"source": "originals"}),
        }

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['pool_scores']}-ipc{self.ipc}"
