"""The sampler on a process whose exact solution is known, against diffusers' scheduler, and image by image."""

from collections.abc import Callable
from types import SimpleNamespace

import diffusers
import pytest
import torch
from oracle import draw_weights, error
from torch import nn

from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.process import NoiseProcess
from dgs_utils.diffusion.sampling import Guidance, ModeGuidance, sample
from dgs_utils.runtime.seeds import torch_rng

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
SIDE = 16
MEANS = (-1.0, 2.0, 0.5)  # of two classes and of "no class"


class GaussianOptimum(nn.Module):
    """The best possible model of data N(mean of the class, std²): noise and variance follow from Bayes' rule.

    Both are exact, so that any number of ancestral steps samples the data's own distribution.
    """

    is_cache_enabled = False

    def __init__(self, std: float, steps: int, means=MEANS):
        super().__init__()
        self.config = SimpleNamespace(in_channels=2, input_size=SIDE, num_classes=len(means) - 1)
        self.means, self.std = nn.Parameter(torch.tensor(means)), std
        self.process = NoiseProcess().respaced(steps)
        self.alphas = NoiseProcess().alphas_cumprod.tolist()
        self.asked = []

    def forward_with_guidance(self, x, t, y, scale, channels=0):
        self.asked.append((int(t[0]), scale))
        null = self.means[-1]
        mean = (null + scale * (self.means[y] - null))[:, None, None, None]
        alpha = self.alphas[int(t[0])]
        spread = alpha * self.std**2 + 1 - alpha
        noise = (1 - alpha) ** 0.5 * (x - alpha**0.5 * mean) / spread
        return torch.cat([noise, torch.full_like(noise, self._v(int(t[0]), alpha, spread))], dim=1)

    def _v(self, t: int, alpha: float, spread: float) -> float:
        places = torch.where(self.process.timesteps == t)[0]
        if not len(places):  # a fast solver, which does not look at the variance
            return 0.0
        i, p = int(places[0]), self.process
        left = p.posterior_variance[i] + p.posterior_mean_coef1[i] ** 2 * self.std**2 * (1 - alpha) / spread
        low, high = p.posterior_log_variance_clipped[i], p.betas[i].log()
        return float(2 * (left.log() - low) / (high - low) - 1)


def rngs(n: int, name: str = "test") -> list[torch.Generator]:
    return [torch_rng(name, i) for i in range(n)]


def assert_gaussian(x: torch.Tensor, mean: float, std: float) -> None:
    """Check mean and deviation of all entries to five standard errors."""
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=5 * std / n**0.5)
    assert x.std().item() == pytest.approx(std, abs=5 * std / (2 * n) ** 0.5 + 0.003)


# ---- A process with a known solution ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("steps", "std"), [(2, 0.5), (10, 0.1), (10, 0.5), (50, 0.5), (50, 2.0)])
def test_ancestral_samples_have_the_data_s_distribution(steps, std):
    labels = torch.tensor([0, 1] * 40)
    x = sample(GaussianOptimum(std, steps), labels, rngs(80), steps=steps, guidance=Guidance(1.0))
    assert x.shape == (80, 2, SIDE, SIDE)
    assert x.dtype == torch.float32
    for label in (0, 1):
        assert_gaussian(x[labels == label], MEANS[label], std)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm++", "unipc"])
def test_a_perfect_model_of_one_image_finds_it_in_any_number_of_steps(solver):
    labels = torch.tensor([0, 1])
    for steps in (*range(1, 121), 999, 1000):
        model = GaussianOptimum(0.0, steps)
        x = sample(model, labels, rngs(2), steps=steps, solver=solver, guidance=Guidance(1.0))
        times = [t for t, _ in model.asked]
        assert len(times) == steps
        assert times[0] == 999
        assert sorted(set(times), reverse=True) == times
        assert times[-1] >= 0
        torch.testing.assert_close(x, model.means[labels][:, None, None, None].expand_as(x).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7, 30, 50, 60, 61, 64, 75, 103, 120, 333, 999, 1000])
def test_ddim_steps_from_each_time_of_its_list_to_the_next(steps):
    """A loop written out in double precision: x̂0 and the noise are mixed anew for the next time's ᾱ."""
    mean, std, labels = MEANS[0], 0.5, torch.tensor([0, 0])
    model = GaussianOptimum(std, steps)
    found = sample(model, labels, rngs(2), steps=steps, solver="ddim", guidance=Guidance(1.0))
    x = torch.stack([torch.randn(2, SIDE, SIDE, generator=g) for g in rngs(2)]).double()
    alphas = [model.alphas[t] for t, _ in model.asked]
    for alpha, after in zip(alphas, [*alphas[1:], 1.0], strict=True):
        noise = (1 - alpha) ** 0.5 * (x - alpha**0.5 * mean) / (alpha * std**2 + 1 - alpha)
        x = after**0.5 * (x - (1 - alpha) ** 0.5 * noise) / alpha**0.5 + (1 - after) ** 0.5 * noise
    torch.testing.assert_close(found.double(), x, rtol=0, atol=3e-4)


@pytest.mark.parametrize("steps", [4, 20, 50, 125])
def test_ddim_is_diffusers_own_where_steps_divide_the_process(steps):
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    model, labels = GaussianOptimum(0.5, steps), torch.tensor([0, 1])
    x = torch.stack([torch.randn(2, SIDE, SIDE, generator=g) for g in rngs(2)])
    for t in scheduler.timesteps:
        x = scheduler.step(model.forward_with_guidance(x, t[None], labels, 1.0)[:, :2], t, x).prev_sample
    found = sample(model, labels, rngs(2), steps=steps, solver="ddim", guidance=Guidance(1.0))
    torch.testing.assert_close(found, x.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("steps", [-1, 0, 1001, 4000])
def test_more_steps_than_the_process_has_are_refused(solver, steps):
    model = GaussianOptimum(0.5, 50)
    with pytest.raises(ValueError, match=f"{steps} sampling steps are asked of a process of 1000; choose 1 to 1000"):
        sample(model, torch.tensor([0]), rngs(1), steps=steps, solver=solver)
    assert model.asked == []


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm++", "unipc"])
def test_a_model_without_learned_variance_samples_its_data(solver):
    class NoiseAlone(GaussianOptimum):
        def forward_with_guidance(self, *arguments):
            return super().forward_with_guidance(*arguments)[:, :2]

    x = sample(NoiseAlone(0.1, 250), torch.tensor([0, 1]), rngs(2), steps=250, solver=solver, guidance=Guidance(1.0))
    for label in (0, 1):
        assert x[label].mean().item() == pytest.approx(MEANS[label], abs=0.05)
        assert x[label].std().item() == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm++", "unipc"])
def test_guidance_moves_the_mean_past_the_class(solver):
    labels = torch.tensor([0, 1] * 20)
    x = sample(GaussianOptimum(0.5, 50), labels, rngs(40), guidance=Guidance(3.0), solver=solver)
    for label in (0, 1):
        expected = MEANS[2] + 3.0 * (MEANS[label] - MEANS[2])
        assert x[labels == label].mean().item() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("steps", [20, 30, 50, 61, 75, 100, 1000])
@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
def test_fast_solvers_follow_the_flow(solver, steps):
    """The probability flow of Gaussian data is a straight map from each first latent to its sample."""
    labels, n = torch.tensor([0, 1] * 8), 16
    model = GaussianOptimum(0.5, 50)
    x = sample(model, labels, rngs(n), steps=steps, solver=solver, guidance=Guidance(1.0))
    assert len(model.asked) == steps
    assert model.asked[0] == (999, 1.0)
    first = torch.stack([torch.randn(2, SIDE, SIDE, generator=g) for g in rngs(n)])
    alpha = NoiseProcess().alphas_cumprod[-1].item()
    mean = torch.tensor(MEANS)[labels][:, None, None, None]
    exact = mean + 0.5 * (first - alpha**0.5 * mean) / (alpha * 0.25 + 1 - alpha) ** 0.5
    deviation = ((x - exact).square().mean().sqrt() / 0.5).item()
    assert deviation < (3 / steps + 0.001 if solver == "ddim" else 20 / steps**2 + 0.002)  # first and second order
    assert torch.equal(x, sample(GaussianOptimum(0.5, 50), labels, rngs(n), steps=steps, solver=solver,
                                 guidance=Guidance(1.0)))


@pytest.mark.parametrize(("interval", "guided"),
                         [((0.0, 1.0), 50), ((0.0, 0.0), 1), ((0.5, 1.0), 25), ((0.2, 0.6), 20)])
def test_guidance_acts_within_its_interval(interval, guided):
    model = GaussianOptimum(0.5, 50)
    sample(model, torch.tensor([0]), rngs(1), guidance=Guidance(4.0, interval=interval))
    assert [t for t, _ in model.asked] == model.process.timesteps.flip(0).tolist()
    low, high = interval
    assert [scale == 4.0 for _, scale in model.asked] == [low <= t / 999 <= high for t, _ in model.asked]
    assert {scale for _, scale in model.asked} <= {1.0, 4.0}
    assert sum(scale == 4.0 for _, scale in model.asked) == pytest.approx(guided, abs=1)


# ---- A real network --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def model() -> DiT:
    return draw_weights(DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=2, num_heads=2,
                            num_classes=3), seed=0)


def test_ancestral_steps_equal_diffusers_scheduler(model):
    """The same loop over their scheduler, which rounds ᾱ to single precision."""
    labels, n = torch.tensor([0, 1, 2]), 3
    scheduler = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="learned_range",
                                        clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    sources = rngs(n)
    x = torch.stack([torch.randn(1, 8, 8, generator=g) for g in sources])
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = model.forward_with_guidance(x, t.repeat(n), labels, 2.0)
            x = torch.cat([scheduler.step(output[i:i + 1], t, x[i:i + 1], generator=sources[i]).prev_sample
                           for i in range(n)])
    found = sample(model, labels, rngs(n), steps=20, guidance=Guidance(2.0))
    assert error(found, x) < 5e-3


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm++", "unipc"])
def test_an_image_does_not_depend_on_its_batch(model, solver):
    """Alone, in a batch and in another order: the same to a thousandth of a grey level (1/255 of the range 2)."""
    labels = torch.tensor([0, 1, 2, 0, 1])
    options = {"steps": 12, "guidance": Guidance(2.0), "solver": solver}
    together = sample(model, labels, rngs(5), **options)
    turned = sample(model, labels.flip(0), rngs(5)[::-1], **options).flip(0)
    alone = torch.cat([sample(model, labels[i:i + 1], rngs(5)[i:i + 1], **options) for i in range(5)])
    scale = together.abs().max().clamp(min=1)
    for other in (turned, alone):
        assert ((other - together).abs().max() / scale * 127.5).item() < 1e-3
    assert (together[0] - together[3]).abs().max() > 0.1  # same class, other seed


def test_the_same_call_gives_the_same_bytes(model):
    labels = torch.tensor([0, 1])
    assert torch.equal(sample(model, labels, rngs(2), steps=5), sample(model, labels, rngs(2), steps=5))


def test_guidance_scale_one_never_looks_at_the_null_class(model):
    labels = torch.tensor([0, 2])
    found = sample(model, labels, rngs(2), steps=6, guidance=Guidance(1.0))
    other = draw_weights(DiT(**{k: model.config[k] for k in ("input_size", "patch_size", "in_channels", "hidden_size",
                                                             "depth", "num_heads", "num_classes")}), seed=0)
    with torch.no_grad():
        other.y_embedder.embedding_table.weight[3] = 100
    assert torch.equal(sample(other, labels, rngs(2), steps=6, guidance=Guidance(1.0)), found)
    assert not torch.equal(sample(other, labels, rngs(2), steps=6, guidance=Guidance(1.5)), found)


def test_bf16_stays_close(model):
    labels = torch.tensor([0, 1])
    options = {"steps": 10, "guidance": Guidance(1.0)}
    full = sample(model, labels, rngs(2), **options)
    half = sample(model, labels, rngs(2), precision="bf16", **options)
    assert half.dtype == torch.float32
    assert 0 < error(half, full) < 0.1


# ---- Mode guidance ---------------------------------------------------------------------------------------------------

def test_mode_guidance_pulls_towards_the_mode_in_the_noisy_steps():
    """A loop written out in double precision, with the pull of [F §11] down to the step before ``stop``."""
    steps, stop, strength, std = 20, 8, 0.1, 0.5
    model = GaussianOptimum(std, steps)
    modes = torch.stack([torch.full((2, SIDE, SIDE), value) for value in (-3.0, 4.0)])
    labels = torch.tensor([0, 0])
    found = sample(model, labels, rngs(2), steps=steps, guidance=Guidance(1.0),
                   modes=ModeGuidance(modes, strength, stop))
    sources, p = rngs(2), NoiseProcess().respaced(steps)
    x = torch.stack([torch.randn(2, SIDE, SIDE, generator=g) for g in sources]).double()
    for i in range(steps - 1, -1, -1):
        alpha, beta, before = p.alphas_cumprod[i], p.betas[i], p.alphas_cumprod_prev[i]
        spread = alpha * std**2 + 1 - alpha
        x0 = MEANS[0] + alpha.sqrt() * std**2 / spread * (x - alpha.sqrt() * MEANS[0])  # E[x0 | x]
        left = beta * (1 - before) / (1 - alpha) + before * beta**2 / (1 - alpha) ** 2 * std**2 * (1 - alpha) / spread
        x = before.sqrt() * beta / (1 - alpha) * x0 + (1 - before) * (1 - beta).sqrt() / (1 - alpha) * x
        if i > stop:
            x = x + strength * left.sqrt() * (modes - x0)
        if i > 0:
            x = x + left.sqrt() * torch.stack([torch.randn(2, SIDE, SIDE, generator=g) for g in sources])
    torch.testing.assert_close(found.double(), x, rtol=0, atol=2e-4)


def test_a_mode_that_is_switched_off_changes_nothing(model):
    labels, modes = torch.tensor([0, 1]), torch.ones(2, 1, 8, 8)
    plain = sample(model, labels, rngs(2), steps=6)
    for off in (ModeGuidance(modes, scale=0.0, stop=0), ModeGuidance(modes, scale=0.5, stop=5)):
        assert torch.equal(sample(model, labels, rngs(2), steps=6, modes=off), plain)
    on = sample(model, labels, rngs(2), steps=6, modes=ModeGuidance(modes, scale=0.5, stop=4))
    assert not torch.equal(on, plain)


def test_no_more_noise_channels_are_guided_than_there_are():
    model = GaussianOptimum(0.5, 4)
    with pytest.raises(ValueError, match="guidance_channels is 3, but the model has 2 noise channels; choose 0"):
        sample(model, torch.tensor([0]), rngs(1), steps=4, guidance=Guidance(2.0, channels=3))
    assert model.asked == []  # refused before any work


def test_a_compiled_model_is_compiled_once_for_steps_with_guidance_and_once_without():
    model, graphs = draw_weights(DiT(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2,
                                     num_classes=3), seed=0), []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    model.eval().compile(backend=backend)
    for _ in range(3):
        sample(model, torch.tensor([0, 1]), rngs(2), steps=6, guidance=Guidance(4.0, interval=(0.2, 0.8)))
    assert len(graphs) == 2
