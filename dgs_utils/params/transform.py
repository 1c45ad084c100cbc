"""Parameters of stage 04."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from dgs_utils.params.kinds import PoolImages, Score, least
from dgs_utils.runtime.parameters import Count, Folder, Fraction, Input, Positive, StageParams


class TransformParams(StageParams):
    """04: thresholds and log transform per class (Eqs. 7–9)."""

    stage: ClassVar[str] = "04_transform"

    pool_scores: Folder = ""
    original_scores: Folder = ""
    ipc: Positive = 10
    pool_factor: Count = 5  # the first ipc × pool_factor images of a class are the pool; 0 = all
    objective: Literal["code", "paper", "none"] = "code"  # none: scores stay as they are, without the logarithm
    weight: Fraction = 0.5  # λ of Eq. 9
    bins: Annotated[int, Field(ge=2)] = 10
    limit: Count = 0  # thresholds searched below this count; 0 = ipc // 2
    search_on: Literal["pool", "originals"] = "pool"
    shared_scale: bool = False  # both sets transformed with the pool's own bounds
    score: Score = ""  # the column of 03 that is transformed; "" = its measure
    pool_images: PoolImages = 0

    def taken(self, name: str) -> int:
        return least(self.ipc * self.pool_factor, self.pool_images) if name == "pool_scores" else 0

    def of_the_whole(self, count: int) -> Self:
        return self if 0 < self.taken("pool_scores") <= count else self.model_copy(update={"pool_images": count})

    def inputs(self) -> dict[str, Input]:
        return {
            "pool_scores": Input(stage="03_difficulty", overrides={"source": "pool"}),
            "original_scores": Input(stage="03_difficulty", overrides={"source": "originals"}),
        }

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['pool_scores']}-ipc{self.ipc}"
