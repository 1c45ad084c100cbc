"""Tables and lists: the one place that reads them, whoever wrote them, so that a name stays the text that it is.

A class may be called 007, 1e5, NA, null or True: columns of names are text from the first read to the last table, with
"" where a cell is empty. All other columns are numbers where they can be.
"""

import json
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

import pandas as pd

NAMES = frozenset({"file_name", "class", "name", "true", "predicted", "source", "split", "set", "note"})
LISTS = (".csv", ".jsonl", ".parquet", ".tsv")  # suffixes of what `read_table` reads


def natural_key(name: str) -> str:
    """Return a sort key that puts ``2.png`` before ``10.png``: before every number stands how many digits it has.

    The name itself follows, so that ``1.png`` and ``01.png`` have an order too. The package natsort has keys of tuples,
    which take pandas ten times as long to sort: a minute for ImageNet's names.
    """
    return re.sub(r"0*(\d+)", lambda number: f"{len(number[1]):03d}{number[1]}", name) + "\0" + name


def one_form(name: str) -> str:
    """Return a name with each accented letter stored as one character: systems store them so or apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def read_table(path: Path, text: Collection[str] = (), everything: bool = False) -> pd.DataFrame:
    """Read a table from a .csv, .jsonl (one JSON object a line) or .parquet file (with the extra ``parquet``).

    Args:
        path: the file.
        text: columns that are text besides `NAMES`.
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
    try:
        names = NAMES | set(text)
        return reader(path, lambda column: everything or str(column).strip().lower() in names)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not in UTF-8; save it in that encoding") from None
    except (OSError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a table ({reason}); correct it, or make it again") from None


def row_at(path: Path, place: int) -> str:
    """Return where the row at a place (from 0) stands in its file, such as "FILE, row 3", with the heading as row 1."""
    kind, first = {".csv": ("row", 2), ".tsv": ("row", 2), ".jsonl": ("line", 1)}.get(path.suffix.lower(), ("row", 1))
    return f"{path}, {kind} {place + first}"


def _read_csv(path: Path, is_text) -> pd.DataFrame:
    """Read a table with commas; or with what Excel writes in other countries, where its heading has no comma."""
    with path.open(encoding="utf-8-sig") as file:  # the mark that Excel writes is no name
        heading = file.readline()
    how = {"sep": next((mark for mark in ",;\t" if mark in heading), ","), "encoding": "utf-8-sig"}
    columns = pd.read_csv(path, nrows=0, **how).columns
    numbers = {column: [""] for column in columns if not is_text(column)}
    table = pd.read_csv(path, dtype={column: str for column in columns if is_text(column)}, keep_default_na=False,
                        na_values=numbers, **how)
    return table.rename(columns=str.strip)


def _read_lines(path: Path, is_text) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            written = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON ({error}); correct it") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is no JSON object; write one such as "
                             f'{{"file_name": "1.png", "class": "a"}}')
        rows.append({column: _as_text(written[column]) if is_text(column) else value for column, value in row.items()})
    table = pd.DataFrame(rows)
    return table.assign(**{column: table[column].fillna("") for column in table if is_text(column)})


def _read_parquet(path: Path, is_text) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path} needs a reader of parquet files; install it with pip install 'dgs-utils[parquet]', "
                         f"or save the list as .csv") from None
    except Exception as error:  # the reader has its own kinds of errors for a damaged file
        raise ValueError(f"{path} cannot be read as a table ({' '.join(str(error).split())}); make it again") from None
    for column in table:
        if is_text(column) and table[column].map(lambda value: isinstance(value, dict | bytes)).any():
            raise ValueError(f"{path} holds the images themselves in its column {column}; write them as files beside "
                             f"it, with their names in a column file_name")
    return table.assign(**{column: table[column].map(_as_text) for column in table if is_text(column)})


def _as_text(value: object) -> str:
    """Return a cell's value as it is written in JSON; whole numbers without a point, nothing as ""."""
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
