"""The teacher of a run of stage 06, or the soft labels that are stored with its set or in its folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.classifiers.recipes import Recipe
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.classifiers.soft_labels import SoftLabels, Teacher, make_soft_labels
from dgs_utils.classifiers.teachers import teacher_of
from dgs_utils.classifiers.test_copies import check_overlap
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params.types import soft_labels_file
from dgs_utils.store.partial_results import verify_or_remove, write_verified
from dgs_utils.store.session import Run


def has_soft_labels(run: Run) -> bool:
    """Return whether all soft labels are stored that a run of stage 06 needs."""
    return "soft_labels" in run.params.unused() or _given(run).is_file() or verify_or_remove(_own(run))


def _given(run: Run) -> Path:
    return run.inputs["distilled"] / soft_labels_file(run.params.soft_labels)


def _own(run: Run) -> Path:
    return run.folder / soft_labels_file(run.params.soft_labels)


def open_soft_labels(run: Run, train: ImageSet, tensors: ImageTensors, recipe: Recipe,
                     made_by: Mapping[str, Any]) -> SoftLabels | None:
    """Return the stored soft labels that a run of stage 06 asks for, or None for none.

    They are those of the set ``train``, or else made and kept in the run's folder, with teacher and teacher_top1 of
    rows (``made_by``).

    Raises:
        ValueError: they are of another set or of other trainings, or there is no teacher to ask.
    """
    if "soft_labels" in run.params.unused():
        return None
    classes = tuple(read_classes(run.inputs["prepare"])["class"])
    if not has_soft_labels(run):
        teacher, names = open_teacher(run, tensors.images.device), list(train.table["file_name"])
        assert teacher is not None  # the protocol has soft labels
        labels = make_soft_labels(run.params.soft_labels, tensors, names, recipe, teacher, run.params.seed,
                                  run.progress)
        with write_verified(_own(run)) as partial:
            replace(labels, teacher=made_by["teacher"], top1=float(made_by["teacher_top1"]),
                    classes=classes).save(partial)
    path = _given(run) if _given(run).is_file() else _own(run)
    if (labels := SoftLabels.read(path)).classes != classes:
        raise ValueError(f"{path} has the classes {', '.join(labels.classes)}, and stage 00 has {', '.join(classes)}; "
                         f"prepare the same classes in the same order")
    return labels


def open_teacher(run: Run, device: torch.device) -> Teacher | None:
    """Return the run's teacher, or None where the protocol has hard labels.

    Raises:
        ValueError: it is of other classes, or was trained on a test image.
    """
    if not PROTOCOLS[run.params.protocol].temperature:
        return None
    prepare = run.inputs["prepare"]
    folder = run.inputs.get("teacher", prepare)
    names, teacher_names = (list(read_classes(path)["class"]) for path in (prepare, folder))
    if names != teacher_names:
        raise ValueError(f"evaluate.teacher is {folder}, which has the classes {', '.join(teacher_names)}, and "
                         f"{prepare} has {', '.join(names)}; train the teacher on the same classes, in the same order")
    if folder != prepare:
        check_overlap(ImageSet.read(folder, "train"), ImageSet.read(prepare, "val"))
    return teacher_of(load_classifier(folder / "classifier").to(device), read_classes(folder)["index"])


def label_columns(run: Run, train: ImageSet) -> dict[str, Any]:
    """Return the columns of ``results.csv`` on stored soft labels, and the bytes of image files and stored labels."""
    images = sum(path.stat().st_size for path in train.paths)
    if "soft_labels" in run.params.unused():
        return {"soft_labels": "", "bytes": images}
    path = _given(run) if _given(run).is_file() else _own(run)
    labels = SoftLabels.read(path)
    return {"soft_labels": labels.kind, "bytes": images + path.stat().st_size, "teacher": labels.teacher,
            "teacher_top1": labels.top1}
