"""Dataset cards: what the hub and people read of a published set."""

import re

import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from nbconvert.filters import markdown2html

from dgs_utils.publish import card

MANIFESTS = {"05_sample": {"stage": "05_sample", "key": "1", "params": {"method": "dgs", "ipc": 7}}}
NAMES = ["<script>alert(1)</script>", "a|b", "![x](http://x/y.png)", "*bold* `code`", "www.x.org", "# n0", "猫-7"]


def test_class_names_are_shown_as_text():
    """In Markdown and in the header that the hub reads."""
    table = pd.DataFrame({"class": NAMES, "generator": "folder"})
    text = card.dataset_card(NAMES, table, pd.DataFrame(), MANIFESTS, "cc-by-4.0")
    assert DatasetCard(text).data.to_dict()["classes"] == NAMES
    page = markdown2html(text.partition("## Classes")[2].partition("## How")[0])
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert [cell.replace("&lt;", "<").replace("&gt;", ">") for cell in cells[1::3]] == NAMES
    assert not re.search("<(script|img|a|em|code|h1)", page)


def test_classes_have_their_names_in_words_and_how_many_the_scorer_recognises():
    table = pd.DataFrame({"class": ["n02086240"] * 3 + ["n02087394"], "generator": "folder"})
    titles = {"n02086240": "Shih-Tzu", "n02087394": "Rhodesian <ridgeback>"}
    manifests = MANIFESTS | {"00_prepare": {"params": {"classifier": "resnet50"}}}
    recognised = pd.Series({"n02087394": 1.0, "n02086240": 1 / 3})
    text = card.dataset_card(list(titles), table, pd.DataFrame(), manifests, "mit", titles, recognised)
    section = text.partition("## Classes")[2].partition("## How")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows == ["| label | class | name | images | recognised |", "| --- | --- | --- | --- | --- |",
                    "| 0 | n02086240 | Shih-Tzu | 3 | 33 % |",
                    r"| 1 | n02087394 | Rhodesian \<ridgeback\> | 1 | 100 % |"]
    assert "4 images: 1 to 3 per class (IPC), 2 classes, made by DGS" in text
    assert "The scorer (resnet50) recognises 50 % of them as their class." in text
    assert DatasetCard(text).data.to_dict()["classes"] == list(titles)
    unknown = card.dataset_card(list(titles), table, pd.DataFrame(), manifests, "mit", titles)
    assert "recognise" not in unknown


def test_results_are_averaged_by_network_and_protocol():
    results = pd.DataFrame({"network": ["a", "a", "b"], "protocol": "x", "best": [1.0, 3.0, 5.0], "last": 2.0})
    table = pd.DataFrame({"class": ["c"], "generator": "folder"})
    text = card.dataset_card(["c"], table, results, MANIFESTS, "mit")
    assert "| a | x |  | 2.0 ± 1.4 | 2.0 ± 0.0 | 2 |\n| b | x |  | 5.0 | 2.0 | 1 |\n" in text
    assert "dgs run params/published.yaml --until sample" in text
    assert "name: published\nsample:\n  ipc: 7\n" in text


@pytest.mark.parametrize(("dataset", "base", "generator", "notes"), [
    ("imagewoof", "facebook/DiT-XL-2-256", "minimax", ["imagenet", "dit"]),
    ("imagewoof", "none", "folder", ["imagenet"]),
    ("digits", "train", "dit", []), ("digits", "train", "originals", ["originals"]),
    ("fashion", "DiT-XL-2-256x256.pt", "dit", ["dit"])])
def test_licences_of_what_went_in_are_told_where_they_apply(dataset, base, generator, notes):
    manifests = {"00_prepare": {"params": {"dataset": dataset, "base_model": base}}}
    found = card.licence_notes(manifests, pd.DataFrame({"generator": [generator]}))
    assert found == [card.NOTES[name] for name in notes]
