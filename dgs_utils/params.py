"""The parameters of the nine stages, typed.

A notebook's ``parameters`` cell holds exactly the fields and defaults of its model here (a test keeps them equal), an
experiment file holds the same names under the stage's section, and the folder of a result is named after the hash of
them. Defaults are those of the quickstart. What all models share is in `dgs_utils.runtime.parameters`.

Input folders are parameters too. "" stands for the folder that the same stage with default parameters writes, so that
the notebooks run by hand, in order, without a path being typed.
"""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from dgs_utils.methods import DYNAMIC, METHODS, MODES, RULES, WINDOW, Method, method_of
from dgs_utils.runtime.parameters import (
    GIVEN,
    GROWS,
    LATER,
    MACHINE,
    Batch,
    Count,
    Device,
    Folder,
    Folders,
    Fraction,
    Given,
    Input,
    Interval,
    Positive,
    Precision,
    StageParams,
    Switch,
    Workers,
    checked,
    nearest,
)
from dgs_utils.subsets import SUBSETS

Bound = Annotated[float, Field(gt=0, allow_inf_nan=False, json_schema_extra=MACHINE)]
PoolImages = Annotated[int, Field(ge=0, json_schema_extra=LATER)]  # no more images a class of the pool; 0 = all
Shape = Literal["scale", "hill", "ground", "slope", "cliff", "uniform"]
Distribution = Literal[Shape, "own"]
Tracker = Literal["", "tensorboard", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow"]  # accelerate's names
Shard = Annotated[str, Field(pattern=r"^([1-9]\d*/[1-9]\d*)?$", json_schema_extra=MACHINE)]  # "2/4": the second quarter
DitSize = Literal["", "DiT-XL/2", "DiT-XL/4", "DiT-XL/8", "DiT-L/2", "DiT-L/4", "DiT-L/8",
                  "DiT-B/2", "DiT-B/4", "DiT-B/8", "DiT-S/2", "DiT-S/4", "DiT-S/8"]
Cut = Annotated[float, Field(ge=0, lt=1, json_schema_extra=LATER)]
Score = Annotated[Literal["", "difficulty", "margin", "cross_entropy", "entropy", "el2n", "confidence", "aum",
                          "forgetting", "dyn_unc", "dual", "el2n_early"], Field(json_schema_extra=LATER)]
Network = Literal["convnet3", "convnet4", "convnet5", "convnet6", "resnet_ap10", "resnet18"]
Trained = Annotated[Literal["", Network], Field(json_schema_extra=LATER)]  # in a stage 00 of its own; "" = none
Epochs = Annotated[int, Field(ge=0, json_schema_extra=LATER)]  # of that classifier; 0 = 300, as published
Protocol = Literal["idc", "rded"]
SOFT = ("rded",)  # protocols with soft labels


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


FULL_EPOCHS = 300

DISTILLED = Input(stage="05_sample", alternative="08_condense")
ANY_SET = DISTILLED.model_copy(update={"any_folder": True})


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
    hidden_size: Positive = 128
    depth: Positive = 4
    num_heads: Positive = 4
    label_dropout: Fraction = 0.1
    flip: bool = False  # mirror images while training diffusion models
    train_steps: Positive = 1000
    train_batch: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
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


class FineTuneParams(StageParams):
    """01: DiffFit fine-tuning with the minimax criteria (Eqs. 1–4)."""

    stage: ClassVar[str] = "01_fine_tune"

    prepare: Folder = ""
    epochs: Positive = 2
    steps: Count = 0  # 0 = epochs × (images // batch_size)
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    ema_decay: Fraction = 0.99
    scaled_blocks: Count = 0  # blocks that carry DiffFit scales; 0 = the first half
    memory_size: Positive = 64
    criteria: Annotated[Literal["minimax", "none"], Field(json_schema_extra=LATER)] = "minimax"  # none: Eq. 2 alone
    weight_representative: Annotated[float, Field(ge=0)] = 0.002
    weight_diverse: Annotated[float, Field(ge=0)] = 0.008
    sampled_step: Count = 0  # the step whose EMA is sampled; 0 = the last
    checkpoint_every: Annotated[int, Field(ge=1, json_schema_extra=MACHINE)] = 1000
    gradient_checkpointing: Annotated[bool, Field(json_schema_extra=MACHINE)] = False  # less memory for more time
    tracker: Annotated[Tracker, Field(json_schema_extra=MACHINE)] = ""
    processes: Annotated[int, Field(ge=0, json_schema_extra=MACHINE)] = 0  # that share a batch; 0 = one a visible GPU
    seed: Count = 0
    precision: Precision = "fp32"
    device: Device = "auto"

    def inputs(self) -> dict[str, Input]:
        return {"prepare": Input(stage="00_prepare")}

    def identity(self) -> dict[str, Any]:
        """Return the parameters that decide the result; those of the criteria are left out where there are none."""
        apart = ("memory_size", "weight_representative", "weight_diverse") if self.criteria == "none" else ()
        return {name: value for name, value in super().identity().items() if name not in apart}

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['prepare']}-{'minimax' if self.criteria == 'minimax' else 'plain'}"


class PoolParams(StageParams):
    """02: the pool of generated images (§2.2)."""

    stage: ClassVar[str] = "02_pool"

    prepare: Folder = ""
    fine_tune: Folder = ""
    originals: Folder = ""  # the originals' scores (03), for generators "originals" and "strata"
    generator: Literal["minimax", "dit", "plain", "mgd3", "strata", "folder", "originals"] = "minimax"
    base: Annotated[Literal["dit", "plain", "minimax"], Field(json_schema_extra=LATER)] = "dit"  # guided by modes
    root: Annotated[str | list[str], Field(json_schema_extra=GIVEN)] = ""  # the images of generator "folder": a folder,
    # or several folders or archives, which make one pool
    images_per_class: Annotated[int, Field(ge=1, json_schema_extra=GROWS)] = 50
    bias: Annotated[float, Field(ge=-50, le=50, allow_inf_nan=False, json_schema_extra=LATER)] = 0.0  # β of generator
    # "originals", which draws an image with probability ∝ exp(−β · difficulty)
    seed: Count = 0
    steps: Positive = 50
    solver: Literal["ancestral", "ddim", "dpm++", "unipc"] = "ancestral"
    cache: Annotated[Literal["none", "taylorseer"], Field(json_schema_extra=LATER)] = "none"  # taylorseer: most steps
    # extrapolate what the model's layers return; for deterministic solvers
    cache_interval: Annotated[int, Field(ge=1, json_schema_extra=LATER)] = 5  # steps from one that is computed to the
    # next
    cache_order: Annotated[int, Field(ge=0, json_schema_extra=LATER)] = 1  # of the Taylor series
    guidance: Annotated[float, Field(ge=0)] = 2.0
    guidance_channels: Count = 0  # 0 = as published: three of four latent channels, all otherwise
    guidance_interval: Interval = [0.0, 1.0]  # part of the noise range that is guided
    mode_scale: Annotated[float, Field(ge=0, json_schema_extra=LATER)] = 0.1  # λ of generators mgd3 and strata
    mode_stop: Annotated[int, Field(ge=0, json_schema_extra=LATER)] = 0  # step index at which their pull ends; 0 = half
    mode_shape: Annotated[Shape, Field(json_schema_extra=LATER)] = "scale"  # modes a bin of difficulty, for strata
    batch_size: Batch = 50
    classes: list[str] = []  # [] = all
    shard: Shard = ""  # "k/n": generate only the k-th of n shares, into the same folder; "" = all
    compile: Switch = "auto"  # torch.compile; auto: on a GPU, for pools that take long enough
    precision: Precision = "fp32"
    device: Device = "auto"
    unpack_gib: Bound = 512.0  # that an archive may unpack to
    unpack_files: Annotated[int, Field(ge=1, json_schema_extra=MACHINE)] = 5_000_000  # in one archive
    unpack_ratio: Bound = 100.0  # of what an archive unpacks to, to its size

    @model_validator(mode="after")
    def _possible(self):
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"pool.guidance_interval is [{low}, {high}], which holds no step; give its low end first")
        if self.shard:
            k, n = map(int, self.shard.split("/"))
            if k > n:
                raise ValueError(f"pool.shard is {self.shard!r}, but shares are numbered 1/{n} to {n}/{n}")
        if self.bias and self.generator != "originals":
            raise ValueError(f"pool.bias is {self.bias:g}, but generator {self.generator} has no bias to set; leave it "
                             f"at 0, or set pool.generator to originals")
        if self.generator in MODES and self.solver != "ancestral":
            raise ValueError(f"pool.solver is {self.solver!r}, but generator {self.generator} guides ancestral steps "
                             f"only; set it to 'ancestral'")
        if self.cache != "none" and self.solver == "ancestral":
            raise ValueError(f"pool.cache is {self.cache!r}, which extrapolates from step to step, but pool.solver is "
                             f"'ancestral', which adds new noise to each; set the solver to 'ddim', 'dpm++' or 'unipc'")
        if self.cache != "none" and self.compile == "on":
            raise ValueError(f"pool.cache is {self.cache!r}, whose hooks cut a compiled model into pieces, and "
                             f"pool.compile is 'on'; set it to 'auto', or the cache to 'none'")
        return self

    @property
    def model(self) -> str:
        """Which diffusion model generates: "dit", "plain" (fine-tuned by Eq. 2 alone), "minimax"; "" for none."""
        own = {"folder": "", "originals": ""} | dict.fromkeys(MODES, self.base)
        return own.get(self.generator, self.generator)

    def check_prefix(self, count: int) -> None:
        """Raise ValueError where the first ``count`` images a class (0 = all) are not such a pool themselves."""
        if self.generator in MODES and 0 < count < self.images_per_class:
            raise ValueError(f"the first {count} images a class are wanted of a pool of {self.images_per_class} by "
                             f"generator {self.generator}, whose modes are as many as its images, so that its pools do "
                             f"not nest; set pool.images_per_class to {count}, or sample.pool_factor to 0")

    def identity(self) -> dict[str, Any]:
        """Return the parameters that decide the pool; of one that exists already, that is the folder alone."""
        found = super().identity()
        if self.generator == "folder":
            return {name: found[name] for name in ("generator", "root", "classes")}
        if self.generator == "originals":
            return {name: found[name] for name in ("generator", "bias", "seed", "classes") if name in found}
        apart = {"root"} | ({"mode_shape"} if self.generator != "strata" else set())
        apart |= {"cache_interval", "cache_order"} if self.cache == "none" else set()
        if self.generator in MODES:  # as many modes as images
            found["images_per_class"] = self.images_per_class
        else:
            apart |= {"base", "mode_scale", "mode_stop"}
        return {name: value for name, value in found.items() if name not in apart}

    @property
    def computes(self) -> bool:
        return self.generator != "folder"

    def count(self) -> int:
        return 0 if self.generator in ("folder", *MODES) else self.images_per_class

    def inputs(self) -> dict[str, Input]:
        found = {"prepare": Input(stage="00_prepare")}
        if self.model in ("plain", "minimax"):
            found["fine_tune"] = Input(stage="01_fine_tune",
                                       overrides={"criteria": "none"} if self.model == "plain" else {})
        if self.generator in ("originals", "strata"):
            found["originals"] = Input(stage="03_difficulty", overrides={"source": "originals"})
        return found

    def label(self, inputs: dict[str, str]) -> str:
        more = f"-bias{self.bias:g}" if self.generator == "originals" else ""
        more = f"-{self.base}" if self.generator in MODES and self.base != "dit" else more
        return f"{inputs['prepare']}-{self.generator}{more}-{self.seed}"


class DifficultyParams(StageParams):
    """03: difficulty of the pool's or the originals' images (Eq. 6)."""

    stage: ClassVar[str] = "03_difficulty"

    prepare: Folder = ""
    pool: Folder = ""
    originals: Folder = ""
    source: Literal["pool", "originals"] = "pool"
    measure: Literal["difficulty", "margin", "cross_entropy", "entropy", "el2n"] = "difficulty"
    classifiers: Annotated[list[str], Field(json_schema_extra=GIVEN)] = []  # others, averaged with that of 00
    published_scores: bool = False  # take scores from the metadata.jsonl beside each class's images
    round_scores: Count = 0  # decimals; 0 = full precision, 4 = as published
    batch_size: Batch = 128
    precision: Precision = "fp32"
    device: Device = "auto"
    workers: Workers = 0

    @property
    def computes(self) -> bool:
        return not self.published_scores

    def inputs(self) -> dict[str, Input]:
        found = {"prepare": Input(stage="00_prepare")}
        if self.source == "pool":
            found["pool"] = Input(stage="02_pool")
            found["originals"] = Input(stage="03_difficulty", overrides={"source": "originals"})
        return found

    def label(self, inputs: dict[str, str]) -> str:
        return inputs["pool"] if self.source == "pool" else f"{inputs['prepare']}-originals"


class TransformParams(StageParams):
    """04: thresholds and log transform per class (Eqs. 7–9)."""

    stage: ClassVar[str] = "04_transform"

    pool_scores: Folder = ""
    original_scores: Folder = ""
    ipc: Positive = 10
    pool_factor: Count = 5  # the first ipc × pool_factor images of a class are the pool; 0 = all
    objective: Literal["code", "paper", "none"] = "code"  # none: scores stay as they are, without the logarithm
    weight: Fraction = 0.5  # λ of Eq. 9
    bins: Annotated[int, Field(ge=2)] = 10
    limit: Count = 0  # thresholds searched below this count; 0 = ipc // 2
    search_on: Literal["pool", "originals"] = "pool"
    shared_scale: bool = False  # both sets transformed with the pool's own bounds
    score: Score = ""  # the column of 03 that is transformed; "" = its measure
    pool_images: PoolImages = 0

    def taken(self, name: str) -> int:
        return _least(self.ipc * self.pool_factor, self.pool_images) if name == "pool_scores" else 0

    def of_the_whole(self, count: int) -> Self:
        return self if 0 < self.taken("pool_scores") <= count else self.model_copy(update={"pool_images": count})

    def inputs(self) -> dict[str, Input]:
        return {
            "pool_scores": Input(stage="03_difficulty", overrides={"source": "pool"}),
            "original_scores": Input(stage="03_difficulty", overrides={"source": "originals"}),
        }

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['pool_scores']}-ipc{self.ipc}"


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
        return self.ipc if method.selector == "first" else _least(self.ipc * self.pool_factor, self.pool_images)

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


class FiguresParams(StageParams):
    """07: figures and tables of any number of finished stages."""

    stage: ClassVar[str] = "07_figures"

    evaluations: Folders = []  # 06 folders; [] = the default node
    samples: Folders = []  # 05 and 08 folders; [] = the default node
    title: str = "quickstart"
    figure_classes: list[str] = []  # classes shown in Figures 2 and 3; [] = the first two
    show_originals: bool = True  # Figure 3 has the originals' images, too; off where they may not be passed on
    table_names: list[Literal["comparison", "table1", "table2", "table3", "table4"]] = ["comparison"]
    margin: Annotated[float, Field(gt=0)] = 2.0  # points of accuracy; a smaller difference does not matter
    results: Annotated[list[str], Field(json_schema_extra=GIVEN)] = []  # results.csv files in place of 06 folders

    def inputs(self) -> dict[str, Input]:
        rows = {} if self.results else {"evaluations": Input(stage="06_evaluate")}
        return rows | ({} if self.results and not self.samples else {"samples": DISTILLED})

    def label(self, inputs: dict[str, str]) -> str:
        return self.title


class CondenseParams(StageParams):
    """08: distilled sets by pixel optimisation: DM and IDC-1."""

    stage: ClassVar[str] = "08_condense"

    prepare: Folder = ""
    method: Literal["dm", "idc"] = "dm"
    ipc: Positive = 10
    network: Network = "convnet3"
    image_size: Positive = 16
    iterations: Positive = 100  # of DM (20,000 as published); outer loops of IDC-1 (500)
    image_learning_rate: Annotated[float, Field(ge=0)] = 0.0  # 0: the published rule; short runs of IDC-1 go faster
    real_batch: Positive = 64  # real images a class in each comparison
    inner_loops: Positive = 10  # IDC-1: comparisons for each network (100 as published)
    pretrain_epochs: Count = 0  # IDC-1: epochs on real images before the first comparison (10 as published)
    bank: Annotated[int, Field(ge=0, json_schema_extra=LATER)] = 0  # IDC-1: networks that are pre-trained once and
    # begin the outer loops in turn; 0 = each loop pre-trains a new one, as published
    net_batches: Count = 2  # IDC-1: training batches of 64 between comparisons (8 as published)
    flip: bool = False
    precision: Annotated[Precision, Field(json_schema_extra=LATER)] = "fp32"
    seed: Count = 0
    device: Device = "auto"
    workers: Workers = 0

    @model_validator(mode="after")
    def _trained_bank(self):
        if self.bank and not self.pretrain_epochs:
            raise ValueError(f"condense.bank is {self.bank}, but condense.pretrain_epochs is 0, which leaves its "
                             f"networks untrained; set pretrain_epochs (10 as published), or bank to 0")
        return self

    def inputs(self) -> dict[str, Input]:
        return {"prepare": Input(stage="00_prepare")}

    def label(self, inputs: dict[str, str]) -> str:
        return f"{inputs['prepare']}-{self.method}-ipc{self.ipc}"


def _least(*counts: int) -> int:
    """Return the least of some counts, of which 0 stands for no limit."""
    return min((count for count in counts if count), default=0)


STAGES: dict[str, type[StageParams]] = {
    model.stage: model
    for model in (PrepareParams, FineTuneParams, PoolParams, DifficultyParams, TransformParams, SampleParams,
                  EvaluateParams, FiguresParams, CondenseParams)
}


def validate(stage: str, values: dict[str, Any]) -> StageParams:
    """Check a stage's parameters.

    Args:
        stage: a key of `STAGES`.
        values: parameter values by name; missing ones take their defaults.

    Raises:
        ValueError: one sentence a wrong parameter, naming it, what was given, and the nearest valid name.
    """
    return checked(STAGES[stage], values)
