"""IDC-1: training on the synthetic images gives the gradients that training on real ones gives [F §10.5]."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgs_utils.classifiers.augmentation import augment, cutmix, normalise
from dgs_utils.classifiers.networks import Network
from dgs_utils.classifiers.protocols import Augmentation
from dgs_utils.condense.condenser import Condenser
from dgs_utils.condense.siamese import apply_siamese, draw_numbers
from dgs_utils.params import CondenseParams
from dgs_utils.runtime.devices import autocast, to_device_packed
from dgs_utils.runtime.seeds import torch_rng

BATCH_SIZE = 64  # of training on real images
MATCHED_FAMILIES = ("color", "crop", "cutout")  # matched images are transformed by all three, one after the other
PUBLISHED_COMPARISONS = 500 * 100  # outer × inner loops


class GradientMatching(Condenser):
    """IDC-1: each iteration pre-trains a new network, and alternates comparisons with training it on real images."""

    normalised = False

    @staticmethod
    def learning_rate(params: CondenseParams) -> float:
        """Return the step size of the pixels.

        The published rule, 0.003 · IPC/10 · (side/224)², is for 500 × 100 comparisons. A run of fewer takes larger
        steps by the square root of that ratio, which keeps how far the comparisons' noise moves a pixel in all.
        """
        shorter = max(PUBLISHED_COMPARISONS / (params.iterations * params.inner_loops), 1.0)
        return 0.003 * params.ipc / 10 * (params.image_size / 224) ** 2 * shorter**0.5

    @property
    def losses_per_iteration(self) -> int:
        return self.params.inner_loops

    def start_iteration(self) -> dict[str, Any]:
        with torch.no_grad():
            self.images.clamp_(0, 1)
        network = self.new_network()
        trainer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        return {"rng": torch_rng("condense", "idc", self.params.seed, self.iteration), "network": network,
                "trainer": trainer, "order": torch.empty(0, dtype=torch.int64)}

    def steps(self) -> int:
        return self._pretraining_steps() + self.params.inner_loops

    def run_step(self, step: int, shared: dict[str, Any]) -> None:
        """Pre-train for a step on real images, or compare each class and train for ``net_batches`` steps."""
        network, trainer, rng = shared["network"], shared["trainer"], shared["rng"]
        if step < self._pretraining_steps():
            start = BATCH_SIZE * (step % self._steps_per_epoch())
            if not start:
                shared["order"] = torch.randperm(len(self.real.labels), generator=rng).to(self.device)
            self._train(network, trainer, shared["order"][start : start + BATCH_SIZE], rng)
            return
        for label in range(len(self.names)):
            shared["loss"] = shared["loss"] + self._match(network, label, rng)
        for _ in range(self.params.net_batches):
            batch = torch.randint(len(self.real.labels), (BATCH_SIZE,), generator=rng)
            [chosen] = to_device_packed([batch], self.device)
            self._train(network, trainer, chosen, rng)

    def _steps_per_epoch(self) -> int:
        return -(-len(self.real.labels) // BATCH_SIZE)

    def _pretraining_steps(self) -> int:
        return self.params.pretrain_epochs * self._steps_per_epoch()

    def _match(self, network: Network, label: int, rng: torch.Generator) -> Tensor:
        """Update a class's images by one step: L1 distance of the convolution weights' gradients."""
        weights = [weight for weight in network.parameters() if weight.dim() == 4]
        draws = [(family, draw_numbers(rng)) for family in MATCHED_FAMILIES]

        def gradients(images: Tensor, create_graph: bool) -> tuple[Tensor, ...]:
            for family, numbers in draws:
                images = apply_siamese(images, family, numbers)
            labels = torch.full((len(images),), label, device=self.device)
            with autocast(self.device, self.params.precision):
                loss = F.cross_entropy(network(images).float(), labels)
            return torch.autograd.grad(loss, weights, create_graph=create_graph)

        real = gradients(self.real_batch(label, self.params.real_batch, rng), create_graph=False)
        synthetic = gradients(normalise(self.synthetic(label)), create_graph=True)
        loss = sum((r - s).abs().sum() for r, s in zip(real, synthetic, strict=True))
        self.optimiser.zero_grad()
        self.images.grad = torch.autograd.grad(loss, self.images)[0]
        self.optimiser.step()
        return loss.detach()

    def _train(self, network: Network, trainer: torch.optim.Optimizer, chosen: Tensor,
               rng: torch.Generator) -> None:
        """Train the network for one step on real images, with crops, colour jitter and CutMix."""
        settings = Augmentation(flip=0.5 if self.flip else 0.0, lighting=0.0)
        images, partner, own = cutmix(augment(self.real.images[chosen], settings, rng), rng)
        labels = self.real.labels[chosen]
        with autocast(self.device, self.params.precision):
            logits = network(images).float()
        loss = own * F.cross_entropy(logits, labels) + (1 - own) * F.cross_entropy(logits, labels[partner])
        trainer.zero_grad()
        loss.backward()
        trainer.step()
