"""The noise process against the original's numbers, diffusers' scheduler, SciPy, and formulas written out here."""

import math

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import error, tensors
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from dgs_utils.diffusion.process import NoiseProcess, discretised_log_likelihood, gaussian_kl

TABLES = ["betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance", "posterior_log_variance_clipped",
          "posterior_mean_coef1", "posterior_mean_coef2", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"]


@pytest.fixture(scope="module")
def process() -> NoiseProcess:
    return NoiseProcess()


def draws(n: int = 4, seed: int = 0, dtype=torch.float64) -> tuple[torch.Tensor, ...]:
    """Data in [-1, 1], noise, timesteps that include both ends, and a model output."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, 4, 4, generator=rng, dtype=dtype) * 2 - 1
    noise = torch.randn(n, 2, 4, 4, generator=rng, dtype=dtype)
    t = torch.randint(1000, (n,), generator=rng)
    t[:2] = torch.tensor([0, 999])[:n]
    return x, noise, t, torch.randn(n, 4, 4, 4, generator=rng, dtype=dtype)


# ---- Tables and respacing --------------------------------------------------------------------------------------------

def test_tables_follow_from_the_betas(process):
    betas = np.linspace(1e-4, 0.02, 1000)
    cumulative = np.array([math.prod(1 - betas[: t + 1]) for t in range(1000)])
    before = np.concatenate([[1.0], cumulative[:-1]])
    assert {getattr(process, name).dtype for name in TABLES} == {torch.float64}
    np.testing.assert_allclose(process.betas, betas, rtol=1e-12)
    np.testing.assert_allclose(process.alphas_cumprod, cumulative, rtol=1e-11)
    np.testing.assert_allclose(process.posterior_variance, betas * (1 - before) / (1 - cumulative), rtol=1e-9)
    np.testing.assert_allclose(process.posterior_log_variance_clipped[0], process.posterior_variance[1].log())
    np.testing.assert_allclose(process.posterior_log_variance_clipped[1:].exp(), process.posterior_variance[1:])
    assert cumulative[-1] == pytest.approx(4.036e-5, rel=1e-4)


def test_fifty_steps_equal_the_original(process):
    reference = tensors("diffusion", "spaced50")
    spaced = process.respaced(50)
    assert len(spaced) == 50
    assert torch.equal(spaced.timesteps, reference["timestep_map"])
    for name in TABLES:
        torch.testing.assert_close(getattr(spaced, name), reference[name], rtol=1e-11, atol=0)


def running_sum(total: int, steps: int) -> list[int]:
    """Return the steps that the original keeps: a place moves on by the same gap and is rounded each time [F §5]."""
    gap, place, kept = (total - 1) / (steps - 1), 0.0, []
    while len(kept) < steps:
        kept.append(round(place))
        place += gap
    return kept


def test_every_number_of_steps_keeps_those_of_the_original(process):
    found = {steps: process.respaced(steps).timesteps.tolist() for steps in range(2, 1001)}
    assert found == {steps: running_sum(1000, steps) for steps in found}
    multiplied = {steps: [round(k * 999 / (steps - 1)) for k in range(steps)] for steps in found}
    assert sum(found[steps] != multiplied[steps] for steps in found) == 283  # they round alike but for ties


def test_a_single_step_takes_all_noise_away(process):
    once = process.respaced(1)
    assert once.timesteps.tolist() == [999]
    x, noise, _, _ = draws(2)
    x_t = process.add_noise(x, torch.tensor([999, 999]), noise)
    step = once.posterior(x_t, torch.cat([noise, noise], 1), torch.tensor([0, 0]))
    torch.testing.assert_close(step.mean, x, rtol=0, atol=1e-9)
    assert all(value.isfinite().all() for value in step)


@settings(max_examples=40, deadline=None)
@given(total=st.integers(2, 1000), data=st.data())
def test_respacing_keeps_the_noise_at_the_steps_it_keeps(total, data):
    full = NoiseProcess(total)
    steps = data.draw(st.integers(2, total))
    spaced = full.respaced(steps)
    assert spaced.timesteps[0] == 0
    assert spaced.timesteps[-1] == total - 1
    gaps = spaced.timesteps.diff()
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    np.testing.assert_allclose((1 - spaced.betas).cumprod(0), full.alphas_cumprod[spaced.timesteps],
                               rtol=1e-9, atol=1e-15)  # as exact as one minus a number next to one


def test_all_steps_are_the_process_itself(process):
    again = process.respaced(1000)
    for name in TABLES:
        torch.testing.assert_close(getattr(again, name), getattr(process, name), rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [-3, 0, 1001])
def test_number_of_steps_is_checked(process, steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps are asked of a process of 1000; choose 1 to 1000"):
        process.respaced(steps)


@pytest.mark.parametrize("steps", [100, 250, 4000])
def test_shorter_and_longer_processes_end_in_about_the_same_noise(process, steps):
    assert math.log(NoiseProcess(steps).alphas_cumprod[-1]) == pytest.approx(
        math.log(process.alphas_cumprod[-1]), rel=0.1)


# ---- Forward and posterior -------------------------------------------------------------------------------------------

def test_noise_is_added_as_equation_1_says(process):
    x, noise, t, _ = draws()
    cumulative = [math.prod(1 - b for b in np.linspace(1e-4, 0.02, 1000)[: step + 1]) for step in t]
    expected = [math.sqrt(a) * x[i] + math.sqrt(1 - a) * noise[i] for i, a in enumerate(cumulative)]
    found = process.add_noise(x, t, noise)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(process.predict_x0(found, t, noise), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [1, 2, 500, 999])
def test_posterior_mean_is_bayes_rule(process, t):
    """q(x_{t-1} | x_t, x_0) ∝ q(x_t | x_{t-1}) q(x_{t-1} | x_0), a product of two Gaussians."""
    x, noise, _, _ = draws(1)
    step = torch.tensor([t])
    x_t = process.add_noise(x, step, noise)
    beta, before = process.betas[t], process.alphas_cumprod[t - 1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = ((1 - beta).sqrt() / beta * x_t + before.sqrt() / (1 - before) * x) / precision
    found = process.posterior(x_t, torch.cat([noise, -torch.ones_like(noise)], 1), step)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.variance, torch.full_like(x, (1 / precision).item()))  # v = −1 is the smallest
    widest = process.posterior(x_t, torch.cat([noise, torch.ones_like(noise)], 1), step)
    torch.testing.assert_close(widest.variance, torch.full_like(x, beta.item()))


def test_posterior_equals_the_original(process):
    reference = tensors("diffusion", "pmv")
    spaced = process.respaced(50)
    assert torch.equal(spaced.timesteps[reference["t"]], reference["t_seen_by_model"])
    found = spaced.posterior(reference["x_t"], reference["model_output"], reference["t"])
    for name, value in zip(("mean", "variance", "log_variance", "pred_xstart"), found, strict=True):
        assert error(value, reference[name]) < 1e-5, name


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_posterior_equals_diffusers_scheduler(process, steps):
    scheduler = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="learned_range",
                                        clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    spaced = process.respaced(steps)
    assert spaced.timesteps.flip(0).tolist() == scheduler.timesteps.tolist()
    x, _, _, output = draws(1, dtype=torch.float32)
    for i, t in enumerate(scheduler.timesteps):
        place = steps - 1 - i
        theirs = scheduler.step(output, t, x, generator=torch.Generator().manual_seed(i)).prev_sample
        ours = spaced.posterior(x, output, torch.tensor([place]))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        # Single precision ᾱ on their side; x̂0 at t = 999 amplifies its rounding.
        assert error(ours.mean + (place > 0) * ours.variance.sqrt() * noise, theirs) < 2e-4


# ---- Training loss ---------------------------------------------------------------------------------------------------

def test_training_loss_equals_the_original(process):
    reference = tensors("diffusion", "train")
    t, noise, x = reference["t"], reference["noise"], reference["x_start"]
    assert error(process.add_noise(x, t, noise), reference["x_t"]) < 1e-6
    found = process.training_loss(reference["model_output"], x, t, noise)
    for name, value in (("loss", found.loss), ("mse", found.mse), ("vb", found.vb), ("output", found.pred_x0)):
        torch.testing.assert_close(value, reference[name], rtol=1e-4, atol=1e-4 * reference[name].abs().max().item())


def test_loss_terms_by_other_means(process):
    """KL by torch.distributions for t > 0, and the normal distribution of SciPy for t = 0."""
    x, noise, t, output = draws(5, dtype=torch.float32)
    output[:, 2:] = output[:, 2:].clamp(-1, 1)
    found = process.training_loss(output, x, t, noise)
    torch.testing.assert_close(found.mse, torch.stack([(noise[i] - output[i, :2]).square().mean() for i in range(5)]))
    torch.testing.assert_close(found.loss, found.mse + found.vb)
    x, noise, output = x.double(), noise.double(), output.double()
    model = process.posterior(process.add_noise(x, t, noise), output, t)
    true = process.posterior(process.add_noise(x, t, noise), torch.cat([noise, -torch.ones_like(noise)], 1), t)
    for i in range(5):
        if t[i] == 0:
            mean, scale = model.mean[i].numpy(), model.variance[i].sqrt().numpy()
            value = x[i].numpy()
            upper = np.where(value > 0.999, 1, norm.cdf((value + 1 / 255 - mean) / scale))
            lower = np.where(value < -0.999, 0, norm.cdf((value - 1 / 255 - mean) / scale))
            bits = -np.log2(np.maximum(upper - lower, 1e-12)).mean()
            assert found.vb[i].item() == pytest.approx(bits, abs=0.05)  # their normal CDF is an approximation
        else:
            nats = kl_divergence(Normal(true.mean[i], true.variance[i].sqrt()),
                                 Normal(model.mean[i], model.variance[i].sqrt()))
            assert found.vb[i].item() == pytest.approx(nats.mean().item() / math.log(2), rel=2e-3)


def test_a_perfect_model_pays_nothing_but_the_last_step(process):
    x, noise, t, _ = draws()
    found = process.training_loss(torch.cat([noise, -torch.ones_like(noise)], 1), x, t, noise)
    assert not found.mse.any()
    assert found.vb[0] > 1  # decoding at t = 0 always costs bits
    assert found.vb[1:].abs().max() < 1e-5
    torch.testing.assert_close(found.pred_x0.double(), x, rtol=0, atol=2e-5)


def test_vb_trains_the_variance_alone_and_mse_the_noise_alone(process):
    x, noise, t, output = draws()
    output.requires_grad_()
    found = process.training_loss(output, x, t, noise)
    vb, = torch.autograd.grad(found.vb.sum(), output, retain_graph=True)
    mse, = torch.autograd.grad(found.mse.sum(), output, retain_graph=True)
    x0, = torch.autograd.grad(found.pred_x0.sum(), output)
    assert not vb[:, :2].any()
    assert (vb[:, 2:].flatten(1).abs().sum(1) > 0).all()  # t = 0 too
    assert not mse[:, 2:].any()
    torch.testing.assert_close(mse[:, :2], 2 * (output[:, :2] - noise).detach() / 32)
    expected = -(1 / process.alphas_cumprod[t] - 1).sqrt()[:, None, None, None].expand(-1, 2, 4, 4)
    torch.testing.assert_close(x0[:, :2], expected)  # the minimax criteria reach the noise through x̂0


def test_without_learned_variance_steps_have_the_largest_and_the_loss_is_mse_alone(process):
    x, noise, t, output = draws(dtype=torch.float32)
    x_t = process.add_noise(x, t, noise)
    found, largest = (process.posterior(x_t, torch.cat([noise, *more], 1), t) for more in ([], [torch.ones_like(x)]))
    for own, expected in zip(found, largest, strict=True):
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(found.variance[1:, 0, 0, 0].double(), process.betas[t[1:]])
    loss = process.training_loss(output[:, :2], x, t, noise)
    assert not loss.vb.any()
    assert torch.equal(loss.loss, process.training_loss(output, x, t, noise).mse)


def test_loss_is_single_precision_for_a_half_precision_model(process):
    x, noise, t, output = draws(dtype=torch.float32)
    found = process.training_loss(output.bfloat16(), x, t, noise)
    assert {value.dtype for value in found} == {torch.float32}
    assert torch.equal(found.loss, process.training_loss(output.bfloat16().float(), x, t, noise).loss)


@settings(max_examples=50, deadline=None)
@given(m1=st.floats(-3, 3), m2=st.floats(-3, 3), v1=st.floats(-8, 2), v2=st.floats(-8, 2))
def test_gaussian_kl(m1, m2, v1, v2):
    values = [torch.tensor(value, dtype=torch.float64) for value in (m1, v1, m2, v2)]
    expected = kl_divergence(Normal(values[0], (values[1] / 2).exp()), Normal(values[2], (values[3] / 2).exp()))
    torch.testing.assert_close(gaussian_kl(*values), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(mean=st.floats(-1.2, 1.2), log_scale=st.floats(-5, 0))
def test_the_256_bins_share_all_probability(mean, log_scale):
    """Of pixels at −1 + 2k/255, so that the bins of half-width 1/255 tile the line."""
    pixels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    logs = discretised_log_likelihood(pixels, torch.full_like(pixels, mean), torch.full_like(pixels, log_scale))
    assert logs.exp().sum().item() == pytest.approx(1, abs=1e-6)
    upper, lower = (norm.cdf((pixels.numpy() + side / 255 - mean) / math.exp(log_scale)) for side in (1, -1))
    upper[-1], lower[0] = 1, 0
    np.testing.assert_allclose(logs.exp(), upper - lower, atol=1e-3)


def test_a_process_is_respaced_where_its_tables_are():
    """On the meta device, mixing in a tensor of the CPU fails, as it does on a GPU."""
    spaced = NoiseProcess().to(torch.device("meta")).respaced(50)
    assert {name: table.device.type for name, table in vars(spaced).items()} == dict.fromkeys(vars(spaced), "meta")
    assert len(spaced) == 50
