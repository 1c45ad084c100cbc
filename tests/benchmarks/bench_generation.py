"""How fast stages 01 and 02 are: ``python tests/benchmarks/bench_generation.py``.

Random weights of the right shapes: DiT-XL/2 and Stable Diffusion's autoencoder on a GPU, DiT-S/2 and TAESD on a CPU,
both for images of 256 pixels. The baseline works as the published scripts do: one image at a time, fp32 (TF32 on a
GPU), always both halves of guidance and noise for both; images read and encoded anew at every training step, memories
as lists, a moving average over all parameters. Each line has a ratio from this very run; nothing fails for being slow.
"""

import argparse
import copy
import io
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from dgs_utils import pool
from dgs_utils.diffusion.autoencoder import LatentAutoencoder
from dgs_utils.diffusion.difffit import add_difffit, fold, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.process import NoiseProcess
from dgs_utils.diffusion.sampler import Guidance, sample
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.pixels import center_crop
from dgs_utils.runtime.devices import resolve
from dgs_utils.runtime.seeds import torch_rng

STEPS, FAST_STEPS, BATCH, SIDE, CLASSES = 50, 20, 8, 256, 10
TINY = {"patch_size": 4, "hidden_size": 64, "depth": 2, "num_heads": 2}  # for a test of these scripts


def shaped(name: str) -> DiT:
    """Return a fresh DiT of a published size, or the "tiny" one."""
    shape = {"input_size": SIDE // 8, "in_channels": 4}
    return DiT(**TINY, **shape) if name == "tiny" else DiT.from_size(name, **shape)


def build_model(name: str, device: torch.device) -> DiT:
    """Build a DiT with DiffFit whose every part does something: fresh ones have gates of zero."""
    torch.manual_seed(0)
    model = add_difffit(shaped(name))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model.to(device)


def build_codec(device: torch.device, model: str = "") -> LatentAutoencoder:
    """Build what decodes a model's latents: Stable Diffusion's size on a GPU, TAESD's on a CPU, or a tiny one's."""
    torch.manual_seed(0)
    if device.type == "cpu":
        width = 8 if model == "tiny" else 64
        return LatentAutoencoder(diffusers.AutoencoderTiny(encoder_block_out_channels=(width,) * 4,
                                                           decoder_block_out_channels=(width,) * 4))
    widths = (128, 256, 512, 512)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return LatentAutoencoder(diffusers.AutoencoderKL(block_out_channels=widths, layers_per_block=2, **kinds)).to(device)


def write(codec: LatentAutoencoder, latents: torch.Tensor, folder: Path, precision: str) -> None:
    for i, image in enumerate(pool.decode_images(codec, latents, precision)):
        pool._write_image(image, folder / f"{i}.png")


def published_pool(model: DiT, codec: LatentAutoencoder, folder: Path, images: int) -> None:
    """Sample, decode and save one image after the other."""
    process = NoiseProcess().respaced(STEPS)
    device = next(model.parameters()).device
    for i in range(images):
        x = torch.randn(1, 4, SIDE // 8, SIDE // 8, device=device).repeat(2, 1, 1, 1)
        labels = torch.tensor([i % CLASSES, 1000], device=device)
        with torch.no_grad():
            for step in range(STEPS - 1, -1, -1):
                output = model(x, torch.full((2,), int(process.timesteps[step]), device=device), labels)
                conditional, null = output[:, :3].chunk(2)
                guided = null + 4.0 * (conditional - null)
                output = torch.cat([guided.repeat(2, 1, 1, 1), output[:, 3:]], dim=1)
                found = process.posterior(x, output, torch.full((2,), step, device=device))
                x = found.mean + (step > 0) * (0.5 * found.log_variance).exp() * torch.randn_like(x)
            write(codec, x[:1], folder, "fp32")


def our_pool(model: DiT, codec: LatentAutoencoder, folder: Path, images: int, batch: int, precision: str,
             solver: str = "ancestral", steps: int = STEPS) -> None:
    """Sample block by block; each is decoded and written while the next is sampled."""
    with ThreadPoolExecutor(1) as writer:
        pending = []
        for start in range(0, images, batch):
            size = min(batch, images - start)
            rngs = [torch_rng("bench", start + i) for i in range(size)]
            latents = sample(model, torch.zeros(size, dtype=torch.int64), rngs, steps=steps,
                             guidance=Guidance(4.0), solver=solver, precision=precision)
            pending.append(writer.submit(write, codec, latents, folder, precision))
        for future in pending:
            future.result()


class PublishedTraining:
    """The published fine-tuning loop, on JPEG files in memory."""

    def __init__(self, model: DiT, codec: LatentAutoencoder, images: list[bytes]):
        self.model, self.codec, self.images = model.train(), codec, images
        self.device = next(model.parameters()).device
        trained = trainable_parameters(model)
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0)
        self.process = NoiseProcess()
        self.memories = [{label: [] for label in range(CLASSES)} for _ in range(2)]

    def step(self) -> None:
        places = torch.randint(len(self.images), (BATCH,))
        squares = [center_crop(Image.open(io.BytesIO(self.images[place])).convert("RGB"), SIDE) for place in places]
        pixels = torch.stack([torch.from_numpy(np.array(square)).permute(2, 0, 1) / 127.5 - 1 for square in squares])
        labels = places % CLASSES
        with torch.no_grad():
            mean, std = self.codec.encode(pixels.to(self.device))
            latents = mean if std is None else mean + std * torch.randn_like(mean)
        t, noise = torch.randint(1000, (BATCH,), device=self.device), torch.randn_like(latents)
        output = self.model(self.process.add_noise(latents, t, noise), t, labels.to(self.device))
        loss = self.process.training_loss(output, latents, t, noise)
        total = loss.loss.mean() + self.criteria(loss.pred_x0.flatten(1), latents.flatten(1), labels.tolist())
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        with torch.no_grad():
            for average, parameter in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                average.mul_(0.9999).add_(parameter, alpha=1 - 0.9999)
        total.item()

    def criteria(self, predicted: torch.Tensor, latents: torch.Tensor, labels: list[int]) -> torch.Tensor:
        total, present = 0.0, sorted(set(labels))
        for label in present:
            own = predicted[[i for i, other in enumerate(labels) if other == label]]
            for memory, sign in zip(self.memories, (-1, 1), strict=True):
                if memory[label]:
                    past = torch.stack(memory[label])
                    similarity = F.cosine_similarity(own[:, None], past[None], dim=2)
                    total = total + (0.002 * (1 - similarity.min()) if sign < 0 else 0.008 * similarity.max())
        for i, label in enumerate(labels):
            for memory, values in zip(self.memories, (latents, predicted), strict=True):
                memory[label] = [*memory[label], values[i].detach()][-64:]
        return total / len(present)


def our_training(model: DiT, images: int, precision: str, folder: Path) -> Trainer:
    mean = torch.randn(images, 2, 4, SIDE // 8, SIDE // 8, generator=torch_rng("bench"))
    latents = Latents(mean, torch.full_like(mean, 0.1), torch.arange(images) % CLASSES)
    return Trainer(model, trainable_parameters(model), latents, torch.arange(CLASSES),
                   Schedule(10**6, BATCH, 1e-3, 0.9999, precision=precision, checkpoint_every=10**6),
                   MinimaxCriterion(), folder / "none.pt")


def jpegs(count: int) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        blurry = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)).resize((500, 375))
        buffer = io.BytesIO()
        blurry.save(buffer, format="JPEG")
        found.append(buffer.getvalue())
    return found


def timed(function, device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(functions: dict, device: torch.device, rounds: int) -> dict[str, float]:
    """Return the best time of each function, measured in turns, as machines have moods."""
    times = [[timed(function, device) for function in functions.values()] for _ in range(rounds)]
    return dict(zip(functions, np.min(times, axis=0), strict=True))


def matmul_rate(device: torch.device, precision: str, n: int | None = None) -> float:
    """Return the FLOP/s of a matrix product on random numbers, n × n each; a large one unless told."""
    n = n or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
            for _ in range(2))
    torch.mm(a, b)
    calls = 20 if device.type == "cuda" else 3
    [best] = in_turns({"": lambda: [torch.mm(a, b) for _ in range(calls)]}, device, 3).values()
    return calls * 2 * n**3 / best


def forward_flops(name: str) -> int:
    """Return the FLOP of one image's forward pass, two for a multiply-add."""
    with torch.device("meta"):
        model = shaped(name)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 4, SIDE // 8, SIDE // 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    return counter.get_total_flops()


def memory(device: torch.device) -> str:
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return f"peak GPU memory {peak:.1f} GiB"
    return f"peak memory of this process so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def bench_pool(options: argparse.Namespace, device: torch.device, codec: LatentAutoencoder, folder: Path) -> None:
    theirs = build_model(options.model, device).eval()
    ours = fold(build_model(options.model, device)).eval()
    if device.type == "cuda":
        ours.compile()
    images, batch, precision = options.images, options.batch, options.precision
    our_pool(ours, codec, folder, batch, batch, precision, steps=2)
    memory(device)
    found = in_turns({
        "plain": lambda: our_pool(ours, codec, folder, images, batch, precision),
        "fast": lambda: our_pool(ours, codec, folder, images, batch, precision, "dpm++", FAST_STEPS),
        "published": lambda: published_pool(theirs, codec, folder, options.baseline),
    }, device, options.rounds)
    used, base = memory(device), found["published"] / options.baseline
    plain, fast = found["plain"] / images, found["fast"] / images
    rate, work = matmul_rate(device, precision), 2 * STEPS * forward_flops(options.model)
    print(f"pool, {options.model} at {SIDE} px, batch {batch}, {precision}, {device.type}:")
    print(f"  {STEPS} steps: {1 / plain:8.3f} images/s, {base / plain:.2f} × the published way")
    print(f"  {FAST_STEPS} steps of DPM-Solver++: {1 / fast:8.3f} images/s, {base / fast:.2f} × the published way")
    print(f"  {100 * work / plain / rate:.0f} % of the {rate / 1e12:.2f} TFLOP/s of a {precision} matmul; {used}")


def bench_training(options: argparse.Namespace, device: torch.device, codec: LatentAutoencoder, folder: Path) -> None:
    trainer = our_training(build_model(options.model, device), 80, options.precision, folder)
    baseline = PublishedTraining(build_model(options.model, device), codec, jpegs(80))
    steps = options.steps

    def ours() -> None:
        trainer.run(until=trainer.step + steps)

    ours()  # warms up, and fills the memories
    baseline.step()
    found = in_turns({"ours": ours, "theirs": lambda: [baseline.step() for _ in range(steps)]}, device, options.rounds)
    print(f"fine-tuning, {options.model} at {SIDE} px, batch {BATCH}, {options.precision}, {device.type}:")
    print(f"  {steps / found['ours']:8.3f} steps/s, {found['theirs'] / found['ours']:.2f} × the published way; "
          f"{memory(device)}")


def main(options: argparse.Namespace) -> None:
    device = resolve("auto")
    gpu = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as the published scripts set it
    usual = {"model": "DiT-XL/2", "batch": 50, "images": 100, "baseline": 3, "steps": 20, "rounds": 2} if gpu else \
        {"model": "DiT-S/2", "batch": 4, "images": 4, "baseline": 1, "steps": 3, "rounds": 1}
    for name, value in usual.items():
        setattr(options, name, getattr(options, name) or value)
    codec = build_codec(device)
    with tempfile.TemporaryDirectory() as folder:
        bench_pool(options, device, codec, Path(folder))
        bench_training(options, device, codec, Path(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a DiT's size (DiT-XL/2 on a GPU, DiT-S/2 on a CPU)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of our side")
    parser.add_argument("--batch", type=int, default=0, help="images in a block")
    parser.add_argument("--images", type=int, default=0, help="images on our side")
    parser.add_argument("--baseline", type=int, default=0, help="images of the baseline")
    parser.add_argument("--steps", type=int, default=0, help="training steps in a measurement")
    parser.add_argument("--rounds", type=int, default=0)
    main(parser.parse_args())
