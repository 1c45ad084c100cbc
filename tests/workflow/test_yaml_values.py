"""What is written in experiment files and behind --set is read as papermill reads -p, and text as it is written."""

import re
from pathlib import Path

import pytest
from papermill.cli import _resolve_type

from dgs_utils.workflow.experiment import read_experiment


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a parameter from an experiment file and from a change of it, which must agree."""
    def read(axis, text):
        section, _, name = axis.partition(".")
        (tmp_path / "x.yaml").write_text(f"{section}:\n  {name}: {text}\n")
        (tmp_path / "y.yaml").write_text(f"{section}: {{}}\n")
        found, outcomes = [("x.yaml", []), ("y.yaml", [f"{axis}={text}"])], []
        for file, changes in found:
            try:
                [values] = read_experiment(tmp_path / file, changes).sections.values()
                outcomes.append(values[name])
            except ValueError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        assert type(outcomes[0]) is type(outcomes[1])
        return outcomes[0]
    return read


@pytest.mark.parametrize("text", ["010", "08", "7", "+5", "1_000", "0010"])
def test_whole_numbers_are_those_of_papermill(read, text):
    assert read("sample.ipc", text) == _resolve_type(text)


@pytest.mark.parametrize("text", ["1e-3", "0.25", ".5", "1E-2", "1.", "00.5", "2.5e-1", "0", "1"])
def test_other_numbers_are_those_of_papermill(read, text):
    assert read("transform.weight", text) == _resolve_type(text)


@pytest.mark.parametrize("text", ["1:30", "0x1F", "0b11", "0o17", "no", "~", "2026-01-01", "1:30:00", "NaN"])
def test_what_papermill_takes_for_text_is_no_number(read, text):
    assert _resolve_type(text) == text or text == "NaN"
    assert read("sample.ipc", text) == f"sample.ipc is '{text}', but input should be a valid integer"


@pytest.mark.parametrize("text", ["no", "Yes", "OFF", "true", "~", "null", "007", "1e5", "-1", "2026-01-01"])
@pytest.mark.parametrize(("axis", "form"), [("sample.title", "{}"), ("prepare.classes", "[a, {}]")])
def test_words_that_yaml_changes_are_text_where_text_is_meant(read, text, axis, form):
    for written in (text, f"'{text}'"):
        assert read(axis, form.format(written)) == (["a", text] if "[" in form else text)


def test_words_that_are_choices_are_taken_as_written(read):
    assert read("prepare.archive", "320") == "320"
    assert [read("figures.share_y", word) for word in ("on", "off", "auto")] == ["on", "off", "auto"]
    assert read("figures.share_y", "no") == "figures.share_y is 'no', but input should be 'auto', 'on' or 'off'"
    assert [read("sample.cut_errors", word) for word in ("yes", "no", "true", "Off")] == [True, False, True, False]


def test_axes_and_names_are_read_alike(tmp_path):
    (tmp_path / "x.yaml").write_text("name: 010\ngrid:\n  sample.ipc: [010, 20]\n  pool.solver: [ddim]\nsample:\n")
    found = read_experiment(tmp_path / "x.yaml")
    assert (found.name, found.sections) == ("010", {"05_sample": {}})
    assert [point["05_sample", "ipc"] for point in found.points()] == [10, 20]
    assert read_experiment(tmp_path / "x.yaml", ["sample.ipc=[030, 4]"]).grids[0]["05_sample", "ipc"] == [30, 4]
    (tmp_path / "x.yaml").write_text("no: {}")
    with pytest.raises(ValueError, match="no is not a section"):
        read_experiment(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["!!str 10", "!mine a", '!!int "10"', "!!python/object:os.system a", "[a, !b c]"])
def test_tags_are_refused_since_what_they_mean_would_be_lost(tmp_path, text):
    (tmp_path / "x.yaml").write_text("sample: {}\n")
    (tmp_path / "tag.yaml").write_text(f"sample:\n  title: {text}\n")
    for file, changes in (("tag.yaml", []), ("x.yaml", [f"sample.title={text}"]), ("x.yaml", [f"sample.ipc={text}"])):
        with pytest.raises(ValueError, match=r"is not valid YAML: '\S+' is a tag, which has no meaning here in line"):
            read_experiment(tmp_path / file, changes)


@pytest.mark.parametrize("text", ["yes", "true", "no"])
def test_words_are_no_channels_though_python_takes_true_for_1(read, text):
    assert read("prepare.channels", text) == f"prepare.channels is '{text}', but input should be 0, 1 or 3"


def test_paths_of_unknown_users_stay_as_written(tmp_path):
    (tmp_path / "x.yaml").write_text("pool: {root: ~nobody9/images}\n")
    assert Path(read_experiment(tmp_path / "x.yaml").sections["02_pool"]["root"]).parts[-2:] == ("~nobody9", "images")
    with pytest.raises(ValueError, match="does not exist"):
        read_experiment("~nobody9/x.yaml")


@pytest.mark.parametrize("grid", ["", "[]", "{}"])
def test_empty_grids_have_one_point(tmp_path, grid):
    (tmp_path / "x.yaml").write_text(f"sample: {{}}\ngrid: {grid}\n")
    assert list(read_experiment(tmp_path / "x.yaml").points()) == [{}]


@pytest.mark.parametrize("text", ["my images #2", "#2", "|", ">", "[a, b] # two", "&a b"])
def test_what_is_set_is_read_whole_or_refused(tmp_path, monkeypatch, text):
    """A shell takes no comment from within quotes, so whoever writes one there means it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("pool: {}\n")
    sentence = rf"^--set pool.root={re.escape(text)} is not read whole, since YAML takes .* quote it:"
    with pytest.raises(ValueError, match=sentence):
        read_experiment(tmp_path / "x.yaml", [f"pool.root={text}"])
    [sections] = read_experiment(tmp_path / "x.yaml", [f"pool.root='{text}'"]).sections.values()
    assert Path(sections["root"]).name == text
    assert read_experiment(tmp_path / "x.yaml", ["pool.root=a#b"]).sections["02_pool"]["root"] == "a#b"
