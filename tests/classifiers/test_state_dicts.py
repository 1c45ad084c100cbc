"""Weights of classifiers as others save them, and which output stands for which class."""

import argparse
import pickle

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small_world import open_stage, write_digits

from dgs_utils import prepare
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.pretrained import pretrained
from dgs_utils.classifiers.state_dicts import READERS
from dgs_utils.images.classes import AMBIGUOUS, imagenet_index, imagenet_names, read_class_index
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.runtime.table_io import read_table

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(SMALL, weights=None, num_classes=5).eval()


def write(path, state: dict, around=lambda state: state) -> None:
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save(around(state), path)


def opened(path) -> tuple[torch.nn.Module, list[str]]:
    notes = []
    return pretrained(SMALL, f"{path}@IMAGENET1K_V1", 32, notes.append), notes


def same(scorer, network) -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(scorer(pixels), network(scorer.normalise(pixels)))


PREFIXES = ("", "module.", "_orig_mod.", "model.", "backbone.", "net.", "encoder.", "module._orig_mod.model.",
            "student.encoder.backbone.")


@pytest.mark.parametrize(("prefix", "suffix"), [*((prefix, ".pth") for prefix in PREFIXES), *(
    (prefix, suffix) for prefix in ("", "module.")
    for suffix in (".safetensors", ".npz", ".pt", ".ckpt", ".bin", ".pth.tar"))])
def test_prefixes_are_stripped_and_listed(tmp_path, network, prefix, suffix):
    path = tmp_path / f"weights{suffix}"
    write(path, {prefix + name: value for name, value in network.state_dict().items()})
    scorer, notes = opened(path)
    same(scorer, network)
    assert len(notes) == bool(prefix)
    for part in prefix.split("."):
        assert part in "".join(notes)


def nested(wrap) -> list[str]:
    """Return the keys that lead to the weights in a file."""
    content, keys = wrap({"weight": 1}), []
    while "weight" not in content:
        keys.append(next(iter(content)))
        content = content[keys[-1]]
    return keys


@pytest.mark.parametrize("wrap", [
    lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3, "best": 0.5}, lambda s: {"ema": s},
    lambda s: {"model_ema": s, "args": argparse.Namespace(lr=0.1)},
    lambda s: {"network": s, "optimizer": {"state": {}}},
    lambda s: {"ema": {"module": s, "decay": torch.tensor(0.9)}}, lambda s: {"model": {"state_dict": s}}])
def test_nested_dictionaries_are_stripped_and_listed(tmp_path, network, wrap):
    write(tmp_path / "w.pth", network.state_dict(), wrap)
    scorer, [note] = opened(tmp_path / "w.pth")
    same(scorer, network)
    assert f"{tmp_path}/w.pth holds the weights under {'/'.join(nested(wrap))}/, which is stripped" in note
    write(tmp_path / "w.pth", {f"model.{name}": v for name, v in network.state_dict().items()}, wrap)
    scorer, [note] = opened(tmp_path / "w.pth")
    same(scorer, network)
    assert note.endswith("/model., which is stripped")


def test_entries_beside_the_network_are_left_out_and_listed(tmp_path, network):
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    write(tmp_path / "w.ckpt", {"state_dict": state | {"loss.weight": torch.ones(5)}})
    scorer, [note] = opened(tmp_path / "w.ckpt")
    same(scorer, network)
    assert note.endswith("under state_dict/model., which is stripped; 1 other entries, such as state_dict/loss.weight, "
                         "are left out")


def test_values_that_are_no_numbers_are_told(tmp_path, network):
    state = network.state_dict()
    write(tmp_path / "w.pth", state | {"conv5.0.weight": state["conv5.0.weight"] * float("nan")})
    with pytest.raises(ValueError, match=f"{tmp_path}/w.pth holds values in conv5.0.weight that are no numbers"):
        opened(tmp_path / "w.pth")


@pytest.mark.parametrize(("text", "sentence"), [
    ("{", r"is no JSON \("), ("[1]", "is no JSON object; write one"), ('{"crop": "big"}', "crop is 'big'; give a"),
    ('{"mean": [0.5]}', r"mean is \[0.5\]; give"), ('{"id2label": {}}', "id2label is unknown; valid names are")])
def test_a_description_that_is_wrong_is_told(tmp_path, network, text, sentence):
    write(tmp_path / "w.pth", network.state_dict())
    (tmp_path / "w.json").write_text('{"resize": 40, "mean": [0.5, 0.5, 0.5]}')
    assert opened(tmp_path / "w.pth")[0].config.transform == ResizeCrop(40, 32, (0.5,) * 3)
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path}/w.json(:)? {sentence}"):
        opened(tmp_path / "w.pth")


def test_two_networks_in_one_file_are_told(tmp_path, network):
    both = {f"{prefix}.{name}": v for prefix in ("teacher", "student") for name, v in network.state_dict().items()}
    write(tmp_path / "w.pth", both)
    with pytest.raises(ValueError, match=r"w.pth holds such a network under '(teacher|student)\.' and under"):
        opened(tmp_path / "w.pth")


class Stranger:
    """What a pickled file may hold: an object that runs code when it is opened."""

    ran = False

    def __reduce__(self):
        return setattr, (Stranger, "ran", True)


def test_whole_modules_are_refused_in_one_sentence(tmp_path, network):
    torch.save(network, tmp_path / "module.pth")
    torch.save({"state_dict": network.state_dict(), "more": Stranger()}, tmp_path / "evil.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Stranger()))
    kinds = (("module.pth", "an object of torchvision"), ("evil.pth", "an object of"), ("script.pt", "TorchScript"))
    for name, what in kinds:
        with pytest.raises(ValueError, match=f"{tmp_path}/{name} holds .*{what}.*; save the network") as caught:
            opened(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"{tmp_path}/plain.pth (holds|cannot be read)"):
        opened(tmp_path / "plain.pth")
    assert not Stranger.ran


@pytest.mark.parametrize("suffix", sorted(READERS))
def test_damaged_and_foreign_files_are_named(tmp_path, network, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"{path} cannot be read as weights \(.*; fetch it again") as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    write(path, {"other.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=f"{path} has no fc.weight, but other.weight, so it does not hold the weights"):
        opened(path)
    if suffix not in (".safetensors", ".npz"):
        torch.save({"epoch": 3}, path)
        with pytest.raises(ValueError, match=f"{path} holds no weights by name but epoch; save the"):
            opened(path)


# ---- Which output is which class -------------------------------------------------------------------------------------

def test_imagenets_classes_are_all_there_in_order():
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert list(names.values()) == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for rows in SUBSETS.values():
        for wnid, index, name in rows:
            assert imagenet_index(wnid) == index
            assert name.lower() in AMBIGUOUS or imagenet_index(name) == index
    assert [imagenet_index(name) for name in ("great white shark", "Great_White-Shark", "n01484850", "giraffe")] == [
        2, 2, 2, None]
    for name in ("crane", "Cardigan"):
        with pytest.raises(ValueError, match=f"class {name} may be two of ImageNet's classes; call its folder by the"):
            imagenet_index(name)


def table(tmp_path, names: list[str], **values):
    root = write_digits(tmp_path / "set", 0, 3)
    for old, new in zip("012", names, strict=True):
        (root / old).rename(root / new)
    (tmp_path / "out").mkdir()
    index_originals(validate("00_prepare", {"dataset": "folder", "root": str(root), "split": "given",
                                            "classifier_weights": "IMAGENET1K_V1"} | values), tmp_path / "out")
    return read_table(tmp_path / "out" / "classes.csv")


def test_folders_called_as_imagenets_classes_need_no_table(tmp_path):
    found = table(tmp_path, ["n02088364", "golden_retriever", "Samoyed"])
    assert dict(zip(found["class"], found["index"], strict=True)) == {"n02088364": 162, "golden_retriever": 207,
                                                                     "Samoyed": 258}
    assert found["name"].tolist() == ["Samoyed", "golden_retriever", "beagle"]


def test_two_folders_of_one_class_are_told(tmp_path):
    with pytest.raises(ValueError, match="the classes beagle and n02088364 have the same index 162 in"):
        table(tmp_path, ["n02088364", "beagle", "Samoyed"])


@pytest.mark.parametrize(("rows", "sentence"), [
    ("a,1\nb,2\na,3\n", "row 4 gives class a again, after row 2; keep one row"),
    ("a,1\nb,1\n", "row 3: class b has index 1, which class a has already"),
    ("a,one\n", "row 2: the index of class a is 'one'; give a whole number from 0"),
    ("a,162.5\n", "row 2: the index of class a is '162.5'; give a whole number"),
    ("a,0\nb,-1\n", "row 3: the index of class b is '-1'; give a whole number"),
    (",5\n", "row 2 names no class; fill it in")])
def test_wrong_rows_of_a_class_table_are_told_at_once(tmp_path, rows, sentence):
    path = tmp_path / "index.csv"
    path.write_text(f"class,index\n{rows}")
    with pytest.raises(ValueError, match=f"{path}, {sentence}"):
        read_class_index(path)
    path.write_text("class,index\nnan,7\n1e5,8\nTrue,9\n")
    assert read_class_index(path) == {"index": {"nan": 7, "1e5": 8, "True": 9}}


def test_indices_of_imagenet_need_a_classifier_of_imagenet(tmp_path, outputs, network):
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    root = write_digits(tmp_path / "set", 0, 3)
    for old, new in zip("012", ("tench", "goldfish", "n01484850"), strict=True):
        (root / old).rename(root / new)
    run = open_stage("00_prepare", dataset="folder", root=str(root), split="given", base_model="none", classifier=SMALL,
                     classifier_weights=str(tmp_path / "w.safetensors"))
    index_originals(run.params, run.folder)
    with pytest.raises(ValueError, match=r"class goldfish is not known by its name to .*w.safetensors"):
        prepare.difficulty_classifier(run)
