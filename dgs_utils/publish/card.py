"""The dataset card of a published set: contents, origin, results and licence, by the template ``templates/card.md``."""

import re
import shlex
import string
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from dgs_utils.images.portable_names import CONFIGS
from dgs_utils.methods import METHODS, MODE_GUIDED
from dgs_utils.params import STAGES
from dgs_utils.params.subsets import SUBSETS

NOTES = {
    "imagenet": "The classes, and the images that the generator and the classifiers were trained on, are ImageNet's, "
                "whose terms of access allow non-commercial research and education only "
                "(https://image-net.org/download).",
    "dit": "The images were generated with weights derived from Meta's DiT (facebook/DiT), which are under CC-BY-NC "
           "4.0: no commercial use.",
    "originals": "The images are those of the original data set, or parts of them; its licence still applies.",
}
PICTURE = ".card/images.webp"  # hidden, which datasets skips, and of a kind that timm does not read
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
MARKUP = str.maketrans({sign: f"\\{sign}" for sign in string.punctuation if sign not in "-,'()"})


def dataset_card(classes: list[str], table: pd.DataFrame, results: pd.DataFrame, manifests: dict[str, dict[str, Any]],
                 licence: str, titles: Mapping[str, str] = {}, recognised: pd.Series | None = None,
                 soft_labels: Sequence[str] = ()) -> str:
    """Return the text of ``README.md``.

    Args:
        classes: in label order.
        table: the list of images.
        results: rows of stage 06; may be empty.
        manifests: by stage name, the published folder's first.
        licence: a licence of the hub, or any other name.
        titles: the readable name of each class.
        recognised: by class, the fraction of its images that the scorer assigns to it.
        soft_labels: kinds of stored soft labels that go along.
    """
    from huggingface_hub import DatasetCard, DatasetCardData  # here, because it takes a while to import

    last, kind = subject_of(manifests)
    prepare = manifests.get("00_prepare", {}).get("params", {})
    method = METHODS.get(last["params"].get("method", ""))
    counts, section = table["class"].value_counts(), last["stage"][3:]
    cells = {"label": list(map(str, range(len(classes)))), "class": list(map(escape_markdown, classes)),
             "name": [escape_markdown(titles.get(name, name)) for name in classes],
             "images": [str(counts[name]) for name in classes]}
    if cells["name"] == cells["class"]:
        del cells["name"]
    if recognised is not None:
        cells["recognised"] = [f"{100 * recognised[name]:.0f} %" for name in classes]
    listed = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence)
    header = DatasetCardData(
        license=licence if listed else "other", license_name=None if listed else licence,
        task_categories=["image-classification"], tags=["dataset-distillation"], configs=CONFIGS, classes=classes,
        size_categories=[next((text for limit, text in SIZES.items() if len(table) < limit), "n>1M")])
    card = DatasetCard.from_template(
        header, template_path=str(files("dgs_utils.publish") / "templates" / "card.md"),
        kind=kind, dataset=prepare.get("dataset", "folder"), images=len(table), method=method.label if method else "",
        columns=list(cells), soft_labels=soft_labels, counts=_range(counts), picture=PICTURE,
        rows=list(zip(*cells.values(), strict=True)),
        recognised=None if recognised is None else 100 * (recognised * counts).sum() / counts.sum(),
        scorer=escape_markdown(prepare.get("classifier", "")),
        commit=last.get("git") or "unknown", results=_accuracies(results) if len(results) else [],
        command=shlex.join(["dgs", "run", "params/published.yaml", "--until", section]),
        experiment=yaml.safe_dump(experiment(manifests), sort_keys=False, allow_unicode=True),
        licence=licence, notes=licence_notes(manifests, table))
    return f"{card}\n"


def subject_of(manifests: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return the manifest of the published folder itself, and what it holds."""
    last = next(iter(manifests.values()))
    return last, "scored pool" if last["stage"] == "03_difficulty" else "distilled set"


def _range(counts: pd.Series) -> str:
    """Return the number of images per class, as "10" or "8 to 10"."""
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def escape_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is.

    >>> print(escape_markdown("<b>cat|dog</b>"))
    \<b\>cat\|dog\<\/b\>
    """
    return text.translate(MARKUP)


def experiment(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the experiment file that reproduces the set: the parameters of each stage that are not the default."""
    sections: dict[str, Any] = {"name": "published"}
    for stage in sorted(STAGES.keys() & manifests.keys()):
        model = STAGES[stage]
        skipped = {*model.fields_tagged("folder"), *model.fields_tagged("execution_only")}
        sections[stage[3:]] = {name: value for name, value in manifests[stage]["params"].items()
                               if name in model.model_fields and name not in skipped
                               and value != model.model_fields[name].default}
    return sections


def _accuracies(results: pd.DataFrame) -> list[list[str]]:
    """Return a row for each network and protocol: their names, mean ± standard deviation of best and last, runs."""
    keys = ["network", "protocol", "label"]
    rows = []
    results = results.assign(**{key: "" for key in keys if key not in results})
    for values, runs in results.groupby(keys, sort=False, dropna=False):
        accuracies = [f"{runs[name].mean():.1f}" + (f" ± {runs[name].std():.1f}" if len(runs) > 1 else "")
                      for name in ("best", "last")]
        rows.append([*map(escape_markdown, map(str, values)), *accuracies, str(len(runs))])
    return rows


def licence_notes(manifests: dict[str, dict[str, Any]], table: pd.DataFrame) -> list[str]:
    """Return the terms of data and weights that a set was made from."""
    prepare = manifests.get("00_prepare", {}).get("params", {})
    generators = set(table["generator"])
    pretrained = prepare.get("base_model") not in (None, "train", "none")
    applies = {"imagenet": prepare.get("dataset") in SUBSETS,
               "dit": pretrained and generators & {"dit", "plain", "minimax", *MODE_GUIDED},
               "originals": generators == {"originals"}}
    return [NOTES[name] for name, holds in applies.items() if holds]
