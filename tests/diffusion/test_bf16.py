"""bf16: where it rounds, how much guidance makes of that, and how often matrices are converted."""

import threading
from collections.abc import Callable

import diffusers
import pytest
import torch
from oracle import draw_weights
from torch.utils._python_dispatch import TorchDispatchMode

from dgs_utils.diffusion.autoencoder import LatentAutoencoder
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.sampling import Guidance, sample
from dgs_utils.pool import decode_images
from dgs_utils.runtime.devices import autocast

CPU = torch.device("cpu")
BF16 = torch.bfloat16


def model() -> DiT:
    dit = DiT(input_size=8, patch_size=2, in_channels=4, hidden_size=64, depth=3, num_heads=4, num_classes=3)
    return draw_weights(dit, seed=0).eval()


def inputs(n: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, 8, 8, generator=rng), torch.randint(1000, (n,), generator=rng), torch.arange(n) % 3


@torch.no_grad()
def test_the_last_layer_and_guidance_are_fp32():
    dit, (x, t, y) = model(), inputs()
    with autocast(CPU, "bf16"):
        null = torch.full_like(y, 3)
        conditional, unconditional = dit(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null])).chunk(2)
        guided = dit.forward_with_guidance(x, t, y, 4.0)
    assert guided.dtype == conditional.dtype == torch.float32
    assert (guided != guided.to(BF16)).float().mean() > 0.9  # nothing has been rounded on the way
    expected = unconditional[:, :3].double() + 4 * (conditional - unconditional)[:, :3].double()
    torch.testing.assert_close(guided[:, :3].double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_guidance_4_magnifies_the_error_of_bf16_less_than_where_its_difference_is_rounded():
    dit, (x, t, y) = model(), inputs(64)
    exact = {scale: dit.forward_with_guidance(x, t, y, scale)[:, :3] for scale in (1.0, 4.0)}
    null = torch.full_like(y, 3)
    with autocast(CPU, "bf16"):
        found = {scale: dit.forward_with_guidance(x, t, y, scale)[:, :3] for scale in (1.0, 4.0)}
        halves = [dit(x, t, labels)[:, :3].to(BF16) for labels in (y, null)]
    rounded = torch.lerp(halves[1], halves[0], 4.0)
    error = {scale: (found[scale] - exact[scale]).square().mean().sqrt() for scale in exact}
    error_if_rounded = (rounded.float() - exact[4.0]).square().mean().sqrt()
    assert error[4.0] < 0.9 * error_if_rounded
    assert error[4.0] < 0.02 * exact[4.0].std()


class Conversions(TorchDispatchMode):
    """Counts how often something as large as a matrix of a layer is rounded to bf16."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.places = {parameter.data_ptr() for parameter in module.parameters() if parameter.dim() > 1}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::_to_copy", "aten::to") and args[0].data_ptr() in self.places:
            self.count += (kwargs or {}).get("dtype") == BF16 or BF16 in args
        return func(*args, **(kwargs or {}))


def sampled(dit: DiT, between: Callable[[], None] = lambda: None) -> torch.Tensor:
    def steps(loop, **_):
        for step in loop:
            between()
            yield step

    rngs = [torch.Generator().manual_seed(i) for i in range(3)]
    return sample(dit, torch.arange(3), rngs, steps=4, guidance=Guidance(4.0), precision="bf16", progress=steps)


def test_stored_matrices_give_the_same_latents():
    assert torch.equal(sampled(model().store_matrices("bf16")), sampled(model()))


def test_matrices_are_not_converted_at_each_step_while_another_thread_decodes():
    autoencoder = LatentAutoencoder(diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1))).store_matrices("bf16")

    def decode_elsewhere():
        with Conversions(autoencoder.model) as found:  # dispatch modes belong to a thread
            decode_images(autoencoder, torch.zeros(2, 4, 8, 8), "bf16")
        converted.append(found.count)

    def between():
        thread = threading.Thread(target=decode_elsewhere)
        thread.start()
        thread.join()

    converted: list[int] = []
    dit = model()
    with Conversions(dit) as unprepared:
        sampled(dit, between)
    assert unprepared.count > 4 * 3  # what it is about: leaving an autocast in a thread empties the cache of all
    dit.store_matrices("bf16")
    with Conversions(dit) as prepared:
        sampled(dit, between)
    assert prepared.count == 0
    assert converted == [0] * 8


@pytest.mark.parametrize("stored", [False, True])
@torch.no_grad()
def test_a_compiled_graph_converts_no_stored_matrix(stored):
    from torch._dynamo.backends.common import aot_autograd

    dit, conversions, graphs = model(), [], []
    if stored:
        dit.store_matrices("bf16")
    shapes = {tuple(parameter.shape) for block in dit.blocks for parameter in block.parameters() if parameter.dim() > 1}

    def look(graph, example):
        graphs.append(graph)
        for node in graph.graph.nodes:
            if node.op == "call_function" and node.kwargs.get("dtype") == BF16:
                conversions.append(tuple(node.args[0].meta["val"].shape) in shapes)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(dit, backend=aot_autograd(fw_compiler=look), dynamic=False)
    with autocast(CPU, "bf16"):
        found = compiled(*inputs(4))
        torch.testing.assert_close(found, dit(*inputs(4)), rtol=1e-3, atol=1e-3)
    assert len(graphs) == 1  # whole, though the last layer leaves autocast
    assert (sum(conversions) == 0) if stored else (sum(conversions) >= 3 * 5)  # qkv, proj, fc1, fc2, adaLN a block
