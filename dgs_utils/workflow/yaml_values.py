"""YAML of experiment files and of ``--set``, bounded; what a word or number means is decided by its parameter.

YAML 1.1 itself would read 010 as 8, 1:30 as 90, and no as false, also where text is meant. Here all values are read as
text, and become numbers, true or false where the parameter takes these; 010 is 10, as after papermill's ``-p``.
"""

import re
from contextlib import suppress
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from dgs_utils.params import STAGES

MAX_VALUES = 20_000  # in a text, aliases counted as often as they are used; reading more takes over a second
MAX_DEPTH = 20  # levels of lists and sections
INT = re.compile(r"[-+]?[0-9][0-9_]*")
FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class _Loader(yaml.BaseLoader):
    """YAML's loader that makes text of all values, with bounds; it refuses duplicate keys, keys that are no text, and
    tags such as !!int, which decide nothing here and would be lost.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.values = 0
        self.values_of_anchor: dict[str, int] = {}

    def compose_node(self, parent, index):
        event, before = self.peek_event(), self.values
        self.depth += 1
        self.values += 1
        if isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            self.values += self.values_of_anchor.get(event.anchor, MAX_VALUES)
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"{event.tag!r} is a tag, which has no meaning here",
                                              event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            self.values_of_anchor[event.anchor] = self.values - before
        return node

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name is a list or section", key.start_mark)
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} occurs twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str, whole: bool = False) -> Any:
    """Return the content of a YAML text: dictionaries, lists and text. If it is to be read ``whole``, as behind --set,
    no part of it may be a comment, or the sign of a longer text.

    Raises:
        ValueError: it is no YAML, exceeds a bound, or is not read whole; the sentence goes on after the text's name.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        rest = text[node.end_mark.index if node else 0:].strip()
        if whole and (rest or (isinstance(node, yaml.ScalarNode)
                               and (node.style in ("|", ">") or loader.values_of_anchor))):
            raise ValueError(f"is not read whole, since YAML takes {rest or text.strip()!r} for something else; quote "
                             f"it: \"'{text.strip()}'\"")
        return loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        reason = f"{problem} in line {mark.line + 1}" if mark and problem else " ".join(str(error).split())
        raise ValueError(f"is not valid YAML: {reason}{'; quote text' if whole else ''}") from None


def comma_list(text: str) -> list[Any] | None:
    """Return the values of a list without brackets, such as ``5,10`` or ``[a, b],[c]``; None for any other text.

    A comma inside quotes or brackets separates nothing.
    """
    if re.search(r"(^|[\[,])\s*&", text):  # the sign of an anchor would be lost
        return None
    with suppress(ValueError):  # lists, or quoted values, side by side are no YAML
        if load(text, whole=True) != text.strip():  # quoted, or in brackets
            return None
    try:
        values = load(f"[{text}]", whole=True)
    except ValueError:
        return None
    return values if len(values) > 1 else None


def convert(value: Any, stage: str, name: str) -> Any:
    """Return a value of `load` as what a parameter takes; wrong values and parameters are refused elsewhere."""
    if isinstance(value, dict):
        return {key: convert(inner, stage, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [convert(inner, stage, name) for inner in value]
    field = STAGES[stage].model_fields.get(name)
    types, choices = _accepted(field.annotation) if field else (set(), set())
    if value in choices or str in types or not isinstance(value, str):  # None is an empty value
        return value
    if (bool in types or any(choice is True for choice in choices)) and value.lower() in BOOLS:
        return BOOLS[value.lower()]
    with suppress(ValueError):  # more digits than Python reads
        if INT.fullmatch(value):
            return int(value)
        if FLOAT.fullmatch(value):
            return float(value)
    return value


def _accepted(annotation: Any) -> tuple[set[Any], set[Any]]:
    """Return the types and the single values that an annotation accepts anywhere in it."""
    if get_origin(annotation) is Literal:
        return set(), set(get_args(annotation))
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    inner = [_accepted(part) for part in parts]
    if not inner:
        return {annotation}, set()
    return set[Any]().union(*(types for types, _ in inner)), set[Any]().union(*(choices for _, choices in inner))
