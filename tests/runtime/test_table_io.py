"""Tables and lists: names stay text whatever they look like, in every format, and only one module reads them."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgs_utils.images.image_set import ImageSet
from dgs_utils.plots import confusion_matrix
from dgs_utils.results.correctness import count_confusions
from dgs_utils.runtime.table_io import natural_key, read_table, row_label

ROOT = Path(__file__).resolve().parents[2]
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
    del sources["dgs_utils/runtime/table_io.py"]
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


def arrow_columns():
    """Yield a name, a column of parquet in one of Arrow's types, and the text that it is."""
    import pyarrow as pa

    words, numbers = ["b", "a", "b", "é"], [3, 0, 10, 3]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string()),
                 pa.dictionary(pa.int32(), pa.large_string())):
        stored = [word.encode() for word in words] if kind == pa.binary() else words
        yield str(kind), pa.array(stored, pa.string() if "dictionary" in str(kind) else kind).cast(kind), words
    for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
                 pa.float32(), pa.float64(), pa.decimal128(21, 2)):
        yield str(kind), pa.array(numbers, pa.int64()).cast(kind), list(map(str, numbers))
    yield "numbers once", pa.array(numbers).dictionary_encode(), list(map(str, numbers))
    yield "half", pa.array([0.5, 1, 0.5, 2], pa.float32()), ["0.5", "1", "0.5", "2"]
    yield "bool", pa.array([True, False, True, True]), ["true", "false", "true", "true"]
    yield "large", pa.array([2**63 + 1, 2**53 + 1, None, 0], pa.uint64()), [str(2**63 + 1), str(2**53 + 1), "", "0"]
    yield "one each", pa.array([["b"], ["a"], ["b"], ["c"]]), ["b", "a", "b", "c"]
    yield "gaps", pa.array(["a", None, "b", ""]), ["a", "", "b", ""]
    yield "no values", pa.nulls(4), [""] * 4


def test_parquet_columns_of_every_type_are_text(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    for name, column, expected in arrow_columns():
        parquet.write_table(pa.table({"class": column, "score": [0.1, 0.2, 0.3, None]}), tmp_path / "a.parquet")
        table = read_table(tmp_path / "a.parquet")
        assert table["class"].tolist() == expected, name
        assert table["class"].dtype == "str", name
        assert table["score"].tolist()[:3] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("labels", [
    pd.Categorical(["tench", "beagle", "tench", "bee"], categories=["tench", "bee", "beagle"], ordered=True),
    pd.Categorical([2, 0, 10, 0]), pd.array(["b", "a", "b", "c"], dtype="string[pyarrow]"),
    pd.array([2, 0, 10, 0], dtype="Int8"), pd.array([2.0, 0.0, 10.0, 0.0], dtype="Float32"),
    pd.array([2, 0, 10, 0], dtype="uint64[pyarrow]"), pd.array([True, False, True, True], dtype="boolean")], ids=str)
@pytest.mark.parametrize("column", ["label", "class"])
def test_lists_of_every_type_give_the_same_classes_as_in_text(tmp_path, labels, column):
    """Classes are in the order of characters, or of whole numbers in a column label; never of a table's categories."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    files = [f"{i}.png" for i in range(4)]
    for file in files:
        Image.new("L", (2, 2)).save(tmp_path / file)
    table = pd.DataFrame({"file_name": files, column: labels})
    table.to_parquet(tmp_path / "metadata.parquet", index=False)
    found = ImageSet.read(tmp_path)
    (tmp_path / "metadata.parquet").unlink()
    text = [str(value).removesuffix(".0") for value in labels]
    text = [{"True": "true", "False": "false"}.get(value, value) for value in text]
    table.assign(**{column: text}).to_csv(tmp_path / "metadata.csv", index=False)
    expected = ImageSet.read(tmp_path)
    assert found.classes == expected.classes
    assert (found.classes == sorted(set(text))) or (found.classes == sorted(set(text), key=int) and column == "label")
    assert found.table[["file_name", "class", "label"]].equals(expected.table[["file_name", "class", "label"]])


def test_a_gap_among_labels_of_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    for file in ("1.png", "2.png"):
        Image.new("L", (2, 2)).save(tmp_path / file)
    for labels in (pd.Categorical(["a", None]), pd.array([1, None], dtype="Int64"), ["a", None], [1.0, None]):
        pd.DataFrame({"file_name": ["1.png", "2.png"], "label": labels}).to_parquet(tmp_path / "metadata.parquet")
        with pytest.raises(ValueError, match=r"metadata.parquet, row 2: 2.png has no label"):
            ImageSet.read(tmp_path)


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
    assert row_label(tmp_path / "a.csv", 0) == f"{tmp_path}/a.csv, row 2"
    assert row_label(tmp_path / "a.jsonl", 0) == f"{tmp_path}/a.jsonl, line 1"


def test_results_of_classes_with_any_names(tmp_path):
    names = [name for name in TRICKY if name]
    matrix = np.random.default_rng(0).integers(0, 3, (len(names), len(names)))
    names[0] = "training_seed"
    true, predicted = (np.repeat(indices.ravel(), matrix.ravel()) for indices in np.indices(matrix.shape))
    order = np.random.default_rng(1).permutation(len(true))
    called = np.array(names, dtype=object)
    cells = count_confusions(called[true[order]], called[predicted[order]], names).assign(training_seed=0)
    cells.to_csv(tmp_path / "confusion.csv", index=False)
    pd.DataFrame({"training_seed": 0, "class": names, "top1": 50.0}).to_csv(tmp_path / "per_class.csv", index=False)
    found = read_table(tmp_path / "confusion.csv")
    again = found.pivot(index="true", columns="predicted", values="images").reindex(index=names, columns=names)
    assert np.array_equal(again.fillna(0), matrix)
    figure = confusion_matrix(found, runs=read_table(tmp_path / "per_class.csv"))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names


@settings(max_examples=60)
@given(st.lists(st.integers(0, 10**40), min_size=1, unique=True), st.sampled_from(["", "img_", "n01_"]))
def test_natural_order_is_that_of_the_numbers(numbers, prefix):
    names = [f"{prefix}{n}.png" for n in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{n}.png" for n in sorted(numbers)]


@given(st.text(max_size=12), st.text(max_size=12))
def test_natural_order_never_ties(first, second):
    assert (natural_key(first) == natural_key(second)) == (first == second)


@pytest.mark.parametrize(("name", "text", "sentence"), [
    ("metadata.csv", "file_name,class\n", "lists no images; add a row for each"),
    ("metadata.jsonl", '{"file_name": "1.png", "class": {"a": "b"}}', "line 1: its class is an object, {'a': 'b'}"),
    ("metadata.jsonl", '{"file_name": "1.png", "more": ' + "[" * 100_000 + "]" * 100_000 + "}",
     "line 1 is nested too deeply")])
def test_a_list_without_rows_or_with_nested_cells_is_named(tmp_path, name, text, sentence):
    Image.new("L", (2, 2)).save(tmp_path / "1.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}.* {sentence}"):
        ImageSet.read(tmp_path)
