"""What an experiment leaves open: numbers of the digits reach no other data, and images are seen at their own size."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from small_world import CLASSES, open_stage, outputs_below, write_digits

from dgs_utils import condense, evaluate, prepare
from dgs_utils.diffusion.training import ema_warning
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import STAGES, validate
from dgs_utils.params.dataset_defaults import DATASETS, QUICKSTART_DATASET
from dgs_utils.store.manifest import read_manifest
from dgs_utils.store.node import default_node
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.notebook import format_failure
from dgs_utils.workflow.planner import expand, plan

ROOT = Path(__file__).resolve().parents[2]
OTHERS = sorted(set(DATASETS) - {QUICKSTART_DATASET})
OPEN = {stage: sorted(model().defaults({})) for stage, model in STAGES.items() if model().defaults({})}
BUILT = {"train_steps": 7, "hidden_size": 32, "depth": 2, "num_heads": 2, "image_size": 8}


# ---- What is settled before anything is looked at --------------------------------------------------------------------

def test_the_data_sets_are_those_that_can_be_named():
    assert set(DATASETS) == set(STAGES["00_prepare"].model_fields["dataset"].annotation.__args__)


@pytest.mark.parametrize("dataset", OTHERS)
def test_numbers_of_the_digits_reach_no_other_data(dataset):
    """The protocol's, as the fact sheet has them, stand in their place [F §9.1, §10.4–10.5]."""
    evaluated = validate("06_evaluate", {}).with_defaults({"dataset": dataset})
    assert (evaluated.epoch_factor, evaluated.evaluations) == (1.0, 100)
    assert evaluate.recipe_of("idc", 10, epoch_factor=evaluated.epoch_factor).epochs == 2000
    made = validate("08_condense", {}).with_defaults({"dataset": dataset})
    assert made.iterations == 20000
    made = validate("08_condense", {"method": "idc"}).with_defaults({"dataset": dataset})
    assert (made.iterations, made.inner_loops, made.pretrain_epochs, made.net_batches) == (500, 100, 10, 8)
    own = validate("00_prepare", {"dataset": dataset, **BUILT}).with_defaults({})
    assert (own.classifier_epochs, own.flip, own.learning_rate, own.ema_decay) == (300, True, 1e-4, 0.5)
    tuned = validate("01_fine_tune", {}).with_defaults({"dataset": dataset})
    assert (tuned.epochs, tuned.ema_decay) == (8, 0.9999)
    assert validate("02_pool", {}).with_defaults({"dataset": dataset}).guidance == 4.0
    for size in (evaluated.image_size, made.image_size, own.classifier_size):
        assert size == {"fashion": 32, "cifar10": 32, "folder": 0}.get(dataset, 224)


def test_what_is_given_is_kept():
    for stage, names in OPEN.items():
        model = STAGES[stage]
        for name in names:
            value = {"flip": False, "channels": 1, "image_size": 40, "ema_decay": 0.0, "guidance": 0.0}.get(name, 1)
            for dataset in DATASETS:
                assert getattr(validate(stage, {name: value}).with_defaults({"dataset": dataset}), name) == value
        settled = model().with_defaults({})
        assert settled.with_defaults({"dataset": "folder"}) == settled


def test_what_decides_nothing_keeps_the_names_of_results():
    """Stage 00 of images that are only looked at is named as ever, whatever the numbers for training are."""
    given = {"dataset": "folder", "base_model": "none", "classifier": "resnet50", "channels": 3,
             "classifier_weights": "IMAGENET1K_V1", "classifier_size": 224}
    numbers = {"image_size": 8, "hidden_size": 96, "depth": 3, "num_heads": 4, "flip": True, "patch_size": 2,
               "train_steps": 1000, "learning_rate": 3e-3, "ema_decay": 0.99, "classifier_epochs": 15}
    assert validate("00_prepare", given).with_defaults({}) == validate("00_prepare", given | numbers)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "params").glob("*.yaml")))
def test_no_experiment_file_leaves_open_what_it_depends_on(name):
    """So the published runs and the evidence cannot move with a default."""
    experiment = read_experiment(ROOT / "params" / name)
    if experiment.sections["00_prepare"]["dataset"] == QUICKSTART_DATASET:
        return
    named = {*experiment.sections, *(stage for grid in experiment.grids for stage, _ in grid)}
    for stage in {"01_fine_tune", "02_pool", "06_evaluate", "08_condense"} & named:
        for values in {repr(v): v for v in (experiment.values(stage, point) for point in experiment.points())}.values():
            params = validate(stage, values)
            others, digits = (params.with_defaults({"dataset": dataset}).cache_params()
                              for dataset in ("folder", QUICKSTART_DATASET))
            assert others == digits, stage


def test_a_diffusion_model_that_nobody_described_is_asked_for_before_work(tmp_path, outputs):
    write_digits(tmp_path / "real", 0, 4)
    file = tmp_path / "x.yaml"
    file.write_text("prepare: {dataset: folder, root: real}\npool: {}")
    with pytest.raises(ValueError, match=r"nothing says which diffusion model suits these images; give "
                                         r"prepare\.image_size, prepare\.train_steps, prepare\.hidden_size"):
        plan(read_experiment(file))
    told = "dit_size: DiT-S/2, image_size: 8, train_steps: 5"
    file.write_text(f"prepare: {{dataset: folder, root: real, {told}}}\npool: {{}}")
    assert plan(read_experiment(file))
    run = open_stage("00_prepare", dataset="folder", root=str(tmp_path / "real"), dit_size="DiT-S/2")
    with pytest.raises(ValueError, match=re.escape("give prepare.image_size, prepare.train_steps, or set")):
        prepare.fetch_base_model(run, prepare.fetch_autoencoder(run))


def test_a_checkpoint_that_is_described_is_described_wholly():
    """No checkpoint tells how many heads its layers have, and the digits' number would be read without a word."""
    given = {"dataset": "folder", "base_model": "own.pt", "image_size": 64}
    validate("00_prepare", given).with_defaults({}).check_model()  # a published size, or a folder that tells
    with pytest.raises(ValueError, match=re.escape("give prepare.num_heads, or set")):
        validate("00_prepare", given | {"hidden_size": 64, "depth": 4}).with_defaults({}).check_model()


def test_what_failed_is_named_by_what_somebody_has_set(tmp_path, outputs):
    write_digits(tmp_path / "real", 0, 4)
    (tmp_path / "x.yaml").write_text("prepare: {dataset: folder, root: real, base_model: none}\n"
                                     "evaluate: {distilled: real, epochs: 3}")
    first, second, *_ = expand(read_experiment(tmp_path / "x.yaml"))
    assert re.match(r"FAILED 00_prepare \(dataset=folder, root=[^,]*real, base_model=none\): why; ",
                    format_failure(first, "why"))
    assert format_failure(second, "why").startswith("FAILED 06_evaluate (epochs=3): why; ")


def test_archives_with_smaller_images_are_seen_smaller():
    for archive, size in (("160", 128), ("320", 224), ("full", 224)):
        originals = {"dataset": "imagewoof", "archive": archive}
        assert validate("06_evaluate", {}).with_defaults(originals).image_size == size
    assert validate("06_evaluate", {}).with_defaults({"dataset": "cifar10", "archive": "160"}).image_size == 32


def test_a_teacher_sees_what_its_students_see():
    soft = {"protocol": "rded", "teacher_network": "resnet18"}
    for dataset, size in (("imagewoof", 224), ("folder", 0)):
        params = validate("06_evaluate", soft).with_defaults({"dataset": dataset})
        assert params.inputs()["teacher"].overrides["classifier_size"] == size


# ---- What the images say ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Digit scans as somebody's own images of 20 × 24 pixels: finished stages 00 and a set to evaluate."""
    root = tmp_path_factory.mktemp("own")
    for split, (start, stop) in {"train": (0, 8), "val": (8, 12)}.items():
        enlarged(write_digits(root / "real" / split, start, stop))
    with outputs_below(root):
        run = open_stage("00_prepare", dataset="folder", root=str(root / "real"), split="given", base_model="none",
                         classifier_epochs=1)
        index_originals(run.params, run.folder)
        prepare.difficulty_classifier(run)
        run.finish()
        yield run.folder, enlarged(write_digits(root / "mine", 30, 33))


def enlarged(root: Path) -> Path:
    for path in root.rglob("*.png"):
        Image.open(path).resize((24, 20)).save(path)
    return root


def test_a_classifier_that_is_trained_here_sees_the_images_as_they_are(own):
    folder, _ = own
    assert json.loads((folder / "classifier" / "config.json").read_text())["transform"]["crop"] == 20
    manifest = read_manifest(folder)
    assert (manifest["params"]["classifier_size"], manifest["identity"]["classifier_size"]) == (20, 0)


def test_students_see_the_images_as_they_are(own, capsys):
    folder, mine = own
    for asked, size in ({}, 20), ({"image_size": 16}, 16):
        run = open_stage("06_evaluate", prepare=str(folder), distilled=str(mine), epochs=1, evaluations=1, repeats=1,
                         **asked)
        row = evaluate.evaluate(run, *evaluate.open_sets(run)).iloc[0]
        assert (row["image_size"], row["flip"]) == (size, True)
        assert ("image_size: 20, as the images have it" in capsys.readouterr().out) == (not asked)
        assert run.finish()["params"]["image_size"] == size


def test_pixels_are_optimised_at_the_images_own_size(own):
    folder, _ = own
    run = open_stage("08_condense", prepare=str(folder), ipc=1, iterations=1, real_batch=2)
    images, _ = condense.condense(run)
    assert images.images.shape == (len(CLASSES), 3, 20, 20)
    run.finish()
    again = open_stage("08_condense", prepare=str(folder), ipc=1, iterations=1, real_batch=2)
    assert again.cached
    assert condense.condense(again)[0].images.shape == images.images.shape


def test_large_images_are_seen_as_published(tmp_path):
    for place, side in enumerate((300, 500, 400)):
        Image.new("RGB", (side, 600)).save(tmp_path / f"{place}.png")
    found = ImageSet(tmp_path, pd.DataFrame({"file_name": [f"{i}.png" for i in range(3)], "class": "a", "label": 0}))
    assert (found.side(1000), found.side(224)) == (400, 224)


def test_by_hand_and_by_command_fill_the_same_folders(own, tmp_path):
    """Also where the images decide: the key says that they do, whoever asks."""
    folder, mine = own
    file = tmp_path / "x.yaml"
    file.write_text(f"evaluate: {{prepare: '{folder}', distilled: '{mine}', epochs: 3}}")
    [planned] = [node for node in expand(read_experiment(file)) if node.stage == "06_evaluate"]
    opened = open_stage("06_evaluate", prepare=str(folder), distilled=str(mine), epochs=3)
    assert opened.key == planned.key
    assert planned.params.evaluations == 100


@pytest.mark.parametrize("stage", STAGES)
def test_notebooks_run_by_hand_fill_the_quickstarts_folders(stage):
    if stage != "08_condense":  # which the quickstart does without
        nodes = {node.key for node in expand(read_experiment(ROOT / "params" / "quickstart.yaml"))}
        node = default_node(stage)
        assert node.key in nodes or stage == "07_figures"  # by hand it shows one set


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.5), (20, 0.5), (1000, 0.99), (100_000, 0.9999), (10**7, 0.9999)])
def test_an_average_of_weights_remembers_a_tenth_of_a_training(steps, decay):
    params = validate("00_prepare", {"dataset": "folder", **BUILT, "train_steps": steps}).with_defaults({})
    assert params.ema_decay == decay
    assert ema_warning(decay, max(steps, 20)) == ""


def test_an_average_that_is_mostly_what_it_began_with_is_told():
    assert ema_warning(0.9999, 12_000) == ""  # as published: 30 % are the pre-trained weights
    assert ema_warning(0.9999, 324) == (
        "the moving average of the weights, which is what is kept, still holds 97% of those it begins with after 324 "
        "steps of ema_decay 0.9999; lower ema_decay to 0.9691, or train longer")
