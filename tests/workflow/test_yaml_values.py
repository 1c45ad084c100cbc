"""What is written in experiment files and behind --set is read as papermill reads -p, and text as it is written."""

import re
from pathlib import Path

import pytest
from papermill.cli import _resolve_type

from dgs_utils.workflow.experiment import ORDER, read_experiment


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


# ---- Lists without brackets ------------------------------------------------------------------------------------------

def change(tmp_path, text):
    """Return the axes, and the parameters set, of an experiment that --set changes."""
    (tmp_path / "x.yaml").write_text("evaluate: {}\ngrid: {sample.ipc: [3, 4], sample.method: [dgs]}\n")
    experiment = read_experiment(tmp_path / "x.yaml", [text])
    [grid] = experiment.grids
    axis = tuple(text.partition("=")[0].split("."))
    stage = next(stage for stage in ORDER if stage[3:] == axis[0])
    return grid.get((stage, axis[1])), experiment.sections.get(stage, {}).get(axis[1])


@pytest.mark.parametrize(("text", "values"), [
    ("sample.ipc=5,10", [5, 10]), ("sample.ipc=[5, 10]", [5, 10]), ("sample.ipc= 5 , 010", [5, 10]),
    ("sample.seed=0,1,2", [0, 1, 2]), ("transform.weight=0.25,5e-1", [0.25, 0.5]), ("pool.guidance=0,4", [0, 4]),
    ("sample.method=dgs,random", ["dgs", "random"]), ("sample.method='dgs','random'", ["dgs", "random"]),
    ("prepare.flip=no,yes", [False, True]), ("prepare.archive=320,160", ["320", "160"]),
    ("prepare.classes=[no, 007],[1e-3]", [["no", "007"], ["1e-3"]]),
    ("prepare.classes=[[a, b], [c]]", [["a", "b"], ["c"]]), ("prepare.classes=['a,b', c],[d]", [["a,b", "c"], ["d"]]),
    ("pool.guidance_interval=[0.1,0.9],[0,1]", [[0.1, 0.9], [0, 1]]),
    ("sample.distribution=hill,[1, 2, 0]", ["hill", [1, 2, 0]])])
def test_a_list_needs_no_brackets(tmp_path, text, values):
    axis, _ = change(tmp_path, text)
    assert axis == values
    assert [*map(type, axis)] == [*map(type, values)]


@pytest.mark.parametrize(("text", "value"), [
    ("sample.title=Mine, improved", "Mine, improved"), ("sample.title='a,b'", "a,b"), ("figures.title=a,b", "a,b"),
    ("prepare.base_model='a,b.pt'", "a,b.pt"), ("prepare.classes=[a, b]", ["a", "b"]),
    ("prepare.classes=['a,b']", ["a,b"]), ("sample.distribution=[5, 5]", [5, 5]), ("sample.ipc=5", 5)])
def test_a_comma_may_belong_to_a_value(tmp_path, text, value):
    assert change(tmp_path, text) == (None, value)


def test_a_path_that_exists_has_its_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c", "d"):
        (tmp_path / name).mkdir()
    assert change(tmp_path, "prepare.root=a,b") == (None, "a,b")
    assert change(tmp_path, "prepare.root=c,d") == (["c", "d"], None)
    with pytest.raises(ValueError, match=r"sweeps over 2 paths, and e does not exist; quote a path .*: \"'c,e'\"$"):
        change(tmp_path, "prepare.root=c,e")


@pytest.mark.parametrize("value", ["5,", "5,,10", "5;10", "5 10", "5|10", "range(0,5)", "choice(5, 10)", "5,&x 10"])
def test_what_looks_like_several_values_tells_the_form(tmp_path, value):
    with pytest.raises(ValueError, match=r"(valid integer|Hydra); to sweep over several values, write "
                                         r"sample.ipc=A,B or sample.ipc=\[A, B\]$"):
        change(tmp_path, f"sample.ipc={value}")


@pytest.mark.parametrize(("text", "sentence"), [
    ("sample.ipc=5,ten", "sample.ipc is 'ten', but input should be a valid integer$"),
    ("prepare.classes=a,b", r"is a list without its brackets; write \[a,b\], or \[a\],\[b\] to sweep over 2$"),
    ("figures.table_names=table1,table2", r"is a list without its brackets; write \[table1,table2\]$"),
    ("prepare.learning_rate=0,001", r"would sweep over 0 and 1; write 0.001 for a number, or \[0,001\] to sweep"),
    ("pool.batch_size=8,16", "pool.batch_size does not change the result")])
def test_wrong_lists_are_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        change(tmp_path, text)
    assert "\n" not in str(error.value)
