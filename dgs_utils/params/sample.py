"""Parameters of stage 05."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from dgs_utils.methods import DYNAMICS_SCORES, METHODS, MODE_GUIDED, RULES, Method, resolve_method
from dgs_utils.params.base import (
    EXECUTION_ONLY,
    Count,
    ExternalFile,
    Folder,
    Fraction,
    Input,
    Positive,
    StageParams,
    did_you_mean,
)
from dgs_utils.params.prepare import classifier_only
from dgs_utils.params.types import NetworkName, PoolImages, Score, Shape, min_nonzero

BUDGETS = ("total", "class_weights", "short_classes")  # which mean nothing, and are in no key, while they are usual
Cut = Annotated[float, Field(ge=0, lt=1)]


class SampleParams(StageParams):
    """05: the distilled set, by difficulty-guided sampling or one of its rivals (§2.2)."""

    stage: ClassVar[str] = "05_sample"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folders": "prepare pool transform",
        "selection": "method score rule ipc pool_factor distribution seed",
        "output folder": "title output",
    }

    prepare: Folder = Field("", description="stage 00")
    pool: Folder = Field("", description="stage 02")
    scores: Folder = Field("", description="stage 03, for rules that use scores without a target")
    transform: Folder = Field("", description="stage 04, for rules that follow a target")
    title: Annotated[str, Field(json_schema_extra=EXECUTION_ONLY)] = Field(
        "", description='beginning of the folder name; "" = that of the pool')
    method: str = Field(
        "dgs", description="dgs, or another method, such as random, pool_random, herding or k_center")
    score: Score = Field(
        "", description='score that the rule uses; "" = that of the method, or the measure of stage 03')
    rule: str = Field("", description='another selection rule; "" = that of the method')
    cut: Cut = Field(
        0.0, description="fraction of the hardest images left out before; 0 = the rule's own: 0.3 for ccs, else none")
    cut_errors: bool = Field(False, description="leave out what the scorer misclassifies before")
    drop_duplicates: bool = Field(
        False, description="of the candidates of a class that show one picture, keep the first by name alone")
    compute: Fraction = Field(
        0.0, description="rule cad: from 0 (little training, so the easy end) to 1 (much, so the hard end)")
    ipc: Positive = Field(10, description="images per class")
    pool_factor: Count = Field(5, description="the pool is the first ipc × pool_factor images of each class; 0 = all")
    distribution: Shape | list[Count] = Field(
        "scale", description="target: scale = the originals', a shape, or images per bin")
    features: ExternalFile = Field(
        "", description='classifier for coresets: a network to train, a folder or name:weights; "" = the scorer')
    features_epochs: Count = Field(0, description="epochs of that training; 0 = 300 as published")
    trained: Folder = Field("", description="stage 00 with the network that features names")
    pool_images: PoolImages = Field(0, description="at most so many images of each class of the pool; 0 = all")
    total: Count = Field(0, description="images of all classes together, shared by class_weights; 0 = ipc for each")
    class_weights: ExternalFile = Field(
        "equal", description="equal, difficulty or confusion (of the candidates), or a table with class and weight")
    short_classes: Literal["stop", "take_all"] = Field(
        "stop", description="where a class has fewer images than its share: stop, or take_all it has")
    pool_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of each class's candidates that the seed draws first, for every rule alike; 1 = all")
    seed: Count = Field(0, description="selection seed")

    @model_validator(mode="after")
    def _known_method(self):
        selectors = [name for name, method in METHODS.items() if method.source != "condense"]
        for name, value, valid in (("method", self.method, selectors), ("rule", self.rule or "all", list(RULES))):
            if value not in valid:
                raise ValueError(f"sample.{name} is {value!r}, which is no {name} of stage 05"
                                 f"{did_you_mean(value, valid)}")
        _, method = self.preset
        if (self.cut or self.cut_errors or self.drop_duplicates or self.pool_share < 1) and not method.chooses:
            raise ValueError(f"sample.cut, cut_errors, drop_duplicates and pool_share need a rule that chooses, and "
                             f"{self.method} has none; leave them out")
        if self.has_budgets and (not method.chooses or method.rule.whole_set):
            raise ValueError(f"sample.total, class_weights and short_classes need a rule that chooses class by class, "
                             f"and {self.method} has none; leave them out")
        if self.trained and self.features and not self.trains_features:
            raise ValueError(f"sample.features is {self.features!r}, and sample.trained is another classifier; give "
                             f"one of the two")
        return self

    @property
    def trains_features(self) -> bool:
        """Whether the classifier of the features is a network that a stage 00 trains for it."""
        return self.features in get_args(NetworkName)

    @property
    def preset(self) -> tuple[str, Method]:
        """The preset that method, score and rule come to, and its parts."""
        return resolve_method(self.method, self.score, self.rule)

    def unused(self) -> tuple[str, ...]:
        usual = (*BUDGETS, "pool_share", "drop_duplicates")
        return tuple(name for name in usual if getattr(self, name) == type(self).model_fields[name].default)

    @property
    def has_budgets(self) -> bool:
        """Whether classes may have different numbers of images."""
        return not {*BUDGETS} <= {*self.unused()}

    @property
    def needs(self) -> set[str]:
        """What rule and cut look at: "score", "target", "prediction", "dynamics", "features" (see `methods.Rule`)."""
        _, method = self.preset
        more = {"score": self.cut > 0 or self.class_weights == "difficulty",
                "prediction": self.cut_errors or self.class_weights == "confusion",
                "dynamics": method.score in DYNAMICS_SCORES}
        return {*method.rule.needs, *(need for need, given in more.items() if given)}

    @property
    def scored(self) -> str:
        """The score, if it is used and differs from the preset's; "" otherwise."""
        name, method = self.preset
        return method.score if method.score != METHODS[name].score and self.needs & {"score", "target"} else ""

    @property
    def needs_gpu(self) -> bool:
        return "features" in self.needs or self.preset[1].source == "crops"

    def cache_params(self) -> dict[str, Any]:
        """Return the parameters that decide the result; those that the method ignores are left out."""
        name, method = self.preset
        known = {*method.uses} | ({"cut", "cut_errors", "drop_duplicates"} if method.chooses else set())
        known |= set() if method.whole else {"ipc"}
        known |= {"features"} if "features" in self.needs else set()
        known |= {"features_epochs"} if "features" in self.needs and self.trains_features else set()
        known |= {"pool_images"} if "pool_factor" in known else set()
        known |= {*BUDGETS, "pool_share"} | ({"seed"} if self.pool_share < 1 else set())
        found = {parameter: value for parameter, value in super().cache_params().items() if parameter in known}
        return {"method": name} | ({"score": self.scored} if self.scored else {}) | found

    def images_read_from(self, name: str) -> int:
        method = self.preset[1]
        if method.source != "pool" or name not in ("pool", "scores"):
            return 0
        return self.ipc if method.rule_name == "first" else min_nonzero(self.ipc * self.pool_factor, self.pool_images)

    def with_pool_size(self, count: int) -> Self:
        if "pool_factor" not in self.preset[1].uses or 0 < self.images_read_from("pool") <= count:
            return self
        return self.model_copy(update={"pool_images": count})

    def inputs(self) -> dict[str, Input]:
        _, method = self.preset
        generator: dict[str, Any] = {"generator": method.generator} if method.generator else {}
        if method.generator in MODE_GUIDED:  # as many modes as images of the set, so a pool for each IPC
            generator["images_per_class"] = self.ipc
        scale = {"ipc": self.ipc, "pool_factor": self.pool_factor} | ({"score": method.score} if method.score else {})
        scale |= {"pool_images": self.pool_images} if self.pool_images else {}
        found = {"prepare": Input(stage="00_prepare")}
        if method.source == "pool":
            found["pool"] = Input(stage="02_pool", overrides=generator)
        if "target" in self.needs:
            found["transform"] = Input(stage="04_transform", overrides=scale, on_demand=True)
        elif self.needs & {"score", "prediction"}:
            found["scores"] = Input(stage="03_difficulty", overrides={"source": method.source})
        if "features" in self.needs and (self.trains_features or self.trained):
            found["trained"] = classifier_only(self.features, self.features_epochs)
        return found

    def label(self, inputs: dict[str, str]) -> str:
        return self._called(inputs.get("pool", inputs["prepare"]))

    def folder_label(self, label: str) -> str:
        return self._called(self.title) if self.title else label

    def _called(self, beginning: str) -> str:
        name, method = self.preset
        cut = f"cut{self.cut}" if self.cut else ""
        parts = [beginning, name, self.scored, cut, "" if method.whole else f"ipc{self.ipc}"]
        return "-".join(part for part in parts if part)
