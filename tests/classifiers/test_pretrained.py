"""Scorers of torchvision: the library's own network and transform, by name, by file, saved and opened again."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small_scorers import FAMILIES, photographs, unfilled, weights_for
from torch import nn

from dgs_utils.classifiers import scorer as classifiers
from dgs_utils.classifiers.architectures import TORCHVISION, build, input_error
from dgs_utils.classifiers.pretrained import open_scorer, pretrained
from dgs_utils.classifiers.published_weights import identify_file, list_published
from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.pixels import load_rgb
from dgs_utils.runtime.seeds import numpy_rng

NAMES = torchvision.models.list_models(module=torchvision.models)
ENTRIES = [(name, entry) for name in NAMES for entry in torchvision.models.get_model_weights(name)]
TRIED = NAMES if os.environ.get("DGS_ALL_NETWORKS") else FAMILIES  # all 80 take a quarter of an hour and 8 GB
SMALL = "shufflenet_v2_x0_5"


def first_entry(name: str):
    return next(iter(torchvision.models.get_model_weights(name)))


def published(name: str, entry, folder: Path) -> Path:
    """Write random weights as the published file of an entry, where torchvision looks for what it has downloaded."""
    more = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit_"):
        more = {"image_size": entry.meta["min_size"][0]}
    with unfilled():
        network = torchvision.models.get_model(name, weights=None, **more)
    path = folder / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights_for(network, name), path)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    yield tmp_path
    shutil.rmtree(tmp_path)  # half a gigabyte a network


@pytest.mark.slow  # half a minute: one network of each of torchvision's families
@pytest.mark.parametrize("name", TRIED)
def test_one_of_each_family_is_the_same_by_name_by_file_and_reopened(hub, name):
    entry = first_entry(name)
    fixed = name.startswith(("vit_", "maxvit_"))  # they take images of one size
    side = entry.meta["min_size"][0] if fixed else 75 if name == "inception_v3" else 64
    pixels = torch.from_numpy(numpy_rng("pixels").integers(0, 256, (1, 3, side, side), dtype=np.uint8))
    path, notes = published(name, entry, hub), []
    with unfilled():
        theirs = torchvision.models.get_model(name, weights=entry).eval()
        by_name, by_file = pretrained(name, entry.name), pretrained(name, str(path), warn=notes.append)
        by_file.save(hub / "scorer")
        reopened = classifiers.load_classifier(hub / "scorer")
    with torch.inference_mode():
        expected = theirs(by_name.normalise(pixels))
        for scorer in (by_name, by_file, reopened):
            assert torch.equal(scorer(pixels), expected)
            assert scorer.config == by_name.config
        assert by_name.features(pixels).ndim == 2
    assert expected.std() > 0
    assert not notes
    assert by_name.config.classes == tuple(imagenet_names())


def built_for(entry, name: str, monkeypatch) -> nn.Module:
    """Return what torchvision builds for weights, without any."""
    with monkeypatch.context() as context, unfilled():
        context.setattr(type(entry), "get_state_dict", lambda *_, **__: {})
        context.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = torchvision.models.get_model(name, weights=entry).eval()
    if name in ("googlenet", "inception_v3"):  # a scorer has no heads that training alone needs
        network.aux_logits, network.AuxLogits = False, None
        network = network.eval()
    return network


def plan_of(network: nn.Module) -> list:
    """Return all that a network is but for the values of its weights: modules, their attributes, shapes."""
    modules = [(name, type(module), {key: value for key, value in vars(module).items() if isinstance(
        value, int | float | str | tuple | list)}) for name, module in network.named_modules()]
    return [modules, [(key, value.shape, value.dtype) for key, value in network.state_dict().items()]]


@pytest.mark.slow  # half a minute: all that torchvision has
@pytest.mark.parametrize("name", NAMES)
def test_every_classifier_of_torchvision_is_built_as_the_library_builds_it_for_its_weights(monkeypatch, name):
    assert set(FAMILIES) <= set(NAMES)
    tags = {str(tag.arguments): tag for tag in list_published(TORCHVISION + name)}  # one of each way to build it
    for tag in tags.values():
        with unfilled():
            ours = classifiers.build_from_config(classifiers.ClassifierConfig(
                tag.network, 1000, tag.transform, arguments=tag.arguments))
        theirs = built_for(torchvision.models.get_model_weights(name)[tag.name], name, monkeypatch)
        assert plan_of(ours) == plan_of(theirs)


def test_attributes_that_are_no_weights_are_kept(hub):
    for name, size in (("inception_v3", 128), ("googlenet", 96)):
        entry = first_entry(name)
        path = published(name, entry, hub)
        assert torchvision.models.get_model(name, weights=entry).transform_input
        for weights in (str(path), entry.name):
            scorer = pretrained(name, weights, size)
            assert scorer.network.transform_input
            scorer.save(hub / name)
            assert classifiers.load_classifier(hub / name).network.transform_input


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=lambda value: getattr(value, "name", value))
def test_a_published_file_has_the_transform_of_its_entry(tmp_path, name, entry):
    tags, file = list_published(TORCHVISION + name), entry.url.rpartition("/")[2]
    found = identify_file(tmp_path / file, tags)
    assert found.name == entry.name
    assert identify_file(tmp_path / f"copy of {file.replace('.pth', '')} (1).safetensors", tags) == found
    preset, transform = entry.transforms(), found.transform
    assert ([transform.resize], [transform.crop]) == (preset.resize_size, preset.crop_size)
    assert (list(transform.mean), list(transform.std)) == (preset.mean, preset.std)
    assert transform.interpolation == preset.interpolation.value
    assert preset.antialias


def test_prepared_images_are_the_librarys_own_to_the_bit(tmp_path):
    network, presets = nn.Linear(1, 1), {}
    for name, entry in ENTRIES:
        presets.setdefault(str(entry.transforms()), (name, entry))
    for name, entry in presets.values():
        [tag] = [tag for tag in list_published(TORCHVISION + name) if tag.name == entry.name]
        scorer = classifiers.Classifier(network, classifiers.ClassifierConfig(tag.network, 1000, tag.transform))
        for path in photographs(tmp_path):
            found = scorer.normalise(scorer.read(path)[None])[0]
            assert torch.equal(found, entry.transforms()(load_rgb(path)))
    assert len(presets) > 20


# ---- Files -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def resnet() -> nn.Module:
    return torchvision.models.resnet18(weights=None, num_classes=4).eval()


def opened(network: nn.Module, folder: Path, name: str = "resnet18", size: int = 64, **state):
    save_file(network.state_dict() | state, folder / "w.safetensors")
    notes: list[str] = []
    scorer = pretrained(name, str(folder / "w.safetensors"), size, notes.append)
    pixels = torch.randint(0, 256, (2, len(scorer.config.transform.mean), 64, 64), dtype=torch.uint8)
    scorer.save(folder / "again")
    assert torch.equal(classifiers.load_classifier(folder / "again")(pixels), scorer(pixels))
    return scorer, notes, pixels


def test_an_unprefixed_name_with_weights_is_torchvisions_unless_the_weights_are_ours(tmp_path, resnet):
    scorer, [note], pixels = opened(resnet, tmp_path)
    assert torch.equal(scorer(pixels), resnet(scorer.normalise(pixels)))
    assert scorer.config.network == "torchvision:resnet18"
    assert "none of the files that are published for torchvision:resnet18" in note
    assert "taken: that of IMAGENET1K_V1 (resize 73, crop 64, bilinear" in note or "resize 256" in note
    ours = build("dgs:resnet18", 3, 32, "instance")
    for name in ("resnet18", "dgs:resnet18"):
        scorer, notes, pixels = opened(ours, tmp_path, name, 32)
        assert (scorer.config.network, scorer.config.num_classes, scorer.config.norm) == ("dgs:resnet18", 3, "instance")
        assert not notes
    with pytest.raises(ValueError, match="holds weights of dgs:resnet18, and not for images of how many pixels; set"):
        opened(ours, tmp_path, size=0)
    with pytest.raises(ValueError, match="has the unknown blocks"):
        opened(ours, tmp_path, "torchvision:resnet18")
    with pytest.raises(ValueError, match="dgs:convnet3 is a network of this kit, which has no published weights"):
        pretrained("dgs:convnet3", "IMAGENET1K_V1")


def test_a_file_says_by_whose_transform_it_was_trained_or_that_nothing_tells(tmp_path):
    network = torchvision.models.mobilenet_v2(weights=None)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    notes: list[str] = []
    found = {text: pretrained("mobilenet_v2", f"{tmp_path}/w.safetensors{text}", warn=notes.append).config.transform
             for text in ("@IMAGENET1K_V1", "@IMAGENET1K_V2", "")}
    assert [transform.resize for transform in found.values()] == [256, 232, 256]
    [note] = notes
    assert "taken: that of IMAGENET1K_V1 (resize 256, crop 224, bilinear" in note
    assert "others are that of IMAGENET1K_V2 (resize 232, crop 224, bilinear" in note
    with pytest.raises(ValueError, match="mobilenet_v2 has no weights 'V9'; choose one of IMAGENET1K_V1, IM"):
        pretrained("mobilenet_v2", f"{tmp_path}/w.safetensors@V9")


def test_a_published_file_is_known_by_its_content_under_any_name(tmp_path):
    (tmp_path / "renamed.pth").write_bytes(b"some weights")
    tags = list_published(TORCHVISION + SMALL)
    assert identify_file(tmp_path / "renamed.pth", tags) is None
    digest = hashlib.sha256(b"some weights").hexdigest()[:8]
    [mine] = [replace(tag, url=f"https://models.example/shuffle-{digest}.pth") for tag in tags]
    assert identify_file(tmp_path / "renamed.pth", [mine]) == mine


# ---- Stems and heads -------------------------------------------------------------------------------------------------

def test_exchanged_heads_are_read(tmp_path, resnet):
    resnet.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 4)).eval()
    scorer, _, pixels = opened(resnet, tmp_path)
    assert torch.equal(scorer(pixels), resnet(scorer.normalise(pixels)))
    network = torchvision.models.mobilenet_v3_small(weights=None).eval()
    network.classifier = nn.Linear(576, 4)
    scorer, _, pixels = opened(network, tmp_path, "mobilenet_v3_small")
    assert torch.equal(scorer(pixels), network(scorer.normalise(pixels)))
    assert scorer.config.head == "classifier"


def test_one_output_is_the_log_odds_of_two_classes(tmp_path, resnet):
    resnet.fc = nn.Linear(512, 1)
    scorer, notes, pixels = opened(resnet, tmp_path)
    assert scorer.config.num_classes == 2
    assert "has one output; taken: the log-odds (before the sigmoid) of class 1 against class 0" in notes[0]
    torch.testing.assert_close(scorer(pixels).softmax(1)[:, 1], resnet(scorer.normalise(pixels)).sigmoid()[:, 0])


def test_grey_images_and_small_stems_are_read(tmp_path, resnet):
    resnet.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    scorer, notes, pixels = opened(resnet, tmp_path)
    assert torch.equal(scorer(pixels), resnet(scorer.normalise(pixels)))
    assert "takes grey images; taken: the mean 0.449 and std 0.226" in notes[0]
    for path in photographs(tmp_path)[:2]:
        assert scorer.read(path).shape == (1, 64, 64)
    resnet.conv1, resnet.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    scorer, notes, pixels = opened(resnet, tmp_path, size=0)
    assert torch.equal(scorer(pixels), resnet(scorer.normalise(pixels)))
    assert scorer.config.crop == scorer.config.transform.resize == 32
    assert "stride 1, no max pool after it, and images of 32 pixels, which weights do not record" in notes[0]
    (tmp_path / "w.json").write_text(json.dumps({"stem": {"max_pool": True}, "resize": 48, "crop": 48}))
    resnet.maxpool = nn.MaxPool2d(3, 2, 1)
    scorer, notes, pixels = opened(resnet, tmp_path, size=0)
    assert torch.equal(scorer(pixels), resnet(scorer.normalise(pixels)))
    assert scorer.config.crop == 48


def test_what_cannot_be_read_says_which_layer_differs_and_how(tmp_path, resnet):
    resnet.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match=r"has several layers where the network has fc \(fc\.0\.weight of 8×512, "
                                         r"fc\.2\.weight of 4×8\), and no file of weights holds what comes between"):
        opened(resnet, tmp_path)
    wide = torchvision.models.resnet34(weights=None, num_classes=4)
    with pytest.raises(ValueError, match=r"does not fit torchvision:resnet18: it has the unknown layer1\.2\.bn1.* and"):
        opened(wide, tmp_path)
    wide = torchvision.models.wide_resnet50_2(weights=None, num_classes=4)
    with pytest.raises(ValueError, match=r"fit torchvision:resnet50: it has layer1\.0\.conv1\.weight of 128×64×1×1, "
                                         r"where the network has 64×64×1×1 and"):
        opened(wide, tmp_path, "resnet50")


# ---- Sizes -----------------------------------------------------------------------------------------------------------

def test_a_size_that_a_network_cannot_take_is_told_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    for name, weights, size, sentence in (
            ("vit_b_16", "IMAGENET1K_V1", 160, "sees 224 pixels and cannot take 160 "),
            ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 224, "sees 384 pixels and cannot take 224 "),
            ("maxvit_t", "IMAGENET1K_V1", 160, "sees 224 pixels and cannot take 160 "),
            ("densenet121", "IMAGENET1K_V1", 16, "sees 224 pixels and cannot take 16 ")):
        with pytest.raises(ValueError, match=f"torchvision:{name} {sentence}.*set prepare.classifier_size to 0 or"):
            pretrained(name, weights, size)


def test_every_transformer_takes_the_size_of_each_of_its_weights():
    for name in ("vit_b_16", "vit_b_32", "maxvit_t", "swin_v2_t"):
        for tag in list_published(TORCHVISION + name):
            side = tag.transform.crop
            assert input_error(build(tag.network, 5, **tag.arguments), (3, side, side)) == ""


def test_a_scorer_is_opened_by_one_string_with_any_librarys_name(tmp_path, resnet):
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    for text in (f"resnet18:{tmp_path}/w.pth@IMAGENET1K_V1", f"torchvision:resnet18:{tmp_path}/w.pth@IMAGENET1K_V1"):
        assert open_scorer(text).config.crop == 224
        assert open_scorer(text, 64).config.transform.resize == 73


def test_weights_go_by_all_names_that_their_library_takes(tmp_path, hub):
    with unfilled():
        torch.save(weights_for(torchvision.models.resnet50(num_classes=3)), tmp_path / "w.pth")
    for asked, resize in (("DEFAULT", 232), ("ResNet50_Weights.IMAGENET1K_V1", 256), ("ResNet50_Weights.DEFAULT", 232)):
        scorer = open_scorer(f"resnet50:{tmp_path}/w.pth@{asked}")
        assert scorer.config.transform.resize == resize
    with pytest.raises(ValueError, match=r"has no weights 'ResNet18_Weights\.IMAGENET1K_V1'; choose one of IMA"):
        open_scorer("resnet50:ResNet18_Weights.IMAGENET1K_V1")
    published(SMALL, first_entry(SMALL), hub)
    for asked in ("DEFAULT", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"):
        assert open_scorer(f"{SMALL}:{asked}").config == open_scorer(f"{SMALL}:IMAGENET1K_V1").config


def test_a_transformer_is_built_for_the_images_of_its_weights(tmp_path):
    theirs = torchvision.models.VisionTransformer(64, 32, 12, 12, 768, 3072, num_classes=3).eval()
    theirs.load_state_dict(weights_for(theirs))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    pixels = torch.from_numpy(numpy_rng("pixels").integers(0, 256, (1, 3, 64, 64), dtype=np.uint8))
    for weights, notes in (("w.pth@DEFAULT", 0), ("w.pth", 1)):
        told: list[str] = []
        scorer = pretrained("vit_b_32", f"{tmp_path}/{weights}", 64, told.append)
        assert len(told) == notes
        assert (scorer.config.transform.resize, scorer.config.crop) == (73, 64)
        with torch.inference_mode():
            assert torch.equal(scorer(pixels), theirs(scorer.normalise(pixels)))
        with pytest.raises(ValueError, match=r"images of another size than 224, set prepare\.classifier_size"):
            pretrained("vit_b_32", f"{tmp_path}/{weights}", 224 * notes, lambda _: None)


def test_a_file_with_numbers_and_an_average_beside_the_weights_is_read(tmp_path, resnet):
    counts = {"epoch": torch.tensor(3), "best": torch.tensor(0.5), "rate": torch.tensor(0.1)}
    average = {key: value * 0 for key, value in resnet.state_dict().items()}
    torch.save(counts | {"state_dict": resnet.state_dict(), "state_dict_ema": average}, tmp_path / "w.pth")
    notes: list[str] = []
    scorer = pretrained("resnet18", f"{tmp_path}/w.pth@DEFAULT", 64, notes.append)
    assert torch.equal(scorer.network.fc.weight, resnet.fc.weight)
    assert "under state_dict/, which is stripped; another under 'state_dict_ema/' is left out" in notes[0]


def test_a_place_on_a_hub_is_told_what_to_give_instead():
    for text, sentence in (("hf-hub:timm/resnet18.a1_in1k", "give it as timm:resnet18.a1_in1k with the weights pretr"),
                           ("timm:hf_hub:me/mine:x", "'hf download me/mine --local-dir DIR', and give DIR")):
        with pytest.raises(ValueError, match=sentence):
            open_scorer(text)


@pytest.mark.parametrize("changed", [{"num_classes": "3"}, {"arguments": None}, {"stem": "x"}, {"transform": {}},
                                     {"network": "timm:nope"}, {"transform": {"library": "timm"}}])
def test_a_description_that_somebody_changed_is_told(tmp_path, changed):
    config = classifiers.ClassifierConfig("torchvision:squeezenet1_1", 3,
                                          list_published("torchvision:resnet18")[0].transform)
    classifiers.Classifier(classifiers.build_from_config(config), config).save(tmp_path / "s")
    values = json.loads((tmp_path / "s" / "config.json").read_text())
    (tmp_path / "s" / "config.json").write_text(json.dumps(values | changed))
    with pytest.raises(ValueError, match=r"config\.json (describes no classifier|does not describe a classif)"):
        open_scorer(str(tmp_path / "s"))
