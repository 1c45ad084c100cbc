"""What a node costs beside its notebook: ``python tests/benchmarks/bench_batch.py``.

The baseline is bare papermill in one process: its own kernel, no manifest, no lock, nothing checked. Both sides run the
same small notebooks in turns in the same run. The other lines tell how long plans of 500 to 20,000 finished nodes take
to look at, and how much memory; their results are written here, as small notebooks would have left them. The last tell
how long a folder of 13,000 images that did not change takes to be known again, and how fast results are verified.
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import papermill

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
import small_grid

from dgs_utils.params import validate
from dgs_utils.results.rows import CELL_KEYS
from dgs_utils.store.code_fingerprint import code_hashes
from dgs_utils.store.hashing import hash_path
from dgs_utils.store.manifest import CHECKSUMS, MANIFEST, RUN_INPUTS, content_hash, hash_entries, run_inputs_of
from dgs_utils.store.node import Node, default_node
from dgs_utils.store.provenance import versions
from dgs_utils.store.records import write_record
from dgs_utils.store.session import open_node
from dgs_utils.store.verify import verify_folders
from dgs_utils.workflow.display import Display
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan
from dgs_utils.workflow.scheduler import run_plan


def bare(workspace: Path, number: int) -> None:
    """Execute stage 00's notebook as papermill alone does."""
    papermill.execute_notebook(workspace / "notebooks" / "00_prepare.ipynb", workspace / f"{number}.ipynb",
                               {"seed": 1000 + number}, kernel_name="python3", progress_bar=False, cwd=workspace)


def node(number: int) -> None:
    """Run the same notebook as a node."""
    [report] = run_plan([default_node("00_prepare", {"seed": number})], Display(io.StringIO()))
    assert report.outcome == "done", report.error


def timed(function, *arguments) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def grid(nodes: int) -> list[str]:
    """Return the words that make the small grid one of about so many nodes."""
    return ["--set", f"pool.seed={[*range(5)]}", "--set", f"sample.seed={[*range(5)]}",
            "--set", f"evaluate.seed={[*range(max(round((nodes - 60) / 30), 1))]}"]


def fabricate(nodes: list[Node]) -> None:
    """Write the folders of finished nodes."""
    columns = dict.fromkeys([*CELL_KEYS, "label", "pool_seed", "selection_seed"], "") | {"n_test": 500, "ipc": 10}
    content, code, known = {}, cache(code_hashes), versions()
    for node in nodes:
        sources = [{"name": name, "folder": f"{source.stage}/{source.folder.name}", "key": source.key,
                    "content": content[source.key]} for name, given in node.inputs.items()
                   for source in (given if isinstance(given, list) else [given])]
        node.folder.mkdir(parents=True)
        if node.stage == "06_evaluate":
            row = columns | {"network": node.params.network, "training_seed": node.params.seed, "best": 50, "last": 49,
                             "method": node.inputs["distilled"].params.method, "distilled": sources[1]["folder"]}
            (node.folder / "results.csv").write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
            (node.folder / "repeats").mkdir()
            for name in ("curves.csv", "per_class.csv", "confusion.csv", "correct.npz", "correct_best.npz",
                         "repeats/0.csv"):
                (node.folder / name).write_text(f"{node.key}\n" * 20)
        files, sums = hash_entries(node.folder)
        content[node.key] = content_hash(node.stage, node.key, files)
        manifest = {"stage": node.stage, "key": node.key, "label": node.label, "params": node.params.model_dump(),
                    "identity": node.fingerprint, "inputs": sources, "files": files, "given": {}, "decisive": [],
                    "content": content[node.key], "warnings": [], "code": code(node.stage), "git": "",
                    "versions": known, "count": node.count, "chain": [], "later_code": [], "device": "",
                    "seconds": 1.0, "peak_memory_mib": {"cpu": 500},
                    "finished": "2026-01-01T00:00:00+0000"}
        write_record(node.folder / CHECKSUMS, {"subfolders": sums})
        write_record(node.folder / RUN_INPUTS, run_inputs_of(manifest))
        write_record(node.folder / MANIFEST, manifest)


def measured(words: list[str], workspace: Path) -> tuple[float, float, float, str]:
    """Run ``dgs`` and return the seconds, those of a processor and the MB that it took, and what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(small_grid.command(*words), cwd=workspace, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, printed
    memory = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, memory, printed


def look_at(count: int) -> None:
    """Plan, make and look at a grid of about ``count`` finished nodes."""
    workspace = small_grid.build(Path(tempfile.mkdtemp()) / "grid")
    os.environ["DGS_OUTPUTS"] = str(workspace / "outputs")
    words = ["run", "params/small.yaml", *grid(count)]
    nodes = plan(read_experiment(workspace / "params" / "small.yaml", words[3::2]))
    told = [f"{len(nodes):,} nodes"]
    for what in ("dry run of none", "nothing left to do", "dry run of all", "status"):
        asked = ["status", *words[1:]] if what == "status" else [*words, *["--dry-run"] * ("dry" in what)]
        seconds, processor, memory, printed = measured(asked, workspace)
        told.append(f"{what} {seconds:.1f} s ({processor:.1f} s of a processor), {memory:.0f} MB")
        if what == "dry run of none":
            fabricate(nodes)
        assert what != "nothing left to do" or "Nothing was left to do." in printed, printed
    print("; ".join(told), flush=True)
    shutil.rmtree(workspace.parent)


def know_again(images: int) -> None:
    """Tell how long the content of a folder takes when it is seen first, and again."""
    base = Path(tempfile.mkdtemp())
    os.environ["DGS_OUTPUTS"] = str(base / "outputs")
    for number in range(images):
        file = base / "data" / str(number % 10) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(8_000))
    time.sleep(0.1)  # what has just been written is not remembered
    first, *again = (timed(hash_path, base / "data") for _ in range(6))
    print(f"{images:,} images: content read in {first:.2f} s, known again in {statistics.median(again):.2f} s "
          f"({', '.join(f'{seconds:.2f}' for seconds in again)})", flush=True)
    run = open_node(validate("00_prepare", {}))
    shutil.copytree(base / "data", run.folder / "images")
    run.finish()
    seconds = timed(verify_folders, run.folder)
    print(f"verified {images:,} files ({images * 8_000 / 1e6:.0f} MB) in {seconds:.2f} s", flush=True)
    shutil.rmtree(base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8, help="notebooks on each side")
    parser.add_argument("--nodes", type=int, nargs="*", default=[500, 2_000, 20_000], help="sizes of finished grids")
    parser.add_argument("--images", type=int, default=13_000, help="images of a folder that is known again")
    options = parser.parse_args()
    for count in options.nodes:
        look_at(count)
    know_again(options.images)
    repeats = options.repeats
    if not repeats:
        return
    workspace = small_grid.build(Path(tempfile.mkdtemp()) / "grid")
    os.environ["DGS_OUTPUTS"] = str(workspace / "outputs")
    os.chdir(workspace)
    pairs = [(timed(node, number), timed(bare, workspace, number)) for number in range(repeats + 1)][1:]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"a node {ours:.2f} s, bare papermill {theirs:.2f} s: {ours / theirs:.2f} ×")
    shown = timed(subprocess.run, small_grid.command("--help"), -1, None, None, subprocess.DEVNULL)
    print(f"dgs --help: {shown:.2f} s")


if __name__ == "__main__":
    main()
