"""Experiment files: what they ask for, and one sentence for each that is wrong."""

import json
import os
from pathlib import Path

import pytest

from dgs_utils.params import STAGES, validate
from dgs_utils.workflow.experiment import ORDER, SECTIONS, read_experiment

BASE = {"evaluate": {}, "figures": {}, "grid": {"sample.method": ["random", "dgs"]}}
PARAMS = Path(__file__).resolve().parents[2] / "params"


@pytest.mark.parametrize(("content", "sentence"), [
    ("prepare: [", "is not valid YAML"),
    ("prepare: {}\nprepare: {}", "prepare occurs twice in line 2"),
    ("evaluate:\n  seed: 1\n  seed: 2", "seed occurs twice in line 3"),
    ("just words", "has no sections"),
    ("", "asks for nothing"),
    ("evaluate: 3", "section evaluate is '3'"),
    ("1: {seed: 1}", "1 is not a section"),
    ("null: {}", "null is not a section"),
    ("? [a, b]\n: {}", "a name is a list or section in line 1"),
    ("? {a: b}\n: {}", "a name is a list or section in line 1"),
    ("evaluate: {[seed]: 1}", "a name is a list or section in line 1"),
    ("evaluate: {2: 1}", "evaluate.2 is not a parameter of 06_evaluate"),
    ("grid: {2026-01-01: [1]}", "2026-01-01: 2026-01-01 is not a section"),
    ("evaluate: {seed: 2026-99-99}", "evaluate.seed is '2026-99-99', but"),
    (f"evaluate: {{seed: {'9' * 5000}}}", "evaluate.seed is '9999"),
    ("evaluate: &a {seed: *a}", "has more than 20,000 values"),
    ("evaluate: {seed: *b}", "undefined alias 'b' in line 1"),
    ("evaluate: {}\ngrid: {evaluate: [3]}", "evaluate is a whole section; name one of its parameters: output, prepare"),
    ("grid: [1]\nevaluate: {}", "grid is '1'; give axes"),
    ("grid: 1\nevaluate: {}", "grid is '1'; give axes"),
    ("evaluat: {}", "evaluat is not a section; did you mean 'evaluate'"),
    ("06_evaluate: {}", "06_evaluate is not a section; did you mean 'evaluate'"),
    ("evaluate: {epoch: 3}", "evaluate.epoch is not a parameter .* did you mean 'epochs'"),
    ("evaluate: {epochs: many}", "evaluate.epochs is 'many', but"),
    ("evaluate: {epochs: 1.5}", "evaluate.epochs is 1.5, but"),
    ("evaluate: {epochs: true}", "evaluate.epochs is 'true', but"),
    ("evaluate: {network: resnet_ap11}", "evaluate.network is 'resnet_ap11'"),
    ("evaluate: {}\ncondense: {method: mtt}", "condense.method is 'mtt'"),  # checked though nothing here needs it
    ("sample: {output: here}", "sample.output cannot be set in an experiment file"),
    ("sample: {method: dg}", "sample.method is 'dg'"),
    ("grid: {sample.methd: [dgs]}", "sample.methd is not a parameter .* did you mean 'method'"),
    ("grid: {sampl.method: [dgs]}", "sampl is not a section; did you mean 'sample'"),
    ("grid: {sample.method: dgs}", "grid axis sample.method is 'dgs'; give a list"),
    ("grid: {sample.method: []}", "give a list of at least one value"),
    ("grid: {sample.ipc: [1, two]}", "sample.ipc is 'two', but"),
    ("grid: {pool.batch_size: [8, 16]}", "pool.batch_size does not change the result"),
    ("grid: {figures.title: [a, b]}", "one stage 07 shows the whole grid"),
])
def test_wrong_file_is_one_sentence(experiment, content, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        experiment(content)
    assert "\n" not in str(error.value)


def test_missing_or_binary_file_is_one_sentence(tmp_path):
    (tmp_path / "table1.yaml").write_text("evaluate: {}")
    with pytest.raises(ValueError, match=r"tabel1\.yaml does not exist; did you mean 'table1.yaml'"):
        read_experiment(tmp_path / "tabel1.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as a text file"):
        read_experiment(tmp_path / "binary.yaml")


@pytest.mark.parametrize("form", ["{}", "base: {}"])
def test_what_is_no_plain_file_is_not_opened(tmp_path, form):
    """A pipe would be waited for, and a device read without end."""
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        (tmp_path / "x.yaml").write_text(form.format(name))
        with pytest.raises(ValueError, match=f"^{name} is no plain file; give an experiment file"):
            read_experiment(name if form == "{}" else tmp_path / "x.yaml")


@pytest.mark.parametrize(("changes", "sentence"), [
    (["evaluate.repeat=1"], "evaluate.repeat is not a parameter .* did you mean 'repeats'"),
    (["ipc=5"], "ipc is not a section; write transform.ipc or sample.ipc or condense.ipc$"),
    (["evaluate=1"], "evaluate is a whole section; name one of its parameters: "),
    (["evaluate.repeats"], "--set evaluate.repeats has no value"),
    (["evaluate.repeats=["], "--set evaluate.repeats=.* is not valid YAML: .*; quote text$"),
    (["evaluate.repeats=one"], "evaluate.repeats is 'one', but"),
    (["evaluate.repeats=[]"], "give a list of at least one value"),
])
def test_wrong_change_is_one_sentence(experiment, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        experiment(BASE, changes)


def test_base_gives_sections_and_grid(experiment, tmp_path):
    (tmp_path / "below.yaml").write_text("name: below\nbase: lowest.yaml\nevaluate: {repeats: 2, seed: 5}\n"
                                         "grid: {pool.seed: [0, 1]}")
    (tmp_path / "lowest.yaml").write_text("pool: {steps: 9}\nevaluate: {seed: 4}\nsample: {}")
    found = experiment("base: below.yaml\nevaluate: {repeats: 1}\nsample: {ipc: 3}")
    assert found.name == "experiment"
    assert found.sections == {"02_pool": {"steps": 9}, "05_sample": {"ipc": 3},
                              "06_evaluate": {"repeats": 1, "seed": 5}}
    assert found.grids == [{("02_pool", "seed"): [0, 1]}]
    assert experiment("base: below.yaml\ngrid: {sample.seed: [1]}").grids == [{("05_sample", "seed"): [1]}]
    with pytest.raises(ValueError, match="is its own base"):
        experiment("base: experiment.yaml")
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        experiment("base: nowhere.yaml")


def test_changes_replace_values_and_axes(experiment):
    found = experiment(BASE, ["evaluate.repeats=1", "sample.method=dit", "pool.seed=[0,1]", "prepare.classes=[a,b]",
                              "prepare.learning_rate=1e-3"])
    assert found.sections["06_evaluate"] == {"repeats": 1}
    assert found.sections["05_sample"] == {"method": "dit"}
    assert found.grids == [{("02_pool", "seed"): [0, 1]}]
    assert found.sections["00_prepare"] == {"classes": ["a", "b"], "learning_rate": 1e-3}


def test_order_holds_every_stage():
    assert sorted(ORDER) == sorted(STAGES)


def test_quickstart_spells_out_the_defaults():
    found = read_experiment(PARAMS / "quickstart.yaml")
    for stage, values in found.sections.items():
        settled = validate(stage, {}).with_defaults({}).model_dump()
        assert values == {name: settled[name] for name in values}, stage
    assert set(found.sections) == set(SECTIONS.values()) - {"08_condense"}
    assert found.name == STAGES["07_figures"].model_fields["title"].default
    assert {("05_sample", "method"), ("06_evaluate", "network")} == set(found.grids[0])


def test_a_grid_of_a_million_is_refused_before_it_is_multiplied_out(tmp_path, outputs, monkeypatch):
    """Not one of its values is looked at."""
    monkeypatch.setattr("dgs_utils.workflow.experiment.validate", None)
    axes = {"pool.seed": 50, "sample.seed": 200, "evaluate.seed": 100}
    (tmp_path / "x.yaml").write_text(json.dumps({"evaluate": {}, "grid": {k: [*range(n)] for k, n in axes.items()}}))
    with pytest.raises(ValueError, match=r"the grid has 1,000,000 points, more than 100,000; its longest axis is "
                                         r"sample\.seed with 200 values"):
        read_experiment(tmp_path / "x.yaml")


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


@pytest.mark.parametrize(("content", "sentence"), [
    (f"evaluate: {{}}\ngrid: {{evaluate.seed: {[*range(60_000)]}}}", "has more than 256 kB"),
    (f"evaluate: {{}}\ngrid: {{evaluate.seed: {[0] * 20_001}}}", "is not valid YAML: it has more than 20,000 values"),
    (BOMB, "is not valid YAML: it has more than 20,000 values"),
    ("[" * 5000, "is not valid YAML: it is nested deeper than 20 levels"),
    ("- " * 5000, "is not valid YAML: it is nested deeper than 20 levels")])
def test_huge_files_are_refused_before_they_are_expanded(tmp_path, content, sentence):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"x\.yaml {sentence}"):
        read_experiment(tmp_path / "x.yaml")
    if "kB" not in sentence:
        with pytest.raises(ValueError, match=sentence):
            read_experiment(PARAMS / "quickstart.yaml", [f"evaluate.seed={content}"])


def test_aliases_stand_for_what_they_name(experiment):
    found = experiment("pool: {seed: 3}\nevaluate: {}\ngrid: {pool.seed: &seeds [1, 02], evaluate.seed: *seeds}")
    assert found.grids == [{("02_pool", "seed"): [1, 2], ("06_evaluate", "seed"): [1, 2]}]
    assert experiment(BASE, ["pool.seed=&x [1, 2]"]).grids[0]["02_pool", "seed"] == [1, 2]


def test_bases_are_bounded(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\nevaluate: {{}}\n")
    with pytest.raises(ValueError, match=r"11\.yaml is its own base, or one of more than 10 bases"):
        read_experiment(tmp_path / "0.yaml")
