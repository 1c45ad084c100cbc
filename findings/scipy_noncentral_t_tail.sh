#!/usr/bin/env bash
# SciPy's noncentral t distribution in its far tail: NaN where a two-sided power needs a number next to zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet scipy==1.17.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import scipy
from scipy import integrate, stats

print("scipy", scipy.__version__)


def integral(x: float, freedom: int, shift: float) -> float:
    """P(T <= x): the normal distribution function, weighed by the density of the estimated deviation."""
    scale = np.sqrt(freedom)
    density = lambda u: np.exp(stats.norm.logcdf(x * u - shift) + stats.chi.logpdf(u * scale, freedom)) * scale
    return integrate.quad(density, 0, 10, limit=200)[0]


lost = []
print("P(T <= lower 5 % point of the central t) by nct.cdf, by an integral, and the power of the two-sided test")
for freedom in (2, 3, 9):
    for shift in (5.0, 7.0, 9.0, 10.0, 15.0):
        limit = stats.t.isf(0.025, freedom)
        lower, upper = stats.nct.cdf(-limit, freedom, shift), stats.nct.sf(limit, freedom, shift)
        print(f"freedom {freedom}, shift {shift:4.0f}: {lower:.3g}, {integral(-limit, freedom, shift):.3g}; "
              f"power {lower + upper:.6f}")
        lost += [(freedom, shift)] if np.isnan(lower) else []
print("NaN for (freedom, shift):", lost)
assert lost, "the lower tail is a number everywhere now"
assert not np.isnan(stats.nct.cdf(-stats.t.isf(0.025, 3), 3, 5.0))
PY
