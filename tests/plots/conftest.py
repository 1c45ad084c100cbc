"""What tests of figures share."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _close_figures():
    """Close all figures after each test."""
    yield
    plt.close("all")


@pytest.fixture
def images(tmp_path):
    """Twenty images whose grey value tells their number, with path and a score from a shuffle."""
    for i in range(20):
        Image.new("L", (4, 4), i * 10).save(tmp_path / f"{i}.png")
    scores = np.random.default_rng(0).permutation(20) / 20
    return pd.DataFrame({"path": [tmp_path / f"{i}.png" for i in range(20)], "score": scores})
