"""Scans of folders: every file is an image or counted, links are followed but not in circles, own files are ignored."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import FORMATS, encoded, read_folder, write_files
from small_world import make_prepare, open_stage, write_digits

from dgs_utils.images.imagefolder import find_images
from dgs_utils.images.scan import is_hidden

names = st.text("ab1é ._-~", min_size=1, max_size=6).filter(lambda text: text.strip(". ") == text)


junk = st.sampled_from(["notes.txt", ".hidden.png", "._1.png", "Thumbs.db", "desktop.ini", ".DS_Store", "a.npy",
                        "x.csv", "photo.heic", "README", "data.h5", "page.pdf", "code.py"])


folders = st.sampled_from(["cat", "dog", "10", "9", "nan", "NA", "true", "1e5", ".ipynb_checkpoints", "__MACOSX",
                           "@eaDir", "lost+found"])


@settings(max_examples=80, deadline=None)
@given(files=st.lists(st.tuples(folders, st.lists(names, max_size=2), names, st.sampled_from(sorted(FORMATS))),
                      min_size=1, max_size=12),
       others=st.lists(st.tuples(folders | st.just(""), junk), max_size=6))
def test_every_file_is_used_or_counted(tmp_path_factory, files, others):
    root = tmp_path_factory.mktemp("tree")
    expected = {}
    for i, (folder, deeper, name, suffix) in enumerate(files):
        path = "/".join([folder, *deeper, f"{name}{i}{suffix}"])
        try:
            write_files(root, {path: encoded(suffix, i)})
        except (NotADirectoryError, IsADirectoryError, FileExistsError):  # a file of that name is in the way
            continue
        if not any(map(is_hidden, path.split("/"))):
            expected[path] = folder
    for folder, name in others:
        path = f"{folder}/{name}".removeprefix("/")
        if not (root / path).exists():
            write_files(root, {path: "some text"})
    number = sum(path.is_file() for path in root.rglob("*"))
    places = {folder for folder in expected.values()}
    if not expected or (len(places) == 1 and not any(name.count("/") == 1 for name in expected)):
        return  # nothing there, or folders around it that are looked through
    seconds = {name.split("/")[1] for name in expected if name.count("/") > 1}
    if not any(name.count("/") == 1 for name in expected) and len(seconds) > 1:
        with pytest.raises(ValueError, match="two folders deep"):
            find_images(root)
        return
    visible = [[d.name for d in folder.iterdir() if d.is_dir() and not is_hidden(d.name)]
               for folder in (root, root / min(places))]
    if visible[0] == [min(places)] and visible[1]:
        return  # a folder around others, which is looked through
    found, notes = read_folder(root)
    assert found == expected
    [note] = [note for note in notes if note.startswith(f"{root}: ")] or [""]  # another names empty class folders
    counted = int(re.search(r"(\d+) skipped", note)[1]) if note else 0
    assert len(found) + counted == number
    if note:
        assert note.startswith(f"{root}: {len(found)} images used, ")
        assert counted == sum(map(int, re.findall(r" (\d+)[,)]", note.split("skipped")[1])))


def test_counts_are_told_by_kind(tmp_path):
    write_files(tmp_path, {"a/1.png": 0, "a/2.tif": 0, "b/1.gif": 0, "b/notes.txt": "", "b/.x.png": 0,
                           "@eaDir/1.png": 0, "@eaDir/more/2.png": 0, "__MACOSX/._1.png": 0,
                           "Thumbs.db": "", "top.png": 0})
    assert read_folder(tmp_path)[1] == [f"{tmp_path}: 3 images used, 7 skipped (hidden 5, .txt 1, "
                                        f"images outside class folders 1)"]


def test_what_the_kit_keeps_beside_images_is_no_news(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "originals", 20, 40))
    folder = open_stage("02_pool", generator="folder", root=str(tmp_path), prepare=str(prepare)).folder  # not finished
    write_files(folder, {"images/a/1.png": 0, "metadata.csv": "file_name,class\nimages/a/1.png,a\n", "log.txt": "",
                   "checkpoints/1.npy": "", "notebook.ipynb": "{}", "progress.json": "{}"})
    assert {file.name for file in folder.iterdir()} >= {"inputs.json", ".lock.work"}
    assert read_folder(folder) == ({"images/a/1.png": "a"}, [])
    write_files(folder, {"mine.txt": "", "images/a/2.png": 0, ".hidden": ""})
    assert read_folder(folder)[1] == [f"{folder}: 1 images used, 3 skipped (.txt 1, hidden 1, "
                                      f"images not in the list 1)"]
    write_files(tmp_path / "set", {**{f"{name}/1.png": 0 for name in ("checkpoints", "shares", "manifests")},
                             "inputs.json": "{}", "manifest.json": "{}"})  # a stranger may use these names, too
    assert read_folder(tmp_path / "set") == ({f"{name}/1.png": name for name in ("checkpoints", "shares", "manifests")},
                                      [f"{tmp_path}/set: 3 images used, 2 skipped (.json 2)"])


def test_links_are_followed_and_circles_are_not(tmp_path):
    write_files(tmp_path, {"set/a/1.png": 0, "set/b/1.png": 0, "elsewhere/1.png": 0})
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "gone.png").symlink_to(tmp_path / "none.png")
    found, notes = read_folder(tmp_path / "set")
    assert found == {"a/1.png": "a", "b/1.png": "b", "c/1.png": "c"}
    assert notes == [f"{tmp_path}/set: 3 images used, 2 skipped (broken links 1, links in a circle 1)",
                     f"1 images of {tmp_path}/set are links to elsewhere, such as c/1.png; make sure that these may be "
                     f"read and passed on"]


def test_links_to_themselves_are_broken(tmp_path):
    write_files(tmp_path, {"a/1.png": 0, "b/1.png": 0})
    for name in ("loop", "a/loop.png"):
        (tmp_path / name).symlink_to(Path(name).name)
    assert read_folder(tmp_path) == ({"a/1.png": "a", "b/1.png": "b"},
                              [f"{tmp_path}: 2 images used, 2 skipped (broken links 2)"])


def test_names_that_are_no_text_are_told(tmp_path):
    write_files(tmp_path, {"a/1.png": 0, "b/1.png": 0})
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff.png")).write_bytes(encoded(".png"))
    with pytest.raises(ValueError, match=rf"{tmp_path}: a file is 'a/\\udcff.png', which holds a control character"):
        read_folder(tmp_path)
