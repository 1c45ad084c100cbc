"""Stage 00: the originals, the difficulty classifier, the autoencoder and the base diffusion model, ready on disk."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from dgs_utils.artifacts.files import write_csv
from dgs_utils.artifacts.midway import Midway
from dgs_utils.artifacts.parts import is_whole, keep_table, kept
from dgs_utils.artifacts.places import locate
from dgs_utils.artifacts.run import Run
from dgs_utils.classifiers.judge import Classifier, ClassifierConfig, load, pretrained
from dgs_utils.classifiers.networks import Network, build_network
from dgs_utils.classifiers.protocols import PROTOCOLS, augmentation_of
from dgs_utils.classifiers.training import ImageTensors, Recipe, Watch, load_images, logits, train_classifier
from dgs_utils.diffusion import autoencoder, checkpoints
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents, encode
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.classes import imagenet_names, read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import read_table
from dgs_utils.params import PrepareParams
from dgs_utils.runtime.devices import resolve
from dgs_utils.runtime.parameters import checked
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import named_seed, torch_seeded
from dgs_utils.selection import dynamics
from dgs_utils.selection.folds import folds_of

# ---- Images and judges -----------------------------------------------------------------------------------------------

def train_judge(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, network: str, size: int, epochs: int,
                seed: int = 0, flip: bool = True, precision: str = "fp32", device: str = "auto", workers: int = 0,
                progress: Callable = silent, midway: Midway | None = None, watch: Watch | None = None,
                protocol: str = "idc") -> tuple[Classifier, pd.DataFrame]:
    """Train a judge of difficulty, or a teacher, on real images with their true labels.

    Args:
        train: images with labels from 0, as files or uint8 tensors (N, 3, size, size).
        test: images of the same classes, for the curve only.
        network: a name of `networks.NETWORKS`.
        size: side in pixels that the judge sees.
        epochs: passes over the set.
        seed: names the initial weights and every draw.
        flip: whether a mirrored image still shows its class.
        precision: "fp32" or "bf16".
        device: where the training runs.
        workers: threads that read images; 0 = one per core.
        progress: wraps the epochs.
        midway: keeps the state between two steps, and has the one to go on from, if any.
        watch: called with the number and the network after each epoch.
        protocol: whose optimiser, schedule, transforms, norm and size of test images: "idc", or "rded" for a teacher
            of soft labels [B §3.1]. RDED's authors gave their teachers away, but not how they were trained, so ours
            are trained as their students are.

    Returns:
        The judge, on the CPU, and its curve: epoch, learning_rate, loss, top1 (percent).

    Raises:
        ValueError: an unknown network, or one that does not suit the size.
    """
    classes, known = int(train.labels.max()) + 1, PROTOCOLS[protocol]
    norm, known = "batch" if known.temperature else "instance", replace(known, temperature=0.0)
    with torch_seeded("prepare", "judge", seed):
        built = build_network(network, classes, size, norm)
    shown, asked = ((images if isinstance(images, ImageTensors) else load_images(images, size, workers, zoom=zoom))
                    .to(resolve(device)) for images, zoom in ((train, 1.0), (test, known.test_zoom)))
    recipe = Recipe(epochs, known.batch_size(0), known.learning_rate, augmentation=augmentation_of(known, flip),
                    precision=precision, protocol=known)
    outcome = train_classifier(built.to(resolve(device)), shown, asked, recipe, seed, progress, stage="prepare",
                               midway=midway, watch=watch)
    config = ClassifierConfig(network, classes, resize=round(size * known.test_zoom), crop=size, norm=norm)
    return Classifier(built.cpu(), config), outcome.curve


# ---- Latents and diffusion models ------------------------------------------------------------------------------------

def train_dit(latents: Latents, *, device: str = "auto", progress: Callable = silent,
              **settings: Any) -> tuple[DiT, pd.DataFrame]:
    """Train a DiT from scratch, as the base that fine-tuning starts from.

    Args:
        latents: the training set, with labels from 0; ``encode`` of `diffusion.latents` makes them from images.
        device: where to train.
        progress: wraps the steps.
        settings: dit_size, or patch_size, hidden_size, depth and num_heads; label_dropout, train_steps, train_batch,
            learning_rate, ema_decay, seed and precision of `params.PrepareParams`.

    Returns:
        The model, on the device, with the moving average of its weights, and the losses: step, mse, vb.

    Raises:
        ValueError: a bad setting, or sizes that do not divide.
        FloatingPointError: the loss became NaN or infinite.
    """
    params = checked(PrepareParams, settings | {"device": device})
    return _train_dit(latents, int(latents.labels.max()) + 1, params, progress)


def _train_dit(latents: Latents, classes: int, params: PrepareParams, progress: Callable,
               checkpoint: Path | None = None) -> tuple[DiT, pd.DataFrame]:
    """Train a DiT of so many classes, from its checkpoint on where there is one; see `train_dit`."""
    channels, side = latents.mean.shape[2:4]
    with torch_seeded("prepare", "dit", params.seed):
        model = fresh_dit(params, channels, side, classes)
    model = model.to(resolve(params.device))
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
              "class_dropout": params.label_dropout}
    return DiT.from_size(params.dit_size, **config) if params.dit_size else DiT(**_own_size(params), **config)


def _own_size(params: PrepareParams) -> dict[str, int]:
    return {name: getattr(params, name) for name in ("patch_size", "hidden_size", "depth", "num_heads")}


# ---- The stage -------------------------------------------------------------------------------------------------------

def difficulty_classifier(run: Run) -> pd.DataFrame:
    """Train the difficulty classifier on the originals, or fetch one that exists already, into ``classifier/``.

    With folds, a judge without each part of the originals is trained, too, into ``folds/<i>/`` (``folds.csv`` says
    which part an original is in). With dynamics, what the judges say after every epoch is kept in
    ``dynamics.safetensors``, and what they then are in ``snapshots/<name>/<epoch>.safetensors``. A judge that is there
    is kept, and an interrupted training goes on from where it was kept last.

    Returns:
        The training curve (epoch, learning_rate, loss, top1), also in ``classifier_curve.csv``; empty for a pre-trained
        classifier.
    """
    target, curve = run.folder / "classifier", run.folder / "classifier_curve.csv"
    if run.params.classifier_weights == "train" and "/" not in run.params.classifier:
        _train_judges(run)
    elif not (is_whole(target) and is_whole(curve)):
        judge, table = _pretrained(run)
        keep_table(curve, table)
        judge.save(target)
    return read_table(curve)


def _train_judges(run: Run) -> None:
    """Train the judge of all originals and, with folds, those of parts of them."""
    params, folder = run.params, run.folder
    train, test = (ImageSet.read(folder, split) for split in ("train", "val"))
    judges = [("classifier", "classifier_curve.csv", -1, params.seed)]
    if params.folds:
        fold = folds_of(train.table, params.folds, params.seed)
        write_csv(folder / "folds.csv", train.table[["file_name"]].assign(fold=fold))
        judges += [(f"folds/{i}", f"folds/{i}.csv", i, named_seed("prepare", "fold", params.seed, i))
                   for i in range(params.folds)]
    watched = [name for name, *_ in judges[1:] or judges] if params.dynamics else []
    there = {name for name, curve, *_ in judges if is_whole(folder / name) and is_whole(folder / curve)}
    joined = is_whole(folder / dynamics.FILE) and all(name in there and _is_heard(run, name, True) for name in watched)
    left = [judge for judge in judges
            if judge[0] not in there or (judge[0] in watched and not _is_heard(run, judge[0], joined))]
    if left:
        zoom = PROTOCOLS[params.classifier_protocol].test_zoom
        images = load_images(train, params.classifier_size, params.workers)
        tests = load_images(test, params.classifier_size, params.workers, zoom=zoom)
    for name, curve, left_out, seed in left:
        part, watch = images, _watch(run, name, images) if name in watched else None
        if left_out >= 0:
            seen = torch.from_numpy(fold != left_out)
            part = ImageTensors(images.images[seen], images.labels[seen])
        _train_one(run, part, tests, name, curve, seed, watch)
        if watch and not _is_heard(run, name):  # it went on from a state, and what it said before that is damaged
            _train_one(run, part, tests, name, curve, seed, watch)
    if watched and not joined:
        _join_dynamics(run, watched, list(train.table["file_name"]))
    for name in watched:
        shutil.rmtree(folder / "checkpoints" / name, ignore_errors=True)


def _train_one(run: Run, train: ImageTensors, test: ImageTensors, name: str, curve: str, seed: int,
               watch: Watch | None) -> None:
    params, midway = run.params, Midway(run.folder / "checkpoints" / name / "training.pt")
    judge, table = train_judge(
        train, test, params.classifier, params.classifier_size, params.classifier_epochs, seed, params.flip,
        params.precision, params.device, params.workers, run.progress, midway, watch,
        params.classifier_protocol)
    keep_table(run.folder / curve, table)
    judge.save(run.folder / name)
    midway.done()


def _is_heard(run: Run, name: str, joined: bool = False) -> bool:
    """Return whether all is there that a judge said and was after each epoch, where what it said is not joined yet."""
    epochs = range(1, run.params.classifier_epochs + 1)
    return (all(is_whole(dynamics.snapshot_of(run.folder, name, epoch)) for epoch in epochs)
            and (joined or all(is_whole(_said(run, name, epoch)) for epoch in epochs)))


def _watch(run: Run, name: str, images: ImageTensors) -> Watch:
    """Return what keeps a judge, and what it says of all originals, after each epoch of its training."""
    on_device = images.to(resolve(run.params.device))

    def keep(epoch: int, network: Network) -> None:
        found = dynamics.observe(logits(network, on_device.images, precision=run.params.precision), images.labels)
        dynamics.write_dynamics(_said(run, name, epoch), found)
        with kept(dynamics.snapshot_of(run.folder, name, epoch)) as partial:
            save_file({key: value.contiguous().cpu() for key, value in network.state_dict().items()}, partial)

    return keep


def _said(run: Run, name: str, epoch: int) -> Path:
    """Return the file of what a judge said after an epoch."""
    return run.folder / "checkpoints" / name / f"{epoch}.safetensors"


def _join_dynamics(run: Run, judges: list[str], names: list[str]) -> None:
    """Put what judges said after each epoch into one file."""
    epochs = range(1, run.params.classifier_epochs + 1)
    found = [dynamics.joined([dynamics.read_dynamics(_said(run, name, epoch))[0] for epoch in epochs], axis=1)
             for name in judges]
    dynamics.write_dynamics(run.folder / dynamics.FILE, dynamics.joined(found, axis=0), names)


def _pretrained(run: Run) -> tuple[Classifier, pd.DataFrame]:
    params = run.params
    if "/" in params.classifier:
        return _of_another_stage(run)
    judge = pretrained(params.classifier, params.classifier_weights, params.classifier_size, run.warn)
    highest = int(read_classes(run.folder)["index"].max())
    if highest >= judge.config.num_classes:
        raise ValueError(f"a class has index {highest}, but {params.classifier} has only "
                         f"{judge.config.num_classes} outputs; correct prepare.class_index")
    if judge.config.num_classes != len(imagenet_names()) and not params.class_index:
        raise ValueError(f"{params.classifier_weights} has {judge.config.num_classes} outputs, not ImageNet's 1,000; "
                         f"give prepare.class_index, a CSV file with the columns class and index (the output of each)")
    return judge, pd.DataFrame(columns=["epoch", "learning_rate", "loss", "top1"])


def _of_another_stage(run: Run) -> tuple[Classifier, pd.DataFrame]:
    """Open a judge that a stage 00 trained on these classes, from its folder or the ``classifier`` folder in it."""
    folder = locate(run.params.classifier)
    judge = load(folder if (folder / "config.json").is_file() else folder / "classifier")
    classes = len(read_classes(run.folder))
    if judge.config.num_classes != classes:
        raise ValueError(f"the classifier in {folder} has {judge.config.num_classes} outputs, and there are {classes} "
                         f"classes; give one that was trained on the same classes, in the same order")
    return judge, pd.DataFrame(columns=["epoch", "learning_rate", "loss", "top1"])


def fetch_autoencoder(run: Run) -> autoencoder.Autoencoder:
    """Put the autoencoder into the stage folder and return it, on its device."""
    autoencoder.fetch(run.params.autoencoder, run.params.autoencoder_path, run.folder)
    return autoencoder.load(run.folder, run.params.channels).to(resolve(run.params.device))


def fetch_base_model(run: Run, codec: autoencoder.Autoencoder) -> None:
    """Put the published DiT, where one is asked for, into ``dit/``; else check that one can be trained.

    Either comes before the long work on latents.

    Raises:
        ValueError: there is no such model, it was made for other latents, sizes or classes, or sizes do not divide.
    """
    params, target = run.params, run.folder / "dit"
    side, rest = divmod(params.image_size, codec.factor)
    if rest:
        raise ValueError(f"prepare.image_size is {params.image_size}; with this autoencoder it must be a multiple of "
                         f"{codec.factor}")
    classes = read_classes(run.folder)
    if params.base_model == "train":
        with torch.device("meta"):
            fresh_dit(params, codec.channels, side, len(classes))
    if params.base_model in ("train", "none") or is_whole(target):
        return
    model = checkpoints.load_dit(params.base_model, params.dit_size, _own_size(params))
    checkpoints.check_fit(model, params.base_model, codec.channels, side, int(classes["condition"].max()) + 1)
    with kept(target) as partial:
        model.save_pretrained(partial)


def encode_originals(run: Run, codec: autoencoder.Autoencoder) -> Latents:
    """Encode the originals' train split once, into ``latents.safetensors``, for every training that follows."""
    path = run.folder / "latents.safetensors"
    if not is_whole(path):
        images = ImageSet.read(run.folder, "train")
        encode(images, codec, run.params.image_size, run.params.flip, run.params.workers,
               progress=run.progress).save(path)
    return Latents.load(path)


def train_base_model(run: Run, latents: Latents) -> pd.DataFrame:
    """Train the base DiT from scratch, where none was fetched, into ``dit/`` and ``dit_losses.csv``.

    Returns:
        The losses: step, mse, vb, …; empty for a published model.
    """
    target, losses = run.folder / "dit", run.folder / "dit_losses.csv"
    if not (is_whole(target) and (is_whole(losses) or run.params.base_model != "train")):
        checkpoint = run.folder / "checkpoints" / "base.pt"
        model, table = _train_dit(latents, len(read_classes(run.folder)), run.params, run.progress, checkpoint)
        keep_table(losses, table)
        with kept(target) as partial:
            model.save_pretrained(partial)
        checkpoint.unlink(missing_ok=True)
    return read_table(losses) if losses.exists() else pd.DataFrame(columns=["step", "mse", "vb"])
