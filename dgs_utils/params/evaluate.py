"""Parameters of stage 06."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dgs_utils.params.kinds import DISTILLED, SOFT, Epochs, Network, Protocol, Trained
from dgs_utils.params.prepare import classifier_alone
from dgs_utils.runtime.parameters import (
    GROWS,
    Count,
    Device,
    Folder,
    Input,
    Positive,
    Precision,
    StageParams,
    Switch,
    Workers,
)

ANY_SET = DISTILLED.model_copy(update={"any_folder": True})


class EvaluateParams(StageParams):
    """06: classifiers trained on the distilled set, tested on real images (§3.1)."""

    stage: ClassVar[str] = "06_evaluate"

    prepare: Folder = ""
    distilled: Folder = ""
    network: Network = "convnet3"
    norm: Literal["instance", "batch"] = "instance"
    image_size: Positive = 16
    protocol: Protocol = "idc"  # idc: hard labels, the paper's; rded: soft labels of a teacher
    teacher_network: Trained = ""  # the teacher, trained on all originals; "" = 00's classifier; resnet18 as published
    teacher_epochs: Epochs = 0
    teacher: Folder = ""  # the 00 folder with that network; "" = the default node
    epochs: Count = 0  # 0 = the published number for this IPC
    epoch_factor: Annotated[float, Field(gt=0)] = 0.0075  # scales the protocol's epochs for small machines
    batch_size: Count = 0  # 0 = the protocol's
    learning_rate: Annotated[float, Field(ge=0)] = 0.0  # 0 = the protocol's
    augment: bool = True  # the protocol's transforms and CutMix; without them for the augmentation-robust score
    flip: bool = False  # whether mirrored images still show their class
    evaluations: Positive = 3  # tests during a training; 100 as published
    repeats: Annotated[int, Field(ge=1, json_schema_extra=GROWS)] = 3
    seed: Count = 0  # training seeds are seed, seed + 1, …
    compile: Switch = "auto"  # torch.compile; auto: for trainings that are long enough to pay for it
    precision: Precision = "fp32"
    device: Device = "auto"
    workers: Workers = 0

    def count(self) -> int:
        return self.repeats

    def identity(self) -> dict[str, Any]:
        """Return the parameters that decide the result; hard labels have no teacher."""
        apart = () if self.protocol in SOFT else ("teacher_network", "teacher_epochs")
        return {name: value for name, value in super().identity().items() if name not in apart}

    def inputs(self) -> dict[str, Input]:
        found = {"prepare": Input(stage="00_prepare"), "distilled": ANY_SET}
        if self.protocol in SOFT and (self.teacher_network or self.teacher):
            found["teacher"] = classifier_alone(self.teacher_network, self.teacher_epochs, self.image_size,
                                                self.protocol)
        return found

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['distilled']}-{self.network}"
