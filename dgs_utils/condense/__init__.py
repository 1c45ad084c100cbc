"""Stage 08: distilled sets whose pixels are optimised: distribution matching (DM) and IDC-1 [F §10.4–10.5]."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from PIL import Image

from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.condense.condenser import Condenser
from dgs_utils.condense.distribution_matching import DistributionMatching
from dgs_utils.condense.gradient_matching import GradientMatching
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.portable_names import class_folders, write_readme
from dgs_utils.params import CondenseParams
from dgs_utils.params.base import validated
from dgs_utils.params.dataset_defaults import MAX_SIDE, OWN_IMAGES
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import atomic, write_csv
from dgs_utils.store.checkpoint import Checkpointer
from dgs_utils.store.manifest import parameter
from dgs_utils.store.session import Run

CONDENSERS = {"dm": DistributionMatching, "idc": GradientMatching}


# ---- Images in, images out -------------------------------------------------------------------------------------------

def condense_set(originals: ImageSet | ImageTensors, method: str = "dm", ipc: int = 10, *, image_size: int = 0,
                 seed: int = 0, flip: bool = True, device: str = "auto", workers: int = 0,
                 progress: Callable = no_progress, **settings: Any) -> tuple[ImageTensors, pd.DataFrame]:
    """Make a distilled set by optimising pixels.

    Args:
        originals: real images, as files or uint8 tensors (N, 3, S, S) with labels (N,) from 0.
        method: "dm" or "idc".
        ipc: images per class.
        image_size: side in pixels that files are brought to; tensors have theirs.
        seed: names every draw.
        flip: whether mirrored images still show their class.
        device: where to compute.
        workers: threads that read images; 0 = one per core.
        progress: wraps the iterations.
        settings: network, iterations, real_batch, inner_loops, pretrain_epochs, net_batches and precision of
            `params.CondenseParams`; what is left out is as published.

    Returns:
        The images (classes · IPC, 3, S, S) uint8 with their labels, and the losses (iteration, loss).

    Raises:
        ValueError: a bad setting, a class with fewer originals than IPC, or a network that does not suit the size.
    """
    known = originals.images.shape[-1] if isinstance(originals, ImageTensors) else image_size
    if image_size not in (0, known):
        raise ValueError(f"image_size is {image_size}, but the originals are {known} pixels wide; leave it out")
    settings |= {"method": method, "ipc": ipc, "image_size": known, "seed": seed}
    params = validated(CondenseParams, settings).with_defaults(OWN_IMAGES)
    if isinstance(originals, ImageSet):
        names, real = originals.classes, load_images(originals, known, workers)
    else:
        names, real = [str(label) for label in range(int(originals.labels.max()) + 1)], originals
    condenser = CONDENSERS[method](real, names, params, flip, resolve_device(device))
    condenser.optimise(progress)
    return condenser.result(), condenser.loss_table()


# ---- The stage -------------------------------------------------------------------------------------------------------

def condense(run: Run) -> tuple[ImageTensors, pd.DataFrame]:
    """Optimise the distilled set, and write ``images/<class>/<i>.png``, ``metadata.csv`` and ``losses.csv``.

    Returns:
        The images as they were saved, and the losses (iteration, loss).

    Raises:
        ValueError: a class with fewer originals than IPC, or a network that does not suit the image size.
    """
    if run.cached:
        saved = ImageSet.read(run.folder)
        run.resolve_open("image_size", lambda: saved.side(MAX_SIDE))
        return load_images(saved, run.params.image_size), read_table(run.folder / "losses.csv")
    condenser, checkpointer = open_condenser(run), Checkpointer(run.folder / "checkpoints" / "last.pt")
    condenser.optimise(run.progress, checkpointer)
    images, losses = condenser.result(), condenser.loss_table()
    folders = class_folders(condenser.names)
    rows = [(f"images/{folders[name]}/{i}.png", name, label) for label, name in enumerate(condenser.names)
            for i in range(run.params.ipc)]
    for image, (file, *_) in zip(images.images.permute(0, 2, 3, 1).numpy(), rows, strict=True):
        with atomic(run.folder / file) as partial:
            Image.fromarray(image).save(partial, format="PNG")
    write_csv(run.folder / "losses.csv", losses)
    write_csv(run.folder / "metadata.csv", pd.DataFrame(rows, columns=["file_name", "class", "label"]))
    write_readme(run.folder)
    checkpointer.clear()
    return images, losses


def open_condenser(run: Run) -> Condenser:
    """Return the condenser of a run, with its originals, before the first iteration."""
    names = list(read_classes(run.inputs["prepare"])["class"])
    originals = ImageSet.read(run.inputs["prepare"], "train", classes=names)
    run.resolve_open("image_size", lambda: originals.side(MAX_SIDE))
    params = run.params
    real = load_images(originals, params.image_size, progress=run.progress)
    return CONDENSERS[params.method](real, names, params, parameter(run.inputs["prepare"], "flip"), resolve_device())
