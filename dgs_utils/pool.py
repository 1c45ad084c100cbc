"""Stage 02: the pool of generated images (§2.2) [F §5].

Image i of class c draws all its noise from a seed of its own, so that a pool of 50 is the beginning of a pool of 300:
the same images in fp32, to one grey level of 255, whatever the batch size. (Where images have modes, these depend on
the number of images, so that such pools do not nest.) Work goes in fixed blocks of indices; a block whose files are all
there, as they were written, is never generated again, so a killed run goes on at the first unfinished block, and
several processes can fill one folder, each its share of blocks.
"""

import json
import shutil
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

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.artifacts.manifests import chain, digest, read_manifest
from dgs_utils.artifacts.parts import drop_damaged, seal, sealed
from dgs_utils.artifacts.places import locate
from dgs_utils.artifacts.run import Run
from dgs_utils.diffusion import autoencoder
from dgs_utils.diffusion.caching import enable_taylorseer
from dgs_utils.diffusion.difffit import add_difffit, fold
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.modes import modes_of, stratified_modes
from dgs_utils.diffusion.sampler import Guidance, ModeGuidance, sample
from dgs_utils.images.archives import bounds_of, unpack
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.pixels import copy_image
from dgs_utils.images.tables import read_table
from dgs_utils.methods import MODES
from dgs_utils.params import PoolParams
from dgs_utils.runtime.compiling import compiles
from dgs_utils.runtime.devices import autocast, beside, resolve
from dgs_utils.runtime.halving import Halving
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import named_seed, numpy_rng, torch_rng
from dgs_utils.runtime.threads import cores
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.selection.weighted import weighted_order

TAKEN = ("folder", "originals")  # generators whose images exist already
ENCODERS = 8  # threads that encode PNG files, at the most
COMPILE_FROM = 1000  # evaluations of the network, such as 20 blocks of 50 steps, outweigh compiling it


# ---- Images from a model ---------------------------------------------------------------------------------------------

def sample_latents(model: DiT, condition: int, name: str, indices: Sequence[int], seed: int = 0, *, steps: int = 50,
                   guidance: Guidance | None = None, solver: str = "ancestral", modes: ModeGuidance | None = None,
                   precision: str = "fp32", progress: Callable = silent) -> Tensor:
    """Generate some images of a class's pool, as latents.

    Args:
        model: the diffusion model, in evaluation mode, on its device.
        condition: the class's label in the model.
        name: the class's name, after which its draws are named.
        indices: which images, from 0; each has a seed of its own, so that pools nest.
        seed: of the pool.
        steps: of sampling.
        guidance: classifier-free guidance; None for the default of `sampler.Guidance`.
        solver: see `sampler.sample`.
        modes: what MGD3 draws each image towards, and how.
        precision: "fp32" or "bf16".
        progress: wraps the steps.

    Returns:
        (N, C, S, S) float32, on the model's device.
    """
    rngs = [torch_rng("pool", seed, name, index) for index in indices]
    return sample(model, torch.full((len(rngs),), condition), rngs, steps=steps, guidance=guidance or Guidance(),
                  solver=solver, modes=modes, precision=precision, progress=progress)


@torch.inference_mode()
def decode_images(codec: autoencoder.Autoencoder, latents: Tensor, precision: str = "fp32") -> np.ndarray:
    """Return latents as images: uint8 (N, H, W, 3)."""
    with autocast(latents.device, precision):
        decoded = codec.decode(latents).float()
    pixels = decoded.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


# ---- The stage -------------------------------------------------------------------------------------------------------

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
    return model.store_matrices(run.params.precision).to(resolve(run.params.device)).eval()


def _check_criteria(run: Run) -> None:
    """What a folder of 01 was fine-tuned with must be what the generator is called after."""
    criteria = read_manifest(run.inputs["fine_tune"])["params"].get("criteria", "minimax")
    if (criteria == "none") != (run.params.model == "plain"):
        raise ValueError(f"pool.fine_tune is {run.inputs['fine_tune']}, fine-tuned with criteria {criteria!r}, and the "
                         f"pool asks for {run.params.model!r}; give another folder, or set pool.generator (of modes "
                         f"pool.base) to {'plain' if criteria == 'none' else 'minimax'!r}")


def generate(run: Run) -> pd.DataFrame:
    """Generate the pool, and write ``images/<class>/<i>.png`` and ``metadata.csv``; return the latter.

    Generators "folder" and "originals" take images that exist already. A run that generates a share (``shard``) writes
    ``metadata.csv`` only if it finds the others' images there too; it returns the rows of what is there.

    Raises:
        ValueError: an unknown class, or a folder without images of some class.
    """
    if run.reused:
        return read_table(run.folder / "metadata.csv")
    classes = chosen_classes(run)
    if run.params.generator == "folder":
        table = list_folder(run, classes)
    elif run.params.generator == "originals":
        table = draw_originals(run, classes)
    else:
        own = share(blocks(run, classes), run.params.shard)
        for unfinished in (file for block in own for file in block.partial_files()):  # of a run that was killed
            unfinished.unlink()
        _drop_damaged(run, classes, own)
        if missing := [part for block in own for part in block.missing()]:
            _generate_blocks(run, missing)
        table = _pool_table(run, classes)
    if len(table) == len(classes) * run.params.images_per_class or run.params.generator in TAKEN:
        write_csv(run.folder / "metadata.csv", table)
        _note_growth(run, table)
    else:
        print(f"Share {run.params.shard} is done; {len(table):,} of {len(classes) * run.params.images_per_class:,} "
              f"images are there. The share that ends last writes metadata.csv and the manifest.")
    return table


def _drop_damaged(run: Run, classes: pd.DataFrame, own: list["Block"]) -> None:
    """Remove images that are not what was written; of other shares, only those that are known to be something else."""
    sums, mine = sealed(run.folder), {block.files[0] for block in own}
    for block in blocks(run, classes):
        drop_damaged(run.folder, block.files, sums, unknown=block.files[0] in mine)


def is_complete(run: Run) -> bool:
    """Return whether all images of the pool are there, those of other shares too, so that the stage can finish."""
    if run.params.generator not in TAKEN and not all(block.done for block in blocks(run, chosen_classes(run))):
        return False
    if not (run.folder / "metadata.csv").exists():
        return False
    if not run.count:  # written by a share that ended at the same time
        _note_growth(run, read_table(run.folder / "metadata.csv"))
    return True


def _note_growth(run: Run, table: pd.DataFrame) -> None:
    """Let the manifest tell how many images a class there are, and what each beginning of the pool holds."""
    if not run.params.count():
        return  # a pool that cannot grow
    lines = table.to_csv(index=False, header=False).splitlines()
    hashes = [digest(run.folder / file)["sha256"] for file in table["file_name"]]
    levels: dict[int, list[str]] = {}
    for index, line, found in zip(table["index"], lines, hashes, strict=True):
        levels.setdefault(int(index), []).append(f"{line} {found}")
    run.count = run.params.count()
    run.chain = chain("\n".join(sorted(levels[index])) for index in sorted(levels))


def chosen_classes(run: Run) -> pd.DataFrame:
    """Return the rows of the class table that this pool is made for."""
    classes = read_classes(run.inputs["prepare"])
    unknown = sorted(set(run.params.classes) - set(classes["class"]))
    if unknown:
        raise ValueError(f"pool.classes names {unknown[0]}, which {run.inputs['prepare']} does not have; "
                         f"its classes are {', '.join(classes['class'])}")
    return classes[classes["class"].isin(run.params.classes)] if run.params.classes else classes


@dataclass(frozen=True)
class Block:
    """A fixed run of one class's images that is generated at once.

    Attributes:
        name: class folder.
        condition: the class's label in the diffusion model.
        files: the images' paths.
        start: index of the first.
    """

    name: str
    condition: int
    files: tuple[Path, ...]
    start: int

    @property
    def done(self) -> bool:
        """Whether all its images are there; each comes whole, by renaming."""
        return all(file.exists() for file in self.files)

    def missing(self) -> list["Block"]:
        """Return the runs of images in it that are not there yet; those that are stay as they are."""
        lost = [place for place, file in enumerate(self.files) if not file.exists()]
        runs = [list(group) for _, group in groupby(lost, key=lambda place: place - lost.index(place))]
        return [replace(self, files=self.files[run[0] : run[-1] + 1], start=self.start + run[0]) for run in runs]

    def partial_files(self) -> list[Path]:
        """Return what is left of images whose writing was cut short."""
        return [left for file in self.files for left in file.parent.glob(f".{file.name}.*.partial")]


def blocks(run: Run, classes: pd.DataFrame) -> list[Block]:
    """Return all blocks of a pool, class by class."""
    count, size = run.params.images_per_class, run.params.batch_size
    found = []
    for name, condition in zip(classes["class"], classes["condition"], strict=True):
        paths = [run.folder / "images" / name / f"{i}.png" for i in range(count)]
        found += [Block(name, int(condition), tuple(paths[i : i + size]), i) for i in range(0, count, size)]
    return found


def share(items: list[Block], shard: str) -> list[Block]:
    """Return the k-th of n shares of a list for ``shard`` "k/n", or all for "": whole classes where numbers allow."""
    if not shard:
        return items
    k, n = map(int, shard.split("/"))
    return items[len(items) * (k - 1) // n : len(items) * k // n]


def _generate_blocks(run: Run, missing: list[Block]) -> None:
    """Sample block by block; decoding of one block, and encoding of its files, overlap with sampling of the next."""
    params = run.params
    device, evaluations = resolve(params.device), len(missing) * params.steps
    model = load_generator(run)
    guidance = Guidance(params.guidance, params.guidance_channels, tuple(params.guidance_interval))
    guidance.check(model.config.in_channels)
    if params.cache == "taylorseer":
        enable_taylorseer(model, params.cache_interval, params.cache_order)
    elif compiles(params.compile, device, evaluations, COMPILE_FROM):
        model.compile()
    channels = json.loads((run.inputs["prepare"] / "dataset.json").read_text())["channels"]
    codec = autoencoder.load(run.inputs["prepare"], channels).store_matrices(params.precision).to(device)
    modes = class_modes(run, {block.name for block in missing}) if params.generator in MODES else {}
    steps = run.progress(range(evaluations), label="pool")
    batches = Halving("pool.batch_size", params.batch_size, run.warn)

    def counted(loop: Iterable, **_: Any) -> Iterator:
        for item in loop:
            yield item
            next(steps, None)  # a block that does not fit into memory takes more steps than were announced

    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(min(cores(), ENCODERS)) as encoders:
        pending = []
        for block in missing:
            if block.done:  # by another process, meanwhile
                next(islice(steps, params.steps, params.steps), None)
                continue

            def sampled(indices: range, block: Block = block) -> Tensor:
                return sample_latents(model, block.condition, block.name, indices, params.seed, steps=params.steps,
                                      guidance=guidance, solver=params.solver, precision=params.precision,
                                      modes=_pull(params, modes[block.name], indices) if modes else None,
                                      progress=counted)

            latents = torch.cat(batches(sampled, range(block.start, block.start + len(block.files))))
            pending.append(writer.submit(_write_images, run.folder, codec, latents, block, params.precision, encoders,
                                         beside(latents)))
            if len(pending) > 1:
                pending.pop(0).result()  # memory never holds more than two blocks; errors surface early
        for future in pending:
            future.result()


def _pull(params: PoolParams, modes: Tensor, indices: range) -> ModeGuidance:
    """Return MGD3's guidance of some images: while the step index is above ``mode_stop``, or half of the steps."""
    return ModeGuidance(modes[indices.start : indices.stop], params.mode_scale, params.mode_stop or params.steps // 2)


def _write_images(folder: Path, codec: autoencoder.Autoencoder, latents: Tensor, block: Block, precision: str,
                  encoders: Executor, stream: AbstractContextManager) -> None:
    with stream:
        images = decode_images(codec, latents, precision)
    list(encoders.map(_write_image, images, block.files))
    seal(folder, block.files, f"{block.name}/{block.start}-{len(block.files)}")


def _write_image(image: np.ndarray, file: Path) -> None:
    with atomic(file) as partial:
        Image.fromarray(image).save(partial, format="PNG")


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
        modes[name] = (modes_of(real, params.images_per_class) if params.generator == "mgd3" else
                       stratified_modes(real, scores[own.numpy()], params.images_per_class, params.mode_shape))
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
        table["cache"] = f"{params.cache}-{params.cache_interval}-{params.cache_order}"
    return table.assign(generator=params.generator, solver=params.solver, steps=params.steps, guidance=params.guidance,
                        guidance_channels=params.guidance_channels, guidance_interval=f"{low:g}-{high:g}",
                        model=read_manifest(run.inputs[source])["files"][weights]["sha256"][:12])


def list_folder(run: Run, classes: pd.DataFrame) -> pd.DataFrame:
    """List a pool that exists already: a folder, or several folders or archives as one pool (`gather`).

    Of a folder, ``file_name`` is an absolute path, ``source`` the same from the folder on, and ``index`` counts by
    natural file order.
    """
    given = run.params.root
    if isinstance(given, list) or locate(given).is_file():
        return gather(run, [locate(root) for root in ([given] if isinstance(given, str) else given)], classes)
    images = _images_of(run, locate(given), classes)
    table = images.table[["class"]].copy()
    table.insert(0, "file_name", [str(path) for path in images.paths])
    table["label"] = table["class"].map(dict(zip(classes["class"], classes["label"], strict=True)))
    table["index"] = table.groupby("class").cumcount()
    return table.assign(generator=locate(given).name, source=images.table["file_name"])


def _images_of(run: Run, root: Path, classes: pd.DataFrame) -> ImageSet:
    known = list(classes["class"])
    given = ImageSet.read(root, warn=run.warn)
    unknown = sorted(set(given.classes) - set(known))
    if len(unknown) < len(given.classes) and unknown:
        run.warn(f"{root} holds images of {', '.join(unknown[:5])}, which are no classes of {run.inputs['prepare']}; "
                 f"they are left out")
    images = given.with_classes(known)
    for note in images.survey(progress=run.progress):
        run.warn(note)
    return images


def gather(run: Run, roots: list[Path], classes: pd.DataFrame) -> pd.DataFrame:
    """Copy several folders or archives of images into one pool, ``images/<class>/<index>-<generator>.<suffix>``.

    A generator is called as its folder or archive. Their images take turns, so that the first ones of a class, which
    ipc × pool_factor take, are of all generators alike.

    Returns:
        file_name, class, label, index, generator, and source: the file's name below its root.

    Raises:
        ValueError: no roots, two of the same name, or one without images of a class.
    """
    names = [root.name.partition(".")[0] if root.is_file() else root.name for root in roots]
    if not roots or len(set(names)) < len(names):
        raise ValueError(f"pool.root is {run.params.root}; give folders or archives, each of a name of its own")
    parts = []
    for root, name in zip(roots, names, strict=True):
        folder = root
        if root.is_file():
            folder = run.folder / "unpacked" / name
            with atomic(folder) as partial:  # whatever a killed run has left
                partial.mkdir(parents=True)
                unpack(root, partial, bounds_of(run.params))
        images = _images_of(run, folder, classes)
        parts.append(images.table[["class"]].assign(generator=name, source=images.table["file_name"],
                                                    path=images.paths))
    table = pd.concat(parts, ignore_index=True)
    table["label"] = table["class"].map(dict(zip(classes["class"], classes["label"], strict=True)))
    table["turn"] = table.groupby(["label", "generator"]).cumcount()
    table = table.sort_values(["label", "turn"], kind="stable", ignore_index=True)  # stable: generators in given order
    table["index"] = table.groupby("label").cumcount()
    names = [f"{name}/{index}-{generator}{path.suffix}" for name, index, generator, path
             in zip(table["class"], table["index"], table["generator"], table["path"], strict=True)]
    table["file_name"] = _copied(run, table["path"], names)
    shutil.rmtree(run.folder / "unpacked", ignore_errors=True)
    return table[["file_name", "class", "label", "index", "generator", "source"]]


def _copied(run: Run, sources: Iterable[Path], names: list[str]) -> list[str]:
    """Copy images into the pool, each under a name below ``images``; return their paths from the pool's folder on."""
    copies = []
    for source, name in run.progress(zip(sources, names, strict=True), label="images", total=len(names)):
        target = run.folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copies.append(copy_image(source, target).relative_to(run.folder).as_posix())
    return copies


def draw_originals(run: Run, classes: pd.DataFrame) -> pd.DataFrame:
    """Draw a pool from the training originals, each with probability ∝ exp(−β · difficulty), and copy it.

    β above 0 prefers easy images, below 0 hard ones. The difficulty is that of stage 03, and stays the images' own, so
    that pools of every bias hold images of one quality, and only their distribution differs.

    Returns:
        file_name, class, label, index, generator, bias, and source: the original's file name.

    Raises:
        ValueError: a class has fewer originals than the pool is to hold.
    """
    params, images = run.params, ImageSet.read(run.inputs["prepare"], "train", warn=run.warn)
    difficulty = read_scores(run.inputs["originals"]).set_index("file_name")["score"]
    rows = []
    for name, label in zip(classes["class"], classes["label"], strict=True):
        names = images.table.loc[images.table["class"] == name, "file_name"].tolist()
        if len(names) < params.images_per_class:
            raise ValueError(f"class {name} has {len(names)} originals, too few for {params.images_per_class} pool "
                             f"images; lower pool.images_per_class")
        order = weighted_order(-params.bias * difficulty[names], numpy_rng("pool", "bias", params.seed, name))
        rows += [(name, label, i, names[place]) for i, place in enumerate(order[: params.images_per_class])]
    table = pd.DataFrame(rows, columns=["class", "label", "index", "source"])
    names = [f"{name}/{index}{Path(source).suffix}"
             for name, index, source in zip(table["class"], table["index"], table["source"], strict=True)]
    table.insert(0, "file_name", _copied(run, [images.root / source for source in table["source"]], names))
    return table.assign(generator="originals", bias=params.bias)
