"""Difficulty-guided sampling for generative dataset distillation.

One module per stage, named like its notebook: `prepare`, `fine_tune`, `pool`, `difficulty`, `transform`, `sample`,
`evaluate`, `figures`/`tables`, `condense`. Nothing is imported here, so that `dgs --help` and planning stay instant.
"""

__version__ = "0.1.0"
