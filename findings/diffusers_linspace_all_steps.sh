#!/usr/bin/env bash
# diffusers' multistep solvers asked for all 1,000 steps of the process: "linspace" visits one step twice, and the
# division by the distance of the two makes everything NaN.
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
found = {}
for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
    for spacing in ("linspace", "trailing"):
        for steps in (999, 1000):
            scheduler = getattr(diffusers, name)(beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
                                                 timestep_spacing=spacing)
            scheduler.set_timesteps(steps)
            times = scheduler.timesteps.tolist()
            twice = sorted({t for t in times if times.count(t) > 1})
            image, x = torch.full((1, 1, 2, 2), 0.3), torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
            for t in scheduler.timesteps:
                alpha = scheduler.alphas_cumprod[t]
                noise = (x - alpha.sqrt() * image) / (1 - alpha).sqrt()  # what a perfect network of one image says
                x = scheduler.step(noise, t, x).prev_sample
            found[name, spacing, steps] = finite = bool(x.isfinite().all())
            print(f"{name}, {spacing}, {steps} steps: visited twice {twice}, result {x.flatten()[0]:.4f} of 0.3")
for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
    assert not found[name, "linspace", 1000], "1,000 steps by linspace are finite now"
    assert found[name, "linspace", 999]
    assert found[name, "trailing", 1000]
PY
