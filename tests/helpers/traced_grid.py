"""A grid of four cheap stages whose results tell what they were made of, so that each can be made anew without them."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil

FILE = "params/small.yaml"
EXPERIMENT = """
name: small
prepare: {dataset: folder, root: data/originals, base_model: none}
pool: {generator: folder, root: data/pool}
sample: {ipc: 1, pool_factor: 1, seed: SEED}
grid:
  sample.method: [random, pool_random]
"""
STAGES = ("00_prepare", "02_pool", "05_sample")
DATA = {"00_prepare": "originals", "02_pool": "pool"}  # what the user gives
PARTS = 3
RESULT = "result.txt"
DECIDES = {RESULT, *(f"images/{number}.txt" for number in range(PARTS))}  # what a result holds
CELLS = """
import sys
from pathlib import Path
sys.path.insert(0, {helpers!r})
import interruptions, traced_grid
import dgs_utils as dgs
interruptions.arm(Path.cwd(), {stage!r})
run = dgs.stage({stage!r})
---
VERSION = {version!r}
traced_grid.work(run, VERSION)
---
if traced_grid.is_complete(run):
    run.finish();
"""


def build(folder: Path) -> Path:
    """Make a workspace with the grid, its data and its notebooks, which all do `work`."""
    (folder / "params").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    ask(folder, "0")
    for stage, name in DATA.items():
        for class_name in "ab":
            (folder / "data" / name / class_name).mkdir(parents=True)
        give(folder, stage, "0")
    for stage in STAGES:
        write_notebook(folder, stage, "v0")
    return folder


def ask(workspace: Path, seed: str) -> None:
    """Write the experiment file, with a seed of stage 05."""
    (workspace / FILE).write_text(EXPERIMENT.replace("SEED", seed))


def give(workspace: Path, stage: str, version: str) -> None:
    """Write the data that a stage is given."""
    for class_name in "ab":
        (workspace / "data" / DATA[stage] / class_name / "0.png").write_text(f"{class_name} {version}")


def write_notebook(workspace: Path, stage: str, version: str) -> None:
    """Write a stage's notebook; its code is of some version."""
    from dgs_utils.params import STAGES as MODELS

    fields = MODELS[stage].model_fields.items()
    sources = CELLS.format(helpers=str(Path(__file__).parent), stage=stage, version=version).split("---\n")
    cells = [nbformat.v4.new_code_cell("\n".join(f"{name} = {field.default!r}" for name, field in fields), id="p"),
             *(nbformat.v4.new_code_cell(source.strip(), id=f"c{number}") for number, source in enumerate(sources))]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}),
                   workspace / "notebooks" / f"{stage}.ipynb")


def version_of(workspace: Path, stage: str) -> str:
    """Return the version of a stage's code, as its notebook has it."""
    text = (workspace / "notebooks" / f"{stage}.ipynb").read_text()
    return text.split("VERSION = '")[1].split("'")[0]


def lines(stage: str, params: dict, data: dict[str, bytes], inputs: list[str]) -> list[str]:
    """Return what a stage writes, a part each; the version of the code stands before it."""
    method, seed = params.get("method", ""), params.get("seed", "")
    digest = hashlib.sha256(repr([stage, method, seed, sorted(data.items()), sorted(inputs)]).encode()).hexdigest()
    return [f"{stage} {method} part {number} of {digest}\n" for number in range(PARTS)]


def data_in(root: Path) -> dict[str, bytes]:
    """Return the files of a folder that the user gives."""
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in sorted(root.rglob("*.png"))}


def work(run, version: str) -> None:
    """Do a stage's work: parts that are taken up where they are, and a result that is made of them.

    A shard of the pool makes its own parts, and the result if the others' are there.
    """
    from dgs_utils.store.atomic import atomic
    from dgs_utils.store.partial_results import verify_or_remove, write_verified

    stage = run.folder.parent.name
    folders = [one for value in run.inputs.values() for one in (value if isinstance(value, list) else [value])]
    data = data_in(Path(run.params.root)) if stage in DATA else {}
    with _alone(run.folder, getattr(run.params, "shard", "").replace("/", "-")):
        made = lines(stage, run.params.model_dump(), data, [(one / RESULT).read_text() for one in folders])
        parts = [run.folder / "images" / f"{number}.txt" for number in range(PARTS)]
        number, of = map(int, (getattr(run.params, "shard", "") or "1/1").split("/"))
        for place, (part, line) in enumerate(zip(parts, run.progress(made, label="parts"), strict=True)):
            if place % of == number - 1 and not verify_or_remove(part):
                with write_verified(part) as partial:
                    partial.write_text(f"{version} {line}")
        if all(map(verify_or_remove, parts)):
            with atomic(run.folder / RESULT) as partial:
                partial.write_text("".join(part.read_text() for part in parts))


def is_complete(run) -> bool:
    """Return whether the result is there, so that the stage can finish; of a pool in shards, the last one's."""
    return all((run.folder / name).exists() for name in DECIDES)


@contextmanager
def _alone(folder: Path, shard: str) -> Iterator[None]:
    """Note in the workspace, beside the outputs, who works in a folder or at a shard of it, and whether two do."""
    root = folder.parents[2]
    owner = root / f"at work in {folder.name} {shard}"
    if owner.exists() and (pid := int(owner.read_text() or 0)) != os.getpid() and psutil.pid_exists(pid):
        (root / "two at work").write_text(folder.name)
    owner.write_text(str(os.getpid()))
    yield
    owner.unlink(missing_ok=True)


def by_hand(workspace: str, stage: str, values: dict) -> None:
    """Do a stage as a user does in a notebook of his own, in this process; exit with 3 where it is refused.

    For the stage "dgs" run the command; what it prints is then in `printed_file`.
    """
    import interruptions

    import dgs_utils as dgs
    from dgs_utils.cli import main

    os.chdir(workspace)
    os.environ["DGS_OUTPUTS"] = f"{workspace}/outputs"
    if stage == "dgs":
        with printed_file(Path(workspace), values["arguments"]).open("w") as sys.stdout:
            sys.stderr = sys.stdout
            os._exit(_flushed(main(values["arguments"])))
    interruptions.arm(Path(workspace), stage)
    try:
        run = dgs.stage(stage, **values)
    except ValueError as error:
        print(json.dumps(str(error)), flush=True)
        os._exit(3)
    work(run, version_of(Path(workspace), stage))
    if is_complete(run):
        run.finish()


def printed_file(workspace: Path, arguments: Sequence[str]) -> Path:
    """Return where a command prints that runs beside notebooks by hand."""
    return workspace / f"printed by {' '.join(arguments).replace('/', ' ')}"


def _flushed(status: int) -> int:
    sys.stdout.flush()
    return status


PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import interruptions, dgs_utils.cli, dgs_utils.store.session, dgs_utils.store.partial_results
import dgs_utils.store.gc, dgs_utils.workflow.planner, dgs_utils.workflow.scheduler
from traced_grid import by_hand as work
"""
