"""Parameters of stage 02."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dgs_utils.methods import MODE_GUIDED
from dgs_utils.params.base import (
    EXECUTION_ONLY,
    EXTENDABLE,
    EXTERNAL_FILE,
    Batch,
    Count,
    Folder,
    Input,
    Interval,
    OpenNumber,
    Precision,
    StageParams,
)
from dgs_utils.params.dataset_defaults import is_quickstart

Shard = Annotated[str, Field(pattern=r"^([1-9]\d*/[1-9]\d*)?$", json_schema_extra=EXECUTION_ONLY)]  # such as "2/4"


class PoolParams(StageParams):
    """02: the pool of generated images (§2.2)."""

    stage: ClassVar[str] = "02_pool"
    in_cell: ClassVar[Mapping[str, str]] = {
        "input folders": "prepare fine_tune",
        "images": "generator root images_per_class seed",
        "sampling": "steps solver guidance",
        "machine and output folder": "precision batch_size shard output",
    }

    prepare: Folder = Field("", description="stage 00")
    fine_tune: Folder = Field("", description="stage 01, for generators minimax and plain")
    originals: Folder = Field(
        "", description="stage 03 with the originals' scores, for generators originals and strata")
    generator: Literal["minimax", "dit", "plain", "mgd3", "strata", "folder", "originals"] = Field(
        "minimax", description="minimax, dit or plain; mgd3 or strata (guided by modes); folder (yours); originals")
    base: Literal["dit", "plain", "minimax"] = Field(
        "dit", description="model that mgd3 and strata guide: dit, plain or minimax")
    root: Annotated[str | list[str], Field(json_schema_extra=EXTERNAL_FILE)] = Field(
        "", description="your images, for generator folder: folder, archive, hf://datasets/OWNER/NAME, or a list")
    images_per_class: Annotated[int, Field(ge=1, json_schema_extra=EXTENDABLE)] = Field(
        50, description="images of each class; a larger pool contains the smaller ones")
    bias: Annotated[float, Field(ge=-50, le=50)] = Field(
        0.0, description="β of generator originals, which draws images with probability ∝ exp(−β · difficulty)")
    seed: Count = Field(0, description="pool seed: each image has a seed of its own, named after it")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(50, description="sampling steps")
    solver: Literal["ancestral", "ddim", "dpm++", "unipc"] = Field(
        "ancestral", description="solver of the sampling steps")
    cache: Literal["none", "taylorseer"] = Field(
        "none", description="none; taylorseer: four of five steps extrapolate what layers return (not for ancestral)")
    guidance: OpenNumber = Field(
        -1.0, description="scale of classifier-free guidance; -1 = 2 for digits, 4 as published for others")
    guidance_interval: Interval = Field([0.0, 1.0], description="part of the noise range that is guided")
    mode_scale: Annotated[float, Field(ge=0)] = Field(0.1, description="λ of generators mgd3 and strata")
    batch_size: Batch = Field(50, description="images generated at a time; changes rounding only")
    shard: Shard = Field("", description='"k/n" = the k-th of n shards, into the same folder; "" = all')
    precision: Precision = Field("fp32", description="fp32, or bf16 on GPUs")

    @model_validator(mode="after")
    def _possible(self):
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"pool.guidance_interval is [{low}, {high}], which has no step; give its low end first")
        if self.shard:
            k, n = map(int, self.shard.split("/"))
            if k > n:
                raise ValueError(f"pool.shard is {self.shard!r}, but shares are numbered 1/{n} to {n}/{n}")
        if self.bias and self.generator != "originals":
            raise ValueError(f"pool.bias is {self.bias:g}, but generator {self.generator} has no bias to set; leave it "
                             f"at 0, or set pool.generator to originals")
        if self.generator in MODE_GUIDED and self.solver != "ancestral":
            raise ValueError(f"pool.solver is {self.solver!r}, but generator {self.generator} guides ancestral steps "
                             f"only; set it to 'ancestral'")
        if self.cache != "none" and self.solver == "ancestral":
            raise ValueError(f"pool.cache is {self.cache!r}, which extrapolates from step to step, but pool.solver is "
                             f"'ancestral', which adds new noise to each; set the solver to 'ddim', 'dpm++' or 'unipc'")
        return self

    @property
    def model(self) -> str:
        """Which diffusion model generates: "dit", "plain" (fine-tuned by Eq. 2 alone), "minimax"; "" for none."""
        own = {"folder": "", "originals": ""} | dict.fromkeys(MODE_GUIDED, self.base)
        return own.get(self.generator, self.generator)

    def defaults(self, originals: Mapping[str, Any]) -> dict[str, Any]:
        return {"guidance": 2.0 if is_quickstart(originals) else 4.0}

    def unused(self) -> tuple[str, ...]:
        """Return what images that exist already have nothing to do with, though the data set says it."""
        return ("guidance",) if self.generator in ("folder", "originals") else ()

    def check_prefix(self, count: int) -> None:
        """Raise ValueError where the first ``count`` images a class (0 = all) are not such a pool themselves."""
        if self.generator in MODE_GUIDED and 0 < count < self.images_per_class:
            raise ValueError(f"the first {count} images a class are wanted of a pool of {self.images_per_class} by "
                             f"generator {self.generator}, whose modes are as many as its images, so that its pools do "
                             f"not nest; set pool.images_per_class to {count}, or sample.pool_factor to 0")

    def cache_params(self) -> dict[str, Any]:
        """Return the parameters that decide the pool; of one that exists already, that is the folder alone."""
        params = super().cache_params()
        if self.generator == "folder":
            return {name: params[name] for name in ("generator", "root")}
        if self.generator == "originals":
            return {name: params[name] for name in ("generator", "bias", "seed")}
        apart = {"root", "bias"}
        if self.generator in MODE_GUIDED:  # as many modes as images
            params["images_per_class"] = self.images_per_class
        else:
            apart |= {"base", "mode_scale"}
        return {name: value for name, value in params.items() if name not in apart}

    @property
    def needs_gpu(self) -> bool:
        return self.generator != "folder"

    def count(self) -> int:
        return 0 if self.generator in ("folder", *MODE_GUIDED) else self.images_per_class

    def inputs(self) -> dict[str, Input]:
        inputs = {"prepare": Input(stage="00_prepare")}
        if self.model in ("plain", "minimax"):
            inputs["fine_tune"] = Input(stage="01_fine_tune",
                                        overrides={"criteria": "none"} if self.model == "plain" else {})
        if self.generator in ("originals", "strata"):
            inputs["originals"] = Input(stage="03_difficulty", overrides={"source": "originals"})
        return inputs

    def label(self, inputs: dict[str, str]) -> str:
        more = f"-bias{self.bias:g}" if self.generator == "originals" else ""
        more = f"-{self.base}" if self.generator in MODE_GUIDED and self.base != "dit" else more
        return f"{inputs['prepare']}-{self.generator}{more}-{self.seed}"
