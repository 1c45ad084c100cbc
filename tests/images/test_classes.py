"""What each model calls the task's classes: an output of the scorer, and a label of the diffusion model."""

import json

import numpy as np
import pandas as pd
import pytest
import timm.data
import torch
import torchvision
from oracle import draw_weights
from safetensors.torch import save_file
from small_world import open_stage, write_digits

from dgs_utils import prepare
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.diffusion.dit import DiT
from dgs_utils.images.classes import imagenet_names, match_class_names, model_indices, read_class_index
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.runtime.table_io import read_table

# ---- Published subsets -----------------------------------------------------------------------------------------------

# [F §1.1]: ImageNet index and wnid in label order.
PUBLISHED = {
    "imagewoof": {193: "n02096294", 182: "n02093754", 258: "n02111889", 162: "n02088364", 155: "n02086240",
                  167: "n02089973", 159: "n02087394", 273: "n02115641", 207: "n02099601", 229: "n02105641"},
    "imagenette": {0: "n01440764", 217: "n02102040", 482: "n02979186", 491: "n03000684", 497: "n03028079",
                   566: "n03394916", 569: "n03417042", 571: "n03425413", 574: "n03445777", 701: "n03888257"},
    "imageidc": {452: "n02869837", 64: "n01749939", 374: "n02488291", 236: "n02107142", 993: "n13037406",
                 176: "n02091831", 882: "n04517823", 904: "n04589890", 503: "n03062245", 74: "n01773797"},
}


def test_subsets_are_the_published_ones_in_label_order():
    found = {name: [(index, wnid) for wnid, index, _ in SUBSETS[name]] for name in PUBLISHED}
    assert found == {name: list(table.items()) for name, table in PUBLISHED.items()}


def test_subsets_agree_with_torchvision_s_class_names():
    names = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for _, index, name in sum(SUBSETS.values(), []):  # noqa: RUF017
        theirs = names[index].lower()
        assert name.lower() in theirs or theirs in name.lower()


def test_indices_sort_as_their_wnids():
    """ImageNet's 1,000 classes are numbered in the order of their wnids."""
    assert [wnid for wnid, *_ in SUBSETS["imagenet1k"]] == timm.data.ImageNetInfo().label_names()
    table = sorted({(wnid, index) for rows in SUBSETS.values() for wnid, index, _ in rows})
    assert [index for _, index in table] == list(range(1000))


def test_imagenet_100_is_cmc_s_in_its_order():
    """Its first ten are ImageIDC, as in IDC's list of a hundred."""
    wnids = [wnid for wnid, *_ in SUBSETS["imagenet100"]]
    assert SUBSETS["imagenet100"][:10] == SUBSETS["imageidc"]
    assert len(set(wnids)) == 100
    assert (wnids[10], wnids[50], wnids[-1]) == ("n01735189", "n02259212", "n02090622")


# ---- Both columns of a stage 00 --------------------------------------------------------------------------------------

OWN = {"patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2}


SMALL = {"image_size": 8, "channels": 1, "flip": False, "train_steps": 2, "learning_rate": 3e-3} | OWN


DOGS = {"0": "golden_retriever", "1": "n02088364", "2": "Samoyed"}  # 207, 162, 258 in ImageNet


PETS = {"0": "bobtail", "1": "mops", "2": "spitz"}  # no names of ImageNet


SCORER = "mobilenet_v3_small"


@pytest.fixture
def world(tmp_path, outputs):
    """Opens a stage 00 over three classes of given names, and takes models and tables as files."""
    def opened(names: dict[str, str], table: str = "", dit: int = 0, scorer: int = 0, **values):
        root = tmp_path / "-".join(names.values())
        if not root.exists():
            write_digits(root, 0, 6)
            for old, new in names.items():
                (root / old).rename(root / new)
        if table:
            (tmp_path / "table.csv").write_text(table)
            values["class_index"] = str(tmp_path / "table.csv")
        if dit:
            model = draw_weights(DiT(input_size=8, in_channels=1, num_classes=dit, **OWN), seed=4)
            save_file(model.state_dict(), tmp_path / "dit.safetensors")
            values["base_model"] = str(tmp_path / "dit.safetensors")
        if scorer:
            network = torchvision.models.get_model(SCORER, weights=None, num_classes=scorer)
            save_file(network.state_dict(), tmp_path / "scorer.safetensors")
            values |= {"classifier": SCORER, "classifier_weights": str(tmp_path / "scorer.safetensors"),
                       "classifier_size": 32}
        run = open_stage("00_prepare", **{"dataset": "folder", "root": str(root), "split": "given",
                                          "base_model": "none", **SMALL, **values})
        index_originals(run.params, run.folder)
        prepare.fetch_classifier(run)
        prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))
        opened.folder = run.folder
        table = read_table(run.folder / "classes.csv").set_index("class")
        return {name: tuple(table.loc[name, ["index", "condition"]]) for name in names.values()}
    return opened


def test_a_table_of_outputs_says_nothing_of_the_diffusion_models_labels(world):
    ten = "class,index\nbobtail,0\nmops,1\nspitz,2\n"
    with pytest.raises(ValueError, match=r"class bobtail is not known by its name to .*/dit.safetensors, .* give its "
                                         r"condition there in prepare.class_index, a CSV file with the columns class "
                                         r"and condition"):
        world(PETS, ten, dit=1000, scorer=10)  # today's silent classes 0 to 2 of ImageNet
    both = "class,index,condition\nbobtail,0,229\nmops,1,254\nspitz,2,\n"
    with pytest.raises(ValueError, match="class spitz is not known by its name"):
        world(PETS, both, dit=1000, scorer=10)
    assert world(PETS, both.replace("2,\n", "2,259\n"), dit=1000, scorer=10) == {
        "bobtail": (0, 229), "mops": (1, 254), "spitz": (2, 259)}


def test_names_of_imagenet_fill_what_the_table_leaves_open(world):
    assert world(DOGS, dit=1000, scorer=1000) == {
        "golden_retriever": (207, 207), "n02088364": (162, 162), "Samoyed": (258, 258)}
    ten = "class,index\nSamoyed,0\ngolden_retriever,1\nn02088364,2\n"
    assert world(DOGS, ten, dit=1000, scorer=10) == {
        "golden_retriever": (1, 207), "n02088364": (2, 162), "Samoyed": (0, 258)}
    own = ten.replace("index", "condition")
    assert world(DOGS, own, dit=10, scorer=1000) == {
        "golden_retriever": (207, 1), "n02088364": (162, 2), "Samoyed": (258, 0)}


@pytest.mark.parametrize(("models", "table", "sentence"), [
    ({"dit": 10}, "", r"class Samoyed is not known by its name to .*/dit.safetensors, which has 10 classes; give"),
    ({"scorer": 10}, "", r"class Samoyed is not known by its name to mobilenet_v3_small with .*/scorer.safetensors, "
                         r"which has 10 classes; give its index"),
    ({"dit": 10}, "class,condition\nSamoyed,10\ngolden_retriever,1\nn02088364,2\n",
     r"class Samoyed has condition 10, but .*/dit.safetensors has only 10 classes; correct prepare.class_index"),
    ({"dit": 1000}, "class,condition\nSamoyed,207\n",
     r"the classes Samoyed and golden_retriever have the same condition 207 in .*/dit.safetensors; give each"),
])
def test_what_a_model_does_not_know_is_one_sentence(world, models, table, sentence):
    with pytest.raises(ValueError, match=sentence):
        world(DOGS, table, **models)


def test_new_labels_of_a_published_dit_begin_as_the_table_says(world):
    """Here 10 classes that have no names: a mean of two, the model's "no class", and a random one."""
    table = "class,condition\nbobtail,1 + 4\nspitz,null\nmops,scratch\n"
    assert world(PETS, table, dit=10) == {"bobtail": (0, 10), "mops": (1, 11), "spitz": (2, 12)}
    old = draw_weights(DiT(input_size=8, in_channels=1, num_classes=10, **OWN), seed=4).y_embedder
    model = DiT.from_pretrained(world.folder / "dit")
    before, rows = old.embedding_table.weight, model.y_embedder.embedding_table.weight
    assert torch.equal(rows[:10], before[:10])
    assert torch.equal(rows[13], before[10])  # "no class" stays the last
    assert model.y_embedder.null == model.config.num_classes == 13
    assert torch.equal(rows[10], (before[1] + before[4]) / 2)
    assert torch.equal(rows[12], before[10])
    assert 0.01 < rows[11].std() < 0.04
    listed = read_table(world.folder / "new_labels.csv", ["labels"])
    assert listed["labels"].tolist() == ["1 4", "", "10"]
    assert world(PETS, table, dit=10) == {"bobtail": (0, 10), "mops": (1, 11), "spitz": (2, 12)}  # a run that resumes
    assert torch.equal(DiT.from_pretrained(world.folder / "dit").y_embedder.embedding_table.weight, rows)


def test_new_labels_by_names_of_imagenet_and_by_what_a_classifier_takes_the_originals_for(world, tmp_path):
    network = torchvision.models.get_model(SCORER, weights=None, num_classes=1000)
    with torch.no_grad():
        network.classifier[-1].bias[321] = 1e3  # whatever it sees, it says 321
    save_file(network.state_dict(), tmp_path / "knows.safetensors")
    table = (f"class,condition\nbobtail,beagle + n02111889\nspitz,259\n"
             f"mops,nearest {SCORER}:{tmp_path}/knows.safetensors\n")
    assert world(PETS, table, dit=1000, scorer=0) == {"bobtail": (0, 1000), "mops": (1, 1001), "spitz": (2, 259)}
    rows = DiT.from_pretrained(world.folder / "dit").y_embedder.embedding_table.weight
    assert torch.equal(rows[1000], (rows[162] + rows[258]) / 2)
    assert torch.equal(rows[1001], rows[321])
    own = "class,index,condition\nbobtail,5,5\nspitz,259,259\nmops,254,nearest\n"
    assert world(PETS, own, dit=1000, scorer=1000)["mops"] == (254, 1000)


@pytest.mark.parametrize(("table", "sentence"), [
    ("bobtail,beagle + colly", r"condition of class bobtail names 'colly', which is none of the 1,000 classes of .*"
                               r"/dit.safetensors, such as n01440764, .*; name some of those, joined by \+, or write"),
    ("bobtail,1 + 1000", "the condition of class bobtail names '1000', which is none of the 1,000 classes"),
    ("bobtail,nearest", "asks for the nearest label of class bobtail, but the scorer is trained here and does not"),
])
def test_new_labels_that_begin_with_nothing_are_one_sentence(world, table, sentence):
    with pytest.raises(ValueError, match=sentence):
        world(PETS, f"class,condition\n{table}\nmops,null\nspitz,null\n", dit=1000)


def test_a_dit_that_has_no_label_for_no_class_says_so(world, capsys):
    """Its table has as many rows as the data set classes, which its user has given all of."""
    conditions = "class,condition\nbobtail,0\nmops,1\nspitz,2\n"
    assert world(PETS, conditions, dit=2) == {"bobtail": (0, 0), "mops": (1, 1), "spitz": (2, 2)}
    model = DiT.from_pretrained(world.folder / "dit")
    assert (model.config.num_classes, model.config.class_dropout) == (3, 0.0)
    printed = capsys.readouterr().out
    assert "has 3 rows of labels, as many as there are classes, and so none for no class; set pool.guidance" in printed
    assert "a DiT of 3 classes for images of 8 pixels a side, without a label for no class" in printed


def test_models_that_are_trained_here_count_by_label(world):
    assert world(PETS, base_model="train") == {"bobtail": (0, 0), "mops": (1, 1), "spitz": (2, 2)}


def test_a_scorer_that_names_its_outputs_needs_no_table(world, tmp_path):
    names = ["none", "spitz", "Mops", "bobtail"]
    (tmp_path / "scorer.json").write_text(json.dumps({"classes": names}))
    assert world(PETS, scorer=4) == {"bobtail": (3, 0), "mops": (2, 1), "spitz": (1, 2)}
    (tmp_path / "scorer.json").write_text(json.dumps({"classes": ["none", "spitz", "mops", "colly"]}))
    with pytest.raises(ValueError, match=r"class bobtail is not known .* has 4 classes \(such as none, spitz, mops\)"):
        world(PETS, scorer=4)


def test_models_of_another_stage_00_are_known_by_its_classes(world, tmp_path, outputs):
    root = write_digits(tmp_path / "digits", 0, 12)
    run = open_stage("00_prepare", dataset="folder", root=str(root), split="holdout", val_per_class=2,
                     classes=["2", "0", "1"], classifier_epochs=1, **SMALL)
    index_originals(run.params, run.folder)
    prepare.difficulty_classifier(run)
    autoencoder = prepare.fetch_autoencoder(run)
    prepare.train_base_model(run, prepare.encode_originals(run, autoencoder))
    run.finish()
    models = {"classifier": str(run.folder / "classifier"), "base_model": str(run.folder / "dit")}
    names = {"0": "0", "1": "1", "2": "2"}
    assert world(names, **models) == {"0": (1, 1), "1": (2, 2), "2": (0, 0)}
    assert world(names, **models | {"classifier": str(run.folder)}) == {"0": (1, 1), "1": (2, 2), "2": (0, 0)}
    path = run.folder / "classifier" / "config.json"  # as an older kit wrote it
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "classes"}))
    assert load_classifier(run.folder / "classifier").config.classes == ()
    assert world(names, classifier=str(run.folder / "classifier")) == {"0": (0, 0), "1": (1, 1), "2": (2, 2)}
    with pytest.raises(ValueError, match=r"class bobtail is not known by its name to .*/dit, which has 3 classes"):
        world(PETS, base_model=models["base_model"])


# ---- Names -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["wnid", "name", "description"])
def test_imagenets_classes_are_found_in_any_order_under_any_name(form):
    order = np.random.default_rng(0).permutation(1000).tolist()
    wnids, info = list(imagenet_names()), timm.data.ImageNetInfo()
    known = {"wnid": wnids, "name": list(imagenet_names().values()),
             "description": [info.index_to_description(i) for i in range(1000)]}[form]
    known = [known[i] for i in order]
    found = match_class_names(wnids, known)
    assert all(order[place] == wnids.index(wnid) for wnid, place in found.items())
    assert len(found) >= {"wnid": 1000, "name": 996, "description": 980}[form]
    assert match_class_names(["golden_retriever"], known)["golden_retriever"] == order.index(207)


def test_names_that_two_outputs_share_are_found_by_neither():
    assert match_class_names(["crane", "dog"], ["crane", "dog", "crane"], apart={"crane"}) == {"dog": 1}
    with pytest.raises(ValueError, match="class crane may be two of ImageNet's classes"):
        model_indices("x", ["crane"], 1000)
    assert model_indices("x", ["crane"], 3, ["a", "b", "Crane"]) == [2]


def test_columns_of_a_table_are_read_apart(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("Class,Condition,index\na,1,\nb,,1\n")
    assert read_class_index(path) == {"index": {"b": 1}, "condition": {"a": 1}}
    path.write_text("class,condition\na,1\nb,1\n")
    with pytest.raises(ValueError, match="row 3: class b has condition 1, which class a has already; give each class"):
        read_class_index(path)
    pd.DataFrame({"class": ["a"], "condition": np.array([7])}).to_csv(path, index=False)
    assert read_class_index(path) == {"condition": {"a": 7}}
