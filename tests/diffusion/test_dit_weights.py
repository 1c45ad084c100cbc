"""Published weights in both formats, written here at small width: the loaded DiT is the one that they came from."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from oracle import draw_weights, error, tensors
from safetensors.torch import load_file, save_file
from unsafe_pickle import MakesFile
from waits import HANG

from dgs_utils.diffusion.difffit import add_difffit
from dgs_utils.diffusion.diffusers_conversion import HUB_CONFIG
from dgs_utils.diffusion.dit import DIT_SIZES, DiT
from dgs_utils.diffusion.dit_weights import check_fit, load_dit
from dgs_utils.diffusion.published_dit import find_dit
from dgs_utils.params import validate

OWN = {"patch_size": 2, "hidden_size": 48, "depth": 28, "num_heads": 4}  # as deep as XL/2, but narrow
WEIGHTS = "diffusion_pytorch_model.safetensors"


def batch(channels: int = 4, side: int = 8, classes: int = 10) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(3, channels, side, side, generator=generator), torch.tensor([0, 500, 999]),
            torch.tensor([0, classes - 1, classes]))


@pytest.fixture(scope="module")
def model() -> DiT:
    model = draw_weights(DiT(input_size=8, num_classes=10, **OWN), seed=3)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight *= 8  # so that attention matters
    return model


@torch.no_grad()
def same(found: DiT, model: DiT, tolerance: float = 0.0) -> bool:
    inputs = batch(model.config.in_channels, model.config.input_size, model.config.num_classes)
    return not found.training and error(found(*inputs), model(*inputs)) <= tolerance


# ---- The original's format -------------------------------------------------------------------------------------------

def write_original(path: Path, state: dict, wrapper: str) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
        return path
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    training = {"model": other, "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
                "args": argparse.Namespace(model="DiT-XL/2", epochs=8)}
    torch.save({"": state, "ema": training | {"ema": state}, "model": {"model": state}}[wrapper], path)
    return path


@pytest.mark.parametrize(("name", "wrapper"), [("a.pt", ""), ("a.pt", "ema"), ("a.pth", "model"),
                                               ("a.safetensors", "")])
def test_original_checkpoints(tmp_path, model, name, wrapper):
    path, told = write_original(tmp_path / name, model.state_dict(), wrapper), []
    found = load_dit(str(path), own_size=OWN, warn=told.append)
    beside = "; another under 'model/' is left out" if wrapper == "ema" else ""
    assert told == [f"{path} holds the weights under {wrapper}/, which is stripped{beside}"] * bool(wrapper)
    assert {key: found.config[key] for key in OWN} == OWN
    assert (found.config.input_size, found.config.num_classes, found.config.in_channels) == (8, 10, 4)
    assert same(found, model)


LITTLE = {"patch_size": 2, "hidden_size": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def little() -> DiT:
    return draw_weights(DiT(input_size=8, num_classes=10, **LITTLE), seed=4)


def compiled(name: str) -> str:
    """Return a name as compiling each block and checkpointing its activations leaves it."""
    return re.sub(r"^(blocks\.\d+)\.", r"\1._checkpoint_wrapped_module._orig_mod.", name)


WRAPPINGS = {  # what trainers write, made of the weights and of others beside them
    "module.": lambda s, o: {f"module.{name}": tensor for name, tensor in s.items()},
    "_orig_mod.": lambda s, o: {f"_orig_mod.{name}": tensor for name, tensor in s.items()},
    "ema.": lambda s, o: {f"ema.{name}": tensor for name, tensor in s.items()},
    "all three": lambda s, o: {f"module._orig_mod.ema.{name}": tensor for name, tensor in s.items()},
    "blocks": lambda s, o: {compiled(name): tensor for name, tensor in s.items()},
    "Lightning": lambda s, o: {"state_dict": {f"model.{name}": tensor for name, tensor in s.items()}
                               | {"loss.weight": torch.ones(3)}, "epoch": 3, "optimizer_states": [{"state": {}}]},
    "Lightning's average": lambda s, o: {"state_dict": {f"model.{name}": tensor for name, tensor in o.items()}
                                         | {f"ema_model.{name}": tensor for name, tensor in s.items()}},
    "an average beside": lambda s, o: {"model": {f"module.{name}": tensor for name, tensor in o.items()}, "ema": s,
                                       "opt": {"state": {0: {"exp_avg": torch.ones(2)}}}, "step": torch.tensor(3)},
    "no average": lambda s, o: {"model": s, "ema": None, "steps": 5},
    "counters": lambda s, o: {"ema_model": {**s, "decay": torch.tensor(0.99), "num_updates": torch.tensor(3)}},
    "without a table": lambda s, o: {name: tensor for name, tensor in s.items() if name != "pos_embed"},
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_what_trainers_put_around_weights_is_taken_off_and_told(tmp_path, little, kind):
    state = little.state_dict()
    torch.save(WRAPPINGS[kind](state, {name: torch.zeros_like(tensor) for name, tensor in state.items()}),
               tmp_path / "a.ckpt")
    told = []
    found = load_dit(str(tmp_path / "a.ckpt"), own_size=LITTLE, side=8, warn=told.append)
    assert same(found, little)
    assert len(told) == 1
    what = "has no pos_embed, so" if kind == "without a table" else "holds the weights under "
    assert told[0].startswith(f"{tmp_path / 'a.ckpt'} {what}")


def test_a_side_that_nothing_tells_is_asked_for(tmp_path, little):
    save_file({name: tensor for name, tensor in little.state_dict().items() if name != "pos_embed"},
              tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"has no pos_embed, so the side of its latents is unknown; give side$"):
        load_dit(str(tmp_path / "a.safetensors"), own_size=LITTLE)


def test_a_table_without_a_row_for_no_class_gets_one_and_no_guidance(tmp_path, little):
    """That of ImageNet's 1,000 classes, or of as many as the data set has; its labels are those of the checkpoint."""
    state, told = little.state_dict(), []
    state["y_embedder.embedding_table.weight"] = torch.randn(1000, 32)
    torch.save(state, tmp_path / "a.pt")
    found = load_dit(str(tmp_path / "a.pt"), own_size=LITTLE, warn=told.append)
    assert (found.config.num_classes, found.config.class_dropout) == (1000, 0.0)
    assert torch.equal(found.y_embedder.embedding_table.weight[:1000], state["y_embedder.embedding_table.weight"])
    assert told == [f"{tmp_path}/a.pt has 1,000 rows of labels, as many as there are classes, and so none for no "
                    f"class; set pool.guidance to 1, or give a DiT that was trained with label dropout"]


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda s: {"a": s, "b": s}, "holds such a network under 'a/' and under 'b/'; save one of them"),
    (lambda s: s | {"final_layer.linear.bias": torch.zeros(48)}, "returns 12 channels for 4, which are neither noise"),
    (lambda s: s | {"pos_embed": torch.zeros(1, 17, 32)}, "has 17 places in its pos_embed, which are no square"),
    (lambda s: s | {"mask_token": torch.zeros(1, 32)}, "holds mask_token, which this DiT does not have"),
    (lambda s: s | {"blocks.0.attn.q_norm.weight": torch.ones(16)}, r"holds blocks\.0\.attn\.q_norm\.weight, which"),
    (lambda s: s | {"blocks.1.mlp.fc2.bias": torch.full((32,), torch.nan)}, r"in blocks\.1\.mlp\.fc2\.bias that are"),
    (lambda s: {k: v for k, v in s.items() if "t_embedder" not in k}, r"lacks t_embedder\.mlp\.0\.bias; it was"),
    (lambda s: {k: v for k, v in s.items() if "blocks.0" not in k}, r"lacks blocks\.0\.mlp\.fc1\.weight; it is a part"),
    (lambda s: {"ema": None, "epoch": 3}, "holds no weights by name but ema, epoch; save"),
    (lambda s: [1, 2], "holds no weights by name; save"),
    (lambda s: s | {"x_embedder.proj.weight": torch.zeros(32)}, r"weight of shape \(32,\), which embeds no patches of"),
    (lambda s: s | {"blocks.last.bias": torch.zeros(3)}, r"holds blocks\.last\.bias, which this DiT does not have"),
], ids=["two", "outputs", "places", "more", "norms", "NaN", "a part", "a block", "nothing", "a list",
        "no patches", "no number"])
def test_what_is_no_dit_is_one_sentence(tmp_path, little, change, sentence):
    torch.save(change(little.state_dict()), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=sentence) as caught:
        load_dit(str(tmp_path / "a.pt"), own_size=LITTLE, warn=lambda line: None)
    assert str(tmp_path / "a.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_those_of_the_published_checkpoint():
    """The narrow model has the names of XL/2, which without memory has as many numbers as the published file."""
    with torch.device("meta"):
        xl = DiT.from_size("DiT-XL/2")
    small = DiT(input_size=8, **OWN).state_dict()
    assert small.keys() == xl.state_dict().keys()
    assert sum(tensor.numel() for tensor in xl.state_dict().values()) == 675_129_632


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-S/8"])
def test_a_published_size_is_recognised_with_its_heads(tmp_path, name):
    model = draw_weights(DiT.from_size(name, input_size=8, num_classes=3), seed=1)
    save_file(model.state_dict(), tmp_path / "s.safetensors")
    for size in ("", name):
        found = load_dit(str(tmp_path / "s.safetensors"), size, own_size=OWN)
        assert found.config.num_heads == DIT_SIZES[name]["num_heads"]
        assert same(found, model)
    with pytest.raises(ValueError, match=f"{tmp_path}/s.safetensors is no DiT-B/2; set prepare.dit_size to {name}$"):
        load_dit(str(tmp_path / "s.safetensors"), "DiT-B/2")


@pytest.mark.parametrize("config", [{"learn_sigma": False}, {"mlp_ratio": 2.0}, {"in_channels": 1, "input_size": 28}])
def test_what_shapes_tell_is_read_from_them(tmp_path, config):
    own = {**OWN, "depth": 2}
    model = draw_weights(DiT(**{"input_size": 8, "num_classes": 10, **own, **config}), seed=1)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    found = load_dit(str(tmp_path / "a.safetensors"), own_size=own)
    assert {key: found.config[key] for key in config} == config
    assert same(found, model)


def test_other_sizes_are_to_be_given_with_their_heads(tmp_path, model):
    """Heads change the function but no shape, so that they cannot be guessed."""
    path = write_original(tmp_path / "a.pt", model.state_dict(), "")
    advice = ("it has patch_size 2, hidden_size 48, depth 28: leave prepare.dit_size empty and set these, and "
              "num_heads as it was trained with")
    for size, own, what in (("DiT-XL/2", OWN, "DiT-XL/2"), ("", {**OWN, "depth": 4}, "DiT of the size given"),
                            ("", None, "DiT of the size given")):
        with pytest.raises(ValueError, match=f"^{path} is no {what}; {advice}$"):
            load_dit(str(path), size, own)
    assert not same(load_dit(str(path), own_size={**OWN, "num_heads": 2}), model, 1e-3)


@torch.no_grad()
def test_difffit_scales_of_a_checkpoint_are_folded_in(tmp_path):
    """As in the state of a fine-tuning with the published code, whose first half of blocks carries them."""
    own = {"patch_size": 2, "hidden_size": 32, "depth": 6, "num_heads": 2}
    model = draw_weights(add_difffit(DiT(input_size=8, num_classes=10, **own), 3), seed=5)
    path = write_original(tmp_path / "a.pt", model.state_dict(), "ema")
    found = load_dit(str(path), own_size=own, warn=lambda line: None)
    assert not any("gamma" in name for name, _ in found.named_parameters())
    assert same(found, model, 1e-5)
    plain = {name: tensor for name, tensor in model.state_dict().items() if "gamma" not in name}
    assert not same(DiT(input_size=8, num_classes=10, **own).load_original(plain).eval(), model, 1e-3)


@torch.no_grad()
def test_the_reference_s_own_weights(tmp_path):
    """The state whose outputs the public implementation computed, through the file that it would write."""
    reference = tensors("dit", "dit")
    own = {"patch_size": 2, "hidden_size": 96, "depth": 4, "num_heads": 4}
    model = draw_weights(DiT(input_size=8, num_classes=10, **own), seed=0)
    path = write_original(tmp_path / "a.pt", model.state_dict(), "ema")
    found = load_dit(str(path), own_size=own, warn=lambda line: None)
    found = found(reference["in/x"], reference["in/t"], reference["in/y"])
    assert error(found, reference["out/forward"]) < 1e-5


# ---- diffusers' format -----------------------------------------------------------------------------------------------

def twin_of(model: DiT) -> diffusers.DiTTransformer2DModel:
    """Return diffusers' class with the weights of a DiT, renamed as the public conversion does [F §2.6]."""
    config, state = model.config, model.state_dict()
    heads = config.num_heads
    twin = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=config.hidden_size // heads, in_channels=config.in_channels,
        out_channels=2 * config.in_channels, num_layers=config.depth, sample_size=config.input_size,
        patch_size=config.patch_size, num_embeds_ada_norm=config.num_classes)
    renamed = {}
    for kind in ("weight", "bias"):
        renamed |= {f"pos_embed.proj.{kind}": state[f"x_embedder.proj.{kind}"],
                    f"proj_out_1.{kind}": state[f"final_layer.adaLN_modulation.1.{kind}"],
                    f"proj_out_2.{kind}": state[f"final_layer.linear.{kind}"]}
        for i in range(config.depth):
            theirs, ours = f"transformer_blocks.{i}.", f"blocks.{i}."
            q, k, v = state[f"{ours}attn.qkv.{kind}"].chunk(3)
            renamed |= {f"{theirs}norm1.emb.timestep_embedder.linear_1.{kind}": state[f"t_embedder.mlp.0.{kind}"],
                        f"{theirs}norm1.emb.timestep_embedder.linear_2.{kind}": state[f"t_embedder.mlp.2.{kind}"],
                        f"{theirs}norm1.linear.{kind}": state[f"{ours}adaLN_modulation.1.{kind}"],
                        f"{theirs}attn1.to_q.{kind}": q, f"{theirs}attn1.to_k.{kind}": k,
                        f"{theirs}attn1.to_v.{kind}": v,
                        f"{theirs}attn1.to_out.0.{kind}": state[f"{ours}attn.proj.{kind}"],
                        f"{theirs}ff.net.0.proj.{kind}": state[f"{ours}mlp.fc1.{kind}"],
                        f"{theirs}ff.net.2.{kind}": state[f"{ours}mlp.fc2.{kind}"]}
    for i in range(config.depth):
        renamed[f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight"] = state[
            "y_embedder.embedding_table.weight"]
    twin.load_state_dict(renamed)
    return twin.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model) -> Path:
    """A pipeline folder around diffusers' form of the model."""
    folder = tmp_path_factory.mktemp("hub") / "DiT-XL-2-256"
    twin_of(model).save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    (folder / "vae").mkdir()
    return folder


def test_diffusers_folders(folder, model):
    for path in (folder, folder / "transformer"):
        found = load_dit(str(path), frequencies="original")
        assert {key: found.config[key] for key in OWN} == OWN
        assert same(found, model, 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_that_diffusers_class_trained_is_that_model(tmp_path, little, tied):
    """Folder and file, with embedders that are alike in all blocks or were trained apart, saved here and reopened."""
    twin = twin_of(little)
    if not tied:
        draw_weights(twin, seed=8)
    twin.save_pretrained(tmp_path / "folder")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in twin.state_dict().items()}}, tmp_path / "a.pt")
    x, t, y = batch()
    expected = twin(x, timestep=t, class_labels=y).sample
    for name in ("folder", "a.pt"):
        found = load_dit(str(tmp_path / name), own_size=LITTLE, frequencies="diffusers", side=8, warn=lambda line: None)
        assert (found.config.frequency_shift, found.config.own_embedders) == (1, not tied)
        assert error(found(x, t, y), expected) < 1e-5
        found.save_pretrained(tmp_path / "again" / name)
        assert same(load_dit(str(tmp_path / "again" / name)), found)
        converted = load_dit(str(tmp_path / name), own_size=LITTLE, frequencies="original", side=8, warn=lambda _: None)
        assert error(converted(x, t, y), expected) > 1e-3
        assert not tied or same(converted, little, 1e-6)


@pytest.mark.parametrize("name", ["folder", "a.safetensors"])
def test_frequencies_that_names_do_not_tell_are_asked_for(tmp_path, little, name):
    twin = twin_of(little)
    twin.save_pretrained(tmp_path / "folder")
    save_file(twin.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=rf"{tmp_path / name} holds a DiT under diffusers' names, without "
                                         r"its timestep frequencies; set prepare\.dit_frequencies to diffusers"):
        load_dit(str(tmp_path / name), own_size=LITTLE, side=8)


@pytest.mark.parametrize(("options", "what"), [
    ({"attention_bias": False}, "attention_bias False"), ({"activation_fn": "geglu"}, "activation_fn geglu"),
    ({"out_channels": 12}, "out_channels 12 for 4")])
def test_other_kinds_of_diffusers_class_are_named(tmp_path, options, what):
    kind = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 8, "num_layers": 1,
            "sample_size": 8, "num_embeds_ada_norm": 10} | options
    diffusers.DiTTransformer2DModel(**kind).save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match=f"folder is a DiT of another kind: its config.json has {what}; give one that"):
        load_dit(str(tmp_path / "folder"), frequencies="diffusers")


@pytest.mark.parametrize(("scheduler", "what"), [
    (diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"), ""),
    (diffusers.DDPMScheduler(prediction_type="v_prediction"), "prediction_type v_prediction"),
    (diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2"), "beta_schedule squaredcos_cap_v2"),
    (diffusers.DPMSolverMultistepScheduler(beta_start=8.5e-4, beta_end=0.012), "beta_start 0.00085, beta_end 0.012"),
    (diffusers.FlowMatchEulerDiscreteScheduler(), "a noise process of its own")])
def test_a_pipeline_of_another_noise_process_is_refused(tmp_path, little, scheduler, what):
    little.save_pretrained(tmp_path / "pipeline" / "transformer")
    scheduler.save_pretrained(tmp_path / "pipeline" / "scheduler")
    if not what:
        assert same(load_dit(str(tmp_path / "pipeline")), little)
        return
    with pytest.raises(ValueError, match=f"scheduler has {what}, but a DiT here predicts the noise of 1,000 linear"):
        load_dit(str(tmp_path / "pipeline"))


@torch.no_grad()
def test_loaded_model_is_diffusers_with_frequencies_and_eps_put_right(folder):
    twin = diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer", norm_eps=1e-6).eval()
    ours, (x, t, y) = load_dit(str(folder), frequencies="original"), batch()
    assert error(ours(x, t, y), twin(x, timestep=t, class_labels=y).sample) > 1e-3
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    assert error(ours(x, t, y), twin(x, timestep=t, class_labels=y).sample) < 1e-5


def test_the_hub_s_own_folder_is_older(folder, model, tmp_path):
    """Its class is still called Transformer2DModel, and its weights are a pickle."""
    old = shutil.copytree(folder, tmp_path / "old") / "transformer"
    config = json.loads((old / "config.json").read_text())
    config |= {"_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0", "cross_attention_dim": None,
               "num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False}
    (old / "config.json").write_text(json.dumps(config))
    torch.save(load_file(old / WEIGHTS), old / "diffusion_pytorch_model.bin")
    (old / WEIGHTS).unlink()
    assert same(load_dit(str(old.parent), frequencies="original"), model, 1e-6)
    assert not HUB_CONFIG.items() <= config.items()  # it is too narrow
    xl = config | {"attention_head_dim": 72, "num_attention_heads": 16, "num_embeds_ada_norm": 1000}
    assert HUB_CONFIG.items() <= xl.items()
    assert not HUB_CONFIG.items() <= (xl | {"_class_name": "DiTTransformer2DModel"}).items()


def test_what_save_pretrained_wrote(tmp_path, model):
    model.save_pretrained(tmp_path / "dit")
    assert same(load_dit(str(tmp_path / "dit")), model)
    with pytest.raises(ValueError, match=r"frequencies, and they are not prepare\.dit_frequencies 'diffusers'; leave"):
        load_dit(str(tmp_path / "dit"), frequencies="diffusers")
    with pytest.raises(ValueError, match=rf"{tmp_path}/dit is no DiT-S/2; it has patch_size 2, hidden_size 48, depth"):
        load_dit(str(tmp_path / "dit"), "DiT-S/2")


def test_every_size_name_of_the_parameters_is_a_size():
    for name in DIT_SIZES:
        assert validate("00_prepare", {"dit_size": name, "image_size": 32}).dit_size == name
    with pytest.raises(ValueError, match=r"prepare.dit_size is 'DiT-S2', but input should be '', .*'DiT-XL/2'"):
        validate("00_prepare", {"dit_size": "DiT-S2"})


# ---- What does not fit, is damaged, or is not there ------------------------------------------------------------------

def test_models_for_other_latents_are_told(model):
    check_fit(model, "x.pt", channels=4, side=8)
    for values, sentence in (
            ({"side": 32}, r"x.pt was made for latents of 4 channels and side 8, but prepare.autoencoder and "
                           r"prepare.image_size lead to 4 channels and side 32; set prepare.image_size to 64, the"),
            ({"channels": 3}, r"lead to 3 channels and side 8")):
        with pytest.raises(ValueError, match=sentence):
            check_fit(model, "x.pt", **{"channels": 4, "side": 8, "factor": 8, **values})


def test_pickled_code_is_not_run(tmp_path, folder, model):
    trace = tmp_path / "trace"
    torch.save({"ema": model.state_dict(), "args": MakesFile(trace)}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=rf"{tmp_path}/evil.pt holds an object of .* could run code"):
        load_dit(str(tmp_path / "evil.pt"))
    other = shutil.copytree(folder / "transformer", tmp_path / "other")
    (other / WEIGHTS).unlink()
    shutil.copy(tmp_path / "evil.pt", other / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"{other} cannot be used \(Unable to load weights"):
        load_dit(str(other))
    assert not trace.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # it would have been
    assert trace.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_damaged_checkpoints(tmp_path, model, name, content):
    path = write_original(tmp_path / name, model.state_dict(), "")
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ValueError, match=rf"{path} cannot be read as weights \(.*\); fetch it again"):
        load_dit(str(path), own_size=OWN)


def test_files_of_other_models(tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_file({"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"{path} has no x_embedder.proj.weight and no .*; it has fc.weight …"):
        load_dit(str(path))
    state = model.state_dict()
    del state["blocks.3.mlp.fc2.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"the checkpoint lacks blocks\.3\.mlp\.fc2\.bias"):
        load_dit(str(path), own_size=OWN)


def test_folders_of_other_models(folder, tmp_path):
    other = shutil.copytree(folder / "transformer", tmp_path / "other")
    diffusers.AutoencoderTiny(encoder_block_out_channels=(4,) * 4).save_pretrained(other)
    with pytest.raises(ValueError, match=rf"{other} cannot be used \(it holds a model of class AutoencoderTiny, not "
                                         r"DiTTransformer2DModel\); give the folder that save_pretrained"):
        load_dit(str(other))


def test_a_missing_file_names_the_command_that_brings_it(tmp_path):
    path = tmp_path / "DiT-XL-2-256x256.pt"
    with pytest.raises(ValueError, match=rf"prepare.base_model is {path}, which does not exist; bring the weights with "
                                         rf"'curl -L --create-dirs -o {path} https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x2"):
        load_dit(str(path))


def test_base_models_are_told_apart_without_opening_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "dit").mkdir(parents=True)
    (tmp_path / "data" / "x.pt").touch()
    assert find_dit("data/dit") == tmp_path / "data" / "dit"
    assert find_dit("data/x.pt") == tmp_path / "data" / "x.pt"
    assert find_dit("facebook/DiT-XL-2-256") is None
    for missing in ("data/y.pt", "data/y.safetensors", "a/b/c", str(tmp_path / "dit"), "dit"):
        with pytest.raises(ValueError, match=rf"prepare.base_model is {tmp_path}/.*, which does not exist; bring"):
            find_dit(missing)


def hub_process(home: Path, **environment: str) -> subprocess.CompletedProcess:
    """Load a model by its hub name in a process of its own, and print a number that depends on its weights."""
    program = """
from dgs_utils.diffusion.dit_weights import load_dit
try:
    print(load_dit("facebook/DiT-XL-2-256").final_layer.linear.bias.double().sum().item())
except ValueError as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=HANG, cwd=home,
                          env=os.environ | {"HF_HOME": str(home)} | environment)


def test_hub_names_without_a_network(tmp_path):
    """The hub is a port that nobody listens on."""
    result = hub_process(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert result.stdout.startswith("facebook/DiT-XL-2-256 could not be downloaded from the hub ("), result.stderr
    assert (f"; there is no folder {tmp_path}/facebook/DiT-XL-2-256 either; fetch one with \"hf download "
            f"facebook/DiT-XL-2-256 --include 'transformer/*' --local-dir DiT-XL-2-256\", on another machine if need "
            f"be, and set prepare.base_model to it") in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_hub_names_take_what_was_downloaded_before(tmp_path, folder, model):
    cached = tmp_path / "hub" / "models--facebook--DiT-XL-2-256"
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    result = hub_process(tmp_path, HF_HUB_OFFLINE="1")
    assert float(result.stdout) == model.final_layer.linear.bias.double().sum().item(), result.stderr
