"""What the typed models say of parameters, as text: the notebooks' parameters cells, and the page ``parameters.md``."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES
from dgs_utils.params.base import MAX_INT, StageParams, choices_of

MAX_COLUMNS = 120
PAGE_HEAD = """# Parameters

All parameters of the nine stages, written by `dgs notebooks --sync` from the models in
[`dgs_utils/params/`](../dgs_utils/params/). An experiment file sets them in its stage's section (`sample: {ipc: 20}`),
the command line by `--set sample.ipc=20`, papermill by `-p ipc 20`, and a notebook in its parameters cell, where those
that are rarely used can be added. A list of values makes a grid axis in experiment files.

The last column says whether a parameter decides the result, and so the key in its folder's name: *yes*; *content*: what
is in the named file or folder decides, not where it is; *input*: the result in the named folder decides; *count*: a
larger number extends the result; *no*: it only changes how the work is done, or what it is called.
"""


def parameters_cell(model: type[StageParams]) -> str:
    """Return the source of a stage's parameters cell: a line for each parameter in `in_cell`, under its headings."""
    lines, last = [], list(model.in_cell)[-1]
    for heading, names in model.in_cell.items():
        more = " (more parameters: params/parameters.md)" if heading == last else ""
        more = ' ("": those of default parameters)' if heading.startswith("input folder") else more
        lines.append(f"# {heading[0].upper()}{heading[1:]}{more}")
        lines += [_cell_line(name, model.model_fields[name]) for name in names.split()]
    return "\n".join(lines)


def _cell_line(name: str, field: FieldInfo) -> str:
    kind = type_of(field.annotation)
    comment = str(field.description).replace(" = ", ": ")  # papermill does not parse lines with two equals signs
    code = f"{name}: {repr_of(kind) if ' ' in kind else kind} = {repr_of(field.default)}  # {comment}"
    choices = [str(choice) for choice in choices_of(field.annotation) if choice not in ("", True, False)]
    line = f"{code} ({', '.join(choices)})"
    known = all(choice in str(field.description) for choice in choices)
    return code if known or len(line) > MAX_COLUMNS else line


def parameters_page() -> str:
    """Return the page ``params/parameters.md``."""
    lines = [PAGE_HEAD]
    for stage, model in STAGES.items():
        shown = model.names_in_cell()
        about = str(model.__doc__).split(": ", 1)[1]
        lines += [f"## {stage}", "", about[0].upper() + about[1:], "", *_table(model, shown), ""]
        if rest := [name for name in model.model_fields if name not in shown]:
            lines += ["Rarely used, so not in the notebook's cell:", "", *_table(model, rest), ""]
        if stage == "05_sample":
            rows = [f"| `{name}` | {method.label} | {method.source} | `{method.rule_name}` | {method.score} |"
                    for name, method in METHODS.items()]
            lines += ["Methods, and the source, rule and score that make each:", "",
                      "| method | in tables | source | rule | score |", "| --- | --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _table(model: type[StageParams], names: list[str]) -> list[str]:
    rows = [[f"`{name}`", _values(model.model_fields[name]), f"`{repr_of(model.model_fields[name].default)}`",
             str(model.model_fields[name].description), _decides(model, name)] for name in names]
    head = [["name", "values", "default", "what it is", "decides"], ["---"] * 5]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in [*head, *rows]]


def _values(field: FieldInfo) -> str:
    """Return what a parameter takes, as "int, 1 or more" or a list of choices."""
    annotation = field.annotation
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    words = [" or ".join(", ".join(f"`{repr_of(choice)}`" for choice in choices_of(part)) or type_of(part)
                         for part in parts)]
    for limit in field.metadata:
        if isinstance(limit, Ge):
            words.append(f"{limit.ge:g} or more")
        elif isinstance(limit, Gt):
            words.append(f"above {limit.gt:g}")
        elif isinstance(limit, Le) and limit.le != MAX_INT:
            words.append(f"at most {limit.le:g}")
        elif isinstance(limit, Lt):
            words.append(f"below {limit.lt:g}")
    return f"{'list of ' if get_origin(annotation) is list and choices_of(annotation) else ''}{', '.join(words)}"


def _decides(model: type[StageParams], name: str) -> str:
    tags = {"folder": "input", "execution_only": "no", "extendable": "count", "external": "content"}
    return next((word for tag, word in tags.items() if name != "output" and name in model.fields_tagged(tag)),
                "no" if name == "output" else "yes")


def type_of(annotation: Any) -> str:
    """Return a parameter's type by its plain name, such as "int", "list[str]" or "str or list[str]".

    >>> type_of(list[Literal["a", "b"]] | str)
    'list[str] or str'
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(dict.fromkeys(type(value).__name__ for value in parts))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(type_of, parts)))
    if origin is list:
        return f"list[{type_of(parts[0])}]"
    return type_of(parts[0]) if parts else annotation.__name__


def repr_of(value: Any) -> str:
    """Return a value as Python source, with the quotes that formatters leave as they are.

    >>> print(repr_of(["a", 1.0, True]))
    ["a", 1.0, True]
    """
    if isinstance(value, list):
        return f"[{', '.join(map(repr_of, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
