"""Anybody's pool: two image folders and a classifier in, a distilled set out, without stages 01 and 02's models."""

import csv
import io
import json
import re
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from small_grid import SharedServer
from small_world import open_stage, write_digits

from dgs_utils import difficulty, pool, prepare, sample, transform
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig
from dgs_utils.cli import main
from dgs_utils.images import prepare_dataset
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.workflow import kernel
from dgs_utils.workflow.experiment import Experiment, read_experiment
from dgs_utils.workflow.gpus import JOB_ID_VARIABLES, leased_gpus
from dgs_utils.workflow.planner import expand

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"0": "ring", "1": "stick", "2": "swan"}  # class folders may be called anything


def named_digits(root: Path, start: int, stop: int) -> Path:
    write_digits(root, start, stop)
    for digit, name in NAMES.items():
        (root / digit).rename(root / name)
    return root


SCORER = "shufflenet_v2_x0_5"
SIDE = 32


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Train a small network of torchvision on scans of the three digits, and save it as trainers do."""
    bunch = load_digits()
    keep = bunch.target < 3
    pixels = torch.from_numpy(np.round(bunch.images[keep] * 255 / 16)).float()[:, None].repeat(1, 3, 1, 1)
    targets = torch.from_numpy(bunch.target[keep][-240:])
    larger = F.interpolate(pixels[-240:], size=round(SIDE * 256 / 224), mode="bilinear")  # as the kit will show them
    edge = (larger.shape[-1] - SIDE) // 2
    pixels = larger[..., edge : edge + SIDE, edge : edge + SIDE]
    torch.manual_seed(0)
    network = torchvision.models.get_model(SCORER, weights=None, num_classes=3)
    scorer = Classifier(network, ClassifierConfig(f"torchvision:{SCORER}", 3, ResizeCrop(SIDE, SIDE)))
    network.train().requires_grad_(True)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for batch in torch.randperm(240).repeat(24).split(40):
        optimiser.zero_grad()
        F.cross_entropy(scorer(pixels[batch]), targets[batch]).backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("weights") / "best.ckpt"
    torch.save({"state_dict": {f"model.{name}": value for name, value in network.state_dict().items()}}, path)
    return path


def odd(source: Path) -> set[str]:
    """Write the scan in a file in other ways beside it, some as large as its name says; return the names."""
    scan = np.asarray(Image.open(source))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    stem = str(source.with_suffix(""))
    Image.fromarray(np.rot90(scan).copy()).save(f"{stem}-turned.TIFF", exif=exif)
    Image.fromarray(scan.astype(np.uint16) * 257).save(f"{stem}-deep.PNG")
    Image.fromarray(scan.astype(np.float32)).save(f"{stem}-float.tif")
    Image.fromarray(scan).save(f"{stem}-moving.webp", save_all=True, lossless=True,
                               append_images=[Image.fromarray(255 - scan)])
    Image.fromarray(scan).convert("RGB").save(f"{stem}-nameless", "BMP")
    clear = Image.merge("LA", (Image.fromarray(scan), Image.fromarray(np.full_like(scan, 255))))
    clear.save(f"{stem}-clear.png")
    return {path.name for path in source.parent.glob(f"{source.stem}-*")}


def litter(folder: Path, name: str) -> int:
    """Leave in a folder what systems, editors and people leave there; return how many files."""
    files = [".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/._0.png", "Thumbs.db", f"{name}/.0.png", f"{name}/a.txt"]
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True, parents=True)
        (folder / file).write_bytes(next(folder.rglob("0.png")).read_bytes())
    (folder / name / "gone.png").symlink_to("nowhere.png")
    return len(files) + 1


ODD_NAMES = {"0": "NA", "1": "1e5", "2": "ñandú"}


@pytest.fixture
def mixed(tmp_path, weights) -> dict[str, object]:
    """Write originals with tests and a pool, both full of what people have in such folders; return the settings."""
    for folder, start, stop in (("real/train", 0, 24), ("real/val", 24, 34), ("made/images", 34, 54)):
        write_digits(tmp_path / folder, start, stop)
        for digit, name in ODD_NAMES.items():
            (tmp_path / folder / digit).rename(tmp_path / folder / name)
            odd(tmp_path / folder / name / "0.png")
    litter(tmp_path / "real" / "train", "NA")
    with zipfile.ZipFile(tmp_path / "real" / "old.zip", "w") as archive:
        archive.write(tmp_path / "real" / "train" / "NA" / "0.png", "NA/old.png")
    lines = [{"file_name": file.relative_to(tmp_path / "made").as_posix(), "label": file.parent.name}
             for file in sorted((tmp_path / "made").rglob("*-*")) + sorted((tmp_path / "made").rglob("*.png"))]
    lines = {line["file_name"]: json.dumps(line, ensure_ascii=False) for line in lines}
    (tmp_path / "made" / "metadata.jsonl").write_text("\n".join(lines.values()), encoding="utf-8")
    litter(tmp_path / "made", "images/NA")
    (tmp_path / "index.csv").write_text("class,index\r\nñandú,2\r\nNA,0\r\n1e5,1\r\n", encoding="utf-8-sig")
    return {"prepare.root": tmp_path / "real", "prepare.classifier": SCORER, "prepare.classifier_weights": weights,
            "prepare.class_index": tmp_path / "index.csv", "prepare.classifier_size": SIDE, "prepare.image_size": 8,
            "prepare.hidden_size": 16, "prepare.depth": 1, "prepare.num_heads": 2, "prepare.train_steps": 2,
            "prepare.base_model": "train"}


def plain(settings: dict[str, object]) -> dict[str, object]:
    """Return the settings of one stage by their bare names, paths as text."""
    return {name.partition(".")[2]: value if isinstance(value, int) else str(value) for name, value in settings.items()}


@pytest.mark.slow  # eight notebooks
def test_one_command_makes_and_tests_the_distilled_set_of_a_mixed_tree(mixed, tmp_path, outputs, monkeypatch, capsys):
    """Every odd file is read as the plain one of the same image is, by each notebook, and the rest is counted."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(kernel, "ForkServer", SharedServer)
    settings = mixed | {"pool.root": tmp_path / "made", "sample.ipc": 5, "evaluate.image_size": 8,
                        "evaluate.epochs": 1, "evaluate.repeats": 1}
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert main(["run", "params/my_pool.yaml", *changes]) == 0, capsys.readouterr()
    screen = capsys.readouterr().out
    for sentence in (f"{tmp_path}/real: 138 images used, 7 skipped (hidden 4, .txt 1, .zip 1, broken links 1)",
                     f"{tmp_path}/real/old.zip is not used, since there are images beside it",
                     f"6 of 138 images of {tmp_path}/real have several frames, such as train/1e5/0-moving.webp; only",
                     "best.ckpt holds the weights under state_dict/model., which is stripped",
                     f"{tmp_path}/made: 78 images used, 6 skipped (hidden 4, .txt 1, broken links 1)"):
        assert sentence in screen
    finished = {folder: sorted((outputs / folder).glob("*/manifest.json")) for folder in
                ("00_prepare", "02_pool", "03_difficulty", "04_transform", "05_sample", "06_evaluate")}
    assert [len(paths) for paths in finished.values()] == [1, 1, 2, 1, 1, 1]
    prepared = finished["00_prepare"][0]
    assert any("138 images used, 7 skipped" in sentence for sentence in json.loads(prepared.read_text())["warnings"])
    for path in finished["03_difficulty"]:
        scores = read_scores(path.parent)
        assert set(scores["class"]) == set(ODD_NAMES.values())
        stems = scores["file_name"].str.extract(r"^(.*?/0)[-.]")[0]  # of the scan that is there in seven ways
        alike = scores["score"].groupby(stems)
        assert (alike.count() == 7).all()
        np.testing.assert_allclose(alike.max(), alike.min(), atol=1e-6)
    images = ImageSet.read(finished["05_sample"][0].parent)
    assert images.table["class"].value_counts().to_dict() == dict.fromkeys(ODD_NAMES.values(), 5)
    for row in images.table.itertuples():
        assert np.array_equal(load_rgb(images.root / row.file_name), load_rgb(tmp_path / "made" / row.source))
    [tested] = finished["06_evaluate"]
    assert set(read_table(tested.parent / "per_class.csv")["class"]) == set(ODD_NAMES.values())
    section = yaml.safe_load((ROOT / "params" / "my_pool.yaml").read_text())["prepare"]
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump({"prepare": section | plain(mixed), "fine_tune": {"steps": 2}}))
    assert main(["run", str(tmp_path / "tune.yaml")]) == 0, capsys.readouterr()
    assert "1 of 2 notebooks to run" in capsys.readouterr().out
    assert len(list((outputs / "00_prepare").glob("*/manifest.json"))) == 1
    [tuned] = (outputs / "01_fine_tune").glob("*/manifest.json")
    assert np.isfinite(read_table(tuned.parent / "losses.csv")).all(axis=None)


def test_a_permuted_class_table_is_told_before_anything_is_drawn(mixed, tmp_path, outputs, capsys):
    given = plain(mixed) | {"dataset": "folder", "split": "given", "base_model": "none", "channels": 3}

    def judged(table: str) -> list[str]:
        (tmp_path / "index.csv").write_text(table)
        run = open_stage("00_prepare", **given)
        prepare_dataset.index_originals(run.params, run.folder)
        prepare.difficulty_classifier(run)
        run.finish()
        run = open_stage("03_difficulty", source="originals", prepare=str(run.folder))
        difficulty.score_source(run)
        return run.finish()["warnings"]

    assert judged("class,index\nNA,0\n1e5,1\nñandú,2\n") == []
    warning, *_ = judged("class,index\nNA,1\n1e5,2\nñandú,0\n")
    assert re.match(r"the images of 3 of 3 classes are answered by other outputs of the scorer than prep", warning)
    assert f"Warning: {warning}" in capsys.readouterr().out
    *_, warning = judged("class,index\nNA,0\n1e5,2\nñandú,1\n")
    assert re.match(r"the images of 2 of 3 classes are answered by other outputs .*: class 1e5 by output 1", warning)
    assert f"Warning: {warning}" in capsys.readouterr().out


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
    prepare_dataset.index_originals(run.params, run.folder)
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


@pytest.fixture
def experiment(tmp_path, outputs) -> Experiment:
    """my_pool.yaml for two folders of digits and two rules that look at no features, to the figures."""
    named_digits(tmp_path / "real", 0, 12)
    named_digits(tmp_path / "made", 20, 32)
    changes = [f"prepare.root={tmp_path}/real", f"pool.root={tmp_path}/made", "prepare.class_index=''",
               "evaluate.image_size=8", "sample.rule=[draw, easiest]", "figures.margin=1.0"]
    return read_experiment(ROOT / "params" / "my_pool.yaml", changes)


def test_only_networks_lease_a_gpu(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    for name in JOB_ID_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    leased = Counter()
    for node in expand(experiment):
        with leased_gpus(node.params, lock_dir=tmp_path / "leases") as gpus:
            leased[node.stage] += len(gpus)
    assert leased == {"00_prepare": 1, "02_pool": 0, "03_difficulty": 2, "04_transform": 0, "05_sample": 0,
                      "06_evaluate": 2, "07_figures": 0}


def test_a_set_of_one_s_own_images_is_called_as_the_experiment(experiment, outputs):
    found = {}
    for name in ("dogs", "cats"):
        nodes = expand(replace(experiment, name=name))
        found[name] = {node.key: node for node in nodes if node.stage != "07_figures"}
        sets = [node for node in found[name].values() if node.stage == "05_sample"]
        assert [node.folder.relative_to(outputs).as_posix() for node in sets] == [
            f"05_sample/{name}-{rule}-ipc10-{node.key}" for rule, node in zip(("dgs", "easiest"), sets, strict=True)]
    assert found["dogs"].keys() == found["cats"].keys()  # a title decides nothing …
    for key, node in found["dogs"].items():
        assert (node.folder == found["cats"][key].folder) == (node.stage != "05_sample")  # … nor where its results lie
    assert all(node.params.title == "" for node in expand(read_experiment(ROOT / "params" / "quickstart.yaml"))
               if node.stage == "05_sample")


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
    prepare_dataset.index_originals(run.params, run.folder)
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
