"""Anybody's pool: two image folders and a classifier in, a distilled set out, without stages 01 and 02's models."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import open_stage, write_digits

from dgs_utils import difficulty, pool, prepare, sample, transform
from dgs_utils.cli import main
from dgs_utils.images import datasets
from dgs_utils.images.image_sets import ImageSet

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"0": "ring", "1": "stick", "2": "swan"}  # class folders may be called anything


def named_digits(root: Path, start: int, stop: int) -> Path:
    write_digits(root, start, stop)
    for digit, name in NAMES.items():
        (root / digit).rename(root / name)
    return root


@pytest.mark.slow  # six notebooks in fresh kernels
def test_one_command_makes_the_distilled_set(tmp_path, outputs, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    originals, generated = named_digits(tmp_path / "real", 0, 60), named_digits(tmp_path / "made", 60, 90)
    settings = {"prepare.root": originals, "prepare.split": "holdout", "prepare.val_per_class": 20,
                "prepare.classifier": "convnet3", "prepare.classifier_weights": "train", "prepare.class_index": "''",
                "prepare.classifier_size": 8, "prepare.classifier_epochs": 3, "pool.root": generated, "sample.ipc": 5}
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert main(["run", "params/my_pool.yaml", *changes]) == 0, capsys.readouterr()
    stages = sorted(folder.name for folder in outputs.iterdir() if folder.is_dir())
    assert stages == ["00_prepare", "02_pool", "03_difficulty", "04_transform", "05_sample"]
    [distilled] = [folder for folder in (outputs / "05_sample").iterdir() if folder.is_dir()]
    images = ImageSet.read(distilled)
    assert images.classes == list(NAMES.values())
    assert images.table["class"].value_counts().tolist() == [5, 5, 5]
    made = {file.read_bytes() for file in generated.rglob("*.png")}
    assert {path.read_bytes() for path in images.paths} <= made
    assert main(["run", "params/my_pool.yaml", *changes]) == 0


def test_missing_folder_is_named_before_anything_starts(outputs, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    changes = ["--set", "prepare.root=nowhere", "--set", "prepare.class_index=''"]
    assert main(["run", "params/my_pool.yaml", *changes]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert list(outputs.iterdir()) == []


DOGS = {"n02088364": ("beagle", 162), "n02111889": ("samoyed", 258)}


@pytest.fixture
def dogs(shared_data, tmp_path):
    """Twenty real photographs of two breeds as class folders, and fifteen more as a Hugging Face image folder."""
    lines = []
    for split, count in (("train", 20), ("val", 15)):
        with zipfile.ZipFile(shared_data / "imagewoof128" / f"{split}.zip") as archive:
            for wnid, (name, _) in DOGS.items():
                members = [m for m in archive.namelist() if m.split("/")[1] == wnid][:count]
                for i, member in enumerate(members):
                    folder = tmp_path / "real" / name if split == "train" else tmp_path / "made"
                    folder.mkdir(parents=True, exist_ok=True)
                    file = f"{i}.jpg" if split == "train" else f"{name}-{i}.jpg"
                    (folder / file).write_bytes(archive.read(member))
                    if split == "val":
                        lines.append(json.dumps({"file_name": file, "label": name}))
    (tmp_path / "made" / "metadata.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    with (tmp_path / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("class", "index"), *DOGS.values()])
    return tmp_path


def test_real_dogs_with_a_pretrained_classifier(dogs, shared_data, outputs):
    weights = shared_data / "weights" / "mobilenet_v2_imagenet1k.npz"
    run = open_stage("00_prepare", dataset="folder", root=str(dogs / "real"), split="given", base_model="none",
                     classifier="mobilenet_v2", classifier_weights=str(weights), classifier_size=160, channels=3,
                     class_index=str(dogs / "index.csv"))
    datasets.index_originals(run.params, run.folder)
    prepare.difficulty_classifier(run)
    run.finish()
    inputs = {"prepare": str(run.folder)}
    run = open_stage("02_pool", generator="folder", root=str(dogs / "made"), **inputs)
    pool.generate(run)
    run.finish()
    assert not any(file.suffix == ".jpg" for file in run.folder.rglob("*"))  # only listed, not copied
    inputs["pool"] = str(run.folder)
    run = open_stage("03_difficulty", source="originals", **inputs)
    difficulty.score_source(run)
    run.finish()
    inputs["originals"] = str(run.folder)
    run = open_stage("03_difficulty", **inputs)
    scores = difficulty.score_source(run)
    run.finish()
    assert scores["score"].mean() < 0.7  # the classifier knows these breeds; a wrong index gives nearly 1
    published = (run.folder / "metadata" / "beagle" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(published[0]).keys() == {"file_name", "label", "score"}
    folders = {"pool_scores": str(run.folder), "original_scores": inputs.pop("originals")}
    run = open_stage("04_transform", ipc=3, pool_factor=0, **folders)
    transform.transform_sets(run, transform.read_sets(run))
    run.finish()
    run = open_stage("05_sample", ipc=3, pool_factor=0, transform=str(run.folder), **inputs)
    source = sample.read_source(run)
    metadata = sample.write_set(run, source, sample.select_images(run, source))
    assert metadata["class"].tolist() == ["beagle"] * 3 + ["samoyed"] * 3
    for row in metadata.itertuples():
        assert (run.folder / row.file_name).read_bytes() == (dogs / "made" / Path(row.source).name).read_bytes()


def test_published_scores_need_no_classifier_run(tmp_path, outputs):
    """A folder that its author scored already: the scores are taken over, to the digit."""
    originals = named_digits(tmp_path / "real", 0, 60)
    rng = np.random.default_rng(0)
    for name in NAMES.values():
        files = sorted((originals / name).iterdir())
        lines = [json.dumps({"file_name": f.name, "label": 0, "score": round(float(s), 4)})
                 for f, s in zip(files, rng.beta(0.5, 1, len(files)), strict=True)]
        (originals / name / "metadata.jsonl").write_text("\n".join(lines))
    run = open_stage("00_prepare", dataset="folder", root=str(originals), val_per_class=10, base_model="none")
    datasets.index_originals(run.params, run.folder)
    run.finish()
    run = open_stage("03_difficulty", source="originals", prepare=str(run.folder), published_scores=True)
    scores = difficulty.score_source(run)
    for name, rows in scores.groupby("class"):
        lines = map(json.loads, (originals / name / "metadata.jsonl").open())
        given = {row["file_name"]: row["score"] for row in lines}
        assert rows["score"].tolist() == [given[Path(f).name] for f in rows["file_name"]]
    again = [json.loads(line) for line in (run.folder / "metadata" / "swan" / "metadata.jsonl").open()]
    assert [row["label"] for row in again] == [2] * 50  # the position in the class list, as published


def test_images_of_any_mode_are_scored(tmp_path):
    from small_world import small_classifier

    for mode, i in (("L", 0), ("RGBA", 1), ("P", 2), ("1", 3)):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (9, 12), (200, 10, 10)).convert(mode).save(tmp_path / "a" / f"{i}.png")
    buffer = io.BytesIO()
    Image.new("CMYK", (9, 12)).save(buffer, "JPEG")
    (tmp_path / "a" / "4.jpg").write_bytes(buffer.getvalue())
    found = difficulty.score_images(ImageSet.read(tmp_path), small_classifier())
    assert found["score"].between(0, 1).all()
    assert len(found) == 5
