"""ConvNet-D: D times [convolution, norm, ReLU, average pool], then one linear layer [F §9.3]."""

from torch import Tensor, nn

from dgs_utils.classifiers.networks.layers import NORMS, Network


class ConvNet(Network):
    """Plain convolutional network of ``depth`` blocks with ``width`` channels, each of which halves the image."""

    def __init__(self, depth: int, num_classes: int, image_size: int, norm: str = "instance", channels: int = 3,
                 width: int = 128):
        super().__init__()
        side = image_size // 2**depth
        inputs = [channels] + [width] * (depth - 1)
        self.conv = nn.ModuleList(nn.Conv2d(c, width, kernel_size=3, padding=1) for c in inputs)
        self.norm = nn.ModuleList(NORMS[norm](width) for _ in inputs)
        self.classifier = nn.Linear(width * side**2, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the flattened last map (N, width · (image_size/2^depth)²)."""
        for conv, norm in zip(self.conv, self.norm, strict=True):
            x = self.block(conv, norm, x, pool=2)
        return x.flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        return self.classifier(features)
