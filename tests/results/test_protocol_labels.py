"""Protocol labels, names of scorers and generations, and which runs published values stand beside."""

from pathlib import Path

import pytest
from result_rows import BASE, runs

from dgs_utils.params import paper, validate
from dgs_utils.results.protocol_labels import describe_generation, is_comparable, protocol_label, scorer_name
from dgs_utils.results.summaries import summarise
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

PARAMS = Path(__file__).parents[2] / "params"

HARD = {**BASE, "epochs": 2000}

SOFT = {**BASE, "protocol": "rded", "norm": "batch", "batch_size": 50, "learning_rate": 0.001, "epochs": 300,
        "teacher": "resnet18 trained on the subset, rded, 300 epochs, 224 px"}


@pytest.mark.parametrize(("row", "label"), [
    (HARD, "H-A"),
    ({**HARD, "image_size": 64, "epoch_factor": 0.015, "epochs": 30, "evaluations": 1},
     "H-A, scaled: 64 px, 30 epochs, 1 test"),
    ({**HARD, "norm": "batch", "batch_size": 32, "learning_rate": 0.1, "augment": False, "flip": False},
     "H-A, scaled: batch norm, batch 32, learning rate 0.1, no augmentation, no flips"),
    ({**HARD, "split": "fastai", "n_test": 3929}, "H-A, scaled: split fastai, 3929 test images"),
    ({**HARD, "method": "full", "ipc": 0, "evaluations": 100}, "H-A, scaled: 100 tests"),
    ({**HARD, "method": "full", "ipc": 0, "evaluations": 300}, "H-A"),
    ({**HARD, "evaluations": 200}, "H-A, scaled: 200 tests"),  # the best of more is higher
    (SOFT, "S-R"),
    ({**SOFT, "teacher": "resnet50 IMAGENET1K_V1"}, "S-R, scaled: teacher resnet50 IMAGENET1K_V1"),
    ({**SOFT, "teacher": "resnet18 trained on the subset, rded, 30 epochs, 224 px"},
     "S-R, scaled: teacher resnet18 trained on the subset, rded, 30 epochs, 224 px"),
    ({**SOFT, "norm": "instance", "teacher": ""}, "S-R, scaled: instance norm, teacher unknown"),
    ({**HARD, "protocol": "uag", "learning_rate": 0.001, "evaluations": 1}, "UAG"),  # of which the last test counts
    ({**HARD, "network": "timm:resnet18", "norm": "own"}, "H-A, scaled: network timm:resnet18"),
    ({**HARD, "protocol": "own", "label": "mine"}, "mine")])
def test_a_label_is_earned(row, label):
    assert protocol_label(row) == label


def test_generation_is_told_from_the_stages_behind_a_set():
    stages = {"00_prepare": {"dit_size": "DiT-XL/2", "base_model": "data/dit.pt"},
              "01_fine_tune": {"steps": 12000, "epochs": 8, "precision": "fp32"},
              "02_pool": {"generator": "minimax", "steps": 50, "guidance": 4.0, "precision": "fp32"}}
    assert describe_generation(stages) == paper.GENERATION["minimax"]
    raw = {**stages, "02_pool": {**stages["02_pool"], "generator": "dit"}}
    assert describe_generation(raw) == paper.GENERATION["dit"]
    small = {"00_prepare": {"dit_size": "", "base_model": "train"}, "01_fine_tune": {"steps": 0, "epochs": 2},
             "02_pool": {"generator": "minimax", "steps": 20, "guidance": 1.5, "precision": "bf16"}}
    assert describe_generation(small) == ("a DiT of its own size trained here, 2 fine-tuning epochs, 20 steps, "
                                          "guidance 1.5, sampled in bf16")
    assert describe_generation({"02_pool": {"generator": "folder"}}) == describe_generation({}) == ""


def test_what_judged_is_named():
    folds = validate("00_prepare", {"classifier": "convnet3", "folds": 3}).model_dump()
    assert scorer_name(folds, {}) == "convnet3, 3 folds"
    given = {"classifier": "resnet50", "classifier_weights": "weights/best.pth"}
    assert scorer_name(given, {"scorers": ["some/where/other"]}) == "resnet50 best.pth + other"
    assert scorer_name(given, {"published_scores": True}) == "published scores"


@pytest.mark.parametrize(("stage", "other", "told"), [
    ("00_prepare", {"autoencoder": "taesd"}, "autoencoder taesd"),
    ("01_fine_tune", {"ema_decay": 0.99}, "ema decay 0.99"),
    ("01_fine_tune", {"weight_diverse": 0.0}, "weight diverse 0.0"),
    ("01_fine_tune", {"precision": "bf16"}, "fine-tuned in bf16"),
    ("02_pool", {"solver": "dpm++"}, "solver dpm++"),
    ("02_pool", {"solver": "ddim", "cache": "taylorseer"}, "solver ddim, cache taylorseer"),
    ("02_pool", {"guidance_interval": [0.0, 0.7]}, "guidance interval [0.0, 0.7]")])
def test_no_published_value_stands_beside_a_pool_that_was_made_in_another_way(stage, other, told):
    """What params/imagewoof.yaml plans is as published; one setting that differs is told, and parts them."""
    nodes = {node.stage: node.params.model_dump() for node in expand(read_experiment(PARAMS / "imagewoof.yaml"))}
    stages = {name: nodes[name] for name in ("00_prepare", "01_fine_tune", "02_pool")}
    assert describe_generation(stages) == paper.GENERATION["minimax"]
    changed = describe_generation({**stages, stage: {**stages[stage], **other}})
    assert changed == f"{paper.GENERATION['minimax']}, {told}"
    assert is_comparable(summarise(runs([40, 42])))
    assert not is_comparable(summarise(runs([40, 42], generation=changed)))
