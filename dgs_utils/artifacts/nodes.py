"""Nodes: a stage with all its parameters settled, and the folder that stands for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.contents import digest_of, identity_of, was_named
from dgs_utils.artifacts.manifests import MANIFEST, read_manifest
from dgs_utils.artifacts.names import clean_name
from dgs_utils.artifacts.places import locate, outputs_root
from dgs_utils.params import STAGES, validate
from dgs_utils.runtime.parameters import StageParams, node_key


@dataclass(frozen=True)
class Node:
    """A stage with all its parameters settled: what a folder's name stands for, whether or not it exists yet.

    Attributes:
        params: the parameters, of the stage's own model.
        inputs: by parameter name a node, the path of a given folder, or a list of those.
    """

    params: StageParams
    inputs: Mapping[str, "Node | Path | Sequence[Node | Path]"]

    @property
    def stage(self) -> str:
        """Stage name, such as ``05_sample``."""
        return self.params.stage

    @cached_property
    def key(self) -> str:
        """Twelve hex digits: stage, own parameters, what is in the files that they name, inputs' keys."""
        return node_key(self.params, self.input_keys, self.given)

    @cached_property
    def input_keys(self) -> dict[str, Any]:
        """What identifies each input."""
        return {name: key_of(value) for name, value in self.inputs.items()}

    @cached_property
    def given(self) -> dict[str, Any]:
        """What identifies the files and folders that parameters name: their content, wherever they lie."""
        names, only = self.params.marked("given"), self.params.class_folders()
        known = self.params.identity() if names else {}
        found = {name: known[name] for name in names if name in known}
        return {name: [identity_of(item) for item in value] if isinstance(value, list) else identity_of(value, only)
                for name, value in found.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """The parameters that decide the result, with the content of what they name in place of paths."""
        return self.params.identity() | self.given

    @cached_property
    def label(self) -> str:
        """The readable part of the folder's name, where it has no title, and of names of what is made from it."""
        found = self.params.label({n: label_of(v) for n, v in self.inputs.items() if isinstance(v, Node | Path)})
        return clean_name(found)  # titles, folders' names and others' manifests are in it

    @cached_property
    def count(self) -> int:
        """Images a class, or trainings, that are asked for of a result that can grow; 0 for all other results."""
        if self.params.count() or self.stage != "03_difficulty":
            return self.params.count()
        pool = self.inputs.get("pool")
        return pool_count(pool) if isinstance(pool, Node | Path) else 0

    @cached_property
    def folder(self) -> Path:
        """The output folder: the given one, or the one that the key names."""
        if self.params.output:
            return locate(self.params.output)
        return outputs_root().joinpath(self.stage, f"{clean_name(self.params.titled(self.label))}-{self.key}")


def settled(params: StageParams, inputs: Mapping[str, Any], there: bool = False) -> StageParams:
    """Return parameters that say how much of a pool that can grow is its whole, where that matters.

    Args:
        params: the parameters.
        inputs: nodes or folders by name.
        there: whether the pool of a planned node counts as it is on disk, where it is finished.
    """
    pool = inputs.get("pool_scores") or inputs.get("pool")
    found = pool_count(pool, there) if pool and "pool_images" in type(params).model_fields else 0
    return params.of_the_whole(found) if found else params


def pool_count(source: "Node | Path", there: bool = False) -> int:
    """Return the images a class of a pool or of its scores, as planned or as they are there; 0 if it cannot grow."""
    if isinstance(source, Node):
        return (there and source.count and len(_chain(source.folder))) or source.count
    return len(_chain(source))


def check_root(folder: Path, what: str, manifest: dict[str, Any]) -> str:
    """Check that images which a finished folder only lists, where the user has them, are still those that it listed.

    A folder of somebody else's may name any place of this machine. So only what an experiment or a notebook has named
    here is looked at.

    Args:
        folder: an input folder.
        what: the parameter that names it.
        manifest: its manifest.

    Returns:
        A sentence where that cannot be told, else "". Where they have gone, whoever reads them tells.

    Raises:
        ValueError: they are not.
    """
    given = manifest.get("given")
    known = given.get("root") if isinstance(given, dict) else None
    if not isinstance(known, dict) or not isinstance(known.get("path"), str) or not locate(known["path"]).is_dir():
        return ""
    if not was_named(locate(known["path"])):
        return (f"{what}: {folder} lists images of {locate(known['path'])}, which no experiment has named here; so it "
                f"was not checked whether they are still the same")
    if identity_of(known["path"], _class_folders(manifest)) != known.get("content"):
        raise ValueError(f"{what}: {folder} lists images of {locate(known['path'])}, which holds another content now; "
                         f"run {manifest['stage']} again, which makes a folder of its own for it")
    return ""


def _class_folders(manifest: dict[str, Any]) -> frozenset[str]:
    """Return the class folders that a finished stage looked at; none for all."""
    try:
        return frozenset(STAGES[manifest["stage"]].model_construct(**manifest["params"]).class_folders())
    except TypeError:  # parameters of another kind than any stage has
        return frozenset()


def _chain(folder: Path) -> list[str]:
    return read_manifest(folder)["chain"] if (folder / MANIFEST).exists() else []


def key_of(source: "Node | Path | Sequence[Node | Path]") -> Any:
    """Return what identifies an input: a node's or a stage folder's key, a foreign folder's content, a list's keys."""
    if isinstance(source, Node):
        return source.key
    if isinstance(source, Path):
        return read_manifest(source)["key"] if (source / MANIFEST).exists() else f"sha256:{digest_of(source)}"
    return sorted(key_of(item) for item in source)


def label_of(source: "Node | Path") -> str:
    """Return the readable part of an input's name."""
    if isinstance(source, Node):
        return source.label
    return read_manifest(source)["label"] if (source / MANIFEST).exists() else source.name


def default_node(stage: str, overrides: dict[str, Any] | None = None) -> Node:
    """Return the node that a stage with default parameters (and ``overrides``) stands for."""
    params = validate(stage, overrides or {})
    inputs: dict[str, Node | Path | Sequence[Node | Path]] = {}
    for name, spec in params.inputs().items():
        node = default_node(spec.stage, spec.overrides)
        inputs[name] = [node] if isinstance(getattr(params, name), list) else node
    return Node(settled(params, inputs, there=True), inputs)
