"""From an experiment to the nodes that it needs.

Planning pulls: each grid point asks for the experiment's last stage, which asks for its inputs as its parameter model
tells (`StageParams.inputs`), and so on. Nodes with the same key are one node, so whatever grid points can share exists
once: one fine-tuning, one pool a pool seed, scores once.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.contents import steady
from dgs_utils.artifacts.manifests import check_input
from dgs_utils.artifacts.nodes import Node, check_root, settled
from dgs_utils.artifacts.places import locate
from dgs_utils.batch.experiment import MOST, ORDER, Experiment, Point, is_condensed
from dgs_utils.diffusion.published import find_dit
from dgs_utils.methods import DYNAMIC
from dgs_utils.params import FineTuneParams, PoolParams, PrepareParams, SampleParams, TransformParams, validate
from dgs_utils.runtime.parameters import Input, StageParams

HELD_OUT = {"val", "valid", "validation", "dev", "test", "testing"}  # folders of images to test on


def plan(experiment: Experiment, absent: Callable[[str], None] | None = None) -> list[Node]:
    """Return all nodes of an experiment (see `expand`), after checking that they can be carried out.

    Args:
        experiment: what is asked for.
        absent: takes the sentence on weights that are not there yet, for who only wants to see the plan; None: this is
            an error.

    Raises:
        ValueError: parameters of several stages that do not go together, or images that are not on disk.
    """
    nodes = expand(experiment)
    for node in nodes:
        _check(node, absent)
    _check_tests(nodes)
    return nodes


def expand(experiment: Experiment) -> list[Node]:
    """Return all nodes of an experiment, each once, in the order of the stages, inputs before what needs them.

    Raises:
        ValueError: a wrong parameter, or an input folder that the file names and that is not there.
    """
    planner = _Planner(experiment)
    last = experiment.target
    wanted = "06_evaluate" if last == "07_figures" else last
    with steady():  # keys follow the content of what is given, which is looked at once
        ends = list({n.key: n for n in (planner.node(wanted, point) for point in experiment.points())}.values())
        if last == "07_figures":
            planner.figures(ends)
    # The sort is stable, so that within a stage inputs stay before their readers.
    return sorted(planner.nodes.values(), key=lambda node: ORDER.index(node.stage))


_UP_TO = {stage: frozenset(ORDER[: place + 1]) for place, stage in enumerate(ORDER)}  # a stage and those before it


class _Planner:
    """Collects nodes while grid points ask for them.

    Most points of a large grid ask for what others asked for before: for the same parameters, or for the same node.
    Each is worked out once.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.nodes: dict[str, Node] = {}
        self.asked: dict[str, Node] = {}
        self.checked: dict[str, tuple[StageParams, dict[str, Input]]] = {}
        self.made: dict[tuple, Node] = {}

    def node(self, stage: str, point: Point, overrides: dict[str, Any] | None = None) -> Node:
        """Return a stage's node at a grid point, with its inputs planned before it."""
        if stage == "05_sample" and is_condensed(self.experiment.values(stage, point)):
            stage, overrides = "08_condense", self._condensed(point)
        upstream = [item for item in point.items() if item[0][0] in _UP_TO[stage]]  # other grids have other axes
        question = repr((stage, overrides, upstream))
        if question not in self.asked:
            values = self._title(point) if stage == "05_sample" else {}
            values |= self.experiment.values(stage, point) | (overrides or {})
            params, specs = self._checked(stage, values)
            inputs = {name: self._input(params, name, spec, point) for name, spec in specs.items()}
            self.asked[question] = self._made(params, inputs)
        return self.asked[question]

    def _checked(self, stage: str, values: dict[str, Any]) -> tuple[StageParams, dict[str, Input]]:
        """Return parameters and the inputs that they call for."""
        question = repr((stage, values))
        if question not in self.checked:
            params = validate(stage, values)
            self.checked[question] = params, params.inputs()
        return self.checked[question]

    def _made(self, params: StageParams, inputs: dict[str, Node | Path]) -> Node:
        """Return the node of parameters from `_checked` and inputs, which are told apart as objects: all are kept."""
        question = id(params), *(id(one) if isinstance(one, Node) else str(one) for one in inputs.values())
        if question not in self.made:
            self.made[question] = self._keep(Node(settled(params, inputs), inputs))
        return self.made[question]

    def figures(self, evaluations: list[Node]) -> Node:
        """Plan the one node that shows all others."""
        found = {"evaluations": evaluations, "samples": _unique(node.inputs["distilled"] for node in evaluations)}
        values = {"title": self.experiment.name} | self.experiment.values("07_figures", {})
        params = validate("07_figures", values)
        inputs = {name: _folders(params, name) or found[name] for name in params.inputs()}
        return self._keep(Node(params, inputs))

    def _input(self, params: StageParams, name: str, spec: Input, point: Point) -> Node | Path:
        given = _folders(params, name)
        if not given:
            return self.node(spec.stage, point, spec.overrides)
        if not (spec.any_folder and given.is_dir()):
            what = f"{params.stage[3:]}.{name}"
            check_root(given, what, check_input(given, what, spec.stages))
        return given

    def _keep(self, node: Node) -> Node:
        """Return the one node with this node's key.

        Raises:
            ValueError: there is another that is not the same, as can happen to any two hashes, or more than `MOST`.
        """
        kept = self.nodes.setdefault(node.key, node)
        if kept is node:
            self._check_count()
        elif not _is_same(kept, node):
            raise ValueError(f"two different results of {node.stage} have the key {node.key}: {kept.identity} and "
                             f"{node.identity}; change a parameter of one of them, such as its seed")
        if node.count > kept.count:  # the one result that serves both is as large as the larger asks for
            self.nodes[node.key] = kept = node
        return kept

    def _check_count(self) -> None:
        if len(self.nodes) > MOST:
            stage, count = Counter(node.stage for node in self.nodes.values()).most_common(1)[0]
            raise ValueError(f"the grid asks for more than {MOST:,} notebooks, {count:,} of them {stage}; shorten an "
                             f"axis of {stage[3:]} or of a stage before it")

    def _title(self, point: Point) -> dict[str, str]:
        """Return the title of a set of images of the user's own, of which nothing but the experiment has a name."""
        own = {"folder"} & {self.experiment.values("00_prepare", point).get("dataset"),
                            self.experiment.values("02_pool", point).get("generator")}
        return {"title": self.experiment.name} if own else {}

    def _condensed(self, point: Point) -> dict[str, Any]:
        """Return what a point's ``sample`` section dictates to 08: the method, the IPC, and a seed where it has one."""
        values = {"ipc": SampleParams().ipc} | self.experiment.values("05_sample", point)
        return {name: values[name] for name in ("method", "ipc", "seed") if name in values}


def _folders(params: StageParams, name: str) -> Any:
    """Return the input folder (or folders) that a parameter names itself."""
    given = getattr(params, name)
    return [locate(folder) for folder in given] if isinstance(given, list) else given and locate(given)


def _is_same(one: Node, other: Node) -> bool:
    """Return whether two nodes stand for one result; where all parameters are equal, what decides it is."""
    return one.input_keys == other.input_keys and (
        one.params == other.params or (one.stage, one.identity) == (other.stage, other.identity))


def _unique(sources: Any) -> list:
    return list({source.key if isinstance(source, Node) else source: source for source in sources}.values())


# ---- Checks that need more than one stage, or a look at the disk -----------------------------------------------------

def _check(node: Node, absent: Callable[[str], None] | None) -> None:
    if isinstance(node.params, PrepareParams):
        _check_weights(node.params, absent)
        _check_originals(node.params)
    elif isinstance(node.params, PoolParams):
        tuning = node.inputs.get("fine_tune")
        _check_criteria(node.params, tuning.params if isinstance(tuning, Node) else None)
    elif isinstance(node.params, TransformParams | SampleParams):
        _check_pool_size(node, node.params)
    if isinstance(node.params, SampleParams):
        prepare = node.inputs["prepare"]
        _check_dynamics(node.params, prepare.params if isinstance(prepare, Node) else None)


def _check_criteria(params: PoolParams, tuning: StageParams | None) -> None:
    """A generator that is called after the minimax criteria is fine-tuned with them."""
    if params.model == "minimax" and isinstance(tuning, FineTuneParams) and tuning.criteria == "none":
        name = "generator" if params.generator == "minimax" else "base"
        raise ValueError(f"pool.{name} is minimax, but fine_tune.criteria is none; set pool.{name} (or sample.method) "
                         f"to plain, or leave fine_tune.criteria out")


def _check_dynamics(params: SampleParams, prepare: StageParams | None) -> None:
    """What goes by training dynamics needs a judge whose training is watched."""
    if "dynamics" in params.needs and isinstance(prepare, PrepareParams) and not prepare.dynamics:
        _, method = params.made
        wanted = f"sample.score {method.score}" if method.score in DYNAMIC else f"sample.rule {method.selector}"
        raise ValueError(f"{wanted} looks at what the judge said after each epoch of its training, of which nothing is "
                         f"kept; set prepare.dynamics to true")


def _check_pool_size(node: Node, params: TransformParams | SampleParams) -> None:
    """The pool must hold what is to be drawn from it."""
    scores = node.inputs.get("pool_scores")
    pool = scores.inputs.get("pool") if isinstance(scores, Node) else node.inputs.get("pool")
    made = pool.params if isinstance(pool, Node) else None
    if not isinstance(made, PoolParams):
        return
    ipc, factor = params.ipc, params.pool_factor
    uses_factor = isinstance(params, TransformParams) or "pool_factor" in params.made[1].uses
    need = ipc * max(factor, 1) if uses_factor else ipc
    wanted = f"sample.ipc {ipc} × sample.pool_factor {factor}" if need > ipc else f"sample.ipc {ipc}"
    if made.generator == "folder":
        given = made.root
        roots = given if isinstance(given, list) else [given]
        counts = [_class_counts("pool.root", root, made.classes, need) for root in roots]
        for name in set.intersection(*map(set, counts)) if counts else ():  # an archive's are told by stage 02
            if (count := sum(found[name] for found in counts)) < need:
                raise ValueError(f"{wanted} asks for {need} images of each class, but class {name} has {count} in "
                                 f"{', '.join(str(locate(r)) for r in roots)}; add some, or lower ipc or pool_factor")
    elif need <= made.images_per_class:
        made.check_prefix(params.taken("pool_scores" if node.stage == "04_transform" else "pool"))
    else:
        raise ValueError(f"{wanted} asks for {need} images of each class, but pool.images_per_class is "
                         f"{made.images_per_class}; raise it to {need}, or lower ipc or pool_factor")


def _check_weights(params: PrepareParams, absent: Callable[[str], None] | None) -> None:
    """Given weights of a diffusion model must be there."""
    if params.base_model in ("train", "none"):
        return
    try:
        find_dit(params.base_model)
    except ValueError as error:
        if absent is None:
            raise
        absent(str(error))


def _check_originals(params: PrepareParams) -> None:
    """Given files must be there, and no class of a given folder of images empty."""
    if params.class_index:
        from dgs_utils.images.classes import read_class_index  # pandas is only loaded where there is a table

        read_class_index(locate(params.class_index))
    if params.root:
        names = params.classes if params.dataset == "folder" else []
        for name, count in _class_counts("prepare.root", params.root, names, 1).items():
            if not count and (params.dataset == "folder" or name in params.classes):
                raise ValueError(f"class {name} has no images in {locate(params.root)}; add some, or leave it out "
                                 f"of prepare.classes")


def _check_tests(nodes: list[Node]) -> None:
    """Stage 06 tests on real images, which one's own originals may lack."""
    if not any(node.stage == "06_evaluate" for node in nodes):
        return
    for params in (node.params for node in nodes if isinstance(node.params, PrepareParams)):
        if params.dataset != "folder" or params.split != "given" or not params.root:
            continue
        from dgs_utils.images.trees import entries

        root = locate(params.root)
        folders, files = entries(root) if root.is_dir() else ([], ["an archive"])
        if len(folders) > 1 and not files and not set(map(str.lower, folders)) & HELD_OUT:
            raise ValueError(f"stage 06 needs test images, and {root} has no folder val or test; add one, or set "
                             f"prepare.split to holdout, which takes prepare.val_per_class of each class")


def _class_counts(what: str, given: str, classes: list[str], enough: int) -> dict[str, int]:
    """Return how many images (``enough`` at the most) each class folder holds; {} for archives and metadata files."""
    root = locate(given)
    if not given:
        raise ValueError(f"{what} is empty; give the folder that holds the images")
    if not root.exists():
        raise ValueError(f"{what} is {root}, which does not exist; give the folder that holds the images")
    if root.is_file():
        return {}
    from dgs_utils.images.trees import count_images, entries, looks_like_image  # Pillow is loaded where it is needed

    top = root / "train" if (root / "train").is_dir() else root
    folders, files = entries(top)
    inside = {name: entries(top / name) for name in folders}
    plain = any(looks_like_image(top / name / file) for name, (_, inner) in inside.items() for file in inner[:1])
    if not plain or any(map(_may_list, files)):
        return {}  # any layout but plain class folders is left to stage 00 or 02
    names = classes or [name for name, (deeper, inner) in inside.items()
                        if not inner or deeper or count_images(top / name)]  # a folder of other files is no class
    return {name: count_images(top / name, enough) if name in inside else 0 for name in names}


def _may_list(file: str) -> bool:
    return file.lower().endswith((".csv", ".jsonl", ".parquet", ".tsv"))
