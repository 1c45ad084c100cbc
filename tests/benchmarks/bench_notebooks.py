"""What notebooks of one run cost: ``python tests/benchmarks/bench_notebooks.py [--nodes 200] [--jobs N]``.

Real notebooks through the real runner on a small grid: first all that stage 05 needs, then 05 with one set, then with
many more. Told are seconds on the clock, which only an idle machine makes comparable, and of processors, kernels
included, which a busy one hardly changes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
import small_grid

PREPARE = """
prepare: {train_steps: 60, classifier_epochs: 1}
fine_tune: {steps: 40}
pool: {images_per_class: 8, steps: 5}
"""


def cost(workspace: Path, text: str, options: list[str]) -> tuple[float, float]:
    """Run an experiment; return seconds on the clock and of processors.

    Kernels are forks of a process that waits for them, and the runner for it, so that what they used is counted.
    """
    (workspace / "params" / "timed.yaml").write_text(PREPARE + text)
    started = time.perf_counter()
    process = subprocess.Popen(small_grid.command("run", "params/timed.yaml", *options), cwd=workspace,
                               env=small_grid.environment(workspace), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("dgs run failed")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


def main(nodes: int, jobs: int) -> None:
    """Print what each step costs, several sets at a time where ``jobs`` is above 0."""
    at_a_time = ["--jobs", str(jobs)] if jobs else []
    with tempfile.TemporaryDirectory() as scratch:
        workspace = small_grid.build_quickstart(Path(scratch) / "workspace")
        sample = "sample: {ipc: 2, pool_factor: 4}\n"
        many = f"{sample}grid: {{sample.seed: {list(range(1, nodes + 1))}}}\n"
        steps = [("all before 05", 0, "transform: {ipc: 2, pool_factor: 4}\n", []), ("05, one set", 1, sample, []),
                 (f"05, {nodes} sets", nodes, many, at_a_time)]
        for what, sets, text, options in steps:
            clock, processor = cost(workspace, text, options)
            each = f", {clock / sets:.2f} and {processor / sets:.2f} s a set" if sets > 1 else ""
            print(f"{what}: {clock:.1f} s on the clock, {processor:.1f} s of processors{each}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200, help="sets of stage 05")
    parser.add_argument("--jobs", type=int, default=0, help="how many of them at a time")
    given = parser.parse_args()
    main(given.nodes, given.jobs)
