"""Small runs of stages 01, 02, 06 and 08, for the tests of these stages and of what a kill leaves of them."""

from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from small_world import CLASSES, open_stage, small_classifier

from dgs_utils import condense, evaluate, fine_tune, pool
from dgs_utils.store.atomic import write_csv, write_json
from dgs_utils.store.manifest import VOLATILE, hash_entries
from dgs_utils.store.session import Run

STEPS, BATCH = 6, 5  # of stage 01; five images do not divide evenly among two processes
SMALL = {"image_size": 8, "epochs": 2, "evaluations": 2, "repeats": 2}  # of stage 06
SPLITS = {"train": (0, 12), "val": (12, 20)}  # scans of its 00 folder
SMALL_TRAININGS = {
    "06_evaluate": {"image_size": 16, "norm": "batch", "epochs": 4, "evaluations": 4, "repeats": 2},
    "08_condense": {"method": "idc", "image_size": 8, "ipc": 2, "iterations": 2, "real_batch": 8, "inner_loops": 3,
                    "pretrain_epochs": 2, "net_batches": 1},
}


# ---- 01 and 02 -------------------------------------------------------------------------------------------------------

def open_fine_tune(prepare: Path, name: str, **values) -> Run:
    folder = prepare.parents[1] / name
    return open_stage("01_fine_tune", **{"prepare": str(prepare), "output": str(folder), "steps": STEPS,
                                         "batch_size": BATCH, "learning_rate": 1e-2,
                                         "weight_representative": 0.5, "weight_diverse": 0.5, **values})


def results(run: Run) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    return load_file(run.folder / "difffit.safetensors"), pd.read_csv(run.folder / "losses.csv")


def fine_tuned(prepare: Path, name: str, **values) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    run = open_fine_tune(prepare, name, **values)
    fine_tune.fine_tune(run)
    return results(run)


def open_pool(prepare: Path, name: str, **values) -> Run:
    """Open a pool of seven images a class, in blocks of three, by four steps."""
    folder = prepare.parents[1] / name
    return open_stage("02_pool", **{"prepare": str(prepare), "output": str(folder), "generator": "dit", "steps": 4,
                                    "images_per_class": 7, "batch_size": 3, **values})


def generated(prepare: Path, name: str, **values) -> Run:
    run = open_pool(prepare, name, **values)
    pool.generate(run)
    return run


def written_files(run: Run) -> dict[str, bytes]:
    """Return all that checksums cover."""
    return {path.relative_to(run.folder).as_posix(): path.read_bytes() for path in run.folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
            and not {*path.relative_to(run.folder).parts} & VOLATILE}


# ---- 06 and 08 -------------------------------------------------------------------------------------------------------

def finish_prepare(root: Path, channels: int = 1, **values) -> Path:
    run = open_stage("00_prepare", dataset="folder", root=str(root), base_model="none", split="given",
                     channels=channels, **values)
    places = range(len(CLASSES))
    classes = pd.DataFrame({"label": places, "class": CLASSES, "index": places, "condition": places, "name": CLASSES})
    write_csv(run.folder / "classes.csv", classes)
    rows = [(f"{split}/{name}/{file.name}", split, name, label) for split in SPLITS
            for label, name in enumerate(CLASSES) for file in sorted((root / split / name).iterdir())]
    write_csv(run.folder / "originals.csv", pd.DataFrame(rows, columns=["file_name", "split", "class", "label"]))
    write_json(run.folder / "dataset.json", {"dataset": "folder", "root": str(root), "channels": channels,
                                                "split": "given"})
    small_classifier().save(run.folder / "classifier")
    run.finish()
    return run.folder


def open_run(prepare: Path, distilled: Path, **values) -> Run:
    return open_stage("06_evaluate", prepare=str(prepare), distilled=str(distilled), **{**SMALL, **values})


def evaluated(run: Run) -> pd.DataFrame:
    return evaluate.evaluate(run, *evaluate.open_sets(run))


def carried_out(stage: str, inputs: dict[str, str], output: Path) -> dict[str, bytes]:
    """Carry a stage out in a folder and return what it wrote, times left out."""
    if stage == "06_evaluate":
        run = open_stage(stage, **SMALL_TRAININGS[stage], **inputs, output=str(output))
        evaluate.evaluate(run, *evaluate.open_sets(run))
    else:
        run = open_stage(stage, **SMALL_TRAININGS[stage], prepare=inputs["prepare"], output=str(output))
        condense.condense(run)
    files = hash_entries(run.folder)[0]
    return {name: (run.folder / name).read_bytes() for name in files
            if (run.folder / name).is_file() and name != "timing.csv"}
