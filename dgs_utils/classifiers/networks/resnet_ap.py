"""ResNetAP: a ResNet whose strides are average pools; ResNetAP-10 has one basic block a stage [F §9.3]."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from dgs_utils.classifiers.networks.layers import NORMS, Network, initialise, stem_of


class BlockAP(nn.Module):
    """Basic block; where it down-samples, an average pool follows its first ReLU and its shortcut's convolution."""

    def __init__(self, inputs: int, outputs: int, pool: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.shortcut = nn.Identity()
        if pool > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(pool), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/pool, W/pool)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.avg_pool2d(inner, self.pool) if self.pool > 1 else inner
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNetAP(Network):
    """ResNet with average pooling for down-sampling.

    The stem is a convolution of stride 1: 7 × 7 with a pool of 4 for large images, 3 × 3 with a pool of 2 for mid-sized
    ones, and 3 × 3 without a pool for small ones, all as published.

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
        kernel, self.stem_pool = {"small": (3, 1), "mid": (3, 2), "large": (7, 4)}[stem_of(image_size)]
        self.conv1 = nn.Conv2d(channels, 64, kernel, padding=kernel // 2, bias=False)
        self.bn1 = make(64)
        stages, inputs = [], 64
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
            for place in range(count):
                stages.append(BlockAP(inputs, width, 2 if stage and place == 0 else 1, make))
                inputs = width
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(512, num_classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the average of the last map (N, 512)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.avg_pool2d(x, self.stem_pool) if self.stem_pool > 1 else x
        return self.blocks(x).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        return self.fc(features)
