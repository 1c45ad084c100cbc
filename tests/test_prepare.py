"""Stage 00's models: published ones that fit or are refused before long work, latents once, training by seed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from oracle import draw_weights
from PIL import Image
from safetensors.torch import load_file, save_file
from small_world import open_stage, write_digits

from dgs_utils import prepare
from dgs_utils.artifacts.run import Run
from dgs_utils.diffusion.dit import DiT
from dgs_utils.images import datasets

OWN = {"patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2}
CLASSES = ["0", "1", "2"]


@pytest.fixture
def root(tmp_path) -> Path:
    return write_digits(tmp_path / "digits", 0, 12)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """An original-format DiT for 8 grey pixels a side that knows ten classes."""
    model = draw_weights(DiT(input_size=8, in_channels=1, num_classes=10, **OWN), seed=4)
    save_file(model.state_dict(), tmp_path / "dit.safetensors")
    return tmp_path / "dit.safetensors"


@pytest.fixture
def indices(tmp_path) -> Path:
    """A class index that is not the order of labels."""
    pd.DataFrame({"class": CLASSES, "index": [7, 9, 4]}).to_csv(tmp_path / "index.csv", index=False)
    return tmp_path / "index.csv"


@pytest.fixture
def stage(outputs, root):
    """A stage with its originals indexed, as the notebook has it before the models."""
    def opened(**values) -> Run:
        run = open_stage("00_prepare", **{"dataset": "folder", "root": str(root), "val_per_class": 2,
                                          "device": "cpu", **OWN, **values})
        datasets.index_originals(run.params, run.folder)
        return run
    return opened


# ---- The base model --------------------------------------------------------------------------------------------------

def test_a_published_model_is_kept_as_safetensors(stage, checkpoint, indices):
    run = stage(base_model=str(checkpoint), class_index=str(indices))
    codec = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, codec)
    kept = load_file(run.folder / "dit" / "diffusion_pytorch_model.safetensors")
    given = load_file(checkpoint)
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in kept)
    checkpoint.unlink()  # not needed again
    prepare.fetch_base_model(run, codec)
    losses = prepare.train_base_model(run, prepare.encode_originals(run, codec))
    assert losses.empty
    assert losses.columns.tolist() == ["step", "mse", "vb"]
    assert pd.read_csv(run.folder / "classes.csv")["condition"].tolist() == [7, 9, 4]


@pytest.mark.parametrize(("values", "sentence"), [
    ({"image_size": 16}, "made for latents of 1 channels and side 8, .* lead to 1 channels and side 16"),
    ({"channels": 3}, "made for latents of 1 channels and side 8, .* lead to 3 channels and side 8"),
    ({"dit_size": "DiT-XL/2"}, "is no DiT-XL/2; it has patch_size 2, hidden_size 16, depth 2: leave prepare.dit_size"),
    ({"depth": 3}, "is no DiT of the size given; it has patch_size 2, hidden_size 16, depth 2"),
    ({"class_index": "beyond"}, "knows 10 classes, but a class has the label 10 in it; correct prepare.class_index"),
    ({"base_model": "no.pt"}, "prepare.base_model is .*/no.pt, which does not exist; bring the weights with 'curl"),
])
def test_a_model_that_does_not_fit_is_told_before_any_encoding(stage, checkpoint, indices, tmp_path, values, sentence):
    pd.DataFrame({"class": CLASSES, "index": [7, 10, 4]}).to_csv(tmp_path / "beyond.csv", index=False)
    if "class_index" in values:
        values = {"class_index": str(tmp_path / "beyond.csv")}
    run = stage(**{"base_model": str(checkpoint), "class_index": str(indices), **values})
    with pytest.raises(ValueError, match=sentence):
        prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))
    names = sorted(path.name for path in run.folder.iterdir() if not path.name.startswith((".", "inputs.json")))
    assert names == ["classes.csv", "dataset.json", "originals.csv"]


@pytest.mark.parametrize("values", [{"image_size": 9}, {"num_heads": 3}, {"hidden_size": 18}])
def test_sizes_that_do_not_divide_are_told_before_any_encoding(stage, values):
    run = stage(**values)
    with pytest.raises(ValueError, match="does not divide evenly; input_size must be a multiple of patch_size"):
        prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))


def test_images_must_suit_the_autoencoder(stage, shared_data):
    run = stage(autoencoder="taesd", autoencoder_path=str(shared_data / "weights"), image_size=60, channels=3)
    with pytest.raises(ValueError, match=r"prepare.image_size is 60; with this autoencoder it must be a multiple of 8"):
        prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))


def trained(run: Run) -> dict[str, torch.Tensor]:
    codec = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, codec)
    losses = prepare.train_base_model(run, prepare.encode_originals(run, codec))
    assert losses["step"].tolist() == list(range(1, 9))
    assert np.isfinite(losses).all(axis=None)
    assert not (run.folder / "checkpoints" / "base.pt").exists()
    assert {name: DiT.load_config(run.folder / "dit")[name] for name in OWN} == OWN
    return load_file(run.folder / "dit" / "diffusion_pytorch_model.safetensors")


@pytest.mark.filterwarnings("error:.*not in its folder:UserWarning")
def test_training_is_decided_by_seed_and_precision_alone(stage, tmp_path):
    short = {"train_steps": 8, "train_batch": 4, "flip": True}
    first = trained(stage(**short, output=str(tmp_path / "first")))
    again = trained(stage(**short, output=str(tmp_path / "again"), workers=3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, values in (("seed", {"seed": 1}), ("precision", {"precision": "bf16"})):
        other = trained(stage(**short, **values, output=str(tmp_path / name)))
        assert not torch.equal(first["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])
        assert all(tensor.dtype == torch.float32 for tensor in other.values())


# ---- Latents ---------------------------------------------------------------------------------------------------------

def test_latents_are_the_train_split_s_and_made_once(stage, root):
    run = stage(flip=True)
    codec = prepare.fetch_autoencoder(run)
    latents = prepare.encode_originals(run, codec)
    assert latents.mean.shape == (30, 2, 1, 8, 8)
    assert latents.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    table = pd.read_csv(run.folder / "originals.csv", dtype={"class": str})
    for place, name in enumerate(table.loc[table["split"] == "train", "file_name"]):
        scan = torch.from_numpy(np.asarray(Image.open(root / name)).astype(np.float32)) / 127.5 - 1
        assert torch.equal(latents.mean[place, 0, 0], scan)
        assert torch.equal(latents.mean[place, 1, 0], scan.flip(1))
    stamp = (run.folder / "latents.safetensors").stat().st_mtime_ns
    prepare.encode_originals(run, codec)
    assert (run.folder / "latents.safetensors").stat().st_mtime_ns == stamp


# ---- The difficulty classifier ---------------------------------------------------------------------------------------

def test_a_trained_classifier_has_a_curve_and_is_kept(stage):
    run = stage(classifier_epochs=2, classifier_size=8)
    curve = prepare.difficulty_classifier(run)
    assert curve["epoch"].tolist() == [1, 2]
    config = json.loads((run.folder / "classifier" / "config.json").read_text())
    assert (config["network"], config["num_classes"], config["crop"]) == ("convnet3", 3, 8)
    stamp = (run.folder / "classifier" / "model.safetensors").stat().st_mtime_ns
    pd.testing.assert_frame_equal(prepare.difficulty_classifier(run), curve)
    assert (run.folder / "classifier" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_published_classifier_must_have_an_output_for_every_class(stage, tmp_path, indices):
    torch.manual_seed(0)
    for outputs in (9, 10):
        network = torchvision.models.get_model("mobilenet_v3_small", weights=None, num_classes=outputs)
        save_file(network.state_dict(), tmp_path / f"{outputs}.safetensors")
    values = {"classifier": "mobilenet_v3_small", "classifier_size": 32, "class_index": str(indices)}
    run = stage(classifier_weights=str(tmp_path / "9.safetensors"), **values)
    with pytest.raises(ValueError, match="a class has index 9, but mobilenet_v3_small has only 9 outputs; correct"):
        prepare.difficulty_classifier(run)
    assert not (run.folder / "classifier").exists()
    run = stage(classifier_weights=str(tmp_path / "10.safetensors"), **values)
    assert prepare.difficulty_classifier(run).empty
    assert pd.read_csv(run.folder / "classes.csv")["index"].tolist() == [7, 9, 4]
