"""Parameters of stage 00."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from dgs_utils.methods import WINDOW
from dgs_utils.params.kinds import Bound, Network, Protocol
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.runtime.parameters import (
    LATER,
    MACHINE,
    Count,
    Device,
    Fraction,
    Given,
    Input,
    Positive,
    Precision,
    StageParams,
    Workers,
    nearest,
)

DitSize = Literal["", "DiT-XL/2", "DiT-XL/4", "DiT-XL/8", "DiT-L/2", "DiT-L/4", "DiT-L/8",
                  "DiT-B/2", "DiT-B/4", "DiT-B/8", "DiT-S/2", "DiT-S/4", "DiT-S/8"]
FULL_EPOCHS = 300


class PrepareParams(StageParams):
    """00: the originals, the base diffusion model, the autoencoder and the difficulty classifier."""

    stage: ClassVar[str] = "00_prepare"

    dataset: Literal["digits", "fashion", "cifar10", "imagewoof", "imagenette", "imageidc", "folder"] = "digits"
    root: Given = ""  # folder, .zip or .tgz with the images; "" = data inside a package, or a download
    archive: Literal["full", "320", "160"] = "full"  # which fastai archive is downloaded
    split: Literal["holdout", "given", "fastai", "imagenet"] = "holdout"
    val_per_class: Count = 50  # held-out images a class, for split "holdout"
    classes: list[str] = []  # class folder names in label order; [] = all
    class_index: Given = ""  # CSV with class,index: the output of a pre-trained model that stands for each class
    image_size: Annotated[int, Field(ge=4)] = 8  # pixels that the autoencoder sees
    channels: Literal[1, 3] = 1
    autoencoder: Literal["none", "taesd", "sd-vae-ft-ema", "sd-vae-ft-mse"] = "none"
    autoencoder_path: Given = ""  # local folder or files; "" = the hub
    base_model: Given = "train"  # "train", "none", or a DiT checkpoint: file, diffusers folder or hub name
    dit_size: DitSize = ""  # "DiT-S/2" … "DiT-XL/2"; "" = the four numbers below, or what a checkpoint tells
    patch_size: Positive = 2
    hidden_size: Positive = 96
    depth: Positive = 3
    num_heads: Positive = 4
    label_dropout: Fraction = 0.1
    flip: bool = False  # mirror images while training diffusion models
    train_steps: Positive = 1000
    train_batch: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    ema_decay: Fraction = 0.99
    classifier: Given = "convnet3"  # ours, trained here; torchvision's; timm:<name>; or a folder that 00 wrote
    classifier_weights: Given = "train"  # "train", a torchvision weights name, "pretrained" (timm's), or a local file
    classifier_size: Positive = 16
    classifier_epochs: Positive = 15
    classifier_protocol: Annotated[Protocol, Field(json_schema_extra=LATER)] = "idc"  # how one is trained here: as a
    # network of the hard-label tables, or as a teacher of soft labels (rded)
    folds: Annotated[int, Field(ge=0, json_schema_extra=LATER)] = 0  # cross-fitted difficulty: k judges, each trained
    # without one of k parts of the originals; 0 = one judge, which has seen them all
    dynamics: Annotated[bool, Field(json_schema_extra=LATER)] = False  # keep what the judge says after every epoch
    seed: Count = 0
    precision: Precision = "fp32"
    device: Device = "auto"
    workers: Workers = 0
    unpack_gib: Bound = 512.0  # that an archive may unpack to
    unpack_files: Annotated[int, Field(ge=1, json_schema_extra=MACHINE)] = 5_000_000  # in one archive
    unpack_ratio: Bound = 100.0  # of what an archive unpacks to, to its size

    @model_validator(mode="after")
    def _own_classifier(self):
        names = get_args(Network)
        is_folder = "/" in self.classifier  # with config.json and model.safetensors, as 00 writes them
        if self.classifier_weights == "train" and self.classifier not in names and not is_folder:
            raise ValueError(f"prepare.classifier is {self.classifier!r}, which is no network that is trained here"
                             f"{nearest(self.classifier, names)}; for another give prepare.classifier_weights")
        if self.folds == 1:
            raise ValueError("prepare.folds is 1, which leaves no images to train on; give 2 or more, or 0")
        if self.folds and (self.classifier_weights != "train" or is_folder):
            raise ValueError(f"prepare.folds is {self.folds}, but a classifier that is trained already cannot be "
                             f"trained on parts of the originals; set folds to 0, or classifier_weights to train")
        if self.dynamics and (self.classifier_weights != "train" or is_folder):
            raise ValueError("prepare.dynamics is true, but a classifier that is trained already has no training to "
                             "watch; set dynamics to false, or classifier_weights to train")
        if self.dynamics and self.classifier_epochs < WINDOW:
            raise ValueError(f"prepare.dynamics is true, and its scores look at {WINDOW} epochs together, but "
                             f"prepare.classifier_epochs is {self.classifier_epochs}; raise it to {WINDOW} or more")
        return self

    def class_folders(self) -> list[str]:
        return self.classes or [wnid for wnid, *_ in SUBSETS.get(self.dataset, [])]

    def label(self, inputs: dict[str, str]) -> str:
        return self.dataset


def classifier_alone(network: str, epochs: int, size: int = 0, protocol: str = "idc") -> Input:
    """Return the input of a stage 00 that has nothing but a classifier, trained on all originals of the experiment.

    What else the experiment's own stage 00 prepares is left out, so that one training serves whatever that is.

    Args:
        network: to train; "" where its folder is given.
        epochs: 0 = 300, as the full set is trained on [F §9.1] [B §3.1].
        size: pixels that it sees; 0 = as the experiment's own classifier.
        protocol: by which it is trained.
    """
    others = ("class_index", "image_size", "channels", "autoencoder", "autoencoder_path", "dit_size", "patch_size",
              "hidden_size", "depth", "num_heads", "label_dropout", "train_steps", "train_batch", "learning_rate",
              "ema_decay", "folds", "dynamics")
    plain = {name: PrepareParams.model_fields[name].default for name in others}
    asked: dict[str, Any] = {"classifier": network} if network else {}
    asked |= {"classifier_size": size} if size else {}
    return Input(stage="00_prepare", overrides=plain | asked | {
        "base_model": "none", "classifier_weights": "train", "classifier_epochs": epochs or FULL_EPOCHS,
        "classifier_protocol": protocol})
