"""Autoencoders: TAESD with its real weights on real images, AutoencoderKL through its folder, and what goes wrong."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from unsafe_pickle import MakesFile
from waits import HANG

from dgs_utils.diffusion.autoencoder import HUB, Autoencoder, load_autoencoder, store_autoencoder
from dgs_utils.diffusion.latents import Latents, encode
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import center_crop

WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_kl(**config) -> diffusers.AutoencoderKL:
    """An AutoencoderKL with Stable Diffusion's layout and random weights."""
    torch.manual_seed(0)
    blocks = len(config.get("block_out_channels", (8, 8, 16, 16)))
    defaults = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "latent_channels": 4,
                "down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
    return diffusers.AutoencoderKL(**{**defaults, **config}).eval()


@pytest.fixture
def kl_folder(tmp_path) -> Path:
    small_kl().save_pretrained(tmp_path / "kl")
    return tmp_path / "kl"


def fetched(tmp_path: Path, kind: str, path: Path) -> Autoencoder:
    store_autoencoder(kind, str(path), tmp_path / "stage")
    return load_autoencoder(tmp_path / "stage", 3)


@pytest.fixture(scope="module")
def photographs(shared_data) -> torch.Tensor:
    """Five real photographs at 256 pixels, (5, 3, 256, 256) in [−1, 1]."""
    with zipfile.ZipFile(shared_data / "imagewoof320-sample" / "sample.zip") as archive:
        images = [center_crop(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), 256)
                    for name in archive.namelist()[::24]]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---- TAESD -----------------------------------------------------------------------------------------------------------

@torch.inference_mode()
def test_taesd_reconstructs_real_photographs(shared_data, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("dgs_utils.diffusion.autoencoder.CHUNK_PIXELS", 4 * 256 * 256)
    autoencoder = fetched(tmp_path, "taesd", shared_data / "weights")
    assert (autoencoder.factor, autoencoder.channels) == (8, 4)
    latents, deviation = autoencoder.encode(photographs)
    assert deviation is None
    assert latents.shape == (5, 4, 32, 32)
    assert 0.6 < latents.std() < 1.2
    decoded = autoencoder.decode(latents)
    errors = ((decoded - photographs) / 2).square().mean(dim=(1, 2, 3))
    assert (-10 * errors.log10()).mean() >= 22  # dB, the mean over images
    again, _ = autoencoder.encode(photographs[3:])  # chunks change nothing but rounding
    torch.testing.assert_close(again, latents[3:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(autoencoder.decode(latents[3:]), decoded[3:], rtol=1e-4, atol=1e-4)


def test_taesd_from_its_original_files_and_from_a_folder_are_the_same(shared_data, tmp_path):
    store_autoencoder("taesd", str(shared_data / "weights"), tmp_path / "first")
    store_autoencoder("taesd", str(tmp_path / "first" / "autoencoder"), tmp_path / "second")
    first, second = (load_file(tmp_path / name / "autoencoder" / WEIGHTS) for name in ("first", "second"))
    original = load_file(shared_data / "weights" / "taesd_encoder.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first["encoder.layers.0.weight"], original["0.weight"].float(), rtol=0, atol=0)


def test_taesd_with_missing_or_damaged_files(shared_data, tmp_path):
    source = tmp_path / "weights"
    source.mkdir()
    shutil.copy(shared_data / "weights" / "taesd_encoder.safetensors", source)
    command = "hf download madebyollin/taesd --local-dir taesd"
    with pytest.raises(ValueError, match=rf"{source}/taesd_decoder.safetensors cannot be read .*{command}"):
        fetched(tmp_path, "taesd", source)
    (source / "taesd_decoder.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match=rf"{source}/taesd_decoder.safetensors cannot be read .*{command}"):
        fetched(tmp_path, "taesd", source)
    save_file({"layers": torch.zeros(1)}, source / "taesd_decoder.safetensors")
    with pytest.raises(ValueError, match=rf"{source}/taesd_decoder.safetensors cannot be read .*{command}"):
        fetched(tmp_path, "taesd", source)
    shutil.copy(source / "taesd_encoder.safetensors", source / "taesd_decoder.safetensors")
    with pytest.raises(ValueError, match=rf"{source} does not hold TAESD's weights .*{command}"):
        fetched(tmp_path, "taesd", source)
    assert not list((tmp_path / "stage").glob("*"))


# ---- Stable Diffusion's ----------------------------------------------------------------------------------------------

@torch.inference_mode()
@pytest.mark.parametrize("factor", [0.18215, 0.5])
@pytest.mark.parametrize("kind", ["sd-vae-ft-mse", "sd-vae-ft-ema"])
def test_kl_posterior_is_scaled_and_decoding_undoes_the_scale(tmp_path, kind, factor):
    theirs = small_kl(scaling_factor=factor)
    theirs.save_pretrained(tmp_path / "kl")
    autoencoder = fetched(tmp_path, kind, tmp_path / "kl")
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    posterior = theirs.encode(images).latent_dist
    mean, deviation = autoencoder.encode(images)
    torch.testing.assert_close(mean, posterior.mean * factor)
    torch.testing.assert_close(deviation, torch.exp(posterior.logvar / 2) * factor)
    torch.testing.assert_close(autoencoder.decode(mean), theirs.decode(posterior.mean).sample.clamp(-1, 1))
    assert (autoencoder.factor, autoencoder.channels) == (8, 4)


def test_kl_config_without_a_scale_means_stable_diffusion_s(kl_folder, tmp_path):
    """As the published folders, which are older than the field, and name the layers of attention otherwise."""
    config = json.loads((kl_folder / "config.json").read_text())
    (kl_folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "scaling_factor"}))
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = {}
    for name, tensor in load_file(kl_folder / WEIGHTS).items():
        for new, before in old.items():
            name = name.replace(new, before)
        state[name] = tensor
    assert any("query" in name for name in state)
    save_file(state, kl_folder / WEIGHTS)
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(autoencoder.encode(images)[0], small_kl().encode(images).latent_dist.mean * 0.18215)


@torch.inference_mode()
@pytest.mark.parametrize("config", [
    {"scaling_factor": 1.5305, "shift_factor": 0.0609, "latent_channels": 16, "use_quant_conv": False,
     "use_post_quant_conv": False},
    {"scaling_factor": 0.5, "latents_mean": [-1.6, 2.6, -0.4, 1.3], "latents_std": [8.5, 5.8, 9.4, 5.3]},
], ids=["shift", "mean and deviation of each channel"])
def test_shift_and_scale_are_those_of_the_folder(tmp_path, config):
    """As Stable Diffusion 3's pipeline and XL's img2img prepare and decode latents."""
    theirs = small_kl(**config)
    theirs.save_pretrained(tmp_path / "kl")
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", tmp_path / "kl")
    images, channels = torch.rand(3, 3, 32, 32) * 2 - 1, theirs.config.latent_channels
    posterior = theirs.encode(images).latent_dist
    shift = torch.tensor(config.get("latents_mean", [config.get("shift_factor", 0)] * channels)).view(1, -1, 1, 1)
    scale = config["scaling_factor"] / torch.tensor(config.get("latents_std", [1.0] * channels)).view(1, -1, 1, 1)
    mean, deviation = autoencoder.encode(images)
    assert autoencoder.channels == channels
    torch.testing.assert_close(mean, (posterior.mean - shift) * scale)
    torch.testing.assert_close(deviation, posterior.std * scale)
    torch.testing.assert_close(autoencoder.decode(mean), theirs.decode(posterior.mean).sample.clamp(-1, 1), rtol=1e-4,
                               atol=1e-4)


def test_the_autoencoder_of_a_pipeline_is_taken(tmp_path):
    small_kl(scaling_factor=0.5).save_pretrained(tmp_path / "pipeline" / "vae")
    assert fetched(tmp_path, "sd-vae-ft-mse", tmp_path / "pipeline").scale.item() == 0.5


def test_autoencoders_of_other_images_are_refused(tmp_path):
    small_kl(in_channels=1, out_channels=1).save_pretrained(tmp_path / "kl")
    with pytest.raises(ValueError, match=r"/kl takes images of 1 channels and returns 1, but images have 3 here; give"):
        fetched(tmp_path, "sd-vae-ft-mse", tmp_path / "kl")
    assert not (tmp_path / "stage" / "autoencoder").exists()


def test_another_depth_has_another_factor(tmp_path):
    small_kl(block_out_channels=(8, 16, 16)).save_pretrained(tmp_path / "kl")
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", tmp_path / "kl")
    assert autoencoder.factor == 4
    with torch.inference_mode():
        assert autoencoder.decode(autoencoder.encode(torch.zeros(1, 3, 16, 16))[0]).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_is_read_in_single(tmp_path, variant):
    theirs = small_kl().half()
    theirs.save_pretrained(tmp_path / "kl", variant=variant)
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", tmp_path / "kl")
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        expected = theirs.float().encode(images).latent_dist.mean * 0.18215
        torch.testing.assert_close(autoencoder.encode(images)[0], expected)


@torch.inference_mode()
def test_images_pass_in_chunks(kl_folder, tmp_path, monkeypatch):
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    mean, deviation = autoencoder.encode(images)
    decoded = autoencoder.decode(mean)
    seen = []
    autoencoder.model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    autoencoder.model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr("dgs_utils.diffusion.autoencoder.CHUNK_PIXELS", 2 * 16 * 16)
    torch.testing.assert_close(autoencoder.encode(images), (mean, deviation))
    torch.testing.assert_close(autoencoder.decode(mean), decoded)
    assert seen == [2, 2, 1] * 2


# ---- Pixels ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("channels", [1, 3])
def test_without_an_autoencoder_latents_are_pixels(tmp_path, channels):
    store_autoencoder("none", "", tmp_path)
    autoencoder = load_autoencoder(tmp_path, channels)
    grey = (torch.rand(2, 1, 4, 4) * 2 - 1).expand(-1, 3, -1, -1)
    latents, deviation = autoencoder.encode(grey)
    assert latents.shape == (2, channels, 4, 4)
    assert deviation is None
    assert torch.equal(autoencoder.decode(latents), grey)
    assert (autoencoder.factor, autoencoder.channels) == (1, channels)


def test_colours_become_luminance_and_greys_stay_what_they_are():
    """Pillow's "L" is the same luma, rounded to a level; of a grey not a bit may change."""
    levels = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    found, _ = Autoencoder(1).encode(levels / 127.5 - 1)
    expected = np.stack([np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8)).convert("L"))
                         for image in levels])
    assert np.abs((found[:, 0].numpy() + 1) * 127.5 - expected).max() <= 0.502
    greys = (torch.arange(256.0) / 127.5 - 1).view(1, 1, 16, 16)
    for autoencoder in (Autoencoder(1), Autoencoder(3)):
        latents, _ = autoencoder.encode(greys.expand(-1, 3, -1, -1))
        assert torch.equal(latents, greys.expand(-1, autoencoder.channels, -1, -1))


def test_what_overflows_is_not_clamped_to_white():
    latents = torch.tensor([-2.0, 0.5, torch.inf, torch.nan]).view(4, 1, 1, 1)
    assert Autoencoder(1).decode(latents)[:, 0, 0, 0].tolist()[:2] == [-1, 0.5]
    assert Autoencoder(1).decode(latents)[2:].isnan().all()


# ---- Wrong folders ---------------------------------------------------------------------------------------------------

def drop(name: str, folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state[name]
    save_file(state, folder / WEIGHTS)


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), r"cannot be used \(.*config.json"),
    (lambda folder: (folder / WEIGHTS).unlink(), r"cannot be used \(Error no file named"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"123"), r"cannot be used \(Unable to load weights"),
    (lambda folder: drop("quant_conv.weight", folder), r"cannot be used \(it lacks quant_conv.weight\)"),
    (lambda folder: small_kl(latent_channels=8).save_pretrained(folder / "x") or shutil.copy(folder / "x" / WEIGHTS,
                                                                                           folder / WEIGHTS), "shape"),
    (lambda folder: diffusers.AutoencoderTiny(encoder_block_out_channels=(4,) * 4).save_pretrained(folder),
     r"cannot be used \(it holds a model of class AutoencoderTiny, not AutoencoderKL\)"),
], ids=["no config", "broken config", "no weights", "broken weights", "a part", "other shape", "other kind"])
def test_folders_that_hold_no_such_autoencoder(kl_folder, tmp_path, damage, reason):
    damage(kl_folder)
    with pytest.raises(ValueError, match=rf"{kl_folder} .*{reason}") as caught:
        fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    assert str(caught.value).endswith(
        "; fetch it with 'hf download stabilityai/sd-vae-ft-mse --local-dir sd-vae-ft-mse', on another machine if need "
        "be, and set prepare.autoencoder_path to that folder")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stage" / "autoencoder").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"prepare.autoencoder_path is {tmp_path}/no, which is no folder; fetch it"):
        fetched(tmp_path, "sd-vae-ft-mse", tmp_path / "no")


def test_pickled_code_is_not_run(kl_folder, tmp_path):
    (kl_folder / WEIGHTS).unlink()
    torch.save({"weight": MakesFile(tmp_path / "trace")}, kl_folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"{kl_folder} cannot be used"):
        fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    assert not (tmp_path / "trace").exists()
    torch.load(kl_folder / "diffusion_pytorch_model.bin", weights_only=False)  # it would have been
    assert (tmp_path / "trace").exists()


def test_a_damaged_stage_folder_is_told(kl_folder, tmp_path):
    fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    drop("quant_conv.weight", tmp_path / "stage" / "autoencoder")
    with pytest.raises(ValueError, match=r"lacks quant_conv.weight\); delete .*/autoencoder and run stage 00_prepare"):
        load_autoencoder(tmp_path / "stage", 3)


def test_without_a_network_the_command_that_brings_it_is_told_at_once(tmp_path):
    """In a process of its own, whose hub is a port that nobody listens on."""
    program = """
import sys
from pathlib import Path
from dgs_utils.diffusion.autoencoder import store_autoencoder
for kind in ("sd-vae-ft-ema", "sd-vae-ft-mse", "taesd"):
    try:
        store_autoencoder(kind, "", Path(sys.argv[1]))
    except ValueError as error:
        print(error)
"""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path / "stage")], env=environment, text=True,
                            capture_output=True, timeout=HANG)
    lines = result.stdout.splitlines()
    assert len(lines) == 3, result.stdout + result.stderr
    assert all("could not be downloaded from the hub" in line for line in lines)
    for kind, name in HUB.items():
        command = f"fetch it with 'hf download {name} --local-dir {kind}', on another machine if need be, and set"
        assert sum(line.startswith(name) and command in line for line in lines) == 1
    assert not (tmp_path / "stage").exists()


# ---- Latents ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def images(tmp_path) -> ImageSet:
    generator = np.random.default_rng(0)
    for i in range(7):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)).save(path)
    return ImageSet.read(tmp_path / "images")


@pytest.mark.parametrize("mirror", [True, False])
def test_encoded_sets_hold_each_image_and_its_mirror(kl_folder, tmp_path, images, mirror):
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    latents = encode(images, autoencoder, 16, mirror, batch_size=3)
    assert latents.mean.shape == latents.std.shape == (7, 1 + mirror, 4, 2, 2)
    assert latents.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    for place, path in enumerate(images.paths):
        square = np.asarray(center_crop(Image.open(path), 16), dtype=np.float32)
        views = [square, square[:, ::-1]][: 1 + mirror]
        pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) / 255 * 2 - 1
        with torch.inference_mode():
            mean, deviation = autoencoder.encode(pixels)
        torch.testing.assert_close(latents.mean[place], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(latents.std[place], deviation, rtol=1e-4, atol=1e-5)
    latents.save(tmp_path / "latents.safetensors")
    again = Latents.load(tmp_path / "latents.safetensors")
    assert all(torch.equal(getattr(again, name), getattr(latents, name)) for name in ("mean", "std", "labels"))
    assert not latents.mean.requires_grad


def test_sets_without_deviation_have_none(tmp_path, images):
    latents = encode(images, Autoencoder(3), 16, True, batch_size=4)
    assert latents.mean.shape == (7, 2, 3, 16, 16)
    assert latents.std.shape == (0,)
    assert torch.equal(latents.mean[:, 1], latents.mean[:, 0].flip(3))
    assert latents.mean.min() >= -1
    assert latents.mean.max() <= 1
    latents.save(tmp_path / "latents.safetensors")
    assert Latents.load(tmp_path / "latents.safetensors").std.shape == (0,)


def test_lost_colours_are_told_and_greys_are_not(tmp_path, images):
    with pytest.warns(UserWarning, match="^7 of 7 images have colours, and prepare.channels is 1: their luminance is"):
        found = encode(images, Autoencoder(1), 16, False)
    assert found.mean.shape == (7, 1, 1, 16, 16)
    for path in images.paths:
        Image.open(path).convert("L").save(path)
    told = []
    encode(images, Autoencoder(1), 16, False, warn=told.append)
    encode(images, Autoencoder(3), 16, False, warn=told.append)
    assert told == []


def test_latents_that_are_no_numbers_are_told_with_their_image(kl_folder, tmp_path, images):
    state = load_file(kl_folder / WEIGHTS)
    state["encoder.conv_in.bias"] += torch.inf
    save_file(state, kl_folder / WEIGHTS)
    autoencoder = fetched(tmp_path, "sd-vae-ft-mse", kl_folder)
    with pytest.raises(FloatingPointError, match=rf"latents of {images.paths[0]} that are NaN or infinite; its wei"):
        encode(images, autoencoder, 16, False)
