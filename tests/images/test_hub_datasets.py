"""Data sets of the hub, parquet files with images and webdataset archives, as the library `datasets` writes them."""

import io
import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from image_files import encoded, index_folder, packed, write_files
from small_world import open_stage

from dgs_utils import pool, prepare
from dgs_utils.images.classes import read_classes
from dgs_utils.images.hub_datasets import download, holds_packed_images
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.pool.from_folders import _generator_of
from dgs_utils.store.hashing import content_id
from dgs_utils.store.manifest import read_manifest
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan

datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
REVISION = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = "hf://datasets/lab/pets"


def tables(root: Path, names=("owl", "cat"), splits=("train", "validation"), each: int = 3, **columns) -> Path:
    """Write splits as parquet files with images in them, ``each`` a class; classes are in another order than letters'.
    """
    labels = list(range(len(names))) * each
    images = [{"bytes": encoded(".png", 10 * number), "path": None} for number in range(len(labels))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names)),
                                  **{name: datasets.ClassLabel(names=["x", "y"]) for name in columns}})
    rows = datasets.Dataset.from_dict({"image": images, "label": labels, **columns}, features=features)
    for split in splits:
        (root / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that puts files into the hub's cache, as a repository that was fetched; there is no network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def fetched(source: Path, name: str = "lab/pets", revision: str = REVISION) -> str:
        folder = cache / f"datasets--{name.replace('/', '--')}"
        shutil.copytree(source, folder / "snapshots" / revision)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
        [repository] = huggingface_hub.scan_cache_dir(cache).repos  # the library's own reading of its layout
        assert (repository.repo_id, repository.repo_type) == (name, "dataset")
        return f"hf://datasets/{name}"
    return fetched


def classes_and_counts(stage: Path) -> dict:
    table = ImageSet.read(stage).table
    return table.groupby(["class", "label", "split"]).size().to_dict()


# ---- Three forms -----------------------------------------------------------------------------------------------------

def test_parquet_files_hold_images_and_the_order_of_their_classes(tmp_path):
    table, notes = index_folder(tmp_path / "out", tables(tmp_path / "set"), split="given")
    assert notes == []
    assert classes_and_counts(tmp_path / "out") == {
        (name, label, split): 3 for label, name in enumerate(("owl", "cat")) for split in ("train", "val")}
    first = table[(table["class"] == "cat") & (table["split"] == "train")]["file_name"].iloc[0]
    assert (tmp_path / "out" / "images" / first).read_bytes() == encoded(".png", 10)  # byte for byte
    assert read_classes(tmp_path / "out")["class"].tolist() == ["owl", "cat"]


def test_one_parquet_file_is_one_split(tmp_path):
    file = tables(tmp_path / "set", splits=["test"]) / "data" / "test-00000-of-00001.parquet"
    index_folder(tmp_path / "out", file, split="holdout", val_per_class=1)
    assert classes_and_counts(tmp_path / "out") == {(name, label, split): count for label, name in enumerate(
        ("owl", "cat")) for split, count in (("train", 2), ("val", 1))}


def test_untyped_parquet_files_as_pandas_writes_them(tmp_path):
    pd = pytest.importorskip("pandas")
    images = [{"bytes": encoded(".png", i), "path": f"{i}.png"} for i in range(4)]
    (tmp_path / "set").mkdir()
    pd.DataFrame({"image": images, "label": ["owl", "cat"] * 2}).to_parquet(tmp_path / "set" / "train.parquet")
    index_folder(tmp_path / "out", tmp_path / "set")
    assert classes_and_counts(tmp_path / "out") == {("cat", 0, "train"): 2, ("owl", 1, "train"): 2}


def shard(names: list[tuple[str, int]], suffix: str = ".png") -> bytes:
    """Return a tar archive of images and their labels side by side, as the library webdataset writes them."""
    return packed({name: content for key, label in names for name, content in (
        (f"{key}{suffix}", 10 * label), (f"{key}.cls", str(label)))}, ".tar")


def test_webdataset_archives_by_split_and_number(tmp_path):
    write_files(tmp_path / "set", {"train-0000.tar": shard([("a/1", 0), ("a/2", 1)]),
                                   "train-0001.tar": shard([("a/3", 10)]), "val-0000.tar": shard([("b/1", 10)])})
    index_folder(tmp_path / "out", tmp_path / "set", split="given")
    assert classes_and_counts(tmp_path / "out") == {
        ("0", 0, "train"): 1, ("1", 1, "train"): 1, ("10", 2, "train"): 1, ("10", 2, "val"): 1}


@pytest.mark.parametrize(("name", "sentence"), [("../../evil.png", "leads out|is '../../evil.png'"),
                                                ("/evil.png", "an absolute path")])
def test_webdataset_archives_with_paths_that_lead_elsewhere_are_refused(tmp_path, name, sentence):
    archive = packed({"1.png": 0, "1.cls": "0", name: 1}, ".tar")
    write_files(tmp_path / "set", {"train.tar": archive})
    with pytest.raises(ValueError, match=sentence):
        index_folder(tmp_path / "out", tmp_path / "set")
    (tmp_path / "one.tgz").write_bytes(packed({"1.png": 0, "1.cls": "0", name: 1}, ".tgz"))
    with pytest.raises(ValueError, match=sentence):
        index_folder(tmp_path / "out2", tmp_path / "one.tgz")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(("suffix", "form"), [(".tar", ".tar"), (".tar.gz", ".tgz")])
def test_a_webdataset_may_have_labels_in_its_json_and_be_compressed(tmp_path, suffix, form):
    files = {name: content for i in range(4) for name, content in (
        (f"{i}.png", i), (f"{i}.json", json.dumps({"label": ["owl", "cat"][i % 2], "width": 3})))}
    write_files(tmp_path / "set", {f"train-0{suffix}": packed(files, form)})
    index_folder(tmp_path / "out", tmp_path / "set", split="holdout", val_per_class=1)
    assert set(classes_and_counts(tmp_path / "out").values()) == {1}
    assert list(read_classes(tmp_path / "out")["class"]) == ["cat", "owl"]


@pytest.mark.parametrize("several", [True, False])
def test_what_datasets_saved_is_read_as_it_was_loaded(tmp_path, several):
    rows = datasets.load_dataset(str(tables(tmp_path / "set")))
    (rows if several else rows["train"]).save_to_disk(str(tmp_path / "saved"))
    index_folder(tmp_path / "out", tmp_path / "saved", split="given" if several else "holdout", val_per_class=1)
    assert classes_and_counts(tmp_path / "out") == {
        (name, label, split): count for label, name in enumerate(["owl", "cat"])
        for split, count in (("train", 3 if several else 2), ("val", 3 if several else 1))}


def test_what_datasets_saved_may_not_name_files_elsewhere(tmp_path):
    rows = datasets.load_dataset(str(tables(tmp_path / "set")))["train"]
    for name in ("saved", "elsewhere"):
        rows.save_to_disk(str(tmp_path / name))
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"][0]["filename"] = f"../elsewhere/{state['_data_files'][0]['filename']}"
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"it names '.*/elsewhere/.*', which is outside of .*/saved"):
        index_folder(tmp_path / "out", tmp_path / "saved")


def test_repositories_of_archives_are_unpacked(tmp_path, outputs, hub):
    """As many on the hub are: data/train.zip and data/test.zip, from which `datasets` reads no classes."""
    files = {name: {f"{name}/{i}.png": i for i in range(3)} for name in ("owl", "cat")}
    write_files(tmp_path / "set", {f"data/{split}.zip": packed(files["owl"] | files["cat"], ".zip")
                                   for split in ("train", "test")})
    for number, root in enumerate((tmp_path / "set", hub(tmp_path / "set"))):
        index_folder(tmp_path / f"out{number}", root, split="given")
        assert classes_and_counts(tmp_path / f"out{number}") == {
            (name, label, split): 3 for label, name in enumerate(["cat", "owl"]) for split in ("train", "val")}
    write_files(tmp_path / "pool", {"data/made.zip": packed(files["owl"] | files["cat"], ".zip")})
    prepare_run = open_stage("00_prepare", root=str(tmp_path / "set"), dataset="folder", split="given",
                             base_model="none", classifier_epochs=1)
    prepare.index_originals(prepare_run)
    prepare_run.finish()
    run = open_stage("02_pool", generator="folder", root=str(tmp_path / "pool"), prepare=str(prepare_run.folder))
    assert len(pool.generate(run)) == 6


@pytest.mark.parametrize(("address", "name"), [("hf://datasets/o/n", "n"), ("hf://datasets/o/n@abc", "n"),
                                               ("hf://datasets/o/n/sub", "sub"), ("hf://datasets/o/n@abc/sub", "sub"),
                                               ("hf://datasets/o/n@abc/sub#label", "sub")])
def test_a_generator_has_one_name_whether_its_address_is_pinned_or_not(address, name):
    assert _generator_of(address) == name


def test_pickled_fields_of_a_webdataset_are_never_opened(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    import pickle
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    fields = {"1.png": 0, "1.cls": "0", "1.pkl": pickle.dumps(Evil()), "1.pyd": pickle.dumps(Evil())}
    write_files(tmp_path / "set", {"train.tar": packed(fields, ".tar")})
    index_folder(tmp_path / "out", tmp_path / "set")
    write_files(tmp_path / "npy", {"train.tar": packed({"1.png": 0, "1.cls": "0", "1.npy": buffer.getvalue()}, ".tar")})
    with pytest.raises(ValueError, match=r"cannot be read by datasets \(.*allow_pickle"):
        index_folder(tmp_path / "out2", tmp_path / "npy")
    assert not marker.exists()


def test_files_elsewhere_that_a_table_or_a_card_names_are_not_read(tmp_path):
    pd = pytest.importorskip("pandas")
    secret = write_files(tmp_path / "elsewhere", {"secret.png": 7}) / "secret.png"
    rows = pd.DataFrame({"image": [{"bytes": None, "path": str(secret)}], "label": ["a"]})
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(ValueError, match=r"it names '.*/secret.png', which is outside of .*/set"):
        index_folder(tmp_path / "out", tmp_path / "set")
    tables(tmp_path / "elsewhere")
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/elsewhere/data/*.parquet\n---\n"
    source = write_files(tmp_path / "card", {"README.md": card, "train.parquet": (
        tmp_path / "elsewhere" / "data" / "train-00000-of-00001.parquet").read_bytes()})
    with pytest.raises(ValueError, match=r"it names '.*/elsewhere/data/.*', which is outside of .*/card"):
        index_folder(tmp_path / "out2", source)


# ---- The hub ---------------------------------------------------------------------------------------------------------

def test_originals_from_the_hub_pin_their_revision(tmp_path, outputs, hub):
    address = hub(tables(tmp_path / "set"))
    values = {"dataset": "folder", "split": "given", "base_model": "none", "classifier_epochs": 1}
    run = open_stage("00_prepare", root=address, **values)
    counts = prepare.index_originals(run)
    assert counts[["train", "val"]].to_numpy().tolist() == [[3, 3], [3, 3]]
    assert run.params.root == f"{address}@{REVISION}"
    run.finish()
    manifest = read_manifest(run.folder)
    assert manifest["params"]["root"] == f"{address}@{REVISION}"
    assert manifest["identity"]["root"] == address  # the key is that of what was asked for
    hub(tables(tmp_path / "newer", names=("ant", "bee")), revision="f" * 40)
    again = open_stage("00_prepare", root=address, **values | {"seed": 1})
    (again.folder / "hub.json").write_text(json.dumps({address: f"{address}@{REVISION}"}))
    prepare.index_originals(again)  # what a killed run had begun to read
    assert read_classes(again.folder)["class"].tolist() == ["owl", "cat"]


def test_pools_from_the_hub_beside_folders(tmp_path, outputs, hub):
    address = hub(tables(tmp_path / "set", names=("owl", "emu", "cat"), splits=["train"]))
    write_files(tmp_path / "originals", {f"{name}/{i}.png": i for name in ("cat", "owl") for i in range(3)})
    write_files(tmp_path / "other", {f"{name}/{i}.png": i for name in ("cat", "owl") for i in range(2)})
    stage = open_stage("00_prepare", dataset="folder", root=str(tmp_path / "originals"), base_model="none",
                       split="given")
    prepare.index_originals(stage)
    stage.finish()
    run = open_stage("02_pool", prepare=str(stage.folder), generator="folder",
                     root=[address, str(tmp_path / "other")])
    table = pool.generate(run)
    assert table.groupby(["class", "generator"]).size().to_dict() == {
        ("cat", "other"): 2, ("cat", "pets"): 3, ("owl", "other"): 2, ("owl", "pets"): 3}
    assert run.params.root == [f"{address}@{REVISION}", str(tmp_path / "other")]
    run.finish()
    single = open_stage("02_pool", prepare=str(stage.folder), generator="folder", root=str(tmp_path / "set"))
    pool.generate(single)
    single.finish()
    assert len(ImageSet.read(single.folder)) == 6
    assert pool.images_root(single) == single.folder


def test_imagenet_s_names_on_the_hub_are_the_classes_of_its_subsets(tmp_path, hub):
    """The hub calls classes by all their names; the second of two cranes has a number."""
    timm = pytest.importorskip("timm.data", reason="the extra timm is not installed")
    info = timm.ImageNetInfo()
    names = list[str]()
    for index in range(1000):
        name = info.index_to_description(index, detailed=False)
        names.append(f"{name}2" if name in names else name)
    wanted = [SUBSETS["imagewoof"][2][0], SUBSETS["imagewoof"][0][0], "n02012849", "n03126707"]
    address = hub(tables(tmp_path / "set", names=names, each=1, splits=["train"]))
    index_folder(tmp_path / "out", address, dataset="folder", classes=wanted)
    assert classes_and_counts(tmp_path / "out") == {(name, i, "train"): 1 for i, name in enumerate(wanted)}
    with pytest.raises(ValueError, match=r"class n00000001 is none of those of .*, which are tench, .*; name classes"):
        index_folder(tmp_path / "wrong", address, dataset="folder", classes=["n00000001"])


def test_numbers_alone_are_imagenet_s_indices_where_its_classes_are_wanted(tmp_path):
    wanted = SUBSETS["imagenette"][0][0], SUBSETS["imagenette"][1][0]  # 0, 217
    write_files(tmp_path / "set", {"train-0.tar": shard([("1", 0), ("2", 217), ("3", 5)])})
    table, notes = index_folder(tmp_path / "out", tmp_path / "set", classes=list(wanted))
    assert table["class"].tolist() == list(wanted)
    assert any("they are taken for ImageNet's indices" in note for note in notes)


def test_a_folder_or_a_column_can_stand_in_the_address(tmp_path, hub):
    source = tables(tmp_path / "set" / "small", kind=[0, 1] * 3)
    tables(tmp_path / "set" / "large", names=("ant", "bee"))
    address = hub(source.parent)
    index_folder(tmp_path / "a", f"{address}@main/small", split="given")
    assert read_classes(tmp_path / "a")["class"].tolist() == ["owl", "cat"]
    index_folder(tmp_path / "b", f"{address}/small#kind", split="given")
    assert read_classes(tmp_path / "b")["class"].tolist() == ["x", "y"]
    with pytest.raises(ValueError, match=r"has the columns breed, and none of them may hold the classes; name the one"):
        index_folder(tmp_path / "c", f"{address}/small#breed", split="given")
    with pytest.raises(ValueError, match=f"{ADDRESS}@{REVISION}/none has no folder none; give one"):
        index_folder(tmp_path / "d", f"{address}/none", split="given")


# ---- One sentence ----------------------------------------------------------------------------------------------------

def test_what_cannot_be_fetched_is_told_with_the_way_out(tmp_path, hub, monkeypatch):
    with pytest.raises(ValueError, match=r"hf://datasets/lab/pets could not be downloaded from the hub \(.*\); fetch "
                                         r"it by 'hf download lab/pets --repo-type dataset --local-dir pets', on"):
        download(ADDRESS)
    with pytest.raises(ValueError, match=r"hf://datasets/pets is no data set of the hub; write hf://datasets/OWNER"):
        download("hf://datasets/pets")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"by the library datasets; install it with pip install 'dgs-utils\[hub\]'"):
        index_folder(tmp_path / "out", write_files(tmp_path / "set", {"train.tar": shard([("1", 0)])}))


def test_tables_without_images_or_classes_are_told(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="has the columns text, none of which holds images"):
        index_folder(tmp_path / "out", tmp_path / "text.parquet")
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": encoded(".png"), "path": None}]}, features=features)
    rows.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match="has the columns image, and none of them"):
        index_folder(tmp_path / "out2", tmp_path / "bare.parquet")
    assert not holds_packed_images(write_files(tmp_path / "plain", {"a/1.png": 0, "list.parquet": "x"}))


def test_addresses_are_no_paths(tmp_path, monkeypatch):
    """Neither an experiment file, nor a plan, nor a key takes an address for a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"name: mine\nprepare:\n  dataset: folder\n  root: {ADDRESS}\n"
                                        "  base_model: none\n  split: given\n")
    [node] = [node for node in plan(read_experiment(tmp_path / "mine.yaml")) if node.stage == "00_prepare"]
    assert node.params.root == ADDRESS == content_id(ADDRESS)
    assert validate("02_pool", {"generator": "folder", "root": [ADDRESS]}).root == [ADDRESS]
