"""Stage 08: distilled sets whose pixels are optimised: distribution matching (DM) and IDC-1 [F §10.4–10.5].

Every step's randomness is named after the step, so that a run that was stopped equals an undisturbed one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.artifacts.midway import Midway
from dgs_utils.artifacts.run import Run
from dgs_utils.classifiers.augmentation import MEAN, STD, augment, cutmix, normalise, to_float
from dgs_utils.classifiers.networks import Network, build_network
from dgs_utils.classifiers.protocols import Augmentation
from dgs_utils.classifiers.siamese import FAMILIES, draw_family, draw_numbers, transform
from dgs_utils.classifiers.training import ImageTensors, load_images
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import read_table
from dgs_utils.params import CondenseParams
from dgs_utils.runtime.devices import autocast, resolve, send
from dgs_utils.runtime.parameters import checked
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import numpy_rng, torch_rng, torch_seeded

MATCHED = ("color", "crop", "cutout")  # IDC transforms what it matches by all three, one after the other
IDC_COMPARISONS = 500 * 100  # published outer × inner loops


# ---- Images in, images out -------------------------------------------------------------------------------------------

class Condenser:
    """Common ground of both methods: real images, synthetic images, and their optimiser.

    Args:
        real: the real images.
        names: class names, in label order.
        params: how to condense; its folders play no part.
        device: where to compute.

    Attributes:
        images: (classes · IPC, 3, S, S) float32, class by class. DM keeps them normalised, IDC-1 in [0, 1].
        losses: one number an iteration.
        iteration: how many are done.

    Raises:
        ValueError: a class with fewer real images than IPC.
    """

    def __init__(self, real: ImageTensors, names: Sequence[str], params: CondenseParams, device: torch.device):
        self.real, self.names, self.params, self.device = real.to(device), list(names), params, device
        labels = real.labels.cpu()
        self.by_class = [torch.where(labels == label)[0] for label in range(len(self.names))]
        for name, members in zip(self.names, self.by_class, strict=True):
            if len(members) < params.ipc:
                raise ValueError(f"class {name} has {len(members)} originals, fewer than condense.ipc "
                                 f"{params.ipc}; lower it")
        self.images = self._start()
        self.optimiser = torch.optim.SGD([self.images], lr=image_learning_rate(params), momentum=0.5)
        self.iteration, self.losses = 0, list[float]()
        self.inside: dict[str, Any] = {}  # what the parts of the iteration that is going on share

    def _start(self) -> Tensor:
        """Return the real images that the synthetic ones start from, a seeded draw.

        IDC-1 was published with the first files of each class; a draw does not depend on how a data set was collected
        (the first files of the digits come from few hands), and gives each seed a start of its own.
        """
        chosen = []
        for name, members in zip(self.names, self.by_class, strict=True):
            order = numpy_rng("condense", "start", self.params.seed, name).permutation(len(members))
            chosen.append(members[torch.from_numpy(order[: self.params.ipc])])
        images = to_float(self.real.images[torch.cat(chosen).to(self.device)])
        return (normalise(images) if self.params.method == "dm" else images).requires_grad_()

    def synthetic(self, label: int) -> Tensor:
        """Return the synthetic images of one class."""
        return self.images[label * self.params.ipc : (label + 1) * self.params.ipc]

    def real_batch(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return up to ``count`` random real images of one class, normalised."""
        members = self.by_class[label]
        [chosen] = send([members[torch.randperm(len(members), generator=rng)[:count]]], self.device)
        return normalise(to_float(self.real.images[chosen]))

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

    @property
    def comparisons(self) -> int:
        """Of how many an iteration's loss is the mean."""
        return 1

    def begin(self) -> dict[str, Any]:
        """Begin an iteration: return what its parts share, a network with all else, as `part` wants it."""
        raise NotImplementedError

    def parts(self) -> int:
        """Return into how many parts an iteration can be cut."""
        raise NotImplementedError

    def part(self, place: int, shared: dict[str, Any]) -> None:
        """Do a part of an iteration, and add to ``shared["loss"]``, a tensor on the device."""
        raise NotImplementedError

    def optimise(self, progress: Callable = silent, midway: Midway | None = None) -> None:
        """Do all iterations that are left.

        Args:
            progress: wraps them.
            midway: keeps the state between two parts of an iteration, and has the one to go on from, if any.

        Raises:
            KeyboardInterrupt: the process has been asked to end, and the state is kept.
        """
        midway = midway or Midway()
        if state := midway.load():
            self.resume(state)
        with midway.watching():
            for _ in progress(range(self.iteration, self.params.iterations), label=self.params.method):
                self.losses.append(self.step(midway))
                self.iteration, self.inside = self.iteration + 1, {}
                midway(self.state)

    def step(self, midway: Midway | None = None) -> float:
        """Do an iteration, or what is left of it, and return its loss: all that a GPU is asked for in one."""
        midway = midway or Midway()
        self.inside = self.inside or self._fresh()
        for place in range(self.inside["done"], self.parts()):
            self.part(place, self.inside)
            self.inside["done"] = place + 1
            midway(self.state)
        return self.inside["loss"].item() / self.comparisons

    def _fresh(self) -> dict[str, Any]:
        return {"done": 0, "loss": torch.zeros((), dtype=torch.float64, device=self.device), **self.begin()}

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on, inside an iteration too."""
        inside = {name: value.get_state() if isinstance(value, torch.Generator) else
                  value.state_dict() if hasattr(value, "state_dict") else value
                  for name, value in self.inside.items()}
        return {"iteration": self.iteration, "losses": self.losses, "images": self.images.detach(),
                "optimiser": self.optimiser.state_dict(), "inside": inside}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.iteration, self.losses = state["iteration"], state["losses"]
        self.inside = self._fresh() if state["inside"] else {}
        with torch.no_grad():
            self.images.copy_(state["images"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, value in state["inside"].items():
            if isinstance(self.inside[name], torch.Generator):
                self.inside[name].set_state(value)
            elif hasattr(self.inside[name], "state_dict"):
                self.inside[name].load_state_dict(value)
            else:
                self.inside[name] = value.to(self.device) if isinstance(value, Tensor) else value

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

    def begin(self) -> dict[str, Any]:
        self.optimiser.zero_grad()
        return {"rng": torch_rng("condense", "dm", self.params.seed, self.iteration), "network": self.network()}

    def parts(self) -> int:
        return 1

    def part(self, place: int, shared: dict[str, Any]) -> None:
        rng, network = shared["rng"], shared["network"].requires_grad_(False)
        for label in range(len(self.names)):
            real = self.real_batch(label, self.params.real_batch, rng)
            family, numbers = draw_family(_families(self.params.flip), rng), draw_numbers(rng)
            pairs = (transform(images, family, numbers) for images in (real, self.synthetic(label)))
            with autocast(self.device, self.params.precision):
                wanted, found = (network.features(images).float().mean(0) for images in pairs)
            loss = (wanted - found).square().sum()
            loss.backward()  # class by class: the gradients add up and memory holds one class
            shared["loss"] = shared["loss"] + loss.detach()
        self.optimiser.step()


class GradientMatching(Condenser):
    """IDC-1: training on the synthetic images gives the gradients that training on real ones gives.

    As published, each iteration pre-trains a new network. Its authors' shortcut is a bank of networks that are
    pre-trained once, of a number that they do not tell: here the first so many iterations pre-train one each as ever,
    and the later ones begin with these, in turn, and with no momentum.

    Attributes:
        bank: the weights of the pre-trained networks, by the iteration that pre-trained them.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.bank: dict[int, dict[str, Tensor]] = {}

    def begin(self) -> dict[str, Any]:
        with torch.no_grad():
            self.images.clamp_(0, 1)
        network = self.network()
        if self._pretrained():
            network.load_state_dict(self.bank[self.iteration % self.params.bank])
        trainer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        return {"rng": torch_rng("condense", "idc", self.params.seed, self.iteration), "network": network,
                "trainer": trainer, "order": torch.empty(0, dtype=torch.int64)}

    @property
    def comparisons(self) -> int:
        return self.params.inner_loops

    def parts(self) -> int:
        return self._pretraining() + self.params.inner_loops

    def part(self, place: int, shared: dict[str, Any]) -> None:
        """Do a step on real images, or all comparisons of a loop and the steps after them."""
        network, trainer, rng = shared["network"], shared["trainer"], shared["rng"]
        if place < self._pretraining():
            start = 64 * (place % self._batches())
            if not start:
                shared["order"] = torch.randperm(len(self.real.labels), generator=rng).to(self.device)
            self._train(network, trainer, shared["order"][start : start + 64], rng)
            if self.params.bank and place == self._pretraining() - 1:
                self.bank[self.iteration] = {name: value.clone() for name, value in network.state_dict().items()}
                trainer.state.clear()  # the momentum, which those who take it from the bank do not have
            return
        for label in range(len(self.names)):
            shared["loss"] = shared["loss"] + self._match(network, label, rng)
        for _ in range(self.params.net_batches):
            [chosen] = send([torch.randint(len(self.real.labels), (64,), generator=rng)], self.device)
            self._train(network, trainer, chosen, rng)

    def _batches(self) -> int:
        return -(-len(self.real.labels) // 64)

    def _pretrained(self) -> bool:
        """Return whether this iteration's network is in the bank."""
        return 0 < self.params.bank <= self.iteration

    def _pretraining(self) -> int:
        """Return the steps on real images before the first comparison."""
        return 0 if self._pretrained() else self.params.pretrain_epochs * self._batches()

    def state(self) -> dict[str, Any]:
        return super().state() | ({"bank": self.bank} if self.bank else {})

    def resume(self, state: dict[str, Any]) -> None:
        self.bank = {place: {name: value.to(self.device) for name, value in weights.items()}
                     for place, weights in state.get("bank", {}).items()}
        super().resume(state)

    def _match(self, network: Network, label: int, rng: torch.Generator) -> Tensor:
        """Do one step on a class's images: L1 distance of the convolution weights' gradients."""
        weights = [weight for weight in network.parameters() if weight.dim() == 4]
        draws = [(family, draw_numbers(rng)) for family in MATCHED]

        def gradients(images: Tensor, create_graph: bool) -> tuple[Tensor, ...]:
            for family, numbers in draws:
                images = transform(images, family, numbers)
            labels = torch.full((len(images),), label, device=self.device)
            with autocast(self.device, self.params.precision):
                loss = F.cross_entropy(network(images).float(), labels)
            return torch.autograd.grad(loss, weights, create_graph=create_graph)

        real = gradients(self.real_batch(label, self.params.real_batch, rng), create_graph=False)
        found = gradients(normalise(self.synthetic(label)), create_graph=True)
        loss = sum((r - f).abs().sum() for r, f in zip(real, found, strict=True))
        self.optimiser.zero_grad()
        self.images.grad = torch.autograd.grad(loss, self.images)[0]
        self.optimiser.step()
        return loss.detach()

    def _train(self, network: Network, trainer: torch.optim.Optimizer, chosen: Tensor,
               rng: torch.Generator) -> None:
        """Train the network for a step on real images, with crops, colour jitter and CutMix."""
        settings = Augmentation(flip=0.5 if self.params.flip else 0.0, lighting=0.0)
        images, partner, own = cutmix(augment(self.real.images[chosen], settings, rng), rng)
        labels = self.real.labels[chosen]
        with autocast(self.device, self.params.precision):
            logits = network(images).float()
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
        settings: network, iterations, image_learning_rate, real_batch, inner_loops, pretrain_epochs, bank,
            net_batches, flip and precision of `params.CondenseParams`.

    Returns:
        The images (classes · IPC, 3, S, S) uint8 with their labels, and the losses (iteration, loss).

    Raises:
        ValueError: a bad setting, a class with fewer originals than IPC, or a network that does not suit the size.
    """
    known = originals.images.shape[-1] if isinstance(originals, ImageTensors) else image_size
    if image_size not in (0, known):
        raise ValueError(f"image_size is {image_size}, but the originals are {known} pixels wide; leave it out")
    settings |= {"method": method, "ipc": ipc, "image_size": known, "seed": seed}
    params = checked(CondenseParams, settings)
    if isinstance(originals, ImageSet):
        names, real = originals.classes, load_images(originals, known, workers)
    else:
        names, real = [str(label) for label in range(int(originals.labels.max()) + 1)], originals
    condenser = CONDENSERS[method](real, names, params, resolve(device))
    condenser.optimise(progress)
    return condenser.result(), condenser.loss_table()


# ---- The stage -------------------------------------------------------------------------------------------------------

def open_condenser(run: Run) -> Condenser:
    """Return the condenser of a run on its originals, at its start."""
    params, names = run.params, list(read_classes(run.inputs["prepare"])["class"])
    originals = ImageSet.read(run.inputs["prepare"], "train", classes=names)
    real = load_images(originals, params.image_size, params.workers, run.progress)
    return CONDENSERS[params.method](real, names, params, resolve(params.device))


def condense(run: Run) -> tuple[ImageTensors, pd.DataFrame]:
    """Optimise the distilled set, and write ``images/<class>/<i>.png``, ``metadata.csv`` and ``losses.csv``.

    Returns:
        The images as they were saved, and the losses (iteration, loss).

    Raises:
        ValueError: a class with fewer originals than IPC, or a network that does not suit the image size.
    """
    if run.reused:
        made = ImageSet.read(run.folder)
        return load_images(made, run.params.image_size, run.params.workers), read_table(run.folder / "losses.csv")
    condenser, midway = open_condenser(run), Midway(run.folder / "checkpoints" / "last.pt")
    condenser.optimise(run.progress, midway)
    images, losses = condenser.result(), condenser.loss_table()
    rows = [(f"images/{name}/{i}.png", name, label) for label, name in enumerate(condenser.names)
            for i in range(run.params.ipc)]
    for image, (file, *_) in zip(images.images.permute(0, 2, 3, 1).numpy(), rows, strict=True):
        with atomic(run.folder / file) as partial:
            Image.fromarray(image).save(partial, format="PNG")
    write_csv(run.folder / "losses.csv", losses)
    write_csv(run.folder / "metadata.csv", pd.DataFrame(rows, columns=["file_name", "class", "label"]))
    midway.done()
    return images, losses
