"""Sampling: from noise to latents, with classifier-free guidance, by the published ancestral steps or a fast solver."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dgs_utils.diffusion.caching import cache_scope
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.process import NoiseProcess, check_steps
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.devices import autocast, to_device_packed
from dgs_utils.runtime.progress import no_progress

FULL_STEPS = 1000  # of the full process


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance."""

    scale: float = 4.0  # 1 is none
    channels: int = 0  # guided noise channels; 0 as published (see `DiT.forward_with_guidance`)
    # Part of the noise range, as fractions of its 1,000 steps, in which guidance acts.
    interval: tuple[float, float] = (0.0, 1.0)

    def check(self, width: int) -> None:
        """Raise ValueError if more noise channels are guided than the ``width`` that a model has."""
        if self.channels > width:
            raise ValueError(f"guidance_channels is {self.channels}, but the model has {width} noise channels; "
                             f"choose 0 (as published) to {width}")

    def at(self, t: int, total: int = FULL_STEPS) -> float:
        """Return the scale at full-process timestep ``t``.

        >>> guidance = Guidance(scale=4.0, interval=(0.2, 0.8))
        >>> guidance.at(100), guidance.at(500)
        (1.0, 4.0)
        """
        low, high = self.interval
        return self.scale if low <= t / (total - 1) <= high else 1.0


@dataclass(frozen=True)
class ModeGuidance:
    """MGD3: pull each image towards a mode of the real data during the first, noisy steps [F §11]."""

    modes: Tensor  # (N, C, H, W), one target latent an image
    scale: float = 0.1  # strength λ
    stop: int = 25  # step index at and below which the pull ends


# Fast solvers beside the published ancestral steps. DDIM is DPM-Solver++ of first order (arXiv 2211.01095): unlike
# diffusers' DDIMScheduler, that steps to the next time of its list, and so to the right one for any number of steps.
SOLVERS: dict[str, tuple[str, dict]] = {
    "ddim": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def _scheduler(solver: str, steps: int):
    """Return diffusers' scheduler of a fast solver for the same β; it sees noise predictions only."""
    name, settings = SOLVERS[solver]
    spacing = "linspace" if steps < FULL_STEPS else "trailing"  # "linspace" would visit one of all steps twice
    scheduler = getattr(diffusers, name)(beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
                                         timestep_spacing=spacing, **settings)
    if solver == "ddim":  # "trailing" times, in whole numbers: diffusers' running sum has one too many for 61 and 103
        scheduler.set_timesteps(timesteps=[round(FULL_STEPS * k / steps) - 1 for k in range(steps, 0, -1)])
    else:
        scheduler.set_timesteps(steps)
    return scheduler


class _SolveUnchecked(TorchFunctionMode):
    """Skips the check of solved systems, for which UniPC would wait for the GPU at each step."""

    def __torch_function__(self, func: Callable, types: Sequence, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.linalg.solve:
            return torch.linalg.solve_ex(*args, **(kwargs or {})).result
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def sample(model: DiT, labels: Tensor, rngs: Sequence[torch.Generator], *, steps: int = 50,
           guidance: Guidance = Guidance(), solver: str = "ancestral", modes: ModeGuidance | None = None,
           precision: str = "fp32", progress: Callable = no_progress) -> Tensor:
    """Generate latents.

    Image i draws its first latent and all its noise from ``rngs[i]``, on the CPU, so that it does not depend
    on the other images of the batch (up to the rounding of batched arithmetic).

    Args:
        model: in evaluation mode, on its device, with or without `caching.enable_taylorseer`.
        labels: (N,) int64.
        rngs: N CPU generators.
        steps: sampling steps, 1 to 1,000.
        guidance: classifier-free guidance.
        solver: "ancestral" (DDPM with learned variance, as published), "ddim", "dpm++" or "unipc".
        modes: mode guidance, for the ancestral solver only.
        precision: "fp32" or "bf16" for the network; the latents stay float32.
        progress: wraps the steps.

    Returns:
        (N, C, H, W) float32 on the model's device.

    Raises:
        ValueError: more guided channels than the model has, a model that extrapolates under ancestral steps, or a
            number of steps that the process does not have.
    """
    check_steps(steps, FULL_STEPS)
    config, device = model.config, next(model.parameters()).device
    if model.is_cache_enabled and solver == "ancestral":
        raise ValueError(f"the model extrapolates from step to step, but ancestral steps add new noise to each; choose "
                         f"solver {', '.join(SOLVERS)}, or a model without enable_taylorseer")
    guidance.check(config.in_channels)
    if device.type == "cpu":
        keep_freed_memory()
    shape = (config.in_channels, config.input_size, config.input_size)
    labels = labels.to(device)

    def noise() -> Tensor:
        [drawn] = to_device_packed([torch.stack([torch.randn(shape, generator=g) for g in rngs])], device)
        return drawn

    with autocast(device, precision), cache_scope(model) as step:  # outside, so that weights are rounded to bf16 once
        def predict(x: Tensor, t: int) -> Tensor:
            times, scale = torch.full((len(x),), t, device=device), guidance.at(t)
            with step(scale):
                return model.forward_with_guidance(x, times, labels, scale, guidance.channels).float()

        return _integrate(predict, noise, shape[0], device, steps, solver, modes, progress)


def _integrate(predict: Callable, noise: Callable, channels: int, device: torch.device, steps: int, solver: str,
               modes: ModeGuidance | None, progress: Callable) -> Tensor:
    """Go from noise to latents by a model's predictions; arguments as in `sample`."""
    x = noise()
    if solver != "ancestral":
        scheduler = _scheduler(solver, steps)
        for t in progress(scheduler.timesteps.tolist(), label="steps"):
            noise_in_x = predict(x, t)[:, :channels]
            with _SolveUnchecked():
                x = scheduler.step(noise_in_x, t, x).prev_sample
        return x
    process = NoiseProcess().respaced(steps)
    timesteps = process.timesteps.tolist()
    process.to(device)
    targets = modes.modes.to(device) if modes is not None else None
    for i in progress(range(steps - 1, -1, -1), label="steps"):
        times = torch.full((len(x),), i, device=device)
        step = process.posterior(x, predict(x, timesteps[i]), times)
        x = step.mean
        if modes is not None and i > modes.stop:
            x = x + modes.scale * step.variance.sqrt() * (targets - step.pred_x0)
        if i > 0:
            x = x + step.variance.sqrt() * noise()
    return x
