"""ResNet-18 with instance or batch norm, and ResNetAP, whose strides are average pools [F §9.3]."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from dgs_utils.classifiers.networks.fused import Fusible
from dgs_utils.classifiers.networks.layers import NORMS, Network, initialise, stem_size


class ResidualBlock(Fusible):
    """Basic block; it reduces the side of the image by ``factor`` 1 or 2, by strided convolutions, or by an average
    pool after the first ReLU, and one after the shortcut's convolution.
    """

    def __init__(self, inputs: int, outputs: int, factor: int, norm: Callable[[int], nn.Module], average_pool: bool):
        super().__init__()
        stride, self.pool = (1, factor) if average_pool else (factor, 1)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.shortcut = nn.Identity()
        if factor > 1 or inputs != outputs:
            pool = [nn.AvgPool2d(factor)] if average_pool else []
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), *pool,
                                          norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/factor, W/factor)."""
        inner = self.block(self.conv1, self.bn1, x, pool=self.pool)
        return F.relu(self.block(self.conv2, self.bn2, inner, relu=False) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.fused or isinstance(self.shortcut, nn.Identity):
            return self.shortcut(x)
        convolution, *pool, norm = self.shortcut
        for layer in pool:
            x = layer(x)  # before the convolution, to which it makes no difference, as that has kernels of one pixel
        return self.block(convolution, norm, x, relu=False)


class ResNet(Network):
    """ResNet of basic ``blocks`` in each of four stages.

    The stem is a 7 × 7 convolution of stride 2 with a 3/2 max pool for large images, a 3 × 3 convolution of stride 1
    with that pool for mid-sized ones, and the same without a pool for small ones, all as published.
    """

    average_pool = False  # of the blocks

    def __init__(self, blocks: tuple[int, ...], num_classes: int, image_size: int, norm: str = "instance",
                 channels: int = 3):
        super().__init__()
        self.stem = stem_size(image_size)
        kernel = 7 if self.stem == "large" else 3
        stride = 1 if self.average_pool or self.stem != "large" else 2
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = NORMS[norm](64)
        layers, inputs = [], 64
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
            for index in range(count):
                factor = 2 if stage and index == 0 else 1
                layers.append(ResidualBlock(inputs, width, factor, NORMS[norm], self.average_pool))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(512, num_classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the average of the last map (N, 512)."""
        x = self.block(self.conv1, self.bn1, x)
        return self.blocks(x if self.stem == "small" else self.pool_stem(x)).mean((2, 3))

    def pool_stem(self, x: Tensor) -> Tensor:
        """Return the output of the stem's convolution, pooled."""
        return F.max_pool2d(x, 3, stride=2, padding=1)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        return self.fc(features)


class ResNetAP(ResNet):
    """ResNet with average pools; ResNetAP-10 has one block a stage.

    The stem is a convolution of stride 1: 7 × 7 with a pool of 4 for large images, 3 × 3 with a pool of 2 for mid-sized
    ones, and 3 × 3 without a pool for small ones, all as published.
    """

    average_pool = True

    def pool_stem(self, x: Tensor) -> Tensor:
        """Return the output of the stem's convolution, pooled."""
        return F.avg_pool2d(x, 4 if self.stem == "large" else 2)
