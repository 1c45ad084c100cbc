"""Stage 00's models: published ones that fit or are refused before long work, latents once, training by seed."""

import json
from pathlib import Path

import diffusers
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
from dgs_utils.diffusion.dit import DiT
from dgs_utils.images import prepare_dataset
from dgs_utils.store.session import Run

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
    numbers = pd.DataFrame({"class": CLASSES, "index": [7, 9, 4], "condition": [7, 9, 4]})
    numbers.to_csv(tmp_path / "index.csv", index=False)
    return tmp_path / "index.csv"


@pytest.fixture
def stage(outputs, root):
    """A stage with its originals indexed, as the notebook has it before the models."""
    def opened(**values) -> Run:
        run = open_stage("00_prepare", **{"dataset": "folder", "root": str(root), "val_per_class": 2,
                                          "image_size": 8, "channels": 1, "flip": False,
                                          "train_steps": 8, "learning_rate": 3e-3, **OWN, **values})
        prepare_dataset.index_originals(run.params, run.folder)
        return run
    return opened


# ---- The base model --------------------------------------------------------------------------------------------------

def test_a_published_model_is_kept_as_safetensors(stage, checkpoint, indices):
    run = stage(base_model=str(checkpoint), class_index=str(indices))
    autoencoder = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, autoencoder)
    kept = load_file(run.folder / "dit" / "diffusion_pytorch_model.safetensors")
    given = load_file(checkpoint)
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in kept)
    checkpoint.unlink()  # not needed again
    prepare.fetch_base_model(run, autoencoder)
    losses = prepare.train_base_model(run, prepare.encode_originals(run, autoencoder))
    assert losses.empty
    assert losses.columns.tolist() == ["step", "mse", "vb"]
    assert pd.read_csv(run.folder / "classes.csv")["condition"].tolist() == [7, 9, 4]


@torch.no_grad()
def test_a_model_that_diffusers_trained_is_kept_with_its_frequencies(stage, indices, tmp_path):
    """Of the class that trained it neither names nor shapes tell; what stood around its weights is told."""
    twin = draw_weights(diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10), seed=1)
    torch.save({"ema": None, "state_dict": {f"model.{key}": value for key, value in twin.state_dict().items()}},
               tmp_path / "dit.ckpt")
    values = {"base_model": str(tmp_path / "dit.ckpt"), "class_index": str(indices)}
    run = stage(**values)
    with pytest.raises(ValueError, match=r"without its timestep frequencies; set prepare\.dit_freq"):
        prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))
    run = stage(**values, dit_frequencies="diffusers")
    prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))
    assert [line.partition("dit.ckpt ")[2] for line in run.warnings] == [
        "holds the weights under state_dict/model., which is stripped",
        "has no pos_embed, so the side of its latents is unknown; 8 is used, as given"]
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([10, 500, 999]), torch.tensor([0, 9, 10])
    kept = DiT.from_pretrained(run.folder / "dit")
    torch.testing.assert_close(kept(x, t, y), twin(x, timestep=t, class_labels=y).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("values", "sentence"), [
    ({"image_size": 16}, "made for latents of 1 channels and side 8, .* lead to 1 channels and side 16"),
    ({"channels": 3}, "made for latents of 1 channels and side 8, .* lead to 3 channels and side 8"),
    ({"dit_size": "DiT-XL/2"}, "is no DiT-XL/2; it has patch_size 2, hidden_size 16, depth 2: leave prepare.dit_size"),
    ({"depth": 3}, "is no DiT of the size given; it has patch_size 2, hidden_size 16, depth 2"),
    ({"class_index": "beyond"}, "class . has condition 10, but .* has only 10 classes; correct prepare.class_index"),
    ({"base_model": "no.pt"}, "prepare.base_model is .*/no.pt, which does not exist; bring the weights with 'curl"),
])
def test_a_model_that_does_not_fit_is_told_before_any_encoding(stage, checkpoint, indices, tmp_path, values, sentence):
    pd.DataFrame({"class": CLASSES, "condition": [7, 10, 4]}).to_csv(tmp_path / "beyond.csv", index=False)
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
    autoencoder = prepare.fetch_autoencoder(run)
    prepare.fetch_base_model(run, autoencoder)
    losses = prepare.train_base_model(run, prepare.encode_originals(run, autoencoder))
    assert losses["step"].tolist() == list(range(1, 9))
    assert np.isfinite(losses).all(axis=None)
    assert not (run.folder / "checkpoints" / "base.pt").exists()
    assert {name: DiT.load_config(run.folder / "dit")[name] for name in OWN} == OWN
    return load_file(run.folder / "dit" / "diffusion_pytorch_model.safetensors")


@pytest.mark.filterwarnings("error:.*not in its folder:UserWarning")
def test_training_is_decided_by_seed_and_precision_alone(stage, tmp_path):
    short = {"train_steps": 8, "train_batch": 4, "flip": True}
    first = trained(stage(**short, output=str(tmp_path / "first")))
    again = trained(stage(**short, output=str(tmp_path / "again")))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, values in (("seed", {"seed": 1}), ("precision", {"precision": "bf16"})):
        other = trained(stage(**short, **values, output=str(tmp_path / name)))
        assert not torch.equal(first["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])
        assert all(tensor.dtype == torch.float32 for tensor in other.values())


# ---- Latents ---------------------------------------------------------------------------------------------------------

def test_latents_are_the_train_split_s_and_made_once(stage, root):
    run = stage(flip=True)
    autoencoder = prepare.fetch_autoencoder(run)
    latents = prepare.encode_originals(run, autoencoder)
    assert latents.mean.shape == (30, 2, 1, 8, 8)
    assert latents.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    table = pd.read_csv(run.folder / "originals.csv", dtype={"class": str})
    for place, name in enumerate(table.loc[table["split"] == "train", "file_name"]):
        scan = torch.from_numpy(np.asarray(Image.open(root / name)).astype(np.float32)) / 127.5 - 1
        assert torch.equal(latents.mean[place, 0, 0], scan)
        assert torch.equal(latents.mean[place, 1, 0], scan.flip(1))
    stamp = (run.folder / "latents.safetensors").stat().st_mtime_ns
    prepare.encode_originals(run, autoencoder)
    assert (run.folder / "latents.safetensors").stat().st_mtime_ns == stamp


# ---- The difficulty classifier ---------------------------------------------------------------------------------------

def test_a_trained_classifier_has_a_curve_and_is_kept(stage):
    run = stage(classifier_epochs=2, classifier_size=8)
    curve = prepare.difficulty_classifier(run)
    assert curve["epoch"].tolist() == [1, 2]
    config = json.loads((run.folder / "classifier" / "config.json").read_text())
    assert (config["network"], config["num_classes"], config["transform"]["crop"]) == ("dgs:convnet3", 3, 8)
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
    with pytest.raises(ValueError, match=r"class . has index 9, but mobilenet_v3_small with .* has only 9 classes"):
        prepare.difficulty_classifier(run)
    assert not (run.folder / "classifier").exists()
    run = stage(classifier_weights=str(tmp_path / "10.safetensors"), **values)
    assert prepare.difficulty_classifier(run).empty
    assert pd.read_csv(run.folder / "classes.csv")["index"].tolist() == [7, 9, 4]
