"""Experiment files: one YAML file with all parameters of a set of runs.

It has one section a stage (``prepare``, ``fine_tune``, …, without the number) with that stage's parameters, and under
``grid`` the axes to sweep, such as ``sample.method: [random, dgs]``; a list of grids has the points of all of them.
With ``base: other.yaml`` it changes parameters of another file beside it; its own grid replaces the other's.
Every name and value is checked when the file is read.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin

from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, validate
from dgs_utils.params.base import did_you_mean
from dgs_utils.store.filenames import check_name
from dgs_utils.workflow import yaml_values
from dgs_utils.workflow.relative_paths import MAYBE_PATH, resolve_file, resolve_parameter

SECTIONS = {stage.split("_", 1)[1]: stage for stage in STAGES}
SEVERAL = "to sweep over several values, write {0}=A,B or {0}=[A, B]"
# The order of running: 08 makes distilled sets as 05 does, so both come before 06.
ORDER = ("00_prepare", "01_fine_tune", "02_pool", "03_difficulty", "04_transform", "08_condense", "05_sample",
         "06_evaluate", "07_figures")

TOP_LEVEL_KEYS = ("name", "base", "grid")  # of a file, beside the sections

MAX_NODES = 100_000  # notebooks in a plan
MAX_FILE_BYTES = 2**18
MAX_BASES = 10  # files on top of each other

Axis = tuple[str, str]  # stage, parameter
Point = dict[Axis, Any]
Grid = dict[Axis, list]


@dataclass(frozen=True)
class Experiment:
    """An experiment file that has been read and checked."""

    name: str  # from the file, or the file's own name
    sections: dict[str, dict[str, Any]]  # parameters by stage
    grids: list[Grid]  # values by axis, one dictionary a grid

    @property
    def target(self) -> str:
        """The last stage to run: the last one with a section (an empty one counts) or an axis.

        After 06 also 07, since its tables and figures take seconds.
        """
        last = max([*self.sections, *(stage for grid in self.grids for stage, _ in grid)], key=ORDER.index)
        return "07_figures" if last == "06_evaluate" else last

    def points(self) -> Iterator[Point]:
        """Yield the points of one grid after the other, the last axis running fastest."""
        for grid in self.grids:
            yield from grid_points(grid)

    def values(self, stage: str, point: Point) -> dict[str, Any]:
        """Return a stage's parameters at a grid point, as far as they are set."""
        return self.sections.get(stage, {}) | {name: v for (owner, name), v in point.items() if owner == stage}


def grid_points(grid: Grid) -> Iterator[Point]:
    """Yield the points of a grid, the last axis running fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def stage_named(name: str) -> str:
    """Return the stage with a name such as "evaluate" or "06_evaluate".

    Raises:
        ValueError: there is no such stage.
    """
    if name not in STAGES and name not in SECTIONS:
        raise ValueError(f"{name} is not a stage{did_you_mean(name, SECTIONS)}")
    return SECTIONS.get(name, name)


def read_experiment(path: str | Path, changes: list[str] | None = None) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: the YAML file.
        changes: further settings, each "stage.name=value". A list of values, with or without brackets, makes an axis of
            the grid; of a parameter that itself takes a list, a list of lists does. A single value replaces an axis.

    Raises:
        ValueError: the file cannot be read, or a name or value in it is wrong; the sentence names it and the remedy.
    """
    path = resolve_file(str(path))
    experiment = _read_file(path)
    for change in changes or []:
        _apply_override(change, experiment)
    if not experiment.sections and not any(experiment.grids):
        raise ValueError(f"{path} asks for nothing; add a section, such as evaluate: {{}}")
    _check_size(path, experiment.grids)
    try:
        _check_values(experiment)
    except ValueError as error:
        raise _with_form(error, changes or []) from None
    return experiment


# ---- Files -----------------------------------------------------------------------------------------------------------

def _read_file(path: Path, readers: tuple[Path, ...] = ()) -> Experiment:
    """Return what a file asks for, on top of what its base does; values are checked later."""
    if path in readers or len(readers) > MAX_BASES:
        raise ValueError(f"{path} is its own base, or one of more than {MAX_BASES} bases; remove base from it")
    content, folder = _load(path), path.parent.absolute()
    name = check_name(str(content.pop("name", path.stem)), f"{path}: name")
    base, grids = content.pop("base", None), content.pop("grid", None)
    sections: dict[str, dict[str, Any]] = {}
    for section, values in content.items():
        if section not in SECTIONS:
            raise ValueError(f"{path}: {section} is not a section{did_you_mean(section, [*SECTIONS, *TOP_LEVEL_KEYS])}")
        stage, values = SECTIONS[section], values or {}
        if not isinstance(values, dict):
            raise ValueError(f"{path}: section {section} is {values!r}; give parameters and their values below it")
        sections[stage] = {name: _parameter(stage, name, value, folder) for name, value in values.items()}
    experiment = Experiment(name, sections, _read_grids(path, grids))
    if base is None:
        return experiment
    below = _read_file(Path(os.path.normpath(folder / str(base))), (*readers, path))
    merged = {stage: below.sections.get(stage, {}) | values for stage, values in sections.items()}
    return Experiment(name, below.sections | merged, below.grids if grids is None else experiment.grids)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no plain file; give an experiment file, such as params/quickstart.yaml")
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        files = [file.relative_to(path.parent).as_posix() for folder in ("", "params/")
                 for file in sorted(path.parent.glob(f"{folder}[!.]*.yaml"))] or ["params/quickstart.yaml"]
        raise ValueError(f"the experiment file {path} does not exist"
                         f"{did_you_mean(f'{path.stem}.yaml', files, 'its folder')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a text file: {error}") from None
    if len(text) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES // 2**10} kB, more than any experiment needs; "
                         f"shorten it")
    try:
        content = yaml_values.load(text)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} has no sections; see params/quickstart.yaml for the form of an experiment file")
    return content or {}


def _parameter(stage: str, name: str, value: Any, folder: Path) -> Any:
    return resolve_parameter(stage, name, yaml_values.convert(value, stage, name), folder)


def _read_grids(path: Path, content: Any) -> list[Grid]:
    grids = list[Grid]()
    for axes in content if content and isinstance(content, list) else [content or {}]:
        if not isinstance(axes, dict):
            raise ValueError(f"{path}: grid is {axes!r}; give axes with their values, such as "
                             f"sample.method: [random, dgs], or a list of such grids")
        grids.append({axis: _options(axis, _parameter(*axis, options, path.parent.absolute()))
                      for axis, options in ((_axis(text), options) for text, options in axes.items())})
    return grids


def _check_size(path: Path, grids: list[Grid]) -> None:
    """Refuse a grid of too many points, before it is multiplied out."""
    points = sum(math.prod(map(len, grid.values())) for grid in grids)
    if points > MAX_NODES:
        (stage, name), options = max((item for grid in grids for item in grid.items()), key=lambda item: len(item[1]))
        raise ValueError(f"{path}: the grid has {points:,} points, more than {MAX_NODES:,}; its longest axis is "
                         f"{stage[3:]}.{name} with {len(options):,} values, so shorten that one or leave an axis out")


# ---- Names and values ------------------------------------------------------------------------------------------------

def _axis(text: str) -> Axis:
    """Split "section.parameter" and check both names."""
    section, _, name = str(text).partition(".")
    if section not in SECTIONS:
        full = [f"{own}.{section}" for own, stage in SECTIONS.items() if section in STAGES[stage].model_fields]
        hint = f"; write {' or '.join(full)}" if full and not name else did_you_mean(section, SECTIONS)
        raise ValueError(f"{text}: {section} is not a section{hint}")
    model = STAGES[SECTIONS[section]]
    if not name:
        raise ValueError(f"{text} is a whole section; name one of its parameters: {', '.join(model.model_fields)}")
    if name not in model.model_fields:
        raise ValueError(f"{text} is not a parameter of {model.stage}{did_you_mean(name, model.model_fields)}")
    return model.stage, name


def _options(axis: Axis, options: Any) -> list:
    """Return the values of an axis, after checking that it can be one."""
    (stage, name), text = axis, f"grid axis {axis[0][3:]}.{axis[1]}"
    if not isinstance(options, list) or not options:
        raise ValueError(f"{text} is {options!r}; give a list of at least one value")
    if name in STAGES[stage].fields_tagged("execution_only"):
        raise ValueError(f"{text} does not change the result; set it in the section {stage[3:]}")
    if stage == "07_figures":
        raise ValueError(f"{text} cannot be, since one stage 07 shows the whole grid; set it in the section")
    return options


def _apply_override(change: str, experiment: Experiment) -> None:
    """Carry out one --set: in every grid a list of values becomes the axis, and a single value removes it.

    Relative paths start from the current folder.
    """
    text, equals, value = change.partition("=")
    if not equals:
        raise ValueError(f"--set {text} has no value; write --set {text}=VALUE")
    stage, name = _axis(text)
    swept = _comma_list(stage, name, value)
    try:
        content = swept or yaml_values.load(value, whole=True)
    except ValueError as error:
        raise ValueError(f"--set {change} {error}") from None
    content = _parameter(stage, name, content, Path.cwd())
    lists = isinstance(content, list) and bool(content) and all(isinstance(item, list) for item in content)
    kind = STAGES[stage].model_fields[name].annotation
    takes_list = any(get_origin(alternative) is list for alternative in (kind, *get_args(kind)))
    if swept or lists or (isinstance(content, list) and not takes_list):
        for grid in experiment.grids:
            grid[stage, name] = _options((stage, name), content)
    else:
        for grid in experiment.grids:
            grid.pop((stage, name), None)
        experiment.sections.setdefault(stage, {})[name] = content


def _comma_list(stage: str, name: str, text: str) -> list | None:
    """Return the values of ``5,10`` behind --set, which sweeps as in Hydra; None for a single value.

    Text that cannot be an axis, and the path of what exists, are one value with their commas.

    Raises:
        ValueError: something else than a sweep may be meant; the sentence has both forms.
    """
    values, model = yaml_values.comma_list(text), STAGES[stage]
    if values is None:
        return None
    what, kind = f"--set {stage[3:]}.{name}={text}", model.model_fields[name].annotation
    if re.fullmatch(r"(choice|range|interval|glob|shuffle|sort)\(.*\)", text.strip()):
        raise ValueError(f"{what} would be a function of Hydra; {SEVERAL.format(f'{stage[3:]}.{name}')}")
    paths = {*model.fields_tagged("folder"), *model.fields_tagged("external")}
    is_axis = stage != "07_figures" and name not in model.fields_tagged("execution_only")
    if (kind is str and not is_axis) or (name in paths and resolve_file(text).exists()):
        return None
    if get_origin(kind) is list and not all(isinstance(value, list) for value in values):
        several = f", or {','.join(f'[{value}]' for value in values)} to sweep over {len(values)}" if is_axis else ""
        raise ValueError(f"{what} is a list without its brackets; write [{text}]{several}")
    if kind is float and re.fullmatch(r"[-+]?0,0[0-9]+", text.strip()):
        raise ValueError(f"{what} would sweep over 0 and {int(values[1])}; write {text.strip().replace(',', '.')} for "
                         f"a number, or [{text}] to sweep")
    if name in paths - MAYBE_PATH and (missing := [item for item in map(str, values) if "://" not in item
                                                   and not resolve_file(item).exists()]):
        raise ValueError(f"{what} sweeps over {len(values)} paths, and {missing[0]} does not exist; quote a path that "
                         f"holds a comma: \"'{text}'\"")
    return values


def _with_form(error: ValueError, changes: list[str]) -> ValueError:
    """Return an error with the form of several values, where --set set something like them."""
    for change in changes:
        name, _, value = change.partition("=")
        looks_several = "(" in value or (re.search(r"[,;|]|\S\s+\S", value) and not yaml_values.comma_list(value))
        if str(error).startswith(f"{name} is ") and "but input should be" in str(error) and looks_several:
            return ValueError(f"{error}; {SEVERAL.format(name)}")
    return error


def _check_values(experiment: Experiment) -> None:
    """Validate every section with every combination of its own axes, whether or not the plan will use it."""
    for stage, grid in product(STAGES, experiment.grids):
        for point in grid_points({axis: options for axis, options in grid.items() if axis[0] == stage}):
            values = experiment.values(stage, point)
            if "output" in values:
                raise ValueError(f"{stage[3:]}.output cannot be set in an experiment file, where folders are named "
                                 f"after their parameters; remove it, or give --outputs")
            if isinstance(values.get("title"), str):
                check_name(values["title"], f"{stage[3:]}.title")
            if stage == "05_sample" and is_condensed(values):
                values = {name: value for name, value in values.items() if name != "method"}
            validate(stage, values)


def is_condensed(sample: dict[str, Any]) -> bool:
    """Return whether a ``sample`` section names a method that optimises pixels, whose set notebook 08 makes."""
    method = sample.get("method")
    return isinstance(method, str) and method in METHODS and METHODS[method].source == "condense"
