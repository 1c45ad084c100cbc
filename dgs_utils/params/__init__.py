"""The parameters of the nine stages, typed: a module a stage, called like it.

A notebook's ``parameters`` cell and the page ``params/parameters.md`` are written from the models here
(`dgs_utils.params.parameter_docs`), an experiment file has the same names under the stage's section, and the folder of
a result is named after the hash of them. Defaults are those of the quickstart. What all models share is in
`dgs_utils.params.base`.

Input folders are parameters too. "" means the folder that the same stage with default parameters writes, so that
the notebooks run by hand, in order, without a path being typed.
"""

from typing import Any

from dgs_utils.params.base import StageParams, validated
from dgs_utils.params.condense import CondenseParams
from dgs_utils.params.difficulty import DifficultyParams
from dgs_utils.params.evaluate import EvaluateParams
from dgs_utils.params.figures import FiguresParams
from dgs_utils.params.fine_tune import FineTuneParams
from dgs_utils.params.pool import PoolParams
from dgs_utils.params.prepare import PrepareParams
from dgs_utils.params.sample import SampleParams
from dgs_utils.params.transform import TransformParams

STAGES: dict[str, type[StageParams]] = {
    model.stage: model
    for model in (PrepareParams, FineTuneParams, PoolParams, DifficultyParams, TransformParams, SampleParams,
                  EvaluateParams, FiguresParams, CondenseParams)
}


def validate(stage: str, values: dict[str, Any]) -> StageParams:
    """Check a stage's parameters; missing ones take their defaults.

    Raises:
        ValueError: one sentence a wrong parameter, with its name, its value and the nearest valid name.
    """
    return validated(STAGES[stage], values)
