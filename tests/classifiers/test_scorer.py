"""Scorers: preprocessing, weights from files, features, TensorFlow's padding, and folders of stage 00."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from small_world import open_stage, small_classifier, write_digits
from torchvision.transforms import v2
from unsafe_pickle import MakesFile

from dgs_utils.classifiers import scorer as classifiers
from dgs_utils.classifiers.architectures import timm_class_names
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.pretrained import open_scorer, pretrained
from dgs_utils.classifiers.scorer import ClassifierConfig
from dgs_utils.difficulty import score_images
from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.prepare import difficulty_classifier
from dgs_utils.runtime.seeds import numpy_rng


@pytest.fixture(scope="module")
def squeezed():
    """A small torchvision network with random weights and its state."""
    torch.manual_seed(0)
    return torchvision.models.get_model("mobilenet_v3_small", weights=None, num_classes=7).eval()


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_weights_from_a_local_file(tmp_path, squeezed, image, suffix):
    path, state = tmp_path / f"weights{suffix}", squeezed.state_dict()
    if suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    elif suffix == ".pth":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        save_file(state, path)
    scorer = pretrained("mobilenet_v3_small", str(path), size=64)
    assert scorer.config.num_classes == 7
    published = v2.Compose([v2.Resize(73), v2.CenterCrop(64), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    expected = squeezed(published(image)[None])
    torch.testing.assert_close(scorer(scorer.prepare(image)[None]), expected, rtol=1e-4, atol=1e-5)


def test_preprocessing_beside_the_file_wins(tmp_path, squeezed):
    save_file(squeezed.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps({"resize": 48, "crop": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    scorer = pretrained("mobilenet_v3_small", str(tmp_path / "w.safetensors"), size=64)
    assert scorer.config.transform == ResizeCrop(48, 48, (0, 0, 0), (1, 1, 1))
    white = torch.full((1, 3, 48, 48), 255, dtype=torch.uint8)
    torch.testing.assert_close(scorer.normalise(white), torch.ones(1, 3, 48, 48))
    (tmp_path / "w.json").write_text(json.dumps({"resise": 48}))
    with pytest.raises(ValueError, match="resise is unknown; did you mean 'resize'"):
        pretrained("mobilenet_v3_small", str(tmp_path / "w.safetensors"))


def test_saved_classifier_comes_back_the_same(tmp_path):
    scorer = small_classifier(steps=3)
    scorer.save(tmp_path / "classifier")
    again = open_scorer(str(tmp_path / "classifier"))
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert again.config == scorer.config
    torch.testing.assert_close(again(pixels), scorer(pixels))
    torch.testing.assert_close(again.network.classify(again.features(pixels)), scorer(pixels))


def test_features_are_what_the_last_layer_sees(tmp_path, squeezed):
    save_file(squeezed.state_dict(), tmp_path / "w.safetensors")
    scorer = pretrained("mobilenet_v3_small", str(tmp_path / "w.safetensors"), size=64)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    last = scorer.network.classifier[-1]
    torch.testing.assert_close(last(scorer.features(pixels)), scorer(pixels))


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("kernel", [3, 5])
def test_tensorflow_padding_is_tensorflows_same_rule(size, kernel):
    convolution = torch.nn.Conv2d(1, 1, kernel, stride=2, padding=kernel // 2, bias=False)
    torch.nn.init.ones_(convolution.weight)
    config = ClassifierConfig("torchvision:resnet18", 1, ResizeCrop(size, size), tensorflow_padding=True)
    scorer = classifiers.Classifier(torch.nn.Sequential(convolution), config)
    x = torch.arange(float(size * size)).view(1, 1, size, size)
    outputs = -(-size // 2)
    before = max((outputs - 1) * 2 + kernel - size, 0) // 2
    found = scorer.network(x)
    assert found.shape[-1] == outputs
    first = x[0, 0, : kernel - before, : kernel - before].sum()  # the window that starts `before` outside the image
    assert found[0, 0, 0, 0] == first


def test_real_mobilenet_recognises_real_dogs(shared_data):
    import io
    import zipfile

    from dgs_utils.params.subsets import SUBSETS

    scorer = pretrained("mobilenet_v2", str(shared_data / "weights" / "mobilenet_v2_imagenet1k.npz"), 160)
    assert scorer.config.tensorflow_padding
    assert scorer.config.transform == ResizeCrop(183, 160, (0.5,) * 3, (0.5,) * 3)
    index = {wnid: i for wnid, i, _ in SUBSETS["imagewoof"]}
    with zipfile.ZipFile(shared_data / "imagewoof128" / "val.zip") as archive:
        names = archive.namelist()[::100]
        pixels = torch.stack([scorer.prepare(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    with torch.inference_mode():
        found = scorer(pixels)
    truth = torch.tensor([index[n.split("/")[1]] for n in names])
    columns = torch.tensor(list(index.values()))
    assert (columns[found[:, columns].argmax(dim=1)] == truth).float().mean() > 0.7  # chance: 0.1
    assert scorer.features(pixels[:2]).shape == (2, 1280)
    symmetric = classifiers.build_from_config(scorer.config).eval()
    symmetric.load_state_dict(scorer.network.state_dict())
    assert not torch.allclose(symmetric(scorer.normalise(pixels[:1])), scorer(pixels[:1]), atol=0.1)


def test_bad_requests_are_named(tmp_path, squeezed):
    state = squeezed.state_dict()
    with pytest.raises(ValueError, match="'resnet5' is no classifier of torchvision; did you mean"):
        pretrained("resnet5", "IMAGENET1K_V1")
    with pytest.raises(ValueError, match="no weights 'V9'; choose one of IMAGENET1K_V1"):
        pretrained("resnet50", "V9")
    with pytest.raises(ValueError, match="does not exist"):
        pretrained("resnet50", str(tmp_path / "none.pth"))
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.pth cannot be read as weights"):
        pretrained("resnet50", str(tmp_path / "broken.pth"))
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match="has the unknown more"):
        pretrained("mobilenet_v3_small", str(tmp_path / "more.safetensors"))
    state.pop("features.0.0.weight")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"lacks features\.0\.0\.weight"):
        pretrained("mobilenet_v3_small", str(tmp_path / "less.safetensors"))
    with pytest.raises(ValueError, match="holds no classifier"):
        classifiers.load_classifier(tmp_path)
    with pytest.raises(ValueError, match="names no classifier"):
        open_scorer("resnet50")


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"fc.weight": MakesFile(tmp_path / "trace")}, tmp_path / "code.pth")
    np.savez(tmp_path / "code.npz", **{"fc.weight": np.array([MakesFile(tmp_path / "trace")], dtype=object)})
    for name in ("code.pth", "code.npz"):
        with pytest.raises(ValueError, match=f"{tmp_path}/{name} (holds an object of|cannot be read as weights)"):
            pretrained("resnet18", str(tmp_path / name))
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "code.pth", weights_only=False)  # it would have been
    assert (tmp_path / "trace").exists()


def test_without_a_network_the_command_that_brings_the_weights_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ValueError, match=r"the weights IMAGENET1K_V1 of resnet50 could not be downloaded \(.*\); fetch "
                                         r"them with 'curl -LO https://download.pytorch.org/models/resnet50-0676ba61"
                                         r".pth', .* set prepare.classifier_weights to the path of resnet50-0676ba61"):
        pretrained("resnet50", "IMAGENET1K_V1")


def test_damaged_classifier_folders_are_told(tmp_path):
    for damage, sentence in ((Path.unlink, "model.safetensors cannot be read"),
                             (lambda path: path.write_bytes(b"x"), "model.safetensors cannot be read"),
                             (lambda path: save_file({"x": torch.zeros(1)}, path), "does not fit dgs:.*: it lacks")):
        small_classifier(steps=3).save(tmp_path / "classifier")
        damage(tmp_path / "classifier" / "model.safetensors")
        with pytest.raises(ValueError, match=sentence):
            classifiers.load_classifier(tmp_path / "classifier")


# ---- Scorers of timm and of an earlier stage 00 ----------------------------------------------------------------------

def unpacked(archive, folder):
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder)
    return folder


@pytest.fixture
def lite0(shared_data):
    pytest.importorskip("timm", reason="timm is not installed (extra timm)")
    return pretrained("timm:tf_efficientnet_lite0",
                                  str(shared_data / "weights" / "efficientnet_lite0_imagenet1k.safetensors"))


def test_timm_tells_how_its_images_are_prepared(lite0):
    transform = lite0.config.transform
    assert (transform.crop, transform.data["crop_pct"], transform.data["interpolation"]) == (224, 0.875, "bicubic")
    assert transform.mean == transform.std == (0.5, 0.5, 0.5)
    image = Image.fromarray(numpy_rng("timm").integers(0, 256, (300, 400, 3), dtype=np.uint8))
    expected = image.resize((341, 256), Image.Resampling.BICUBIC).crop((58, 16, 282, 240))
    np.testing.assert_array_equal(lite0.prepare(image).permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_timm_scorer_recognises_real_dogs_and_survives_its_folder(lite0, shared_data, tmp_path):
    images = ImageSet.read(unpacked(shared_data / "imagewoof320-sample" / "sample.zip", tmp_path) / "val")
    index = {wnid: index for wnid, index, _ in SUBSETS["imagewoof"]}
    outputs = [index[name] for name in images.classes]
    scores = score_images(images, lite0, outputs, device="cpu")
    assert (scores["prediction"] == np.array(outputs)[images.labels]).mean() > 0.6  # of 1,000 classes; 77 % of 500
    lite0.save(tmp_path / "scorer")
    again = score_images(images, classifiers.load_classifier(tmp_path / "scorer"), outputs, device="cpu")
    np.testing.assert_allclose(again["score"], scores["score"], atol=1e-6)


def test_a_scorer_of_an_earlier_stage_scores_strangers_pools_as_published(shared_data, tmp_path):
    scorer = classifiers.load_classifier(shared_data / "weights" / "cifar10_resnet_ap10")
    pool = ImageSet.read(unpacked(shared_data / "cifar10-pools" / "SNGAN-conditional.zip", tmp_path))
    scores = score_images(pool, scorer, device="cpu")
    assert len(scores) == 1000
    assert (scores["prediction"] == pool.labels).mean() == pytest.approx(0.842, abs=0.006)
    assert scores["score"].mean() == pytest.approx(0.203, abs=0.005)


def test_interpolation_is_part_of_a_scorer(tmp_path):
    scorer = small_classifier(steps=1)
    scorer.save(tmp_path / "scorer")
    config = tmp_path / "scorer" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"transform": values["transform"] | {"interpolation": "bicubic"}}))
    other = classifiers.load_classifier(tmp_path / "scorer")
    image = Image.fromarray(numpy_rng("image").integers(0, 256, (31, 31, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    one, two = next(classifiers.read_batches(tmp_path, ["image.png"], [scorer, other], 1))
    assert (one != two).any()
    np.testing.assert_array_equal(two[0], other.prepare(image))


def test_stage_00_takes_a_scorer_that_another_stage_00_trained(tmp_path, outputs):
    small_classifier(steps=3).save(tmp_path / "earlier" / "classifier")
    root = write_digits(tmp_path / "real", 0, 20)

    def prepared(**values):
        run = open_stage("00_prepare", dataset="folder", root=str(root), split="given", classifier_size=8,
                         base_model="none", classifier=str(tmp_path / "earlier"), **values)
        index_originals(run.params, run.folder)
        return run, difficulty_classifier(run)

    run, curve = prepared()
    assert curve.empty
    assert (run.folder / "classifier" / "model.safetensors").read_bytes() == (
        tmp_path / "earlier" / "classifier" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"class 0 is not known by its name to .*earlier, which has 3 classes"):
        prepared(classes=["0", "1"])


def test_a_scorer_trained_here_knows_what_its_outputs_are_called(tmp_path, outputs):
    root = write_digits(tmp_path / "real", 0, 20)
    run = open_stage("00_prepare", dataset="folder", root=str(root), val_per_class=5, classifier_size=8,
                     classifier_epochs=1, classes=["2", "0"], base_model="none")
    index_originals(run.params, run.folder)
    difficulty_classifier(run)
    assert classifiers.load_classifier(run.folder / "classifier").config.classes == ("2", "0")


def test_every_output_has_a_name_or_none_has(tmp_path):
    with pytest.raises(ValueError, match="has 3 outputs and 2 names of classes; give one name an output"):
        classifiers.ClassifierConfig("dgs:convnet3", 3, ResizeCrop(8, 8), classes=("cat", "dog"))
    small_classifier(steps=1).save(tmp_path / "scorer")
    config = tmp_path / "scorer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"classes": ["cat"]}))
    with pytest.raises(ValueError, match=r"config\.json does not describe a classifier: .* 1 names of classes"):
        classifiers.load_classifier(tmp_path / "scorer")


def test_timms_names_of_imagenets_classes_are_ours():
    timm = pytest.importorskip("timm", reason="timm is not installed (extra timm)")
    network = timm.create_model("test_resnet")
    assert timm_class_names(network) == tuple(imagenet_names())
    network.pretrained_cfg["label_names"] = ["cat", "dog"]
    assert timm_class_names(network) == ("cat", "dog")


@pytest.mark.parametrize(("name", "weights", "message"), [
    ("timm:resnet5000", "pretrained", "is no classifier of timm"),
    ("timm:resnet18", "IMAGENET1K_V1", "timm:resnet18 has no weights 'IMAGENET1K_V1'; choose one of"),
])
def test_wrong_names_are_told(name, weights, message):
    pytest.importorskip("timm", reason="timm is not installed (extra timm)")
    with pytest.raises(ValueError, match=message):
        pretrained(name, weights)
    assert validate("00_prepare", {"classifier": name, "classifier_weights": weights}).classifier == name
