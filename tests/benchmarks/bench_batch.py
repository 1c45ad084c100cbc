"""What a node costs beside its notebook: ``python tests/benchmarks/bench_batch.py``.

The baseline is bare papermill in one process: its own kernel, no manifest, no lock, nothing checked. Both sides run the
same small notebooks in turns in the same run; the last lines tell how long 2,000 nodes take to plan and to look at.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import papermill

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small_grid

from dgs_utils.artifacts.nodes import default_node
from dgs_utils.batch.display import Display
from dgs_utils.batch.node import run_node


def bare(workspace: Path, number: int) -> None:
    """Execute stage 00's notebook as papermill alone does."""
    papermill.execute_notebook(workspace / "notebooks" / "00_prepare.ipynb", workspace / f"{number}.ipynb",
                               {"seed": 1000 + number}, kernel_name="python3", progress_bar=False, cwd=workspace)


def node(number: int) -> None:
    """Run the same notebook as a node."""
    report = run_node(default_node("00_prepare", {"seed": number}), Display(io.StringIO()))
    assert report.outcome == "done", report.error


def timed(function, *arguments) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8, help="notebooks on each side")
    repeats = parser.parse_args().repeats
    workspace = small_grid.build(Path(tempfile.mkdtemp()) / "grid")
    os.environ["DGS_OUTPUTS"] = str(workspace / "outputs")
    os.chdir(workspace)
    pairs = [(timed(node, number), timed(bare, workspace, number)) for number in range(repeats + 1)][1:]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"a node {ours:.2f} s, bare papermill {theirs:.2f} s: {ours / theirs:.2f} ×")
    many = ["--set", f"pool.seed={[*range(5)]}", "--set", f"sample.seed={[*range(5)]}",
            "--set", f"evaluate.seed={[*range(65)]}"]
    for words in (["run", "params/small.yaml", "--dry-run", *many], ["--help"]):
        seconds = timed(subprocess.run, small_grid.command(*words), -1, None, None, subprocess.DEVNULL)
        print(f"dgs {' '.join(words[:3])}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
