"""Stage 06: what a row says, what survives a crash, which sets are refused, soft labels of 00's classifier."""

import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_stages import SPLITS, evaluated, finish_prepare, open_run
from small_world import CLASSES, make_pool, open_stage, small_classifier, write_digits

from dgs_utils import evaluate, sample
from dgs_utils.classifiers import evaluator
from dgs_utils.classifiers.augmentation import augment, normalise
from dgs_utils.classifiers.image_tensors import load_images
from dgs_utils.classifiers.teachers import teacher_of
from dgs_utils.classifiers.training import train_classifier
from dgs_utils.difficulty import score_source
from dgs_utils.images.image_set import ImageSet
from dgs_utils.results.correctness import read_correctness
from dgs_utils.store import atomic as files
from dgs_utils.store import manifest as manifests
from dgs_utils.transform import read_sets, transform_sets


@pytest.fixture
def prepare(tmp_path, outputs) -> Path:
    """A finished 00 folder: twelve scans of each of three classes to train on, eight to test on."""
    root = tmp_path / "originals"
    for split, (start, stop) in SPLITS.items():
        write_digits(root / split, start, stop)
    return finish_prepare(root)


@pytest.fixture
def distilled(tmp_path) -> Path:
    """Somebody's own folder of images, four of each class."""
    return write_digits(tmp_path / "mine", 30, 34)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in manifests.hash_entries(folder)[0]
            if (folder / name).is_file()}


# ---- Results ---------------------------------------------------------------------------------------------------------

def test_files_of_a_run_agree_with_each_other(prepare, distilled):
    run = open_run(prepare, distilled, seed=7)
    results = evaluated(run)
    manifest = run.finish()
    assert results["training_seed"].tolist() == [7, 8]
    curves = pd.read_csv(run.folder / "curves.csv")
    per_class = pd.read_csv(run.folder / "per_class.csv", dtype={"class": str})
    confusion = pd.read_csv(run.folder / "confusion.csv", dtype={"true": str, "predicted": str})
    labels = ImageSet.read(prepare, "val").labels
    with np.load(run.folder / "correct.npz") as correct:
        for row in results.itertuples():
            bits = np.unpackbits(correct[str(row.training_seed)])[: row.n_test].astype(bool)
            curve = curves[curves["training_seed"] == row.training_seed]
            cells = confusion[confusion["training_seed"] == row.training_seed]
            matrix = cells.pivot(index="true", columns="predicted", values="images").reindex(
                index=CLASSES, columns=CLASSES).fillna(0)
            shares = per_class[per_class["training_seed"] == row.training_seed].set_index("class")["top1"]
            assert row.last == pytest.approx(100 * bits.mean()) == curve["top1"].iloc[-1]
            assert row.best == curve["top1"].max()
            best = read_correctness(run.folder, "best")[row.training_seed]
            assert row.best == pytest.approx(100 * best.mean())
            assert row.best_epoch == curve["epoch"][curve["top1"].idxmax()]
            assert (matrix.sum(axis=1) == 8).all()
            for label, name in enumerate(CLASSES):
                assert matrix.loc[name, name] == bits[labels == label].sum()
                assert shares[name] == pytest.approx(100 * bits[labels == label].mean())
    assert {"results.csv", "curves.csv", "correct.npz", "repeats"} <= manifest["files"].keys()
    assert "timing.csv" not in manifest["files"]  # seconds differ from run to run
    timing = pd.read_csv(run.folder / "timing.csv")
    assert timing["images_per_second"].to_numpy() == pytest.approx(2 * 12 / timing["seconds"].to_numpy())


def test_a_row_tells_everything_that_sets_it_apart(prepare, distilled):
    run = open_run(prepare, distilled, epochs=0, epoch_factor=0.001, norm="batch")
    row = evaluated(run).iloc[0]
    expected = {
        "method": "mine", "ipc": 4, "dataset": "folder", "split": "given", "distilled": "mine", "protocol": "idc",
        "label": "H-A", "network": "convnet3", "norm": "batch", "image_size": 8, "epochs": 2, "epoch_factor": 0.001,
        "batch_size": 64, "learning_rate": 0.01, "flip": True, "precision": "fp32", "key": run.key, "n_test": 24,
        "pool_seed": "", "selection_seed": "", "distribution": "", "pool_factor": 0, "objective": "", "measure": "",
        "evaluations": 2}
    assert {name: row[name] for name in expected} == expected


def test_unequal_classes_are_trained_for_as_many_steps_as_equal_ones_with_as_many_images(prepare, distilled):
    equal = evaluated(open_run(prepare, distilled, epochs=0, epoch_factor=0.001)).iloc[0]
    images = sorted(distilled.glob("0/*")), sorted(distilled.glob("2/*"))
    for path in images[0][:3]:
        path.rename(distilled / "2" / f"more-{path.name}")
    assert sorted(len(list(folder.iterdir())) for folder in distilled.iterdir()) == [1, 4, 7]
    unequal = evaluated(open_run(prepare, distilled, epochs=0, epoch_factor=0.001)).iloc[0]
    for name in ("ipc", "epochs", "steps", "batch_size"):
        assert unequal[name] == equal[name]
    assert [evaluate.mean_ipc(*pair) for pair in ((12, 3), (13, 2), (1, 3), (25, 10))] == [4, 7, 1, 3]


def test_seeds_of_pool_and_selection_come_from_the_stages_that_drew(tmp_path, prepare):
    pool = make_pool(write_digits(tmp_path / "pool", 40, 60), prepare)
    run = open_stage("05_sample", prepare=str(prepare), pool=str(pool), method="pool_random", ipc=3, pool_factor=4,
                     seed=11)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    row = evaluated(open_run(prepare, run.folder)).iloc[0]
    found = {name: row[name] for name in ("method", "ipc", "pool_factor", "selection_seed", "pool_seed", "distilled")}
    assert found == {"method": "pool_random", "ipc": 3, "pool_factor": 4, "selection_seed": 11, "pool_seed": 0,
                     "distilled": run.folder.name}
    assert row["generation"] == ""  # a folder of somebody's
    assert (row["prepare_seed"], row["fine_tune_seed"]) == (0, "")
    test = ImageSet.read(prepare, "val")
    assert row["test_list"] == evaluate.test_list_hash(test)
    fewer = ImageSet(test.root, test.table.iloc[1:])
    turned = ImageSet(test.root, test.table.iloc[::-1])
    assert evaluate.test_list_hash(fewer) != evaluate.test_list_hash(test) == evaluate.test_list_hash(turned)


def draw_random(prepare: Path, pool: Path) -> Path:
    """Run stage 05 by chance and return the set."""
    run = open_stage("05_sample", prepare=str(prepare), pool=str(pool), method="pool_random", ipc=3, pool_factor=0)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    return run.folder


def draw_set(prepare: Path, pool: Path, **values) -> Path:
    """Run stages 03 to 05 by difficulty-guided sampling and return the distilled set."""
    measure = values.pop("measure", "difficulty")
    scores = {}
    for name, inputs in (("original_scores", {"source": "originals"}), ("pool_scores", {"pool": str(pool)})):
        if name == "pool_scores":
            inputs["originals"] = str(scores["original_scores"])
        run = open_stage("03_difficulty", prepare=str(prepare), measure=measure, **inputs)
        score_source(run)
        run.finish()
        scores[name] = str(run.folder)
    transform = open_stage("04_transform", ipc=values["ipc"], objective=values.pop("objective", "code"), **scores)
    transform_sets(transform, read_sets(transform))
    transform.finish()
    run = open_stage("05_sample", prepare=str(prepare), pool=str(pool), transform=str(transform.folder), **values)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    return run.folder


def test_objective_measure_and_all_else_that_made_a_set_are_told_apart(tmp_path, prepare):
    pool = make_pool(write_digits(tmp_path / "pool", 40, 60), prepare)

    def told(**values) -> tuple:
        row = evaluate.describe(open_run(prepare, draw_set(prepare, pool, **{"ipc": 3, **values})))
        return row["objective"], row["measure"], row["variant"], row["distribution"]

    code = told()
    assert code[:2] == ("code", "difficulty")
    assert told(seed=1) == told(ipc=4) == code  # seeds and IPC have columns of their own
    assert told(objective="paper") == ("paper", "difficulty", *code[2:])
    assert told(measure="entropy") == ("code", "entropy", *code[2:])
    assert (code[3], told(distribution=[1, 2])[3], told(distribution=[2, 1])[3]) == ("scale", "1 2", "2 1")


def test_random_images_of_a_pool_are_the_same_arm_whichever_scorer(tmp_path, prepare):
    """They are the control of every scorer's sets, since no scorer has looked at them or at the pool."""
    images = write_digits(tmp_path / "pool", 40, 60)
    another = finish_prepare(tmp_path / "originals", classifier_epochs=9)
    rows = {}
    for place in (prepare, another):
        pool = make_pool(images, place)
        for name, folder in (("random", draw_random(place, pool)), ("drawn", draw_set(place, pool, ipc=3))):
            rows[name, place] = evaluate.describe(open_run(place, folder))
    random, again, drawn, other = (rows[name, place] for name in ("random", "drawn") for place in (prepare, another))
    assert prepare != another
    assert (random["pool"], random["variant"], random["judge"]) == (again["pool"], again["variant"], "")
    assert drawn["pool"] == other["pool"] == random["pool"]
    assert drawn["variant"] != other["variant"]
    assert drawn["judge"] == "convnet3"
    other_images = make_pool(write_digits(tmp_path / "second", 20, 40), prepare)
    assert evaluate.describe(open_run(prepare, draw_random(prepare, other_images)))["pool"] != random["pool"]


def test_folders_of_one_name_are_different_sets(tmp_path, prepare):
    spans = {"here": (30, 32), "there": (32, 34)}
    folders = [write_digits(tmp_path / place / "mine", *span) for place, span in spans.items()]
    rows = [evaluate.describe(open_run(prepare, folder)) for folder in folders]
    assert rows[0]["method"] == rows[1]["method"] == "mine"
    assert rows[0]["variant"] != rows[1]["variant"]


def test_the_full_set_has_no_ipc_of_its_own(prepare):
    names = set()
    for ipc in (2, 3):
        run = open_stage("05_sample", prepare=str(prepare), method="full", ipc=ipc)
        names.add(run.folder.name)
        source = sample.read_source(run)
        sample.write_set(run, source, sample.select_images(run, source))
        run.finish()
    assert len(names) == 1
    row = evaluated(open_run(prepare, run.folder, epochs=0, epoch_factor=1 / 150)).iloc[0]
    assert (row["method"], row["ipc"], row["epochs"]) == ("full", 0, 2)


@pytest.mark.parametrize(("protocol", "tiles"), [("rded", 2), ("idc", 1)])
def test_mosaics_are_shuffled_under_their_own_protocol(prepare, monkeypatch, protocol, tiles):
    run = open_stage("05_sample", prepare=str(prepare), method="rded", ipc=2)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    used = []

    def train(network, train, test, recipe, *others, **named):
        used.append(recipe.augmentation.tiles)
        return train_classifier(network, train, test, recipe, *others, **named)

    monkeypatch.setattr(evaluator, "train_classifier", train)
    row = evaluated(open_run(prepare, run.folder, protocol=protocol)).iloc[0]
    assert (row["method"], row["ipc"], row["protocol"]) == ("rded", 2, protocol)
    assert used == [tiles, tiles]


def test_epochs_follow_the_protocol(prepare, distilled):
    run = open_run(prepare, distilled, epochs=0, epoch_factor=1.0)
    assert [evaluate.run_recipe(run, ipc).epochs for ipc in (1, 10, 50, 0)] == [3000, 2000, 1500, 300]
    run = open_run(prepare, distilled, epochs=0, epoch_factor=1.0, evaluations=100)
    assert [evaluate.run_recipe(run, ipc).evaluations for ipc in (10, 0)] == [100, 300]  # the full set: every epoch
    run = open_run(prepare, distilled, protocol="rded", epochs=0, epoch_factor=1.0)
    recipe = evaluate.run_recipe(run, 10, tiles=2)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (300, 50, 0.001)
    assert (recipe.augmentation.tiles, recipe.augmentation.flip) == (2, 0.5)


def test_without_augmentation_images_are_only_normalised(prepare, distilled):
    settings = evaluate.run_recipe(open_run(prepare, distilled, augment=False), 10).augmentation
    assert not settings.cutmix
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = augment(images, settings, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, normalise(images / 255), rtol=1e-4, atol=1e-5)


# ---- Determinism and crashes -----------------------------------------------------------------------------------------

def test_a_crash_keeps_finished_repeats_and_a_new_start_gives_the_same_files(tmp_path, prepare, distilled):
    whole = open_run(prepare, distilled, repeats=3, output=str(tmp_path / "whole"))
    evaluated(whole)
    run = open_run(prepare, distilled, repeats=3, output=str(tmp_path / "parts"))
    started = []

    def power_cut(iterable, label, total=None):
        started.append(label)
        if len(started) == 2:
            raise KeyboardInterrupt
        yield from iterable

    run.progress = power_cut
    with pytest.raises(KeyboardInterrupt):
        evaluated(run)
    assert sorted(path.name for path in (run.folder / "repeats").iterdir() if path.name[0] != ".") == ["0.csv", "0.npy"]
    assert not (run.folder / "results.csv").exists()
    before = (run.folder / "repeats" / "0.npy").stat().st_mtime_ns
    again = open_run(prepare, distilled, repeats=3, output=str(tmp_path / "parts"))
    evaluated(again)
    assert (again.folder / "repeats" / "0.npy").stat().st_mtime_ns == before
    assert contents(again.folder) == contents(whole.folder)


def test_a_half_written_repeat_is_done_again(prepare, distilled):
    run = open_run(prepare, distilled)
    first = evaluated(run)
    (run.folder / "repeats" / "1.npy").unlink()
    pd.testing.assert_frame_equal(evaluated(run), first)


# ---- Sets that do not go together ------------------------------------------------------------------------------------

def test_a_missing_class_is_named(prepare, distilled):
    shutil.rmtree(distilled / "1")
    with pytest.raises(ValueError, match="class 1 has no images in"):
        evaluated(open_run(prepare, distilled))


@pytest.mark.parametrize("kept", [0, 60])
def test_an_unreadable_image_is_named_before_training(prepare, distilled, kept):
    path = distilled / "2" / "1.png"
    path.write_bytes(path.read_bytes()[:kept])
    run = open_run(prepare, distilled)
    with pytest.raises(ValueError, match=r"2/1\.png cannot be read as an image"):
        evaluated(run)
    assert not (run.folder / "repeats").exists()


def test_a_network_that_does_not_suit_the_size_stops_at_once(prepare, distilled):
    shutil.rmtree(distilled / "1")  # found only later
    with pytest.raises(ValueError, match="resnet_ap10 with instance norm needs images of at least 16 pixels, not 8"):
        evaluated(open_run(prepare, distilled, network="resnet_ap10"))


def test_an_unknown_network_is_refused_by_the_parameters(prepare, distilled):
    with pytest.raises(ValueError, match=r"evaluate\.network is 'convnet9'"):
        open_run(prepare, distilled, network="convnet9")


def test_a_test_image_in_the_distilled_set_is_refused(tmp_path, prepare, distilled):
    stolen = tmp_path / "originals" / "val" / "1" / "0.png"
    shutil.copy(stolen, distilled / "1" / "0.png")
    with pytest.raises(ValueError, match=r"val/1/0\.png is also the training image .*mine/1/0\.png"):
        evaluate.open_sets(open_run(prepare, distilled))


def test_an_image_is_known_again_among_several_of_its_name(tmp_path, prepare, distilled):
    """As where each generator of a class counts its images from 0."""
    stolen = tmp_path / "originals" / "val" / "1" / "0.png"
    for place in ("a", "b"):  # the copy is neither the first nor the last of its name
        (distilled / "1" / place).mkdir()
    shutil.copy(stolen, distilled / "1" / "a" / "0.png")
    shutil.copy(distilled / "1" / "1.png", distilled / "1" / "b" / "0.png")
    with pytest.raises(ValueError, match=r"val/1/0\.png is also the training image .*mine/1/a/0\.png"):
        evaluate.open_sets(open_run(prepare, distilled))


def test_a_test_image_among_the_originals_is_refused(tmp_path, prepare, distilled):
    root = tmp_path / "originals"
    shutil.copy(root / "val" / "0" / "3.png", root / "train" / "0" / "3.png")
    with pytest.raises(ValueError, match=r"val/0/3\.png is also the training image .*train/0/3\.png"):
        evaluate.open_sets(open_run(finish_prepare(root), distilled))


def test_a_test_image_as_a_source_is_refused(prepare, distilled):
    names = [f"{name}/{i}.png" for name in CLASSES for i in range(4)]
    pd.DataFrame({"file_name": names, "class": [name[0] for name in names],
                  "source": ["val/2/5.png"] + ["train/0/0.png"] * 11}).to_csv(distilled / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"the test image val/2/5\.png is in the distilled set"):
        evaluate.open_sets(open_run(prepare, distilled))


def test_unequal_classes_are_a_warning_and_epochs_follow_their_mean(prepare, distilled):
    for name in "012":
        (distilled / "1" / f"{name}.png").unlink()
    run = open_run(prepare, distilled, epochs=0, epoch_factor=0.001)
    assert evaluated(run)["ipc"].iloc[0] == 3
    assert any("have 1 to 4 images; epochs follow their mean" in warning for warning in run.warnings)
    assert run.finish()["warnings"] == run.warnings


def test_grey_images_of_a_coloured_dataset_are_a_warning(tmp_path, prepare, distilled):
    run = open_run(prepare, distilled)
    evaluate.open_sets(run)
    assert not run.warnings  # scans are grey by nature
    run = open_run(finish_prepare(tmp_path / "originals", channels=3), distilled)
    evaluate.open_sets(run)
    assert [w for w in run.warnings if "12 of 12 images" in w and "are L; they are converted to RGB" in w]


def test_images_smaller_than_those_of_the_test_are_a_warning(prepare, distilled):
    path = distilled / "0" / "2.png"
    with Image.open(path) as image:
        small = image.resize((6, 5))
    small.save(path)
    run = open_run(prepare, distilled)
    evaluate.open_sets(run)
    assert [w for w in run.warnings if "as small as 5 pixels and are enlarged to 8" in w]
    larger = open_run(prepare, distilled, image_size=16)  # both are enlarged then
    evaluate.open_sets(larger)
    assert not larger.warnings


# ---- Without folders -------------------------------------------------------------------------------------------------

OWN = {"epochs": 2, "evaluations": 2}


def random_states() -> tuple:
    return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("protocol", ["idc", "rded"])
def test_rows_without_a_folder_are_the_stages_and_leave_chance_alone(prepare, distilled, protocol):
    rows = evaluated(open_run(prepare, distilled, protocol=protocol, seed=3))
    train, test = ImageSet.read(distilled), ImageSet.read(prepare, "val")
    before = random_states()
    teacher = teacher_of(small_classifier()) if protocol == "rded" else None
    found = evaluate.evaluate_set(train, test, "convnet3", protocol, [3, 4], image_size=8, teacher=teacher,
                                  method="mine", **OWN)
    assert random_states() == before
    pd.testing.assert_frame_equal(found, rows[found.columns])


def test_tensors_are_evaluated_as_files_are(prepare, distilled):
    train, test = ImageSet.read(distilled), ImageSet.read(prepare, "val")
    expected = evaluate.evaluate_set(train, test, seeds=[1], image_size=8, **OWN)
    found = evaluate.evaluate_set(load_images(train, 8), load_images(test, 8), seeds=[1], **OWN)
    pd.testing.assert_frame_equal(found, expected)
    mixed = evaluate.evaluate_set(train, load_images(test, 8), seeds=[1], **OWN)
    pd.testing.assert_frame_equal(mixed, expected)


def test_what_does_not_go_together_is_named_without_a_folder(prepare, distilled):
    train, test = ImageSet.read(distilled), ImageSet.read(prepare, "val")
    for arguments, options, message in [
        ((train, test), {}, "the images come as files; give one image_size"),
        ((load_images(train, 8), test), {"image_size": 16}, "the images are 8 and 16 pixels wide"),
        ((train, test, "convnet9"), {"image_size": 8}, "'convnet9' is no network of this kit, as .*; did you mean"),
        ((train, test, "convnet3", "rdde"), {"image_size": 8}, "'rdde' is no protocol; did you mean 'rded'"),
        ((train, test, "convnet3", "rded"), {"image_size": 8}, "protocol rded trains on soft labels; give a teacher"),
        ((train.of_class("1"), test), {"image_size": 8}, r"has the classes \['1'\] and"),
        ((test, test), {"image_size": 8}, "is also the training image"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate.evaluate_set(*arguments, **options)


# ---- Soft labels -----------------------------------------------------------------------------------------------------

def test_soft_label_protocol(prepare, distilled):
    run = open_run(prepare, distilled, protocol="rded", epochs=10, evaluations=10, repeats=1)
    row = evaluated(run).iloc[0]
    curve = pd.read_csv(run.folder / "curves.csv")
    assert (row["protocol"], row["label"], row["batch_size"]) == ("rded", "S-R", 50)
    assert curve["counts"].tolist() == [False] * 8 + [True] * 2
    assert row["best"] == curve["top1"].iloc[-2:].max()


@pytest.mark.parametrize("size", [8, 16])
def test_the_teacher_sees_images_as_it_was_trained_to(prepare, size):
    classes = pd.read_csv(prepare / "classes.csv", dtype={"class": str})
    run = open_run(prepare, write_digits(prepare / "more", 50, 52), protocol="rded", image_size=size)
    files.write_csv(prepare / "classes.csv", classes.assign(index=[2, 0, 1]))
    teach = evaluate.open_teacher(run, torch.device("cpu"))
    images = load_images(ImageSet.read(prepare, "val"), 8).images
    if size == 16:
        images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)  # halved again without loss
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = small_classifier()(images[:, :, ::size // 8, ::size // 8])[:, [2, 0, 1]]
    found = teach((images / 255 - mean) / std)
    if size == 8:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    else:  # antialiasing mixes neighbours, so only the verdicts are compared
        assert (found.argmax(1) == expected.argmax(1)).double().mean() > 0.8
