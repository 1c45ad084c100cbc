"""Soft labels that travel with a set: stored are a teacher's, and trainings read them as if it was asked."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import load_dataset
from safetensors import safe_open
from small_stages import SPLITS, evaluated, finish_prepare, open_run
from small_training import TEST, TRAIN
from small_world import CLASSES, write_digits

import dgs_utils as dgs
from dgs_utils import sample
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.protocols import RDED
from dgs_utils.classifiers.recipes import Recipe
from dgs_utils.classifiers.soft_labels import SoftLabels, make_soft_labels
from dgs_utils.classifiers.training import train_classifier
from dgs_utils.publish.dataset import publish
from dgs_utils.results.result_tables import bytes_table
from dgs_utils.results.rows import read_results
from dgs_utils.results.summaries import summarise
from dgs_utils.runtime.seeds import torch_seeded

NAMES = [f"{i}.png" for i in range(len(TRAIN.labels))]
RECIPE = Recipe(3, 16, 0.05, evaluations=3, protocol=RDED)


def network(seed: int = 0):
    with torch_seeded("test", "weights", seed):
        return build_network("convnet3", 10, 8, "batch")


@pytest.fixture
def teacher():
    return network(9).eval()


@pytest.mark.parametrize("kind", ["image", "crop"])
def test_they_are_the_teacher_s_logits_in_half_precision(teacher, kind):
    labels = make_soft_labels(kind, TRAIN, NAMES, RECIPE, teacher)
    assert labels.logits.dtype == torch.float16
    assert labels.logits.shape == ((40, 10) if kind == "image" else (3, 40, 10))
    if kind == "image":
        with torch.no_grad():
            expected = teacher(dgs_normalised(TRAIN.images))
        torch.testing.assert_close(labels.logits.float(), expected, rtol=2e-3, atol=2e-3)


def dgs_normalised(images):
    from dgs_utils.classifiers.augmentation import normalise, to_float
    return normalise(to_float(images))


def test_a_training_on_stored_crops_is_the_one_that_asks_the_teacher(teacher):
    """Up to half precision, with the same seed: the draws are the same, and so are the mixed images."""
    def sure(images):
        return 30 * teacher(images)

    labels = make_soft_labels("crop", TRAIN, NAMES, RECIPE, sure, seed=4)
    asked = train_classifier(network(), TRAIN, TEST, RECIPE, 4, teacher=sure)
    stored = train_classifier(network(), TRAIN, TEST, RECIPE, 4, teacher=labels)
    assert stored.curve["loss"].to_numpy() == pytest.approx(asked.curve["loss"].to_numpy(), rel=5e-3)
    other = train_classifier(network(1), TRAIN, TEST, RECIPE, 5, teacher=labels)
    shuffled = replace(labels, logits=labels.logits.roll(1, dims=1))
    wrong = train_classifier(network(), TRAIN, TEST, RECIPE, 4, teacher=shuffled)
    assert wrong.curve["loss"].iloc[-1] > 1.02 * stored.curve["loss"].iloc[-1]
    assert not other.curve.equals(stored.curve)  # other initial weights


def test_labels_per_image_are_mixed_by_area():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).half()
    labels = SoftLabels("image", logits, ("a", "b"), {})
    target = labels.target(1, torch.tensor([0, 1]), torch.tensor([1, 0]), 0.75, temperature=2.0)
    own, other = torch.tensor([2.0, 0.0]).softmax(0), torch.tensor([0.0, 2.0]).softmax(0)
    torch.testing.assert_close(target.exp()[0], 0.75 * own + 0.25 * other)
    plain = labels.target(7, torch.tensor([1]), None, 1.0, temperature=2.0)
    torch.testing.assert_close(plain.exp()[0], other)


@pytest.mark.parametrize("kind", ["image", "crop"])
def test_they_are_read_as_they_were_written(tmp_path, teacher, kind):
    labels = replace(make_soft_labels(kind, TRAIN, NAMES, RECIPE, teacher, seed=2), teacher="resnet18", top1=75.0)
    labels.save(tmp_path / "labels.safetensors")
    again = SoftLabels.read(tmp_path / "labels.safetensors")
    for _ in range(20):  # of several entries of metadata the order would be chance
        labels.save(tmp_path / "copy.safetensors")
        assert (tmp_path / "copy.safetensors").read_bytes() == (tmp_path / "labels.safetensors").read_bytes()
    assert torch.equal(again.logits, labels.logits)
    assert replace(again, logits=0, recipe=0) == replace(labels, logits=0, recipe=0)
    again.check(RECIPE, TRAIN)


@pytest.mark.parametrize(("change", "said"), [
    ({"epochs": 4}, "epochs 3 and not 4"), ({"batch_size": 8}, "batch_size 16 and not 8")])
def test_crops_of_another_training_are_refused(teacher, change, said):
    labels = make_soft_labels("crop", TRAIN, NAMES, RECIPE, teacher)
    with pytest.raises(ValueError, match=f"the soft labels are for 40 images with .*{said}.*; train as they were made"):
        train_classifier(network(), TRAIN, TEST, replace(RECIPE, **change), teacher=labels)
    per_image = make_soft_labels("image", TRAIN, NAMES, RECIPE, teacher)
    assert train_classifier(network(), TRAIN, TEST, replace(RECIPE, **change), teacher=per_image).curve["loss"].all()


def test_images_come_in_the_order_of_the_labels(teacher):
    labels = make_soft_labels("image", TRAIN, NAMES, RECIPE, teacher)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = dgs.ImageTensors(TRAIN.images[order], TRAIN.labels[order])
    again = labels.in_order(shuffled, [NAMES[i] for i in order])
    assert torch.equal(again.images, TRAIN.images)
    with pytest.raises(ValueError, match="the soft labels are of 40 images, and the set has 40, with other names"):
        labels.in_order(TRAIN, [*NAMES[:-1], "other.png"])


# ---- In stage 06, and published --------------------------------------------------------------------------------------

@pytest.fixture
def prepare(tmp_path, outputs):
    root = tmp_path / "originals"
    for split, (start, stop) in SPLITS.items():
        write_digits(root / split, start, stop)
    return finish_prepare(root)


@pytest.fixture
def distilled(prepare):
    run = dgs.stage("05_sample", prepare=str(prepare), method="random", ipc=3)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    return run.folder


def trained(prepare, distilled, **values):
    run = open_run(prepare, distilled, protocol="rded", norm="batch", **values)
    rows = evaluated(run)
    run.finish()
    return run.folder, rows


@pytest.mark.parametrize("kind", ["image", "crop"])
def test_a_published_set_brings_its_labels_along(tmp_path, prepare, distilled, monkeypatch, capsys, kind):
    folder, rows = trained(prepare, distilled, soft_labels=kind)
    file = folder / f"soft_labels_{kind}.safetensors"
    images = sum(path.stat().st_size for path in distilled.rglob("*.png"))
    assert rows["bytes"].tolist() == [images + file.stat().st_size] * 2
    assert set(rows["soft_labels"]) == {kind}
    publish(distilled, str(tmp_path / "published"), "cc0-1.0")
    there = tmp_path / "published" / file.name
    with safe_open(there, "pt") as opened:
        names = json.loads(opened.metadata()["soft_labels"])["names"]
    table = pd.read_csv(tmp_path / "published" / "metadata.csv")
    assert sorted(names) == sorted(table["file_name"])
    assert f"`evaluate.soft_labels: {kind}`" in (tmp_path / "published" / "README.md").read_text()
    assert len(load_dataset(str(tmp_path / "published"), split="train", cache_dir=str(tmp_path / "cache"))) == 9
    shutil.rmtree(prepare / "classifier")  # nobody can be asked
    monkeypatch.setattr("dgs_utils.store.session.check_input", lambda folder, *_: json.loads(
        (folder / "manifest.json").read_text()))
    again, others = trained(prepare, tmp_path / "published", soft_labels=kind)
    assert not (again / file.name).exists()
    assert "skipped" not in capsys.readouterr().out
    assert others["last"].tolist() == rows["last"].tolist()
    assert set(others["teacher"]) == set(rows["teacher"]) == {"convnet3 trained on the subset, idc, 300 epochs, 0 px"}


def test_tables_show_bytes_beside_accuracy(prepare, distilled):
    folders = [trained(prepare, distilled, soft_labels=kind)[0] for kind in ("teacher", "image", "crop")]
    rows = read_results(folders)
    summary = summarise(rows)
    assert len(summary) == 3  # never averaged
    table = bytes_table(summary)
    assert table["soft labels"].tolist() == ["none stored", "image", "crop"]
    sizes = table["KiB of images and labels"].str.replace(",", "").astype(float).to_numpy()
    assert (np.diff(sizes) > 0).all()
    assert sizes[0] == pytest.approx(sum(path.stat().st_size for path in distilled.rglob("*.png")) / 1024, abs=0.05)
    without = summarise(rows.drop(columns="bytes"))
    assert bytes_table(without).empty
    assert set(CLASSES) == {"0", "1", "2"}


def test_labels_that_were_lost_are_made_again(prepare, distilled):
    run = open_run(prepare, distilled, protocol="rded", norm="batch", soft_labels="image")
    rows = evaluated(run)
    (run.folder / "soft_labels_image.safetensors").write_bytes(b"cut")
    assert evaluated(run).equals(rows)
    assert SoftLabels.read(run.folder / "soft_labels_image.safetensors").kind == "image"
    (distilled / "soft_labels_image.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"soft_labels_image\.safetensors holds no soft labels of this kit"):
        SoftLabels.read(distilled / "soft_labels_image.safetensors")


def test_labels_of_other_classes_are_refused(prepare, distilled):
    run = open_run(prepare, distilled, protocol="rded", norm="batch", soft_labels="image")
    evaluated(run)
    labels = SoftLabels.read(run.folder / "soft_labels_image.safetensors")
    assert labels.classes == tuple(CLASSES)
    replace(labels, classes=labels.classes[::-1]).save(distilled / "soft_labels_image.safetensors")
    again = open_run(prepare, distilled, protocol="rded", norm="batch", soft_labels="image", seed=1)
    with pytest.raises(ValueError, match=r"has the classes 2, 1, 0, and stage 00 has 0, 1, 2; prepare the same"):
        evaluated(again)
