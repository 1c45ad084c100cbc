"""The Gaussian noise process: tables, training loss with the VB term, respacing, posterior [F §2.3–2.4, §5]."""

import math
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """Training loss of each sample (N,), and the x̂0 (N, C, H, W) that the minimax criteria compare."""

    loss: Tensor
    mse: Tensor
    vb: Tensor
    pred_x0: Tensor


class Posterior(NamedTuple):
    """Gaussian of the previous step, and the x̂0 behind it; all (N, C, H, W)."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_x0: Tensor


class NoiseProcess:
    """Forward process with linear β from 1e-4 to 0.02, noise prediction, and variance learned as an interpolation.

    All tables are float64. ``t`` is always an index into this process's own steps; the model's input is
    ``timesteps[t]``.

    Args:
        steps: length of the full process. β is scaled so that any length ends in the same noise, as in the original.

    Attributes:
        betas, alphas_cumprod: (T,) float64.
        timesteps: (T,) int64, each step's index in the full process.
    """

    def __init__(self, steps: int = 1000):
        scale = 1000 / steps
        betas = torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)
        self._set(betas, torch.arange(steps))

    def _set(self, betas: Tensor, timesteps: Tensor) -> None:
        self.betas, self.timesteps = betas, timesteps
        alphas = 1 - betas
        self.alphas_cumprod = alphas.cumprod(0)
        self.alphas_cumprod_prev = torch.cat([torch.ones_like(alphas[:1]), self.alphas_cumprod[:-1]])
        self.sqrt_recip_alphas_cumprod = (1 / self.alphas_cumprod).sqrt()
        self.sqrt_recipm1_alphas_cumprod = (1 / self.alphas_cumprod - 1).sqrt()
        remaining = 1 - self.alphas_cumprod
        self.posterior_variance = betas * (1 - self.alphas_cumprod_prev) / remaining
        # The true posterior at t = 0 is a point; its log takes the value at t = 1 instead, or of a single step its β.
        first = self.posterior_variance[1] if len(betas) > 1 else betas[0]
        self.posterior_log_variance_clipped = torch.cat([first[None], self.posterior_variance[1:]]).log()
        self.posterior_mean_coef1 = betas * self.alphas_cumprod_prev.sqrt() / remaining
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * alphas.sqrt() / remaining

    def __len__(self) -> int:
        return len(self.betas)

    def to(self, device: torch.device) -> "NoiseProcess":
        """Move the tables to a device, so that looking them up does not make it wait; return the process."""
        for name, table in vars(self).items():
            setattr(self, name, table.to(device))
        return self

    def respaced(self, steps: int) -> "NoiseProcess":
        """Return the process that visits only ``steps`` of the steps, evenly spread, first and last included, on the
        same device.

        β are recomputed from the ᾱ that remain. A single step is the last one, which removes all noise at once. (The
        original would take the first, and leave the noise as it is.)

        >>> NoiseProcess().respaced(4).timesteps.tolist()
        [0, 333, 666, 999]

        Raises:
            ValueError: no steps, or more than the process has.
        """
        total = len(self)
        check_steps(steps, total)
        # A running sum, as in the original: its rounding decides where a step falls half-way between two [F §5].
        gap, first = ((total - 1) / (steps - 1), 0.0) if steps > 1 else (0.0, total - 1)
        sums = accumulate([gap] * (steps - 1), initial=first)
        indices = torch.tensor([round(index) for index in sums], device=self.betas.device)
        kept = self.alphas_cumprod[indices]
        before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
        process = object.__new__(NoiseProcess)
        process._set(1 - kept / before, self.timesteps[indices])
        return process

    def add_noise(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return z_t = √ᾱ_t z_0 + √(1−ᾱ_t) ε (Eq. 1).

        Args:
            x_start, noise: (N, C, H, W).
            t: (N,) int64.
        """
        alpha = self.alphas_cumprod
        return _at(alpha.sqrt(), t, x_start) * x_start + _at((1 - alpha).sqrt(), t, x_start) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x̂0 = x_t/√ᾱ_t − √(1/ᾱ_t − 1)·ε̂, unclipped."""
        return (_at(self.sqrt_recip_alphas_cumprod, t, x_t) * x_t
                - _at(self.sqrt_recipm1_alphas_cumprod, t, x_t) * noise)

    def posterior(self, x_t: Tensor, model_output: Tensor, t: Tensor) -> Posterior:
        """Return the model's Gaussian of the step before ``t``.

        Args:
            x_t: (N, C, H, W).
            model_output: (N, 2C, H, W): noise ε̂, then v, with log σ² = f log β_t + (1−f) log β̃_t and f = (v+1)/2. Of
                a model without learned variance (N, C, H, W), with σ² = β_t, as the original has it then.
            t: (N,) int64, index into this process's steps.
        """
        noise, v = model_output[:, : x_t.shape[1]], model_output[:, x_t.shape[1]:]
        v = v if v.shape[1] else torch.ones_like(noise)
        low = _at(self.posterior_log_variance_clipped, t, x_t)
        high = _at(self.betas.log(), t, x_t)
        log_variance = torch.lerp(low, high, (v + 1) / 2)
        pred_x0 = self.predict_x0(x_t, t, noise)
        return Posterior(self._true_mean(pred_x0, x_t, t), log_variance.exp(), log_variance, pred_x0)

    def _true_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return _at(self.posterior_mean_coef1, t, x_t) * x0 + _at(self.posterior_mean_coef2, t, x_t) * x_t

    def training_loss(self, model_output: Tensor, x_start: Tensor, t: Tensor, noise: Tensor) -> Loss:
        """Return the loss MSE + VB of each sample [F §2.4].

        The VB term, in bits per entry, trains the variance alone: the mean that it sees is detached. It has weight 1,
        and is 0 where no variance is learned.

        Args:
            model_output: (N, 2C or C, H, W) prediction for `add_noise` (x_start, t, noise); taken in noise's dtype.
            x_start, noise: (N, C, H, W).
            t: (N,) int64.
        """
        model_output = model_output.to(noise.dtype)
        predicted = model_output[:, : noise.shape[1]]
        x_t = self.add_noise(x_start, t, noise)
        mse = (noise - predicted).square().flatten(1).mean(1)
        variance = model_output[:, noise.shape[1]:]
        vb = (self._variational_bound(torch.cat([predicted.detach(), variance], dim=1), x_start, x_t, t)
              if variance.shape[1] else torch.zeros_like(mse))
        return Loss(mse + vb, mse, vb, self.predict_x0(x_t, t, predicted))

    def _variational_bound(self, model_output: Tensor, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        model = self.posterior(x_t, model_output, t)
        divergence = gaussian_kl(self._true_mean(x_start, x_t, t), _at(self.posterior_log_variance_clipped, t, x_t),
                                 model.mean, model.log_variance)
        likelihood = discretised_log_likelihood(x_start, model.mean, 0.5 * model.log_variance)
        nats = torch.where(_column(t, x_t) == 0, -likelihood, divergence)
        return nats.flatten(1).mean(1) / math.log(2)


def check_steps(steps: int, total: int) -> None:
    """Raise ValueError unless 1 ≤ ``steps`` ≤ ``total``."""
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} sampling steps are asked of a process of {total}; choose 1 to {total}")


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Look up per-sample coefficients, shaped to broadcast over ``like`` and in its dtype."""
    return _column(table.to(like.device)[t].to(like.dtype), like)


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Return KL(N1 ‖ N2) of each entry, in nats."""
    ratio = log_variance1 - log_variance2
    return 0.5 * (ratio.exp() - 1 - ratio + (mean1 - mean2).square() * (-log_variance2).exp())


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return log P of each entry under a Gaussian integrated over bins of half-width 1/255, open at −1 and 1.

    The normal distribution function is the tanh approximation of the original.
    """
    centred = x - mean
    upper = _normal_cdf((centred + 1 / 255) * (-log_scale).exp())
    lower = _normal_cdf((centred - 1 / 255) * (-log_scale).exp())
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
