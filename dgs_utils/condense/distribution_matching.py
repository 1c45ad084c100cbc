"""DM: a class's synthetic images have the real ones' mean features, in ever new random networks [F §10.4]."""

from typing import Any

from dgs_utils.condense.condenser import Condenser
from dgs_utils.condense.siamese import FAMILIES, apply_siamese, draw_family, draw_numbers
from dgs_utils.params import CondenseParams
from dgs_utils.runtime.devices import autocast
from dgs_utils.runtime.seeds import torch_rng


class DistributionMatching(Condenser):
    """DM: each iteration compares the mean features of real and synthetic images in a new random network."""

    normalised = True

    @staticmethod
    def learning_rate(params: CondenseParams) -> float:
        return 1.0

    def start_iteration(self) -> dict[str, Any]:
        self.optimiser.zero_grad()
        return {"rng": torch_rng("condense", "dm", self.params.seed, self.iteration), "network": self.new_network()}

    def steps(self) -> int:
        return 1

    def run_step(self, step: int, shared: dict[str, Any]) -> None:
        rng, network = shared["rng"], shared["network"].requires_grad_(False)
        families = FAMILIES if self.flip else tuple(family for family in FAMILIES if family != "flip")
        for label in range(len(self.names)):
            real_images = self.real_batch(label, self.params.real_batch, rng)
            family, numbers = draw_family(families, rng), draw_numbers(rng)
            pairs = (apply_siamese(images, family, numbers) for images in (real_images, self.synthetic(label)))
            with autocast(self.device, self.params.precision):
                real, synthetic = (network.features(images).float().mean(0) for images in pairs)
            loss = (real - synthetic).square().sum()
            loss.backward()  # class by class: the gradients add up and memory holds one class
            shared["loss"] = shared["loss"] + loss.detach()
        self.optimiser.step()
