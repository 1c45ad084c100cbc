"""Names from strangers: none of them leads out of the folder that it was given."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_world import CLASSES, make_pool, make_prepare, open_stage, write_digits

from dgs_utils import pool, sample
from dgs_utils.images import prepare_dataset
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.portable_names import class_folders
from dgs_utils.store.filenames import (
    MAX_LABEL_BYTES,
    MAX_NAME_BYTES,
    check_name,
    check_relative,
    clean_name,
    links_outside,
)
from dgs_utils.store.node import default_node
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

WICKED = ["../../../../victim", "..", ".", "", "/etc", "a/b", "a\\b", "\0", "a\nb", "\x1b[2J", "C:evil", " a", "a ",
          "x" * 260, "é" * 101, "\ud800", "a\u2028b", ".git", "a\u202egnp.exe", "\u200b", "a\u200d"]
GOOD = ["n02096294", "Shih-Tzu", "golden retriever", "Old English sheepdog", "01", "St. Bernard", "日本", "a+b (1)",
        "caña's", "x" * MAX_NAME_BYTES, "می\u200cشود", "a∕b", "con", "a."]
# Texts in which what is dangerous is frequent.
texts = st.lists(st.sampled_from(["..", "/", "\\", ".", "a", "~", "\0", " ", "\n", "é", "\u200d", "C:", "x" * 100, "-",
                                   "$HOME"]) | st.characters(), max_size=8).map("".join)


@pytest.mark.parametrize("name", WICKED)
def test_wicked_names_are_refused_in_one_sentence(name):
    with pytest.raises(ValueError, match=r"^list\.csv: a class is '") as caught:
        check_name(name, "list.csv: a class")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", GOOD)
def test_good_names_pass_as_they_are(name):
    assert check_name(name, "a class") == clean_name(name, MAX_NAME_BYTES) == name
    assert check_relative(f"{name}/{name[:190]}.png", "a file").parts == (name, f"{name[:190]}.png")


@given(texts)
def test_what_passes_stays_below_its_folder(text):
    """By what the system makes of it, not by how it looks."""
    root = "/a/root/folder"
    for check in (check_name, check_relative):
        try:
            found = check(text, "it")
        except ValueError:
            continue
        place = os.path.normpath(os.path.join(root, os.fspath(found)))
        assert os.path.commonpath([root, place]) == root
        assert place != root
        assert "\0" not in place
        assert all(len(part.encode()) <= MAX_NAME_BYTES for part in Path(place).parts)
        assert check is check_relative or os.path.dirname(place) == root


@given(texts)
@example("..C:")
@example("\u200d. \u200d.a")
def test_cleaned_names_always_pass(text):
    found = clean_name(text)
    assert check_name(found, "it") == clean_name(found) == found
    assert len(found.encode()) <= MAX_LABEL_BYTES


@given(texts)
def test_whatever_a_title_or_a_strangers_folder_is_called_results_lie_in_the_stage_folder(text):
    node = default_node("07_figures", {"title": text})
    assert node.folder.parent.name == "07_figures"
    assert os.path.normpath(node.folder) == str(node.folder)
    assert len(node.folder.name.encode()) <= MAX_NAME_BYTES


def test_links_that_leave_are_found(tmp_path):
    inside, outside = tmp_path / "set" / "a", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "1.png").touch()
    (inside / "2.png").symlink_to(inside / "1.png")
    (inside / "3.png").symlink_to(outside / "1.png")
    (tmp_path / "set" / "b").symlink_to(outside)
    names = ["a/1.png", "a/2.png", "a/3.png", "b/1.png"]
    assert links_outside(tmp_path / "set", names) == ["a/3.png", "b/1.png"]
    with pytest.warns(UserWarning, match=r"2 images of .* are links to elsewhere, such as (a/3|b/1)\.png"):
        ImageSet.read(tmp_path / "set")


# ---- Data sets -------------------------------------------------------------------------------------------------------

def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", [name for name in WICKED if name and name.isprintable()])
def test_a_strangers_class_writes_nothing_anywhere(tmp_path, outputs, name):
    """As a pool, as originals, and as a distilled set's list; with a file where the path would lead."""
    root = write_digits(tmp_path / "set", 0, 12)
    originals = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    table = pd.DataFrame([(f"{c}/{i}.png", name if c == "1" else c) for c in CLASSES for i in range(12)],
                         columns=["file_name", "class"])
    table.to_csv(root / "metadata.csv", index=False)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "0.png").write_text("precious")
    runs = [open_stage("00_prepare", dataset="folder", root=str(root), base_model="none", val_per_class=2),
            open_stage("02_pool", generator="folder", root=str(root), prepare=str(originals))]
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"metadata\.csv: a class is '.*; give it a plain name"):
        prepare_dataset.index_originals(runs[0].params, runs[0].folder)
    with pytest.raises(ValueError, match=r"metadata\.csv: a class is '"):
        pool.generate(runs[1])
    assert everything(tmp_path) == before


@pytest.mark.parametrize("file", ["../originals/1/20.png", "/etc/hostname", "0/../../victim.png", "..\\victim.png"])
def test_a_strangers_list_cannot_take_files_from_elsewhere(tmp_path, outputs, file):
    root = write_digits(tmp_path / "set", 0, 12)
    pd.DataFrame({"file_name": ["0/1.png", file], "class": ["0", "1"]}).to_csv(root / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"metadata\.csv, row 3: a file is .*; give a path below the folder"):
        ImageSet.read(root)


def test_a_finished_pool_from_a_stranger_cannot_either(tmp_path, outputs):
    """Not even where its files were changed after the manifest was written."""
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    folder = make_pool(write_digits(tmp_path / "set", 0, 12), prepare)
    (tmp_path / "secret.png").write_text("secret")
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    table.loc[0, "file_name"] = str(tmp_path / "secret.png")
    table.to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"metadata\.csv: a file is .*secret\.png', an absolute path"):
        ImageSet.read(folder)
    classes = pd.read_csv(prepare / "classes.csv", dtype=str)
    classes.replace({"class": {"1": "../../../up"}}).to_csv(prepare / "classes.csv", index=False)
    with pytest.raises(ValueError, match=r"classes\.csv: a class is '\.\./\.\./\.\./up'"):
        read_classes(prepare)


def test_a_strangers_folder_leads_only_where_its_parameters_say(tmp_path, outputs, monkeypatch):
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path / "mine"))
    dataset = json.loads((prepare / "dataset.json").read_text()) | {"root": str(tmp_path / "private")}
    (prepare / "dataset.json").write_text(json.dumps(dataset))
    assert ImageSet.read(prepare).root == tmp_path / "originals"


# ---- Experiments -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in WICKED if name != "\ud800"])
@pytest.mark.parametrize("form", ["name: {}\nevaluate: {{}}\nfigures: {{}}", "figures: {{title: {}}}"])
def test_an_experiment_with_a_wicked_name_is_refused_when_it_is_read(tmp_path, outputs, name, form):
    quoted = '"' + "".join(f"\\U{ord(character):08x}" for character in name) + '"'
    (tmp_path / "x.yaml").write_text(form.format(quoted))
    with pytest.raises(ValueError, match=r"(x\.yaml: name|figures\.title) is '.*; give it a plain name, such as"):
        read_experiment(tmp_path / "x.yaml")


def test_a_long_name_of_a_given_folder_is_cut_and_stays_unique(tmp_path, outputs):
    for end in "ab":
        write_digits(tmp_path / ("long " * 45 + end), 0, 12)
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    text = "evaluate: {distilled: '%s', prepare: '%s', repeats: 1}"
    folders = set()
    for end in "ab":
        (tmp_path / "x.yaml").write_text(text % (tmp_path / ("long " * 45 + end), prepare))
        [node] = [n for n in expand(read_experiment(tmp_path / "x.yaml")) if n.stage == "06_evaluate"]
        node.folder.mkdir(parents=True)
        folders.add(node.folder.name)
    assert len(folders) == 2


def test_sets_are_written_below_their_folder(tmp_path, outputs):
    """The whole road with odd but lawful names."""
    names = ["St. Bernard", "日本", "a+b (1)"]
    for place, (start, stop) in {"originals": (20, 40), "set": (0, 12)}.items():
        write_digits(tmp_path / place, start, stop)
        for old, new in zip(CLASSES, names, strict=True):
            (tmp_path / place / old).rename(tmp_path / place / new)
    inputs = {"prepare": str(make_prepare(tmp_path / "originals", names))}
    inputs["pool"] = str(make_pool(tmp_path / "set", Path(inputs["prepare"]), names))
    run = open_stage("05_sample", method="random", ipc=2, **inputs)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    folders = class_folders(names)
    assert {path.name for path in (run.folder / "images").iterdir()} == set(folders.values())
    assert all(name in folder for name, folder in folders.items())
