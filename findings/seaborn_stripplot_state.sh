#!/usr/bin/env bash
# seaborn's stripplot without jitter: no point is moved, yet it draws as many numbers from NumPy's global random state as
# it shows points, so that a figure changes what a program computes after it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet seaborn==0.13.2 matplotlib==3.10.3 numpy==2.2.6 pandas==2.2.3
MPLBACKEND=agg MPLCONFIGDIR="$work" "$work/venv/bin/python" - <<'PY'
import matplotlib
import numpy as np
import seaborn as sns

print("seaborn", sns.__version__, "matplotlib", matplotlib.__version__, "numpy", np.__version__)
values, names = [1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"]


def after(draw):
    """Return the next number of NumPy's global random state after a figure, and where its points stand."""
    matplotlib.pyplot.close("all")
    np.random.seed(0)
    axis = draw()
    places = [float(y) for dots in axis.collections for y in dots.get_offsets()[:, 1]]
    return float(np.random.random()), places


plain, _ = after(lambda: matplotlib.pyplot.subplots()[1])
without, places = after(lambda: sns.stripplot(x=values, y=names, jitter=False))
point, _ = after(lambda: sns.pointplot(x=values, y=names, errorbar=None))
np.random.seed(0)
fifth = float(np.random.random(5)[4])
print(f"next random number: {plain:.6f} after no figure, {point:.6f} after pointplot, {without:.6f} after "
      f"stripplot(jitter=False); the fifth of that seed is {fifth:.6f}")
print("points of stripplot(jitter=False) stand at", places)
assert places == [0.0, 0.0, 1.0, 1.0], "points are moved although jitter is off"
assert plain == point, "pointplot draws random numbers, too"
assert without == fifth != plain, "stripplot without jitter leaves the random state alone now"
PY
