"""Steps that extrapolate: by the published series, image by image, and of nothing but the same batch, guided alike."""

from itertools import groupby

import pytest
import torch
from diffusers.models.cache_utils import CacheMixin
from oracle import draw_weights, error
from torch import nn

from dgs_utils.diffusion.caching import WARMUP_STEPS, cache_scope, enable_taylorseer
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.sampling import SOLVERS, Guidance, sample
from dgs_utils.params import validate
from dgs_utils.runtime.seeds import torch_rng

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
STEPS, GUIDANCE = 20, Guidance(2.0)


def small_model(interval: int = 0, order: int = 1) -> DiT:
    """Return a DiT that extrapolates, or computes all steps for interval 0."""
    model = draw_weights(DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=2, num_heads=2,
                             num_classes=3), seed=0)
    with torch.no_grad():
        for block in model.blocks:
            for gate in block.adaLN_modulation[1].bias.chunk(6)[2::3]:
                gate.fill_(3)  # so that the layers say much
    if interval:
        enable_taylorseer(model, interval, order)
    return model


def sampled(model: DiT, images=range(3), solver: str = "dpm++", guidance: Guidance = GUIDANCE) -> torch.Tensor:
    rngs = [torch_rng("test", i) for i in images]
    return sample(model, torch.tensor([i % 3 for i in images]), rngs, steps=STEPS, guidance=guidance, solver=solver)


def computed(steps: int, interval: int) -> list[int]:
    """Return which of some steps are computed: the first ones and, after one that is not, one of every so many."""
    return [step for step in range(steps) if step < WARMUP_STEPS or (step - WARMUP_STEPS - 1) % interval == 0]


# ---- The series ------------------------------------------------------------------------------------------------------

class Signal(nn.Module):
    """Returns a polynomial of how often it should have been called, whether it is or not."""

    def __init__(self, coefficients: list[float]):
        super().__init__()
        self.coefficients, self.step = torch.tensor(coefficients, dtype=torch.float64), 0

    def value(self, step: int) -> torch.Tensor:
        return (self.coefficients * float(step) ** torch.arange(len(self.coefficients))).sum()

    def forward(self) -> torch.Tensor:
        return self.value(self.step).float()


class Layers(nn.Module, CacheMixin):
    """Two signals under the names of a DiT's layers."""

    def __init__(self):
        super().__init__()
        block = nn.Module()
        block.attn, block.mlp = Signal([3.0, -1.0, 0.5]), Signal([1.0, 2.0])
        self.blocks = nn.ModuleList([block])

    def forward(self) -> list[torch.Tensor]:
        return [self.blocks[0].attn(), self.blocks[0].mlp()]


def extrapolated(value, step: int, interval: int, order: int) -> float:
    """Taylor's series about the last computed step, with derivatives from divided differences of earlier ones."""
    past = [place for place in computed(step + 1, interval) if place <= step][::-1]
    if past[0] == step:
        return value(step)
    a, b, c = past[:3]
    slope, before = (value(a) - value(b)) / (a - b), (value(b) - value(c)) / (b - c)
    terms = [value(a), (step - a) * slope, (step - a) ** 2 / 2 * (slope - before) / (a - b)]
    return sum(terms[: order + 1])


@pytest.mark.parametrize("interval", [1, 2, 5])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_layers_follow_the_series(interval, order):
    model = Layers()
    enable_taylorseer(model, interval, order)
    attention, mlp = model.blocks[0].attn, model.blocks[0].mlp
    with cache_scope(model) as step:
        for i in range(STEPS):
            attention.step = mlp.step = i
            with step(4.0):
                found = model()
            for signal, value in zip((attention, mlp), found, strict=True):
                assert value.item() == pytest.approx(float(extrapolated(signal.value, i, interval, order)), rel=1e-5)
            if order == 1:  # a line goes on as it is
                assert found[1].item() == pytest.approx(1 + 2 * i, rel=1e-5)


# ---- Images ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("solver", SOLVERS)
def test_an_interval_of_one_step_computes_all(solver):
    assert torch.equal(sampled(small_model(1, 2), solver=solver), sampled(small_model(), solver=solver))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_images_stay_near_and_do_not_depend_on_their_batch(solver, order):
    model, exact = small_model(3, order), small_model()
    together, computed_together = (sampled(either, range(3), solver) for either in (model, exact))
    for i in range(3):
        assert error(sampled(model, [i], solver)[0], together[i]) < 1e-5
        assert error(sampled(exact, [i], solver)[0], computed_together[i]) < 1e-5  # no worse than this
    assert 1e-4 < error(together, computed_together) < 0.01


def test_nothing_of_another_batch_is_remembered():
    model = small_model(4)
    first = sampled(model)

    def out_of_memory(*_) -> None:
        raise torch.OutOfMemoryError

    hook = model.blocks[1].mlp.register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        sampled(model, range(2))
    hook.remove()
    sampled(model, range(3, 8))
    assert torch.equal(sampled(model), first)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7), (0.5, 1.0)])
def test_steps_with_guidance_and_without_tell_nothing_of_each_other(interval):
    """Each stretch begins with computed steps, of both halves of guidance or of one image alone."""
    guidance, model, asked = Guidance(3.0, interval=interval), small_model(5), list[int]()
    model.blocks[0].attn.qkv.register_forward_hook(lambda *call: asked.append(len(call[-1])))
    times = list[int]()
    model.t_embedder.register_forward_pre_hook(lambda _, inputs: times.append(int(inputs[0][0])))
    sampled(model, [0], guidance=guidance)
    stretches = [(scale, len([*steps])) for scale, steps in groupby(map(guidance.at, times))]
    assert len(stretches) == {(0.0, 1.0): 1, (0.3, 0.7): 3, (0.5, 1.0): 2}[interval]
    assert asked == [1 if scale == 1 else 2 for scale, length in stretches for _ in computed(length, 5)]
    assert error(sampled(model, guidance=guidance), sampled(small_model(), guidance=guidance)) < 0.01


def test_a_model_is_saved_as_if_it_computed_all():
    assert small_model(5).state_dict().keys() == small_model().state_dict().keys()


# ---- Settings --------------------------------------------------------------------------------------------------------

def test_new_noise_at_each_step_is_refused():
    with pytest.raises(ValueError, match="extrapolates from step to step, but ancestral steps add new noise to each"):
        sampled(small_model(5), solver="ancestral")
    with pytest.raises(ValueError, match=r"pool\.cache is 'taylorseer', .* set the solver to 'ddim', 'dpm\+\+' or"):
        validate("02_pool", {"cache": "taylorseer"})


def test_the_cache_is_part_of_the_key_of_a_pool():
    plain, cached = (validate("02_pool", {"solver": "ddim", **values}).cache_params()
                     for values in ({}, {"cache": "taylorseer"}))
    assert cached == plain | {"cache": "taylorseer"} != plain
