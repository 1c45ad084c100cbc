"""Parameters of stage 00."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from dgs_utils.methods import DYNAMICS_WINDOW
from dgs_utils.params.base import (
    Count,
    ExternalFile,
    Input,
    Open,
    OpenNumber,
    Positive,
    Precision,
    StageParams,
    did_you_mean,
)
from dgs_utils.params.dataset_defaults import default_ema_decay, image_defaults, is_quickstart
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.params.types import NetworkName, ProtocolName, is_library_network

DitSize = Literal["", "DiT-XL/2", "DiT-XL/4", "DiT-XL/8", "DiT-L/2", "DiT-L/4", "DiT-L/8",
                  "DiT-B/2", "DiT-B/4", "DiT-B/8", "DiT-S/2", "DiT-S/4", "DiT-S/8"]
FULL_EPOCHS = 300
MIN_SIDE = 4
# What a diffusion model of the digits learns in a quarter of a minute; and the numbers that stand in the names of
# results without such a training.
DIGITS_MODEL = {"patch_size": 4, "train_steps": 600, "learning_rate": 5e-3, "ema_decay": 0.98}
UNTRAINED_MODEL = {"patch_size": 2, "train_steps": 1000, "learning_rate": 3e-3, "ema_decay": 0.99}


class PrepareParams(StageParams):
    """00: the originals, the base diffusion model, the autoencoder and the difficulty classifier."""

    stage: ClassVar[str] = "00_prepare"
    in_cell: ClassVar[Mapping[str, str]] = {
        "originals": "dataset root split val_per_class classes",
        "scorer of difficulty": "classifier classifier_weights classifier_epochs",
        "diffusion model": "base_model dit_size image_size autoencoder train_steps seed",
        "machine and output folder": "precision output",
    }

    dataset: Literal["digits", "fashion", "cifar10", "imagewoof", "imagenette", "imageidc", "imagenet100", "imagenet1k",
                     "folder"] = Field("digits", description="data set; folder = your own images")
    root: ExternalFile = Field(
        "", description='folder, archive or hf://datasets/OWNER/NAME with the images; "" = downloaded, or in a package')
    archive: Literal["full", "320", "160"] = Field(
        "full", description="archive of fastai that is downloaded: full size, or 320 or 160 pixels")
    split: Literal["holdout", "given", "fastai", "imagenet"] = Field(
        "holdout", description="held-out images: holdout (val_per_class), given (by folders), fastai, imagenet")
    val_per_class: Count = Field(50, description="held-out images of each class, for split holdout")
    classes: list[str] = Field([], description="class folders, in label order; [] = all")
    images_per_class: Count = Field(
        0, description="at most so many images of each class and split, the first ones by name; 0 = all")
    class_index: ExternalFile = Field(
        "", description="CSV with each class's index (output of the scorer), condition (label of the DiT), or both")
    image_size: Count = Field(
        0, description="pixels a side that the autoencoder sees; 0 = by data set: 8 for digits, 28, 32 or 256")
    channels: Literal[0, 1, 3] = Field(
        0, description="channels of generated images; 0 = by data set: 1 for digits and fashion, 3 for others")
    autoencoder: Literal["none", "taesd", "sd-vae-ft-ema", "sd-vae-ft-mse"] = Field(
        "none", description="none = diffusion on pixels")
    autoencoder_path: ExternalFile = Field(
        "", description='folder or file with weights of the autoencoder; "" = those of the hub')
    base_model: ExternalFile = Field(
        "train", description="train, none (nothing is generated), or a DiT: file, diffusers folder or hub name")
    dit_size: DitSize = Field(
        "", description='such as "DiT-S/2"; "" = by hidden_size, depth and num_heads, or as a checkpoint says')
    dit_frequencies: Literal["", "original", "diffusers"] = Field(
        "", description='whose code trained a checkpoint: original or diffusers; "" = by its format')
    patch_size: Count = Field(0, description="pixels a side of the DiT's patches; 0 = 4 for digits, 2 for others")
    hidden_size: Count = Field(
        0, description="width of the DiT; 0 = 96 for digits; others need it, like depth and num_heads, or dit_size")
    depth: Count = Field(0, description="transformer blocks of the DiT; 0 = 3 for digits")
    num_heads: Count = Field(0, description="attention heads of the DiT; 0 = 4 for digits")
    flip: Open = Field(
        "auto", description="whether mirrored images still show their class, in all trainings; auto = all but digits")
    train_steps: Count = Field(0, description="training steps of the DiT; 0 = 600 for digits; others need it")
    train_batch: Positive = Field(64, description="images in each training step of the DiT")
    learning_rate: Annotated[float, Field(ge=0)] = Field(
        0.0, description="learning rate of the DiT; 0 = 0.005 for digits, 0.0001 as published for others")
    ema_decay: Annotated[OpenNumber, Field(le=1)] = Field(
        -1.0, description="decay of the average of the DiT's weights; -1 = 1 - 10 / train_steps, at most 0.9999")
    classifier: ExternalFile = Field(
        "convnet3", description="scorer: a network to train, torchvision's name, timm:<name>, or a folder")
    classifier_weights: ExternalFile = Field(
        "train", description="train, the library's name of weights, pretrained (timm), a file, or file@name")
    classifier_size: Count = Field(
        0, description="pixels a side that the scorer sees; 0 = its own, or if trained here, the data set's")
    classifier_epochs: Count = Field(
        0, description="epochs of a scorer that is trained here; 0 = 15 for digits, 300 as published for others")
    classifier_protocol: ProtocolName = Field(
        "idc", description="how a scorer is trained here: idc, or rded as a teacher of soft labels")
    folds: Count = Field(
        0, description="cross-fitted scores: k scorers, each trained without one of k parts; 0 = one scorer for all")
    dynamics: bool = Field(
        False, description="keep the scorer's predictions of all originals after every epoch, for scores such as aum")
    seed: Count = Field(0, description="seed of every random draw of this stage")
    precision: Precision = Field("fp32", description="fp32, or bf16 on GPUs")

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, values: Any) -> Any:
        """Take ``dgs:`` from the name of a network that is trained here: it is the same result with and without."""
        if not isinstance(values, dict) or values.get("classifier_weights", "train") != "train":
            return values
        name = values.get("classifier")
        return values | {"classifier": name.removeprefix("dgs:")} if isinstance(name, str) else values

    @model_validator(mode="after")
    def _own_classifier(self):
        names = get_args(NetworkName)
        is_folder = "/" in self.classifier  # with config.json and model.safetensors, as 00 writes them
        if not (self.classifier_weights != "train" or self.classifier in names or is_folder
                or is_library_network(self.classifier)):
            raise ValueError(f"prepare.classifier is {self.classifier!r}, which is no network that is trained here, and"
                             f" another needs prepare.classifier_weights{did_you_mean(self.classifier, names)}")
        if 0 < self.image_size < MIN_SIDE:
            raise ValueError(f"prepare.image_size is {self.image_size}, but images of a diffusion model have "
                             f"{MIN_SIDE} pixels or more a side; raise it")
        if self.folds == 1:
            raise ValueError("prepare.folds is 1, which leaves no images to train on; give 2 or more, or 0")
        if self.folds and (self.classifier_weights != "train" or is_folder):
            raise ValueError(f"prepare.folds is {self.folds}, but a classifier that is trained already cannot be "
                             f"trained on parts of the originals; set folds to 0, or classifier_weights to train")
        if self.dynamics and (self.classifier_weights != "train" or is_folder):
            raise ValueError("prepare.dynamics is true, but a classifier that is trained already has no training to "
                             "watch; set dynamics to false, or classifier_weights to train")
        if self.dynamics and 0 < self.classifier_epochs < DYNAMICS_WINDOW:
            raise ValueError(f"prepare.dynamics is true, and its scores look at {DYNAMICS_WINDOW} epochs together, but "
                             f"prepare.classifier_epochs is {self.classifier_epochs}; raise it to "
                             f"{DYNAMICS_WINDOW} or more")
        return self

    @property
    def trains_classifier(self) -> bool:
        """Whether the classifier is trained here, and not one that exists already."""
        return self.classifier_weights == "train" and "/" not in self.classifier

    def unused(self) -> tuple[str, ...]:
        """Return the bound on the number of images where there is none."""
        return () if self.images_per_class else ("images_per_class",)

    def with_defaults(self, originals: Mapping[str, Any]) -> Self:
        return super().with_defaults(self.model_dump())

    def defaults(self, originals: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults for its images; for models that are not trained here, the numbers of the digits."""
        usual, quick = image_defaults(originals), is_quickstart(originals)
        trains = self.base_model == "train"
        builds = trains and not quick
        values = {"channels": usual.channels,
                  "image_size": 8 if self.base_model == "none" else usual.generated,
                  "flip": usual.mirrored,
                  "classifier_size": usual.seen if self.trains_classifier else 0,
                  "classifier_epochs": FULL_EPOCHS if self.trains_classifier and not quick else 15}
        described = self.base_model not in ("train", "none") and (self.hidden_size or self.depth or self.num_heads)
        if self.dit_size or not (builds or described):  # no checkpoint tells its number of heads
            values |= {"hidden_size": 96, "depth": 3, "num_heads": 4}
        if builds:
            return values | {"patch_size": 2, "learning_rate": 1e-4, "ema_decay": default_ema_decay(self.train_steps)}
        return values | (DIGITS_MODEL if trains else UNTRAINED_MODEL)

    def check_model(self) -> None:
        """Raise ValueError if the parameters do not describe a diffusion model; defaults must be filled in."""
        absent = [name for name in ("image_size", "train_steps", "hidden_size", "depth", "num_heads")
                  if not getattr(self, name)]
        if absent:
            size = " (or prepare.dit_size in place of hidden_size, depth and num_heads)" if "depth" in absent else ""
            raise ValueError(f"prepare.base_model is {self.base_model!r}, and nothing says which diffusion model suits "
                             f"these images; give prepare.{', prepare.'.join(absent)}{size}, or set prepare.base_model "
                             f"to none where no images are to be generated")

    def class_folders(self) -> list[str]:
        return self.classes or [wnid for wnid, *_ in SUBSETS.get(self.dataset, [])]

    def label(self, inputs: dict[str, str]) -> str:
        return self.dataset


def classifier_only(network: str, epochs: int, size: int | None = None, protocol: str = "idc") -> Input:
    """Return the input of a stage 00 that has nothing but a classifier, trained on all originals of the experiment.

    What else the experiment's own stage 00 prepares is left out, so that one training serves whatever that is.

    Args:
        network: to train; "" where its folder is given.
        epochs: 0 = 300, as the full set is trained on [F §9.1] [B §3.1].
        size: pixels that it sees; 0 = as the data set has them, None = as the experiment's own classifier.
        protocol: by which it is trained.
    """
    others = ("class_index", "image_size", "autoencoder", "autoencoder_path", "dit_size", "dit_frequencies",
              "patch_size", "hidden_size", "depth", "num_heads", "train_steps", "train_batch", "learning_rate",
              "ema_decay", "folds", "dynamics")
    plain = {name: PrepareParams.model_fields[name].default for name in others} | {"channels": 1}
    asked: dict[str, Any] = {"classifier": network} if network else {}
    asked |= {} if size is None else {"classifier_size": size}
    return Input(stage="00_prepare", overrides=plain | asked | {
        "base_model": "none", "classifier_weights": "train", "classifier_epochs": epochs or FULL_EPOCHS,
        "classifier_protocol": protocol})
