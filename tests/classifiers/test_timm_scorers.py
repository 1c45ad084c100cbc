"""Scorers of timm: its own networks, transforms, tags, folders and names of outputs."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_scorers import HEAVY, LIGHT, photographs, weights_for

from dgs_utils.classifiers import scorer as classifiers
from dgs_utils.classifiers.preprocessing import timm_transform
from dgs_utils.classifiers.pretrained import open_scorer, pretrained
from dgs_utils.images.pixels import load_rgb
from dgs_utils.runtime.seeds import numpy_rng

timm = pytest.importorskip("timm", reason="timm is not installed (extra timm)")

def state_of(network) -> dict:
    """Give a network random weights, and return them."""
    state = weights_for(network)
    network.load_state_dict(state)
    return state


@pytest.mark.slow  # a minute: a network of each of a hundred families
@pytest.mark.parametrize("name", LIGHT)
def test_one_of_each_family_is_the_same_by_file_and_reopened(tmp_path, name):
    theirs = timm.create_model(name, num_classes=5).eval()
    save_file(state_of(theirs), tmp_path / "w.safetensors")
    scorer = pretrained(f"timm:{name}", str(tmp_path / "w.safetensors"), warn=lambda _: None)
    scorer.save(tmp_path / "scorer")
    again = classifiers.load_classifier(tmp_path / "scorer")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    [path] = photographs(tmp_path)[:1]
    assert torch.equal(scorer.normalise(scorer.read(path)[None])[0], transform(load_rgb(path)))
    with torch.inference_mode():
        expected = theirs(transform(load_rgb(path))[None])
        assert expected.shape == (1, 5)
        for found in (scorer, again):
            assert torch.equal(found(found.read(path)[None]), expected)
        assert scorer.features(scorer.read(path)[None]).shape[0] == 1


@pytest.mark.slow  # as above
@pytest.mark.parametrize("name", HEAVY)
def test_large_families_are_built_with_the_same_layers(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=5)
    config = classifiers.ClassifierConfig(f"timm:{name}", 5, timm_transform(theirs.pretrained_cfg))
    with torch.device("meta"):
        ours = classifiers.build_from_config(config)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()}


@pytest.mark.parametrize("values", [
    {}, {"crop_mode": "squash", "crop_pct": 0.9}, {"crop_mode": "border", "crop_pct": 1.0},
    {"input_size": (3, 160, 96)}, {"crop_pct": 1.1, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}])
def test_prepared_images_are_timms_own_to_the_bit_in_every_mode(tmp_path, values):
    data = timm.data.resolve_data_config(pretrained_cfg=values | {"num_classes": 1})
    config = classifiers.ClassifierConfig("timm:test_resnet", 1, timm_transform(values | {"num_classes": 1}))
    scorer = classifiers.Classifier(classifiers.build_from_config(config), config)
    scorer.save(tmp_path / "scorer")
    for path in photographs(tmp_path):
        expected = timm.data.create_transform(**data)(load_rgb(path))
        for found in (scorer, classifiers.load_classifier(tmp_path / "scorer")):
            assert torch.equal(found.normalise(found.read(path)[None])[0], expected)


def test_a_tag_after_a_file_or_in_a_name_says_the_transform(tmp_path):
    save_file(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "w.safetensors")
    file, notes = f"{tmp_path}/w.safetensors", []
    for name, weights, tag in (("resnet18", f"{file}@tv_in1k", "tv_in1k"), ("resnet18.fb_ssl_yfcc100m_ft_in1k", file,
                                                                            "fb_ssl_yfcc100m_ft_in1k")):
        scorer = pretrained(f"timm:{name}", weights, warn=notes.append)
        theirs = timm.models.get_pretrained_cfg(f"resnet18.{tag}").to_dict()
        assert scorer.config.transform == timm_transform(theirs)
        assert scorer.config.network == f"timm:resnet18.{tag}"
    pretrained("timm:resnet18", file, warn=notes.append)
    assert len(notes) == 2  # of the file whose network alone was named
    assert "; others are that of " in notes[1]
    url = timm.models.get_pretrained_cfg("resnet18.a2_in1k").url.rpartition("/")[2]
    (tmp_path / "w.safetensors").rename(tmp_path / url.replace(".pth", ".safetensors"))
    scorer = open_scorer(f"timm:resnet18:{tmp_path}/{url.replace('.pth', '.safetensors')}", warn=notes.append)
    assert scorer.config.network == "timm:resnet18.a2_in1k"
    assert len(notes) == 2


def test_a_size_is_the_users_or_the_transforms(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"timm:vit_tiny_patch16_224\S* sees 224 pixels and cannot take 96"):
        pretrained("timm:vit_tiny_patch16_224", str(tmp_path / "w.safetensors"), 96, lambda _: None)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "w.safetensors")
    scorer = pretrained("timm:test_resnet", str(tmp_path / "w.safetensors"), 96, lambda _: None)
    assert scorer.config.transform.data["input_size"] == [3, 96, 96]
    assert scorer.read(photographs(tmp_path)[0]).shape == (3, 96, 96)


# ---- Folders ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_timm_is_read_as_timm_reads_it(tmp_path, safe):
    theirs = timm.create_model("test_vit", num_classes=3, img_size=96).eval()
    state_of(theirs)
    config = {"label_names": ["cat", "dog", "emu"], "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "crop_mode": "squash"}}
    timm.models.save_for_hf(theirs, tmp_path / "timm", model_config=config, safe_serialization=safe)
    again = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    scorer = open_scorer(str(tmp_path / "timm"))
    scorer.save(tmp_path / "ours")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(again))
    for path in photographs(tmp_path):
        with torch.inference_mode():
            expected = again(transform(load_rgb(path))[None])
            for found in (scorer, classifiers.load_classifier(tmp_path / "ours")):
                assert torch.equal(found(found.read(path)[None]), expected)
    assert scorer.config.classes == ("cat", "dog", "emu")
    assert scorer.config.transform.mean == (0.4, 0.5, 0.6)
    weights = "model.safetensors" if safe else "pytorch_model.bin"
    assert pretrained("timm:test_vit", str(tmp_path / "timm" / weights)).config == scorer.config


def test_folders_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"],
                                                      "model_type": "vit"}))
    with pytest.raises(ValueError, match=r"is a classifier of the library transformers \(vit\), which is not read"):
        open_scorer(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 3}))
    with pytest.raises(ValueError, match=r"has config\.json and no weights; add model\.safetensors or"):
        open_scorer(str(tmp_path))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit timm:test_resnet: it lacks conv1\.0\.weight"):
        open_scorer(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "no_such_network", "num_classes": 3}))
    with pytest.raises(ValueError, match=r"describes no classifier that timm .* can build"):
        open_scorer(str(tmp_path))


def test_weights_by_the_names_of_their_authors_are_read_by_timm_itself(tmp_path):
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3).eval()
    old = {re.sub(r"layers.(\d).downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name).replace(
        "head.fc.", "head."): value for name, value in state_of(theirs).items()}
    save_file(old, tmp_path / "w.safetensors")
    scorer = pretrained("timm:swin_tiny_patch4_window7_224", str(tmp_path / "w.safetensors"), warn=lambda _: None)
    pixels = torch.from_numpy(numpy_rng("pixels").integers(0, 256, (1, 3, 224, 224), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(scorer(pixels), theirs(scorer.normalise(pixels)))


@pytest.mark.parametrize(("name", "side"), [
    ("vit_tiny_patch16_224", 64), ("deit_tiny_distilled_patch16_224", 64),
    ("eva02_tiny_patch14_224", 56), ("levit_128", 64), ("pit_ti_224", 64)])
def test_a_transformer_is_built_for_the_images_of_its_weights_and_not_stretched(tmp_path, name, side):
    theirs = timm.create_model(name, num_classes=3, img_size=side).eval()
    save_file(state_of(theirs), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"images of another size than 224, set prepare\.classifier_size to that"):
        pretrained(f"timm:{name}", str(tmp_path / "w.safetensors"), warn=lambda _: None)
    scorer = pretrained(f"timm:{name}", str(tmp_path / "w.safetensors"), side, warn=lambda _: None)
    assert scorer.config.crop == side
    pixels = torch.from_numpy(numpy_rng("pixels").integers(0, 256, (1, 3, side, side), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(scorer(pixels), theirs(scorer.normalise(pixels)))


def test_tags_are_timms(tmp_path):
    with pytest.raises(ValueError, match=r"no classifier of timm, whose resnet18 has no tag a9_in1k; did you mean 'a"):
        open_scorer("timm:resnet18.a9_in1k:pretrained")
    save_file(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "w.safetensors")
    for tag in ("tv_in1k", "resnet18.tv_in1k"):
        scorer = open_scorer(f"timm:resnet18:{tmp_path}/w.safetensors@{tag}")
        assert scorer.config.network == "timm:resnet18.tv_in1k"


def test_a_folder_without_a_size_is_read_as_timm_reads_it(tmp_path):
    theirs = timm.create_model("test_vit", num_classes=3)
    save_file(state_of(theirs), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 3,
                                                      "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    again, scorer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), open_scorer(str(tmp_path))
    side = scorer.config.crop
    pixels = torch.from_numpy(numpy_rng("pixels").integers(0, 256, (1, 3, side, side), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(scorer(pixels), again(scorer.normalise(pixels)))
