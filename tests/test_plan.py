"""Experiment files and the nodes that they are planned into."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from waits import calls

import dgs_utils
from dgs_utils.artifacts.nodes import default_node
from dgs_utils.artifacts.own_code import code_hashes
from dgs_utils.artifacts.places import locate
from dgs_utils.batch.experiment import ORDER, SECTIONS, read_experiment, typed
from dgs_utils.batch.plan import expand, plan
from dgs_utils.batch.run import input_nodes
from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES

BASE = {"evaluate": {}, "figures": {}, "grid": {"sample.method": ["random", "dgs"]}}


@pytest.fixture
def experiment(tmp_path, outputs, monkeypatch):
    """Return a function that writes an experiment file and reads it."""
    monkeypatch.chdir(tmp_path)

    def write(content, changes=()):
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        (tmp_path / "experiment.yaml").write_text(text)
        return read_experiment(tmp_path / "experiment.yaml", list(changes))

    return write


def stages(nodes):
    return Counter(node.stage for node in nodes)


# ---- Plans -----------------------------------------------------------------------------------------------------------

def test_shared_nodes_exist_once(experiment):
    nodes = plan(experiment(BASE | {"grid": {
        "sample.method": ["random", "dit", "minimax", "dgs"], "evaluate.network": ["convnet3", "resnet_ap10"],
        "pool.seed": [0, 1], "evaluate.seed": [0, 1]}}))
    # One fine-tuning; two pools (raw and fine-tuned) a pool seed; random draws from the originals, whatever the pool.
    assert stages(nodes) == {"00_prepare": 1, "01_fine_tune": 1, "02_pool": 4, "03_difficulty": 3, "04_transform": 2,
                             "05_sample": 7, "06_evaluate": 28, "07_figures": 1}
    assert len({node.key for node in nodes}) == len(nodes)


def test_inputs_stand_before_what_needs_them(experiment):
    nodes = plan(experiment(BASE | {"grid": {"sample.method": ["random", "dgs", "dm", "hardest"]}}))
    seen = set()
    for node in nodes:
        assert {source.key for source in input_nodes(node)} <= seen
        seen.add(node.key)


def test_default_grid_point_is_what_notebooks_compute_by_hand(experiment):
    nodes = plan(experiment(BASE | {"grid": {"sample.method": ["dgs"]}, "figures": {"title": "quickstart"}}))
    for stage, overrides in [("00_prepare", {}), ("01_fine_tune", {}), ("02_pool", {}), ("03_difficulty", {}),
                             ("03_difficulty", {"source": "originals"}), ("04_transform", {}), ("05_sample", {}),
                             ("06_evaluate", {}), ("07_figures", {})]:
        assert default_node(stage, overrides).folder in [node.folder for node in nodes]
    assert len(nodes) == 9


def test_seed_makes_no_second_node_where_the_method_ignores_it(experiment):
    nodes = plan(experiment(BASE | {"grid": {"sample.method": ["k_center", "dgs"], "sample.seed": [0, 1, 2]}}))
    assert Counter(node.params.method for node in nodes if node.stage == "05_sample") == {"k_center": 1, "dgs": 3}


def test_methods_that_optimise_pixels_come_from_08(experiment):
    nodes = plan(experiment(BASE | {"sample": {"seed": 3}, "condense": {"iterations": 7}, "grid": {
        "sample.method": ["dm", "random"], "sample.ipc": [5, 10]}}))
    condensed = [node for node in nodes if node.stage == "08_condense"]
    assert [(n.params.method, n.params.ipc, n.params.seed, n.params.iterations) for n in condensed] == [
        ("dm", 5, 3, 7), ("dm", 10, 3, 7)]
    fed = {node.inputs["distilled"].key for node in nodes if node.stage == "06_evaluate"}
    assert {node.key for node in condensed} < fed
    [figures] = [node for node in nodes if node.stage == "07_figures"]
    assert {node.key for node in figures.inputs["samples"]} == fed


@pytest.mark.parametrize(("sections", "last"), [
    (["prepare"], "00_prepare"), (["prepare", "condense"], "08_condense"), (["sample", "condense"], "05_sample"),
    (["difficulty"], "03_difficulty"), (["sample", "pool"], "05_sample"), (["evaluate"], "06_evaluate"),
])
def test_plan_goes_as_far_as_there_are_sections(experiment, sections, last):
    assert plan(experiment({section: {} for section in sections}))[-1].stage == last


def test_a_grid_axis_alone_sets_the_target(experiment):
    assert stages(plan(experiment({"grid": {"pool.seed": [0, 1]}})))["02_pool"] == 2


def test_given_folder_stands_for_a_stage(experiment, tmp_path):
    (tmp_path / "mine" / "cat").mkdir(parents=True)
    nodes = plan(experiment({"evaluate": {"distilled": str(tmp_path / "mine")}}))
    assert stages(nodes) == {"00_prepare": 1, "06_evaluate": 1}
    with pytest.raises(ValueError, match=r"evaluate\.distilled: the folder .*nowhere does not exist"):
        plan(experiment({"evaluate": {"distilled": str(tmp_path / "nowhere")}}))


def test_planning_twice_the_nodes_costs_twice_as_much(experiment):
    def grid(seeds: int):
        return experiment(BASE | {"grid": {
            "sample.method": ["random", "dgs", "dit", "minimax"], "evaluate.network": ["convnet3", "resnet_ap10"],
            "pool.seed": [*range(5)], "sample.seed": [*range(5)], "evaluate.seed": [*range(seeds)]}})

    assert len(plan(grid(26))) > 2000
    assert calls(plan, grid(12)) < 2.2 * calls(plan, grid(6))


SEEDS = st.sampled_from([f"{section}.seed" for section in ("pool", "sample", "evaluate", "fine_tune", "condense")])


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(SEEDS, st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True), max_size=4),
       st.randoms())
def test_order_of_axes_and_values_does_not_matter(tmp_path_factory, axes, random):
    file = tmp_path_factory.mktemp("plan") / "grid.yaml"

    def keys(grid):
        file.write_text(yaml.safe_dump({"evaluate": {}, "grid": {"sample.method": ["dgs", "dm"], **grid}}))
        return {node.key for node in plan(read_experiment(file))}

    items = [(axis, random.sample(values, len(values))) for axis, values in axes.items()]
    assert keys(axes) == keys(dict(random.sample(items, len(items))))


# ---- Wrong files -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("content", "sentence"), [
    ("prepare: [", "is not valid YAML"),
    ("prepare: {}\nprepare: {}", "prepare is given twice in line 2"),
    ("evaluate:\n  seed: 1\n  seed: 2", "seed is given twice in line 3"),
    ("just words", "holds no sections"),
    ("", "asks for nothing"),
    ("evaluate: 3", "section evaluate is 3"),
    ("grid: [1]\nevaluate: {}", "grid is 1; give axes"),
    ("grid: 1\nevaluate: {}", "grid is 1; give axes"),
    ("evaluat: {}", "evaluat is not a section; did you mean 'evaluate'"),
    ("06_evaluate: {}", "06_evaluate is not a section; did you mean 'evaluate'"),
    ("evaluate: {epoch: 3}", "evaluate.epoch is not a parameter .* did you mean 'epochs'"),
    ("evaluate: {epochs: many}", "evaluate.epochs is 'many', but"),
    ("evaluate: {epochs: 1.5}", "evaluate.epochs is 1.5, but"),
    ("evaluate: {epochs: true}", "evaluate.epochs is True, but"),
    ("evaluate: {network: resnet_ap11}", "evaluate.network is 'resnet_ap11'"),
    ("evaluate: {}\ncondense: {method: mtt}", "condense.method is 'mtt'"),  # checked though nothing here needs it
    ("sample: {output: here}", "sample.output cannot be set in an experiment file"),
    ("sample: {method: dg}", "sample.method is 'dg'"),
    ("grid: {sample.methd: [dgs]}", "sample.methd is not a parameter .* did you mean 'method'"),
    ("grid: {sampl.method: [dgs]}", "sampl is not a section; did you mean 'sample'"),
    ("grid: {sample.method: dgs}", "grid axis sample.method is 'dgs'; give a list"),
    ("grid: {sample.method: []}", "give a list of at least one value"),
    ("grid: {sample.ipc: [1, two]}", "sample.ipc is 'two', but"),
    ("grid: {evaluate.device: [cpu, cuda]}", "evaluate.device does not change the result"),
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
    with pytest.raises(ValueError, match="cannot be read as a text file"):
        read_experiment(tmp_path)


@pytest.mark.parametrize(("changes", "sentence"), [
    (["evaluate.repeat=1"], "evaluate.repeat is not a parameter .* did you mean 'repeats'"),
    (["evaluate=1"], "evaluate is not a parameter"),
    (["evaluate.repeats"], "--set evaluate.repeats has no value"),
    (["evaluate.repeats=["], "is not valid YAML"),
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


def test_several_grids_are_the_points_of_all(experiment):
    grids = [{"sample.method": ["random", "dgs"], "evaluate.seed": [0, 1]},
             {"sample.method": ["dm"], "condense.iterations": [7]},
             {"sample.method": ["dgs"], "evaluate.seed": [1, 2]}]
    nodes = plan(experiment(BASE | {"grid": grids}))
    assert stages(nodes)["06_evaluate"] == 2 * 2 + 1 + 1  # dgs with seed 1 is in two grids
    assert [node.params.iterations for node in nodes if node.stage == "08_condense"] == [7]
    changed = experiment(BASE | {"grid": grids}, ["sample.method=hardest", "evaluate.seed=[5]"])
    assert changed.grids == [{("06_evaluate", "seed"): [5]},
                             {("08_condense", "iterations"): [7], ("06_evaluate", "seed"): [5]},
                             {("06_evaluate", "seed"): [5]}]
    assert stages(plan(changed))["06_evaluate"] == 1


@pytest.mark.parametrize("axes", [("sample.cut_errors", "transform.shared_scale"), ("sample.seed", "pool.seed"),
                                  ("sample.cut", "transform.weight"), ("sample.ipc", "sample.pool_factor")])
def test_grids_with_the_same_values_of_other_axes_are_told_apart(experiment, axes):
    values = {"sample.cut_errors": [True], "transform.shared_scale": [True], "sample.cut": [0.25],
              "transform.weight": [0.25]}
    grids = [{axis: values.get(axis, [4, 3]), "sample.method": ["dgs"], "evaluate.seed": [0, 1]} for axis in axes]
    alone = [{node.key for node in expand(experiment(BASE | {"grid": grid}))} for grid in grids]
    together = {node.key for node in expand(experiment(BASE | {"grid": grids}))}
    only_07 = {node.key for grid in (*grids, grids) for node in expand(experiment(BASE | {"grid": grid}))
               if node.stage == "07_figures"}
    assert together - only_07 == set.union(*alone) - only_07
    assert all(len(found - other - only_07) >= 4 for found, other in (alone, alone[::-1]))


@pytest.mark.parametrize(("sample", "pool", "sentence"), [
    ({"ipc": 20}, {}, "sample.ipc 20 × sample.pool_factor 5 asks for 100 images of each class, but "
                      "pool.images_per_class is 50; raise it to 100"),
    ({"ipc": 60, "method": "minimax"}, {}, "sample.ipc 60 asks for 60 images of each class"),
    ({"pool_factor": 0}, {"images_per_class": 5}, "sample.ipc 10 asks for 10 images of each class, but "
                                                  "pool.images_per_class is 5"),
])
def test_pool_must_hold_what_is_drawn(experiment, sample, pool, sentence):
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        plan(experiment({"pool": pool, "sample": sample}))
    plan(experiment({"pool": {"images_per_class": 100}, "sample": sample}))


def test_images_must_be_on_disk(experiment, tmp_path):
    with pytest.raises(ValueError, match=r"prepare\.root is .*photos, which does not exist"):
        plan(experiment({"prepare": {"dataset": "folder", "root": "photos"}}))
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
    (tmp_path / "photos" / "train" / "cat" / "0.JPEG").touch()
    content = {"prepare": {"dataset": "folder", "root": "photos"}}
    with pytest.raises(ValueError, match="class dog has no images"):
        plan(experiment(content))
    assert plan(experiment(content, ["prepare.classes=[cat]"]))
    with pytest.raises(ValueError, match="class cow has no images"):
        plan(experiment(content, ["prepare.classes=[cat,cow]"]))


def test_given_files_must_be_there(experiment):
    with pytest.raises(ValueError, match=r"prepare\.base_model is .*weights\.pt, which does not exist"):
        plan(experiment({"prepare": {"base_model": "weights.pt"}}))
    with pytest.raises(ValueError, match=r"prepare\.class_index is .*table\.csv, which does not exist"):
        plan(experiment({"prepare": {"class_index": "table.csv"}}))


def test_own_pool_must_be_large_enough(experiment, tmp_path):
    content = {"pool": {"generator": "folder", "root": "pool"}, "sample": {"ipc": 2, "pool_factor": 2}}
    with pytest.raises(ValueError, match=r"pool\.root is .*pool, which does not exist"):
        plan(experiment(content))
    (tmp_path / "pool" / "cat").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "pool" / "cat" / f"{number}.png").touch()
    with pytest.raises(ValueError, match="asks for 4 images of each class, but class cat has 3"):
        plan(experiment(content))
    assert "01_fine_tune" not in stages(plan(experiment(content, ["sample.pool_factor=1"])))


# ---- The package's own files -----------------------------------------------------------------------------------------

def test_order_holds_every_stage():
    assert sorted(ORDER) == sorted(STAGES)


def test_quickstart_spells_out_the_defaults():
    found = read_experiment(PARAMS / "quickstart.yaml")
    for stage, values in found.sections.items():
        fields = STAGES[stage].model_fields
        assert values == {name: fields[name].default for name in values}, stage
    assert set(found.sections) == set(SECTIONS.values()) - {"08_condense"}
    assert found.name == STAGES["07_figures"].model_fields["title"].default
    assert {("05_sample", "method"), ("06_evaluate", "network")} == set(found.grids[0])


PARAMS = Path(__file__).resolve().parents[1] / "params"
TABLES = Path(dgs_utils.__file__).parent / "results" / "published"


@pytest.mark.parametrize("file", sorted(PARAMS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_file_plans(file, outputs, tmp_path):
    experiment = read_experiment(file)
    prepare = experiment.sections["00_prepare"]
    for name in ("class_index", "base_model"):  # what a user brings
        if name in prepare and prepare[name] not in ("train", "none"):
            prepare[name] = str(tmp_path / name)
            (tmp_path / name).write_text("class,index\n")
    for stage in ("00_prepare", "02_pool"):
        if experiment.sections.get(stage, {}).get("root"):
            experiment.sections[stage]["root"] = str(tmp_path / stage)
            for grid in experiment.grids:
                grid.update({axis: [str(tmp_path / stage)] for axis in grid if axis == (stage, "root")})
            for number in range(100):
                path = tmp_path / stage / f"class{number % 2}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    assert experiment.name == file.stem
    assert plan(experiment)[-1].stage == experiment.target


def test_tables_of_imagewoof_share_their_pools():
    pools = [{node.key for node in expand(read_experiment(PARAMS / f"table{number}.yaml"))
              if node.stage in ("00_prepare", "01_fine_tune", "02_pool", "03_difficulty")} for number in (1, 3, 4)]
    assert pools[1] == pools[2] < pools[0]  # Table 1 has pools of the raw model too
    assert len(pools[1]) == 1 + 1 + 3 + 4  # scores of three pools and of the originals


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_tables_have_every_published_cell(number):
    with (TABLES / f"table{number}.csv").open() as file:
        rows = list(csv.DictReader(file))
    nodes = expand(read_experiment(PARAMS / f"table{number}.yaml"))
    planned = {cell for node in nodes if node.stage == "06_evaluate" for cell in _cells(node)}
    names = {"Ours": "DGS", "Full Dataset": "Full"}
    published = {(row["dataset"], row["model"], int(row["ipc"]), names.get(row["method"], row["method"]),
                  row["distribution"], row["pool_size"]) for row in rows}
    assert published <= planned


def _cells(node):
    """Yield dataset, model, IPC, method, distribution and pool size of an evaluation in the words of the tables."""
    networks = {"convnet6": "ConvNet-6", "resnet_ap10": "ResNetAP-10", "resnet18": "ResNet-18"}
    datasets = {"imagewoof": "ImageWoof", "imagenette": "ImageNette", "imageidc": "ImageIDC"}
    chosen = node.inputs["distilled"].params
    ours = chosen.method == "dgs"
    for ipc in [10, 20, 50] if METHODS[chosen.method].whole else [chosen.ipc]:
        yield (datasets[node.inputs["prepare"].params.dataset], networks[node.params.network], ipc,
               METHODS[chosen.method].label, chosen.distribution if ours else "",
               f"{chosen.pool_factor}xIPC" if ours else "")


def test_planning_stays_light():
    check = ("import sys, dgs_utils.batch.plan, dgs_utils.batch.run, dgs_utils.batch.status, dgs_utils.batch.report;"
             "sys.exit(str({'torch', 'pandas', 'numpy', 'papermill', 'IPython'} & sys.modules.keys() or ''))")
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert not result.stderr.strip()


# ---- Grids that nobody means -----------------------------------------------------------------------------------------

def test_a_grid_of_a_million_is_refused_before_it_is_multiplied_out(tmp_path, outputs, monkeypatch):
    """Not one of its values is looked at."""
    monkeypatch.setattr("dgs_utils.batch.experiment.validate", None)
    axes = {"pool.seed": 50, "sample.seed": 200, "evaluate.seed": 100}
    (tmp_path / "x.yaml").write_text(json.dumps({"evaluate": {}, "grid": {k: [*range(n)] for k, n in axes.items()}}))
    with pytest.raises(ValueError, match=r"the grid has 1,000,000 points, more than 100,000; its longest axis is "
                                         r"sample\.seed with 200 values"):
        read_experiment(tmp_path / "x.yaml")


def test_notebooks_are_counted_too(tmp_path, outputs, monkeypatch):
    """A grid of few points can need many notebooks."""
    monkeypatch.setattr("dgs_utils.batch.plan.MOST", 50)
    (tmp_path / "x.yaml").write_text(json.dumps({"evaluate": {}, "grid": {"fine_tune.seed": [*range(20)]}}))
    with pytest.raises(ValueError, match=r"asks for more than 50 notebooks, \d+ of them .*; shorten an axis of"):
        expand(read_experiment(tmp_path / "x.yaml"))


def test_a_file_of_many_megabytes_or_levels_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(f"evaluate: {{}}\ngrid: {{evaluate.seed: {[*range(400_000)]}}}")
    with pytest.raises(ValueError, match=r"x\.yaml has more than 2 MB"):
        read_experiment(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"x\.yaml is (nested too deeply|not valid YAML)"):
        read_experiment(tmp_path / "x.yaml")


# ---- Paths -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def places(tmp_path, monkeypatch, outputs):
    """An experiment file in one folder with its images beside it, a workspace, and somewhere else."""
    for folder in ("work/notebooks", "work/params", "mine/data/cat", "mine/data/dog", "else"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("cat", "dog"):
        Image.new("L", (4, 4)).save(tmp_path / "mine" / "data" / name / "1.png")
    (tmp_path / "mine" / "table.csv").write_text("class,index\ncat,1\ndog,2\n")
    (tmp_path / "mine" / "x.yaml").write_text("prepare: {dataset: folder, root: data, split: given, base_model: none, "
                                              "class_index: table.csv}\n")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def root_of(file, changes=()) -> Path:
    [node] = plan(read_experiment(file, [typed(change) for change in changes]))
    return locate(node.params.root)


def test_paths_in_a_file_start_from_it(places, monkeypatch):
    assert root_of("../mine/x.yaml") == places / "mine" / "data"
    monkeypatch.chdir(places / "mine")
    assert root_of("x.yaml") == places / "mine" / "data"
    monkeypatch.chdir(places / "else")
    assert root_of("../mine/x.yaml") == places / "mine" / "data"
    (places / "else" / "base.yaml").write_text("base: ../mine/x.yaml\nprepare: {seed: 3}\n")
    assert root_of("base.yaml") == places / "mine" / "data"  # relative to the file in which it stands


def test_a_judge_s_folder_starts_from_the_file_and_a_network_s_name_does_not(places):
    for name in ("judge/kept", "convnet3"):
        (places / "mine" / name).mkdir(parents=True)
    for written, found in (("./judge/kept", str(places / "mine" / "judge" / "kept")), ("convnet3", "convnet3")):
        (places / "mine" / "y.yaml").write_text(f"base: x.yaml\nprepare: {{classifier: {written}}}\n")
        assert read_experiment("../mine/y.yaml").values("00_prepare", {})["classifier"] == found


def test_paths_on_the_command_line_start_from_the_current_folder(places, monkeypatch):
    monkeypatch.chdir(places / "mine")
    assert root_of("x.yaml", ["prepare.root=data/../data"]) == places / "mine" / "data"
    monkeypatch.chdir(places / "else")
    assert root_of("../mine/x.yaml", ["prepare.root=../mine/data"]) == places / "mine" / "data"
    with pytest.raises(ValueError, match=f"prepare.root is {places}/else/none, which does not exist"):
        root_of("../mine/x.yaml", ["prepare.root=none"])
    change = typed("prepare.root=../mine/data")
    monkeypatch.chdir(places / "work")  # as a job on a cluster, which reads it elsewhere
    assert root_of("../mine/x.yaml", [change]) == places / "mine" / "data"


def test_paths_in_the_workspace_are_the_same_from_everywhere(places, monkeypatch):
    (places / "mine" / "data").rename(places / "work" / "data")
    (places / "mine" / "table.csv").rename(places / "work" / "table.csv")
    file = places / "work" / "params" / "x.yaml"
    (places / "mine" / "x.yaml").rename(file)
    keys = set()
    for folder, text in (("work", "params/x.yaml"), ("work/params", "x.yaml"), ("work/notebooks", "params/x.yaml")):
        monkeypatch.chdir(places / folder)
        [node] = plan(read_experiment(text))
        assert node.params.root == "data"  # as before: not beside the file, but in the workspace
        keys.add(node.key)
    assert len(keys) == 1


def test_a_plan_started_elsewhere_is_of_the_same_code(places, monkeypatch):
    monkeypatch.chdir(places / "else")
    expected = code_hashes("00_prepare")
    monkeypatch.chdir(PARAMS.parent)
    assert code_hashes("00_prepare") == expected
    assert expected["notebook"] == code_hashes("00_prepare")["notebook"] != code_hashes("no_stage")["notebook"]


def test_stage_06_without_test_images_is_told_at_the_start(places):
    text = (places / "mine" / "x.yaml").read_text()
    (places / "mine" / "x.yaml").write_text(f"{text}pool: {{generator: folder, root: data}}\nsample: {{ipc: 1, "
                                            f"pool_factor: 0}}\nevaluate: {{}}\n")
    with pytest.raises(ValueError, match=f"stage 06 needs test images, and {places}/mine/data has no"):
        plan(read_experiment("../mine/x.yaml"))
    assert plan(read_experiment("../mine/x.yaml", ["prepare.split=holdout"]))


def test_a_wrong_class_table_is_told_when_planning(places):
    (places / "mine" / "table.csv").write_text("class,index\ncat,1\ncat,2\n")
    with pytest.raises(ValueError, match=r"table.csv, row 3 gives class cat again"):
        root_of("../mine/x.yaml")
