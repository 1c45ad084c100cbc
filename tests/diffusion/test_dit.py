"""The DiT is numerically the original: against its outputs, diffusers' twin, and formulas written out here."""

import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import draw_weights, error, tensors

from dgs_utils.diffusion.diffusers_conversion import from_diffusers_names
from dgs_utils.diffusion.dit import DIT_SIZES, DiT, LabelEmbedder, TimestepEmbedder, position_table

SMALL = {"input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 96, "depth": 4, "num_heads": 4,
         "num_classes": 10}
TINY = {"input_size": 4, "patch_size": 2, "in_channels": 1, "hidden_size": 8, "depth": 1, "num_heads": 2,
        "num_classes": 3}


@pytest.fixture(scope="module")
def reference():
    return tensors("dit", "dit")


@pytest.fixture(scope="module")
def model(reference) -> DiT:
    model = draw_weights(DiT(**SMALL), seed=0)
    drawn = [model.final_layer.linear.bias[0], model.x_embedder.proj.weight.flatten()[0],
             model.blocks[1].mlp.fc1.weight.double().sum()]
    torch.testing.assert_close(torch.stack([value.float() for value in drawn]), reference["check"],
                               msg="this torch draws other normals than those behind the reference outputs")
    return model


def batch(seed: int = 0, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, 8, 8, generator=rng)
    return x, torch.randint(1000, (n,), generator=rng), torch.randint(11, (n,), generator=rng)


# ---- The original's outputs ------------------------------------------------------------------------------------------

@torch.no_grad()
def test_forward_equals_the_original(model, reference):
    found = model(reference["in/x"], reference["in/t"], reference["in/y"])
    assert error(found, reference["out/forward"]) < 1e-5


@torch.no_grad()
def test_guidance_equals_the_original(model, reference):
    x, t, y = (reference[f"cfg_in/{name}"][:3] for name in "xty")
    found = model.forward_with_guidance(x, t, y, scale=4.0)
    assert error(found, reference["out/forward_with_cfg4"][:3]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_guidance_moves_away_from_the_null_class(model, channels):
    x, t, y = batch()
    with_class, without = model(x, t, y), model(x, t, torch.full_like(y, 10))
    expected = with_class.clone()
    guided = channels or 3  # of four latent channels the published code guides three
    expected[:, :guided] = without[:, :guided] + 2.5 * (with_class[:, :guided] - without[:, :guided])
    torch.testing.assert_close(model.forward_with_guidance(x, t, y, 2.5, channels), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_guidance_takes_all_channels_of_pixels():
    model = draw_weights(DiT(**TINY), seed=1)
    x, t, y = torch.randn(2, 1, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 2])
    with_class, without = model(x, t, y), model(x, t, torch.tensor([3, 3]))
    found = model.forward_with_guidance(x, t, y, 3.0)
    torch.testing.assert_close(found[:, 0], (3 * with_class - 2 * without)[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 1], with_class[:, 1])


@torch.no_grad()
def test_guidance_scale_one_is_the_plain_forward_pass(model):
    x, t, y = batch()
    assert torch.equal(model.forward_with_guidance(x, t, y, 1.0), model(x, t, y))


# ---- A second implementation -----------------------------------------------------------------------------------------

def diffusers_twin(**options) -> diffusers.DiTTransformer2DModel:
    torch.manual_seed(0)
    twin = diffusers.DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=24, in_channels=4, out_channels=8,
                                           num_layers=3, sample_size=8, patch_size=2, num_embeds_ada_norm=10, **options)
    embedders = [block.norm1.emb for block in twin.transformer_blocks]
    for embedder in embedders:
        embedder.load_state_dict(embedders[0].state_dict())
        embedder.time_proj.downscale_freq_shift = 0  # theirs is 1, which the original's weights were not trained with
    return twin.eval()


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"norm_eps": 1e-3}])
def test_equals_diffusers_own_forward_pass(options):
    """With its own frequencies, its own ε and embedders of each block's own, as its class has them from the start."""
    torch.manual_seed(0)
    twin = diffusers.DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=24, in_channels=4, out_channels=8,
                                           num_layers=3, sample_size=8, patch_size=2, num_embeds_ada_norm=10, **options)
    draw_weights(twin, seed=2)
    config = {**SMALL, "depth": 3, "frequency_shift": 1, "norm_eps": twin.config.norm_eps, "own_embedders": True}
    ours = DiT(**config).load_original(from_diffusers_names(twin.state_dict())).eval()
    x, t, y = batch()
    theirs = twin(x, timestep=t, class_labels=y).sample
    assert error(ours(x, t, y), theirs) < 1e-5
    for other in ({"frequency_shift": 0}, *([{"norm_eps": 1e-6}] if options else [])):
        wrong = DiT(**{**config, **other}).load_original(ours.state_dict()).eval()
        assert error(wrong(x, t, y), theirs) > 1e-4


@torch.no_grad()
def test_equals_diffusers_with_its_frequencies_and_eps_put_right():
    twin = diffusers_twin(norm_eps=1e-6)
    ours = DiT(**{**SMALL, "depth": 3}).load_original(from_diffusers_names(twin.state_dict())).eval()
    x, t, y = batch()
    theirs = twin(x, timestep=t, class_labels=y).sample
    assert error(ours(x, t, y), theirs) < 1e-5
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 1
    assert error(ours(x, t, y), twin(x, timestep=t, class_labels=y).sample) > 1e-3


def test_blocks_keep_embedders_that_drifted_apart_and_drop_labels_together(tmp_path):
    state = diffusers_twin().state_dict()
    assert not any("embedder." in name for name in from_diffusers_names(state) if name.startswith("blocks."))
    state["transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"] += 1
    model = DiT(**{**SMALL, "depth": 3}, own_embedders=True, class_dropout=1.0)
    model.load_original(from_diffusers_names(state))
    model.save_pretrained(tmp_path)
    again = DiT.from_pretrained(tmp_path)
    x, t, y = batch()
    with torch.no_grad():
        assert torch.equal(again(x, t, y), model.eval()(x, t, y))
        assert torch.equal(model.train()(x, t, y), model.eval()(x, t, torch.full_like(y, 10)))  # all are dropped


@pytest.mark.parametrize(("name", "what"), [
    ("transformer_blocks.1.attn1.to_k.bias", r"lacks blocks\.1\.attn\.k\.bias; it is a part of a DiT"),
    ("proj_out_2.weight", r"lacks final_layer\.linear\.weight"),
    ("", r"holds transformer_blocks\.1\.attn2\.to_q\.weight, whi")])
def test_what_is_no_whole_diffusers_dit_is_named(name, what):
    state = diffusers_twin().state_dict()
    if name:
        del state[name]
    else:
        state["transformer_blocks.1.attn2.to_q.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=what):
        DiT(**{**SMALL, "depth": 3}).load_original(from_diffusers_names(state))


# ---- Parts, by their formulas ----------------------------------------------------------------------------------------

def test_position_table_has_columns_first_and_rows_second():
    grid, width = 3, 16
    table = position_table(grid, width)[0]
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            expected = [f(place * 10_000 ** (-i / quarter)) for place in (column, row) for f in (math.sin, math.cos)
                        for i in range(quarter)]
            torch.testing.assert_close(table[row * grid + column], torch.tensor(expected))


@pytest.mark.parametrize("t", [0, 1, 20, 500, 999])
@pytest.mark.parametrize("shift", [0, 1])
def test_timestep_frequencies_go_by_128ths_or_as_diffusers_by_127ths(t, shift):
    embedder = TimestepEmbedder(8, shift)
    seen = []
    embedder.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    embedder(torch.tensor([t]))
    expected = [f(t * 10_000 ** (-i / (128 - shift))) for f in (math.cos, math.sin) for i in range(128)]
    torch.testing.assert_close(seen[0][0], torch.tensor(expected), rtol=0, atol=1e-6)
    theirs = diffusers.models.embeddings.Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=shift)
    torch.testing.assert_close(seen[0], theirs(torch.tensor([t])), rtol=0, atol=5e-4)  # in single precision


def expected_parameters(depth, hidden_size, patch_size, channels=4, classes=1000, grid_side=32, **_) -> int:
    """Count by hand: embedders, per block qkv, proj, MLP and modulation, final layer, position table."""
    d = hidden_size
    linear = lambda n, m: n * m + m  # noqa: E731
    embedders = linear(patch_size**2 * channels, d) + linear(256, d) + linear(d, d) + (classes + 1) * d
    block = linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + linear(d, 6 * d)
    final = linear(d, 2 * d) + linear(d, patch_size**2 * 2 * channels)
    return embedders + depth * block + final + (grid_side // patch_size) ** 2 * d


@pytest.mark.parametrize("name", DIT_SIZES)
def test_parameter_counts_of_the_published_sizes(name):
    with torch.device("meta"):
        model = DiT.from_size(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == expected_parameters(**DIT_SIZES[name])
    if name == "DiT-XL/2":
        assert count == 675_129_632


def test_a_fresh_model_outputs_zero_and_leaves_tokens_alone():
    model = DiT(**TINY)
    tokens, condition = torch.randn(2, 4, 8), torch.randn(2, 8)
    assert torch.equal(model.blocks[0](tokens, condition), tokens)
    assert not model(torch.randn(2, 1, 4, 4), torch.tensor([0, 999]), torch.tensor([0, 3])).any()


def test_output_channels_follow_learn_sigma():
    x, t, y = torch.randn(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 1])
    assert DiT(**TINY)(x, t, y).shape == (2, 2, 4, 4)
    assert DiT(**TINY, learn_sigma=False)(x, t, y).shape == (2, 1, 4, 4)


# ---- Label dropout ---------------------------------------------------------------------------------------------------

@settings(max_examples=20, deadline=None)
@given(rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_labels_are_dropped_at_the_given_rate_in_training_only(rate, seed):
    embedder, n = LabelEmbedder(3, 2, rate), 20_000
    null = embedder.embedding_table.weight[3]
    labels = torch.arange(n) % 3

    def dropped(training: bool) -> torch.Tensor:
        rows = embedder.train(training)(labels, torch.Generator().manual_seed(seed))
        return (rows == null).all(1)

    assert not dropped(False).any()
    found = dropped(True)
    assert abs(found.float().mean().item() - rate) <= 5 * math.sqrt(rate * (1 - rate) / n)
    assert torch.equal(found, dropped(True))
    kept = embedder(labels, torch.Generator().manual_seed(seed))[~found]
    assert torch.equal(kept, embedder.embedding_table.weight[labels[~found]])


def test_label_dropout_takes_the_global_stream_without_a_generator():
    embedder = LabelEmbedder(3, 2, 0.5)
    labels = torch.zeros(64, dtype=torch.int64)
    torch.manual_seed(0)
    first = embedder(labels)
    assert not torch.equal(embedder(labels), first)
    torch.manual_seed(0)
    assert torch.equal(embedder(labels), first)


# ---- Training and saving ---------------------------------------------------------------------------------------------

def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = draw_weights(DiT(**TINY, class_dropout=0.0), seed=2).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
            assert model.gradient_checkpointing
        rng = torch.Generator().manual_seed(0)
        model(torch.randn(2, 1, 4, 4, generator=rng), torch.tensor([1, 2]), torch.tensor([0, 1])).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@torch.no_grad()
def test_save_and_load_round_trip(tmp_path, model):
    model.save_pretrained(tmp_path / "dit")
    assert {f.name for f in (tmp_path / "dit").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = DiT.from_pretrained(tmp_path / "dit")
    assert {name: again.config[name] for name in SMALL} == SMALL
    assert not again.training
    x, t, y = batch()
    assert torch.equal(again(x, t, y), model(x, t, y))


def test_loading_original_weights(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = DiT(**SMALL)
    assert fresh.load_original(state) is fresh
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())
    del state["pos_embed"]  # a frozen constant that some checkpoints leave out
    assert torch.equal(DiT(**SMALL).load_original(state).pos_embed, model.pos_embed)


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda s: s.pop("blocks.3.mlp.fc2.bias"), r"lacks blocks\.3\.mlp\.fc2\.bias; it was made for another size"),
    (lambda s: s.update({"blocks.0.gamma1": torch.ones(96)}), r"holds blocks\.0\.gamma1, which this DiT does not have"),
    (lambda s: s.update({"y_embedder.embedding_table.weight": torch.zeros(1001, 96)}),
     r"y_embedder\.embedding_table\.weight has shape \(1001, 96\), this DiT needs \(11, 96\); check dit_size"),
    (lambda s: s.update({"pos_embed": torch.zeros(1, 256, 96)}), r"pos_embed has shape \(1, 256, 96\)"),
])
def test_load_original_refuses_what_does_not_fit_and_changes_nothing(model, change, sentence):
    state = model.state_dict()
    change(state)
    fresh = DiT(**SMALL)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=sentence):
        fresh.load_original(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize("wrong", [{"input_size": 5}, {"hidden_size": 6}, {"num_heads": 3}])
def test_sizes_must_divide(wrong):
    with pytest.raises(ValueError, match=r"does not divide evenly; input_size must be a multiple of patch_size"):
        DiT(**{**TINY, **wrong})


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'DiT-XXL/2' is no DiT size; choose one of DiT-XL/2, .*DiT-S/8"):
        DiT.from_size("DiT-XXL/2")
