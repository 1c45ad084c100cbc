"""From an experiment file to the nodes that it needs.

An experiment file holds one section a stage (``prepare``, ``fine_tune``, …, without the number) with that stage's own
parameters, and under ``grid`` the axes to sweep, such as ``sample.method: [random, dgs]``. The plan goes up to the
highest-numbered stage that has a section (an empty one counts).

Planning pulls: each grid point asks for its last stage, which asks for its inputs as its parameter model tells
(`StageParams.inputs`), and so on. Nodes with the same key are one node, so whatever grid points can share exists once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from dgs_utils.artifacts import Node, locate
from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, nearest, validate

SECTIONS = {stage.split("_", 1)[1]: stage for stage in STAGES}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Experiment:
    """An experiment file.

    Attributes:
        name: what it is called; the file's name unless it says otherwise.
        sections: parameters by stage.
        grid: values by axis, (stage, parameter) → list.
    """

    name: str
    sections: dict[str, dict[str, Any]]
    grid: dict[tuple[str, str], list]

    @property
    def target(self) -> str:
        """The last stage that is wanted."""
        return max([*self.sections, *(stage for stage, _ in self.grid)], key=lambda s: (s != "08_condense", s))

    def points(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Yield the sections of every grid point, axes filled in."""
        for values in product(*self.grid.values()):
            point = {stage: dict(section) for stage, section in self.sections.items()}
            for (stage, name), value in zip(self.grid, values, strict=True):
                point.setdefault(stage, {})[name] = value
            yield point


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, refusing keys that are given twice."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_experiment(path: str | Path, changes: list[str] | None = None) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: the YAML file.
        changes: further settings, each "stage.name=value"; a list of values makes an axis of the grid.

    Raises:
        ValueError: unreadable, or a name that does not exist; the sentence names it and the nearest valid ones.
    """
    path = locate(path)
    try:
        content = yaml.load(path.read_text(), Loader=_UniqueKeys) or {}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give an experiment file such as params/quickstart.yaml") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no sections; see params/quickstart.yaml for the form of an experiment file")
    name = content.pop("name", path.stem)
    grid = {_axis(axis): _values(axis, values) for axis, values in (content.pop("grid", None) or {}).items()}
    sections = {}
    for section, values in content.items():
        if section not in SECTIONS:
            raise ValueError(f"{section} is no section of an experiment file{nearest(section, [*SECTIONS, 'grid'])}")
        sections[SECTIONS[section]] = dict(values or {})
    for change in changes or []:
        _apply(change, sections, grid)
    if not sections and not grid:
        raise ValueError(f"{path} asks for nothing; add a section, such as evaluate: {{}}")
    return Experiment(str(name), sections, grid)


def _axis(text: str) -> tuple[str, str]:
    """Split "section.parameter" and check both names."""
    section, _, name = str(text).partition(".")
    if section not in SECTIONS:
        raise ValueError(f"{text}: {section} is no section of an experiment file{nearest(section, SECTIONS)}")
    fields = STAGES[SECTIONS[section]].model_fields
    if name not in fields:
        raise ValueError(f"{text} is not a parameter of {SECTIONS[section]}{nearest(name, fields)}")
    return SECTIONS[section], name


def _values(axis: str, values: Any) -> list:
    if not isinstance(values, list) or not values:
        raise ValueError(f"grid axis {axis} is {values!r}; give a list of at least one value")
    return values


def _apply(change: str, sections: dict, grid: dict) -> None:
    text, equals, value = change.partition("=")
    if not equals:
        raise ValueError(f"--set {change} has no value; write --set {change}=VALUE")
    stage, name = _axis(text)
    value = yaml.safe_load(value)
    grid.pop((stage, name), None)
    takes_list = isinstance(STAGES[stage].model_fields[name].default, list)
    if isinstance(value, list) and not takes_list:
        grid[stage, name] = _values(text, value)
    else:
        sections.setdefault(stage, {})[name] = value


def plan(experiment: Experiment) -> list[Node]:
    """Return all nodes of an experiment, each once, inputs before what needs them.

    Raises:
        ValueError: a wrong parameter, or parameters of several stages that do not go together.
    """
    planner = _Planner()
    last = experiment.target
    wanted = "06_evaluate" if last == "07_figures" else last
    ends = [planner.node(wanted, point) for point in experiment.points()]
    if last == "07_figures":
        evaluations = list({node.key: node for node in ends}.values())
        samples = list({node.inputs["distilled"].key: node.inputs["distilled"] for node in evaluations}.values())
        params = validate(last, {"title": experiment.name} | experiment.sections.get(last, {}))
        planner.add(Node(params, {"evaluations": evaluations, "samples": samples}))
    # By stage, which keeps inputs first: 08 feeds 06, and within a stage the order of planning does.
    return sorted(planner.nodes.values(), key=lambda node: "05_z" if node.stage == "08_condense" else node.stage)


class _Planner:
    """Collects nodes while grid points ask for them."""

    def __init__(self):
        self.nodes: dict[str, Node] = {}

    def add(self, node: Node) -> Node:
        """Keep a node unless its like is there already; return the one kept."""
        return self.nodes.setdefault(node.key, node)

    def node(self, stage: str, point: dict[str, dict], overrides: dict[str, Any] | None = None) -> Node:
        """Return a stage's node at a grid point, with its inputs planned before it."""
        params = validate(stage, point.get(stage, {}) | (overrides or {}))
        inputs: dict[str, Any] = {}
        for name, spec in params.inputs().items():
            given = getattr(params, name)
            if given:
                inputs[name] = locate(given)
            else:
                inputs[name] = self.node(*_source(spec, point))
        node = Node(params, inputs)
        if node.key not in self.nodes:
            _check(node)
        return self.add(node)


def _source(spec, point: dict[str, dict]) -> tuple[str, dict, dict]:
    """Return which stage fills an input; a method that optimises pixels takes its set from 08 instead of 05."""
    if spec.stage == "05_sample":
        chosen = validate("05_sample", {n: v for n, v in point.get("05_sample", {}).items() if n != "method"})
        method = point.get("05_sample", {}).get("method", chosen.method)
        if method in METHODS and METHODS[method].source == "condense":
            return "08_condense", point, {"method": method, "ipc": chosen.ipc}
    return spec.stage, point, spec.overrides


# ---- Checks that need more than one stage, or a look at the disk -----------------------------------------------------

def _check(node: Node) -> None:
    check = {"00_prepare": _check_root, "04_transform": _check_pool_size, "05_sample": _check_pool_size}
    check.get(node.stage, lambda _: None)(node)


def _check_pool_size(node: Node) -> None:
    """The pool must hold what is to be drawn from it."""
    scores = node.inputs.get("pool_scores")
    pool = scores.inputs.get("pool") if isinstance(scores, Node) else node.inputs.get("pool")
    if not isinstance(pool, Node) or pool.params.generator == "folder":
        return
    have, ipc, factor = pool.params.images_per_class, node.params.ipc, node.params.pool_factor
    uses_factor = node.stage == "04_transform" or "pool_factor" in METHODS[node.params.method].uses
    need = ipc * max(factor, 1) if uses_factor else ipc
    if need > have:
        of = f"sample.ipc {ipc} × sample.pool_factor {factor}" if need > ipc else f"sample.ipc {ipc}"
        raise ValueError(f"{of} asks for {need} images of each class, but pool.images_per_class is {have}; "
                         f"raise pool.images_per_class or lower the other")


def _check_root(node: Node) -> None:
    """A folder of pictures must be there, and no class of it empty."""
    if not node.params.root:
        return
    root = locate(node.params.root)
    if not root.exists():
        raise ValueError(f"prepare.root is {root}, which does not exist; give a folder, a .zip or a .tgz")
    top = root / "train" if (root / "train").is_dir() else root
    if root.is_dir() and not (any(root.glob("*.zip")) or any(root.glob("metadata.*"))):
        present = {folder.name: folder for folder in top.iterdir() if folder.is_dir()}
        for name in node.params.classes or present:
            if name not in present or not any(f.suffix.lower() in IMAGE_SUFFIXES for f in present[name].iterdir()):
                raise ValueError(f"class {name} has no pictures in {top}; add some or leave it out of prepare.classes")
