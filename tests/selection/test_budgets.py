"""Images shared among classes: the division nearest to the shares, as `apportionment` has it, and class by class."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.selection.budgets import class_budgets, class_weights, share_images


def shares_by_bisection(total, weights, most):
    """min(max(λ · weight, 1), most) with the λ for which they sum to the total, by halving an interval."""
    low, high = 0.0, 1e9
    for _ in range(200):
        factor = (low + high) / 2
        low, high = (factor, high) if np.clip(factor * weights, 1, most).sum() < total else (low, factor)
    return np.clip(high * weights, 1, most)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.data())
def test_no_other_division_within_the_limits_is_nearer_to_the_shares(seed, classes, data):
    rng = np.random.default_rng(seed)
    weights, most = rng.integers(1, 9, classes) / 4, rng.integers(1, 7, classes)
    total = data.draw(st.integers(classes, int(most.sum())))
    found, shares = share_images(total, weights, most), shares_by_bisection(total, weights, most)
    assert found.sum() == total
    assert ((found >= 1) & (found <= most)).all()
    best = min(np.square(np.array(other) - shares).sum() for other in
               itertools.product(*(range(1, m + 1) for m in most)) if sum(other) == total)
    assert np.square(found - shares).sum() <= best + 1e-6


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.integers(1, 40))
def test_without_limits_it_is_hamiltons_method(weights, each):
    apportionment = pytest.importorskip("apportionment.methods", reason="the package apportionment is not installed")
    total = each * len(weights)
    if any(weight * total < sum(weights) for weight in weights):
        return  # a class would have less than one image
    found = share_images(total, weights, [total] * len(weights))
    theirs = apportionment.compute("largest_remainder", weights, total, tiesallowed=True)
    remainders = sorted(((weight * total) % sum(weights) for weight in weights), reverse=True)
    missing = total - sum(weight * total // sum(weights) for weight in weights)
    if missing in (0, len(weights)) or remainders[missing - 1] != remainders[missing]:  # no tie decides
        assert found.tolist() == list(theirs)


def test_equal_remainders_go_to_the_first_classes_and_zeros_get_one():
    assert share_images(7, [1, 1, 1], [9, 9, 9]).tolist() == [3, 2, 2]
    assert share_images(7, [0, 0, 1], [9, 9, 9]).tolist() == [1, 1, 5]
    assert share_images(9, [0, 0, 1], [9, 9, 3]).tolist() == [3, 3, 3]
    assert share_images(10**6, [1, 2], [10**6, 10**6]).tolist() == [333333, 666667]


def frame(**sizes):
    rng = np.random.default_rng(0)
    return pd.DataFrame([{"class": name, "score": rng.random() * (name == "b") + 0.1, "correct": name != "c" or i % 2}
                         for name, size in sizes.items() for i in range(size)]).astype({"correct": bool})


def test_weights_are_those_of_the_candidates_or_a_table(tmp_path):
    table = frame(b=30, a=20, c=10)
    assert class_weights("equal", table).to_dict() == {"b": 1, "a": 1, "c": 1}
    assert class_weights("confusion", table).to_dict() == pytest.approx({"b": 0, "a": 0, "c": 0.5})
    difficulty = class_weights("difficulty", table)
    assert difficulty["b"] == pytest.approx(table[table["class"] == "b"]["score"].mean())
    own = tmp_path / "weights.csv"
    own.write_text("class,weight\na,1\nb,2\nc,3\nd,9\n")
    assert class_weights(str(own), table).to_dict() == {"b": 2, "a": 1, "c": 3}
    own.write_text("class,weight\na,1\nb,2\n")
    with pytest.raises(ValueError, match="has no weight of class c; give each class one"):
        class_weights(str(own), table)
    own.write_text("name,weight\na,1\n")
    with pytest.raises(ValueError, match="a table of weights has class and weight"):
        class_weights(str(own), table)
    with pytest.raises(ValueError, match=r"sample.class_weights is 'hard', which is no file; choose equal"):
        class_weights("hard", table)


def test_short_classes_stop_or_give_all_they_have_and_say_so():
    table, said = frame(a=4, b=30, c=30), []
    assert class_budgets(table, 10, 0, "equal", True, said.append) == {"a": 4, "b": 10, "c": 10}
    assert said == ["class a has 4 images, fewer than its share of 10; all of them are taken"]
    assert class_budgets(table, 10, 30, "equal", True, said.append) == {"a": 4, "b": 13, "c": 13}
    assert class_budgets(table, 10, 200, "equal", True, said.append) == {"a": 4, "b": 30, "c": 30}
    with pytest.raises(ValueError, match="class a is to have 10 images and has 4; enlarge the pool"):
        class_budgets(table, 10, 0, "equal", False)
    with pytest.raises(ValueError, match=r"sample.total is 2 for 3 classes"):
        class_budgets(table, 10, 2, "equal", False)
    with pytest.raises(ValueError, match="not all of them 0"):
        class_budgets(frame(a=9, b=9), 2, 0, "confusion", False)
    assert class_budgets(frame(a=30, b=30), 10, 15, "equal", False) == {"a": 8, "b": 7}
