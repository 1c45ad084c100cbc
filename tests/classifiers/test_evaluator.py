"""The evaluator: a used network made like new is a fresh one, bit for bit, and is compiled once."""

import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import NOISE_CLASSES, noise
from torch._dynamo.utils import counters
from waits import HANG

from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.networks import NETWORKS, build_network, smallest_size
from dgs_utils.classifiers.protocols import IDC, NO_AUGMENTATION, RDED
from dgs_utils.classifiers.training import COMPILE_FROM_PIXELS, Recipe, should_compile_steps, train_classifier
from dgs_utils.runtime import compiling
from dgs_utils.runtime.compiling import compile_unavailable_reason
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.checkpoint import Checkpointer


class Last(Checkpointer):
    """Remembers the state after the last step."""

    def maybe_save(self, state):
        self.state = deepcopy(state())


def teacher(size: int = 8) -> torch.nn.Module:
    with torch_seeded("test", "teacher"):
        return build_network("convnet3", NOISE_CLASSES, size, "batch").eval()


@pytest.mark.parametrize(("name", "norm", "protocol"), [
    *((name, norm, IDC) for name in NETWORKS for norm in ("instance", "batch")), ("convnet3", "batch", RDED)])
def test_a_used_network_is_trained_like_a_fresh_one(name, norm, protocol):
    size = max(smallest_size(name, norm), 8)
    train, test, soft = noise(4, size), noise(2, size), teacher(size) if protocol is RDED else None
    recipe = Recipe(1, 2, protocol.learning_rate, 1, protocol=protocol)
    used, expected = Last(), Last()
    evaluator = Evaluator(name, train, test, recipe, NOISE_CLASSES, norm, soft)
    evaluator.train(7)
    found = evaluator.train(8, checkpointer=used)
    with torch_seeded("evaluate", "weights", 8):
        fresh = build_network(name, NOISE_CLASSES, size, norm)
    outcome = train_classifier(fresh, train, test, recipe, 8, teacher=soft, checkpointer=expected)
    assert found.curve.equals(outcome.curve)
    assert np.array_equal(found.predictions, outcome.predictions)
    torch.testing.assert_close(used.state, expected.state, rtol=0, atol=0)  # network with its buffers, and optimiser
    assert used.state["optimiser"]["state"]
    assert ("norm.0.running_mean" in used.state["network"]) == (norm == "batch" and name.startswith("convnet"))


# ---- Compiling -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("epochs", "pixels", "compiled"), [
    (COMPILE_FROM_PIXELS // 2**14, 32, True), (COMPILE_FROM_PIXELS // 2**14 - 1, 32, False),
    (COMPILE_FROM_PIXELS // 2**16, 64, True), (COMPILE_FROM_PIXELS // 2**16 - 1, 64, False)])
def test_a_training_on_the_cpu_is_compiled_where_it_is_long_enough(epochs, pixels, compiled, monkeypatch):
    monkeypatch.setattr(compiling, "compile_unavailable_reason", lambda *_: "")  # whatever this machine has
    assert should_compile_steps(Recipe(epochs, compile="auto"), noise(16, pixels)) is compiled
    assert not should_compile_steps(Recipe(10**6, compile="off"), noise(16, pixels))


@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.parametrize("protocol", [IDC, RDED])
def test_compiled_steps_are_the_same_steps_and_are_compiled_once(protocol):
    if compile_unavailable_reason(torch.device("cpu")):
        pytest.skip("nothing can be compiled here")
    train, test, recipe = noise(40, 8), noise(6, 8), Recipe(2, 20, augmentation=NO_AUGMENTATION, protocol=protocol)
    eager, compiled = (Evaluator("convnet3", train, test, r, NOISE_CLASSES, "batch", teacher())
                       for r in (recipe, replace(recipe, compile="on")))
    graphs = []
    for seed in (0, 1):
        runs = [evaluator.train(seed) for evaluator in (eager, compiled)]
        assert [run.compiled for run in runs] == [False, True]
        np.testing.assert_allclose(*[run.curve["loss"] for run in runs], rtol=1e-3)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


WITHOUT = """
import sys
sys.path.insert(0, {tests!r})
from small_training import NOISE_CLASSES, noise
from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.training import Recipe
said = []
runs = [Evaluator("convnet3", noise(6, 8), noise(4, 8), Recipe(2, 4, compile=switch), NOISE_CLASSES, warn=said.append)
        for switch in ("on", "off")]
curves = [run.train(seed).curve for run in runs for seed in (0, 1)]
assert curves[0].equals(curves[2]) and curves[1].equals(curves[3])
print(*sorted(set(said)), sep="\\n")
"""


def test_without_a_compiler_steps_run_as_they_are_and_one_line_says_so(tmp_path):
    path = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    around = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")} | path
    script = WITHOUT.format(tests=str(Path(__file__).parents[1] / "helpers"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG, env=around)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert line.startswith("compile is 'on', but this machine cannot compile for cpu (")
    assert line.endswith("so networks run as they are; install a C++ compiler such as g++, or set compile to 'off'")
