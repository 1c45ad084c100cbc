"""Parameters of stage 07."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.kinds import DISTILLED
from dgs_utils.runtime.parameters import GIVEN, Folders, Input, StageParams


class FiguresParams(StageParams):
    """07: figures and tables of any number of finished stages."""

    stage: ClassVar[str] = "07_figures"

    evaluations: Folders = []  # 06 folders; [] = the default node
    samples: Folders = []  # 05 and 08 folders; [] = the default node
    title: str = "quickstart"
    figure_classes: list[str] = []  # classes shown in Figures 2 and 3; [] = the first two
    show_originals: bool = True  # Figure 3 has the originals' images, too; off where they may not be passed on
    table_names: list[Literal["comparison", "table1", "table2", "table3", "table4"]] = ["comparison"]
    margin: Annotated[float, Field(gt=0)] = 2.0  # points of accuracy; a smaller difference does not matter
    results: Annotated[list[str], Field(json_schema_extra=GIVEN)] = []  # results.csv files in place of 06 folders

    def inputs(self) -> dict[str, Input]:
        rows = {} if self.results else {"evaluations": Input(stage="06_evaluate")}
        return rows | ({} if self.results and not self.samples else {"samples": DISTILLED})

    def label(self, inputs: dict[str, str]) -> str:
        return self.title
