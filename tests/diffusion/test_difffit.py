"""DiffFit: what is trained, where the scales act, and that folding them away changes nothing."""

import copy

import pytest
import torch
from oracle import draw_weights, error, tensors

from dgs_utils.diffusion.difffit import add_difffit, fold, trainable_parameters
from dgs_utils.diffusion.dit import DiT

CONFIG = {"input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "depth": 16, "num_heads": 2,
          "num_classes": 10}


@pytest.fixture(scope="module")
def reference():
    return tensors("dit", "difffit")


@pytest.fixture
def model(reference) -> DiT:
    model = draw_weights(add_difffit(DiT(**CONFIG), blocks=14), seed=5)
    drawn = [model.final_layer.linear.bias[0], model.x_embedder.proj.weight.flatten()[0],
             model.blocks[1].mlp.fc1.weight.double().sum()]
    torch.testing.assert_close(torch.stack([value.float() for value in drawn]), reference["check"],
                               msg="this torch draws other normals than those behind the reference outputs")
    return model


@torch.no_grad()
def forward(model: DiT, reference, dtype=torch.float64) -> torch.Tensor:
    model = model.double() if dtype == torch.float64 else model
    return model(reference["in/x"].to(dtype), reference["in/t"], reference["in/y"])


def test_forward_equals_the_published_one(model, reference):
    assert error(forward(model, reference, torch.float32), reference["out/forward"]) < 1e-5
    # The double-precision reference still rounds its timestep features to single precision.
    assert error(forward(model, reference), reference["out/forward_f64"]) < 1e-6


@torch.no_grad()
def test_forward_equals_the_published_one_with_strong_weights(model, reference):
    for name, parameter in model.named_parameters():
        if name != "pos_embed" and "gamma" not in name:
            parameter.mul_(4)
    assert error(forward(model, reference), reference["out/forward_weights_x4_f64"]) < 1e-5


def test_folding_changes_nothing(model, reference):
    before = forward(model, reference)
    assert fold(model) is model
    assert not [name for name, _ in model.named_parameters() if "gamma" in name]
    assert error(forward(model, reference), before) < 1e-13
    plain = DiT(**CONFIG).double().load_original(model.state_dict()).eval()
    assert torch.equal(forward(plain, reference), forward(model, reference))


def test_each_scale_acts_in_the_right_place(model, reference):
    """Folding by hand, one scale at a time, gives the same as the module's own scaling."""
    before = forward(model, reference)
    places = {"attn.gamma1": "attn.qkv", "attn.gamma2": "attn.proj", "gamma1": "attn.proj", "gamma2": "mlp.fc2"}
    block = model.blocks[3]
    for scale, layer in places.items():
        gamma, linear = block.get_parameter(scale), block.get_submodule(layer)
        with torch.no_grad():
            linear.weight.copy_(torch.einsum("o,oi->oi", gamma, linear.weight))
            linear.bias.copy_(gamma * linear.bias)
            gamma.fill_(1)
        assert error(forward(model, reference), before) < 1e-13, scale


def test_new_scales_are_ones_in_the_first_half_and_change_nothing(reference):
    model = draw_weights(DiT(**CONFIG), seed=1)
    before = forward(model, reference)
    assert add_difffit(model) is model
    assert torch.equal(forward(model, reference), before)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if "gamma" in name}
    sizes = {"attn.gamma1": 96, "attn.gamma2": 32, "gamma1": 32, "gamma2": 32}
    assert shapes == {f"blocks.{i}.{name}": (size,) for i in range(8) for name, size in sizes.items()}
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_scales_that_are_there_already_are_kept(model):
    before = copy.deepcopy(model.state_dict())
    after = add_difffit(model, blocks=16).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert after["blocks.15.gamma2"].equal(torch.ones(32))


@pytest.mark.parametrize("blocks", [-1, 17])
def test_number_of_scaled_blocks_is_checked(blocks):
    with pytest.raises(ValueError, match=f"scaled_blocks is {blocks}, but the DiT has 16 blocks"):
        add_difffit(DiT(**CONFIG), blocks)


def test_published_model_trains_a_quarter_percent():
    with torch.device("meta"):
        model = add_difffit(DiT.from_size("DiT-XL/2"))
    trained = trainable_parameters(model)
    count = {kind: sum(p.numel() for name, p in trained.items() if kind in name) for kind in ("bias", "y_emb", "gamma")}
    assert count == {"bias": 489_632, "y_emb": 1_153_152, "gamma": 96_768}
    assert sum(p.numel() for p in trained.values()) == sum(count.values()) == 1_739_552
    assert sum(p.numel() for p in model.parameters()) == 675_226_400


def test_only_what_is_returned_gets_gradients(model):
    trained = trainable_parameters(model.train())
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.tensor([1, 2])
    model(x, t, y).square().mean().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == trained.keys()
    assert all(trained[name] is dict(model.named_parameters())[name] for name in trained)
    endings = {name.rsplit(".", 1)[-1] for name in trained} - {"bias", "gamma1", "gamma2"}
    assert endings == {"weight"}  # the label table
    assert [name for name in trained if name.endswith("weight")] == ["y_embedder.embedding_table.weight"]
