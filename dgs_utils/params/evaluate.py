"""Parameters of stage 06."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.base import EXECUTION_ONLY, EXTENDABLE, Count, Folder, Input, Precision, StageParams
from dgs_utils.params.dataset_defaults import image_defaults, is_quickstart
from dgs_utils.params.prepare import classifier_only
from dgs_utils.params.types import (
    DISTILLED_SET,
    SOFT_LABEL_PROTOCOLS,
    ProtocolName,
    SoftLabelKind,
    StudentName,
    Trained,
    is_library_network,
)

ANY_SET = DISTILLED_SET.model_copy(update={"any_folder": True})


class EvaluateParams(StageParams):
    """06: classifiers trained on the distilled set, tested on real images (§3.1)."""

    stage: ClassVar[str] = "06_evaluate"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folders": "prepare distilled",
        "training": "network protocol epochs epoch_factor image_size evaluations repeats seed",
        "machine and output folder": "precision output",
    }

    prepare: Folder = Field("", description="stage 00")
    distilled: Folder = Field("", description="stage 05 or 08, or any image folder")
    network: StudentName = Field(
        "convnet3", description="network to train: of this kit, torchvision:NAME or timm:NAME")
    norm: Literal["instance", "batch"] = Field(
        "instance", description="normalisation layers: instance or batch; those of libraries have their own")
    image_size: Count = Field(
        0, description="pixels a side that it sees; 0 = by data set: 16 for digits, 32, 224, or that of your images")
    protocol: ProtocolName = Field(
        "idc", description="idc (hard labels, the paper's), rded (soft labels of a teacher) or uag (hard, AdamW)")
    teacher_network: Trained = Field(
        "", description='teacher, trained on all originals; "" = the scorer of stage 00; resnet18 as published')
    teacher_epochs: Count = Field(0, description="epochs of that training; 0 = 300 as published")
    teacher: Folder = Field("", description="stage 00 with the network that teacher_network names")
    soft_labels: Literal["teacher", SoftLabelKind] = Field(
        "teacher", description="of rded: asked of the teacher at each step, or stored per image, or per image and crop")
    epochs: Count = Field(0, description="epochs of a training; 0 = the published number for this IPC")
    epoch_factor: Annotated[float, Field(ge=0)] = Field(
        0.0, description="scales the protocol's epochs; 0 = 0.0075 for digits, 1 for others")
    augment: bool = Field(
        True, description="the protocol's transforms and CutMix; False for the augmentation-robust score")
    evaluations: Count = Field(0, description="tests during a training; 0 = 3 for digits, 100 as published for others")
    repeats: Annotated[int, Field(ge=1, json_schema_extra=EXTENDABLE)] = Field(
        3, description="trainings, with seeds seed, seed + 1, …")
    seed: Count = Field(0, description="seed of the first training")
    precision: Precision = Field("fp32", description="fp32, or bf16 on GPUs")
    allow_test_images: Annotated[bool, Field(json_schema_extra=EXECUTION_ONLY)] = Field(
        False, description="train on a set with copies of test images, which stop the stage otherwise")
    tracker: Annotated[str, Field(json_schema_extra=EXECUTION_ONLY)] = Field(
        "", description='experiment tracker, as accelerate calls it: wandb, mlflow, tensorboard, …; "" = none')

    def count(self) -> int:
        return self.repeats

    def cache_params(self) -> dict[str, Any]:
        """Return the parameters that decide the result; hard labels have no teacher."""
        apart = () if self.protocol in SOFT_LABEL_PROTOCOLS else ("teacher_network", "teacher_epochs")
        return {name: value for name, value in super().cache_params().items() if name not in apart}

    def unused(self) -> tuple[str, ...]:
        soft = self.protocol in SOFT_LABEL_PROTOCOLS and self.soft_labels != "teacher"
        return (*["norm"] * is_library_network(self.network), *["soft_labels"] * (not soft))

    def defaults(self, originals: Mapping[str, Any]) -> dict[str, Any]:
        usual, quick = image_defaults(originals), is_quickstart(originals)
        return {"image_size": usual.seen, "epoch_factor": 0.0075 if quick else 1.0,
                "evaluations": 3 if quick else 100}

    def inputs(self) -> dict[str, Input]:
        found = {"prepare": Input(stage="00_prepare"), "distilled": ANY_SET}
        if self.protocol in SOFT_LABEL_PROTOCOLS and (self.teacher_network or self.teacher):
            found["teacher"] = classifier_only(self.teacher_network, self.teacher_epochs, self.image_size,
                                                self.protocol)
        return found

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['distilled']}-{self.network.replace(':', '-')}"
