"""ResNet-18 in its usual form, with instance or batch norm [F §9.3]."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from dgs_utils.classifiers.networks.layers import NORMS, Network, initialise, stem_of


class Block(nn.Module):
    """Basic block with strided convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet(Network):
    """ResNet of basic blocks.

    The stem is a 7 × 7 convolution of stride 2 with a 3/2 max pool for large images, a 3 × 3 convolution of stride 1
    with that pool for mid-sized ones, and the same without a pool for small ones, all as published.

    Args:
        blocks: blocks in each of the four stages.
        num_classes: outputs.
        image_size: side of the images in pixels.
        norm: "instance" or "batch".
        channels: of the images.
    """

    def __init__(self, blocks: tuple[int, ...], num_classes: int, image_size: int, norm: str = "instance",
                 channels: int = 3):
        super().__init__()
        make = NORMS[norm]
        stem = stem_of(image_size)
        kernel, stride = (7, 2) if stem == "large" else (3, 1)
        self.max_pool = stem != "small"
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = make(64)
        stages, inputs = [], 64
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
            for place in range(count):
                stages.append(Block(inputs, width, 2 if stage and place == 0 else 1, make))
                inputs = width
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(512, num_classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the average of the last map (N, 512)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1) if self.max_pool else x
        return self.blocks(x).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        return self.fc(features)
