"""Parameters of stage 02."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dgs_utils.methods import MODES
from dgs_utils.params.kinds import Bound, Shape
from dgs_utils.runtime.parameters import (
    GIVEN,
    GROWS,
    LATER,
    MACHINE,
    Batch,
    Count,
    Device,
    Folder,
    Input,
    Interval,
    Positive,
    Precision,
    StageParams,
    Switch,
)

Shard = Annotated[str, Field(pattern=r"^([1-9]\d*/[1-9]\d*)?$", json_schema_extra=MACHINE)]  # "2/4": the second quarter


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
