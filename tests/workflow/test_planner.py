"""Plans: the nodes of an experiment, and what is wrong with them before long work."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from waits import calls

import dgs_utils
from dgs_utils.cli import main
from dgs_utils.methods import METHODS
from dgs_utils.store.code_fingerprint import code_hashes
from dgs_utils.store.node import default_node, input_nodes
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand, plan

BASE = {"evaluate": {}, "figures": {}, "grid": {"sample.method": ["random", "dgs"]}}
PARAMS = Path(__file__).resolve().parents[2] / "params"
TABLES = Path(dgs_utils.__file__).parent / "results" / "published"


def stages(nodes):
    return Counter(node.stage for node in nodes)


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
    (["difficulty"], "03_difficulty"), (["sample", "pool"], "05_sample"), (["evaluate"], "07_figures"),
])
def test_plan_goes_as_far_as_there_are_sections(experiment, sections, last):
    assert plan(experiment({section: {} for section in sections}))[-1].stage == last


def test_a_grid_axis_alone_sets_the_target(experiment):
    assert stages(plan(experiment({"grid": {"pool.seed": [0, 1]}})))["02_pool"] == 2


def test_given_folder_stands_for_a_stage(experiment, tmp_path):
    (tmp_path / "mine" / "cat").mkdir(parents=True)
    nodes = plan(experiment({"evaluate": {"distilled": str(tmp_path / "mine")}}))
    assert stages(nodes) == {"00_prepare": 1, "06_evaluate": 1, "07_figures": 1}
    assert nodes[-1].inputs.keys() == {"evaluations"}  # nobody knows how that set was made
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
    none = {"dataset": "folder", "root": "photos", "base_model": "none"}
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
    (tmp_path / "photos" / "train" / "cat" / "0.JPEG").touch()
    content = {"prepare": none}
    with pytest.raises(ValueError, match="class dog has no images"):
        plan(experiment(content))
    assert plan(experiment(content, ["prepare.classes=[cat]"]))
    with pytest.raises(ValueError, match="class cow has no images"):
        plan(experiment(content, ["prepare.classes=[cat,cow]"]))


def test_images_to_test_on_alone_are_no_originals(experiment, tmp_path):
    (tmp_path / "photos" / "val" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "val" / "cat" / "0.png").touch()
    content = {"prepare": {"dataset": "folder", "root": "photos", "base_model": "none", "split": "given"}}
    assert plan(experiment(content))
    with pytest.raises(ValueError, match="photos has val and no folder train; add the images to train on as train"):
        plan(experiment(content | {"evaluate": {}}))


def test_given_files_must_be_there(experiment):
    with pytest.raises(ValueError, match=r"prepare\.base_model is .*weights\.pt, which does not exist"):
        plan(experiment({"prepare": {"base_model": "weights.pt"}}))
    with pytest.raises(ValueError, match=r"prepare\.class_index is .*table\.csv, which does not exist"):
        plan(experiment({"prepare": {"class_index": "table.csv"}}))


def test_a_plan_without_its_weights_is_shown_and_not_run(monkeypatch, outputs, capsys):
    monkeypatch.chdir(PARAMS.parent)
    words = ["run", "params/imagewoof.yaml", "--set", "prepare.base_model=no-weights.pt"]
    assert main([*words, "--dry-run"]) == 0
    assert re.search(r"Missing yet: prepare.base_model is .*no-weights.pt, which does not", capsys.readouterr().out)
    assert main(words) == 2


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
    check = ("import sys, dgs_utils.workflow.planner, dgs_utils.workflow.scheduler; "
             "import dgs_utils.workflow.overview, dgs_utils.workflow.summary;"
             "sys.exit(str({'torch', 'pandas', 'numpy', 'papermill', 'IPython'} & sys.modules.keys() or ''))")
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert not result.stderr.strip()


def test_notebooks_are_counted_too(tmp_path, outputs, monkeypatch):
    """A grid of few points can need many notebooks."""
    monkeypatch.setattr("dgs_utils.workflow.planner.MAX_NODES", 50)
    (tmp_path / "x.yaml").write_text(json.dumps({"evaluate": {}, "grid": {"fine_tune.seed": [*range(20)]}}))
    with pytest.raises(ValueError, match=r"asks for more than 50 notebooks, \d+ of them .*; shorten an axis of"):
        expand(read_experiment(tmp_path / "x.yaml"))


def test_a_plan_started_elsewhere_is_of_the_same_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = code_hashes("00_prepare")
    monkeypatch.chdir(PARAMS.parent)
    assert code_hashes("00_prepare") == expected
    assert expected["notebook"] == code_hashes("00_prepare")["notebook"] != code_hashes("no_stage")["notebook"]


@pytest.mark.parametrize(("section", "names", "told"), [
    ("transform", ["n02086240", "n99"], "transform.figure_classes has n99, which is no class of imagewoof"),
    ("figures", ["Shih-tsu"], "figures.figure_classes has Shih-tsu, which is no class of imagewoof"),
    ("figures", ["tench"], r"tench, which is no class of imagewoof; choose among n02096294 \(Australian terrier\)"),
    ("figures", ["Shih-Tzu", "n02089973"], "")])
def test_classes_of_figures_are_known_before_long_work(experiment, section, names, told):
    read = experiment(BASE | {"prepare": {"dataset": "imagewoof", "split": "imagenet", "base_model": "none"},
                              "pool": {"generator": "folder", "root": "."}, section: {"figure_classes": names}})
    if told:
        with pytest.raises(ValueError, match=told):
            plan(read)
    else:
        assert plan(read)


def test_classes_of_figures_may_be_of_any_planned_data_set(experiment):
    read = experiment(BASE | {"prepare": {"split": "imagenet", "base_model": "none"}, "figures": {
        "figure_classes": ["n02086240", "tench"]}, "pool": {"generator": "folder", "root": "."},
        "grid": {"prepare.dataset": ["imagewoof", "imagenette"], "sample.method": ["random", "dgs"]}})
    assert plan(read)
