"""Soft labels that travel with a set: a teacher's logits in fp16, stored once and read by every later training.

Per image, a mixed image has the mixture of its two images' probabilities. Per image and crop, the teacher has seen each
image as it is cropped, mirrored and mixed in each epoch; a training repeats these draws, and its own seed names the
initial weights alone. File names say which image a row belongs to.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgs_utils.classifiers.epoch_loader import EpochLoader
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.protocols import NO_AUGMENTATION
from dgs_utils.classifiers.recipes import Recipe
from dgs_utils.params.types import SoftLabelKind
from dgs_utils.runtime.devices import autocast
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import torch_rng

ENTRY = "soft_labels"  # of the metadata
Teacher = Callable[[Tensor], Tensor]  # normalised images (N, 3, S, S) to logits (N, classes)


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's logits for the images of a set."""

    kind: SoftLabelKind  # "image" or "crop"
    logits: Tensor  # float16 (N, classes), or (epochs, N, classes) per crop
    names: tuple[str, ...]  # of the image files, in the order of the rows
    recipe: dict[str, Any]  # what the draws of crops depend on (`draws_of`); {} per image
    seed: int = 0  # of these draws
    teacher: str = ""  # its name; top1: its accuracy in percent, NaN if unknown
    top1: float = float("nan")
    classes: tuple[str, ...] = ()  # names of the columns

    def save(self, path: Path) -> None:
        """Write a file of safetensors, whose metadata describes the logits.

        It is one entry, as safetensors writes several in an order that changes from run to run.
        """
        described = ("kind", "names", "recipe", "seed", "teacher", "top1", "classes")
        about = json.dumps({name: getattr(self, name) for name in described})
        save_file({"logits": self.logits.contiguous()}, path, {ENTRY: about})

    @classmethod
    def read(cls, path: Path) -> "SoftLabels":
        """Read a file that `save` wrote.

        Raises:
            ValueError: another file.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()[ENTRY])
                about |= {name: tuple(about[name]) for name in ("names", "classes")}
                labels = cls(logits=file.get_tensor("logits"), **about)
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no soft labels of this kit ({error}); restore it, or remove it and give a "
                             f"teacher") from None
        if labels.logits.ndim != 2 + (labels.kind == "crop") or labels.logits.shape[-2] != len(labels.names):
            raise ValueError(f"{path} has logits of shape {tuple(labels.logits.shape)} for {len(labels.names)} images; "
                             f"restore it, or remove it and give a teacher")
        return labels

    def renamed(self, names: dict[str, str]) -> "SoftLabels":
        """Return the labels under other names of the image files."""
        return replace(self, names=tuple(names[name] for name in self.names))

    def in_order(self, train: ImageTensors, names: list[str]) -> ImageTensors:
        """Return the images of a set in the order of the labels, on which draws of crops depend.

        Raises:
            ValueError: ``names``, of the set's files, are others.
        """
        if sorted(names) != sorted(self.names):
            raise ValueError(f"the soft labels are of {len(self.names)} images, and the set has {len(names)}, with "
                             f"other names; give the labels of this set, or remove them and give a teacher")
        positions = {name: position for position, name in enumerate(names)}
        order = torch.tensor([positions[name] for name in self.names], device=train.labels.device)
        return ImageTensors(train.images[order], train.labels[order])

    def check(self, recipe: Recipe, train: ImageTensors) -> None:
        """Raise ValueError where they belong to another training, or another set."""
        wanted = draws_of(recipe, train)
        wrong = [name for name, value in self.recipe.items() if json.loads(json.dumps(wanted[name])) != value]
        if len(train.labels) != len(self.names) or wrong:
            differs = ", ".join(f"{name} {self.recipe[name]} and not {wanted[name]}" for name in wrong)
            raise ValueError(f"the soft labels are for {len(self.names)} images{f' with {differs}' * bool(wrong)}; "
                             f"train as they were made, or choose those per image")

    def target(self, epoch: int, rows: Tensor, partner: Tensor | None, lam: float, temperature: float) -> Tensor:
        """Return the logarithms (n, classes) of the probabilities of a batch.

        Args:
            epoch: from 1.
            rows: (n,) of the batch's images.
            partner: (n,) index in the batch of the image that was mixed into each; None without CutMix.
            lam: the share of each image that is its own.
            temperature: of the probabilities.
        """
        logits = self.logits if self.kind == "image" else self.logits[epoch - 1]
        own = (logits[rows.to(logits.device)].to(rows.device).float() / temperature).log_softmax(1)
        if self.kind == "crop" or partner is None:
            return own
        return (lam * own.exp() + (1 - lam) * own[partner].exp()).log()


def draws_of(recipe: Recipe, train: ImageTensors) -> dict[str, Any]:
    """Return what the draws of crops depend on, beside their seed."""
    return {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "image_size": train.images.shape[-1],
            "augmentation": asdict(recipe.augmentation)}


@torch.no_grad()
def make_soft_labels(kind: SoftLabelKind, train: ImageTensors, names: list[str], recipe: Recipe, teacher: Teacher,
                     seed: int = 0, progress: Callable = no_progress) -> SoftLabels:
    """Ask a teacher, which returns logits, for the soft labels of a set on its device.

    ``names`` are those of the images' files; the seed names the crops' draws.
    """
    epochs, augmentation = (recipe.epochs, recipe.augmentation) if kind == "crop" else (1, NO_AUGMENTATION)
    parts: list[Tensor] = []
    for epoch in progress(range(1, epochs + 1), label="soft labels", total=epochs):
        loader = EpochLoader(train.images, train.labels, augmentation, recipe.batch_size,
                             torch_rng("evaluate", "training", seed, epoch))
        with autocast(train.images.device, recipe.precision):
            outputs = torch.cat([teacher(loader.batch(index).images).half() for index in range(len(loader))])
        parts.append(outputs[loader.order.argsort()].cpu())
    described = draws_of(recipe, train) if kind == "crop" else {}
    return SoftLabels(kind, torch.stack(parts) if kind == "crop" else parts[0], tuple(names), described, seed)
