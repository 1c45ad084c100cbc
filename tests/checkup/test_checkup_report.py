"""The check-up of a pool of real scans with planted copies, by function and by command."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps
from small_world import small_classifier, write_digits

import dgs_utils as dgs
from dgs_utils.cli import main
from dgs_utils.images.image_set import ImageSet


def enlarged(root):
    for path in root.rglob("*.png"):
        Image.open(path).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Originals, test images, and a pool with two scans twice, one original mirrored, a test image, and a blank one."""
    root = tmp_path_factory.mktemp("checkup")
    sets = {name: enlarged(write_digits(root / name, *part))
            for name, part in (("originals", (0, 60)), ("test", (60, 80)), ("pool", (80, 110)))}
    pool = sets["pool"]
    for number in (3, 4):
        Image.open(pool / "0" / f"{number}.png").save(pool / "0" / f"copy{number}.jpg", quality=90)
    ImageOps.mirror(Image.open(sets["originals"] / "1" / "5.png")).save(pool / "1" / "own.png")
    Image.open(sets["test"] / "2" / "7.png").resize((48, 48)).save(pool / "2" / "own.png")
    Image.new("L", (32, 32), 255).save(pool / "2" / "plain.png")
    return sets


def test_planted_copies_are_counted(folders):
    checked = dgs.check_pool(folders["pool"], folders["originals"], folders["test"])
    table = checked.table.set_index("class")
    assert table.index.tolist() == ["0", "1", "2", "all"]
    assert table.loc["0", "repeated"] == 2
    assert table["blank"].tolist() == [0, 0, 1, 1]
    pairs = checked.pairs.set_index(["other_set", "file_name"])
    assert pairs.loc[("original", "1/own.png"), ["other", "mirrored"]].tolist() == ["1/5.png", True]
    assert pairs.loc[("test", "2/own.png"), "other"] == "2/7.png"
    assert "1 of 95 images are of one colour" in checked.sentences
    assert {"1 of 95 images show a test image", "1 of 95 images show one of the originals"} <= {*checked.sentences}
    assert "copies" in checked.figures()
    assert "no test images were given" in dgs.check_pool(folders["test"], folders["originals"]).sentences[-1]
    with pytest.raises(ValueError, match="has the classes 0, 1, 2 and"):
        dgs.check_pool(folders["pool"], ImageSet.read(folders["originals"]).of_class("0"))


def test_a_scorer_tells_what_a_pool_covers(folders, tmp_path, styled):
    pool = dgs.ImageSet.read(folders["pool"])
    with pytest.raises(ValueError, match=r"has 4 outputs without names, and .* has 3 classes; give"):
        dgs.check_pool(pool, folders["originals"], scorer=small_classifier(4))
    checked = dgs.check_pool(pool, folders["originals"], scorer=small_classifier(), ipc=5, index=[0, 1, 2])
    scored = dgs.score_images(pool, small_classifier(), index=[0, 1, 2])
    right = scored["prediction"].to_numpy() == pool.labels
    assert checked.table["recognised"].tolist() == [*(right[pool.labels == k].sum() for k in range(3)), right.sum()]
    assert checked.confusion["images"].sum() == len(pool)
    assert checked.coverage.groupby("class")["measure"].count().tolist() == [4, 4, 4]
    assert (checked.effective["effective"] <= checked.effective["images"] + 1e-9).all()
    assert checked.table["generate"].iloc[-1] == checked.table["generate"].iloc[:-1].max()
    checked.write(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{name}.png" for name in checked.figures()}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "confusion.csv", dtype={"true": str, "predicted": str}),
                                  checked.confusion, check_dtype=False)
    assert all(f"- {line}" in (tmp_path / "README.md").read_text() for line in checked.sentences)


def test_pictures_that_are_there_twice_fill_one_place_of_the_target(folders, tmp_path):
    doubled = shutil.copytree(folders["originals"], tmp_path / "doubled")
    for path in [*doubled.rglob("*.png")]:
        shutil.copy(path, path.with_name(f"again-{path.name}"))
    once, twice = (dgs.check_pool(folder, folders["originals"], scorer=small_classifier(), index=[0, 1, 2]).table
                   for folder in (folders["originals"], doubled))
    assert twice["images"].tolist() == [2 * count for count in once["images"]]
    pd.testing.assert_frame_equal(twice[["missing", "generate", "low", "high"]],
                                  once[["missing", "generate", "low", "high"]])


def test_a_scorer_whose_outputs_are_in_another_order_is_told(folders):
    originals, test = (dgs.ImageSet.read(folders[name]) for name in ("originals", "test"))
    scorer, _ = dgs.train_scorer(originals, test, "convnet3", 32, epochs=12, flip=False, device="cpu")
    assert not dgs.check_pool(folders["pool"], originals, scorer=scorer).problems
    wrong = dgs.check_pool(folders["pool"], originals, scorer=scorer, index=[1, 2, 0])
    assert wrong.sentences[0] == wrong.problems[0]
    assert re.search("the images of 3 of 3 classes are answered by other outputs of the scorer than the table of "
                     r"classes gives: class 0 by output 0 \(0\), not 1", wrong.sentences[0])


def test_the_command_writes_the_folder(folders, tmp_path, capsys):
    scorer = tmp_path / "scorer"
    small_classifier().save(scorer)
    command = ["check", str(folders["pool"]), "--originals", str(folders["originals"]), "--test",
               str(folders["test"]), "--output", str(tmp_path / "out")]
    assert main([*command, "--scorer", str(scorer), "--ipc", "30"]) == 0
    printed = capsys.readouterr().out
    assert "show a picture that the pool has already" in printed
    assert printed.count("different ones") == 1
    figures = {"copies.png", "coverage.png", "effective.png", "confusion.png"}
    assert {"table.csv", "pairs.csv", *figures} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert main(command) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"copies.png"}  # the others were the earlier's
    assert main(["check", str(folders["pool"]), "--originals", str(folders["originals"]), "--ipc", "0"]) == 2


def test_the_readme_quotes_the_least_share_of_copies_that_are_found():
    root = Path(__file__).parents[2]
    page = (root / "notebooks" / "checkup.md").read_text().split("| planted |")[1].split("\n\n")[0]
    least = min(float(line.split("|")[2].split()[0]) for line in page.splitlines()[2:])
    assert f"finds {least} % or more" in " ".join((root / "README.md").read_text().split())
