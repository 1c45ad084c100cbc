"""Difficulty: measures against formulas written out, and stage 03 on real scans."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from restamp import certify
from small_world import make_pool, make_prepare, open_stage, small_classifier, write_digits

from dgs_utils import difficulty
from dgs_utils.classifiers.measures import MEASURES, all_measures, difficulty_scores
from dgs_utils.classifiers.scorer import extract_features, load_classifier
from dgs_utils.difficulty import score_images, score_source
from dgs_utils.difficulty.resumable import score_in_blocks
from dgs_utils.images.classes import output_names
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.progress import no_progress
from dgs_utils.selection.mutual_information import mutual_information
from dgs_utils.selection.score_tables import read_scores

logits_lists = st.lists(st.floats(-30, 30), min_size=2, max_size=8)


def softmax(logits):
    return [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]


EXPECTED = {
    "difficulty": lambda p, t: 1 - p[t],
    "cross_entropy": lambda p, t: (lambda c: c / (1 + c))(-math.log(p[t])),
    "margin": lambda p, t: (1 - (p[t] - max(p[:t] + p[t + 1 :]))) / 2,
    "entropy": lambda p, t: -sum(x * math.log(x) for x in p if x > 0) / math.log(len(p)),
    "el2n": lambda p, t: math.sqrt(sum((x - (i == t)) ** 2 for i, x in enumerate(p)) / 2),
}


@pytest.mark.parametrize("measure", MEASURES)
@given(logits=logits_lists, data=st.data())
def test_measures_equal_their_formulas(measure, logits, data):
    target = data.draw(st.integers(0, len(logits) - 1))
    found = all_measures(np.array(logits), target, from_="logits")[measure]
    assert found == pytest.approx(EXPECTED[measure](softmax(logits), target), abs=1e-9)
    assert 0 <= found <= 1


@pytest.mark.parametrize("measure", ["difficulty", "cross_entropy", "margin", "el2n"])
def test_measures_call_the_sure_mistake_harder_than_the_sure_hit(measure):
    hit, doubt, mistake = all_measures(np.array([[5.0, 0, 0], [0.1, 0, 0], [0, 0, 9.0]]), 0)[measure]
    assert hit < doubt < mistake


def test_scores_near_zero_keep_their_digits():
    found = difficulty_scores(np.array([40.0, 0.0]), 0)
    assert found == pytest.approx(math.exp(-40), rel=1e-12)  # 1 − p would be 0 in float64


def test_targets_may_be_one_or_many_and_logits_numpy_or_torch():
    logits = torch.randn(5, 4, dtype=torch.bfloat16)
    one, many = difficulty_scores(logits, 2), difficulty_scores(logits.float().numpy(), np.full(5, 2))
    np.testing.assert_array_equal(one, many)
    assert one.shape == (5,)
    assert one.dtype == np.float64
    np.testing.assert_array_equal(difficulty_scores(logits, torch.full((5,), 2)), one)


def test_bad_logits_and_targets_are_named():
    with pytest.raises(ValueError, match="NaN or infinity"):
        difficulty_scores(np.array([1.0, np.nan]), 0)
    for target in (3, -1, 0.5):
        with pytest.raises(ValueError, match="no class index from 0 to 2"):
            difficulty_scores(np.zeros((2, 3)), target)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("scans"), 0, 30)


def test_streamed_scores_equal_one_forward_pass_per_image(scans):
    scorer, images = small_classifier(), ImageSet.read(scans)
    found = score_images(images, scorer, batch_size=7, workers=3)
    with torch.inference_mode():
        logits = torch.cat([scorer(scorer.read(path)[None]) for path in images.paths])
    np.testing.assert_allclose(found["score"], difficulty_scores(logits, images.labels), atol=1e-5)
    np.testing.assert_array_equal(found["prediction"], logits.argmax(dim=1))
    np.testing.assert_allclose(found["confidence"], logits.softmax(dim=1).amax(dim=1), atol=1e-5)
    assert found["file_name"].tolist() == images.table["file_name"].tolist()


def test_several_classifiers_give_their_mean(scans):
    scorers, images = [small_classifier(steps=20), small_classifier(steps=3)], ImageSet.read(scans)
    both, *single = (score_images(images, part, np.arange(3), batch_size=16)
                     for part in (scorers, scorers[:1], scorers[1:]))
    np.testing.assert_allclose(both["score"], (single[0]["score"] + single[1]["score"]) / 2, atol=1e-12)
    np.testing.assert_array_equal(both["prediction"], single[0]["prediction"])


def test_killed_run_resumes_at_its_unfinished_block(scans, tmp_path, monkeypatch):
    scorer, images = small_classifier(), ImageSet.read(scans)
    options = {"scorers": scorer, "batch_size": 8, "workers": 2}
    expected = score_images(images, **options)
    monkeypatch.setattr(difficulty.resumable, "BLOCK_IMAGES", 16)
    last = images.paths[-1]
    kept = last.read_bytes()
    last.write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"{last.name} cannot be read as an image"):
        score_in_blocks(images, tmp_path / "killed", progress=no_progress, **options)
    last.write_bytes(kept)
    done = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "killed" / "checkpoints").glob("*.csv")}
    assert len(done) == 5  # 90 images in blocks of 16: all but the last
    seen = []
    found = score_in_blocks(images, tmp_path / "killed", **options,
                            progress=lambda items, label, total: (seen.append(i) or i for i in items))
    pd.testing.assert_frame_equal(found, expected)
    assert seen == list(range(len(images)))  # images, not batches
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "killed" / "checkpoints").glob("*.csv")}
    assert {name: after[name] for name in done} == done


@pytest.mark.parametrize("size", [8, 7, 200])
def test_progress_counts_images(scans, size):
    scorer, images, seen = small_classifier(), ImageSet.read(scans), []

    def progress(items, label, total):
        assert total == len(images)
        return (seen.append((label, i)) or i for i in items)

    score_images(images, scorer, batch_size=size, progress=progress, device="cpu")
    extract_features(images, scorer, "cpu", size, progress=progress)
    assert seen == [(label, i) for label in ("images scored", "features") for i in range(len(images))]


def test_same_scores_in_the_same_files(scans, outputs):
    prepare = make_prepare(scans)
    run = open_stage("03_difficulty", source="originals", prepare=str(prepare))
    score_source(run)
    first = {f: (run.folder / f).read_bytes() for f in ("scores.csv", "metadata/1/metadata.jsonl")}
    for file in (run.folder / "checkpoints").iterdir():
        file.unlink()
    score_source(run)
    assert {f: (run.folder / f).read_bytes() for f in first} == first


@pytest.fixture
def world(scans, tmp_path, outputs):
    prepare = make_prepare(scans)
    pool = make_pool(write_digits(tmp_path / "pool", 30, 60), prepare)
    open_originals(prepare)
    return prepare, pool


def open_originals(prepare):
    run = open_stage("03_difficulty", source="originals", prepare=str(prepare))
    score_source(run)
    run.finish()
    return run


def open_pool(world, **values):
    prepare, pool = world
    originals = next((prepare.parents[1] / "03_difficulty").glob("*originals*"))
    return open_stage("03_difficulty", source="pool", prepare=str(prepare), pool=str(pool), originals=str(originals),
                      **values)


def test_stage_scores_the_pool_at_each_classs_own_index(world):
    run = open_pool(world)
    found = score_source(run)
    assert found.equals(read_scores(run.folder)) or np.allclose(found["score"], read_scores(run.folder)["score"])
    scorer, images = load_classifier(world[0] / "classifier"), ImageSet.read(world[1])
    with torch.inference_mode():
        logits = scorer(torch.stack([scorer.read(path) for path in images.paths]))
    own = logits.softmax(dim=1)[range(len(images)), images.labels.tolist()]
    np.testing.assert_allclose(found["score"], 1 - own, atol=1e-5)
    assert (found["prediction"] == found["label"]).mean() > 0.8


def test_the_notebook_shows_classes_from_easy_to_hard_and_what_images_tell(world, capsys):
    run = open_pool(world)
    scores = score_source(run)
    shown = difficulty.images_to_show(run, scores)
    means = scores.groupby("class")["score"].mean()
    assert set(shown["class"]) == {means.idxmin(), means.sort_values().index[1], means.idxmax()}  # of three classes
    assert set(shown["set"]) == {"original", "pool"}
    assert all(path.exists() for path in shown["path"])
    table = difficulty.information(run, scores)
    assert table.index.tolist() == ["pool", "originals"]
    expected = mutual_information(scores["cross_entropy"], scores["class"])
    assert table.loc["pool", "information"] == pytest.approx(expected.information, abs=6e-4)
    assert difficulty.information(run, scores.drop(columns="cross_entropy")).empty
    assert "not known" in capsys.readouterr().out


def test_outputs_of_other_classes_are_named_in_words(tmp_path):
    classes = pd.DataFrame({"label": [0], "class": ["n02088364"], "index": [162], "condition": [162],
                            "name": ["beagle"]})
    classes.to_csv(tmp_path / "classes.csv", index=False)
    assert output_names(tmp_path) == {162: "beagle"}
    (tmp_path / "classifier").mkdir()
    config = tmp_path / "classifier" / "config.json"
    config.write_text(json.dumps({"num_classes": 1000, "classes": []}))
    assert output_names(tmp_path)[166] == "Walker hound"  # ImageNet's own
    config.write_text(json.dumps({"num_classes": 2, "classes": ["n01440764", "my class"]}))
    assert output_names(tmp_path) == {0: "tench", 1: "my class", 162: "beagle"}


def test_rounding_reproduces_the_published_four_decimals(world):
    rounded = score_source(open_pool(world, round_scores=4))["score"].to_numpy()
    full = score_source(open_pool(world))["score"].to_numpy()
    np.testing.assert_array_equal(rounded, np.round(full, 4))
    assert len(np.unique(rounded)) < len(np.unique(full))


def test_published_metadata_files_are_written_and_read_back(world, tmp_path):
    scores = score_source(run := open_pool(world))
    lines = (run.folder / "metadata" / "2" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"file_name": "0.png", "label": 2,
                                    "score": scores.loc[scores["file_name"] == "images/2/0.png", "score"].item()}
    for name in "012":
        target = world[1] / "images" / name / "metadata.jsonl"
        target.write_bytes((run.folder / "metadata" / name / "metadata.jsonl").read_bytes())
    again = score_source(open_pool(world, published_scores=True))
    pd.testing.assert_frame_equal(again, scores[again.columns])


@pytest.mark.parametrize(("damage", "message"), [
    (lambda text: "{", "metadata.jsonl, line 1 is not valid JSON"),
    (lambda text: text + '{"file_name": "x.png"}', r"line \d+ has no score; write"),
    (lambda text: text + '{"score": 0.5}', r"line \d+ has no file_name; write"),
    (lambda text: '{"name": "0.png", "score": 0}', "has no file_name in any line"),
    (lambda text: text.replace("0.png", "1.png", 1), "lists 1.png twice"),
    (lambda text: text.splitlines()[0], "has no score"),
    (lambda text: text + '{"file_name": "x.png", "label": 0, "score": 0.5}\n', "x.png has a score and no image"),
    (lambda text: '{"file_name": "0.png", "score": NaN}\n', "line 1: the score of 0.png is NaN"),
    (lambda text: '{"file_name": "0.png", "score": true}\n', "line 1: the score of 0.png is true"),
    (lambda text: '{"file_name": "0.png", "score": 1.5}\n', "line 1: the score of 0.png is 1.5"),
    (lambda text: None, "does not exist; score these images"),
])
def test_damaged_published_files_are_named(world, damage, message):
    run = open_pool(world)
    score_source(run)
    for name in "012":
        text = (run.folder / "metadata" / name / "metadata.jsonl").read_text()
        text = damage(text) if name == "0" else text
        if text is not None:
            (world[1] / "images" / name / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        score_source(open_pool(world, published_scores=True))


def test_classes_that_one_side_lacks(scans, tmp_path, outputs):
    prepare = make_prepare(scans)
    open_originals(prepare)
    more = make_pool(write_digits(tmp_path / "more", 30, 40, "0123"), prepare, "0123")
    run = open_pool((prepare, more))
    assert set(score_source(run)["class"]) == set("012")
    assert any("class 3" in sentence and "left out" in sentence for sentence in run.warnings)
    fewer = make_pool(write_digits(tmp_path / "fewer", 30, 40, "01"), prepare, "01")
    with pytest.raises(ValueError, match="class 2 has no images"):
        score_source(open_pool((prepare, fewer)))


def test_doubled_file_name_is_named(world):
    table, run = pd.read_csv(world[1] / "metadata.csv"), open_pool(world)
    pd.concat([table, table.iloc[[4]]]).to_csv(world[1] / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=f"{table['file_name'][4]} is listed twice"):
        score_source(run)
    assert not (run.folder / "scores.csv").exists()


def test_class_index_beyond_the_classifier_is_named(world):
    table, run = pd.read_csv(world[0] / "classes.csv"), open_pool(world)
    table.assign(index=[0, 1, 7]).to_csv(world[0] / "classes.csv", index=False)
    with pytest.raises(ValueError, match="class 2 has index 7, and classifier dgs:convnet3 has 3"):
        score_source(run)


def test_a_wrong_class_index_is_told_when_the_originals_are_scored(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 40))
    table = pd.read_csv(prepare / "classes.csv", dtype={"class": str})
    run = open_stage("03_difficulty", source="originals", prepare=str(prepare))
    score_source(run)
    assert run.warnings == []
    table.assign(index=np.roll(table["index"], 1)).to_csv(prepare / "classes.csv", index=False)
    certify(prepare)
    run = open_stage("03_difficulty", source="originals", prepare=str(prepare), measure="margin")
    score_source(run)
    assert any("of 3 classes are answered by other outputs of the scorer" in sentence for sentence in run.warnings)
