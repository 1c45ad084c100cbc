"""Networks: the published ones number by number, their small variants, and what refuses to be built."""

import pytest
import torch
import torchvision
from oracle import numbers
from torch import nn

from dgs_utils.classifiers.networks import NETWORKS, build_network, smallest_size, stem_size
from dgs_utils.results.rows import NETWORK_TITLES as LABELS

COUNTS = {("convnet6", 224): 754_570, ("convnet6", 256): 763_530, ("resnet_ap10", 224): 4_910_922,
          ("resnet_ap10", 256): 4_910_922, ("resnet18", 224): 11_181_642, ("resnet18", 256): 11_181_642,
          ("resnet_ap10", 128): 4_903_242, ("resnet18", 128): 11_173_962}
SIZES = {"small": 64, "mid": 96, "large": 136}


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Give each parameter the formula of the reference outputs, p.flat[i] = 0.05 sin(i + 0.1 k), norm weights + 1."""
    norms = {id(module.weight) for module in network.modules() if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d))}
    for k, parameter in enumerate(network.parameters()):
        places = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
        parameter.copy_(0.05 * torch.sin(places + 0.1 * k) + (id(parameter) in norms))
    return network


def waves(size: int) -> torch.Tensor:
    return torch.sin(0.01 * torch.arange(2 * 3 * size**2, dtype=torch.float64)).view(2, 3, size, size)


@pytest.mark.parametrize(("name", "size"), COUNTS, ids=lambda value: str(value))
def test_parameter_counts_are_the_published_ones(name, size):
    assert sum(parameter.numel() for parameter in build_network(name, 10, size).parameters()) == COUNTS[name, size]


@pytest.mark.parametrize("name", ["convnet6", "resnet_ap10"])
def test_parameters_stand_in_the_published_order(name):
    expected = numbers("networks")["nets"][name]["parameters"]
    network = build_network(name, 10, 224)
    assert [list(parameter.shape) for parameter in network.parameters()] == [shape for shape, _ in expected]


@pytest.mark.parametrize(("name", "size"), [("convnet6", 224), ("convnet6", 256), ("resnet_ap10", 224)])
def test_logits_are_the_published_ones(name, size):
    expected = numbers("networks")["nets"][name]["sizes"][str(size)]["logits_f64"]
    network = fill(build_network(name, 10, size).double())
    with torch.no_grad():
        found = network(waves(size))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_resnet18_is_torchvisions(norm):
    norm_layer = {"instance": lambda channels: nn.GroupNorm(channels, channels), "batch": nn.BatchNorm2d}[norm]
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], 10, norm_layer=norm_layer)
    theirs, ours = fill(theirs.double()), fill(build_network("resnet18", 10, 224, norm).double())
    with torch.no_grad():
        torch.testing.assert_close(ours(waves(136)), theirs(waves(136)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["convnet6", "resnet_ap10"])
def test_initial_weights_are_drawn_as_published(name):
    torch.manual_seed(1)
    expected = numbers("networks")["nets"][name]["init_std_seed0"]
    for parameter, deviation in zip(build_network(name, 10, 224).parameters(), expected, strict=True):
        # The sample deviation of n draws has a relative error of about 1/sqrt(2n) on either side; five of those.
        allowed = max(5 * deviation / parameter.numel() ** 0.5, 1e-6)
        assert parameter.std().item() == pytest.approx(deviation, abs=allowed)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", SIZES.values())
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_logits_follow_from_the_features(name, size, norm):
    torch.manual_seed(0)
    network = build_network(name, 7, size, norm).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = network.features(images)
        assert features.ndim == 2
        torch.testing.assert_close(network.classify(features), network(images))
    assert network(images).shape == (2, 7)


@pytest.mark.parametrize(("kind", "stem", "ap", "plain"), [
    ("small", (3, 1), 64, 64), ("mid", (3, 2), 48, 48), ("large", (7, 4), 34, 34)])
def test_stem_depends_on_the_image_size(kind, stem, ap, plain):
    size = SIZES[kind]
    assert stem_size(size) == kind
    first = [build_network(name, 10, size) for name in ("resnet_ap10", "resnet18")]
    kernel, _ = stem
    assert {network.conv1.kernel_size for network in first} == {(kernel, kernel)}
    sides = []
    for network in first:
        network.blocks[0].register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
        network.features(torch.zeros(1, 3, size, size))
    assert sides == [ap, plain]


def test_stem_boundaries():
    assert [stem_size(size) for size in (64, 65, 128, 129)] == ["small", "mid", "mid", "large"]


def narrowest(name: str, size: int, norm: str) -> int:
    """Build a network whatever its size and return the smallest side that a norm or a pool is given."""
    network = NETWORKS[name](10, size, norm, 3).eval()
    sides = [size]
    watched = [nn.GroupNorm, nn.AvgPool2d] if norm == "instance" else [nn.AvgPool2d]
    for module in network.modules():
        if isinstance(module, tuple(watched)):
            module.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    network.features(torch.zeros(2, 3, size, size))  # torch refuses one value a channel for a single image only
    return min(sides)


@pytest.mark.parametrize("name", NETWORKS)
def test_smallest_size_is_the_smallest_that_works(name):
    smallest = smallest_size(name, "instance")
    assert narrowest(name, smallest, "instance") >= 2
    if not name.startswith("convnet"):  # a ConvNet one pixel smaller cannot even be computed
        assert narrowest(name, smallest - 1, "instance") < 2
    with pytest.raises(ValueError, match=f"{name} with instance norm needs images of at least {smallest} pixels"):
        build_network(name, 10, smallest - 1)


def test_smallest_size_with_batch_norm():
    assert [smallest_size(name, "batch") for name in ("convnet4", "resnet_ap10", "resnet18")] == [16, 8, 1]
    for name in NETWORKS:
        size = smallest_size(name, "batch")
        assert build_network(name, 10, size, "batch").eval()(torch.zeros(1, 3, size, size)).shape == (1, 10)


@pytest.mark.parametrize(("arguments", "message"), [
    (("convnet7", 10, 224), "'convnet7' is no network of this kit, as torchvision:convnet7 .*; did you mean 'convnet"),
    (("convnet3", 10, 32, "instnace"), "'instnace' is no norm of convnet3; did you mean 'instance'")])
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(*arguments)


def test_every_network_has_a_name_for_tables():
    assert LABELS.keys() >= NETWORKS.keys()
