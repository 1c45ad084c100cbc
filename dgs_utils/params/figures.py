"""Parameters of stage 07."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.base import EXTERNAL_FILE, Folders, Input, StageParams
from dgs_utils.params.types import DISTILLED_SET


class FiguresParams(StageParams):
    """07: figures and tables of any number of finished stages."""

    stage: ClassVar[str] = "07_figures"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folders": "evaluations samples",
        "contents": "title table_names margin figure_classes show_originals",
        "output folder": "output",
    }

    evaluations: Folders = Field([], description="stage 06; [] = all finished ones like the default one")
    samples: Folders = Field(
        [], description="stages 05 and 08; [] = those of the default evaluations, or none where some are given")
    title: str = Field("quickstart", description="title of the report, and beginning of the output folder's name")
    figure_classes: list[str] = Field([], description="classes in Figures 2 and 3 and in the sets; [] = two")
    share_y: Literal["auto", "on", "off"] = Field(
        "auto", description="one scale for the panels of a class in Figure 2: on, off, or auto, where all can be read")
    show_originals: bool = Field(
        True, description="show real images, in Figure 3 and among the sets; False where they may not be passed on")
    table_names: list[Literal["comparison", "table1", "table2", "table3", "table4"]] = Field(
        ["comparison"], description="tables to write")
    margin: Annotated[float, Field(gt=0)] = Field(
        2.0, description="points of accuracy; a smaller difference does not matter")
    results: Annotated[list[str], Field(json_schema_extra=EXTERNAL_FILE)] = Field(
        [], description="results.csv files in place of folders of stage 06")

    @property
    def needs_gpu(self) -> bool:
        return False

    def inputs(self) -> dict[str, Input]:
        rows = {} if self.results else {"evaluations": Input(stage="06_evaluate")}
        has_rows = self.results or self.evaluations
        return rows | ({} if has_rows and not self.samples else {"samples": DISTILLED_SET})

    def label(self, inputs: dict[str, str]) -> str:
        return self.title
