"""Stage 03's probabilities: over all outputs or the task's own, at a temperature, and what that changes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from restamp import certify
from safetensors.torch import save_file
from scipy.special import softmax
from small_world import make_pool, make_prepare, open_stage, small_classifier, write_digits

from dgs_utils import plots
from dgs_utils.classifiers.calibration import fit_temperature
from dgs_utils.classifiers.folds import assign_folds
from dgs_utils.classifiers.measures import MEASURES, all_measures
from dgs_utils.classifiers.scorer import Classifier
from dgs_utils.difficulty import calibration, compare_difficulties, held_out, score_images, score_source
from dgs_utils.difficulty.agreement import agreement, difficulty_columns, mean_ranks
from dgs_utils.difficulty.resumable import read_exact
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import validate
from dgs_utils.params.base import hash_key
from dgs_utils.selection.score_tables import read_scores, with_score
from dgs_utils.store.node import default_node
from dgs_utils.transform import read_sets
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan

INDEX = np.array([4, 0, 2])  # outputs of the digits 0, 1 and 2 among five


def wide(steps: int = 30, loud: float = 3.0) -> Classifier:
    """Return a scorer of three digits with two more outputs, which answer to them too."""
    scorer = small_classifier(steps=steps)
    network = torch.nn.Sequential(scorer.network, torch.nn.Linear(3, 5))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0, 1, 0], [0, 0.9, 0], [0, 0, 1], [0.9, 0, 0], [1.0, 0, 0]]))
        network[1].bias.copy_(torch.tensor([0, loud, 0, loud, 0]))
    return Classifier(network, replace(scorer.config, num_classes=5))


def logits_of(scorer: Classifier, images: ImageSet) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([scorer(scorer.read(path)[None]) for path in images.paths]).double().numpy()


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> ImageSet:
    return ImageSet.read(write_digits(tmp_path_factory.mktemp("scans"), 0, 30))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_is_that_of_the_outputs_in_question(scans, measure, temperature):
    options = {"index": INDEX, "measure": measure, "temperature": temperature, "alternatives": True, "device": "cpu"}
    logits = logits_of(wide(), scans)
    over_all = score_images(scans, wide(), **options)
    over_task = score_images(scans, wide(), over="task", **options)
    for found, columns, targets in ((over_all, logits, INDEX[scans.labels]),
                                    (over_task, logits[:, INDEX], scans.labels)):
        expected = all_measures(columns / temperature, targets, from_="logits")[measure]
        np.testing.assert_allclose(found["score"], expected, atol=1e-6)
    assert over_all["prediction"].tolist() == logits.argmax(axis=1).tolist()
    assert over_task["prediction"].tolist() == INDEX[logits[:, INDEX].argmax(axis=1)].tolist()
    for one, other, name in ((over_all, over_task, "task"), (over_task, over_all, "all")):
        for column in ("difficulty", "prediction"):
            np.testing.assert_allclose(one[f"{column}_{name}"], other[column], atol=1e-12)
    p = softmax(logits / temperature, axis=1)
    mass = p[:, INDEX].sum(axis=1)
    own = p[range(len(p)), INDEX[scans.labels]]
    np.testing.assert_allclose(over_task["difficulty"], 1 - own / mass, atol=1e-6)  # by Bayes, of the task
    assert ("difficulty_raw" in over_all) == (temperature != 1)
    if temperature != 1:
        plain = score_images(scans, wide(), INDEX, device="cpu")
        np.testing.assert_allclose(over_all["difficulty_raw"], plain["difficulty"], atol=1e-12)


def test_it_does_not_depend_on_batches_or_on_the_other_scorers(scans):
    options = {"over": "task", "alternatives": True, "device": "cpu"}
    whole = score_images(scans, wide(), INDEX, **options)
    pd.testing.assert_frame_equal(score_images(scans, wide(), INDEX, batch_size=7, **options), whole, atol=1e-6)
    both = score_images(scans, [wide(), small_classifier()], np.stack([INDEX, np.arange(3)]),
                        temperature=(1.0, 2.0), **options)
    np.testing.assert_allclose(both["difficulty_1"], whole["difficulty"], atol=1e-6)
    second = softmax(logits_of(small_classifier(), scans) / 2, axis=1)[range(len(scans)), scans.labels]
    np.testing.assert_allclose(both["difficulty_2"], 1 - second, atol=1e-6)


def test_a_task_of_one_class_is_refused(scans):
    with pytest.raises(ValueError, match="over is 'task', and the task has one class"):
        score_images(scans.of_class("1"), wide(), over="task")


def test_published_results_keep_their_keys():
    inputs = {"pool": "a", "prepare": "b"}
    key = hash_key("03_difficulty", validate("03_difficulty", {}).cache_params(), inputs)
    assert key == "7f860bf77956"  # as before the parameters existed
    keys = {default_node("03_difficulty", values).key for values in (
        {}, {"over": "all"}, {"temperature": "none"}, {"over": "task"}, {"temperature": "fit"}, {"scorers": ["r:V1"]})}
    assert len(keys) == 4
    assert validate("03_difficulty", {"published_scores": True, "over": "task"}).unused() == (
        "scorers", "over", "temperature")


# ---- The stage -------------------------------------------------------------------------------------------------------

def fold(prepare, folds: int = 2) -> None:
    """Give a 00 folder scorers of folds, of different skill."""
    images = ImageSet.read(prepare, "train")
    table = images.table[["file_name"]].assign(fold=assign_folds(images.table, folds))
    table.to_csv(prepare / "folds.csv", index=False)
    for i in range(folds):
        small_classifier(steps=8 + 8 * i).save(prepare / "folds" / str(i))
    certify(prepare)


@pytest.fixture
def world(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 60), val=20)
    make = cache(lambda: make_pool(write_digits(tmp_path / "pool", 60, 90), prepare))  # after what a test does to 00

    def scored(**values):
        pool = make()
        folders = {}
        for source in ("originals", "pool"):
            run = open_stage("03_difficulty", source=source, prepare=str(prepare), **values,
                             **({"pool": str(pool), "originals": str(folders["originals"])} if folders else {}))
            folders[source] = run.folder
            folders[f"{source} scores"] = score_source(run)
            run.finish()
        return folders
    return prepare, scored


def test_without_folds_only_test_images_are_held_out_and_nothing_is_fitted_to_them(world):
    prepare, scored = world
    folders = scored()
    table = pd.read_csv(folders["originals"] / held_out.TABLE)
    assert table[["held_out", "images", "over"]].to_numpy().tolist() == [["test", 60, "all"]]
    answers = held_out.read_held_out(folders["originals"] / held_out.FILE)
    logits = logits_of(small_classifier(), ImageSet.read(prepare, "val"))
    np.testing.assert_allclose(answers.outputs[0], logits, atol=1e-4)
    with pytest.raises(ValueError, match="only the test images are held out, on which no selection may depend; set "
                                         r"prepare\.folds"):
        scored(temperature="fit")


def test_a_temperature_is_fitted_to_cross_fitted_outputs_and_applied_to_originals_and_pool(world):
    prepare, scored = world
    fold(prepare)
    plain, fitted = scored(), scored(temperature="fit")
    images = ImageSet.read(prepare, "train")
    each = [logits_of(small_classifier(steps=8 + 8 * i), images) for i in range(2)]
    rows = pd.read_csv(prepare / "folds.csv").set_index("file_name")["fold"].loc[images.table["file_name"]]
    crossed = np.stack(each)[rows.to_numpy(), range(len(images))]
    expected = fit_temperature(crossed, images.labels)
    table = pd.read_csv(fitted["originals"] / held_out.TABLE).iloc[0]
    assert table["held_out"] == "cross-fitted"
    assert table["temperature"] == pytest.approx(expected.value, rel=1e-3)
    assert table["temperature"] != 1
    assert table["ece_fitted"] < table["ece"]
    p = softmax(crossed / table["temperature"], axis=1)[range(len(images)), images.labels]
    np.testing.assert_allclose(fitted["originals scores"]["score"], 1 - p, atol=1e-5)
    made, before = fitted["pool scores"], plain["pool scores"]
    np.testing.assert_allclose(made["difficulty_raw"], before["score"], atol=1e-9)
    assert abs(made["score"] - before["score"]).max() > 0.01
    assert made["prediction"].tolist() == before["prediction"].tolist()
    assert set(held_out.reliability_of(fitted["originals"])["temperature"]) == {1.0, table["temperature"]}
    again = read_exact(fitted["pool"] / "scores.csv")
    assert again[[*made]].equals(made.astype({"label": str}))


@pytest.mark.parametrize(("folds", "kinds"), [(2, ["cross-fitted", "seen", "training"]), (0, ["test"] * 3)])
def test_images_are_held_out_of_each_scorer_as_far_as_is_known_of_it(world, tmp_path, folds, kinds):
    """Originals that folds hold out of the scorer of 00 may be what a further scorer of this kit was trained on."""
    prepare, scored = world
    if folds:
        fold(prepare, folds)
    small_classifier(steps=5).save(tmp_path / "mine")
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text('{"classes": ["0", "1", "2"], "crop": 32, "resize": 32}')
    folders = scored(scorers=[str(tmp_path / "mine"), f"shufflenet_v2_x0_5:{tmp_path}/w.safetensors"])
    table = pd.read_csv(folders["originals"] / held_out.TABLE)
    assert table["held_out"].tolist() == kinds


def test_reliability_is_not_known_of_published_scores(tmp_path, capsys):
    assert held_out.reliability_of(tmp_path).empty
    assert "not known" in capsys.readouterr().out


# ---- Several scorers -------------------------------------------------------------------------------------------------

def test_mean_ranks_are_shares_of_easier_originals():
    rng = np.random.default_rng(0)
    originals = pd.DataFrame({"class": ["a", "b"] * 40, "difficulty_1": rng.random(80), "difficulty_2": rng.random(80)})
    originals.loc[:9, "difficulty_1"] = 0.25  # ties
    scores = originals.sample(30, random_state=0).reset_index(drop=True)
    expected = []
    for row in scores.itertuples():
        own = originals[originals["class"] == row[1]]
        expected.append(np.mean([((own[name] < value).sum() + 0.5 * (own[name] == value).sum()) / len(own)
                                 for name, value in zip(("difficulty_1", "difficulty_2"), row[2:], strict=True)]))
    np.testing.assert_allclose(mean_ranks(scores, originals), expected, atol=1e-12)
    np.testing.assert_allclose(mean_ranks(scores[:7], originals), expected[:7], atol=1e-12)  # of a smaller pool
    bent = [frame.assign(difficulty_2=frame["difficulty_2"] ** 3) for frame in (scores, originals)]
    np.testing.assert_allclose(mean_ranks(*bent), expected, atol=1e-12)  # how sure a scorer is plays no part
    ends = pd.DataFrame({"class": "a", "difficulty_1": [0.0, 1.0, 1e-9], "difficulty_2": [0.0, 1.0, 1e-9]})
    assert mean_ranks(ends, originals)[:2].tolist() == [0, 1]
    assert 0 < mean_ranks(ends, originals)[2] < 0.01  # easier than every original, and still in order


def test_agreement_is_one_with_itself_and_chance_with_noise():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"file_name": [f"{i}.png" for i in range(2000)], "class": ["a", "b"] * 1000,
                          "difficulty": rng.random(2000) ** 2})
    table["difficulty_1"], table["difficulty_2"] = table["difficulty"], rng.random(2000) ** 2
    found = agreement(table, table, ipc=100).set_index(["first", "second"])
    same, other = found.loc[("in use", "scorer 1")], found.loc[("in use", "scorer 2")]
    assert same[["rank correlation", "mean change", "overlap"]].tolist() == pytest.approx([1, 0, 1])
    assert same["by chance"] < 0.9
    assert abs(other["overlap"] - other["by chance"]) < 0.1
    assert other["mean change"] == pytest.approx((table["difficulty_2"] - table["difficulty"]).mean())


def test_several_scorers_have_a_mean_rank_that_later_stages_take(world, tmp_path):
    prepare, scored = world
    small_classifier(steps=12).save(tmp_path / "second")
    folders = scored(scorers=[str(tmp_path / "second")])
    pool, originals = (folders[f"{source} scores"] for source in ("pool", "originals"))
    np.testing.assert_allclose(pool["mean_rank"], mean_ranks(pool, originals), atol=1e-12)
    run = open_stage("04_transform", pool_scores=str(folders["pool"]), original_scores=str(folders["originals"]),
                     ipc=5, score="mean_rank")
    sets = read_sets(run)
    expected = pool.set_index("file_name")["mean_rank"].loc[sets.pool["file_name"]]
    np.testing.assert_allclose(sets.pool["score"], expected, atol=1e-9)
    again = open_stage("03_difficulty", source="pool", prepare=str(prepare), scorers=[str(tmp_path / "second")],
                       pool=str(next(folders["pool"].parents[1].glob("02_pool/*"))),
                       originals=str(folders["originals"]))
    table = compare_difficulties(again, read_scores(folders["pool"]))
    assert len(table) == 3  # the mean and two scorers
    figures = [plots.difficulty_otherwise(pool, difficulty_columns(pool)), plots.reliability_diagram(
        calibration(again)[1])]
    assert all(figure.axes for figure in figures)
    with pytest.raises(ValueError, match=r"has no column mean_rank, since one scorer alone .* difficulty\.scorers"):
        with_score(pool.drop(columns="mean_rank"), "mean_rank", tmp_path)


def test_a_plan_without_several_scorers_or_held_out_images_is_refused(tmp_path):
    (tmp_path / "trial.yaml").write_text("name: trial\n")
    for changes, sentence in ((["sample.score=mean_rank"], "one scorer alone scores the images"),
                              (["difficulty.temperature=fit"], r"set prepare\.folds to 2 or more")):
        with pytest.raises(ValueError, match=sentence):
            plan(read_experiment(tmp_path / "trial.yaml", changes))
    assert plan(read_experiment(tmp_path / "trial.yaml", ["difficulty.temperature=fit", "prepare.folds=3"]))
