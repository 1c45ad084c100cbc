"""Stage 00: the originals, the difficulty classifier, the autoencoder and the base diffusion model, ready on disk."""

import pandas as pd
import torch

from dgs_utils.artifacts import Run, atomic, write_csv
from dgs_utils.augment import Augmentation
from dgs_utils.classifier import Classifier, ClassifierConfig, pretrained
from dgs_utils.data import ImageSet, read_classes
from dgs_utils.device import resolve
from dgs_utils.diffusion import DIT_SIZES, DiT, autoencoder, checkpoints
from dgs_utils.diffusion.latents import Latents, encode
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.networks import build
from dgs_utils.seeds import named_seed
from dgs_utils.training import Recipe, load_pictures, train_classifier


def difficulty_classifier(run: Run) -> pd.DataFrame:
    """Train the difficulty classifier on the originals, or fetch a pre-trained one, into ``classifier/``.

    Returns:
        The training curve (epoch, learning_rate, loss, top1), also in ``classifier_curve.csv``; empty for a pre-trained
        classifier.
    """
    target, curve = run.folder / "classifier", run.folder / "classifier_curve.csv"
    if not (target.is_dir() and curve.exists()):
        judge, table = _train_classifier(run) if run.params.classifier_weights == "train" else _pretrained(run)
        write_csv(curve, table)
        judge.save(target)
    return pd.read_csv(curve)


def _pretrained(run: Run) -> tuple[Classifier, pd.DataFrame]:
    params = run.params
    judge = pretrained(params.classifier, params.classifier_weights, params.classifier_size)
    highest = int(read_classes(run.folder)["index"].max())
    if highest >= judge.config.num_classes:
        raise ValueError(f"a class has index {highest}, but {params.classifier} has only "
                         f"{judge.config.num_classes} outputs; correct prepare.class_index")
    return judge, pd.DataFrame(columns=["epoch", "learning_rate", "loss", "top1"])


def _train_classifier(run: Run) -> tuple[Classifier, pd.DataFrame]:
    params = run.params
    device, size = resolve(params.device), params.classifier_size
    train, test = (load_pictures(ImageSet.read(run.folder, split), size, params.workers).to(device)
                   for split in ("train", "val"))
    classes = len(read_classes(run.folder))
    torch.manual_seed(named_seed("classifier weights", params.seed))
    network = build(params.classifier, classes, size).to(device)
    recipe = Recipe(params.classifier_epochs, augmentation=Augmentation(flip=0.5 if params.flip else 0.0),
                    precision=params.precision)
    outcome = train_classifier(network, train, test, recipe, params.seed, run.progress)
    config = ClassifierConfig(params.classifier, classes, resize=size, crop=size)
    return Classifier(network.cpu(), config), outcome.curve


def fetch_autoencoder(run: Run) -> autoencoder.Autoencoder:
    """Put the autoencoder into the stage folder and return it, on its device."""
    autoencoder.fetch(run.params.autoencoder, run.params.autoencoder_path, run.folder)
    return autoencoder.load(run.folder, run.params.channels).to(resolve(run.params.device))


def encode_originals(run: Run, codec: autoencoder.Autoencoder) -> Latents:
    """Encode the originals' train split once, into ``latents.safetensors``, for every training that follows."""
    path = run.folder / "latents.safetensors"
    if not path.exists():
        images = ImageSet.read(run.folder, "train")
        encode(images, codec, run.params.image_size, run.params.flip, run.params.workers,
               progress=run.progress).save(path)
    return Latents.load(path)


def train_base_model(run: Run, latents: Latents) -> pd.DataFrame:
    """Train the base DiT from scratch, or load the given checkpoint; writes ``dit/`` and ``dit_losses.csv``.

    Returns:
        The losses: step, mse, vb, …; empty for a checkpoint.
    """
    params, target, losses = run.params, run.folder / "dit", run.folder / "dit_losses.csv"
    if not target.is_dir():
        if params.base_model == "train":
            model, table = _train_from_scratch(run, latents)
        else:
            model = checkpoints.load_dit(params.base_model, params.dit_size or "DiT-XL/2", latents.mean.shape[-1])
            table = pd.DataFrame(columns=["step", "mse", "vb"])
        write_csv(losses, table)
        with atomic(target) as partial:
            model.save_pretrained(partial)
        (run.folder / "checkpoints" / "base.pt").unlink(missing_ok=True)
    return pd.read_csv(losses)


def _train_from_scratch(run: Run, latents: Latents) -> tuple[DiT, pd.DataFrame]:
    params = run.params
    sizes = DIT_SIZES.get(params.dit_size) or {
        name: getattr(params, name) for name in ("patch_size", "hidden_size", "depth", "num_heads")}
    classes = len(read_classes(run.folder))
    torch.manual_seed(named_seed("dit weights", params.seed))
    model = DiT(input_size=latents.mean.shape[-1], in_channels=latents.mean.shape[2], num_classes=classes,
                class_dropout=params.label_dropout, **sizes).to(resolve(params.device))
    schedule = Schedule(params.train_steps, params.train_batch, params.learning_rate, params.ema_decay, params.seed,
                        params.precision)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = Trainer(model, trained, latents, torch.arange(classes), schedule, None,
                      run.folder / "checkpoints" / "base.pt")
    average = trainer.run(progress=run.progress)
    model.load_state_dict(average, strict=False)
    return model, trainer.loss_table()[["step", "mse", "vb"]]
