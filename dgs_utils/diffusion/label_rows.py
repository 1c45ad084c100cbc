"""Rows in the label table of a published DiT for classes that it does not know.

A new row begins as the mean of the rows of named classes, as that of the class that a classifier takes the originals
for, as the row of "no class", or at random, as those of a DiT that is trained from scratch; stage 01 trains it with the
others.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from dgs_utils.classifiers.pretrained import open_scorer
from dgs_utils.classifiers.scorer import Classifier, load_classifier, read_batches
from dgs_utils.diffusion.dit import DiT, LabelEmbedder
from dgs_utils.images.classes import (
    NEAREST,
    NULL,
    SCRATCH,
    START,
    default_class_names,
    match_class_names,
    read_class_index,
    read_classes,
)
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.seeds import torch_rng
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import write_csv
from dgs_utils.store.paths import resolve_path
from dgs_utils.store.session import Run

NEW_LABELS = "new_labels.csv"  # of stage 00, where there are any
INITIAL_DEVIATION = 0.02  # of label rows in a DiT without training
BATCH_SIZE = 50  # of images that a classifier looks at
MAX_IMAGES_ASKED = 100  # of a class that a classifier looks at, the first in natural order


def add_label_rows(model: DiT, sources: Mapping[str, Sequence[int]], seed: int = 0) -> DiT:
    """Give a DiT a further label for each of some classes, in place, from its number of classes on.

    Args:
        model: the DiT; its row of "no class" stays the last one.
        sources: by class the labels whose mean its row begins with; its number of classes stands for "no class", and
            () for a random row.
        seed: of random rows, each of which has a draw of its own, named after its class.

    Returns:
        The model.

    >>> model = add_label_rows(DiT(input_size=4, hidden_size=8, depth=1, num_heads=1, num_classes=3), {"cat": [0, 2]})
    >>> table = model.y_embedder.embedding_table.weight
    >>> model.config.num_classes, bool((table[3] == (table[0] + table[2]) / 2).all())
    (4, True)
    """
    for number, embedder in enumerate(part for part in model.modules() if isinstance(part, LabelEmbedder)):
        table = embedder.embedding_table.weight.detach()
        rows = [table[list(labels)].mean(0) if labels else (INITIAL_DEVIATION * torch.randn(
            table.shape[1], generator=torch_rng("prepare", "label", seed, name, number))).to(table)
                for name, labels in sources.items()]
        known, null = table[: embedder.null], table[embedder.null:]
        embedder.embedding_table = nn.Embedding.from_pretrained(torch.cat([known, *(row[None] for row in rows), null]),
                                                                freeze=False)
        embedder.null += len(rows)
    model.register_to_config(num_classes=model.config.num_classes + len(sources))
    return model


def _label_of(text: str, name: str, model: str, count: int, names: Sequence[str]) -> int:
    known = names or default_class_names(count)
    label = int(text) if re.fullmatch(r"\d{1,9}", text) else match_class_names([text], known).get(text, -1)
    if not 0 <= label < count:
        some = f", such as {', '.join(known[:3])}" if known else ", which have no names here"
        raise ValueError(f"prepare.class_index: the condition of class {name} names {text!r}, which is none of the "
                         f"{count:,} classes of {model}{some}; name some of those, joined by +, or write {NEAREST}, "
                         f"{NULL} or {SCRATCH}")
    return label


@torch.inference_mode()
def nearest_label(images: ImageSet, scorer: Classifier, count: int) -> int:
    """Return the output of a classifier of the DiT's classes with the highest mean probability over the first
    `MAX_IMAGES_ASKED` images of one class.

    Raises:
        ValueError: the classifier has another number of outputs.
    """
    if scorer.config.num_classes != count:
        raise ValueError(f"prepare.class_index asks for the nearest label of class {images.classes[0]}, but classifier "
                         f"{scorer.config.network} has {scorer.config.num_classes:,} outputs, and the diffusion model "
                         f"{count:,} classes; name a classifier of these classes, as in 'nearest "
                         f"resnet50:IMAGENET1K_V1', or names of classes")
    on_device, total = scorer.on(resolve_device()), np.zeros(count)
    names = images.table["file_name"].to_numpy()[:MAX_IMAGES_ASKED]
    for [pixels] in read_batches(images.root, names, [on_device], BATCH_SIZE):
        total += on_device(on_device.send(pixels)).double().softmax(1).sum(0).cpu().numpy()
    return int(total.argmax())


# ---- The stage -------------------------------------------------------------------------------------------------------

def read_starts(prepare: Path, class_index: str) -> dict[str, str]:
    """Return by class of a 00 folder, in label order, what its new label begins with; {} where none is new."""
    starts = read_class_index(resolve_path(class_index)).get(START, {}) if class_index else {}
    return {name: starts[name] for name in read_classes(prepare)["class"] if name in starts}


def add_new_labels(run: Run, model: DiT, starts: Mapping[str, str], names: Sequence[str]) -> None:
    """Give the base model the labels of new classes, and list them in ``new_labels.csv``: class, start, labels.

    The run is of stage 00, with its class table and, where it is one of elsewhere, its scorer; ``starts`` are of
    `read_starts`, ``names`` those of the model's classes, if it has any.

    Raises:
        ValueError: a name or number that the model does not know; the sentence names the class.
    """
    count = model.config.num_classes

    def nearest(name: str, classifier: str) -> int:
        if run.params.trains_classifier and not classifier:
            raise ValueError(f"prepare.class_index asks for the nearest label of class {name}, but the scorer is "
                             f"trained here and does not know the diffusion model's classes; name one that does, as in "
                             f"'nearest resnet50:IMAGENET1K_V1', or names of classes")
        scorer = open_scorer(classifier, warn=run.warn) if classifier else load_classifier(run.folder / "classifier")
        return nearest_label(ImageSet.read(run.folder, "train").of_class(name), scorer, count)

    sources = dict[str, list[int]]()
    for name, start in starts.items():
        word, _, rest = start.partition(" ")
        if start in (NULL, SCRATCH):
            sources[name] = [count] if start == NULL else []
        elif word == NEAREST:
            sources[name] = [nearest(name, rest.strip())]
        else:
            sources[name] = [_label_of(part.strip(), name, run.params.base_model, count, names)
                             for part in start.split("+")]
    add_label_rows(model, sources, run.params.seed)
    if starts:
        write_csv(run.folder / NEW_LABELS, pd.DataFrame({
            "class": list(starts), "start": list(starts.values()),
            "labels": [" ".join(map(str, sources[name])) for name in starts]}))


def check_trained(prepare: Path, generator: str) -> None:
    """Raise ValueError where the base model itself is to generate a class whose label no training has seen."""
    if not (prepare / NEW_LABELS).exists():
        return
    table = read_table(prepare / NEW_LABELS, ["class", "start", "labels"])
    if len(new := table.loc[table["start"] == SCRATCH, "class"]):
        raise ValueError(f"the label of class {new.iloc[0]} is random ({SCRATCH} in prepare.class_index) until stage "
                         f"01 trains it, but pool.generator {generator} does without stage 01; set it to minimax or "
                         f"plain, or begin the label with classes that the model knows")
