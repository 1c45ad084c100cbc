"""Tables and lists: names stay text whatever they look like, in every format, and only one module reads them."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.evaluate import confusions
from dgs_utils.images.tables import read_table, row_at
from dgs_utils.plots import accuracy_by_class

ROOT = Path(__file__).resolve().parents[1]
TRICKY = ["nan", "NaN", "None", "NA", "N/A", "null", "true", "True", "1e5", "0", "007", "10", "1.0", "-1", "inf", "",
          "a,b", 'say "hi"', "日本", "a\tb", "#1"]
READERS = {"read_csv", "read_json", "read_table", "read_parquet", "read_excel", "read_feather", "DictReader",
           "genfromtxt", "loadtxt"}


def calls(source: str) -> set[str]:
    """Return the functions, such as "pd.read_csv", that a source calls or hands on."""
    return {f"{node.value.id}.{node.attr}" for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}


def reads_json_lines(source: str) -> bool:
    """Return whether a source parses what it goes through, as the lines of a file, one by one as JSON."""
    for node in ast.walk(ast.parse(source)):
        loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
        lines = {inner.id for loop in loops for inner in ast.walk(loop.target) if isinstance(inner, ast.Name)}
        for call in (inner for inner in ast.walk(node) if isinstance(inner, ast.Call)):
            given = {ast.unparse(argument) for argument in call.args}
            if ast.unparse(call.func) == "json.loads" and given & lines:
                return True
            if ast.unparse(call.func) == "map" and "json.loads" in given:
                return True
    return False


def test_nothing_else_reads_tables():
    sources = {file.relative_to(ROOT).as_posix(): file.read_text() for file in (ROOT / "dgs_utils").rglob("*.py")}
    del sources["dgs_utils/images/tables.py"]
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell["source"] for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
        sources[file.name] = "\n".join("".join(cell) for cell in cells)
    for name, source in sources.items():
        found = {call for call in calls(source) if call.split(".")[1] in READERS and call.split(".")[0] in
                 ("pd", "pandas", "csv", "np")}
        assert not found, f"{name} reads tables itself: {found}"
        assert not reads_json_lines(source), f"{name} reads lines of JSON itself"


@pytest.mark.parametrize("source", ["for n, line in enumerate(f):\n    x = json.loads(line)",
                                    "[json.loads(a) for a in f]", "map(json.loads, f)",
                                    "{json.loads(a)['b']: 1 for a in f}"])
def test_the_check_sees_lines_of_json(source):
    assert reads_json_lines(source)
    assert not reads_json_lines("rows = [json.loads(path.read_text()) for path in paths if json.loads(text)['cells']]")


def write(path: Path, rows: list[dict]) -> Path:
    table = pd.DataFrame(rows)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        table.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_names_stay_text_and_numbers_numbers(tmp_path, suffix):
    rows = [{"file_name": f"{i}.png", "class": name, "label": i, "score": i / 3} for i, name in enumerate(TRICKY)]
    table = read_table(write(tmp_path / f"a.{suffix}", rows))
    assert table["class"].tolist() == TRICKY
    assert table["label"].tolist() == list(range(len(TRICKY)))
    assert table["score"].tolist() == [row["score"] for row in rows]
    table = read_table(tmp_path / f"a.{suffix}", ["label"])
    assert table["label"].tolist() == [str(i) for i in range(len(TRICKY))]
    assert set(map(type, read_table(tmp_path / f"a.{suffix}", everything=True)["score"])) == {str}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8) | st.sampled_from(TRICKY),
                min_size=1, max_size=6), st.sampled_from(["csv", "jsonl"]))
def test_any_text_comes_back(tmp_path_factory, names, suffix):
    path = tmp_path_factory.getbasetemp() / f"text.{suffix}"
    write(path, [{"class": name, "number": 1} for name in names])
    assert read_table(path)["class"].tolist() == names


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_values_that_are_no_text_become_what_is_written(tmp_path, suffix):
    for values, names in (([0, 10, 7], ["0", "10", "7"]), ([True, False, None], ["true", "false", ""]),
                          ([1.0, None, 3.0], ["1", "", "3"] if suffix == "parquet" else ["1.0", "", "3.0"])):
        assert read_table(write(tmp_path / f"a.{suffix}", [{"class": v} for v in values]))["class"].tolist() == names


def test_empty_cells(tmp_path):
    (tmp_path / "a.csv").write_text("file_name,class,score\n1.png,,\n2.png,b,0.5\n")
    table = read_table(tmp_path / "a.csv")
    assert table["class"].tolist() == ["", "b"]
    np.testing.assert_array_equal(table["score"], [np.nan, 0.5])
    (tmp_path / "a.jsonl").write_text('{"file_name": "1.png"}\n\n{"file_name": "2.png", "class": "b", "score": 0.5}\n')
    table = read_table(tmp_path / "a.jsonl")
    assert table["class"].tolist() == ["", "b"]
    np.testing.assert_array_equal(table["score"], [np.nan, 0.5])


def test_what_excel_writes(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefffile_name,class\n1.png,é\n".encode())
    assert read_table(tmp_path / "a.csv").columns.tolist() == ["file_name", "class"]
    (tmp_path / "a.csv").write_bytes("file_name,class\n1.png,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=f"{tmp_path}/a.csv is not in UTF-8; save it"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("a.csv", b"", r"a.csv cannot be read as a table \(No columns to parse"),
    ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a.csv cannot be read as a table \(.*line 3"),
    ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, line 2 is not valid JSON"),
    ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl, line 2 is no JSON object; write one such as"),
    ("a.parquet", b"no parquet", "a.parquet (cannot be read as a table|needs a reader)")])
def test_damaged_tables_are_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_table(tmp_path / name)
    with pytest.raises(ValueError, match=f"{tmp_path}/none{Path(name).suffix} does not exist"):
        read_table(tmp_path / f"none{Path(name).suffix}")


def test_a_missing_reader_of_parquet_is_named(tmp_path, monkeypatch):
    def missing(path):
        raise ImportError("Unable to find a usable engine")  # as pandas does without pyarrow

    monkeypatch.setattr(pd, "read_parquet", missing)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=r"a.parquet needs a reader of parquet files; .*dgs-utils\[parquet\]"):
        read_table(tmp_path / "a.parquet")


def test_rows_are_counted_as_editors_do(tmp_path):
    assert row_at(tmp_path / "a.csv", 0) == f"{tmp_path}/a.csv, row 2"
    assert row_at(tmp_path / "a.jsonl", 0) == f"{tmp_path}/a.jsonl, line 1"


def test_results_of_classes_with_any_names(tmp_path):
    names = [name for name in TRICKY if name]
    matrix = np.random.default_rng(0).integers(0, 3, (len(names), len(names)))
    names[0] = "training_seed"
    true, predicted = (np.repeat(indices.ravel(), matrix.ravel()) for indices in np.indices(matrix.shape))
    order = np.random.default_rng(1).permutation(len(true))
    cells = confusions(true[order], predicted[order], names).assign(training_seed=0)
    cells.to_csv(tmp_path / "confusion.csv", index=False)
    pd.DataFrame({"training_seed": 0, "class": names, "top1": 50.0}).to_csv(tmp_path / "per_class.csv", index=False)
    found = read_table(tmp_path / "confusion.csv")
    again = found.pivot(index="true", columns="predicted", values="images").reindex(index=names, columns=names)
    assert np.array_equal(again.fillna(0), matrix)
    figure = accuracy_by_class(read_table(tmp_path / "per_class.csv"), found)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
