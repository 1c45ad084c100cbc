"""The minimax criteria against the published numbers and a plain loop, and their memories across checkpoints."""

import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import tensors

from dgs_utils.diffusion.minimax import Memory, MinimaxCriterion


def test_sequence_equals_the_published_code():
    reference = tensors("minimax_loss")
    criterion = MinimaxCriterion(memory_size=5, weight_representative=0.002, weight_diverse=0.008)
    for step in range(6):
        batch = {name: reference[f"step{step}/{name}"] for name in ("x", "pseudo", "y")}
        predicted = batch["pseudo"].requires_grad_()
        representative, diverse = criterion(predicted, batch["x"], batch["y"])
        torch.testing.assert_close(representative, reference[f"step{step}/pos_loss"], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(diverse, reference[f"step{step}/neg_loss"], rtol=1e-5, atol=1e-8)
        gradient = torch.zeros_like(predicted)
        if step:  # nothing to compare with in the first batch
            gradient, = torch.autograd.grad(representative + diverse, predicted)
        torch.testing.assert_close(gradient, reference[f"step{step}/grad_pseudo"], rtol=1e-4, atol=1e-9)
    for kind, memory in (("real", criterion.real), ("pseudo", criterion.predicted)):
        for label in range(4):
            expected = reference[f"final_{kind}_memory/{label}"].flatten(1)
            torch.testing.assert_close(memory.ordered(label), expected, rtol=0, atol=0)


batches = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=6)


def draw_batch(labels: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    predicted, latents = torch.randn(2, len(labels), 2, 3, 3, generator=rng)
    return predicted, latents, torch.tensor(labels)


def plain_criterion(predicted, latents, labels, memories, size: int) -> tuple[float, float]:
    """Loop over every pair, as [F §4] describes it; ``memories`` are two lists a class."""
    representative = diverse = 0.0
    for label in set(labels.tolist()):
        real, past = memories.setdefault(label, ([], []))
        members = [i for i in range(len(labels)) if labels[i] == label]

        def cosine(a, b):
            return F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()

        if real:
            representative += 1 - min(cosine(predicted[i], m) for i in members for m in real)
            diverse += max(cosine(predicted[i], m) for i in members for m in past)
    for i, label in enumerate(labels.tolist()):
        for memory, vector in zip(memories[label], (latents[i], predicted[i]), strict=True):
            memory.append(vector)
            del memory[:-size]
    count = len(set(labels.tolist()))
    return 0.3 * representative / count, 0.7 * diverse / count


@settings(max_examples=40, deadline=None)
@given(batches=batches, size=st.integers(1, 6))
def test_any_sequence_equals_a_plain_loop(batches, size):
    criterion, memories = MinimaxCriterion(size, 0.3, 0.7), {}
    for seed, labels in enumerate(batches):
        batch = draw_batch(labels, seed)
        expected = plain_criterion(*batch, memories, size)
        found = criterion(*batch)
        assert [f.item() for f in found] == pytest.approx(expected, abs=1e-6)
    for label, (real, past) in memories.items():
        assert torch.equal(criterion.real.ordered(label), torch.stack(real).flatten(1))
        assert torch.equal(criterion.predicted.ordered(label), torch.stack(past).flatten(1))


@settings(max_examples=25, deadline=None)
@given(batches=batches, size=st.integers(1, 6), data=st.data())
def test_a_restored_criterion_goes_on_as_if_nothing_had_happened(batches, size, data):
    stop = data.draw(st.integers(0, len(batches)))
    undisturbed, criterion = MinimaxCriterion(size), MinimaxCriterion(size)
    for step, labels in enumerate(batches):
        if step == stop:
            file = io.BytesIO()
            torch.save(criterion.state_dict(), file)
            file.seek(0)
            criterion = MinimaxCriterion(size)
            criterion.load_state_dict(torch.load(file, weights_only=True))
        expected, found = undisturbed(*draw_batch(labels, step)), criterion(*draw_batch(labels, step))
        assert torch.equal(torch.stack(found), torch.stack(expected))
    assert criterion.state_dict().keys() == undisturbed.state_dict().keys()
    assert all(torch.equal(t, undisturbed.state_dict()[name]) for name, t in criterion.state_dict().items())


def test_a_class_without_memory_adds_nothing_but_counts():
    first, second = draw_batch([0, 0, 1], 0), draw_batch([0, 1, 2, 3], 1)
    criterion = MinimaxCriterion(8, 1.0, 1.0)
    assert [float(loss) for loss in criterion(*first)] == [0.0, 0.0]
    known_only, = (MinimaxCriterion(8, 1.0, 1.0),)
    known_only(*first)
    keep = second[2] < 2
    expected = known_only(*(part[keep] for part in second))
    found = criterion(*second)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected) * 2 / 4)


def test_memories_carry_no_gradient_and_no_alias():
    criterion = MinimaxCriterion(4)
    predicted, latents, labels = draw_batch([0, 0], 0)
    predicted.requires_grad_()
    criterion(predicted, latents, labels)
    before = criterion.real.get(0).clone()
    latents.zero_()
    assert not criterion.predicted.get(0).requires_grad
    assert torch.equal(criterion.real.get(0), before)
    state = criterion.state_dict()
    criterion(*draw_batch([0], 1))
    assert torch.equal(state["real.ring.0"][:2], before)  # a saved state does not move with the criterion
    assert not state["real.ring.0"][2:].any()


def test_half_precision_is_compared_in_single_precision():
    batch, again = draw_batch([0, 1, 1], 0), draw_batch([0, 1], 1)
    half, single = MinimaxCriterion(4), MinimaxCriterion(4)
    for predicted, latents, labels in (batch, again):
        found = half(predicted.bfloat16(), latents.bfloat16(), labels)
        expected = single(predicted.bfloat16().float(), latents.bfloat16().float(), labels)
    assert {loss.dtype for loss in found} == {torch.float32}
    assert torch.equal(torch.stack(found), torch.stack(expected))


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 9), max_size=6), size=st.integers(1, 5))
def test_memory_is_first_in_first_out(counts, size):
    memory, pushed = Memory(size), torch.empty(0, 1)
    for count in counts:
        vectors = torch.arange(len(pushed), len(pushed) + count).float()[:, None]
        memory.push(7, vectors)
        pushed = torch.cat([pushed, vectors])
    if counts:
        assert torch.equal(memory.ordered(7), pushed[-size:])
        assert torch.equal(memory.get(7).sort(0).values, pushed[-size:])
    else:
        assert len(memory.get(7)) == 0
