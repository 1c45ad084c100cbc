"""Named seeds: the same everywhere, different for every name."""

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgs_utils.params import STAGES
from dgs_utils.runtime.seeds import named_seed, numpy_rng, torch_rng

parts = st.lists(st.one_of(st.text(max_size=5), st.integers(-10**9, 10**9), st.floats(allow_nan=False)), max_size=4)


@pytest.mark.parametrize(("name", "text"), [(("pool", 0, 3, 17), '["pool", 0, 3, 17]'), (("a", 0.5), '["a", 0.5]'),
                                            (("prepare", "holdout", 0), '["prepare", "holdout", 0]')])
def test_a_seed_is_the_upper_63_bits_of_its_name_s_hash(name, text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert named_seed(*name) == int(digest[:16], 16) // 2


@given(parts, parts)
def test_different_names_have_different_seeds(first, second):
    assert 0 <= named_seed(*first) < 2**63
    same_text = repr(first) == repr(second)
    assert (named_seed(*first) == named_seed(*second)) == same_text


def test_parts_do_not_run_together():
    names = [("a", 1, 2), ("a", 12), ("a", "1", 2), ("a", "12"), ("a1", 2), ("a", 1.0, 2)]
    assert len({named_seed(*name) for name in names}) == len(names)


def test_unhashable_parts_are_refused():
    with pytest.raises(TypeError):
        named_seed("a", np.int64(3))


def test_generators_start_from_the_named_seed():
    seed = named_seed("x", 3)
    assert np.array_equal(numpy_rng("x", 3).random(5), np.random.default_rng(seed).random(5))
    expected = torch.rand(5, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(5, generator=torch_rng("x", 3)), expected)
    assert torch_rng("x", 3, device="cpu").device == torch.device("cpu")


def test_draws_under_a_name_do_not_touch_others():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = torch.rand(3, generator=torch_rng("a"))
    torch.rand(100, generator=torch_rng("b"))
    assert torch.equal(torch.rand(3, generator=torch_rng("a")), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeds_are_the_same_in_every_process():
    code = "from dgs_utils.runtime.seeds import named_seed; print(named_seed('pool', 0, 'ä', 17))"
    printed = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8"},
                             capture_output=True, text=True, check=True).stdout
    assert int(printed) == named_seed("pool", 0, "ä", 17)


def first_parts(source):
    """Yield what each seed that a module names begins with: a text, or the code of an expression."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in {"named_seed", "numpy_rng", "torch_rng",
                                                                           "torch_seeded"}:
            yield call.args[0].value if isinstance(call.args[0], ast.Constant) else ast.unparse(call.args[0])


def test_no_two_stages_share_a_stream():
    package, stages = Path(__file__).parents[2] / "dgs_utils", {stage.split("_", 1)[1] for stage in STAGES}
    stages |= {"checkup", "score set", "near duplicates", "rehearsal"}  # what is no stage has streams of its own
    named = 0
    for file in package.rglob("*.py"):
        found = set(first_parts(file.read_text())) - {"overwritten"} if file.name != "seeds.py" else set()
        named += len(found)
        if file.parent == package:
            assert found <= {file.stem}, f"{file.name} names seeds after {found}"
        else:  # a room that draws for one stage, or is told for which
            told = {"stage", "self.stage", "self.schedule.stage"}
            assert found <= stages or found <= told, f"{file} names seeds after {found}"
            assert len(found) <= 1, f"{file} draws for {found}"
    assert named > 10


def test_a_scorer_and_an_evaluated_network_of_one_seed_train_in_other_orders():
    orders = [torch.randperm(50, generator=torch_rng(stage, "training", 3, 1)) for stage in ("prepare", "evaluate")]
    assert not torch.equal(*orders)
