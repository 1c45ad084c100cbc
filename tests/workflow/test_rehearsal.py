"""Rehearsals: what is cut and what is not, and forecasts that follow from the steps that were timed."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.diffusion.blank_models import operations_of_image
from dgs_utils.diffusion.dit import DiT
from dgs_utils.params import STAGES, PrepareParams, validate
from dgs_utils.store.node import default_node, input_nodes
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.forecast import Size, forecast, work_of
from dgs_utils.workflow.plan_checks import check_plan
from dgs_utils.workflow.planner import expand
from dgs_utils.workflow.rehearsal import _affordable_images, _few, rehearsed_nodes
from dgs_utils.workflow.stand_in_weights import stand_ins

PARAMS = Path(__file__).resolve().parents[2] / "params"
COUNTS = {"seed", "classes", "images_per_class", "train_steps", "classifier_epochs", "folds", "steps", "shard", "ipc",
          "pool_factor", "pool_images", "figure_classes", "cut_errors", "features_epochs", "distribution", "epochs",
          "evaluations", "repeats", "teacher_epochs", "iterations", "inner_loops", "pretrain_epochs",
          "total", "short_classes", "drop_duplicates", "pool_share"}


@pytest.mark.parametrize("name", ["quickstart", "fashion", "woof128", "nette64", "table1", "table4", "soft_labels",
                                  "compute_fashion", "imageidc"])
def test_only_counts_are_cut_and_every_notebook_has_its_rehearsal(name, outputs):
    changes = ["prepare.root=params"] if name == "imageidc" else []
    nodes = expand(read_experiment(PARAMS / f"{name}.yaml", changes))
    made = rehearsed_nodes(nodes)
    assert made.keys() == {node.key for node in nodes}
    for node in nodes:
        before, now = node.params.model_dump(), made[node.key].params.model_dump()
        assert {field for field in before if before[field] != now[field]} <= COUNTS
        assert node.inputs.keys() == made[node.key].inputs.keys()
    rehearsed = {node.key: node for node in made.values()}
    assert len(rehearsed) <= len(nodes)
    for node in nodes:  # each image size, network, protocol, method and generator
        kept = {field: value for field, value in node.params.model_dump().items() if field not in COUNTS}
        assert any(node.stage == other.stage and kept.items() <= other.params.model_dump().items()
                   for other in rehearsed.values())
    check_plan(list(rehearsed.values()), lambda sentence: None)


@pytest.mark.parametrize(("stage", "name", "value"), [
    ("03_difficulty", "scorers", ["resnet18:{}/w.pt@IMAGENET1K_V1"]), ("05_sample", "features", "resnet18:{}/w.pt")])
def test_random_weights_stand_for_further_scorers_that_are_missing(tmp_path, stage, name, value):
    missing = [item.format(tmp_path) for item in value] if isinstance(value, list) else value.format(tmp_path)
    lines: list[str] = []
    made = stand_ins(validate(stage, {name: missing}), tmp_path / "weights", lines.append)
    assert made.keys() == {name}
    assert made[name] != missing
    assert [line.startswith("RANDOM WEIGHTS stand for") for line in lines] == [True]


@pytest.mark.parametrize("values", [{"method": "random"}, {"method": "dgs", "pool_share": 0.8}])
def test_plans_without_pools_and_with_parts_of_them_are_rehearsed(values, outputs):
    node = default_node("05_sample", values)
    made = rehearsed_nodes([*input_nodes(node), node])[node.key]
    assert (made.params.method, made.params.pool_share) == (values["method"], 1.0)


def test_a_total_of_images_is_not_rehearsed(outputs):
    changes = ["sample.method=dgs", "sample.total=400"]
    made = rehearsed_nodes(expand(read_experiment(PARAMS / "quickstart.yaml", changes)))
    assert {node.params.total for node in made.values() if node.stage == "05_sample"} == {0}


def test_batches_are_as_large_as_they_will_be(outputs):
    made = rehearsed_nodes(expand(read_experiment(PARAMS / "woof128.yaml", [])))
    by_stage = {node.stage: node.params for node in made.values()}
    assert len(by_stage["00_prepare"].classes) == 2
    assert 2 * by_stage["00_prepare"].images_per_class >= by_stage["00_prepare"].train_batch == 128
    assert 2 * by_stage["05_sample"].ipc >= 64
    assert by_stage["02_pool"].images_per_class >= by_stage["02_pool"].batch_size == 125


def test_each_set_and_each_setting_is_evaluated_but_not_each_set_in_each_setting(outputs):
    made = rehearsed_nodes(expand(read_experiment(PARAMS / "woof128.yaml", [])))
    rehearsed = list({node.key: node for node in made.values() if node.stage == "06_evaluate"}.values())
    sets = {node.inputs["distilled"].key for node in rehearsed}
    networks = [node.params.network for node in rehearsed]
    assert sets == {node.key for node in made.values() if node.stage == "05_sample"}
    assert set(networks) == {"convnet5", "resnet_ap10", "resnet18"}
    assert len(rehearsed) == len(sets) + 2
    assert networks.count("convnet5") == len(sets)


@pytest.mark.parametrize(("name", "is_short"), [("table1", True), ("woof128", False), ("cifar10_rules", False)])
def test_without_a_gpu_a_large_diffusion_model_makes_few_images(outputs, monkeypatch, name, is_short):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    nodes = expand(read_experiment(PARAMS / f"{name}.yaml", []))
    params = [node.params for node in nodes]
    few = _few(params, _affordable_images(params))
    assert (few != _few(params)) == is_short
    made = {node.key: node.params for node in rehearsed_nodes(nodes, few=few).values()}
    if is_short:
        assert few.most == 2
        assert {own.images_per_class for own in made.values() if own.stage in ("00_prepare", "02_pool")} == {2}
        assert {own.ipc for own in made.values() if own.stage in ("05_sample", "08_condense")} == {1}
        assert {own.batch_size for own in made.values() if own.stage == "02_pool"} == {50}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert _few(params, _affordable_images(params)) == _few(params)


def test_a_small_diffusion_model_of_ones_own_is_no_large_one(tmp_path, outputs):
    model = DiT(input_size=32, patch_size=2, in_channels=4, hidden_size=64, depth=2, num_heads=2, num_classes=10)
    torch.save(model.state_dict(), tmp_path / "small.pt")
    models = [PrepareParams(image_size=256, autoencoder="taesd", base_model=name).with_defaults({})
              for name in (str(tmp_path / "small.pt"), "facebook/DiT-XL-2-256")]
    costs = [operations_of_image(params, 3) for params in models]
    assert 20 * costs[0] < costs[1]
    assert costs[1] > 1e12  # that of a DiT-XL/2, whose size no parameter gives


def test_the_full_set_takes_its_own_time():
    """The full set has its own epochs and is tested after each; others are tested so often as is asked for."""
    own = validate("06_evaluate", {"epoch_factor": 0.5, "evaluations": 100, "repeats": 1, "image_size": 128})
    work = {method: work_of(Size(own, 10, 9000, 500, validate("05_sample", {"method": method, "ipc": 10})))
            for method in ("full", "random")}
    idc = PROTOCOLS["idc"]
    assert work["full"]["epochs"] == idc.epochs(0, 0.5) * 9000
    assert work["full"]["epochs rest"] == idc.epochs(0, 0.5) * 500
    assert work["random"]["epochs"] == idc.epochs(10, 0.5) * 100
    assert work["random"]["epochs rest"] == 100 * 500


def test_every_stage_has_its_work_but_figures():
    assert [stage for stage in STAGES if not work_of(Size(validate(stage, {}), 10, 100, 50))] == ["07_figures"]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.floats(0, 30), st.integers(1, 10_000))
def test_a_forecast_is_a_range_that_grows_with_the_work(times, outside, factor):
    own = {"training": float(len(times))}
    ranges = [forecast({"training": times}, outside + sum(times), own, {"training": len(times) * float(more)})
              for more in (1, factor)]
    for low, high in ranges:
        assert 0 < low <= high * (1 + 1e-9) or low == pytest.approx(high)
    assert ranges[0][0] <= sum(times) + outside + 1e-6
    assert ranges[0][1] == pytest.approx(sum(times) + outside)
    assert ranges[1][0] >= ranges[0][0]
    steady = forecast({"training": [1.0] * 4}, 4.0, {"training": 4}, {"training": 4 * factor})
    assert steady == pytest.approx((4.0 * factor, 4.0 * factor))


def test_a_forecast_knows_items_batches_and_loops_that_end_at_once():
    """As they were timed on Fashion-MNIST: the pool's last step, 70,000 files of which all were read, and batches."""
    low, high = forecast({"pool": [175.0, 90.0, 109.0, 106.0, 99.0, 0.5]}, 600.0, {"pool": 1500}, {"pool": 125_000})
    assert 40_000 < low < high < 50_000
    assert forecast({"images": [0.001] * 70_000}, 80.0, {"images": 256}, {"images": 70_000}) == (
        pytest.approx(80), pytest.approx(80))
    batches = [3.0, *[0.0] * 63, 2.0, *[0.0] * 63]
    low, high = forecast({"images scored": batches}, 6.0, {"images scored": 128}, {"images scored": 12_800})
    assert 200 <= low <= high <= 501


def test_tests_within_a_training_grow_by_their_own_number():
    """A last epoch that tests 10 images for 2 s means 200 s for a thousand, whatever the epochs are."""
    own, whole = {"epochs": 3, "epochs rest": 10}, {"epochs": 300, "epochs rest": 1000}
    assert forecast({"epochs": [1.0, 1.0, 3.0]}, 5.0, own, whole) == pytest.approx((500.0, 500.0))
