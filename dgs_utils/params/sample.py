"""Parameters of stage 05."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dgs_utils.methods import DYNAMIC, METHODS, MODES, RULES, Method, method_of
from dgs_utils.params.kinds import Epochs, PoolImages, Score, Shape, Trained, least
from dgs_utils.params.prepare import classifier_alone
from dgs_utils.runtime.parameters import (
    LATER,
    MACHINE,
    Count,
    Device,
    Folder,
    Fraction,
    Given,
    Input,
    Positive,
    StageParams,
    Workers,
    nearest,
)

Distribution = Literal[Shape, "own"]
Cut = Annotated[float, Field(ge=0, lt=1, json_schema_extra=LATER)]


class SampleParams(StageParams):
    """05: the distilled set, by difficulty-guided sampling or one of its rivals (§2.2)."""

    stage: ClassVar[str] = "05_sample"

    prepare: Folder = ""
    pool: Folder = ""
    scores: Folder = ""
    transform: Folder = ""
    title: Annotated[str, Field(json_schema_extra=MACHINE)] = ""  # its folder's name begins so; "" = as the pool's
    method: str = "dgs"  # a name of dgs_utils.methods.METHODS
    score: Score = ""  # what its rule goes by (dgs_utils.methods.SCORES); "" = the method's own, or difficulty.measure
    rule: str = ""  # which rule picks (dgs_utils.methods.RULES); "" = the method's own
    cut: Cut = 0.0  # share of the hardest images left out before; 0 = the rule's own: 0.3 of CCS, none of the others
    cut_errors: Annotated[bool, Field(json_schema_extra=LATER)] = False  # leave out what the judge misclassifies before
    compute: Fraction = 0.0  # rule cad: from 0, little training, so the easy end, to 1, much, so the hard end
    ipc: Positive = 10
    pool_factor: Count = 5
    distribution: Distribution = "scale"
    counts: list[Count] = []  # images per bin, for distribution "own"
    features: Given = ""  # classifier of the coresets' features: its folder, or name:weights; "" = the difficulty's
    features_network: Trained = ""  # or a network that is trained on all originals for it, as IDC's authors did
    features_epochs: Epochs = 0
    trained: Folder = ""  # the 00 folder with that network; "" = the default node
    pool_images: PoolImages = 0
    seed: Count = 0
    device: Device = "auto"
    workers: Workers = 0

    @model_validator(mode="after")
    def _known_method(self):
        selectors = [name for name, method in METHODS.items() if method.source != "condense"]
        for name, value, valid in (("method", self.method, selectors), ("rule", self.rule, ["", *RULES])):
            if value not in valid:
                hint = nearest(value, valid)
                raise ValueError(f"sample.{name} is {value!r}; choose one of {', '.join(filter(None, valid))}"
                                 f"{hint if 'did you mean' in hint else ''}")
        _, method = self.made
        if (self.cut or self.cut_errors) and not method.chooses:
            raise ValueError(f"sample.cut and sample.cut_errors need a rule that chooses, and {self.method} has none; "
                             f"leave them out")
        if self.features and (self.features_network or self.trained):
            raise ValueError(f"sample.features is {self.features!r}, and sample.features_network asks for another "
                             f"classifier; give one of the two")
        return self

    @property
    def made(self) -> tuple[str, Method]:
        """The preset that method, score and rule come to, and its parts."""
        return method_of(self.method, self.score, self.rule)

    @property
    def needs(self) -> set[str]:
        """What rule and cut look at: "score", "target", "judgement", "dynamics", "features" (see `methods.Rule`)."""
        _, method = self.made
        more = {"score": self.cut > 0, "judgement": self.cut_errors, "dynamics": method.score in DYNAMIC}
        return {*method.rule.needs, *(need for need, given in more.items() if given)}

    @property
    def scored(self) -> str:
        """The score where it is another than that of the preset, and looked at; "" otherwise."""
        name, method = self.made
        return method.score if method.score != METHODS[name].score and self.needs & {"score", "target"} else ""

    @property
    def computes(self) -> bool:
        return "features" in self.needs or self.made[1].source == "crops"

    def identity(self) -> dict[str, Any]:
        """Return the parameters that decide the result; those that the method ignores are left out."""
        name, method = self.made
        known = {"cut", "cut_errors", *method.uses} | (set() if method.whole else {"ipc"})
        known |= {"features", "features_network", "features_epochs"} if "features" in self.needs else set()
        known |= {"pool_images"} if "pool_factor" in known else set()
        found = {parameter: value for parameter, value in super().identity().items() if parameter in known}
        return {"method": name} | ({"score": self.scored} if self.scored else {}) | found

    def taken(self, name: str) -> int:
        method = self.made[1]
        if method.source != "pool" or name not in ("pool", "scores"):
            return 0
        return self.ipc if method.selector == "first" else least(self.ipc * self.pool_factor, self.pool_images)

    def of_the_whole(self, count: int) -> Self:
        if "pool_factor" not in self.made[1].uses or 0 < self.taken("pool") <= count:
            return self
        return self.model_copy(update={"pool_images": count})

    def inputs(self) -> dict[str, Input]:
        _, method = self.made
        generator: dict[str, Any] = {"generator": method.generator} if method.generator else {}
        if method.generator in MODES:  # as many modes as images of the set, so a pool for each IPC
            generator["images_per_class"] = self.ipc
        scale = {"ipc": self.ipc, "pool_factor": self.pool_factor} | ({"score": method.score} if method.score else {})
        scale |= {"pool_images": self.pool_images} if self.pool_images else {}
        found = {"prepare": Input(stage="00_prepare")}
        if method.source == "pool":
            found["pool"] = Input(stage="02_pool", overrides=generator)
        if "target" in self.needs:
            found["transform"] = Input(stage="04_transform", overrides=scale, on_demand=True)
        elif self.needs & {"score", "judgement"}:
            found["scores"] = Input(stage="03_difficulty", overrides={"source": method.source})
        if "features" in self.needs and (self.features_network or self.trained):
            found["trained"] = classifier_alone(self.features_network, self.features_epochs)
        return found

    def label(self, inputs: dict[str, str]) -> str:
        return self._called(inputs.get("pool", inputs["prepare"]))

    def titled(self, label: str) -> str:
        return self._called(self.title) if self.title else label

    def _called(self, beginning: str) -> str:
        name, method = self.made
        cut = f"cut{self.cut}" if self.cut else ""
        parts = [beginning, name, self.scored, cut, "" if method.whole else f"ipc{self.ipc}"]
        return "-".join(part for part in parts if part)
