"""Nodes: a stage with all its parameters resolved, its cache key and its folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dgs_utils.params import STAGES, validate
from dgs_utils.params.base import StageParams, hash_key, sorted_json
from dgs_utils.store.filenames import clean_name
from dgs_utils.store.hashing import content_id, hash_path, is_registered
from dgs_utils.store.manifest import MANIFEST, read_manifest
from dgs_utils.store.paths import outputs_root, resolve_path


@dataclass(frozen=True)
class Node:
    """A stage with all its parameters resolved, whether or not its folder exists yet."""

    params: StageParams  # the parameters, of the stage's own model
    # By parameter name a node, the path of a given folder, or a list of those.
    inputs: Mapping[str, "Node | Path | Sequence[Node | Path]"]
    known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # of all with these parameters

    @property
    def stage(self) -> str:
        """Stage name, such as ``05_sample``."""
        return self.params.stage

    @cached_property
    def key(self) -> str:
        """Twelve hex digits: stage, own parameters, what is in the files that they name, inputs' keys."""
        if not self.known:
            self.known["fingerprint"] = sorted_json(self.fingerprint)
        return hash_key(self.stage, self.known["fingerprint"], self.input_keys)

    @cached_property
    def input_keys(self) -> dict[str, Any]:
        """What identifies each input that there is."""
        return {name: key for name, value in self.inputs.items() if (key := input_key(value))}

    @cached_property
    def external_content(self) -> dict[str, Any]:
        """What identifies the user's files and folders that parameters name: their content, wherever they are."""
        names, only = self.params.fields_tagged("external"), self.params.class_folders()
        known = self.params.cache_params() if names else {}
        return {name: [content_id(item) for item in value] if isinstance(value, list) else content_id(value, only)
                for name, value in known.items() if name in names}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The parameters that decide the result, with the content of what they name in place of paths."""
        return self.params.cache_params() | self.external_content

    @property
    def external_files(self) -> dict[str, Any]:
        """Path and content of each file or folder that parameters name, where it exists."""
        return {name: {"path": getattr(self.params, name), "content": content}
                for name, content in self.external_content.items() if "sha256:" in str(content)}

    @cached_property
    def label(self) -> str:
        """The readable part of the folder's name, where it has no title, and of names of what is made from it."""
        parts = {name: label_of(source) for name, source in self.inputs.items() if isinstance(source, Node | Path)}
        return clean_name(self.params.label(parts))  # titles, folders' names and others' manifests are in it

    @property
    def name(self) -> str:
        """The readable part of the folder's own name."""
        return clean_name(self.params.folder_label(self.label))

    @cached_property
    def count(self) -> int:
        """Images a class, or trainings, that are asked for of a result that can grow; 0 for all other results."""
        if self.params.count() or self.stage != "03_difficulty":
            return self.params.count()
        pool = self.inputs.get("pool")
        return pool_size(pool) if isinstance(pool, Node | Path) else 0

    @cached_property
    def folder(self) -> Path:
        """The output folder: the given one, or the one that the key names."""
        if self.params.output:
            return resolve_path(self.params.output)
        return outputs_root().joinpath(self.stage, f"{self.name}-{self.key}")


def input_nodes(node: Node) -> Iterator[Node]:
    """Yield a node's direct inputs, without folders that the user named."""
    yield from (item for item in _input_list(node) if isinstance(item, Node))


def downstream(nodes: Iterable[Node], folders: Iterable[Path]) -> list[Node]:
    """Return the nodes of a plan, inputs first, that are made from some folders, directly or by way of others."""
    begin = set(folders)
    affected, below = set(begin), []
    for node in nodes:
        if node.folder not in begin and any(source.folder in affected for source in input_nodes(node)):
            affected.add(node.folder)
            below.append(node)
    return below


def input_folders(node: Node) -> Iterator[Path]:
    """Yield the folders among a node's direct inputs that the user named."""
    yield from (item for item in _input_list(node) if isinstance(item, Path))


def _input_list(node: Node) -> list["Node | Path"]:
    values: list[Any] = list(node.inputs.values())
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def with_resolved_pool_size(params: StageParams, inputs: Mapping[str, Any], as_on_disk: bool = False) -> StageParams:
    """Return parameters with the images a class of the pool they read, where a stage takes all of it.

    A planned pool that is finished counts as it is on disk where ``as_on_disk``.
    """
    pool = inputs.get("pool_scores") or inputs.get("pool")
    size = pool_size(pool, as_on_disk) if pool and "pool_images" in type(params).model_fields else 0
    return params.with_pool_size(size) if size else params


def prepare_params(folder: Path) -> dict[str, Any]:
    """Return the parameters that a 00 folder was made with; {} where it has no manifest."""
    return read_manifest(folder)["params"] if (folder / MANIFEST).exists() else {}


def pool_size(source: "Node | Path", as_on_disk: bool = False) -> int:
    """Return the images a class of a pool or of its scores, as planned or as on disk; 0 if it cannot grow."""
    if isinstance(source, Node):
        return (as_on_disk and source.count and len(_prefix_hashes(source.folder))) or source.count
    return len(_prefix_hashes(source))


def check_listed_images(folder: Path, what: str, manifest: dict[str, Any]) -> str:
    """Check that images which a finished folder lists, but does not hold, are still the same.

    A manifest may name any folder of this machine. So only those that an experiment or a notebook beside these results
    has named are read. That they are missing is an error where they are read.

    Returns:
        A sentence where they were not checked, which names the parameter (``what``); else "".

    Raises:
        ValueError: they are others.
    """
    root = image_root(manifest)
    if root is None or not root.is_dir():
        return ""
    if not is_registered(root):
        return (f"{what}: {folder} lists images of {root}, which no experiment has named here; so it was not checked "
                f"whether they are still the same")
    if content_id(str(root), read_class_folders(manifest)) != manifest["given"]["root"]["content"]:
        raise ValueError(f"{what}: {folder} lists images of {root}, which holds another content now; run "
                         f"{manifest['stage']} again, which makes a folder of its own for it, or notes where they are")
    return ""


def image_root(manifest: dict[str, Any]) -> Path | None:
    """Return the folder of images that a stage was given, as its manifest or its run inputs say; None for none."""
    given = manifest.get("given", {}).get("root")
    return resolve_path(given["path"]) if given and isinstance(given["path"], str) else None


def read_class_folders(manifest: dict[str, Any]) -> frozenset[str]:
    """Return the class folders that a stage reads; none for all."""
    params: dict[str, Any] = manifest.get("params") or manifest.get("identity") or {}
    try:
        return frozenset(STAGES[manifest["stage"]].model_construct(**params).class_folders())
    except TypeError:  # parameters of another kind than any stage has
        return frozenset()


def _prefix_hashes(folder: Path) -> list[str]:
    return read_manifest(folder)["chain"] if (folder / MANIFEST).exists() else []


def input_key(source: "Node | Path | Sequence[Node | Path]") -> Any:
    """Return what identifies an input: a node's or stage folder's key, another folder's content, a list's keys."""
    if isinstance(source, Node):
        return source.key
    if isinstance(source, Path):
        return read_manifest(source)["key"] if (source / MANIFEST).exists() else f"sha256:{hash_path(source)}"
    return sorted(input_key(item) for item in source)


def label_of(source: "Node | Path") -> str:
    """Return the readable part of an input's name."""
    if isinstance(source, Node):
        return source.label
    return read_manifest(source)["label"] if (source / MANIFEST).exists() else source.name


def default_node(stage: str, overrides: dict[str, Any] | None = None) -> Node:
    """Return the node that a stage with default parameters (and ``overrides``) stands for."""
    params = validate(stage, overrides or {}).with_defaults({})
    inputs: dict[str, Node | Path | Sequence[Node | Path]] = {}
    for name, spec in params.inputs().items():
        node = default_node(spec.stage, spec.overrides)
        inputs[name] = [node] if isinstance(getattr(params, name), list) else node
    return Node(with_resolved_pool_size(params, inputs, as_on_disk=True), inputs)
