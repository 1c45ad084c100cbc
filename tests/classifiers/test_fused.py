"""Fused layers compute what PyTorch's own do: forwards, backwards, and over whole trainings."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_training import NOISE_CLASSES, noise

from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.networks.fused import C_OPTIONS, SOURCE, First, NormReluPool, Winograd, can_fuse, fuse
from dgs_utils.classifiers.training import (
    FUSE_FROM_PIXELS,
    Recipe,
    predict_logits,
    should_compile_steps,
    train_classifier,
)
from dgs_utils.runtime.compiling import compile_c, compile_unavailable_reason
from dgs_utils.runtime.devices import autocast
from dgs_utils.runtime.seeds import torch_rng, torch_seeded

pytestmark = pytest.mark.skipif(bool(compile_unavailable_reason(torch.device("cpu"), SOURCE)), reason="no C compiler")
ERROR = {torch.float32: 1e-5, torch.bfloat16: 8e-3}  # relative, of sums in fp32, stored in bf16
BUILDS = {"as it is": (), "256 bits": ("-mno-avx512f",), "pairs of bf16": ("-DPAIRS",)}
NETWORKS = [("convnet3", 16), ("convnet4", 20), ("resnet_ap10", 32), ("resnet18", 32)]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_rng("test", "fused", *shape))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def with_gradients(function, *inputs: torch.Tensor, to: torch.dtype) -> list[torch.Tensor]:
    """Return a function's output and the gradients of a fixed linear form of it."""
    kinds = [to, *[torch.promote_types(to, torch.float32)] * (len(inputs) - 1)]  # images, and weights
    leaves = [value.to(kind, copy=True).requires_grad_() for value, kind in zip(inputs, kinds, strict=True)]
    out = function(*leaves)
    out.backward(drawn(2, *out.shape)[1].to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.fixture(params=BUILDS)
def build(request, monkeypatch) -> str:
    """Compile the C for processors of other kinds, as far as this one runs it."""
    needed = {"256 bits": "avx2", "pairs of bf16": "avx512_bf16"}.get(request.param)
    if needed and not getattr(torch.cpu, "get_capabilities", dict)().get(needed):
        pytest.skip("another processor's instructions")
    for name, options in C_OPTIONS.items():
        if name == "bf16" or "-DPAIRS" not in BUILDS[request.param]:
            monkeypatch.setitem(C_OPTIONS, name, (*options, *BUILDS[request.param]))
    return request.param


@pytest.mark.parametrize("storage", ERROR)
@pytest.mark.parametrize(("images", "side", "inputs", "outputs"), [(3, 4, 32, 64), (3, 8, 96, 32), (7, 20, 32, 32)])
def test_winograd_is_a_convolution(images, side, inputs, outputs, storage, build):
    images, kernel = drawn(images, inputs, side, side), drawn(outputs, inputs, 3, 3)
    found = with_gradients(Winograd.apply, images, kernel, to=storage)
    expected = with_gradients(lambda x, w: F.conv2d(x, w, padding=1), images, kernel, to=torch.float64)
    assert found[0].dtype == storage
    pairs = build == "pairs of bf16" and storage == torch.bfloat16  # Winograd's sums lose three bits of each
    assert max(map(error, found, expected)) < (0.06 if pairs else ERROR[storage])


@pytest.mark.parametrize("storage", ERROR)
@pytest.mark.parametrize(("relu", "pool"), [(True, 2), (True, 1), (False, 1), (False, 2)])
def test_norm_relu_and_pool_are_pytorch_s(relu, pool, storage, build):
    images = 3 * drawn(2, 32, 6, 6).to(storage).float() + 5
    weight, bias = drawn(32) + 1, drawn(32)

    def expected(x, weight, bias):
        x = F.group_norm(x, 32, weight, bias, 1e-3)
        return F.avg_pool2d(F.relu(x) if relu else x, pool)

    found = with_gradients(lambda *args: NormReluPool.apply(*args, 1e-3, relu, pool), images, weight, bias, to=storage)
    assert max(map(error, found, with_gradients(expected, images, weight, bias, to=torch.float64))) < ERROR[storage]

    colours, kernel = drawn(2, 3, 6, 6), drawn(32, 3, 3, 3)
    with autocast(torch.device("cpu"), "fp32" if storage == torch.float32 else "bf16"):
        found = with_gradients(lambda *args: First.apply(colours, *args, 1e-3, relu, pool), kernel, weight, bias,
                               to=torch.float32)
    assert found[0].dtype == storage
    double = with_gradients(lambda kernel, *args: expected(F.conv2d(colours.double(), kernel, padding=1), *args),
                            kernel, weight, bias, to=torch.float64)
    assert max(map(error, found, double)) < ERROR[storage]


def test_results_do_not_depend_on_threads():
    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        images, kernel = drawn(9, 32, 12, 12).bfloat16(), drawn(32, 32, 3, 3)
        try:
            return with_gradients(Winograd.apply, images, kernel, to=torch.bfloat16)
        finally:
            torch.set_num_threads(before)

    assert all(map(torch.equal, run(1), run(3)))


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_a_fused_network_has_the_same_gradients(name, size):
    with torch_seeded("test", "fused"):
        network = build_network(name, 4, size).double()
    images = drawn(4, 3, size, size)
    copy = deepcopy(network).float()
    F.cross_entropy(network(images.double()), torch.arange(4)).backward()
    fuse(copy)
    out = copy(images)
    assert error(out.detach(), network(images.double()).detach()) < 1e-4
    F.cross_entropy(out, torch.arange(4)).backward()
    pairs = list(zip(copy.parameters(), network.parameters(), strict=True))
    left_out = [float(other.grad.abs().max()) for one, other in pairs if one.grad is None]
    assert max(left_out, default=0) < 1e-12  # constants that the norm takes out
    found, expected = (torch.cat([pair[side].grad.flatten() for pair in pairs if pair[0].grad is not None])
                       for side in (0, 1))
    assert error(found, expected) < 1e-2  # a few values on the other side of a ReLU's kink


def test_a_diverged_network_shows_it():
    network, images = build_network("convnet3", 4, 16), drawn(2, 3, 16, 16)
    with torch.no_grad():
        network.conv[1].weight[0] = float("nan")
    fuse(network)
    assert network(images).isnan().all()


def test_a_network_is_fused_and_as_it_was_again():
    network, images = build_network("convnet3", 4, 16), drawn(2, 3, 16, 16)
    before = network(images)
    fuse(network)
    assert not torch.equal(network(images), before)  # other kernels, other rounding
    fuse(network, False)
    assert torch.equal(network(images), before)


def test_batch_norm_and_foreign_networks_are_left_alone():
    assert not can_fuse(build_network("convnet3", 4, 16, "batch"))
    assert not can_fuse(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.GroupNorm(16, 16)))
    assert not can_fuse(build_network("convnet3", 4, 16).double())
    assert can_fuse(build_network("resnet_ap10", 4, 16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_trainings_are_the_same_trainings(precision):
    train, test = noise(40, 16), noise(50, 16)
    recipe = Recipe(3, 20, precision=precision)
    eager, fused = (Evaluator("convnet3", train, test, replace(recipe, compile=switch), NOISE_CLASSES)
                    for switch in ("off", "on"))
    runs = [evaluator.train(0) for evaluator in (eager, fused, fused)]
    assert [run.compiled for run in runs] == [False, True, True]
    np.testing.assert_allclose(*[run.curve["loss"] for run in runs[:2]], rtol=1e-3 if precision == "fp32" else 0.05)
    assert runs[1].curve.equals(runs[2].curve)
    assert not fused.network.fused  # afterwards it is any network, which may go to a GPU
    fuse(fused.network)
    found = predict_logits(fused.network, test.images, precision=precision).argmax(1)
    assert np.array_equal(found.numpy(), runs[2].predictions)


def test_training_goes_on_where_one_precision_does_not_compile(monkeypatch):
    monkeypatch.setenv("CXX", """sh -c 'case "$*" in *BF16*) exit 3; esac; exec g++ "$@"' sh""")
    train, warnings = noise(8, 16), []
    for cached in (compile_c, compile_unavailable_reason):
        cached.cache_clear()
    for precision, compiled in (("fp32", True), ("bf16", False)):
        recipe = Recipe(1, 8, precision=precision, compile="on")
        network = build_network("convnet3", NOISE_CLASSES, 16)
        assert train_classifier(network, train, train, recipe, warn=warnings.append).compiled is compiled
    [warning] = warnings
    assert "cannot compile for cpu (sh ended with status 3)" in warning
    compile_unavailable_reason.cache_clear()


def test_long_trainings_are_fused():
    for pixels, fused in ((FUSE_FROM_PIXELS, True), (FUSE_FROM_PIXELS - 1, False)):
        assert should_compile_steps(Recipe(pixels // 2**12, compile="auto"), noise(16, 16), fusible=True) is fused


def test_what_does_not_compile_says_so(tmp_path):
    (tmp_path / "broken.c").write_text("int broken(")
    with pytest.raises(OSError, match=r"^g\+\+ ended with status 1: .*broken\.c:1:.* error: "):
        compile_c(tmp_path / "broken.c")


@pytest.mark.parametrize(("compiler", "reason"), [
    ("", ""), ("g++ -O1", ""), ("g++ 'x", "No closing quotation"), ("none++", "No such file"),
    ("true", "cannot open shared object"), ("sh -c 'echo fatal: no licence; exit 3'", "sh ended with status 3: fatal")])
def test_odd_compilers_leave_a_reason(tmp_path, monkeypatch, compiler, reason):
    monkeypatch.setenv("CXX", compiler)
    (tmp_path / "one.c").write_text("int one(void) { return 1; }")
    found = compile_unavailable_reason(torch.device("cpu"), tmp_path / "one.c")
    assert reason in found
    assert bool(reason) == bool(found)
