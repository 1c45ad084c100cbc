"""Settings behind the paper's numbers: what runs are compared with before published values are shown beside them."""

from typing import Any

STEPS, BATCH_SIZE = 12_000, 8  # of fine-tuning, after which the only checkpoint was kept [F §0, §3]
GENERATION = {  # of the paper's pools [F §3, §5]
    "dit": "DiT-XL/2, 50 steps, guidance 4",
    "minimax": f"DiT-XL/2, {STEPS} fine-tuning steps, 50 steps, guidance 4",
}
SETTINGS: dict[str, dict[str, Any]] = {  # of the same, by stage
    "00_prepare": {"autoencoder": "sd-vae-ft-mse"},
    "01_fine_tune": {"batch_size": BATCH_SIZE, "learning_rate": 0.001, "ema_decay": 0.9999, "memory_size": 64,
                     "weight_representative": 0.002, "weight_diverse": 0.008},
    "02_pool": {"solver": "ancestral", "cache": "none", "guidance_interval": [0.0, 1.0]},
}
TEST_IMAGES = 500  # validation images of ten ImageNet classes
TEACHER = "resnet18 trained on the subset, rded, 300 epochs, 224 px"  # of protocol S-R [B §3.1]
IPCS = [10, 20, 50]
PRINTED_RATIOS = {10: 0.8, 20: 1.6, 50: 3.8}  # percent of the full set, as printed in Table 1
CHOICES = {"distribution": "scale", "pool_factor": 5, "objective": "code", "measure": "difficulty"}  # of the method


def epochs_of_fine_tuning(images: int) -> float:
    """Return how many epochs of whole batches the published fine-tuning is on so many images (the paper says 8).

    >>> round(epochs_of_fine_tuning(12_454), 1)
    7.7
    """
    return STEPS / max(images // BATCH_SIZE, 1)
