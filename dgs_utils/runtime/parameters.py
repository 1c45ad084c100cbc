"""What the parameters of a stage are: their types, what marks them, their identity, and what is said of a wrong one.

The models of the nine stages are in `dgs_utils.params`. A parameter is identity unless it is marked: results are named
after the hash of all that decides them (`node_key`). Values are plain JSON without None or tuples, because papermill
loses those: "" means "not given", 0 "automatic", [] "all".
"""

import hashlib
import json
import re
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

# ---- Types and marks -------------------------------------------------------------------------------------------------

LATER = {"later": True}  # marks what came later: at its default it is left out, so that older results keep their names
GROWS = {"grows": True}  # marks how many of its kind a result holds, which can become more: see `StageParams.count`
MACHINE = {"machine": True}  # marks what suits the machine at hand and does not decide the result
Device = Annotated[str, Field(json_schema_extra=MACHINE), AfterValidator(lambda name: check_device(name))]
Workers = Annotated[int, Field(ge=0, json_schema_extra=MACHINE)]  # threads that read files; 0 = one per core
Folder = Annotated[str, Field(json_schema_extra={"folder": True})]  # a stage's output folder; "" = the default node
Folders = Annotated[list[str], Field(json_schema_extra={"folder": True})]
Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
LARGEST = 2**53  # the last whole number that tables and every reader of JSON take as it is
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Precision = Literal["fp32", "bf16"]
Switch = Annotated[Literal["auto", "on", "off"], Field(json_schema_extra=MACHINE)]
Batch = Annotated[int, Field(ge=1, json_schema_extra=MACHINE)]  # images at a time, where that moves rounding only
GIVEN = {"given": True}  # marks what may name a file or folder of the user's own: what is in it decides the result
Given = Annotated[str, Field(json_schema_extra=GIVEN)]


# ---- Models ----------------------------------------------------------------------------------------------------------

class Input(BaseModel):
    """One input folder of a stage: which stage writes it, and which of that stage's parameters the reader dictates."""

    model_config = ConfigDict(frozen=True)
    stage: str
    overrides: dict[str, Any] = {}
    alternative: str = ""  # another stage that writes such folders too
    any_folder: bool = False  # an image folder that this kit did not write is accepted too
    on_demand: bool = False  # takes seconds, so a notebook run by hand makes it where it is missing

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose folders are accepted."""
        return (self.stage, self.alternative) if self.alternative else (self.stage,)


class StageParams(BaseModel):
    """Base of the parameter models: strict, immutable, and refusing unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True, allow_inf_nan=False)
    stage: ClassVar[str]

    output: Folder = ""

    def inputs(self) -> dict[str, Input]:
        """Return the input folders that these parameters call for, by parameter name."""
        return {}

    def label(self, inputs: dict[str, str]) -> str:
        """Return the readable part of the output folder's name; ``inputs`` holds those of the input folders."""
        raise NotImplementedError

    def titled(self, label: str) -> str:
        """Return the readable part of the output folder's own name; folders of what is made from it have the label."""
        return label

    def count(self) -> int:
        """Return the images a class, or trainings, that are asked for of a result that can grow; 0 for all others."""
        return 0

    def taken(self, name: str) -> int:
        """Return how many images a class are read of the pool, or of its scores, that an input holds; 0 for all."""
        return 0

    @property
    def computes(self) -> bool:
        """Whether the stage runs networks, for which it takes a GPU where there is one."""
        return hasattr(self, "device")

    def of_the_whole(self, count: int) -> Self:
        """Return the parameters where so many images a class are all that a pool holds.

        What takes the whole of a pool depends on how large it is, and says so in ``pool_images``.
        """
        return self

    def class_folders(self) -> list[str]:
        """Return the class folders that count in a data set of the user's own; [] for all."""
        return list(getattr(self, "classes", []))

    def identity(self) -> dict[str, Any]:
        """Return the parameters that decide the result: without folders, and without the machine's own settings.

        Files and folders that somebody gave stand here by path; `artifacts.nodes.Node.identity` has what is in them.
        """
        apart = {*self.marked("folder"), *self.marked("machine"), *self.marked("grows")}
        apart |= {name for name in self.marked("later") if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=apart)

    @classmethod
    @cache
    def marked(cls, mark: Literal["folder", "machine", "given", "later", "grows"]) -> tuple[str, ...]:
        """Return the names of the parameters that hold stages' folders, that only suit the machine at hand, that may
        name files and folders of the user's own, that came later, or that say how far a result has grown.
        """
        return tuple(name for name, field in cls.model_fields.items()
                     if isinstance(field.json_schema_extra, dict) and mark in field.json_schema_extra)


Params = TypeVar("Params", bound=StageParams)


def node_key(params: StageParams, input_keys: dict[str, Any], given: dict[str, Any] | None = None) -> str:
    """Return the 12 hex digits that identify a stage's result: its stage, its own parameters and its inputs' keys.

    Args:
        params: the parameters.
        input_keys: what identifies each input.
        given: what identifies the files and folders that parameters name; None where they name none.
    """
    payload = json.dumps([params.stage, params.identity() | (given or {}), input_keys], sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()[:12]


# ---- Checks ----------------------------------------------------------------------------------------------------------

def checked(model: type[Params], values: dict[str, Any]) -> Params:
    """Check the parameters of the stage that a model belongs to; see `params.validate`."""
    try:
        return model(**values)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(model, e) for e in error.errors())) from None


def _sentence(model: type[StageParams], error: ErrorDetails) -> str:
    section = model.stage.split("_", 1)[1]
    name = ".".join(str(part) for part in error["loc"] if part not in ("str", "list[str]"))  # pydantic's alternatives
    if error["type"] == "extra_forbidden":
        return f"{section}.{name} is not a parameter of {model.stage}{nearest(name, model.model_fields)}"
    if not name:  # a model validator already wrote a whole sentence
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{section}.{name} is {error['input']!r}, {error['ctx']['error']}"
    message = error["msg"][0].lower() + error["msg"][1:]
    choices = [str(choice) for choice in _choices(model.model_fields[str(error["loc"][0])].annotation)]
    hint = nearest(str(error["input"]), choices) if error["type"] == "literal_error" else ""
    return f"{section}.{name} is {error['input']!r}, but {message}{hint if 'did you mean' in hint else ''}"


def _choices(annotation: Any) -> list:
    """Return the values of the `Literal` that a parameter's type is or holds."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def check_device(name: str) -> str:
    """Return the name of a device: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: it is another one.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"which is no device{nearest(name, ['auto', 'cpu', 'cuda', 'cuda:0'])}")
    return name


def nearest(name: str, valid) -> str:
    """Return "; did you mean 'x'?" for the valid names closest to ``name``, or the list of all where none is close."""
    import difflib

    close = difflib.get_close_matches(name, list(valid), n=2, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "; valid names are " + ", ".join(valid)
