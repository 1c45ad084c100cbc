"""Tables and labels files: the one place that reads them, so that a name stays the text that it is.

A class may be called 007, 1e5, NA, null or True: columns of names are text from the first read to the last table, with
"" where a cell is empty. All other columns are numbers where they can be.
"""

import json
import re
from collections.abc import Callable, Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEXT_COLUMNS = frozenset({"file_name", "class", "name", "true", "predicted", "source", "split", "set", "note"})
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet", ".tsv")  # of what `read_table` reads
FIRST_ROWS = {".csv": ("row", 2), ".tsv": ("row", 2), ".jsonl": ("line", 1)}  # as editors count


def natural_key(name: str) -> str:
    """Return a sort key that puts ``2.png`` before ``10.png``: before every number stands how many digits it has.

    The name itself follows, so that ``1.png`` and ``01.png`` have an order too. The package natsort has keys of tuples,
    which take pandas ten times as long to sort: a minute for ImageNet's names.

    >>> sorted(["10.png", "9.png", "1.png"], key=natural_key)
    ['1.png', '9.png', '10.png']
    """
    return re.sub(r"0*(\d+)", lambda number: f"{len(number[1]):03d}{number[1]}", name) + "\0" + name


def plain_heading(column: object) -> str:
    """Return a heading without what people write differently: "Image Path", image_path and imagepath are one."""
    return re.sub(r"[\W_]+", "", str(column).lower())


def row_label(path: Path, row: int) -> str:
    """Return where a row (from 0) is in its file, such as "FILE, row 3", with the heading as row 1."""
    kind, first = FIRST_ROWS.get(path.suffix.lower(), ("row", 1))
    return f"{path}, {kind} {row + first}"


def read_table(path: Path, text: Collection[str] = (), everything: bool = False) -> pd.DataFrame:
    """Read a table from a .csv, .tsv, .jsonl (one JSON object a line) or .parquet file (with the extra ``parquet``).

    Args:
        path: the file.
        text: columns that are text besides `TEXT_COLUMNS`.
        everything: all columns are text.

    Returns:
        The table. Text columns hold str, "" where the file has nothing; numbers are NaN there.

    Raises:
        ValueError: the file is missing, damaged or empty, or pandas cannot read parquet here; the sentence names it.
    """
    path = Path(path)
    reader = {".jsonl": _read_lines, ".parquet": _read_parquet}.get(path.suffix.lower(), _read_csv)
    if not path.exists():
        raise ValueError(f"{path} does not exist; restore it, or make it again")
    names = set(map(plain_heading, TEXT_COLUMNS | set(text)))
    try:
        return reader(path, lambda column: everything or plain_heading(column) in names)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not in UTF-8; save it in that encoding") from None
    except (OSError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a table ({reason}); correct it, or make it again") from None


def _read_csv(path: Path, is_text: Callable) -> pd.DataFrame:
    """Read a table with commas, or with the semicolons or tabs that Excel writes in other countries."""
    with path.open(encoding="utf-8-sig") as file:  # without the byte-order mark that Excel writes
        heading = file.readline()
    options = {"sep": next((mark for mark in ",;\t" if mark in heading), ","), "encoding": "utf-8-sig"}
    columns = pd.read_csv(path, nrows=0, **options).columns
    table = pd.read_csv(path, dtype={column: str for column in columns if is_text(column)}, keep_default_na=False,
                        na_values={column: [""] for column in columns if not is_text(column)}, **options)
    return table.rename(columns=str.strip)


def _read_lines(path: Path, is_text: Callable) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            written = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except RecursionError:
            raise ValueError(f"{path}, line {number} is nested too deeply; an image has one value of each "
                             f"kind") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is no JSON object; write one such as "
                             f'{{"file_name": "1.png", "class": "a"}}')
        rows.append({column: _as_text(written[column], column, f"{path}, line {number}") if is_text(column) else value
                     for column, value in row.items()})
    table = pd.DataFrame(rows)
    return table.assign(**{column: table[column].fillna("") for column in table if is_text(column)})


def _read_parquet(path: Path, is_text: Callable) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path} needs a reader of parquet files; install it with pip install 'dgs-utils[parquet]', "
                         f"or save the list as .csv") from None
    except Exception as error:  # the reader has its own kinds of errors for a damaged file
        raise ValueError(f"{path} cannot be read as a table ({' '.join(str(error).split())}); make it again") from None
    names = [column for column in table if is_text(column)]
    exact = pd.read_parquet(path, columns=names, dtype_backend="numpy_nullable")  # beside a gap no number is rounded
    for column in names:
        values = exact[column].astype(object).tolist()  # categories and Arrow's types as what they stand for
        try:
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
        except UnicodeDecodeError:
            values = [{}]
        if any(isinstance(value, dict) for value in values):
            raise ValueError(f"{path} holds the images themselves in its column {column}; write them as files beside "
                             f"it, with their names in a column file_name")
        table[column] = pd.Series([_as_text(value, column, row_label(path, row)) for row, value in enumerate(values)],
                                  index=table.index, dtype=str)
    return table


def _as_text(value: Any, column: str, where: str) -> str:
    """Return a cell's value as it is written in JSON; whole numbers without a point, nothing as "".

    Raises:
        ValueError: it is an object or a list of several values; the sentence begins with ``where``.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        if len(value) == 1:
            return _as_text(value[0], column, where)
        raise ValueError(f"{where}: its {column} is a list of {len(value)} values, {str(value)[:60]}, and an image has "
                         f"one here; leave such rows out")
    if isinstance(value, dict):
        raise ValueError(f"{where}: its {column} is an object, {str(value)[:60]}, and an image has one value here; "
                         f"write it as text")
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float | Decimal) and value % 1 == 0 else str(value)
