"""Stages 00 to 02 on real photographs, through the runner and the notebooks.

Once with TAESD's latents and a tiny DiT that is trained there; once the way of the paper, with a DiT and a Stable
Diffusion autoencoder from files in their published formats, written here at small width with random weights.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL
from oracle import draw_weights
from PIL import Image
from safetensors.torch import load_file
from small_grid import dgs

from dgs_utils.classifiers import scorer as classifier
from dgs_utils.diffusion.autoencoder import load_autoencoder
from dgs_utils.diffusion.dit import DiT
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.store.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {wnid: index for wnid, index, _ in SUBSETS["imagewoof"][2:5]}  # Samoyed, beagle, Shih-Tzu
TRAIN, VAL, POOL = 12, 4, 3

EXPERIMENT = """
name: photographs
prepare:
  dataset: imagewoof
  root: {images}
  split: imagenet
  classes: [{classes}]
  image_size: 64
  channels: 3
  autoencoder: taesd
  autoencoder_path: {weights}
  patch_size: 2
  hidden_size: 64
  depth: 2
  num_heads: 4
  flip: true
  train_steps: 350
  train_batch: 16
  learning_rate: 0.003
  classifier: mobilenet_v2
  classifier_weights: {weights}/mobilenet_v2_imagenet1k.npz
  classifier_size: 128
fine_tune:
  steps: 20
  memory_size: 8
pool:
  images_per_class: {pool}
  batch_size: {pool}
  steps: 20
"""

PUBLISHED = """
name: published
prepare:
  dataset: imagewoof
  root: {base}/images
  split: imagenet
  classes: [{classes}]
  image_size: 64
  channels: 3
  autoencoder: sd-vae-ft-mse
  autoencoder_path: {base}/vae
  base_model: {base}/DiT.pt
  hidden_size: 32
  depth: 28
  num_heads: 4
  flip: true
  classifier: mobilenet_v2
  classifier_weights: {weights}/mobilenet_v2_imagenet1k.npz
  classifier_size: 64
fine_tune:
  steps: 3
pool:
  images_per_class: {pool}
  steps: 4
  guidance: 4.0
"""


def extract(shared_data: Path, root: Path) -> None:
    """Take the first images of each class from the archives, under their own names."""
    for part in ("train", "val"):
        with zipfile.ZipFile(shared_data / "imagewoof128" / f"{part}.zip") as archive:
            for wnid in CLASSES:
                names = [name for name in archive.namelist() if name.split("/")[1] == wnid]
                official = [name for name in names if "ILSVRC2012_val_" in name]
                others = [name for name in names if "ILSVRC2012_val_" not in name]
                for name in official[:VAL // 2] + others[:TRAIN // 2]:
                    archive.extract(name, root)


def run(folder: Path, experiment: str, **values) -> dict[str, Path]:
    """Run an experiment below a folder and return the three finished stage folders, by number."""
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    file = folder / "photographs.yaml"
    file.write_text(experiment.format(classes=", ".join(CLASSES), pool=POOL, **values))
    result = dgs(folder, "run", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    found = sorted(path.parent for path in (folder / "outputs").glob("*/*/manifest.json"))
    assert [path.parent.name for path in found] == ["00_prepare", "01_fine_tune", "02_pool"]
    return {path.parent.name[:2]: path for path in found}


def halved(path: Path) -> np.ndarray:
    """Return a photograph of 128 pixels as the centre crop makes 64 of them."""
    return np.array(Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BOX))


@pytest.fixture(scope="module")
def results(shared_data, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photographs")
    extract(shared_data, folder / "images")
    return run(folder, EXPERIMENT, images=folder / "images", weights=shared_data / "weights")


@pytest.mark.slow  # three notebooks, one of which trains; all tests below share their run
def test_originals_are_split_by_their_names(results):
    classes = pd.read_csv(results["00"] / "classes.csv")
    assert classes["class"].tolist() == list(CLASSES)
    assert classes["index"].tolist() == list(CLASSES.values())
    assert classes["condition"].tolist() == [0, 1, 2]
    for split, count in (("train", TRAIN), ("val", VAL)):
        images = ImageSet.read(results["00"], split)
        assert images.table.groupby("label").size().tolist() == [count] * 3
        assert all(("ILSVRC2012_val_" in path.name) == (split == "val") for path in images.paths)
    [warning] = read_manifest(results["00"])["warnings"]
    assert (f"has {3 * TRAIN} train and {3 * VAL} val images here, 3900 train and 150 val in the published "
            f"protocol") in warning


@pytest.mark.slow  # needs the run above
def test_latents_are_taesd_s(results):
    latents = load_file(results["00"] / "latents.safetensors")
    assert latents["mean"].shape == (3 * TRAIN, 2, 4, 8, 8)  # each image and its mirror image
    assert latents["std"].shape == (0,)
    assert latents["labels"].tolist() == [label for label in range(3) for _ in range(TRAIN)]
    assert abs(latents["mean"].mean()) < 0.3
    assert 0.6 < latents["mean"].std() < 1.3
    image = halved(ImageSet.read(results["00"], "train").paths[0])
    autoencoder = load_autoencoder(results["00"], 3)
    with torch.inference_mode():
        decoded = autoencoder.decode(latents["mean"][:1, 0])[0].permute(1, 2, 0).numpy()
    error = np.square((decoded + 1) / 2 - image / 255).mean()
    assert -10 * np.log10(error) > 17  # dB: the very image (another one is near 10)


@pytest.mark.slow  # needs the run above
def test_the_classifier_knows_the_originals(results):
    scorer = classifier.load_classifier(results["00"] / "classifier")
    images = ImageSet.read(results["00"])
    with torch.inference_mode():
        logits = scorer(torch.stack([scorer.read(path) for path in images.paths]))
    assert logits.shape == (len(images), 1000)
    found = logits[:, list(CLASSES.values())].argmax(dim=1).numpy()
    assert (found == images.labels).mean() > 0.8  # chance: 1/3


@pytest.mark.slow  # needs the run above
def test_training_learns(results):
    base, tuned = pd.read_csv(results["00"] / "dit_losses.csv"), pd.read_csv(results["01"] / "losses.csv")
    assert (len(base), len(tuned)) == (350, 20)
    assert np.isfinite(base).all(axis=None)
    assert np.isfinite(tuned).all(axis=None)
    assert base["mse"].tail(30).mean() < 0.8 * base["mse"].head(10).mean()
    assert (tuned["representative"] != 0).any()
    model = DiT.from_pretrained(results["00"] / "dit")
    assert (model.config.input_size, model.config.in_channels, model.config.num_classes) == (8, 4, 3)
    names = set(load_file(results["01"] / "difffit.safetensors"))
    assert any("gamma" in name for name in names)
    assert not any(name.endswith("qkv.weight") for name in names)


@pytest.mark.slow  # needs the run above
def test_the_pool_holds_images_of_every_class(results):
    metadata = pd.read_csv(results["02"] / "metadata.csv")
    assert metadata.columns.tolist()[:5] == ["file_name", "class", "label", "index", "seed"]
    assert {"generator", "solver", "steps", "guidance", "model"} <= set(metadata.columns)
    assert metadata["class"].tolist() == [wnid for wnid in CLASSES for _ in range(POOL)]
    assert metadata["seed"].is_unique
    assert set(metadata["generator"]) == {"minimax"}
    images = []
    for name in metadata["file_name"]:
        with Image.open(results["02"] / name) as image:
            assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "PNG")
            images.append(np.asarray(image) / 255)
    assert sorted(f.name for f in (results["02"] / "images").iterdir()) == sorted(CLASSES)
    images = np.stack(images)
    assert (images.std(axis=(1, 2, 3)) > 0.05).all()  # none is flat
    assert min(np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]) > 0.02  # all different
    # A model that has not learned gives latents of 30 times the deviation, and images of saturated patches.
    originals = load_file(results["00"] / "latents.safetensors")["mean"]
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2 - 1
        latents = load_autoencoder(results["00"], 3).encode(pixels)[0]
    ratio = latents.std(dim=(0, 2, 3)) / originals.std(dim=(0, 1, 3, 4))
    assert (ratio > 0.6).all()
    assert (ratio < 1.4).all()
    assert (latents.mean(dim=(0, 2, 3)) - originals.mean(dim=(0, 1, 3, 4))).abs().max() < 0.4


@pytest.mark.slow  # needs the run above
def test_executed_notebooks_show_what_they_made(results):
    for folder, least in (("00", 3), ("01", 1), ("02", 1)):
        notebook = json.loads((results[folder] / "notebook.ipynb").read_text())
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= least
        assert not any(output["output_type"] == "error" for output in outputs)


@pytest.mark.slow  # three notebooks
def test_published_formats_go_the_same_way(shared_data, tmp_path):
    extract(shared_data, tmp_path / "images")
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, latent_channels=4,
                        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    vae.save_pretrained(tmp_path / "vae")
    dit = draw_weights(DiT(input_size=8, hidden_size=32, depth=28, num_heads=4, num_classes=1000), seed=0)
    torch.save({"ema": dit.state_dict()}, tmp_path / "DiT.pt")
    results = run(tmp_path, PUBLISHED, base=tmp_path, weights=shared_data / "weights")
    classes = pd.read_csv(results["00"] / "classes.csv")
    assert classes["condition"].tolist() == list(CLASSES.values())
    kept = load_file(results["00"] / "dit" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in dit.state_dict().items())
    latents = load_file(results["00"] / "latents.safetensors")
    assert latents["mean"].shape == latents["std"].shape == (3 * TRAIN, 2, 4, 8, 8)
    first = halved(ImageSet.read(results["00"], "train").paths[0])
    with torch.inference_mode():
        pixels = torch.from_numpy(first).permute(2, 0, 1)[None] / 127.5 - 1
        posterior = vae.eval().encode(pixels).latent_dist
    torch.testing.assert_close(latents["mean"][0, :1], posterior.mean * 0.18215, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(latents["std"][0, :1], posterior.std * 0.18215, rtol=1e-3, atol=1e-4)
    assert not (results["00"] / "dit_losses.csv").exists()
    table = load_file(results["01"] / "difffit.safetensors")["y_embedder.embedding_table.weight"]
    moved = (table != dit.state_dict()["y_embedder.embedding_table.weight"]).any(dim=1)
    assert set(moved.nonzero().flatten().tolist()) - {1000} == set(CLASSES.values())  # 1000: no class
    metadata = pd.read_csv(results["02"] / "metadata.csv")
    assert len(metadata) == 3 * POOL
    images = [np.asarray(Image.open(results["02"] / name)) for name in metadata["file_name"]]
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert all(image.std() > 1 for image in images)
