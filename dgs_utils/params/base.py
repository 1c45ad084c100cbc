"""Base of the parameter models: types, tags, cache keys and error messages.

The models of the nine stages are in `dgs_utils.params`. A parameter is identity unless it is marked: results are named
after the hash of all that decides them (`hash_key`). Values are plain JSON without None or tuples, because papermill
loses those: "" means "not given", 0 "automatic", [] "all".
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

# ---- Types and marks -------------------------------------------------------------------------------------------------

EXTENDABLE = {"extendable": True}  # tags how many images or trainings a result has, extendable (see `count`)
EXECUTION_ONLY = {"execution_only": True}  # tags what suits the machine and does not decide the result
Tag = Literal["folder", "execution_only", "external", "extendable"]
Folder = Annotated[str, Field(json_schema_extra={"folder": True})]  # a stage's output folder; "" = the default node
Folders = Annotated[list[str], Field(json_schema_extra={"folder": True})]
Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
MAX_NAMES = 20  # in an error
PAGE = "params/parameters.md"  # has the names of parameters, methods and rules
MAX_INT = 2**53  # the last whole number that tables and every reader of JSON take as it is
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Precision = Literal["fp32", "bf16"]
Batch = Annotated[int, Field(ge=1, json_schema_extra=EXECUTION_ONLY)]  # changes rounding only
EXTERNAL_FILE = {"external": True}  # tags what may name a file or folder of the user, whose content decides the result
ExternalFile = Annotated[str, Field(json_schema_extra=EXTERNAL_FILE)]
Open = Literal["auto", True, False]  # "auto" = as the data set says (`StageParams.with_defaults`)
OpenNumber = Annotated[float, AfterValidator(lambda value: check_open(value))]  # 0 or more; -1 = as the data set says


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
    in_cell: ClassVar[Mapping[str, str]]  # parameters in the notebook's cell, by heading; others are accepted too

    output: Folder = Field("", description='output folder; "" = named after the parameters')

    @classmethod
    def names_in_cell(cls) -> list[str]:
        """Return the parameters that the notebook's parameters cell has; the others are rarely used."""
        return " ".join(cls.in_cell.values()).split()

    def inputs(self) -> dict[str, Input]:
        """Return the input folders that these parameters call for, by parameter name."""
        return {}

    def unused(self) -> tuple[str, ...]:
        """Return the parameters that others make meaningless, such as epochs beside steps; manifests leave them out."""
        return ()

    def label(self, inputs: dict[str, str]) -> str:
        """Return the readable part of the output folder's name; ``inputs`` has those of the input folders."""
        raise NotImplementedError

    def folder_label(self, label: str) -> str:
        """Return the readable part of the output folder's own name; folders of what is made from it have the label."""
        return label

    def count(self) -> int:
        """Return the images a class, or trainings, that are asked for of a result that can grow; 0 for all others."""
        return 0

    def images_read_from(self, name: str) -> int:
        """Return how many images a class are read from a pool, or from its scores; 0 for all."""
        return 0

    @property
    def needs_gpu(self) -> bool:
        """Whether the stage runs networks, for which it takes a GPU where there is one."""
        return True

    def with_pool_size(self, count: int) -> Self:
        """Return the parameters for a pool of ``count`` images a class.

        What takes the whole of a pool depends on how large it is, and says so in ``pool_images``.
        """
        return self

    def with_defaults(self, originals: Mapping[str, Any]) -> Self:
        """Return the parameters with what they leave open settled as images and protocol ask for.

        Args:
            originals: parameters of the stage 00 that prepares the images (for that stage, its own count); missing ones
                are defaults.

        What only the user or the images can decide stays open.
        """
        left = {name: value for name, value in self.defaults(originals).items()
                if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_copy(update=left) if left else self

    def defaults(self, originals: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of those parameters that these images and the protocol know best; see `with_defaults`."""
        return {}

    def class_folders(self) -> list[str]:
        """Return the class folders that count in a data set of the user's own; [] for all."""
        return list(getattr(self, "classes", []))

    def cache_params(self) -> dict[str, Any]:
        """Return the parameters that decide the result: without folders, the machine's own settings, and unused ones.

        The user's files and folders are named by path here; `store.node.Node.fingerprint` has their content hashes.
        """
        tags: tuple[Tag, ...] = ("folder", "execution_only", "extendable")
        excluded = {*self.unused(), *(name for tag in tags for name in self.fields_tagged(tag))}
        return self.model_dump(mode="json", exclude=excluded)

    @classmethod
    @cache
    def fields_tagged(cls, tag: Tag) -> tuple[str, ...]:
        """Return the names of the parameters with a tag."""
        return tuple(name for name, field in cls.model_fields.items()
                     if isinstance(field.json_schema_extra, dict) and tag in field.json_schema_extra)


Params = TypeVar("Params", bound=StageParams)
sorted_json = json.JSONEncoder(sort_keys=True).encode  # as `json.dumps`, which makes an encoder for each call


def hash_key(stage: str, fingerprint: Mapping[str, Any] | str, input_keys: Mapping[str, Any]) -> str:
    """Return a cache key: 12 hex digits of the hash of a stage, what decides its result, and its inputs' keys."""
    text = fingerprint if isinstance(fingerprint, str) else sorted_json(fingerprint)
    return hashlib.sha256(f"[{sorted_json(stage)}, {text}, {sorted_json(input_keys)}]".encode()).hexdigest()[:12]


# ---- Checks ----------------------------------------------------------------------------------------------------------

def validated(model: type[Params], values: dict[str, Any]) -> Params:
    """Check the parameters of the stage that a model belongs to; see `params.validate`."""
    try:
        return model(**values)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(model, detail) for detail in error.errors()
                                   if _is_of_its_kind(detail, values))) from None


def _is_of_its_kind(error: ErrorDetails, values: dict[str, Any]) -> bool:
    """Return False for an error about a list where the value is none, or the reverse: pydantic tries all of a union."""
    alternatives = [part for part in error["loc"][1:] if isinstance(part, str)]
    return not alternatives or alternatives[0].startswith("list[") == isinstance(values[str(error["loc"][0])], list)


def _sentence(model: type[StageParams], error: ErrorDetails) -> str:
    section = model.stage.split("_", 1)[1]
    name = ".".join(str(part) for i, part in enumerate(error["loc"]) if not i or isinstance(part, int))
    if error["type"] == "extra_forbidden":
        return f"{section}.{name} is not a parameter of {model.stage}{did_you_mean(name, model.model_fields)}"
    if not name:  # a model validator already wrote a whole sentence
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{section}.{name} is {error['input']!r}, {error['ctx']['error']}"
    message = error["msg"][0].lower() + error["msg"][1:]
    choices = [str(choice) for choice in choices_of(model.model_fields[str(error["loc"][0])].annotation)]
    hint = did_you_mean(str(error["input"]), choices) if error["type"] == "literal_error" else ""
    return f"{section}.{name} is {error['input']!r}, but {message}{hint if 'did you mean' in hint else ''}"


def choices_of(annotation: Any) -> list:
    """Return the values of the `Literal` that a parameter's type is or holds."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in choices_of(part)]


def check_open(value: float) -> float:
    """Return a number of 0 or more, or the -1 that leaves it to the data set.

    Raises:
        ValueError: it is another one below 0.
    """
    if value < 0 and value != -1:
        raise ValueError("but should be 0 or more, or -1 to leave it to the data set")
    return value


def did_you_mean(name: str, valid, listed_in: str = PAGE) -> str:
    """Return "; did you mean 'x'?" for the valid names closest to ``name``, or else all, or where many are listed."""
    if close := _close(name, valid):
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if len(valid) > MAX_NAMES:
        return f"; {listed_in} lists all {len(valid)} names"
    return "; valid names are " + ", ".join(valid)


def is_near(name: str, valid) -> bool:
    """Return whether a name is spelt almost like one of the valid ones."""
    return bool(_close(name, valid, cutoff=0.8))


def _close(name: str, valid, cutoff: float = 0.6) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, list(valid), n=2, cutoff=cutoff)
