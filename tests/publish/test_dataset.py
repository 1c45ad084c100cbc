"""Published sets: every reader finds the same labels, and nothing in them names the maker's machine."""

import json
import re
import shutil

import pandas as pd
import pytest
import yaml
from PIL import Image
from restamp import certify, restamp
from small_world import make_world, open_stage
from torchvision.datasets import ImageFolder

from dgs_utils import evaluate
from dgs_utils.cli import main
from dgs_utils.condense import condense
from dgs_utils.images.image_set import ImageSet
from dgs_utils.publish.dataset import publish, strip_paths
from dgs_utils.runtime.table_io import read_table
from dgs_utils.sample import read_source, report, select_images, write_set
from dgs_utils.store.manifest import MANIFEST, read_manifest
from dgs_utils.workflow.experiment import read_experiment

ORDER = ("2", "0", "1")  # labels that do not follow the alphabet


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Stages 00 to 06 over real scans, all finished, with labels in an order of their own."""
    root = tmp_path_factory.mktemp("maker of things")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGS_OUTPUTS", str(root / "outputs"))
        folders = make_world(root, ORDER, val=10)
        inputs = {name: str(folders[name]) for name in ("prepare", "pool", "scores", "transform")}
        run = open_stage("05_sample", method="dgs", ipc=5, **inputs)
        source = read_source(run)
        chosen = select_images(run, source)
        write_set(run, source, chosen)
        report(chosen, source)
        run.finish()
        rated = open_stage("06_evaluate", prepare=inputs["prepare"], distilled=str(run.folder), epochs=2, repeats=2,
                           image_size=8)
        evaluate.evaluate(rated, *evaluate.open_sets(rated))
        rated.finish()
        optimised = open_stage("08_condense", prepare=inputs["prepare"], method="dm", ipc=2, image_size=8, iterations=2,
                               real_batch=16)
        condense(optimised)
        optimised.finish()
        yield folders | {"sample": run.folder, "condense": optimised.folder, "evaluate": rated.folder, "root": root}


def publish_one(world, folder, target):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGS_OUTPUTS", str(world["root"] / "outputs"))
        publish(folder, str(target), "cc-by-4.0")
    return target


@pytest.fixture(scope="module")
def published(world, tmp_path_factory):
    """The published distilled set."""
    return publish_one(world, world["sample"], tmp_path_factory.mktemp("reader") / "set")


@pytest.fixture(scope="module")
def condensed(world, tmp_path_factory):
    """A published set of optimised images."""
    return publish_one(world, world["condense"], tmp_path_factory.mktemp("reader") / "set")


@pytest.fixture(params=["published", "condensed"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def at_the_makers(world, monkeypatch):
    monkeypatch.setenv("DGS_OUTPUTS", str(world["root"] / "outputs"))


def pixels(images) -> list[bytes]:
    return sorted(Image.open(path).convert("RGB").tobytes() for path in images)


# ---- Readers ---------------------------------------------------------------------------------------------------------

def test_this_kit_reads_it_as_a_set_and_as_a_pool(published, world, tmp_path, outputs):
    told = []
    images, own = (ImageSet.read(folder, warn=told.append) for folder in (published, world["sample"]))
    assert told == []  # its lists, card and manifests are no strangers
    assert images.classes == list(ORDER)
    assert pixels(images.paths) == pixels(own.paths)
    assert images.labels.tolist() == own.labels.tolist()
    run = open_stage("06_evaluate", prepare=str(world["prepare"]), distilled=str(published), epochs=1, repeats=1,
                     image_size=8)
    assert len(evaluate.evaluate(run, *evaluate.open_sets(run))) == 1
    assert len(ImageSet.read(published, classes=["0", "2"])) == 10  # as stage 02 takes the classes of the originals


def test_this_kit_reads_a_condensed_set(condensed, world, outputs):
    images, own = ImageSet.read(condensed, warn=pytest.fail), ImageSet.read(world["condense"])
    assert (images.classes, images.labels.tolist()) == (list(ORDER), own.labels.tolist())
    assert pixels(images.paths) == pixels(own.paths)
    table = read_table(condensed / "metadata.csv")
    assert set(table["generator"]) == {"dm"}
    assert table.groupby("class")["index"].apply(list).to_dict() == {name: [0, 1] for name in ORDER}
    run = open_stage("06_evaluate", prepare=str(world["prepare"]), distilled=str(condensed), epochs=1, repeats=1,
                     image_size=8)
    assert len(evaluate.evaluate(run, *evaluate.open_sets(run))) == 1


def test_torchvision_reads_the_same_labels(either):
    images = ImageFolder(either / "images")
    names = read_table(either / "metadata.csv")
    label = dict(zip(names["file_name"], names["label"], strict=True))
    assert len(images) == len(names) > 0
    for path, found in images.samples:
        assert label[re.search(r"images/.*", path)[0]] == found


def test_datasets_reads_the_same_labels(either, tmp_path):
    datasets = pytest.importorskip("datasets", reason="comes with the extra test: pip install 'dgs-utils[test]'")
    table = read_table(either / "metadata.csv")
    for found in (datasets.load_dataset(str(either), split="train", cache_dir=str(tmp_path / "a")),
                  datasets.load_dataset("imagefolder", data_dir=str(either), split="train",
                                        cache_dir=str(tmp_path / "b"))):
        assert len(found) == len(table)
        rows = {row["image"].convert("RGB").tobytes(): row for row in found}
        for name, row in zip(table["file_name"], table.to_dict("records"), strict=True):
            read = rows[Image.open(either / name).convert("RGB").tobytes()]
            assert (str(read["class"]), read["label"]) == (row["class"], row["label"])
            assert read.get("score") == pytest.approx(row.get("score"))


# ---- Contents --------------------------------------------------------------------------------------------------------

def test_each_image_tells_where_it_comes_from(published, world):
    table = read_table(published / "metadata.csv")
    scores = read_table(world["transform"] / "transformed.csv")
    scores = scores[scores["set"] == "pool"].set_index("file_name")
    assert table["score"].to_numpy() == pytest.approx(scores.loc[table["source"], "score"].to_numpy())
    assert table["transformed"].to_numpy() == pytest.approx(scores.loc[table["source"], "transformed"].to_numpy())
    pool = read_table(world["pool"] / "metadata.csv").set_index("file_name")
    assert table["index"].tolist() == pool.loc[table["source"], "index"].tolist()
    assert set(table["generator"]) == {"pool"}
    assert read_table(published / "thresholds.csv")["class"].tolist() == list(ORDER)
    measured = read_table(published / "results.csv")
    assert measured["best"].tolist() == read_table(world["evaluate"] / "results.csv")["best"].tolist()


@pytest.mark.usefixtures("at_the_makers")
def test_nothing_tells_of_the_makers_machine(published, world):
    for path in published.rglob("*"):
        if path.is_file():
            assert str(world["root"]).encode() not in path.read_bytes(), path
            assert b"maker of things" not in path.read_bytes(), path
    assert json.loads((published / "manifests" / "00_prepare.json").read_text())["params"]["root"] == "originals"
    assert strip_paths([f"made of {world['root'] / 'outputs'}/02_pool/x"]) == ["made of 02_pool/x"]
    told = "in /scratch/my/data/a.png (https://hub/a/b, 3/4, C:\\Users\\me\\x.png, ~/b/c, a/b)"
    assert strip_paths(told) == "in a.png (https://hub/a/b, 3/4, x.png, c, a/b)"


def test_card_tells_the_hub_and_the_reader(published, world, tmp_path):
    text = (published / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["classes"] == list(ORDER)
    assert header["size_categories"] == ["n<1K"]
    assert "| 0 | 2 | 5 |" in text
    found = read_table(published / "results.csv")
    assert f"{found['best'].mean():.1f} ± {found['best'].std():.1f}" in text
    recipe = tmp_path / "published.yaml"
    recipe.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert read_experiment(str(recipe), []).sections["05_sample"] == {"ipc": 5}
    assert yaml.safe_load(recipe.read_text())["pool"] == {"generator": "folder", "root": "pool"}


def test_the_card_has_a_picture_and_how_many_images_the_scorer_recognises(published, condensed, world):
    scores, classes = read_table(world["scores"] / "scores.csv"), read_table(world["prepare"] / "classes.csv")
    correct = scores["prediction"] == scores["class"].map(classes.set_index("class")["index"])
    known = dict(zip(scores["file_name"], correct, strict=True))
    chosen = read_table(published / "metadata.csv")["source"].map(known)
    text = (published / "README.md").read_text()
    assert "15 images: 5 per class (IPC), 3 classes, made by DGS" in text
    assert f"recognises {100 * chosen.mean():.0f} % of them" in text
    assert "recognises" not in (condensed / "README.md").read_text()  # they have no scores
    for folder in (published, condensed):
        [target] = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (folder / "README.md").read_text())
        with Image.open(folder / target) as picture:
            assert picture.format == "WEBP"
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors()) > 10


def test_timm_reads_only_the_images(published):
    timm_data = pytest.importorskip("timm.data", reason="comes with the timm extra")
    assert len(timm_data.ImageDataset(str(published))) == 15


@pytest.mark.usefixtures("at_the_makers")
def test_mlcroissant_finds_the_file_valid_and_reads_each_image_with_its_row(either, caplog):
    croissant = pytest.importorskip("mlcroissant", reason="comes with the test extra")
    data = croissant.Dataset(jsonld=str(either / "croissant.json"))  # which raises what is invalid
    assert not data.metadata.ctx.issues.errors
    [warning] = data.metadata.ctx.issues.warnings
    assert "citeAs" in warning  # which only the maker knows
    assert "not standard" not in caplog.text
    table = read_table(either / "metadata.csv").set_index("file_name")
    records = list(data.records("images"))
    assert len(records) == len(table)
    for record in records:
        row = table.loc[record["images/file_name"].decode()]
        assert (record["images/class"].decode(), record["images/label"]) == (row["class"], row["label"])
        with Image.open(either / row.name) as image:
            assert record["images/image"].convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_a_pool_is_published_with_its_scores(world, tmp_path):
    for name in ("pool", "scores"):
        publish(world[name], str(tmp_path / name), "Our own terms")
        table, scores = read_table(tmp_path / name / "metadata.csv"), read_table(world["scores"] / "scores.csv")
        assert table["score"].to_numpy() == pytest.approx(scores.set_index("file_name").loc[table["source"], "score"])
        assert yaml.safe_load((tmp_path / name / "README.md").read_text().split("---")[1])["license"] == "other"
    with pytest.raises(ValueError, match="has scores of the originals, which are not yours to publish"):
        publish(world["originals"], str(tmp_path / "none"), "mit")


# ---- What is refused -------------------------------------------------------------------------------------------------

@pytest.mark.usefixtures("at_the_makers")
def test_changed_bytes_are_refused(world, tmp_path):
    path = min((world["pool"] / "images" / "2").glob("*.png"))
    before = path.read_bytes()
    path.write_bytes(bytes(len(before)))  # of the same size
    try:
        with pytest.raises(ValueError, match=r"images/2/\d+\.png is missing or changed since its stage finished"):
            publish(world["sample"], str(tmp_path / "set"), "mit")
    finally:
        path.write_bytes(before)
    assert not (tmp_path / "set").exists()


def forge(folder, copy, params=None, results=None):
    """Copy a finished folder with other parameters or results, and a manifest whose hashes agree with them."""
    shutil.copytree(folder, copy)
    if results is not None:
        results.to_csv(copy / "results.csv", index=False)
        certify(copy)
    restamp(copy / MANIFEST, params=read_manifest(copy)["params"] | (params or {}))
    return copy


@pytest.mark.usefixtures("at_the_makers")
@pytest.mark.parametrize(("params", "sentence"), [
    ({"method": "magic"}, "manifest.json: sample.method is 'magic'"),
    ({"method": ["dgs"]}, r"manifest.json: sample.method is \['dgs'\]"),
    ({"ipc": "many"}, "manifest.json: sample.ipc is 'many'")])
def test_odd_parameters_are_refused(world, tmp_path, params, sentence):
    with pytest.raises(ValueError, match=sentence):
        publish(forge(world["sample"], tmp_path / "odd", params), str(tmp_path / "set"), "mit")
    assert not (tmp_path / "set").exists()


@pytest.mark.usefixtures("at_the_makers")
@pytest.mark.parametrize("results", [{"network": ["convnet3"]}, {"best": ["much"], "last": [1.0]}, {"last": [1.0]}])
def test_results_without_their_columns_are_left_out(world, tmp_path, capsys, results):
    rows = pd.DataFrame(results)
    bad = forge(world["evaluate"], world["evaluate"].with_name("bad"), results=rows)
    try:
        publish(world["sample"], str(tmp_path / "set"), "mit")
    finally:
        shutil.rmtree(bad)
    assert f"left out: {bad / 'results.csv'} has no column protocol; run" in capsys.readouterr().out
    assert len(read_table(tmp_path / "set" / "results.csv")) == 2


@pytest.mark.usefixtures("at_the_makers")
def test_a_licence_is_asked_for_and_a_folder_in_use_left_alone(world, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    words = ["publish", str(world["sample"]), str(tmp_path / "mine")]
    with pytest.raises(SystemExit):
        main(words)
    assert "--licence" in capsys.readouterr().err
    assert main([*words, "--licence", " "]) == 2
    assert main([*words, "--licence", "mit"]) == 2
    assert f"{tmp_path / 'mine'} exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]
