"""TaylorSeer (arXiv 2503.06923): most steps extrapolate what attentions and MLPs return, by diffusers' hooks.

Each number of an image is extrapolated from its own past, so that no image depends on its batch. Noise that is new at
each step would leave nothing to extrapolate: only deterministic solvers can take it. The hooks, one a layer, cut a
compiled model into more pieces than PyTorch keeps apart, so such a model is not compiled.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from diffusers.models.cache_utils import CacheMixin

FIRST = 3  # steps that are computed before any is extrapolated


def enable_taylorseer(model: CacheMixin, interval: int = 5, order: int = 1) -> None:
    """Let a DiT compute its layers in the first steps and in one of so many, from then on, in `sampler.sample`.

    Args:
        model: the DiT.
        interval: steps from one that is computed to the next; 1 computes all.
        order: of the Taylor series: 0 repeats what was computed last. Memory holds order + 1 outputs of each layer.
    """
    from diffusers import TaylorSeerCacheConfig  # the hooks take a while to load, and only such a model needs them

    model.enable_cache(TaylorSeerCacheConfig(
        cache_interval=interval, disable_cache_before_step=FIRST, max_order=order, taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"blocks\.\d+\.(attn|mlp)"]))  # by default of attentions alone


@contextmanager
def remembering(model: CacheMixin) -> Iterator[Callable[[float], AbstractContextManager]]:
    """Let a DiT that extrapolates remember nothing but steps of the batch that is sampled inside, guided alike.

    A step with guidance runs two halves and one without a single one, so the steps on either side of an end of the
    guidance interval tell nothing of each other.

    Yields:
        what to hold for one evaluation of the model, of its guidance scale.
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
