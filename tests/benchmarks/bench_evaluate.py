"""How fast stage 06 trains: ``python tests/benchmarks/bench_evaluate.py --network resnet_ap10 --size 224``.

The baseline works as the published trainer does: images held as PIL objects, transformed one by one in worker
processes, batch after batch in fp32, tested in batches of 32. Both sides are measured in turns in the same run; each
line gives a time and a ratio, and nothing fails for being slow. The last line, about shares of a training step, counts
CPU time where there is no GPU, so that it holds on a busy machine too.
"""

import argparse
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from dgs_utils.classifiers.augmentation import (
    EIGENVALUES,
    EIGENVECTORS,
    LUMINANCE,
    MEAN,
    STD,
    Augmentation,
    augment,
    cutmix,
)
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.training import Recipe, predict_logits, train_classifier
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.seeds import torch_rng

WEIGHTS = torch.tensor(LUMINANCE)[:, None, None]


def jitter(image: torch.Tensor) -> torch.Tensor:
    """Blend one image with black, its mean luminance and its luminance, in random order."""
    for operation in random.sample(range(3), 3):
        luminance = (image * WEIGHTS).sum(0, keepdim=True)
        reference = (torch.zeros(()), luminance.mean(), luminance)[operation]
        image = image + random.uniform(-0.4, 0.4) * (reference - image)
    return image


def lighting(image: torch.Tensor) -> torch.Tensor:
    """Add one PCA colour to one image."""
    alphas = torch.randn(3) * 0.1 * torch.tensor(EIGENVALUES)
    return image + (torch.tensor(EIGENVECTORS) @ alphas)[:, None, None]


class Originals(Dataset):
    """PIL images with labels, transformed when they are asked for."""

    def __init__(self, images: ImageTensors, size: int, train: bool):
        self.items = [(Image.fromarray(image.permute(1, 2, 0).numpy()), int(label))
                      for image, label in zip(images.images, images.labels, strict=True)]
        steps = [v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        if train:
            steps += [v2.RandomResizedCrop(size, (0.5, 1.0), antialias=True), v2.RandomHorizontalFlip(),
                      jitter, lighting]
        self.transform = v2.Compose([*steps, v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int):
        image, label = self.items[place]
        return self.transform(image), label


class Baseline:
    """The published trainer's loop."""

    def __init__(self, network, train: ImageTensors, test: ImageTensors, size: int, workers: int, device: torch.device):
        self.network, self.device = network, device
        self.optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": device.type == "cuda"}
        self.train_loader = DataLoader(Originals(train, size, True), batch_size=64, shuffle=True, **options)
        self.test_loader = DataLoader(Originals(test, size, False), batch_size=32, **options)

    def epoch(self) -> None:
        self.network.train()
        for images, labels in self.train_loader:
            images, labels = images.to(self.device), labels.to(self.device)
            images, partner, own = cutmix(images, torch.default_generator)
            predicted = self.network(images)
            loss = own * F.cross_entropy(predicted, labels) + (1 - own) * F.cross_entropy(predicted, labels[partner])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            loss.item()  # the published loop logs every batch

    @torch.no_grad()
    def test(self) -> None:
        self.network.eval()
        for images, labels in self.test_loader:
            (self.network(images.to(self.device)).argmax(1).cpu() == labels).sum().item()


def timed(function, device: torch.device, clock) -> float:
    start = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turns(functions: dict, device: torch.device, rounds: int, clock=time.perf_counter) -> dict[str, float]:
    """Return the best time of each function, measured in turns after one call each, as machines have moods."""
    for function in functions.values():
        function()
    times = [[timed(function, device, clock) for function in functions.values()] for _ in range(rounds)]
    return dict(zip(functions, np.min(times, axis=0), strict=True))


def noise(n: int, size: int) -> ImageTensors:
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch_rng("bench", n))
    return ImageTensors(images, torch.arange(n) % 10)


def main(options: argparse.Namespace) -> None:
    device = resolve_device("auto")
    train, test = noise(10 * options.ipc, options.size), noise(options.tests, options.size)
    ours, theirs = (build_network(options.network, 10, options.size).to(device) for _ in range(2))
    mine, held_out = train.to(device), test.to(device)
    empty = ImageTensors(held_out.images[:1], held_out.labels[:1])
    recipe = Recipe(options.epochs, evaluations=1, precision=options.precision, compile=options.compile)
    rng = torch_rng("bench")

    def step():
        train_classifier(ours, mine, empty, recipe)

    def forward_backward():
        ours.train()
        for batch, labels in batches * options.epochs:
            F.cross_entropy(ours(batch), labels).backward()

    batches = [(augment(images, Augmentation(), rng), labels) for images, labels in
               zip(mine.images.split(64), mine.labels.split(64), strict=True)]
    baseline = Baseline(theirs, train, test, options.size, options.workers, device)
    found = in_turns({
        "train": step,
        "train as published": lambda: [baseline.epoch() for _ in range(options.epochs)],
        "test": lambda: predict_logits(ours, held_out.images, precision=options.precision),
        "test as published": baseline.test,
    }, device, options.rounds)
    name = f"{options.network} at {options.size} px, {options.precision}, {device.type}"
    name += ", compiled" if options.compile == "on" else ""
    images = len(mine.labels) * options.epochs
    print(f"training {name}: {images / found['train']:8.0f} images/s, "
          f"{found['train as published'] / found['train']:.2f} × the published way")
    print(f"testing  {name}: {len(test.labels) / found['test']:8.0f} images/s, "
          f"{found['test as published'] / found['test']:.2f} × the published way")
    if options.precision == "fp32":
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        found = in_turns({"step": step, "forward and backward": forward_backward}, device, options.rounds, clock)
        print(f"share of a training step inside forward and backward: "
              f"{100 * found['forward and backward'] / found['step']:.0f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="convnet3")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5, help="epochs in each measurement")
    parser.add_argument("--tests", type=int, default=200, help="test images")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the baseline")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", choices=["on", "off"], default="off", help="our side through torch.compile")
    main(parser.parse_args())
