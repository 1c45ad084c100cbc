"""Coresets: what they refuse; `test_rules` compares them with slow definitions."""

import numpy as np
import pytest

from dgs_utils.selection.coresets import herding, k_center


@pytest.mark.parametrize("choose", [k_center, herding])
def test_bad_input_is_named(choose):
    features = np.ones((4, 2))
    with pytest.raises(ValueError, match="k is 5 for 4 images"):
        choose(features, 5)
    with pytest.raises(ValueError, match="one row of features"):
        choose(features[0], 1)
    features[2, 1] = np.nan
    with pytest.raises(ValueError, match="image 2 are not finite"):
        choose(features, 2)
