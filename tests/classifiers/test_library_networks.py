"""Students and teachers of torchvision and timm: built for any classes and size, seeded, resumed, refused early."""

import json
import os
import re
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from small_scorers import FAMILIES, HEAVY, LIGHT
from small_training import NOISE_CLASSES, TEST, TRAIN, noise
from torch import nn

import dgs_utils as dgs
from dgs_utils.classifiers import library_networks
from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.library_networks import check_library_network
from dgs_utils.classifiers.modified_layers import first_convolution
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.classifiers.training import Recipe, train_classifier
from dgs_utils.results.protocol_labels import protocol_label
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.checkpoint import Checkpointer

timm = pytest.importorskip("timm", reason="timm is not installed (extra timm)")

SAMPLE = ["torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1",
          "torchvision:googlenet", "torchvision:efficientnet_b0", "timm:vit_tiny_patch16_224", "timm:test_convnext",
          "timm:test_nfnet", "timm:levit_128", "timm:poolformer_s12", "timm:mobilevit_xxs"]
EVERY = [f"torchvision:{name}" for name in FAMILIES] + [f"timm:{name}" for name in LIGHT + HEAVY]
DRAWS = "torchvision:efficientnet_b0"  # dropout and stochastic depth


def least_size(name: str) -> int:
    """Return the first size among those tried that a network takes."""
    try:
        check_library_network(name, 16)
    except ValueError as error:
        return int(re.search(r"; it takes (\d+);", str(error))[1])
    return 16


@pytest.mark.parametrize("name", EVERY if os.environ.get("DGS_ALL_NETWORKS") else SAMPLE)
def test_one_of_each_family_is_built_and_trained_for_a_step(name):
    size = least_size(name)
    recipe = Recipe(1, 4, 1e-3, evaluations=1)
    evaluator = Evaluator(name, noise(4, size), noise(3, size), recipe, NOISE_CLASSES)
    with torch_seeded("evaluate", "weights", 5):
        before = deepcopy(build_network(name, NOISE_CLASSES, size).state_dict())
    outcome = evaluator.train(5)
    after = evaluator.network.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in after)
    assert outcome.curve["loss"].notna().all()
    assert len(outcome.predictions) == 3
    assert not outcome.compiled


class Interrupted(Checkpointer):
    """Ends a training after so many steps, and then has its state."""

    def __init__(self, after: int):
        super().__init__()
        self.left, self.kept = after, None

    def load(self):
        return self.kept

    def maybe_save(self, state):
        self.left -= 1
        if self.left == 0:
            self.kept = deepcopy(state())
            raise KeyboardInterrupt


def test_dropout_and_stochastic_depth_are_named_draws_and_resume_within_an_epoch():
    evaluator = Evaluator(DRAWS, noise(10, 8), noise(4, 8), Recipe(2, 4, 1e-2, evaluations=2), NOISE_CLASSES)
    state = torch.random.get_rng_state()
    whole = evaluator.train(3)
    assert torch.equal(state, torch.random.get_rng_state())
    weights = deepcopy(evaluator.network.state_dict())
    torch.manual_seed(99)  # what came before does not matter
    stopped = Interrupted(5)  # within the second epoch of three batches
    with pytest.raises(KeyboardInterrupt):
        evaluator.train(3, checkpointer=stopped)
    resumed = evaluator.train(3, checkpointer=stopped)
    assert resumed.curve.equals(whole.curve)
    assert all(torch.equal(value, weights[name]) for name, value in evaluator.network.state_dict().items())
    assert not evaluator.train(4).curve.equals(whole.curve)


def test_draws_differ_from_step_to_step():
    """A dropout that dropped the same every time would be another network."""
    masks = []

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop = nn.Linear(3 * 64, 10), nn.Dropout(0.5)

        def forward(self, x):
            kept = self.drop(x.flatten(1))
            if self.training:
                masks.append((kept == 0).float())
            return self.layer(kept)

    train_classifier(Dropping(), TRAIN, TEST, Recipe(2, 20))
    first = deepcopy(masks)
    assert all(not torch.equal(one, other) for one, other in pairwise(first))
    masks.clear()
    train_classifier(Dropping(), TRAIN, TEST, Recipe(2, 20))
    assert all(map(torch.equal, first, masks))


# ---- First layers ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "kernel", "stride"), [
    ("torchvision:resnet18@small", 3, 1), ("timm:resnet18@small", 3, 1), ("torchvision:densenet121@small", 3, 1),
    ("torchvision:mobilenet_v2@small", 3, 1), ("timm:vit_tiny_patch16_224@small", 4, 4),
    ("timm:test_convnext@small", 1, 1), ("torchvision:swin_t@small", 1, 1)])
def test_a_small_stem_keeps_small_images_large(name, kernel, stride):
    with torch_seeded("test"):
        network = build_network(name, 4, 32)
    layer = first_convolution(network)[1]
    assert (layer.kernel_size, layer.stride) == ((kernel, kernel), (stride, stride))
    assert not any(isinstance(module, nn.MaxPool2d) for module in network.modules())
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(("name", "sentence"), [
    ("timm:mixer_s32_224@small", "its first layer cannot be another, so leave @small out"),
    ("torchvision:vgg11@small", "has a first layer of stride 1 as it is; leave @small out"),
    ("torchvision:vit_b_32@small", "torchvision has no vit_b_32 with other patches; choose one of timm, such"),
    ("torchvision:resnet5", "is no classifier of torchvision; did you mean 'resnet50'"),
    ("timm:vit_tinny_patch16_224", "is no classifier of timm; did you mean 'vit_tiny_patch16_224'"),
    ("timm:resnet50.a1_in1k", "names the weights a1_in1k, but students begin with random ones; give 'timm:resnet50'"),
    ("torchvision:fcn_resnet50", "is no classifier of torchvision")])
def test_names_that_no_library_has_are_refused(name, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        build_network(name, 10, 32)


@pytest.mark.parametrize(("name", "size", "next_size"), [
    ("torchvision:inception_v3", 32, 80), ("torchvision:alexnet", 32, 64), ("torchvision:vit_b_32", 40, 64),
    ("timm:vit_tiny_patch16_224", 8, 16)])
def test_a_size_that_a_network_cannot_take_brings_the_next_that_it_can(name, size, next_size):
    with pytest.raises(ValueError, match=f"{name} cannot be trained on images of {size} pix.*; it takes {next_size}"):
        build_network(name, 10, size)
    check_library_network(name, next_size)


def test_heads_for_training_alone_are_left_out():
    network = build_network("torchvision:googlenet", 4, 64).train()
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 4)


def test_a_network_that_gives_no_logits_is_refused(monkeypatch):
    monkeypatch.setattr(library_networks.architectures, "build", lambda *_, **__: nn.Conv2d(3, 4, 3))
    assert library_networks._refusal("torchvision:resnet34", 16) == "it returns no logits of shape (images, classes)"


@pytest.mark.parametrize("name", ["torchvision:resnet18", "resnet18"])
def test_a_last_batch_of_one_image_is_refused_where_batch_norm_fails(name):
    with pytest.raises(ValueError, match="the last batch of an epoch is 1 of the 40 images, with which the netw"):
        Evaluator(name, TRAIN, TEST, Recipe(1, 13), 10, "batch").train(0)
    Evaluator("convnet3", TRAIN, TEST, Recipe(1, 13), 10, "batch").train(0)  # whose maps have several pixels


def test_compiling_is_refused_with_a_sentence():
    notes = []
    recipe = Recipe(1, 40, compile="on")
    Evaluator("timm:test_convnext@small", TRAIN, TEST, recipe, 10, warn=notes.append).train(0)
    assert notes == ["compile is 'on', but ConvNeXt is no network of this kit and runs as it is; set compile to 'auto'"]


# ---- In rows, and as teachers ----------------------------------------------------------------------------------------

def test_rows_say_whose_network_it_is():
    row = dgs.evaluate_set(TRAIN, TEST, "timm:test_convnext@small", "idc", epochs=1, evaluations=1).iloc[0]
    assert (row["network"], row["norm"]) == ("timm:test_convnext@small", "own")
    conditions = {"split": "imagenet", "epoch_factor": 1, "image_size": 224, "evaluations": 100, "n_test": 500}
    assert protocol_label(dict(row) | conditions | {"ipc": 10}) == "H-A, scaled: network timm:test_convnext@small"


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224@small", "torchvision:googlenet",
                                  "torchvision:shufflenet_v2_x0_5@small"])
def test_a_teacher_of_a_library_is_saved_and_opened_again(tmp_path, name):
    size = 32 if "goog" in name else 8
    images = TRAIN if size == 8 else dgs.ImageTensors(TRAIN.images.repeat_interleave(4, 2).repeat_interleave(4, 3),
                                                      TRAIN.labels)
    scorer, _ = dgs.train_scorer(images, images, name, size, epochs=1, protocol="rded")
    scorer.save(tmp_path / "scorer")
    opened = load_classifier(tmp_path / "scorer")
    assert torch.equal(opened(images.images), scorer(images.images))
    assert opened.config == scorer.config
    described = json.loads((tmp_path / "scorer" / "config.json").read_text())
    assert described["network"] == name.removesuffix("@small")
