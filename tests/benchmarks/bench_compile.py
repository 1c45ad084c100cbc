"""What compiling a training step of stage 06 costs and saves: ``bench_compile.py --network resnet_ap10 --size 32``.

`training.should_compile_steps` uses these numbers. Without a GPU the clock is that of the processor, compiler and all,
so that they hold on a busy machine too; with a ``TORCHINDUCTOR_CACHE_DIR`` that was used before, compiling is what a
second notebook pays.
"""

import argparse
import os
import resource
import time

from bench_evaluate import noise, timed

from dgs_utils.classifiers.augmentation import normalise, to_float
from dgs_utils.classifiers.epoch_loader import TrainingBatch
from dgs_utils.classifiers.networks import NETWORKS, build_network
from dgs_utils.classifiers.optimisers import OPTIMISERS
from dgs_utils.classifiers.protocols import IDC
from dgs_utils.classifiers.training import batch_loss, compiled_steps
from dgs_utils.runtime.devices import autocast, resolve_device


def processor_time() -> float:
    """Return the seconds that this process and those that it has waited for have kept a processor busy."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main(options: argparse.Namespace) -> None:
    device = resolve_device("auto")
    clock = time.perf_counter if device.type == "cuda" else processor_time
    data = noise(options.batch, options.size).to(device)
    network = build_network(options.network, 10, options.size, options.norm).to(device).train()
    optimiser = OPTIMISERS[IDC.optimiser](network, IDC.learning_rate)
    batch = TrainingBatch(normalise(to_float(data.images)), data.labels)

    def step(forward) -> None:
        with autocast(device, options.precision):
            loss = batch_loss(forward, batch, IDC)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def best(forward) -> float:
        return min(timed(lambda: step(forward), device, clock) for _ in range(options.rounds))

    step(network)
    eager, before = best(network), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compiled = compiled_steps(network)
    spent = timed(lambda: step(compiled), device, clock)
    step(compiled)  # a GPU's graph is recorded by the second
    fast = best(compiled)
    eager = min(eager, best(network))
    saved, pixels = eager - fast, options.batch * options.size**2
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    pays = f"{spent / saved:.0f} steps, or {spent / saved * pixels / 2**20:.1f} Mi pixels," if saved > 0 else "nothing"
    print(f"{options.network}, {options.norm} norm, {options.size} px, batch {options.batch}, {options.precision}, "
          f"{device.type}: step {1000 * eager:.1f} ms, compiled {1000 * fast:.1f} ms, {eager / fast:.2f} ×; compiling "
          f"{spent:.1f} s and {grown:.0f} MiB, which {pays} will outweigh")


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # whose processes would not be waited for
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="convnet3")
    parser.add_argument("--norm", choices=["instance", "batch"], default="instance")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
