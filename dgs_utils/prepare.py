"""Stage 00: the originals, the difficulty classifier, the autoencoder and the base diffusion model, ready on disk."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from dgs_utils.classifiers import dynamics
from dgs_utils.classifiers.architectures import DGS, refuse_hub_address
from dgs_utils.classifiers.folds import assign_folds
from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.classifiers.networks import Network
from dgs_utils.classifiers.pretrained import open_scorer_folder, pretrained
from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.classifiers.scorer import Classifier, load_classifier
from dgs_utils.classifiers.scorer_training import train_scorer
from dgs_utils.classifiers.training import EpochCallback, predict_logits
from dgs_utils.diffusion import dit_weights
from dgs_utils.diffusion.autoencoder import Autoencoder, load_autoencoder, store_autoencoder
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.label_rows import add_new_labels, read_starts
from dgs_utils.diffusion.latents import Latents, encode
from dgs_utils.diffusion.training import Schedule, Trainer, ema_warning
from dgs_utils.images import prepare_dataset
from dgs_utils.images.classes import class_names_of_model, model_indices, read_class_index, read_classes
from dgs_utils.images.hub_datasets import pinned
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import PrepareParams
from dgs_utils.params.base import validated
from dgs_utils.params.dataset_defaults import MAX_SIDE, OWN_IMAGES
from dgs_utils.params.prepare import MIN_SIDE
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import named_seed, torch_seeded
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import write_csv
from dgs_utils.store.checkpoint import Checkpointer
from dgs_utils.store.partial_results import verify_or_remove, write_verified, write_verified_csv
from dgs_utils.store.paths import resolve_path
from dgs_utils.store.session import Run

# ---- Latents and diffusion models ------------------------------------------------------------------------------------

def train_dit(latents: Latents, *, device: str = "auto", progress: Callable = no_progress,
              **settings: Any) -> tuple[DiT, pd.DataFrame]:
    """Train a DiT from scratch, as the base that fine-tuning starts from.

    Args:
        latents: the training set, with labels from 0; ``encode`` of `diffusion.latents` makes them from images.
        device: where to train.
        progress: wraps the steps.
        settings: dit_size, or patch_size, hidden_size, depth and num_heads; train_steps, train_batch, learning_rate,
            ema_decay, seed and precision of `params.PrepareParams`. Its size and train_steps have no
            defaults.

    Returns:
        The model, on the device, with the moving average of its weights, and the losses: step, mse, vb.

    Raises:
        ValueError: a bad setting, or sizes that do not divide.
        FloatingPointError: the loss became NaN or infinite.
    """
    known = OWN_IMAGES | {"image_size": max(latents.mean.shape[-1], MIN_SIDE)}
    params = validated(PrepareParams, settings | known).with_defaults(OWN_IMAGES)
    params.check_model()
    return _train_dit(latents, int(latents.labels.max()) + 1, params, progress, device=device)


def _train_dit(latents: Latents, classes: int, params: PrepareParams, progress: Callable,
               checkpoint: Path | None = None, device: str = "auto") -> tuple[DiT, pd.DataFrame]:
    """Train a DiT of so many classes, from its checkpoint on where there is one; see `train_dit`."""
    channels, side = latents.mean.shape[2:4]
    with torch_seeded("prepare", "dit", params.seed):
        model = fresh_dit(params, channels, side, classes)
    model = model.to(resolve_device(device))
    schedule = Schedule(params.train_steps, params.train_batch, params.learning_rate, params.ema_decay, params.seed,
                        params.precision, stage="prepare")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = Trainer(model, trained, latents, torch.arange(classes), schedule, None, checkpoint)
    average = trainer.run(progress=progress)
    model.load_state_dict(average, strict=False)
    return model, trainer.loss_table()[["step", "mse", "vb"]]


def fresh_dit(params: PrepareParams, channels: int, side: int, classes: int) -> DiT:
    """Return a DiT with initial weights from torch's global rng, for latents (channels, side, side)."""
    config = {"input_size": side, "in_channels": channels, "num_classes": classes,
              "class_dropout": dit_weights.LABEL_DROPOUT}
    return DiT.from_size(params.dit_size, **config) if params.dit_size else DiT(**_own_size(params), **config)


def _own_size(params: PrepareParams) -> dict[str, int]:
    return {name: getattr(params, name) for name in ("patch_size", "hidden_size", "depth", "num_heads")}


# ---- The stage -------------------------------------------------------------------------------------------------------

def index_originals(run: Run) -> pd.DataFrame:
    """Write the class table and the split of the originals (see `prepare_dataset.index_originals`).

    Returns:
        The classes: label, class, name, and the number of images of each split.
    """
    for warning in prepare_dataset.index_originals(run.params, run.folder, run.progress):
        run.warn(warning)
    run.params = run.params.model_copy(update={"root": pinned(run.params.root, run.folder)})
    counts = read_table(run.folder / "originals.csv").pivot_table("file_name", "class", "split", "count", fill_value=0)
    return read_classes(run.folder)[["label", "class", "name"]].merge(counts, on="class").set_index("label")


def difficulty_classifier(run: Run) -> pd.DataFrame:
    """Train the scorer on the originals, or fetch a trained one, into ``classifier/``.

    With folds, a scorer without each part of the originals is trained, too, into ``folds/<i>/`` (``folds.csv`` has the
    part of each original). With dynamics, the scorers' predictions after every epoch are written to
    ``dynamics.safetensors``, and their weights to ``snapshots/<name>/<epoch>.safetensors``. Finished scorers are kept,
    and an interrupted training resumes.

    Returns:
        The training curve (epoch, learning_rate, loss, top1), also in ``classifier_curve.csv``; empty for a pre-trained
        classifier.
    """
    if run.params.trains_classifier:
        _train_scorers(run)
    else:
        fetch_classifier(run)
    return read_table(run.folder / "classifier_curve.csv")


def _train_scorers(run: Run) -> None:
    """Train the scorer of all originals and, with folds, those of parts of them."""
    folder = run.folder
    train, test = (ImageSet.read(folder, split) for split in ("train", "val"))
    run.resolve_open("classifier_size", lambda: train.side(MAX_SIDE))
    params = run.params
    scorers = [("classifier", "classifier_curve.csv", -1, params.seed)]
    if params.folds:
        fold = assign_folds(train.table, params.folds, params.seed)
        write_csv(folder / "folds.csv", train.table[["file_name"]].assign(fold=fold))
        scorers += [(f"folds/{i}", f"folds/{i}.csv", i, named_seed("prepare", "fold", params.seed, i))
                   for i in range(params.folds)]
    recorded = [name for name, *_ in scorers[1:] or scorers] if params.dynamics else []
    trained = {name for name, curve, *_ in scorers
               if verify_or_remove(folder / name) and verify_or_remove(folder / curve)}
    merged = verify_or_remove(folder / dynamics.DYNAMICS_FILE) and all(
        name in trained and _is_recorded(run, name, True) for name in recorded)
    missing = [scorer for scorer in scorers
               if scorer[0] not in trained or (scorer[0] in recorded and not _is_recorded(run, scorer[0], merged))]
    if missing:
        images = load_images(train, params.classifier_size)
        tests = load_images(test, params.classifier_size, zoom=PROTOCOLS[params.classifier_protocol].test_zoom)
    for name, curve, left_out, seed in missing:
        part, recorder = images, _make_recorder(run, name, images) if name in recorded else None
        if left_out >= 0:
            used = torch.from_numpy(fold != left_out)
            part = ImageTensors(images.images[used], images.labels[used])
        _train_one(run, part, tests, name, curve, seed, recorder)
        if recorder and not _is_recorded(run, name):  # training resumed, and an earlier epoch's record is corrupt
            _train_one(run, part, tests, name, curve, seed, recorder)
    if recorded and not merged:
        _merge_dynamics(run, recorded, list(train.table["file_name"]))
    for name in recorded:
        shutil.rmtree(folder / "checkpoints" / name, ignore_errors=True)


def _train_one(run: Run, train: ImageTensors, test: ImageTensors, name: str, curve: str, seed: int,
               recorder: EpochCallback | None) -> None:
    params, checkpointer = run.params, Checkpointer(run.folder / "checkpoints" / name / "training.pt")
    scorer, table = train_scorer(
        train, test, params.classifier, params.classifier_size, params.classifier_epochs, seed, params.flip,
        params.precision, progress=run.progress, checkpointer=checkpointer, on_epoch_end=recorder,
        protocol=params.classifier_protocol, class_names=list(read_classes(run.folder)["class"]))
    write_verified_csv(run.folder / curve, table)
    scorer.save(run.folder / name)
    checkpointer.clear()


def _is_recorded(run: Run, name: str, merged: bool = False) -> bool:
    """Return whether the weights and, unless they are merged, the predictions of every epoch have been recorded."""
    epochs = range(1, run.params.classifier_epochs + 1)
    return (all(verify_or_remove(dynamics.snapshot_path(run.folder, name, epoch)) for epoch in epochs)
            and (merged or all(verify_or_remove(_dynamics_file(run, name, epoch)) for epoch in epochs)))


def _make_recorder(run: Run, name: str, images: ImageTensors) -> EpochCallback:
    """Return a function that records a scorer's weights and its predictions of all originals after an epoch."""
    on_device = images.to(resolve_device())

    def record(epoch: int, network: Network) -> None:
        outputs = predict_logits(network, on_device.images, precision=run.params.precision)
        dynamics.write_dynamics(_dynamics_file(run, name, epoch), dynamics.dynamics_of_epoch(outputs, images.labels))
        with write_verified(dynamics.snapshot_path(run.folder, name, epoch)) as partial:
            save_file({key: value.contiguous().cpu() for key, value in network.state_dict().items()}, partial)

    return record


def _dynamics_file(run: Run, name: str, epoch: int) -> Path:
    return run.folder / "checkpoints" / name / f"{epoch}.safetensors"


def _merge_dynamics(run: Run, scorers: list[str], names: list[str]) -> None:
    """Write the scorers' predictions after all epochs to one file."""
    epochs = range(1, run.params.classifier_epochs + 1)
    parts = [dynamics.concatenate([dynamics.read_dynamics(_dynamics_file(run, name, epoch))[0] for epoch in epochs],
                                  axis=1) for name in scorers]
    dynamics.write_dynamics(run.folder / dynamics.DYNAMICS_FILE, dynamics.concatenate(parts, axis=0), names)


def fetch_classifier(run: Run) -> None:
    """Save a trained classifier to ``classifier/``, and the output of each class to the class table.

    Raises:
        ValueError: there is no such classifier, or it does not know a class.
    """
    params, target, curve = run.params, run.folder / "classifier", run.folder / "classifier_curve.csv"
    if params.trains_classifier:
        return
    saved = verify_or_remove(target) and verify_or_remove(curve)
    scorer = load_classifier(target) if saved else _open_classifier(run)
    count, names = scorer.config.num_classes, scorer.config.classes
    if not names and scorer.config.network.startswith(DGS) and count == len(read_classes(run.folder)):
        names = read_classes(run.folder)["class"]  # trained here on tensors, with as many classes
    name = params.classifier if "/" in params.classifier else f"{params.classifier} with {params.classifier_weights}"
    _write_indices(run, "index", name, count, names)
    if not saved:
        write_verified_csv(curve, pd.DataFrame(columns=["epoch", "learning_rate", "loss", "top1"]))
        scorer.save(target)


def _open_classifier(run: Run) -> Classifier:
    """Open a classifier with its weights, or one that a stage 00 trained, by its folder or the one around it."""
    params = run.params
    if "/" not in params.classifier:
        return pretrained(params.classifier, params.classifier_weights, params.classifier_size, run.warn)
    refuse_hub_address(params.classifier)
    folder = resolve_path(params.classifier)
    return open_scorer_folder(folder if (folder / "config.json").is_file() else folder / "classifier", run.warn)


def _write_indices(run: Run, column: str, model: str, count: int, names: Sequence[str],
                   new: Sequence[str] = ()) -> None:
    """Write the model's index of each class to the class table: known ones (`classes.model_indices`), then new ones."""
    given = read_class_index(resolve_path(run.params.class_index)) if run.params.class_index else {}
    table = read_classes(run.folder)
    known = [name for name in table["class"] if name not in new]
    numbers = dict(zip(known, model_indices(model, known, count, list(names), column=column, given=given.get(column)),
                       strict=True))
    numbers |= {name: count + number for number, name in enumerate(new)}
    write_csv(run.folder / "classes.csv", table.assign(**{column: table["class"].map(numbers)}))


def fetch_autoencoder(run: Run) -> Autoencoder:
    """Save the autoencoder to the stage folder, and return it on its device."""
    store_autoencoder(run.params.autoencoder, run.params.autoencoder_path, run.folder)
    return load_autoencoder(run.folder, run.params.channels).to(resolve_device())


def fetch_base_model(run: Run, autoencoder: Autoencoder) -> None:
    """Save the published DiT, if there is one, to ``dit/``; else check that one can be trained, before long work.

    Raises:
        ValueError: no model is described or found, it does not fit the latents, sizes or classes, or sizes do not
            divide.
    """
    params, target = run.params, run.folder / "dit"
    params.check_model()
    side, rest = divmod(params.image_size, autoencoder.factor)
    if rest:
        raise ValueError(f"prepare.image_size is {params.image_size}; with this autoencoder it must be a multiple of "
                         f"{autoencoder.factor}")
    if params.base_model == "train":
        with torch.device("meta"):
            fresh_dit(params, autoencoder.channels, side, len(read_classes(run.folder)))
    if params.base_model in ("train", "none"):
        return
    saved, starts = verify_or_remove(target), read_starts(run.folder, params.class_index)
    if not saved:
        model = dit_weights.load_dit(params.base_model, params.dit_size, _own_size(params),
                                     frequencies=params.dit_frequencies, side=side, warn=run.warn,
                                     classes=len(read_classes(run.folder)) - len(starts))
        dit_weights.check_fit(model, params.base_model, autoencoder.channels, side, autoencoder.factor)
    names = class_names_of_model(resolve_path(params.base_model))
    count = DiT.load_config(target)["num_classes"] - len(starts) if saved else model.config.num_classes
    _write_indices(run, "condition", params.base_model, count, names, list(starts))
    if not saved:
        print(f"{params.base_model}: a DiT of {count:,} classes for images of {params.image_size} pixels a side"
              f"{'' if model.config.class_dropout else ', without a label for no class'}")
        add_new_labels(run, model, starts, names)
        with write_verified(target) as partial:
            model.save_pretrained(partial)


def encode_originals(run: Run, autoencoder: Autoencoder) -> Latents:
    """Encode the originals' train split once, into ``latents.safetensors``, for every training that follows."""
    path = run.folder / "latents.safetensors"
    if not verify_or_remove(path):
        images = ImageSet.read(run.folder, "train")
        latents = encode(images, autoencoder, run.params.image_size, run.params.flip, progress=run.progress,
                         warn=run.warn)
        latents.save(path)
    return Latents.load(path)


def train_base_model(run: Run, latents: Latents) -> pd.DataFrame:
    """Train the base DiT from scratch, where none was fetched, into ``dit/`` and ``dit_losses.csv``.

    Returns:
        The losses: step, mse, vb, …; empty for a published model.
    """
    target, losses = run.folder / "dit", run.folder / "dit_losses.csv"
    if not (verify_or_remove(target) and (verify_or_remove(losses) or run.params.base_model != "train")):
        checkpoint = run.folder / "checkpoints" / "base.pt"
        if doubt := ema_warning(run.params.ema_decay, run.params.train_steps):
            run.warn(doubt, decides=True)
        model, table = _train_dit(latents, len(read_classes(run.folder)), run.params, run.progress, checkpoint)
        write_verified_csv(losses, table)
        with write_verified(target) as partial:
            model.save_pretrained(partial)
        checkpoint.unlink(missing_ok=True)
    return read_table(losses) if losses.exists() else pd.DataFrame(columns=["step", "mse", "vb"])
