"""A batch that does not fit into a GPU's memory is halved once, which is said, and decides nothing."""

import pandas as pd
import pytest
import small_diffusion
import torch
from small_world import open_stage, small_classifier, write_digits

from dgs_utils import pool
from dgs_utils.difficulty import score_images
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import PoolParams
from dgs_utils.pool import from_model
from dgs_utils.runtime.oom_backoff import OomBackoff


def limited(most: int):
    """Return a hook by which a module fails as on a GPU that has memory for so many images."""
    def hook(module, inputs):
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
    return hook


def test_things_come_in_order_and_once():
    said, seen = [], []

    def work(batch):
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        seen.append(list(batch))
        return sum(batch)

    backoff = OomBackoff("batch_size", 5, said.append)
    assert backoff(work, range(8)) == [3, 12, 13]
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert backoff(work, range(3)) == [3]
    assert said == ["batch_size 5 does not fit into the GPU's memory; it is halved to 3, which the results do not "
                    "depend on"]


@pytest.mark.parametrize("most", [3, 1])
def test_batches_are_halved_until_they_fit(most):
    def work(batch):
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(batch)

    warnings = []
    batches = OomBackoff("batch_size", 8, warnings.append)(work, range(8))
    assert [thing for batch in batches for thing in batch] == list(range(8))
    assert max(map(len, batches)) <= most
    assert [sentence[:12] for sentence in warnings] == [f"batch_size {size}" for size in (8, 4, 2) if size > most]


def test_a_single_thing_that_does_not_fit_is_an_error():
    def work(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        OomBackoff("batch_size", 4, lambda sentence: None)(work, range(8))


def test_a_pool_of_halved_blocks_is_the_same(outputs, monkeypatch):
    prepare = small_diffusion.make_prepare()
    values = {"prepare": str(prepare), "generator": "dit", "images_per_class": 4, "steps": 4, "batch_size": 4}
    expected = pool.generate(open_stage("02_pool", **values))
    run = open_stage("02_pool", **values, output=str(outputs / "short of memory"))
    load = from_model.load_generator

    def limited_generator(run):
        model = load(run)
        model.blocks[0].register_forward_pre_hook(limited(4))  # two images with and without their class
        return model

    monkeypatch.setattr(from_model, "load_generator", limited_generator)
    pd.testing.assert_frame_equal(pool.generate(run), expected)
    [warning] = run.warnings
    assert warning.startswith("pool.batch_size 4 does not fit into the GPU's memory; it is halved to 2")
    assert PoolParams(batch_size=2).cache_params() == PoolParams(batch_size=4).cache_params()


def test_scores_of_halved_batches_are_the_same(tmp_path):
    images = ImageSet.read(write_digits(tmp_path / "scans", 0, 8))
    scorer, said = small_classifier(), []
    expected = score_images(images, scorer, batch_size=10, device="cpu")
    hook = scorer.network.conv[0].register_forward_pre_hook(limited(5))
    try:
        found = score_images(images, scorer, batch_size=10, device="cpu", warn=said.append)
    finally:
        hook.remove()
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    assert len(said) == 1
