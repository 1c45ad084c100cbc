"""Training dynamics: kept epoch by epoch through kills, and turned into scores by their definitions."""

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from small_grid import build
from small_world import make_pool, open_stage, write_digits
from waits import HANG

from dgs_utils import sample
from dgs_utils.classifiers.dynamics import Dynamics, dynamics_of_epoch, dynamics_scores, read_dynamics, snapshot_path
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.difficulty import score_images, score_source, snapshots
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.methods import DYNAMICS_SCORES
from dgs_utils.params import validate
from dgs_utils.prepare import difficulty_classifier
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.rule_registry import Candidates
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.selection.select import select
from dgs_utils.store.manifest import hash_entries
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan

EPOCHS = 12


# ---- Scores and the draw ---------------------------------------------------------------------------------------------

def slowly(own: list, runner_up: list, error: list) -> dict:
    """One image's scores by the words of their definitions."""
    epochs = len(own)
    right = [a > b for a, b in zip(own, runner_up, strict=True)]
    lost = sum(1 for e in range(1, epochs) if right[e - 1] and not right[e])
    deviations, products = [], []
    for start in range(epochs - 9):
        window = own[start : start + 10]
        mean = sum(window) / 10
        deviations.append((sum((p - mean) ** 2 for p in window) / 10) ** 0.5)
        products.append(deviations[-1] * (1 - mean))
    margin = sum(a - b for a, b in zip(own, runner_up, strict=True)) / epochs
    return {"aum": (1 - margin) / 2, "forgetting": lost / (epochs // 2),
            "dyn_unc": 2 * sum(deviations) / len(deviations),
            "dual": sum(products) / len(products) / (27 / 256) ** 0.5,
            "el2n_early": sum(error[:10]) / 10, "mean_probability": sum(own) / epochs}


@settings(deadline=None, max_examples=40)
@given(epochs=st.integers(10, 16), images=st.integers(1, 5), levels=st.sampled_from([2, 3, 1000]),
       seed=st.integers(0, 10_000))
def test_scores_are_those_of_their_definitions(epochs, images, levels, seed):
    """Few levels make ties between the class and its runner-up."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, levels, (2, epochs, images)) / max(levels - 1, 1)
    other = np.minimum(rng.integers(0, levels, own.shape) / max(levels - 1, 1), 1 - own)
    dynamics = Dynamics(*(a.astype(np.float16) for a in (own, other, rng.random(own.shape))))
    found = dynamics_scores(dynamics)
    assert set(found) == {*DYNAMICS_SCORES, "mean_probability"}
    for image in range(images):
        each = [slowly(*(array[scorer, :, image].astype(float).tolist() for array in dynamics)) for scorer in range(2)]
        for name, values in found.items():
            assert values[image] == pytest.approx(np.mean([scores[name] for scores in each]), abs=1e-12)
            assert 0 <= values[image] <= 1


def test_the_largest_scores_are_reached():
    """An image that is recognised every other time is forgotten and doubted as often as can be."""
    quarter = np.tile([1, 0, 0, 0, 0], 2)[:, None]
    half = np.tile([1, 0], 5)[:, None]
    dual, other = (dynamics_scores(Dynamics(*(a[None].astype(np.float16) for a in (p, 1 - p, 1 - p))))
                   for p in (quarter, half))
    assert other["forgetting"] == other["dyn_unc"] == 1
    assert dual["dual"] == pytest.approx(0.4 * 0.8 / (27 / 256) ** 0.5)
    with pytest.raises(ValueError, match=r"have 9 epochs.*raise prepare\.classifier_epochs to 10"):
        dynamics_scores(Dynamics(*(np.zeros((1, 9, 2), np.float16),) * 3))


@given(classes=st.integers(2, 6), images=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_look_keeps_own_runner_up_and_error(classes, images, seed):
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(scale=3, size=(images, classes)), rng.integers(0, classes, images)
    found = dynamics_of_epoch(torch.tensor(logits), target)
    assert found.p_true.shape == (1, 1, images)
    assert found.p_true.dtype == np.float16
    for i, (row, own) in enumerate(zip(torch.tensor(logits).softmax(1).tolist(), target.tolist(), strict=True)):
        others = row[:own] + row[own + 1 :]
        error = (((1 - row[own]) ** 2 + sum(p**2 for p in others)) / 2) ** 0.5
        assert [a[0, 0, i] for a in found] == pytest.approx([row[own], max(others), error], abs=1e-3)


def dual_weights(scores, mean, k):
    """DUAL's weights of images, from scipy's Beta density."""
    top = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:10]
    anchor = np.mean([mean[i] for i in top])
    b = 15 * (1 - anchor) * (1 - ((len(scores) - k) / len(scores)) ** 4)
    return np.array(scores) * beta.pdf(mean, 16 - b, b)


def chosen_by(scores, mean, k, draws=4000):
    return [tuple(select("dual", [Candidates("a", len(scores), np.random.default_rng(seed), scores=np.array(scores),
                                             mean_probability=np.array(mean))], k)[0].tolist())
            for seed in range(draws)]


@pytest.mark.parametrize("k", [1, 2])
def test_the_draw_of_dual_is_in_proportion_to_score_and_density(k):
    scores, mean = [0.2, 0.5, 0.9, 0.4, 0.0], [0.3, 0.6, 0.5, 0.6, 0.4]
    weights = dual_weights(scores, mean, k)
    found = chosen_by(scores, mean, k)
    for order in itertools.permutations(range(4), k):
        chance, left = 1.0, weights.sum()
        for image in order:
            chance, left = chance * weights[image] / left, left - weights[image]
        seen = sum(draw == order for draw in found) / len(found)
        assert seen == pytest.approx(chance, abs=4 * (chance * (1 - chance) / len(found)) ** 0.5 + 1e-9)


@given(size=st.integers(1, 14), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_dual_takes_scored_images_first_and_bears_certainty(size, seed):
    """With probabilities of 0 and 1, whose density has no bounds, and scores of 0."""
    rng = np.random.default_rng(seed)
    scores, mean = rng.integers(0, 3, size) / 2, rng.integers(0, 3, size) / 2
    for k in {1, size, int(rng.integers(1, size + 1))}:
        [draw] = chosen_by(scores, mean, k, draws=1)
        assert len(set(draw)) == k
        assert (scores[list(draw)] > 0).sum() == min(k, (scores > 0).sum())


# ---- Keeping them ----------------------------------------------------------------------------------------------------

def prepared(root, name, **values):
    """A finished 00 folder over few digits."""
    run = open_stage("00_prepare", dataset="folder", root=str(root / "real"), val_per_class=6, base_model="none",
                     classifier_size=8, classifier_epochs=EPOCHS, output=str(root / name), **values)
    index_originals(run.params, run.folder)
    difficulty_classifier(run)
    run.finish()
    return run.folder


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A folder with real digits, and the 00 folder of a scorer whose training was watched."""
    root = tmp_path_factory.mktemp("dynamics")
    write_digits(root / "real", 0, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGS_OUTPUTS", str(root / "outputs"))
        yield root, prepared(root, "watched", dynamics=True)


def scored(prepare, **values):
    run = open_stage("03_difficulty", prepare=str(prepare), **values)
    found = score_source(run)
    run.finish()
    return run, found


def test_what_is_kept_is_what_the_snapshots_say(watched):
    _, folder = watched
    images, scorer = ImageSet.read(folder, "train"), load_classifier(folder / "classifier")
    found, names = read_dynamics(folder / "dynamics.safetensors")
    assert names == images.table["file_name"].tolist()
    assert found.p_true.shape == (1, EPOCHS, len(images))
    for epoch in (1, 7, EPOCHS):
        state = load_snapshot(folder, "classifier", epoch)
        scorer.network.load_state_dict(state)
        scores = score_images(images, scorer, device="cpu")
        np.testing.assert_allclose(found.p_true[0, epoch - 1], 1 - scores["difficulty"], atol=1e-3)
        np.testing.assert_allclose(found.error[0, epoch - 1], scores["el2n"], atol=1e-3)
        margin = found.p_true[0, epoch - 1].astype(float) - found.p_second[0, epoch - 1]
        np.testing.assert_allclose((1 - margin) / 2, scores["margin"], atol=1e-3)
    last = load_classifier(folder / "classifier").network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in last.items())
    assert not (folder / "checkpoints").exists() or not any((folder / "checkpoints").rglob("*.*"))


def load_snapshot(folder, scorer, epoch):
    from safetensors.torch import load_file

    return load_file(snapshot_path(folder, scorer, epoch))


def test_watching_changes_nothing_of_a_training(watched):
    root, folder = watched
    plain = prepared(root, "plain")
    for name in ("classifier/model.safetensors", "classifier_curve.csv"):
        assert (plain / name).read_bytes() == (folder / name).read_bytes()
    assert not (plain / "dynamics.safetensors").exists()


KILLED = """
import os, signal, sys
from small_world import open_stage
from dgs_utils import prepare
from dgs_utils.store import checkpoint
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.prepare import difficulty_classifier
class Killed(checkpoint.Checkpointer):
    def save(self, state):
        if state["epochs_done"] == 6:  # its snapshot is there, its state is not
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(state)
prepare.Checkpointer, checkpoint.INTERVAL_S = Killed, 0
run = open_stage("00_prepare", dataset="folder", root=sys.argv[1], val_per_class=6, base_model="none",
                 classifier_size=8, classifier_epochs=EPOCHS, output=sys.argv[2], dynamics=True)
index_originals(run.params, run.folder)
difficulty_classifier(run)
"""


def test_a_killed_training_goes_on_and_ends_alike(watched):
    root, folder = watched
    other = root / "killed"
    code = [sys.executable, "-c", KILLED.replace("EPOCHS", str(EPOCHS)), str(root / "real"), str(other)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(code, env=environment, timeout=HANG).returncode == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in (other / "snapshots" / "classifier").glob("[0-9]*")}
    assert {file.name for file in kept} == {f"{epoch}.safetensors" for epoch in range(1, 7)}
    assert prepared(root, "killed", dynamics=True) == other
    again = {file.name for file, time in kept.items() if file.stat().st_mtime_ns != time}
    assert again == {"6.safetensors"}
    assert hash_entries(other) == hash_entries(folder)


def test_a_run_that_was_stopped_before_the_dynamics_were_joined_joins_them(watched, tmp_path):
    _, folder = watched
    whole = (folder / "dynamics.safetensors").read_bytes()
    run = open_stage("00_prepare", dataset="folder", root=str(folder.parent / "real"), val_per_class=6,
                     base_model="none", classifier_size=8, classifier_epochs=EPOCHS, output=str(tmp_path / "again"),
                     dynamics=True)
    index_originals(run.params, run.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgs_utils.prepare._merge_dynamics", stop)
        with pytest.raises(KeyboardInterrupt):
            difficulty_classifier(run)
    difficulty_classifier(run)
    assert (run.folder / "dynamics.safetensors").read_bytes() == whole


def stop(*_):
    raise KeyboardInterrupt


# ---- Stage 03 and what follows ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def judged(watched):
    """Scores of originals and of a pool, by the watched scorer."""
    root, folder = watched
    originals, _ = scored(folder, source="originals")
    pool = make_pool(write_digits(root / "pool", 30, 42), folder)
    run, _ = scored(folder, pool=str(pool), originals=str(originals.folder))
    return folder, pool, originals.folder, run.folder


def test_originals_and_pool_get_scores_from_dynamics(judged):
    folder, pool, originals, scores = judged
    kept, names = read_dynamics(folder / "dynamics.safetensors")
    table = read_scores(originals).set_index("file_name").loc[names]
    for name, values in dynamics_scores(kept).items():
        np.testing.assert_allclose(table[name], values, atol=1e-12)
    images, scorer = ImageSet.read(pool), load_classifier(folder / "classifier")
    own, margin, errors = [], [], []
    for epoch in range(1, EPOCHS + 1):
        scorer.network.load_state_dict(load_snapshot(folder, "classifier", epoch))
        found = score_images(images, scorer, device="cpu")
        own.append(1 - found["difficulty"])
        margin.append(1 - 2 * found["margin"])
        errors.append(found["el2n"])
    expected = pd.DataFrame({i: slowly(list(a), [p - m for p, m in zip(a, b, strict=True)], list(c))
                             for i, (a, b, c) in enumerate(zip(*map(np.transpose, (own, margin, errors)),
                                                               strict=True))}).T
    table = read_scores(scores).set_index("file_name").loc[images.table["file_name"]]
    for name in ("aum", "dyn_unc", "dual", "el2n_early", "mean_probability"):
        np.testing.assert_allclose(table[name], expected[name], atol=2e-3)
    kept, names = read_dynamics(scores / "dynamics.safetensors")
    assert kept.p_true.shape == (1, EPOCHS, len(images))
    assert names == images.table["file_name"].tolist()


def test_sets_are_chosen_by_what_the_training_tells(judged):
    folder, pool, _, scores = judged
    table = read_scores(scores)

    def chosen(**values):
        run = open_stage("05_sample", prepare=str(folder), pool=str(pool), scores=str(scores), ipc=3, pool_factor=0,
                         **values)
        source = sample.read_source(run)
        found = sample.write_set(run, source, sample.select_images(run, source))
        run.finish()
        return found

    hardest = chosen(method="hardest", score="aum")
    for name, part in hardest.groupby("class"):
        expected = table[table["class"] == name].sort_values("aum", ascending=False, kind="stable")["file_name"][:3]
        assert part["source"].tolist() == expected.tolist()
    drawn = chosen(method="dual")
    assert (drawn["class"].value_counts() == 3).all()
    np.testing.assert_allclose(drawn["score"], table.set_index("file_name").loc[drawn["source"], "dual"])


def test_with_folds_an_original_s_dynamics_are_those_of_the_scorer_without_it(watched):
    root, _ = watched
    folder = prepared(root, "folded", dynamics=True, folds=2)
    kept, names = read_dynamics(folder / "dynamics.safetensors")
    assert kept.p_true.shape == (2, EPOCHS, len(names))
    fold = pd.read_csv(folder / "folds.csv").set_index("file_name")["fold"].loc[names].to_numpy()
    originals, table = scored(folder, source="originals")
    by_scorer = [dynamics_scores(Dynamics(*(array[[scorer]] for array in kept))) for scorer in range(2)]
    table = table.set_index("file_name").loc[names]
    for name in by_scorer[0]:
        expected = np.where(fold == 0, by_scorer[0][name], by_scorer[1][name])
        np.testing.assert_allclose(table[name], expected, atol=1e-12)
    first, second = (scores["el2n_early"] for scores in by_scorer)
    assert table["el2n_early"].mean() > np.where(fold == 1, first, second).mean()
    pool = make_pool(write_digits(root / "folded pool", 30, 34), folder)
    run, made = scored(folder, pool=str(pool), originals=str(originals.folder))
    found, _ = read_dynamics(run.folder / "dynamics.safetensors")
    assert found.p_true.shape == (2, EPOCHS, len(made))
    each = [dynamics_scores(Dynamics(*(array[[scorer]] for array in found))) for scorer in range(2)]
    for name in each[0]:
        np.testing.assert_allclose(made[name], (each[0][name] + each[1][name]) / 2, atol=1e-12)


def test_a_stopped_look_at_the_pool_goes_on_at_its_block(judged, monkeypatch):
    folder, pool, originals, scores = judged
    monkeypatch.setattr("dgs_utils.difficulty.snapshots.BLOCK_IMAGES", 10)  # three blocks and a bit
    run = open_stage("03_difficulty", prepare=str(folder), pool=str(pool), originals=str(originals),
                     output=str(folder.parent / "stopped"))
    looks = count_looks(monkeypatch, fail_at=2 * EPOCHS + 3)
    with pytest.raises(KeyboardInterrupt):
        score_source(run)
    assert len(list((run.folder / "checkpoints").glob("dynamics-*"))) == 2
    looks.clear()
    score_source(run)
    assert len(looks) == 2 * EPOCHS
    for ours, theirs in zip(read_dynamics(run.folder / "dynamics.safetensors")[0],
                            read_dynamics(scores / "dynamics.safetensors")[0], strict=True):
        np.testing.assert_allclose(ours.astype(float), theirs, atol=1e-3)


def count_looks(monkeypatch, fail_at):

    looks, look = [], snapshots._observe_snapshot

    def counted(*arguments):
        looks.append(arguments[1].name)
        if len(looks) == fail_at:
            raise KeyboardInterrupt
        return look(*arguments)

    monkeypatch.setattr(snapshots, "_observe_snapshot", counted)
    return looks


# ---- What cannot be --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("values", "sentence"), [
    ({"dynamics": True, "classifier_epochs": 9}, r"prepare\.classifier_epochs is 9; raise it to 10 or more"),
    ({"dynamics": True, "classifier": "data/scorer"}, "has no training to watch"),
    ({"dynamics": True, "classifier": "resnet50", "classifier_weights": "IMAGENET1K_V1"}, "has no training to watch"),
])
def test_dynamics_that_cannot_be_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        validate("00_prepare", values)


@pytest.mark.parametrize(("method", "named"), [("{method: hardest, score: aum}", r"sample\.score aum"),
                                               ("{method: dual}", r"sample\.score dual"),
                                               ("{rule: dual, score: margin}", r"sample\.rule dual")])
def test_a_plan_without_dynamics_says_which_parameter_is_missing(tmp_path, monkeypatch, method, named):
    monkeypatch.chdir(build(tmp_path / "w"))
    (tmp_path / "w" / "params" / "small.yaml").write_text(f"sample: {method}\nevaluate: {{}}\n")
    with pytest.raises(ValueError, match=f"{named} needs .* set prepare.dynamics to true"):
        plan(read_experiment("params/small.yaml"))
    plan(read_experiment("params/small.yaml", ["prepare.dynamics=true"]))


def test_scores_without_dynamics_say_which_parameter_is_missing(tmp_path, outputs):
    from small_world import make_world

    folders = make_world(tmp_path)
    run = open_stage("05_sample", prepare=str(folders["prepare"]), pool=str(folders["pool"]),
                     scores=str(folders["scores"]), method="easiest", score="dual", ipc=2)
    with pytest.raises(ValueError, match=r"has no column dual.*set prepare\.dynamics to true"):
        sample.read_source(run)
    drawn = open_stage("04_transform", pool_scores=str(folders["scores"]), original_scores=str(folders["originals"]),
                       ipc=2, score="forgetting")
    from dgs_utils.transform import read_sets

    with pytest.raises(ValueError, match=r"has no column forgetting.*set prepare\.dynamics to true"):
        read_sets(drawn)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "dynamics.safetensors").write_bytes(numpy_rng("noise").bytes(100))
    with pytest.raises(ValueError, match=r"dynamics\.safetensors holds no training dynamics"):
        read_dynamics(tmp_path / "dynamics.safetensors")
