"""Stage 08: distilled sets whose pixels are optimised: distribution matching (DM) and IDC-1 [F §10.4–10.5].

Every step's randomness is named after the step, so that a run that was stopped equals an undisturbed one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.artifacts.run import Run
from dgs_utils.classifiers.augmentation import MEAN, STD, Augmentation, augment, cutmix, normalise, to_float
from dgs_utils.classifiers.networks import Network, build_network
from dgs_utils.classifiers.siamese import FAMILIES, draw_family, draw_numbers, transform
from dgs_utils.classifiers.training import ImageTensors, load_images
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import read_table
from dgs_utils.params import CondenseParams, validate
from dgs_utils.runtime.devices import resolve
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import numpy_rng, torch_rng, torch_seeded

MATCHED = ("color", "crop", "cutout")  # IDC transforms what it matches by all three, one after the other
CHECKPOINT_EVERY = 50  # iterations
IDC_COMPARISONS = 500 * 100  # published outer × inner loops


# ---- Images in, images out -------------------------------------------------------------------------------------------

class Condenser:
    """Common ground of both methods: real images, synthetic images, and their optimiser.

    Args:
        real: the real images, on the device to compute on.
        names: class names, in label order.
        params: how to condense; its folders play no part.

    Attributes:
        images: (classes · IPC, 3, S, S) float32, class by class. DM keeps them normalised, IDC-1 in [0, 1].
        losses: one number an iteration.
        iteration: how many are done.

    Raises:
        ValueError: a class with fewer real images than IPC.
    """

    def __init__(self, real: ImageTensors, names: Sequence[str], params: CondenseParams):
        self.real, self.names, self.params = real, list(names), params
        self.device = real.images.device
        self.by_class = [torch.where(real.labels == label)[0] for label in range(len(self.names))]
        for name, members in zip(self.names, self.by_class, strict=True):
            if len(members) < params.ipc:
                raise ValueError(f"class {name} has {len(members)} originals, fewer than condense.ipc "
                                 f"{params.ipc}; lower it")
        self.images = self._start()
        self.optimiser = torch.optim.SGD([self.images], lr=image_learning_rate(params), momentum=0.5)
        self.iteration, self.losses = 0, []

    def _start(self) -> Tensor:
        """Return the real images that the synthetic ones start from, a seeded draw.

        IDC-1 was published with the first files of each class; a draw does not depend on how a data set was collected
        (the first files of the digits come from few hands), and gives each seed a start of its own.
        """
        chosen = []
        for name, members in zip(self.names, self.by_class, strict=True):
            order = numpy_rng("condense", "start", self.params.seed, name).permutation(len(members))
            chosen.append(members[torch.from_numpy(order[: self.params.ipc]).to(members.device)])
        images = to_float(self.real.images[torch.cat(chosen)])
        return (normalise(images) if self.params.method == "dm" else images).requires_grad_()

    def synthetic(self, label: int) -> Tensor:
        """Return the synthetic images of one class."""
        return self.images[label * self.params.ipc : (label + 1) * self.params.ipc]

    def real_batch(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return up to ``count`` random real images of one class, normalised."""
        members = self.by_class[label]
        order = torch.randperm(len(members), generator=rng)[:count].to(members.device)
        return normalise(to_float(self.real.images[members[order]]))

    def network(self) -> Network:
        """Return this iteration's freshly initialised network."""
        with torch_seeded("condense", "network", self.params.seed, self.iteration):
            network = build_network(self.params.network, len(self.names), self.params.image_size)
        return network.to(self.device)

    def pixels(self) -> Tensor:
        """Return the images as uint8 (N, 3, S, S)."""
        images = self.images.detach()
        if self.params.method == "dm":
            mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
            images = images * std + mean
        return images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()

    def step(self) -> float:
        """Do one iteration and return its loss."""
        raise NotImplementedError

    def optimise(self, progress: Callable = silent, after: Callable[[], None] = lambda: None) -> None:
        """Do all iterations that are left, and call ``after`` after each."""
        for _ in progress(range(self.iteration, self.params.iterations), label=self.params.method):
            self.losses.append(self.step())
            self.iteration += 1
            after()

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on."""
        return {"iteration": self.iteration, "losses": self.losses, "images": self.images.detach(),
                "optimiser": self.optimiser.state_dict()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.iteration, self.losses = state["iteration"], state["losses"]
        with torch.no_grad():
            self.images.copy_(state["images"])
        self.optimiser.load_state_dict(state["optimiser"])

    def result(self) -> ImageTensors:
        """Return the images as they stand, with their labels, on the CPU."""
        return ImageTensors(self.pixels(), torch.arange(len(self.names)).repeat_interleave(self.params.ipc))

    def loss_table(self) -> pd.DataFrame:
        """Return the losses: iteration (from 1), loss."""
        return pd.DataFrame({"iteration": range(1, len(self.losses) + 1), "loss": self.losses})


def image_learning_rate(params: CondenseParams) -> float:
    """Return the step size of the pixels: as given, or the published rule of each method [F §10.4–10.5].

    IDC-1's rule, 0.003 · IPC/10 · (side/224)², is for 500 × 100 comparisons. A run of fewer takes larger steps by the
    square root of that ratio, which keeps how far the comparisons' noise moves a pixel in all.
    """
    if params.image_learning_rate:
        return params.image_learning_rate
    if params.method == "dm":
        return 1.0
    shorter = max(IDC_COMPARISONS / (params.iterations * params.inner_loops), 1.0)
    return 0.003 * params.ipc / 10 * (params.image_size / 224) ** 2 * shorter**0.5


class DistributionMatching(Condenser):
    """DM: a class's synthetic images have the real ones' mean features, in ever new random networks."""

    def step(self) -> float:
        rng = torch_rng("condense", "dm", self.params.seed, self.iteration)
        network = self.network().requires_grad_(False)
        self.optimiser.zero_grad()
        total = 0.0
        for label in range(len(self.names)):
            real = self.real_batch(label, self.params.real_batch, rng)
            family, numbers = draw_family(_families(self.params.flip), rng), draw_numbers(rng)
            wanted = network.features(transform(real, family, numbers)).mean(0)
            found = network.features(transform(self.synthetic(label), family, numbers)).mean(0)
            loss = (wanted - found).square().sum()
            loss.backward()  # class by class: the gradients add up and memory holds one class
            total += loss.item()
        self.optimiser.step()
        return total


class GradientMatching(Condenser):
    """IDC-1: training on the synthetic images gives the gradients that training on real ones gives."""

    def step(self) -> float:
        params, rng = self.params, torch_rng("condense", "idc", self.params.seed, self.iteration)
        with torch.no_grad():
            self.images.clamp_(0, 1)
        network = self.network()
        trainer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(params.pretrain_epochs):
            order = torch.randperm(len(self.real.labels), generator=rng).to(self.device)
            for chosen in order.split(64):
                self._train(network, trainer, chosen, rng)
        total = 0.0
        for _ in range(params.inner_loops):
            for label in range(len(self.names)):
                total += self._match(network, label, rng)
            for _ in range(params.net_batches):
                chosen = torch.randint(len(self.real.labels), (64,), generator=rng).to(self.device)
                self._train(network, trainer, chosen, rng)
        return total / params.inner_loops

    def _match(self, network: Network, label: int, rng: torch.Generator) -> float:
        """Do one step on a class's images: L1 distance of the convolution weights' gradients."""
        weights = [weight for weight in network.parameters() if weight.dim() == 4]
        draws = [(family, draw_numbers(rng)) for family in MATCHED]

        def gradients(images: Tensor, create_graph: bool) -> tuple[Tensor, ...]:
            for family, numbers in draws:
                images = transform(images, family, numbers)
            labels = torch.full((len(images),), label, device=self.device)
            return torch.autograd.grad(F.cross_entropy(network(images), labels), weights, create_graph=create_graph)

        real = gradients(self.real_batch(label, self.params.real_batch, rng), create_graph=False)
        found = gradients(normalise(self.synthetic(label)), create_graph=True)
        loss = sum((r - f).abs().sum() for r, f in zip(real, found, strict=True))
        self.optimiser.zero_grad()
        self.images.grad = torch.autograd.grad(loss, self.images)[0]
        self.optimiser.step()
        return loss.item()

    def _train(self, network: Network, trainer: torch.optim.Optimizer, chosen: Tensor,
               rng: torch.Generator) -> None:
        """Train the network for a step on real images, with crops, colour jitter and CutMix."""
        settings = Augmentation(flip=0.5 if self.params.flip else 0.0, lighting=0.0)
        images, partner, own = cutmix(augment(self.real.images[chosen], settings, rng), rng)
        labels, logits = self.real.labels[chosen], network(images)
        loss = own * F.cross_entropy(logits, labels) + (1 - own) * F.cross_entropy(logits, labels[partner])
        trainer.zero_grad()
        loss.backward()
        trainer.step()


def _families(flip: bool) -> tuple[str, ...]:
    return FAMILIES if flip else tuple(family for family in FAMILIES if family != "flip")


CONDENSERS = {"dm": DistributionMatching, "idc": GradientMatching}


def condense_set(originals: ImageSet | ImageTensors, method: str = "dm", ipc: int = 10, *, image_size: int = 0,
                 seed: int = 0, device: str = "auto", workers: int = 0, progress: Callable = silent,
                 **settings: Any) -> tuple[ImageTensors, pd.DataFrame]:
    """Make a distilled set by optimising pixels.

    Args:
        originals: real images, as files or uint8 tensors (N, 3, S, S) with labels (N,) from 0.
        method: "dm" or "idc".
        ipc: images per class.
        image_size: side in pixels that files are brought to; tensors have theirs.
        seed: names every draw.
        device: where to compute.
        workers: threads that read images; 0 = one per core.
        progress: wraps the iterations.
        settings: network, iterations, image_learning_rate, real_batch, inner_loops, pretrain_epochs, net_batches and
            flip of `params.CondenseParams`.

    Returns:
        The images (classes · IPC, 3, S, S) uint8 with their labels, and the losses (iteration, loss).

    Raises:
        ValueError: a bad setting, a class with fewer originals than IPC, or a network that does not suit the size.
    """
    known = originals.images.shape[-1] if isinstance(originals, ImageTensors) else image_size
    if image_size not in (0, known):
        raise ValueError(f"image_size is {image_size}, but the originals are {known} pixels wide; leave it out")
    settings |= {"method": method, "ipc": ipc, "image_size": known, "seed": seed}
    params = validate(CondenseParams.stage, settings)
    if isinstance(originals, ImageSet):
        names, real = originals.classes, load_images(originals, known, workers)
    else:
        names, real = [str(label) for label in range(int(originals.labels.max()) + 1)], originals
    condenser = CONDENSERS[method](real.to(resolve(device)), names, params)
    condenser.optimise(progress)
    return condenser.result(), condenser.loss_table()


# ---- The stage -------------------------------------------------------------------------------------------------------

def open_condenser(run: Run) -> Condenser:
    """Return the condenser of a run on its originals, resumed from its checkpoint where there is one."""
    params, names = run.params, list(read_classes(run.inputs["prepare"])["class"])
    originals = ImageSet.read(run.inputs["prepare"], "train", classes=names)
    device = resolve(params.device)
    real = load_images(originals, params.image_size, params.workers, run.progress).to(device)
    condenser, checkpoint = CONDENSERS[params.method](real, names, params), checkpoint_of(run)
    if checkpoint.exists():
        condenser.resume(torch.load(checkpoint, map_location=device, weights_only=True))
    return condenser


def checkpoint_of(run: Run) -> Path:
    """Return the file that holds a run's state, as of the last full `CHECKPOINT_EVERY` iterations."""
    return run.folder / "checkpoints" / "last.pt"


def save_checkpoint(run: Run, condenser: Condenser) -> None:
    """Write the state of a run."""
    with atomic(checkpoint_of(run)) as partial:
        torch.save(condenser.state(), partial)


def condense(run: Run) -> tuple[ImageTensors, pd.DataFrame]:
    """Optimise the distilled set, and write ``images/<class>/<i>.png``, ``metadata.csv`` and ``losses.csv``.

    Returns:
        The images as they were saved, and the losses (iteration, loss).

    Raises:
        ValueError: a class with fewer originals than IPC, or a network that does not suit the image size.
    """
    if run.reused:
        images = ImageSet.read(run.folder)
        return load_images(images, run.params.image_size, run.params.workers), read_table(run.folder / "losses.csv")
    condenser = open_condenser(run)

    def after() -> None:
        if condenser.iteration % CHECKPOINT_EVERY == 0:
            save_checkpoint(run, condenser)

    condenser.optimise(run.progress, after)
    images, losses = condenser.result(), condenser.loss_table()
    rows = [(f"images/{name}/{i}.png", name, label) for label, name in enumerate(condenser.names)
            for i in range(run.params.ipc)]
    for image, (file, *_) in zip(images.images.permute(0, 2, 3, 1).numpy(), rows, strict=True):
        with atomic(run.folder / file) as partial:
            Image.fromarray(image).save(partial, format="PNG")
    write_csv(run.folder / "losses.csv", losses)
    write_csv(run.folder / "metadata.csv", pd.DataFrame(rows, columns=["file_name", "class", "label"]))
    checkpoint_of(run).unlink(missing_ok=True)
    return images, losses
