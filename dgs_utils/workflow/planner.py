"""From an experiment to its nodes.

Each grid point asks for the experiment's last stage, which asks for its inputs (`StageParams.inputs`), and so on. Nodes
of one key are one node, so grid points share whatever they can: one fine-tuning, one pool a pool seed, scores once.
"""

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dgs_utils.params import SampleParams, validate
from dgs_utils.params.base import Input, StageParams
from dgs_utils.store.hashing import hash_cache
from dgs_utils.store.lineage import check_input
from dgs_utils.store.manifest import MANIFEST
from dgs_utils.store.node import Node, check_listed_images, prepare_params, with_resolved_pool_size
from dgs_utils.store.paths import resolve_path
from dgs_utils.workflow.experiment import MAX_NODES, ORDER, Experiment, Point, is_condensed
from dgs_utils.workflow.plan_checks import check_plan

_UP_TO = {stage: frozenset(ORDER[: index + 1]) for index, stage in enumerate(ORDER)}  # a stage and those before it

# The stages whose axes decide a stage's parameters, with the defaults that its images ask for and its title.
_DECISIVE = {stage: {stage, "00_prepare", *["02_pool"] * (stage == "05_sample")} for stage in ORDER}


def plan(experiment: Experiment, on_missing_weights: Callable[[str], None] | None = None) -> list[Node]:
    """Return all nodes of an experiment (see `expand`), after checking that they can run.

    ``on_missing_weights`` takes the sentence about missing weights, where the plan is only shown.

    Raises:
        ValueError: parameters of several stages that do not go together, or images that are not on disk.
    """
    nodes = expand(experiment)
    check_plan(nodes, on_missing_weights)
    return nodes


def expand(experiment: Experiment) -> list[Node]:
    """Return all nodes of an experiment, each once, in the order of the stages, inputs before their readers.

    Raises:
        ValueError: a wrong parameter, or an input folder that the file names and that does not exist.
    """
    planner = _Planner(experiment)
    last = experiment.target
    with hash_cache():
        ends = {node.key: node for node in (planner.node("06_evaluate" if last == "07_figures" else last, point)
                                            for point in experiment.points())}
        if last == "07_figures":
            planner.figures(list(ends.values()))
    # The sort is stable, so that within a stage inputs stay before their readers.
    return sorted(planner.nodes.values(), key=lambda node: ORDER.index(node.stage))


class _Planner:
    """Collects the nodes of grid points; equal requests, parameters and nodes are computed once."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.nodes: dict[str, Node] = {}
        self.nodes_by_request: dict[tuple, Node] = {}
        self.nodes_by_inputs: dict[tuple, Node] = {}
        self.params: dict[tuple, tuple[StageParams, dict[str, Input], dict[str, str]]] = {}  # the last for their nodes

    def node(self, stage: str, point: Point, overrides: dict[str, Any] | None = None) -> Node:
        """Return a stage's node at a grid point; its inputs are planned before it."""
        request = _question(stage, overrides, point, _UP_TO[stage])
        if request not in self.nodes_by_request:
            self.nodes_by_request[request] = self._node(stage, overrides, point)
        return self.nodes_by_request[request]

    def _node(self, stage: str, overrides: dict[str, Any] | None, point: Point) -> Node:
        if stage == "05_sample" and is_condensed(values := self.experiment.values(stage, point)):
            values = {"ipc": SampleParams.model_fields["ipc"].default} | values
            asked: dict[str, Any] = {name: values[name] for name in ("method", "ipc", "seed") if name in values}
            return self.node("08_condense", point, asked)
        question = _question(stage, overrides, point, _DECISIVE[stage])
        if question not in self.params:
            own, originals = self.experiment.values(stage, point), self.experiment.values("00_prepare", point)
            is_own = "folder" in (originals.get("dataset"), self.experiment.values("02_pool", point).get("generator"))
            values = {"title": self.experiment.name} if stage == "05_sample" and is_own else {}  # it has no other name
            values |= own | (overrides or {})
            prepare = prepare_params(resolve_path(values["prepare"])) if values.get("prepare") else originals
            params = validate(stage, values).with_defaults(prepare)
            self.params[question] = params, params.inputs(), {}
        params, specs, known = self.params[question]
        inputs = {name: self._input(params, name, spec, point) for name, spec in specs.items()}
        made_from = (id(params), *[(node.key, node.count) if isinstance(node, Node) else node
                                   for node in inputs.values()])
        if made_from not in self.nodes_by_inputs:
            sized = with_resolved_pool_size(params, inputs)
            self.nodes_by_inputs[made_from] = self._register(Node(sized, inputs, known if sized is params else {}))
        return self.nodes_by_inputs[made_from]

    def _input(self, params: StageParams, name: str, spec: Input, point: Point) -> Node | Path:
        folder = _input_folders(params, name)
        if not folder:
            return self.node(spec.stage, point, spec.overrides)
        if not (spec.any_folder and folder.is_dir()):
            what = f"{params.stage[3:]}.{name}"
            check_listed_images(folder, what, check_input(folder, what, spec.stages))
        return folder

    def figures(self, evaluations: list[Node]) -> None:
        """Plan the one node that shows all evaluations, and the distilled sets whose origin is known."""
        sets: list[Any] = [node.inputs["distilled"] for node in evaluations]
        samples = {getattr(source, "key", source): source for source in sets
                   if isinstance(source, Node) or (source / MANIFEST).exists()}
        planned = {"evaluations": evaluations, "samples": list(samples.values())}
        params = validate("07_figures", {"title": self.experiment.name} | self.experiment.values("07_figures", {}))
        inputs = {name: _input_folders(params, name) or planned[name] for name in params.inputs()}
        self._register(Node(params, {name: sources for name, sources in inputs.items() if sources}))

    def _register(self, node: Node) -> Node:
        """Return the one node with this node's key: of growing results, the largest that is asked for.

        Raises:
            ValueError: another result has the same key, as can happen to any two hashes, or there are more than
                `MAX_NODES`.
        """
        known = self.nodes.setdefault(node.key, node)
        if known is node and len(self.nodes) > MAX_NODES:
            stage, count = Counter(node.stage for node in self.nodes.values()).most_common(1)[0]
            raise ValueError(f"the grid asks for more than {MAX_NODES:,} notebooks, {count:,} of them {stage}; shorten "
                             f"an axis of {stage[3:]} or of a stage before it")
        if known is not node and (known.input_keys != node.input_keys or (known.params != node.params
                                  and (known.stage, known.fingerprint) != (node.stage, node.fingerprint))):
            raise ValueError(f"two different results of {node.stage} have the key {node.key}: {known.fingerprint} and "
                             f"{node.fingerprint}; change a parameter of one of them, such as its seed")
        if node.count > known.count:
            self.nodes[node.key] = node
        return self.nodes[node.key]


def _question(stage: str, overrides: dict[str, Any] | None, point: Point, stages: Collection[str]) -> tuple:
    """Return what is equal for equal requests: the grid's values at the axes of some stages are known by their ids."""
    axes = [part for axis, value in point.items() if axis[0] in stages for part in (axis, id(value))]
    return stage, repr(overrides), *axes


def _input_folders(params: StageParams, name: str) -> Any:
    """Return the input folder, or folders, that a parameter names; "" or [] where the plan makes them."""
    value = getattr(params, name)
    return [resolve_path(folder) for folder in value] if isinstance(value, list) else value and resolve_path(value)
