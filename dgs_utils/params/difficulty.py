"""Parameters of stage 03."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.base import EXTERNAL_FILE, Count, Folder, Input, Precision, StageParams
from dgs_utils.params.types import Over

NOTHING_HELD_OUT = ("difficulty.temperature is fit, and the scorer has seen all training images, so that only the test "
                    "images are held out, on which no selection may depend; set prepare.folds to 2 or more, or "
                    "leave difficulty.temperature at none")


class DifficultyParams(StageParams):
    """03: difficulty of the pool's or the originals' images (Eq. 6)."""

    stage: ClassVar[str] = "03_difficulty"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folders": "prepare pool originals",
        "scores": "source measure",
        "machine and output folder": "precision output",
    }

    prepare: Folder = Field("", description="stage 00")
    pool: Folder = Field("", description="stage 02, for source pool")
    originals: Folder = Field("", description="stage 03 with the originals' scores, for source pool")
    source: Literal["pool", "originals"] = Field("pool", description="images to score: pool or originals")
    measure: Literal["difficulty", "margin", "cross_entropy", "entropy", "el2n"] = Field(
        "difficulty", description="score of an image; difficulty = Eq. 6")
    scorers: Annotated[list[str], Field(json_schema_extra=EXTERNAL_FILE)] = Field(
        [], description="more scorers (folder or name:weights), averaged with that of stage 00")
    over: Over = Field(
        "all", description="outputs that probabilities are taken over: all (as published), or the task's classes")
    temperature: Literal["none", "fit"] = Field(
        "none", description="none (as published), or fit: calibrate scorers on held-out originals")
    published_scores: bool = Field(False, description="take scores from the metadata.jsonl beside each class's images")
    round_scores: Count = Field(0, description="decimals of scores; 0 = full precision, 4 = as published")
    precision: Precision = Field("fp32", description="fp32, or bf16 on GPUs")

    @property
    def needs_gpu(self) -> bool:
        return not self.published_scores

    def unused(self) -> tuple[str, ...]:
        """Return what is as published, and what scores that exist already have nothing to do with."""
        plain = {"scorers": not self.scorers, "over": self.over == "all", "temperature": self.temperature == "none"}
        return tuple(name for name, is_plain in plain.items() if is_plain or self.published_scores)

    def cache_params(self) -> dict[str, Any]:
        """Return the parameters that decide the result; without more scorers, with the key of earlier results."""
        params = super().cache_params()
        return params if self.scorers else params | {"classifiers": []}

    def inputs(self) -> dict[str, Input]:
        inputs = {"prepare": Input(stage="00_prepare")}
        if self.source == "pool":
            inputs["pool"] = Input(stage="02_pool")
            inputs["originals"] = Input(stage="03_difficulty", on_demand=True, overrides={
                "source": "originals", "measure": self.measure, "over": self.over, "temperature": self.temperature})
        return inputs

    def label(self, inputs: dict[str, str]) -> str:
        return inputs["pool"] if self.source == "pool" else f"{inputs['prepare']}-originals"
