"""Classifiers: preprocessing, weights from every kind of file, features, TensorFlow's padding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from small_world import small_classifier
from torchvision.transforms import v2

from dgs_utils.classifiers import judge as classifiers
from dgs_utils.classifiers.judge import ClassifierConfig


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
    judge = classifiers.pretrained("mobilenet_v3_small", str(path), size=64)
    assert judge.config.num_classes == 7
    published = v2.Compose([v2.Resize(73), v2.CenterCrop(64), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    expected = squeezed(published(image)[None])
    torch.testing.assert_close(judge(judge.prepare(image)[None]), expected, rtol=1e-4, atol=1e-5)


def test_preprocessing_beside_the_file_wins(tmp_path, squeezed):
    save_file(squeezed.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps({"resize": 48, "crop": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    judge = classifiers.pretrained("mobilenet_v3_small", str(tmp_path / "w.safetensors"), size=64)
    assert (judge.config.resize, judge.config.crop, judge.config.mean) == (48, 48, (0, 0, 0))
    white = torch.full((1, 3, 48, 48), 255, dtype=torch.uint8)
    torch.testing.assert_close(judge.normalise(white), torch.ones(1, 3, 48, 48))
    (tmp_path / "w.json").write_text(json.dumps({"resise": 48}))
    with pytest.raises(ValueError, match="resise is unknown; did you mean 'resize'"):
        classifiers.pretrained("mobilenet_v3_small", str(tmp_path / "w.safetensors"))


def test_saved_classifier_comes_back_the_same(tmp_path):
    judge = small_classifier(steps=3)
    judge.save(tmp_path / "classifier")
    again = classifiers.open_judge(str(tmp_path / "classifier"))
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert again.config == judge.config
    torch.testing.assert_close(again(pixels), judge(pixels))
    torch.testing.assert_close(again.network.classify(again.features(pixels)), judge(pixels))


def test_features_are_what_the_last_layer_sees(tmp_path, squeezed):
    save_file(squeezed.state_dict(), tmp_path / "w.safetensors")
    judge = classifiers.pretrained("mobilenet_v3_small", str(tmp_path / "w.safetensors"), size=64)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    last = judge.network.classifier[-1]
    torch.testing.assert_close(last(judge.features(pixels)), judge(pixels))


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("kernel", [3, 5])
def test_tensorflow_padding_is_tensorflows_same_rule(size, kernel):
    convolution = torch.nn.Conv2d(1, 1, kernel, stride=2, padding=kernel // 2, bias=False)
    torch.nn.init.ones_(convolution.weight)
    config = ClassifierConfig("resnet18", 1, size, size, tensorflow_padding=True)
    judge = classifiers.Classifier(torch.nn.Sequential(convolution), config)
    x = torch.arange(float(size * size)).view(1, 1, size, size)
    outputs = -(-size // 2)
    before = max((outputs - 1) * 2 + kernel - size, 0) // 2
    found = judge.network(x)
    assert found.shape[-1] == outputs
    first = x[0, 0, : kernel - before, : kernel - before].sum()  # the window that starts `before` outside the image
    assert found[0, 0, 0, 0] == first


def test_real_mobilenet_recognises_real_dogs(shared_data):
    import io
    import zipfile

    from dgs_utils.params.subsets import SUBSETS

    judge = classifiers.pretrained("mobilenet_v2", str(shared_data / "weights" / "mobilenet_v2_imagenet1k.npz"), 160)
    assert judge.config.tensorflow_padding
    assert judge.config.std == (0.5, 0.5, 0.5)
    index = {wnid: i for wnid, i, _ in SUBSETS["imagewoof"]}
    with zipfile.ZipFile(shared_data / "imagewoof128" / "val.zip") as archive:
        names = archive.namelist()[::100]
        pixels = torch.stack([judge.prepare(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    with torch.inference_mode():
        found = judge(pixels)
    truth = torch.tensor([index[n.split("/")[1]] for n in names])
    columns = torch.tensor(list(index.values()))
    assert (columns[found[:, columns].argmax(dim=1)] == truth).float().mean() > 0.7  # chance: 0.1
    assert judge.features(pixels[:2]).shape == (2, 1280)
    symmetric = classifiers.network_of(judge.config).eval()
    symmetric.load_state_dict(judge.network.state_dict())
    assert not torch.allclose(symmetric(judge.normalise(pixels[:1])), judge(pixels[:1]), atol=0.1)


def test_bad_requests_are_named(tmp_path, squeezed):
    state = squeezed.state_dict()
    with pytest.raises(ValueError, match="'resnet5' is no classifier of torchvision; did you mean"):
        classifiers.pretrained("resnet5", "IMAGENET1K_V1")
    with pytest.raises(ValueError, match="no weights 'V9'; choose one of IMAGENET1K_V1"):
        classifiers.pretrained("resnet50", "V9")
    with pytest.raises(ValueError, match="does not exist"):
        classifiers.pretrained("resnet50", str(tmp_path / "none.pth"))
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.pth cannot be read as weights"):
        classifiers.pretrained("resnet50", str(tmp_path / "broken.pth"))
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match="has the unknown more"):
        classifiers.pretrained("mobilenet_v3_small", str(tmp_path / "more.safetensors"))
    state.pop("features.0.0.weight")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"lacks features\.0\.0\.weight"):
        classifiers.pretrained("mobilenet_v3_small", str(tmp_path / "less.safetensors"))
    with pytest.raises(ValueError, match="holds no classifier"):
        classifiers.load(tmp_path)
    with pytest.raises(ValueError, match="names no classifier"):
        classifiers.open_judge("resnet50")


class Executes:
    """Unpickling it would make a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"fc.weight": Executes(tmp_path / "trace")}, tmp_path / "code.pth")
    np.savez(tmp_path / "code.npz", **{"fc.weight": np.array([Executes(tmp_path / "trace")], dtype=object)})
    for name in ("code.pth", "code.npz"):
        with pytest.raises(ValueError, match=f"{tmp_path}/{name} (holds an object of|cannot be read as weights)"):
            classifiers.pretrained("resnet18", str(tmp_path / name))
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "code.pth", weights_only=False)  # it would have been
    assert (tmp_path / "trace").exists()


def test_without_a_network_the_command_that_brings_the_weights_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ValueError, match=r"the weights IMAGENET1K_V1 of resnet50 could not be downloaded \(.*\); fetch "
                                         r"them with 'curl -LO https://download.pytorch.org/models/resnet50-0676ba61"
                                         r".pth', .* set prepare.classifier_weights to the path of resnet50-0676ba61"):
        classifiers.pretrained("resnet50", "IMAGENET1K_V1")


def test_damaged_classifier_folders_are_told(tmp_path):
    for damage, sentence in ((Path.unlink, "model.safetensors cannot be read"),
                             (lambda path: path.write_bytes(b"x"), "model.safetensors cannot be read"),
                             (lambda path: save_file({"x": torch.zeros(1)}, path), "model.safetensors lacks")):
        small_classifier(steps=3).save(tmp_path / "classifier")
        damage(tmp_path / "classifier" / "model.safetensors")
        with pytest.raises(ValueError, match=sentence):
            classifiers.load(tmp_path / "classifier")
