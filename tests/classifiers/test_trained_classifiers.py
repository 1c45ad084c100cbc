"""Classifiers that stages 00 of their own train: teachers of soft labels [B §3.1], features of coresets [F §10.2]."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_grid
import torch
from small_world import CLASSES, make_prepare, open_stage, write_digits

from dgs_utils import evaluate, prepare
from dgs_utils.classifiers.image_tensors import load_images
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.protocols import PROTOCOLS, Augmentation
from dgs_utils.classifiers.scorer import extract_features, load_classifier
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.images import prepare_dataset
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import validate
from dgs_utils.params.paper import TEACHER
from dgs_utils.params.types import SOFT_LABEL_PROTOCOLS
from dgs_utils.results.protocol_labels import classifier_name
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.selection.coresets import herding
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand, plan

GRID = """
name: small
prepare: {classes: ["3", "4"], val_per_class: 140, base_model: none, classifier_epochs: 1, seed: 3}
sample: {ipc: 2, features: convnet3, features_epochs: 2}
evaluate: {protocol: rded, network: convnet3, norm: batch, epochs: 2, evaluations: 1, repeats: 1,
           teacher_network: convnet4, teacher_epochs: 3}
grid:
  sample.method: [random, herding]
"""


# ---- Plans -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def planned(tmp_path, outputs):
    """Return a function that plans the grid with changes."""
    (tmp_path / "small.yaml").write_text(GRID)
    return lambda *changes: plan(read_experiment(tmp_path / "small.yaml", list(changes)))


def trained(nodes) -> dict[str, list]:
    found = {}
    for node in nodes:
        if node.stage == "00_prepare":
            found.setdefault((node.params.classifier, node.params.classifier_protocol), []).append(node)
    return found


def test_the_planner_makes_teacher_and_features(planned):
    nodes = planned("evaluate.image_size=8")
    found = trained(nodes)
    assert {name: len(some) for name, some in found.items()} == {
        ("convnet3", "idc"): 2, ("convnet4", "rded"): 1}  # the scorer, the features, the teacher
    [teacher] = found["convnet4", "rded"]
    assert (teacher.params.classifier_size, teacher.params.classifier_epochs, teacher.params.seed) == (8, 3, 3)
    scorer, features = sorted(found["convnet3", "idc"], key=lambda node: node.params.classifier_epochs)
    assert (features.params.classifier_size, features.params.classifier_epochs) == (scorer.params.classifier_size, 2)
    sets = {node.params.method: node.inputs for node in nodes if node.stage == "05_sample"}
    assert sets["herding"]["trained"] is features
    assert "trained" not in sets["random"]  # which looks at no features
    assert all(node.inputs["teacher"] is teacher for node in nodes if node.stage == "06_evaluate")


def test_one_training_serves_whatever_diffusion_model_is_prepared(planned):
    one, other = (trained(planned(*changes))["convnet4", "rded"] for changes in (
        (), ("prepare.base_model=train", "prepare.depth=2", "prepare.image_size=16", "prepare.folds=2")))
    assert [node.key for node in one] == [node.key for node in other]
    [seeded] = trained(planned("prepare.seed=4"))["convnet4", "rded"]
    assert seeded.key != one[0].key


def test_hard_labels_have_no_teacher(planned):
    hard, plain = (planned("evaluate.protocol=idc", *changes) for changes in (
        (), ("evaluate.teacher_network=''", "evaluate.teacher_epochs=0")))
    assert ("convnet4", "rded") not in trained(hard)
    assert {node.key for node in hard} == {node.key for node in plain}
    assert {name for name, protocol in PROTOCOLS.items() if protocol.temperature} == set(SOFT_LABEL_PROTOCOLS)


def test_two_classifiers_for_features_are_refused():
    with pytest.raises(ValueError, match=r"sample\.features is 'resnet50:IMAGENET1K_V1', and sample\.trained is ano"):
        validate("05_sample", {"method": "herding", "features": "resnet50:IMAGENET1K_V1", "trained": "some/folder"})


def test_published_tables_take_features_and_a_teacher_as_published(outputs):
    nodes = expand(read_experiment(Path(__file__).parents[2] / "params" / "table1.yaml"))
    coresets = [node for node in nodes if node.stage == "05_sample" and node.params.method in ("k_center", "herding")]
    features = {node.inputs["trained"].key: node.inputs["trained"].params for node in coresets}
    assert len(coresets) == 6
    [params] = features.values()
    assert classifier_name(params.model_dump()) == "resnet_ap10 trained on the subset, idc, 300 epochs, 224 px"
    assert (params.dataset, params.split, params.base_model) == ("imagewoof", "imagenet", "none")
    nodes = expand(read_experiment(Path(__file__).parents[2] / "params" / "soft_labels.yaml"))
    teachers = {node.inputs["teacher"].key: node.inputs["teacher"] for node in nodes if node.stage == "06_evaluate"}
    [teacher] = teachers.values()
    assert classifier_name(teacher.params.model_dump()) == TEACHER


# ---- Training --------------------------------------------------------------------------------------------------------

def test_a_teacher_is_trained_on_true_labels_as_the_students_are(tmp_path, outputs):
    run = open_stage("00_prepare", dataset="folder", root=str(write_digits(tmp_path / "scans", 0, 14)), val_per_class=4,
                     base_model="none", classifier="convnet3", classifier_protocol="rded", classifier_epochs=3,
                     classifier_size=14, flip=True, seed=5)
    prepare_dataset.index_originals(run.params, run.folder)
    curve = prepare.difficulty_classifier(run)
    train, test = (ImageSet.read(run.folder, split) for split in ("train", "val"))
    with torch_seeded("prepare", "judge", 5):
        network = build_network("convnet3", 3, 14, "batch")
    plain = Augmentation(crop=1.0, jitter=0.0, lighting=0.0)  # flips and CutMix
    recipe = Recipe(3, 100, 0.001, augmentation=plain, protocol=replace(PROTOCOLS["rded"], temperature=0.0))
    expected = train_classifier(network, load_images(train, 14), load_images(test, 14, zoom=8 / 7), recipe, 5,
                                stage="prepare")
    scorer = load_classifier(run.folder / "classifier")
    assert (scorer.config.norm, scorer.config.transform) == ("batch", ResizeCrop(16, 14))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(scorer.network.state_dict()[name], value, rtol=0, atol=0)
    pd.testing.assert_frame_equal(curve, expected.curve, rtol=1e-12)
    with torch.no_grad():
        seen = torch.stack([scorer.read(path) for path in test.paths])
        top1 = 100 * (scorer(seen).argmax(1).numpy() == test.labels).mean()
    assert top1 == pytest.approx(curve["top1"].iloc[-1], abs=100 / 12 + 1e-9)  # files are scaled by another resize


@pytest.mark.parametrize(("params", "name"), [
    ({}, "convnet3 trained on the subset, idc, 15 epochs, 16 px"),
    ({"classifier": "resnet50", "classifier_weights": "IMAGENET1K_V1"}, "resnet50 IMAGENET1K_V1"),
    ({"classifier": "a/b"}, "a/b")])
def test_classifiers_are_named_by_what_made_them(params, name):
    assert classifier_name(validate("00_prepare", params).with_defaults({}).model_dump()) == name


# ---- Rows ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The grid, run by the real notebooks."""
    folder = small_grid.build_real(tmp_path_factory.mktemp("grid") / "work")
    (folder / "params" / "small.yaml").write_text(GRID)
    done = small_grid.dgs(folder, "run", "params/small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def of_stage(workspace, stage: str) -> list[tuple]:
    outputs = workspace / "outputs"
    return [(outputs / name, manifest) for name, manifest in small_grid.manifests(workspace).items()
            if manifest["stage"] == stage]


def test_rows_tell_teacher_its_accuracy_and_features(workspace):
    [(teacher, _)] = [(folder, manifest) for folder, manifest in of_stage(workspace, "00_prepare")
                      if manifest["params"]["classifier"] == "convnet4"]
    curve = pd.read_csv(teacher / "classifier_curve.csv")
    rows = pd.concat([pd.read_csv(folder / "results.csv", keep_default_na=False)
                      for folder, _ in of_stage(workspace, "06_evaluate")])
    assert set(rows["teacher"]) == {"convnet4 trained on the subset, rded, 3 epochs, 16 px"}
    assert rows["teacher_top1"].to_numpy() == pytest.approx(np.full(2, curve["top1"].iloc[-1]))
    features = rows.groupby("method")["features"].unique().str[0]
    assert features.to_dict() == {"random": "", "herding": "convnet3 trained on the subset, idc, 2 epochs, 16 px"}
    assert set(rows["label"]) == {"S-R"}  # the family; what it has earned is told by the tables


def test_herding_goes_by_the_features_that_were_trained_for_it(workspace):
    [(folder, manifest)] = [place for place in of_stage(workspace, "05_sample")
                            if place[1]["identity"]["method"] == "herding"]
    inputs = {source["name"]: workspace / "outputs" / source["folder"] for source in manifest["inputs"]}
    train = ImageSet.read(inputs["trained"], "train").of_class("4")
    assert inputs["trained"] != inputs["prepare"]
    found = extract_features(train, load_classifier(inputs["trained"] / "classifier"))
    chosen = pd.read_csv(folder / "metadata.csv", dtype={"class": str})
    expected = {train.table["file_name"].iloc[i] for i in herding(found, 2)}
    assert set(chosen.loc[chosen["class"] == "4", "source"]) == expected


def test_a_teacher_that_knows_other_classes_or_a_test_image_is_refused(tmp_path, outputs):
    whole = write_digits(tmp_path / "scans", 0, 9)
    here = make_prepare(whole, val=3)
    mine = write_digits(tmp_path / "mine", 20, 24)
    few = write_digits(tmp_path / "two", 0, 9, CLASSES[:2])
    values = {"prepare": str(here), "distilled": str(mine), "protocol": "rded", "image_size": 8}
    more = write_digits(tmp_path / "more", 0, 10)
    for teacher, sentence in ((make_prepare(few, CLASSES[:2]), "has the classes 0, 1, and .* has 0, 1, 2; train"),
                              (make_prepare(more), "the test image .* is also the training image")):
        run = open_stage("06_evaluate", teacher=str(teacher), **values)
        with pytest.raises(ValueError, match=sentence):
            evaluate.open_teacher(run, torch.device("cpu"))
