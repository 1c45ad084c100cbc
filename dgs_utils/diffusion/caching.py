"""TaylorSeer (arXiv 2503.06923): most steps extrapolate the outputs of attentions and MLPs, by diffusers' hooks.

Each image is extrapolated from its own past, so it does not depend on its batch. Noise that is new at each step cannot
be extrapolated, so only deterministic solvers may use it. The hooks, one a layer, cut a compiled model into more graphs
than PyTorch keeps, so such a model is not compiled.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from diffusers.models.cache_utils import CacheMixin

WARMUP_STEPS = 3  # that are computed before any is extrapolated


def enable_taylorseer(model: CacheMixin, interval: int = 5, order: int = 1) -> None:
    """Let `sampling.sample` compute a DiT's layers in the first steps and in every ``interval``-th after them only.

    Args:
        model: the DiT.
        interval: steps from one that is computed to the next; 1 computes all.
        order: of the Taylor series: 0 repeats the last output. Memory holds order + 1 outputs of each layer.
    """
    from diffusers import TaylorSeerCacheConfig  # the hooks take a while to load, and only such a model needs them

    model.enable_cache(TaylorSeerCacheConfig(
        cache_interval=interval, disable_cache_before_step=WARMUP_STEPS, max_order=order,
        taylor_factors_dtype=torch.float32, cache_identifiers=[r"blocks\.\d+\.(attn|mlp)"]))


@contextmanager
def cache_scope(model: CacheMixin) -> Iterator[Callable[[float], AbstractContextManager]]:
    """Limit a DiT's cache to one batch, and to steps in a row that are guided alike.

    A step with guidance runs two halves and one without a single one, so they cannot extrapolate each other.

    Yields:
        A function of the guidance scale that returns the context for one evaluation of the model.
    """
    if not model.is_cache_enabled:
        yield lambda scale: nullcontext()
        return
    last: float | None = None

    def step(scale: float) -> AbstractContextManager:
        nonlocal last
        if scale != last:
            model._reset_stateful_cache()
        last = scale
        return model.cache_context("sampling")

    try:
        yield step
    finally:
        model._reset_stateful_cache()
