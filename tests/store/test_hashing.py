"""What the user gives is known by its content: digests, the cache of them, and the keys that follow them."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waits import HANG

from dgs_utils.params import STAGES, validate
from dgs_utils.store import hashing
from dgs_utils.store.hashing import STORE_NAME, content_id, hash_cache, hash_path, names_file
from dgs_utils.store.node import Node, default_node
from dgs_utils.workflow import planner as plan
from dgs_utils.workflow.experiment import read_experiment

ROOT = Path(__file__).resolve().parents[2]


def by_hand(folder: Path) -> str:
    """Return a folder's digest, computed as the docstring says."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = sorted(f"{file.relative_to(folder).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
                   for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_folder_is_its_names_and_contents(outputs, tmp_path):
    files = {"a/0.png": "zero", "a/1.png": "one", "b/0.png": "two", ".hidden": "x", "a/.DS_Store": "y"}
    root = tree(tmp_path / "data", files)
    first = hash_path(root)
    assert first == by_hand(root) == hash_path(root)
    assert hash_path(shutil.copytree(root, tmp_path / "elsewhere")) == first
    (root / ".hidden").write_text("other")
    (root / "a" / "0.png").touch()
    assert hash_path(root) == first
    for change in (lambda: (root / "a" / "0.png").write_text("nine"), lambda: (root / "a" / "1.png").unlink(),
                   lambda: (root / "b" / "0.png").rename(root / "b" / "1.png"), lambda: tree(root, {"c/0.png": "n"})):
        before = hash_path(root)
        change()
        assert hash_path(root) == by_hand(root) != before


def test_same_size_and_a_time_set_back_do_not_deceive(outputs, tmp_path):
    root = tree(tmp_path / "data", {"a/0.png": "zero", "a/1.png": "ones"})
    large = tmp_path / "weights.pt"
    large.write_bytes(b"0" * (hashing.UNCACHED_MAX_BYTES + 1))
    time.sleep(0.1)  # from here on both are remembered
    before, times = (hash_path(root), hash_path(large)), os.stat(root / "a" / "0.png")
    (root / "a" / "0.png").write_text("null")
    large.write_bytes(b"1" * (hashing.UNCACHED_MAX_BYTES + 1))
    for file in (root / "a" / "0.png", large):
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hash_path(root) == by_hand(root) != before[0]
    assert hash_path(large) == hashlib.sha256(large.read_bytes()).hexdigest() != before[1]


def test_what_is_remembered_is_not_read_again(outputs, tmp_path, monkeypatch):
    root = tree(tmp_path / "data", {f"a/{i}.png": str(i) for i in range(20)})
    time.sleep(0.1)
    first = hash_path(root)
    assert (outputs / STORE_NAME).exists()
    read = []
    monkeypatch.setattr(hashing, "_read_hash", lambda path: read.append(Path(path).name) or "changed")
    assert hash_path(root) == first
    assert read == []
    (root / "a" / "3.png").write_text("new")
    hash_path(root)
    assert read == ["3.png"]


def test_only_the_classes_that_count_are_looked_at(outputs, tmp_path):
    root = tree(tmp_path / "data", {f"{split}/{name}/0.png": name for split in ("train", "val") for name in "abc"})
    some = hash_path(root, ["a", "b"])
    tree(root, {"train/c/1.png": "another"})
    assert hash_path(root, ["a", "b"]) == some
    assert hash_path(root) != some
    tree(root, {"val/b/1.png": "another"})
    assert hash_path(root, ["a", "b"]) != some


def test_links_are_followed_and_loops_end(outputs, tmp_path):
    real = tree(tmp_path / "real", {"a/0.png": "zero"})
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(real / "a")
    assert hash_path(tmp_path / "linked") == hash_path(real)
    (real / "a" / "up").symlink_to(real)
    assert len(hash_path(real)) == 64


def test_without_a_place_for_the_cache_everything_is_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path / "file" / "outputs"))
    root = tree(tmp_path / "data", {"a/0.png": "zero"})
    assert hash_path(root) == by_hand(root)


def test_a_damaged_cache_does_no_harm(outputs, tmp_path):
    (outputs / STORE_NAME).write_bytes(b"\0no data base" * 1000)
    root = tree(tmp_path / "data", {"a/0.png": "zero"})
    assert hash_path(root) == by_hand(root)


@pytest.mark.parametrize("column", ["hash", "signature", "path", "checksum"])
def test_a_wrong_row_in_the_cache_is_computed_anew(outputs, tmp_path, column):
    """So it costs reading the files again, and changes no key of a grid."""
    root = tree(tmp_path / "data", {"a/0.png": "zero", "a/1.png": "one"})
    time.sleep(0.1)
    first, key = hash_path(root), default_node("00_prepare", {"root": str(root)}).key
    with sqlite3.connect(outputs / STORE_NAME) as base:
        assert base.execute(f"update hashes set {column} = {column} || 'x'").rowcount == 4  # two files, a folder twice
    base.close()
    assert (hash_path(root), default_node("00_prepare", {"root": str(root)}).key) == (first, key)


def test_several_processes_share_the_cache(outputs, tmp_path):
    root = tree(tmp_path / "data", {f"{name}/{i}.png": f"{name}{i}" for name in "abc" for i in range(100)})
    code = ("import sys; from pathlib import Path; from dgs_utils.store.hashing import hash_path\n"
            "print(*{hash_path(Path(sys.argv[1])) for _ in range(5)})")
    found = [subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) for _ in range(3)]
    assert {process.communicate(timeout=HANG) for process in found} == {(by_hand(root) + "\n", "")}


def test_text_that_names_nothing_stands_for_itself(outputs, tmp_path):
    for text in ("", "train", "none", "IMAGENET1K_V1", "resnet50:IMAGENET1K_V1", "facebook/DiT-XL-2-256"):
        assert content_id(text) == text
    file = tmp_path / "weights.pt"
    file.write_text("numbers")
    plain = content_id(str(file))
    assert plain == f"sha256:{hashlib.sha256(b'numbers').hexdigest()}"
    assert content_id(f"resnet50:{file}") == f"resnet50:{plain}"
    (tmp_path / "weights.json").write_text("{}")  # the description that a loader reads beside it
    assert content_id(str(file)) != plain


@pytest.mark.parametrize(("value", "exists"), [
    ("{}", True), ("resnet50:{}", True), ("{}@IMAGENET1K_V1", True), ("resnet50:{}@IMAGENET1K_V1", True),
    ("{}.gone", False), ("resnet50:{}.gone@IMAGENET1K_V1", False), ("resnet50:IMAGENET1K_V1", False)])
def test_a_value_names_a_file_where_its_content_counts(tmp_path, monkeypatch, value, exists):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"numbers")
    value = value.format(tmp_path / "w.pt")
    assert names_file(value) is exists
    assert (content_id(value) != value) is exists


# ---- Keys ------------------------------------------------------------------------------------------------------------

GIFTS = [("00_prepare", "root"), ("00_prepare", "class_index"), ("00_prepare", "autoencoder_path"),
         ("00_prepare", "classifier"),
         ("00_prepare", "base_model"), ("00_prepare", "classifier_weights"), ("02_pool", "root"),
         ("03_difficulty", "scorers"), ("05_sample", "features"), ("05_sample", "class_weights"),
         ("07_figures", "results")]


def test_every_parameter_that_may_name_a_file_is_marked():
    assert {(stage, name) for stage, model in STAGES.items() for name in model.fields_tagged("external")} == set(GIFTS)


@pytest.mark.parametrize(("stage", "name"), GIFTS)
def test_moving_what_is_given_changes_no_key_and_changing_it_does(outputs, tmp_path, stage, name):
    others = {"02_pool": {"generator": "folder"}, "05_sample": {"method": "herding"}}.get(stage, {})
    others |= {"total": 30} if name == "class_weights" else {}

    def key(path: Path) -> str:
        value = [str(path)] if name in ("scorers", "results") else str(path)
        return default_node(stage, others | {name: value}).key

    place = tree(tmp_path / "here", {"x/a.png": "content"})
    first = key(place)
    assert key(place.rename(tmp_path / "there")) == first
    (tmp_path / "there" / "x" / "a.png").write_text("CONTENT")
    assert key(tmp_path / "there") != first
    (tmp_path / "one.csv").write_text("class,index\n")
    assert key(tmp_path / "one.csv") == key(shutil.copy(tmp_path / "one.csv", tmp_path / "other.csv"))


def other(value):
    """Return another valid value of the same kind for the few parameters that are tried."""
    return value + 1 if isinstance(value, int) else abs(value) / 2  # -1 is an open one's


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.sampled_from([
    ("prepare.seed", True), ("prepare.train_steps", True), ("pool.seed", True), ("pool.steps", True),
    ("pool.guidance", True), ("difficulty.round_scores", True), ("pool.batch_size", False),
    ("fine_tune.batch_size", True),
    ("file moved", False), ("file changed", True), ("hidden file", False)]), max_size=6, unique=True))
def test_keys_change_exactly_when_the_content_does(tmp_path_factory, edits):
    """Random edits of parameters and files: the key of the scores moves if and only if one of them decides a score."""
    base = tmp_path_factory.mktemp("edits")
    os.environ["DGS_OUTPUTS"] = str(base / "outputs")
    root, values = tree(base / "data", {"a/0.png": "zero"}), {}
    before = scores_node(root, values).key
    for name, _ in edits:
        if name == "file moved":
            root = root.rename(base / "moved")
        elif name == "file changed":
            (root / "a" / "0.png").write_text("null")
        elif name == "hidden file":
            (root / ".note").write_text("mine")
        else:
            section, parameter = name.split(".")
            stage = next(s for s in STAGES if s.endswith(section))
            values.setdefault(stage, {})[parameter] = other(STAGES[stage].model_fields[parameter].default)
    changed = scores_node(root, values).key != before
    assert changed == any(decides for _, decides in edits)


def scores_node(root: Path, values: dict) -> Node:
    """Return the node of scores of a pool that three stages lead to."""
    def params(stage, **more):
        return validate(stage, values.get(stage, {}) | more)

    prepare = Node(params("00_prepare", dataset="folder", root=str(root)), {})
    tuned = Node(params("01_fine_tune"), {"prepare": prepare})
    pool = Node(params("02_pool"), {"prepare": prepare, "fine_tune": tuned})
    originals = Node(params("03_difficulty", source="originals"), {"prepare": prepare})
    return Node(params("03_difficulty"), {"prepare": prepare, "pool": pool, "originals": originals})


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setenv("DGS_OUTPUTS", os.environ.get("DGS_OUTPUTS", ""))  # whatever a test sets is undone


def test_two_results_with_one_key_are_refused(outputs, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = read_experiment("params/quickstart.yaml")
    assert len({node.key for node in plan.expand(experiment)}) == len(plan.expand(experiment))
    monkeypatch.setattr("dgs_utils.store.node.hash_key", lambda stage, *_: stage)  # a very short hash
    with pytest.raises(ValueError, match=r"two different results of \w+ have the key \w+: \{.*change a parameter"):
        plan.expand(experiment)


def test_a_plan_looks_at_a_folder_once(outputs, tmp_path, monkeypatch):
    root, walked = tree(tmp_path / "data", {"a/0.png": "zero"}), []
    monkeypatch.setattr(hashing, "_hash_folder", lambda folder, only: walked.append(folder) or "digest")
    with hash_cache():
        keys = {default_node("00_prepare", {"root": str(root), "seed": seed}).key for seed in range(50)}
    assert len(keys) == 50
    assert walked == [root]
    hash_path(root)  # afterwards it is looked at again
    assert len(walked) == 2


def test_weights_count_by_content_with_the_name_of_their_transform(tmp_path):
    file = tmp_path / "best.pth"
    file.write_bytes(b"weights")
    plain = content_id(str(file))
    assert content_id(f"{file}@IMAGENET1K_V2") == f"{plain}@IMAGENET1K_V2"
    for name in ("resnet50", "timm:resnet50", "torchvision:resnet50"):
        assert content_id(f"{name}:{file}") == f"{name}:{plain}"
    (tmp_path / "resnet50-11ad3fa6.pth").write_bytes(b"weights")  # a name by which weights are recognised counts, too
    assert content_id(str(tmp_path / "resnet50-11ad3fa6.pth")) != plain
    assert content_id("timm:resnet50:pretrained") == "timm:resnet50:pretrained"
