"""Checks of a plan that need several stages' parameters or the disk, so that errors come before long work."""

from collections.abc import Callable
from typing import Any

from dgs_utils.diffusion.published_dit import find_dit
from dgs_utils.methods import DYNAMICS_SCORES
from dgs_utils.params import (
    DifficultyParams,
    EvaluateParams,
    FiguresParams,
    FineTuneParams,
    PoolParams,
    PrepareParams,
    SampleParams,
    TransformParams,
)
from dgs_utils.params.base import StageParams
from dgs_utils.params.difficulty import NOTHING_HELD_OUT
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.params.types import is_library_network
from dgs_utils.store.node import Node
from dgs_utils.store.paths import HUB_DATASETS, resolve_path


def check_plan(nodes: list[Node], on_missing_weights: Callable[[str], None] | None = None) -> None:
    """Check that the nodes of a plan can run; ``on_missing_weights`` is of `planner.plan`.

    Raises:
        ValueError: they cannot; the sentence names the parameter and the remedy.
    """
    for node in nodes:
        params = node.params
        if isinstance(params, PrepareParams):
            _check_weights(params, on_missing_weights)
            _check_library(params.classifier if params.trains_classifier else "", params.classifier_size)
            _check_originals(params)
            params.check_model()
        elif isinstance(params, EvaluateParams):
            _check_library(params.network, params.image_size)
            if params.tracker:
                from dgs_utils.results.tracking import check_tracker  # here, because pandas takes a while to import

                check_tracker(params.tracker)
        elif isinstance(params, PoolParams):
            _check_criteria(params, _params_of(node.inputs.get("fine_tune")))
        elif isinstance(params, TransformParams | SampleParams):
            _check_pool_size(node, params)
        if isinstance(params, DifficultyParams) and params.temperature == "fit" and not params.published_scores:
            prepare = _params_of(node.inputs["prepare"])
            if isinstance(prepare, PrepareParams) and prepare.trains_classifier and not prepare.folds:
                raise ValueError(NOTHING_HELD_OUT)
        if isinstance(params, SampleParams):
            _check_dynamics(params, _params_of(node.inputs["prepare"]))
    _check_scorers([node.params for node in nodes])
    stages = {node.stage for node in nodes}
    prepared = [node.params for node in nodes if isinstance(node.params, PrepareParams)]
    if "06_evaluate" in stages:
        _check_test_images(prepared)
    for node in nodes:
        if isinstance(node.params, FiguresParams | TransformParams):
            _check_figure_classes(node.params, prepared)


def _params_of(source: Any) -> Any:
    """Return the parameters of an input that is planned; None for a folder."""
    return source.params if isinstance(source, Node) else None


def _check_weights(params: PrepareParams, on_missing_weights: Callable[[str], None] | None) -> None:
    if params.base_model in ("train", "none"):
        return
    try:
        find_dit(params.base_model)
    except ValueError as error:
        if on_missing_weights is None:
            raise
        on_missing_weights(str(error))


def _check_library(network: str, image_size: int) -> None:
    """Check that a library has the network that is to be trained, and that it takes the size, if that is known."""
    if is_library_network(network):
        from dgs_utils.classifiers import library_networks  # here, because torch takes a while to import

        library_networks.library_name(network)
        if image_size:
            library_networks.check_library_network(network, image_size)


def _check_originals(params: PrepareParams) -> None:
    """Check that the class table can be read and no class of a folder of images is empty."""
    if params.class_index:
        from dgs_utils.images.classes import read_class_index  # here, because pandas takes a while to import

        read_class_index(resolve_path(params.class_index))
    if params.root:
        classes = params.classes if params.dataset == "folder" else []
        for name, count in _count_images("prepare.root", params.root, classes, 1).items():
            if not count and (params.dataset == "folder" or name in params.classes):
                raise ValueError(f"class {name} has no images in {resolve_path(params.root)}; add some, or leave it "
                                 f"out of prepare.classes")


def _check_criteria(pool: PoolParams, tuning: Any) -> None:
    """Check that a generator named after the minimax criteria is fine-tuned with them."""
    if pool.model == "minimax" and isinstance(tuning, FineTuneParams) and tuning.criteria == "none":
        name = "generator" if pool.generator == "minimax" else "base"
        raise ValueError(f"pool.{name} is minimax, but fine_tune.criteria is none; set pool.{name} (or sample.method) "
                         f"to plain, or leave fine_tune.criteria out")


def _check_dynamics(params: SampleParams, prepare: Any) -> None:
    """Check that training dynamics are recorded where the method needs them."""
    if "dynamics" in params.needs and isinstance(prepare, PrepareParams) and not prepare.dynamics:
        _, method = params.preset
        by_score = method.score in DYNAMICS_SCORES
        name = f"sample.score {method.score}" if by_score else f"sample.rule {method.rule_name}"
        raise ValueError(f"{name} needs what the scorer predicted after each epoch of its training, which is not "
                         f"kept; set prepare.dynamics to true")


def _check_scorers(plan: list[StageParams]) -> None:
    """Check that there are several scorers where the mean of their ranks is the score."""
    scores = {params.score for params in plan if isinstance(params, TransformParams | SampleParams)}
    if "mean_rank" in scores and not all(params.scorers for params in plan if isinstance(params, DifficultyParams)):
        raise ValueError("sample.score is mean_rank, and one scorer alone scores the images; name more in "
                         "difficulty.scorers, or choose another sample.score")


def _check_pool_size(node: Node, params: TransformParams | SampleParams) -> None:
    """Check that the pool has as many images a class as are drawn from it."""
    scores = node.inputs.get("pool_scores")
    pool = _params_of(scores.inputs.get("pool") if isinstance(scores, Node) else node.inputs.get("pool"))
    if not isinstance(pool, PoolParams):
        return
    ipc, factor = params.ipc, params.pool_factor
    uses_factor = isinstance(params, TransformParams) or "pool_factor" in params.preset[1].uses
    need = ipc * max(factor, 1) if uses_factor else ipc
    asks = (f"sample.ipc {ipc}{f' × sample.pool_factor {factor}' if need > ipc else ''} asks for {need} images of each "
            f"class, but")
    if pool.generator == "folder":
        if isinstance(params, TransformParams) or params.short_classes == "take_all":
            return  # what is drawn from a target is checked as the set that is drawn
        roots = pool.root if isinstance(pool.root, list) else [pool.root]
        counts = [_count_images("pool.root", root, [], need) for root in roots]
        for name in set.intersection(*map(set, counts)) if counts else ():  # stage 02 checks archives
            if (count := sum(images[name] for images in counts)) < need:
                raise ValueError(f"{asks} class {name} has {count} in {', '.join(map(str, map(resolve_path, roots)))}; "
                                 f"add some, or lower ipc or pool_factor")
    elif need > pool.images_per_class:
        raise ValueError(f"{asks} pool.images_per_class is {pool.images_per_class}; raise it to {need}, or lower ipc "
                         f"or pool_factor")
    else:
        pool.check_prefix(params.images_read_from("pool_scores" if node.stage == "04_transform" else "pool"))


def _check_test_images(prepared: list[PrepareParams]) -> None:
    """Check that the user's own originals have test images."""
    for params in prepared:
        root = resolve_path(params.root)
        if params.dataset != "folder" or params.split != "given" or not params.root or not root.is_dir():
            continue
        from dgs_utils.images.folder_roles import SPLITS  # here, because pandas and Pillow take a while to import
        from dgs_utils.images.scan import list_folder

        folders, files = list_folder(root)
        held_out = {SPLITS.get(name.lower(), "train") != "train" for name in folders}
        if len(folders) > 1 and not files and held_out == {False}:
            raise ValueError(f"stage 06 needs test images, and {root} has no folder val or test; add one, or set "
                             f"prepare.split to holdout, which takes prepare.val_per_class of each class")
        if not files and held_out == {True}:
            raise ValueError(f"{root} has {' and '.join(folders)} and no folder train; add the images to train on "
                             f"as train, or rename one")


def _check_figure_classes(params: FiguresParams | TransformParams, prepared: list[PrepareParams]) -> None:
    """Check that the classes of figures exist, where they are known without the images."""
    if not prepared or any(originals.dataset not in SUBSETS for originals in prepared):
        return
    names = {wnid: name for originals in prepared for wnid, _, name in SUBSETS[originals.dataset]
             if not originals.classes or wnid in originals.classes}
    for name in params.figure_classes:
        if name not in names and name not in names.values():
            raise ValueError(f"{params.stage[3:]}.figure_classes has {name}, which is no class of "
                             f"{' or '.join(dict.fromkeys(originals.dataset for originals in prepared))}; choose among "
                             f"{', '.join(f'{wnid} ({title})' for wnid, title in names.items())}, or give [] for the "
                             f"first two")


def _count_images(what: str, text: str, classes: list[str], enough: int) -> dict[str, int]:
    """Return how many images (at most ``enough``) each class folder has; {} for any other layout, which stages check.

    Raises:
        ValueError: the folder is missing.
    """
    root = resolve_path(text)
    if text.startswith(HUB_DATASETS):
        return {}
    if not text or not root.exists():
        raise ValueError(f"{what} is {f'{root}, which does not exist' if text else 'empty'}; give the folder of "
                         f"the images")
    if root.is_file():
        return {}
    from dgs_utils.images.scan import count_images, list_folder, looks_like_image  # here, because Pillow takes a while

    top = root / "train" if (root / "train").is_dir() else root
    folders, files = list_folder(top)
    contents = {name: list_folder(top / name) for name in folders}
    has_images = any(looks_like_image(top / name / file) for name, (_, inner) in contents.items() for file in inner[:1])
    if not has_images or any(file.lower().endswith((".csv", ".jsonl", ".parquet", ".tsv")) for file in files):
        return {}
    names = classes or [name for name, (deeper, inner) in contents.items()
                        if not inner or deeper or count_images(top / name)]  # a folder of other files is no class
    return {name: count_images(top / name, enough) if name in contents else 0 for name in names}
