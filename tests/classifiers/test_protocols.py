"""Evaluation protocols: the published tables of numbers, optimisers by hand, and which tests count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import numbers
from torch import nn

from dgs_utils.classifiers.optimisers import adamw, sgd
from dgs_utils.classifiers.protocols import (
    IDC,
    PROTOCOLS,
    RDED,
    UAG,
    half_cosine_rate,
    steps_rate,
    training_augmentation,
)

PUBLISHED = numbers("evaluation")
SCHEDULES = {tuple(int(part.split("=")[1]) for part in name.split(",")): case
             for name, case in PUBLISHED["schedule"].items()}


def test_epochs_by_ipc_are_the_published_ones():
    found = [IDC.epochs(ipc) for ipc in range(1, 601)]
    assert found == PUBLISHED["epochs"]["epochs_by_ipc_1_600"]
    assert IDC.epochs(0) == 300  # the full set
    assert [IDC.epochs(ipc, classes=100) for ipc in (1, 10, 50, 0)] == [2000, 1333, 1000, 200]  # × 2/3 [F §9.1]
    assert RDED.epochs(10, classes=100) == 300


@pytest.mark.parametrize(("ipc", "factor", "epochs"), [(10, 0.01, 20), (20, 0.01, 15), (10, 2.0, 4000), (1, 1e-6, 1)])
def test_epochs_scale(ipc, factor, epochs):
    assert IDC.epochs(ipc, factor) == epochs


@pytest.mark.parametrize("case", SCHEDULES, ids=str)
def test_learning_rate_is_the_published_one(case):
    epochs = case[0]
    for epoch, rate in SCHEDULES[case]["lr_at"].items():
        assert 0.01 * steps_rate(int(epoch), epochs) == pytest.approx(rate, rel=1e-12)
    changes = dict(SCHEDULES[case]["lr_changes (1-based epoch, lr used during it)"])
    rates = [steps_rate(epoch, epochs) for epoch in range(1, epochs + 1)]
    found = {epoch: 0.01 * rate for epoch, rate in enumerate(rates, 1) if epoch == 1 or rate != rates[epoch - 2]}
    assert found == pytest.approx(changes, rel=1e-12)


def test_soft_label_rate_is_half_a_cosine_as_torch_steps_it():
    parameter, epochs = nn.Parameter(torch.zeros(1)), 12
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda e: 0.5 * (1 + math.cos(math.pi * e / epochs / 2)))
    for epoch in range(1, epochs + 1):
        assert half_cosine_rate(epoch, epochs) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize(("ipc", "batch"), [(1, 10), (10, 50), (50, 100), (0, 100)])
def test_batches_by_ipc(ipc, batch):
    assert RDED.batch_size(ipc) == batch
    assert IDC.batch_size(ipc) == 64


def test_optimisers_step_as_written_down():
    weights, gradients = torch.randn(2, 3, 4), torch.randn(2, 3, 4)

    def steps(make):
        network = nn.Linear(4, 3)
        network.weight.data.copy_(weights[0])
        network.bias.data.copy_(weights[1, :, 0])
        optimiser = make(network, 0.1)
        for gradient in gradients:
            network.weight.grad, network.bias.grad = gradient.clone(), gradient[:, 0].clone()
            optimiser.step()
        return network.weight.detach(), network.bias.detach()

    def by_hand(start, gradients, update):
        value, state = start.clone(), (torch.zeros_like(start), torch.zeros_like(start))
        for number, gradient in enumerate(gradients, 1):
            value, state = update(value, gradient, state, number)
        return value

    def momentum(value, gradient, state, number):
        velocity = 0.9 * state[0] + gradient + 5e-4 * value
        return value - 0.1 * velocity, (velocity, None)

    def adam(decay):
        def update(value, gradient, state, number):
            first, second = 0.9 * state[0] + 0.1 * gradient, 0.999 * state[1] + 0.001 * gradient**2
            step = (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
            return value * (1 - 0.1 * decay) - 0.1 * step, (first, second)
        return update

    for make, weight_rule, bias_rule in ((sgd, momentum, momentum), (adamw, adam(0.01), adam(0.0))):
        weight, bias = steps(make)
        torch.testing.assert_close(weight, by_hand(weights[0], gradients, weight_rule))
        torch.testing.assert_close(bias, by_hand(weights[1, :, 0], gradients[:, :, 0], bias_rule))


@given(st.integers(1, 400))
def test_the_last_test_always_counts(epochs):
    for protocol in PROTOCOLS.values():
        assert protocol.counts(epochs, epochs)
    assert all(IDC.counts(epoch, epochs) for epoch in range(1, epochs + 1))
    assert [epoch for epoch in range(1, epochs + 1) if UAG.counts(epoch, epochs)] == [epochs]
    early = [epoch for epoch in range(1, epochs) if RDED.counts(epoch, epochs)]
    assert all(5 * epoch > 4 * epochs for epoch in early)


def test_transforms_of_the_protocols():
    assert (IDC.augmentation.crop, IDC.augmentation.flip, IDC.augmentation.jitter) == (0.5, 0.5, 0.4)
    plain = training_augmentation(RDED, mirrored=True)
    assert (plain.crop, plain.flip, plain.jitter, plain.lighting, plain.cutmix) == (1.0, 0.5, 0.0, 0.0, True)
    mosaic = training_augmentation(RDED, mirrored=True, tiles=2)
    assert (mosaic.tiles, mosaic.crop) == (2, 0.5)
    assert training_augmentation(IDC, mirrored=False, tiles=2) == training_augmentation(IDC, mirrored=False)
    assert all(training_augmentation(protocol, mirrored=False).flip == 0 for protocol in PROTOCOLS.values())


def test_labels_are_those_of_the_published_families():
    assert {name: protocol.label for name, protocol in PROTOCOLS.items()} == {"idc": "H-A", "rded": "S-R", "uag": "UAG"}


def test_uag_is_adamw_by_the_steps_of_idc():
    assert (UAG.optimiser, UAG.learning_rate, UAG.temperature) == ("adamw", 0.001, 0)
    assert [round(UAG.rate(epoch, 12), 6) for epoch in (8, 9, 10, 11)] == [1, 0.2, 0.2, 0.04]
    assert adamw(nn.Linear(2, 2), 0.1).param_groups[0]["weight_decay"] == 0.01
