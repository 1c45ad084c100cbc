#!/usr/bin/env bash
# diffusers' DDIMScheduler with "trailing" spacing and a number of steps that does not divide 1,000: its times are evenly
# spread, but each step goes to t - 1000 // n instead of to the next time, and the last one leaves noise behind.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 diffusers==0.42.1
"$work/venv/bin/python" - <<'PY'
import warnings

warnings.simplefilter("ignore")
import diffusers
import torch

print("diffusers", diffusers.__version__, "torch", torch.__version__)


def walk(scheduler, steps):
    """Return the times, and how far a perfect network of a single image ends from that image."""
    scheduler.set_timesteps(steps)
    rng = torch.Generator().manual_seed(0)
    image, x = torch.rand(1, 2, 4, 4, generator=rng) * 2 - 1, torch.randn(1, 2, 4, 4, generator=rng)
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[t]
        x = scheduler.step((x - alpha.sqrt() * image) / (1 - alpha).sqrt(), t, x).prev_sample
    return scheduler.timesteps.tolist(), (x - image).abs().max().item()


beta = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "timestep_spacing": "trailing"}
missed, longer = {}, []
for steps in range(1, 121):
    times, distance = walk(diffusers.DDIMScheduler(clip_sample=False, **beta), steps)
    if distance > 1e-3:
        missed[steps] = distance
    if len(times) != steps:
        longer.append((steps, len(times), times[-1]))
print(f"DDIMScheduler: {len(missed)} of 120 numbers of steps miss the image, by up to {max(missed.values()):.3f}:")
print("  " + ", ".join(f"{steps}: {distance:.3f}" for steps, distance in missed.items()))
print("DDIMScheduler: (steps asked for, times given, last of them):", longer)
times, distance = walk(diffusers.DPMSolverMultistepScheduler(solver_order=1, **beta), 60)
print(f"DPMSolverMultistepScheduler(solver_order=1), the same solver by formula, 60 steps: off by {distance:.1e}")
assert len(missed) > 40 and 60 in missed, "DDIM follows its own list now"
assert not {10, 20, 50, 100} & missed.keys()
assert longer, "61 steps are 61 times now"
assert distance < 1e-3
PY
