"""How fast stages 01 and 02 are: ``python tests/benchmarks/bench_generation.py``.

Random weights of the right shapes: DiT-XL/2 and Stable Diffusion's autoencoder on a GPU, DiT-S/2 and TAESD on a CPU,
both for images of 256 pixels. The baseline works as the published scripts do: one image at a time, fp32 (TF32 on a
GPU), always both halves of guidance and noise for both; images read and encoded anew at every training step, memories
as lists, a moving average over all parameters. Each line has a ratio from this very run; nothing fails for being slow.

What was tried on a CPU (Zen 4, AVX512-BF16, one thread, 202 GFLOP/s in bf16) and did not help enough to stay:

* DiT-B/2 in bf16, 2.50 s a step of which 1.85 would do at the rate of a matrix product. Matrices in oneDNN's own order
  with GELU in the same call (private operators of PyTorch): 2.28 s. Attention by two products and a softmax, for
  N · heads · T² numbers of memory: 2.40 s. Both: 2.17 s. Blocks compiled: 2.35 s; with weights frozen in: 2.24 s.
* The quickstart's DiT in bf16: 87 ms a step of 64 images for 53 in fp32, as its matrices are small.
* The quickstart's DiT, 96 wide, patches of 2 pixels, 1,000 steps at 0.003: 54 s, 98.9 % recognised, pools teach an SVM
  87.4 %, Fréchet distance of the pixels 1.62 (means of 3 seeds, 25 sampling steps, before fine-tuning). Patches of 4,
  600 steps at 0.005, which is what it is now: 13 s, 98.7 %, 88.4 %, but 1.77, larger with each of the seeds. With one
  seed each: a layer less, 500 steps: 8.8 s, 97.8 %, 86.9 %, 1.87; batches of 128, 400 steps: 15.0 s, 99.2 %, 89.3 %,
  1.75; a slower average (0.99, rate 0.004): 97.6 %, 87.3 %, 2.12. 128 wide was stopped after 300 steps, undecided.
* The quickstart's scorer for 10 epochs in place of 15: 95.5 % for 96.8 % of held-out images, and originals harder.
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

from dgs_utils.diffusion.autoencoder import LatentAutoencoder
from dgs_utils.diffusion.difffit import add_difffit, fold, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.process import NoiseProcess
from dgs_utils.diffusion.sampling import Guidance, sample
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.pixels import center_crop
from dgs_utils.pool import from_model
from dgs_utils.runtime.devices import autocast, resolve_device
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


def build_autoencoder(device: torch.device, model: str = "") -> LatentAutoencoder:
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
    for i, image in enumerate(from_model.decode_images(codec, latents, precision)):
        from_model._write_image(image, folder / f"{i}.png")


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


def dit_step_rows(rounds: int = 5, name: str = "DiT-B/2") -> list[tuple[str, float, float, float]]:
    """Measure a step of a DiT on the CPU, 32 × 32 latents in a batch of 8, against diffusers' class.

    Returns:
        Rows (work, seconds of the reference, ours, their ratio) of processor time, medians of turns: ours in both
        precisions against diffusers' in fp32, ours in bf16 against theirs in bf16, and against the time that a
        matrix product of as many FLOP takes, where 1 would be the limit.
    """
    device, batch = torch.device("cpu"), 8
    shape = shaped(name).config
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=shape.num_heads, attention_head_dim=shape.hidden_size // shape.num_heads, in_channels=4,
        out_channels=8, num_layers=shape.depth, sample_size=SIDE // 8, patch_size=shape.patch_size).eval()
    models = {"fp32": build_model(name, device), "bf16": build_model(name, device)}
    models = {precision: fold(model).eval().store_matrices(precision) for precision, model in models.items()}
    x, t, y = torch.randn(batch, 4, SIDE // 8, SIDE // 8), torch.full((batch,), 500), torch.arange(batch)
    half, matrix = copy.deepcopy(theirs).bfloat16(), torch.randn(2048, 2048, dtype=torch.bfloat16)

    def ours(precision: str) -> None:
        with autocast(device, precision):
            models[precision](x, t, y)

    functions = {"fp32": lambda: ours("fp32"), "bf16": lambda: ours("bf16"),
                 "diffusers fp32": lambda: theirs(x, t, class_labels=y),
                 "diffusers bf16": lambda: half(x.bfloat16(), t, class_labels=y), "matmul": lambda: matrix @ matrix}
    times: dict[str, list[float]] = {which: [] for which in functions}
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first warms up
            for which, function in functions.items():
                start = time.process_time()
                function()
                times[which].append(time.process_time() - start)
    found = {which: float(np.median(values[1:])) for which, values in times.items()}
    found["matmul"] *= batch * forward_flops(name) / (2 * 2048**3)
    pairs = [("fp32", "diffusers fp32"), ("bf16", "diffusers fp32"), ("bf16", "diffusers bf16"), ("bf16", "matmul")]
    return [(f"{name} step in {mine}, batch {batch}, against {other}", found[other], found[mine],
             found[other] / found[mine]) for mine, other in pairs]


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
    device = resolve_device("auto")
    gpu = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as the published scripts set it
    usual = {"model": "DiT-XL/2", "batch": 50, "images": 100, "baseline": 3, "steps": 20, "rounds": 2} if gpu else \
        {"model": "DiT-S/2", "batch": 4, "images": 4, "baseline": 1, "steps": 3, "rounds": 1}
    for name, value in usual.items():
        setattr(options, name, getattr(options, name) or value)
    for row in [] if gpu else dit_step_rows(name="tiny" if options.model == "tiny" else "DiT-B/2"):
        print("{}: {:.3f} s, ours {:.3f} s, {:.2f} ×".format(*row))
    codec = build_autoencoder(device)
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
