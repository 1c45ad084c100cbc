"""Experiment files: one YAML that says what a paper's worth of runs consists of.

An experiment file holds one section a stage (``prepare``, ``fine_tune``, …, without the number) with that stage's own
parameters, and under ``grid`` the axes to sweep, such as ``sample.method: [random, dgs]``; a list of such grids stands
for the points of all of them. With ``base: other.yaml`` it starts from the sections of another file beside it and
changes some of their parameters; a grid of its own replaces the other's. Every name and value is checked when the file
is read.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from dgs_utils.artifacts.names import check_name
from dgs_utils.batch.paths import given_file, placed_change, placed_content
from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, validate
from dgs_utils.runtime.parameters import nearest

SECTIONS = {stage.split("_", 1)[1]: stage for stage in STAGES}
# The order of the road: 08 makes distilled sets as 05 does, so both stand before 06.
ORDER = ("00_prepare", "01_fine_tune", "02_pool", "03_difficulty", "04_transform", "08_condense", "05_sample",
         "06_evaluate", "07_figures")

OTHERS = ("name", "base", "grid")  # what a file may hold beside sections

MOST = 100_000  # notebooks in a plan
LARGEST = 2**21  # bytes of an experiment file; reading more takes minutes

Axis = tuple[str, str]  # stage, parameter
Point = dict[Axis, Any]
Grid = dict[Axis, list]


@dataclass(frozen=True)
class Experiment:
    """An experiment file that has been read and checked.

    Attributes:
        name: what it is called; the file's name unless it says otherwise.
        sections: parameters by stage.
        grids: values by axis, one dictionary a grid.
    """

    name: str
    sections: dict[str, dict[str, Any]]
    grids: list[Grid]

    @property
    def target(self) -> str:
        """The last stage that is wanted: the last one on the road that has a section (an empty one counts) or axis."""
        return max([*self.sections, *(stage for grid in self.grids for stage, _ in grid)], key=ORDER.index)

    def points(self) -> Iterator[Point]:
        """Yield the points of one grid after the other, the last axis running fastest."""
        for grid in self.grids:
            yield from grid_points(grid)

    def values(self, stage: str, point: Point) -> dict[str, Any]:
        """Return what the file and a grid point say about a stage's parameters."""
        return self.sections.get(stage, {}) | {name: v for (owner, name), v in point.items() if owner == stage}


def grid_points(grid: Grid) -> Iterator[Point]:
    """Yield the points of a grid, the last axis running fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def stage_named(name: str) -> str:
    """Return the stage that a name such as "evaluate" or "06_evaluate" stands for.

    Raises:
        ValueError: there is no such stage.
    """
    if name not in STAGES and name not in SECTIONS:
        raise ValueError(f"{name} is not a stage{nearest(name, SECTIONS)}")
    return SECTIONS.get(name, name)


def read_experiment(path: str | Path, changes: list[str] | None = None) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: the YAML file.
        changes: further settings, each "stage.name=value". A list of values makes an axis of the grid, unless the
            parameter itself takes a list; a single value replaces an axis.

    Raises:
        ValueError: the file cannot be read, or a name or value in it is wrong; the sentence names it and the remedy.
    """
    path = Path(given_file(str(path)))
    content = _load_with_base(path)
    name = check_name(str(content.pop("name", path.stem)), f"{path}: name")
    grids, sections = _read_grids(path, content.pop("grid", None) or {}), {}
    for section, values in content.items():
        if section not in SECTIONS:
            raise ValueError(f"{path}: {section} is not a section{nearest(str(section), [*SECTIONS, *OTHERS])}")
        if not isinstance(values, dict | None):
            raise ValueError(f"{path}: section {section} is {values!r}; give parameters and their values below it")
        sections[SECTIONS[section]] = dict(values or {})
    for change in changes or []:
        _change(change, sections, grids)
    if not sections and not any(grids):
        raise ValueError(f"{path} asks for nothing; add a section, such as evaluate: {{}}")
    _check_size(path, grids)
    experiment = Experiment(name, sections, grids)
    _check_values(experiment)
    return experiment


def _check_size(path: Path, grids: list[Grid]) -> None:
    """Refuse a grid that nobody means, before it is multiplied out."""
    points = sum(math.prod(map(len, grid.values())) for grid in grids)
    if points > MOST:
        (stage, name), options = max((item for grid in grids for item in grid.items()), key=lambda item: len(item[1]))
        raise ValueError(f"{path}: the grid has {points:,} points, more than {MOST:,}; its longest axis is "
                         f"{stage[3:]}.{name} with {len(options):,} values, so shorten that one or leave an axis out")


def typed(change: str) -> str:
    """Return a --set with relative paths as they are meant in the current folder, for whoever reads it elsewhere."""
    return placed_change(change, lambda text: yaml.load(text, Loader=_Loader))


def _read_grids(path: Path, given: Any) -> list[Grid]:
    grids = given if isinstance(given, list) else [given]
    for axes in grids:
        if not isinstance(axes, dict):
            raise ValueError(f"{path}: grid is {axes!r}; give axes with their values, such as "
                             f"sample.method: [random, dgs], or a list of such grids")
    return [{_axis(axis): _options(axis, options) for axis, options in axes.items()} for axes in grids]


# ---- YAML ------------------------------------------------------------------------------------------------------------

class _Loader(yaml.SafeLoader):
    """YAML's safe loader, refusing keys that are given twice, and reading 1e-3 as the number that it is."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                              list("-+0123456789"))


def _load(path: Path) -> dict:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} has more than {LARGEST // 2**20} MB, more than any experiment needs; shorten it")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        files = [file.name for file in sorted(path.parent.glob("*.yaml"))] or ["params/quickstart.yaml"]
        raise ValueError(f"the experiment file {path} does not exist{nearest(path.name, files)}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; params/quickstart.yaml shows the form of such files") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a text file: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {_where(error)}") from None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} holds no sections; see params/quickstart.yaml for the form of an experiment file")
    return content or {}


def _load_with_base(path: Path, readers: tuple[Path, ...] = ()) -> dict:
    """Return a file's content on top of that of its base, whose name is left out."""
    if path in readers:
        raise ValueError(f"{path} is its own base; remove base from it")
    content = placed_content(_load(path), path.parent.absolute())
    if "base" not in content:
        return content
    base = _load_with_base(path.parent / str(content.pop("base")), (*readers, path))
    base.pop("name", None)
    merged = {section: (base.get(section) or {}) | content[section] for section in SECTIONS
              if isinstance(content.get(section), dict) and isinstance(base.get(section), dict | None)}
    return base | content | merged


def _where(error: yaml.YAMLError) -> str:
    """Return a YAML error as one phrase with its line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem} in line {mark.line + 1}" if mark and problem else " ".join(str(error).split())


# ---- Names and values ------------------------------------------------------------------------------------------------

def _axis(text: str) -> Axis:
    """Split "section.parameter" and check both names."""
    section, _, name = str(text).partition(".")
    if section not in SECTIONS:
        raise ValueError(f"{text}: {section} is not a section{nearest(section, SECTIONS)}")
    model = STAGES[SECTIONS[section]]
    if name not in model.model_fields:
        raise ValueError(f"{text} is not a parameter of {model.stage}{nearest(name, model.model_fields)}")
    return model.stage, name


def _options(axis: str, options: Any) -> list:
    stage, name = _axis(axis)
    if not isinstance(options, list) or not options:
        raise ValueError(f"grid axis {axis} is {options!r}; give a list of at least one value")
    if name in STAGES[stage].marked("machine"):
        raise ValueError(f"grid axis {axis} does not change the result; set it in the section {axis.split('.')[0]}")
    if stage == "07_figures":
        raise ValueError(f"grid axis {axis} cannot be, since one stage 07 shows the whole grid; set it in the section")
    return options


def _change(change: str, sections: dict, grids: list[Grid]) -> None:
    """Carry out one --set: in every grid a list of values becomes the axis, and a single value removes it."""
    text, equals, value = change.partition("=")
    if not equals:
        raise ValueError(f"--set {text} has no value; write --set {text}=VALUE")
    stage, name = _axis(text)
    try:
        value = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {change} is not valid YAML: {_where(error)}") from None
    kind = STAGES[stage].model_fields[name].annotation
    takes_list = any(get_origin(alternative) is list for alternative in (kind, *get_args(kind)))
    if isinstance(value, list) and not takes_list:
        for grid in grids:
            grid[stage, name] = _options(text, value)
    else:
        for grid in grids:
            grid.pop((stage, name), None)
        sections.setdefault(stage, {})[name] = value


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
