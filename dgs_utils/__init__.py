"""Difficulty-guided sampling for generative dataset distillation.

One module per stage, named like its notebook: `prepare`, `fine_tune`, `pool`, `difficulty`, `transform`, `sample`,
`evaluate`, `figures`/`tables`, `condense`. Nothing is imported here, so that `dgs --help` and planning stay instant.
"""

import os

# OpenMP threads that wait by spinning burn the cores that others need: on a shared two-core machine a training step
# took ten times as long. The setting only counts where it is made before torch is loaded, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
