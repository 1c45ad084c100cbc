"""Images of a pool that a diffusion model generates.

Image i of class c draws all its noise from a seed of its own, so that a pool of 50 is the beginning of a pool of 300:
the same images in fp32, to one grey level of 255, whatever the batch size. (Where images have modes, these depend on
the number of images, so that such pools do not nest.) Work goes in fixed blocks of indices. A block whose files are
complete is never generated again: a killed run resumes at the first unfinished block, and several processes can fill
one folder, each its shard of blocks.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dgs_utils.diffusion.autoencoder import Autoencoder, load_autoencoder
from dgs_utils.diffusion.caching import enable_taylorseer
from dgs_utils.diffusion.difffit import add_difffit, fold
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.label_rows import check_trained
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.modes import kmeans_modes, stratified_modes
from dgs_utils.diffusion.sampling import Guidance, ModeGuidance, sample
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import MODE_GUIDED
from dgs_utils.params import PoolParams
from dgs_utils.runtime.compiling import compile_switch, should_compile
from dgs_utils.runtime.devices import autocast, resolve_device, side_stream
from dgs_utils.runtime.oom_backoff import OomBackoff
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import named_seed, torch_rng
from dgs_utils.runtime.threads import available_cores
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.store.atomic import atomic
from dgs_utils.store.manifest import read_manifest
from dgs_utils.store.partial_results import known_checksums, record_checksums, remove_corrupt
from dgs_utils.store.session import Run

MAX_ENCODERS = 8  # threads that encode PNG files
CACHE_INTERVAL, CACHE_ORDER = 5, 1  # of TaylorSeer: steps between two that are computed, and terms of the series
COMPILE_FROM_EVALUATIONS = 1000  # evaluations of the network, such as 20 blocks of 50 steps, outweigh compiling it


# ---- Images from a model ---------------------------------------------------------------------------------------------

def sample_latents(model: DiT, condition: int, name: str, indices: Sequence[int], seed: int = 0, *, steps: int = 50,
                   guidance: Guidance | None = None, solver: str = "ancestral", modes: ModeGuidance | None = None,
                   precision: str = "fp32", progress: Callable = no_progress) -> Tensor:
    """Generate some images of a class's pool, as latents (N, C, S, S), float32, by `sampling.sample`.

    ``condition`` is the class's label in the model; its draws are named after its name, and each of ``indices`` has a
    seed of its own, so that pools nest.

    Raises:
        ValueError: the model has no such label, or as `sampling.sample`.
    """
    if not 0 <= condition < model.config.num_classes:
        raise ValueError(f"class {name} has the condition {condition}, but the diffusion model has conditions 0 to "
                         f"{model.config.num_classes - 1}; correct prepare.class_index")
    rngs = [torch_rng("pool", seed, name, index) for index in indices]
    return sample(model, torch.full((len(rngs),), condition), rngs, steps=steps, guidance=guidance or Guidance(),
                  solver=solver, modes=modes, precision=precision, progress=progress)


@torch.inference_mode()
def decode_images(autoencoder: Autoencoder, latents: Tensor, precision: str = "fp32",
                  names: Sequence[str] = ()) -> np.ndarray:
    """Return latents (N, C, S, S) as images, uint8 (N, H, W, 3), whose names are for the sentence of an error.

    Raises:
        FloatingPointError: latents, or what is decoded from them, are NaN or infinite, of which integers would make
            black or white pixels.
    """
    with autocast(latents.device, precision):
        decoded = autoencoder.decode(latents).float()
    pixels = decoded.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    broken = torch.stack([~values.flatten(1).isfinite().all(1) for values in (latents, decoded)], dim=1)
    read = torch.cat([broken.to(torch.uint8), pixels.flatten(1)], dim=1).cpu().numpy()  # at once: a GPU halts for it
    for part, what in enumerate(("the sampled latents", "the decoded pixels")):
        lost = np.flatnonzero(read[:, part])
        if len(lost):
            raise FloatingPointError(f"{what} of {len(lost)} of {len(read)} images, first of "
                                     f"{names[lost[0]] if names else lost[0]}, are NaN or infinite")
    return read[:, 2:].reshape(pixels.shape)


# ---- The stage -------------------------------------------------------------------------------------------------------

def generate_images(run: Run, classes: pd.DataFrame) -> pd.DataFrame:
    """Generate the missing images of this run's shard, and return the rows of all images that are there."""
    blocks = all_blocks(run, classes)
    own = blocks_of_shard(blocks, run.params.shard)
    for file in (file for block in own for file in block.files):
        for unfinished in file.parent.glob(f".{file.name}.*.partial"):  # of a run that was killed
            unfinished.unlink()
    checksums, first_files = known_checksums(run.folder), {block.files[0] for block in own}
    for block in blocks:  # of other shards, only files with another checksum are removed
        remove_corrupt(run.folder, block.files, checksums, unknown=block.files[0] in first_files)
    if missing := [part for block in own for part in block.missing()]:
        _generate_blocks(run, missing)
    return _pool_table(run, classes)


@dataclass(frozen=True)
class ImageBlock:
    """A fixed run of one class's images that is generated at once."""

    name: str  # class folder
    condition: int  # the class's label in the diffusion model
    files: tuple[Path, ...]  # the images' paths
    start: int  # index of the first

    @property
    def done(self) -> bool:
        """Whether all its images exist; each file appears complete, by renaming."""
        return all(file.exists() for file in self.files)

    def missing(self) -> list["ImageBlock"]:
        """Return the runs of consecutive images in it that do not exist yet."""
        missing = [index for index, file in enumerate(self.files) if not file.exists()]
        runs = [list(group) for _, group in groupby(missing, key=lambda index: index - missing.index(index))]
        return [replace(self, files=self.files[run[0] : run[-1] + 1], start=self.start + run[0]) for run in runs]


def all_blocks(run: Run, classes: pd.DataFrame) -> list[ImageBlock]:
    """Return all blocks of a pool, class by class."""
    count, size, blocks = run.params.images_per_class, run.params.batch_size, list[ImageBlock]()
    for name, condition in zip(classes["class"], classes["condition"], strict=True):
        paths = [run.folder / "images" / name / f"{i}.png" for i in range(count)]
        blocks += [ImageBlock(name, int(condition), tuple(paths[i : i + size]), i) for i in range(0, count, size)]
    return blocks


def blocks_of_shard(blocks: list[ImageBlock], shard: str) -> list[ImageBlock]:
    """Return the k-th of n parts of a list for ``shard`` "k/n", or all for "": whole classes where numbers allow."""
    if not shard:
        return blocks
    k, n = map(int, shard.split("/"))
    return blocks[len(blocks) * (k - 1) // n : len(blocks) * k // n]


def _generate_blocks(run: Run, missing: list[ImageBlock]) -> None:
    """Sample block by block; decoding of one block, and encoding of its files, overlap with sampling of the next."""
    params = run.params
    if "fine_tune" not in run.inputs:
        check_trained(run.inputs["prepare"], params.generator)
    device, evaluations = resolve_device(), len(missing) * params.steps
    model = load_generator(run)
    guidance = Guidance(params.guidance, interval=tuple(params.guidance_interval))
    guidance.check(model.config.in_channels)
    if guidance.scale != 1 and not model.config.class_dropout:
        raise ValueError(f"pool.guidance is {guidance.scale:g}, but the diffusion model was trained without label "
                         f"dropout, so it cannot generate without a class, which guidance needs; set it to 1, or "
                         f"use a model that was trained with it")
    if params.cache == "taylorseer":
        enable_taylorseer(model, CACHE_INTERVAL, CACHE_ORDER)
    elif should_compile(compile_switch(), device, evaluations, COMPILE_FROM_EVALUATIONS):
        model.compile()
    channels = json.loads((run.inputs["prepare"] / "dataset.json").read_text())["channels"]
    autoencoder = load_autoencoder(run.inputs["prepare"], channels).store_matrices(params.precision).to(device)
    modes = class_modes(run, {block.name for block in missing}) if params.generator in MODE_GUIDED else {}
    steps = run.progress(range(evaluations), label="pool")
    batches = OomBackoff("pool.batch_size", params.batch_size, run.warn)

    def counted(loop: Iterable, **_: Any) -> Iterator:
        for item in loop:
            yield item
            next(steps, None)  # a block that does not fit into memory takes more steps than were announced

    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(min(available_cores(), MAX_ENCODERS)) as encoders:
        pending = []
        for block in missing:
            if block.done:  # by another process
                next(islice(steps, params.steps, params.steps), None)
                continue

            def sampled(indices: range, block: ImageBlock = block) -> Tensor:
                return sample_latents(model, block.condition, block.name, indices, params.seed, steps=params.steps,
                                      guidance=guidance, solver=params.solver, precision=params.precision,
                                      modes=mode_guidance(params, modes[block.name], indices) if modes else None,
                                      progress=counted)

            latents = torch.cat(batches(sampled, range(block.start, block.start + len(block.files))))
            writing = run, autoencoder, latents, block, encoders, side_stream(latents)
            pending.append(writer.submit(_write_images, *writing))
            if len(pending) > 1:
                pending.pop(0).result()  # memory never holds more than two blocks; errors surface early
        for future in pending:
            future.result()
    for _ in steps:  # lets the progress bar reach its end
        pass


def mode_guidance(params: PoolParams, modes: Tensor, indices: range) -> ModeGuidance:
    """Return MGD3's guidance of some images: during the first half of the steps."""
    return ModeGuidance(modes[indices.start : indices.stop], params.mode_scale, params.steps // 2)


def _write_images(run: Run, autoencoder: Autoencoder, latents: Tensor, block: ImageBlock, encoders: Executor,
                  stream: AbstractContextManager) -> None:
    params = run.params
    try:
        with stream:
            names = [f"{block.name}/{file.name}" for file in block.files]
            images = decode_images(autoencoder, latents, params.precision, names)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} (solver {params.solver}, {params.steps} steps, guidance "
                                 f"{params.guidance:g}, {params.precision}); set pool.precision to fp32, lower "
                                 f"pool.guidance or choose another pool.solver, and if that does not help, train or "
                                 f"fetch the model again") from None
    list(encoders.map(_write_image, images, block.files))
    record_checksums(run.folder, block.files, f"{block.name}/{block.start}-{len(block.files)}")


def _write_image(image: np.ndarray, file: Path) -> None:
    with atomic(file) as partial:
        Image.fromarray(image).save(partial, format="PNG")


def load_generator(run: Run) -> DiT:
    """Return the diffusion model of this pool: the raw base model, or with its DiffFit weights folded in."""
    model = DiT.from_pretrained(run.inputs["prepare"] / "dit")
    if "fine_tune" in run.inputs:
        _check_criteria(run)
        state = load_file(run.inputs["fine_tune"] / "difffit.safetensors")
        scaled = {int(name.split(".")[1]) for name in state if "gamma" in name}
        add_difffit(model, max(scaled, default=-1) + 1)
        model.load_state_dict(state, strict=False)
        fold(model)
    return model.store_matrices(run.params.precision).to(resolve_device()).eval()


def _check_criteria(run: Run) -> None:
    """What a folder of 01 was fine-tuned with must be what the generator is called after."""
    criteria = read_manifest(run.inputs["fine_tune"])["params"].get("criteria", "minimax")
    if (criteria == "none") != (run.params.model == "plain"):
        raise ValueError(f"pool.fine_tune is {run.inputs['fine_tune']}, fine-tuned with criteria {criteria!r}, and the "
                         f"pool asks for {run.params.model!r}; give another folder, or set pool.generator (of modes "
                         f"pool.base) to {'plain' if criteria == 'none' else 'minimax'!r}")


def class_modes(run: Run, names: set[str]) -> dict[str, Tensor]:
    """Return the modes of some classes: MGD3's, or stratified by the originals' difficulty."""
    params, prepare = run.params, run.inputs["prepare"]
    latents = Latents.load(prepare / "latents.safetensors")
    classes, scores = read_classes(prepare), np.empty(0)
    if params.generator == "strata":
        known = read_scores(run.inputs["originals"]).set_index("file_name")["score"]
        scores = known.loc[ImageSet.read(prepare, "train").table["file_name"]].to_numpy()
    modes = {}
    for name, label in zip(classes["class"], classes["label"], strict=True):
        if name not in names:
            continue
        own = latents.labels == label
        real = latents.mean[own, 0]
        if len(real) < params.images_per_class:
            raise ValueError(f"class {name} has {len(real)} originals, too few for {params.images_per_class} "
                             f"modes; lower pool.images_per_class or use another generator")
        modes[name] = (kmeans_modes(real, params.images_per_class) if params.generator == "mgd3" else
                       stratified_modes(real, scores[own.numpy()], params.images_per_class))
    return modes


def _pool_table(run: Run, classes: pd.DataFrame) -> pd.DataFrame:
    params = run.params
    source, weights = ("fine_tune", "difffit.safetensors") if "fine_tune" in run.inputs else ("prepare", "dit")
    rows = [
        (f"images/{name}/{i}.png", name, label, i, named_seed("pool", params.seed, name, i))
        for name, label in zip(classes["class"], classes["label"], strict=True)
        for i in range(params.images_per_class) if (run.folder / "images" / name / f"{i}.png").exists()
    ]
    table = pd.DataFrame(rows, columns=["file_name", "class", "label", "index", "seed"])
    low, high = params.guidance_interval
    if params.cache != "none":
        table["cache"] = f"{params.cache}-{CACHE_INTERVAL}-{CACHE_ORDER}"
    return table.assign(generator=params.generator, solver=params.solver, steps=params.steps, guidance=params.guidance,
                        guidance_channels=Guidance().channels, guidance_interval=f"{low:g}-{high:g}",
                        model=read_manifest(run.inputs[source])["files"][weights]["sha256"][:12])
