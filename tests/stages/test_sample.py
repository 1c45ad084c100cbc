"""Stage 05: every method makes an image folder with the same bytes for the same seed, and a report of its target."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from restamp import certify
from small_world import CLASSES, make_world, open_stage, outputs_below, small_classifier

from dgs_utils.classifiers.scorer import extract_features, load_classifier
from dgs_utils.difficulty import score_source
from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import METHODS
from dgs_utils.pool import generate
from dgs_utils.results.provenance_columns import provenance_row
from dgs_utils.sample import (
    _drop_duplicates,
    choices_by_rule,
    read_source,
    report,
    select_images,
    shown_columns,
    write_set,
)
from dgs_utils.selection.budgets import share_images
from dgs_utils.selection.coresets import herding
from dgs_utils.selection.histograms import histogram
from dgs_utils.selection.targets import (
    counts_of,
    predefined_counts,
    quantile_distance,
    quantiles_of_scores,
    scale_counts,
)
from dgs_utils.store.manifest import hash_entries
from dgs_utils.transform import read_sets, transform_sets


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of stages 00, 02, 03 (twice) and 04 over real scans: 3 classes, 25 images a class in the pool, IPC 5."""
    root = tmp_path_factory.mktemp("world")
    with outputs_below(root):
        return make_world(root)


@pytest.fixture
def sampled(world, outputs):
    def run_method(method: str, **values):
        inputs = {name: str(world[name]) for name in ("prepare", "pool", "scores", "transform")}
        if METHODS[method].source == "originals":
            inputs["scores"] = str(world["originals"])
        run = open_stage("05_sample", method=method, **({"ipc": 5} | inputs | values))
        source = read_source(run)
        chosen = select_images(run, source)
        return run, write_set(run, source, chosen), report(chosen, source)
    return run_method


REAL = {"real_d2", "real_ccs"}  # stand for all rules that choose among the originals as they do in the pool
RUNNABLE = [name for name, m in METHODS.items() if m.source != "condense" and "dynamics" not in m.rule.needs
            and (name in REAL or not name.startswith("real_"))]  # test_dynamics has what needs a scorer's training


@pytest.mark.parametrize("method", RUNNABLE)
def test_every_method_makes_an_image_folder(sampled, method):
    run, metadata, _ = sampled(method)
    images = ImageSet.read(run.folder)
    assert images.classes == list(CLASSES)
    assert len(images) == (180 if method == "full" else 15)
    assert (images.table["class"].value_counts() == (60 if method == "full" else 5)).all()
    source = run.inputs["pool" if METHODS[method].source == "pool" else "prepare"]
    root = source if METHODS[method].source == "pool" else ImageSet.read(source).root
    if METHODS[method].source == "crops":
        return  # new images; test_crops looks at them
    for row in metadata.itertuples():
        assert (run.folder / row.file_name).read_bytes() == (root / row.source).read_bytes()
    assert {f.name for f in run.folder.iterdir()} >= {"images", "metadata.csv", "report.csv"}


@pytest.mark.parametrize("method", RUNNABLE)
def test_same_seed_gives_the_same_bytes_and_another_seed_another_set(sampled, method):
    def content(**values):
        run, *_ = sampled(method, **values)
        return hash_entries(run.folder)

    first = content()
    assert content() == first
    if "seed" in METHODS[method].uses:
        assert content(seed=1) != first


@pytest.mark.parametrize("method", ["dgs", "match", "pool_random", "easiest"])
def test_order_of_files_on_disk_changes_nothing(sampled, world, method):
    _, expected, _ = sampled(method)
    listing = world["pool"] / "metadata.csv"
    header, *rows = before = listing.read_text().splitlines(keepends=True)
    try:
        listing.write_text("".join([header, *np.random.default_rng(1).permutation(rows)]))
        certify(world["pool"])
        _, found, _ = sampled(method)
    finally:
        listing.write_text("".join(before))
        certify(world["pool"])
    pd.testing.assert_frame_equal(found, expected)


def test_coresets_take_the_features_of_another_classifier(sampled, tmp_path):
    _, usual, _ = sampled("herding")
    small_classifier(steps=3).save(tmp_path / "other")
    run, other, _ = sampled("herding", features=str(tmp_path / "other"))
    assert run.params.cache_params()["features"] == str(tmp_path / "other")
    assert other["source"].tolist() != usual["source"].tolist()
    images = ImageSet.read(run.inputs["prepare"], split="train")
    part = images.of_class("1")
    found = extract_features(part, load_classifier(tmp_path / "other"))
    expected = [part.table["file_name"].iloc[i] for i in herding(found, 5)]
    assert set(expected) == set(other[other["class"] == "1"]["source"])


def test_pool_factor_limits_the_pool_and_zero_takes_all(sampled):
    _, metadata, _ = sampled("hardest", pool_factor=2)
    assert {int(Path(name).stem) for name in metadata["source"]} <= set(range(10))
    run, metadata, _ = sampled("hardest", pool_factor=0)
    scores = pd.read_csv(run.inputs["scores"] / "scores.csv")
    for label, part in metadata.groupby("label"):
        hardest = scores[scores["label"] == label]["score"].nlargest(5)
        np.testing.assert_allclose(sorted(part["score"]), sorted(hardest))


def test_first_files_are_lexicographic_in_the_originals_and_natural_in_the_pool(sampled):
    _, metadata, _ = sampled("first")
    assert [Path(name).name for name in metadata["source"][:5]] == ["0.png", "1.png", "10.png", "11.png", "12.png"]
    _, metadata, _ = sampled("minimax")
    assert [Path(name).name for name in metadata["source"][:5]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_report_says_what_was_wanted_and_found(sampled, world):
    _, metadata, found = sampled("dgs")
    transformed = pd.read_csv(world["transform"] / "transformed.csv", dtype={"class": str})
    target, got, shortage = (counts_of(found[column]) for column in ("target", "found", "shortage"))
    for row, name in enumerate(CLASSES):
        original = transformed[(transformed["set"] == "original") & (transformed["class"] == name)]["transformed"]
        np.testing.assert_array_equal(target[row], scale_counts(original, 5))
        chosen = metadata[metadata["class"] == name]["transformed"].to_numpy()
        np.testing.assert_array_equal(got[row], histogram(chosen))
        assert found["wasserstein"][row] == pytest.approx(quantile_distance(chosen, quantiles_of_scores(original, 5)))
    assert (got >= target - shortage).all()
    assert ["the pool lacks" in note for note in found["note"]] == shortage.any(axis=1).tolist()


def test_a_class_that_needed_a_way_out_says_so_in_the_report(sampled, world, outputs, monkeypatch):
    table = pd.read_csv(world["transform"] / "thresholds.csv", keep_default_na=False)
    read = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **options: (
        table.assign(**{"class": CLASSES, "note": ["", "no spread", ""]}) if Path(path).name == "thresholds.csv"
        else read(path, **options)))
    *_, found = sampled("match")
    assert found.set_index("class").loc["1", "note"].startswith("no spread")


def test_match_is_closer_to_the_target_than_the_draw(sampled):
    *_, drawn = sampled("dgs")
    *_, matched = sampled("match")
    assert (matched["wasserstein"] <= drawn["wasserstein"] + 1e-12).all()


@pytest.mark.parametrize(("distribution", "expected"), [
    ("hill", predefined_counts("hill", 5)), ("uniform", [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]), ([0, 2, 3], [0, 2, 3]),
    ([1, 1], [3, 2])])
def test_other_distributions_set_the_target(sampled, distribution, expected):
    _, _, found = sampled("dgs", distribution=distribution)
    np.testing.assert_array_equal(counts_of(found["target"]), [expected] * 3)


def test_ipc_1(sampled, world, outputs):
    run = open_stage("04_transform", pool_scores=str(world["scores"]), original_scores=str(world["originals"]), ipc=1,
                     pool_factor=25)
    transform_sets(run, read_sets(run))
    run.finish()
    _, metadata, _ = sampled("dgs", ipc=1, pool_factor=25, transform=str(run.folder))
    assert metadata["class"].tolist() == list(CLASSES)


@pytest.mark.parametrize(("values", "message"), [
    ({"distribution": "mountain"}, "distribution is 'mountain'"),
    ({"distribution": [0, 0]}, "give a whole number of images for each bin"),
    ({"pool_factor": 6}, "has no score; run notebooks 03 and 04 for this pool and ipc, with the same pool_factor"),
    ({"ipc": 31, "pool_factor": 0}, "has no score; run notebooks 03 and 04"),
])
def test_bad_requests_stop_before_anything_is_written(sampled, values, message, outputs):
    with pytest.raises(ValueError, match=message):
        sampled("dgs", **values)
    written = [file for file in (outputs / "05_sample").rglob("*") if file.is_file()]
    assert [file for file in written if not file.name.startswith((".", "inputs.json"))] == []


def scores_of(world, which="scores"):
    return pd.read_csv(world[which] / "scores.csv", dtype={"class": str})


@pytest.mark.parametrize("score", ["margin", "entropy", "confidence"])
def test_rules_go_by_the_score_that_is_asked_for(sampled, world, score):
    run, metadata, _ = sampled("dgs", rule="hardest", score=score, pool_factor=0)
    wanted = {"method": "hardest", "score": score, "ipc": 5, "pool_factor": 0}
    assert run.params.cache_params().items() >= wanted.items()
    table = scores_of(world)
    for name, part in metadata.groupby("class"):
        own = table[table["class"] == name]
        value = 1 - own["confidence"] if score == "confidence" else own[score]
        np.testing.assert_allclose(np.sort(part["score"]), np.sort(value.nlargest(5)))


def test_the_target_is_made_of_the_score_that_is_asked_for(sampled, world, outputs):
    run = open_stage("04_transform", pool_scores=str(world["scores"]), original_scores=str(world["originals"]), ipc=5,
                     score="margin")
    _, transformed = transform_sets(run, read_sets(run))
    run.finish()
    expected = pd.concat([scores_of(world)["margin"], scores_of(world, "originals")["margin"]])
    assert set(transformed["score"].round(12)) <= set(expected.round(12))
    *_, found = sampled("match", score="margin", transform=str(run.folder))
    for row, name in enumerate(CLASSES):
        real = transformed[(transformed["set"] == "original") & (transformed["class"] == name)]["transformed"]
        np.testing.assert_array_equal(counts_of(found["target"])[row], scale_counts(real, 5))


def test_a_cut_goes_before_the_choice_and_before_the_target(sampled, world):
    _, metadata, found = sampled("dgs", cut=0.4)
    transformed = pd.read_csv(world["transform"] / "transformed.csv", dtype={"class": str})
    for row, name in enumerate(CLASSES):
        pool, real = (transformed[(transformed["set"] == which) & (transformed["class"] == name)]
                      for which in ("pool", "original"))
        left = real.sort_values("score", kind="stable").head(len(real) - int(0.4 * len(real)))
        np.testing.assert_array_equal(counts_of(found["target"])[row], scale_counts(left["transformed"], 5))
        hardest = pool.nlargest(int(0.4 * len(pool)), "score")["file_name"]
        assert not set(hardest) & set(metadata["source"])


def test_what_each_rule_would_take_is_what_its_method_takes(sampled):
    run, *_ = sampled("dgs")
    source = read_source(run)
    found = choices_by_rule(source, 5, name="1")
    assert {"DGS", "DGS (match)", "Random of pool", "Easiest", "CCS", "Stratified"} <= found.keys()
    assert not {"D2", "K-Center of pool", "Confidence (CaO2)", "Minimax"} & found.keys()  # features, or a scorer's view
    for method in ("dgs", "match", "pool_random", "hardest", "ccs", "stratified"):
        _, metadata, _ = sampled(method)
        expected = metadata[metadata["class"] == "1"]["source"]
        assert set(found[METHODS[method].label]["file_name"]) == set(expected), method


def test_rules_are_compared_on_the_class_where_they_differ_most(sampled):
    source = read_source(sampled("dgs")[0])
    by_class = {name: choices_by_rule(source, 5, name=name) for name in CLASSES}
    means = {name: [rows["score"].mean() for rows in rules.values()] for name, rules in by_class.items()}
    [shown] = {name for rows in choices_by_rule(source, 5).values() for name in rows["class"]}
    assert shown == max(means, key=lambda name: max(means[name]) - min(means[name]))
    plain = source._replace(images=ImageSet(source.images.root, source.images.table.drop(columns="score")))
    assert choices_by_rule(plain, 5) == {}


def test_the_notebook_shows_what_the_pool_lacked(sampled):
    *_, found = sampled("dgs")
    shown = shown_columns(found, {"1": "one"})
    assert shown["class"].tolist() == [{"1": "one"}.get(name, name) for name in found["class"]]
    assert shown["missing"].tolist() == [sum(map(int, text.split())) for text in found["shortage"]]
    assert ("note" in shown) == found["note"].any()
    assert list(shown_columns(sampled("pool_random")[2])) == ["class", "images"]


def test_what_the_scorer_misclassifies_can_be_left_out(sampled, world):
    table = scores_of(world).merge(scores_of(world).groupby("class")["label"].first().rename("own"), on="class")
    right = set(table[table["prediction"] == table["own"]]["file_name"])
    assert len(right) < len(table)
    for method in ("dgs", "hardest", "pool_random"):
        run, metadata, _ = sampled(method, cut_errors=True, pool_factor=5, ipc=2, **(
            {"transform": str(world["transform"])} if method == "dgs" else {}))
        assert set(metadata["source"]) <= right
        shown = choices_by_rule(read_source(run), 2, name="1")  # of the rules whose columns are there
        assert METHODS[method].label in shown
        assert all(set(rows["file_name"]) <= right for rows in shown.values())
    with pytest.raises(ValueError, match=r"images that the scorer recognises, in .*, and 30 are needed"):
        sampled("hardest", cut_errors=True, ipc=30, pool_factor=0)


@pytest.mark.parametrize("method", ["dgs", "match", "easiest", "ccs", "pool_random", "pool_k_center", "s3", "real_d2"])
def test_rules_choose_from_the_share_of_the_pool_that_the_seed_draws(sampled, method):
    """All rules of one seed see one sub-pool, half of each class, and choose in it; smaller ones nest."""
    def candidates(method=method, **values):
        run, metadata, _ = sampled(method, pool_factor=5, **values)
        return read_source(run).images.table, metadata

    (whole, _), (part, chosen) = candidates(), candidates(pool_share=0.5)
    names = set(part["file_name"])
    assert set(chosen["source"]) <= names
    wanted = (whole["class"].value_counts() + 1) // 2
    assert part["class"].value_counts().to_dict() == wanted.to_dict()
    assert part.merge(whole[["file_name"]], on="file_name")["file_name"].tolist() == part["file_name"].tolist()
    assert set(candidates(pool_share=0.3)[0]["file_name"]) < names != set(candidates(pool_share=0.5, seed=1)[0][
        "file_name"])
    if method != "real_d2":
        assert names == set(candidates("easiest", pool_share=0.5)[0]["file_name"])
    if method == "easiest":
        least = part.groupby("class")["score"].nsmallest(5).groupby("class").max()
        assert chosen.groupby("class")["score"].max().tolist() == least.tolist()


def plant_copies(pool: Path) -> None:
    """Put copies of the first four images of each class in the place of four others: as they are, as JPEG, mirrored,
    enlarged.
    """
    for folder in pool.iterdir():
        images, buffer = [Image.open(folder / f"{number}.png") for number in range(4)], io.BytesIO()
        images[1].save(buffer, "JPEG", quality=95)
        copies = [images[0], Image.open(buffer), ImageOps.mirror(images[2]), images[3].resize((20, 20))]
        for number, copy in enumerate(copies, 21):
            copy.save(folder / f"{number}.png")


def test_images_that_show_one_picture_are_left_out(tmp_path, outputs):
    world = make_world(tmp_path, change=plant_copies)
    values = {"ipc": 5, "drop_duplicates": True}
    values |= {name: str(world[name]) for name in ("prepare", "pool", "scores", "transform")}
    for method in ("dgs", "pool_k_center", "k_center"):
        run = open_stage("05_sample", method=method, **values)
        source = read_source(run)
        chosen = select_images(run, source)
        if METHODS[method].source == "pool":
            assert source.repeated == dict.fromkeys(CLASSES, 4)
            assert {int(Path(name).stem) for name in source.images.table["file_name"]} == set(range(21))
        assert shown_columns(report(chosen, source))["repeated"].tolist() == list(source.repeated.values())
        assert len(write_set(run, source, chosen)) == 15
        run.finish()
        assert provenance_row(run.folder, world["prepare"])["cut"] == "duplicates"
    pool = ImageSet.read(world["pool"])
    turned, _ = _drop_duplicates(run, ImageSet(pool.root, pool.table[::-1].reset_index(drop=True)))
    assert turned.table["file_name"].tolist() == _drop_duplicates(run, pool)[0].table["file_name"][::-1].tolist()
    with pytest.raises(ValueError, match=r"has 26 different images among 30 in .*, and 27 are needed; lower"):
        read_source(open_stage("05_sample", method="easiest", **(values | {"ipc": 27})))


def test_the_scores_of_a_set_name_its_scorer_and_not_those_that_its_pool_was_drawn_by(tmp_path, outputs):
    world = make_world(tmp_path, over="task")
    prepare = str(world["prepare"])
    plain = open_stage("03_difficulty", source="originals", prepare=prepare)  # over all outputs
    score_source(plain)
    plain.finish()
    pool = open_stage("02_pool", generator="originals", images_per_class=20, bias=3.0, prepare=prepare,
                      originals=str(plain.folder))
    generate(pool)
    pool.finish()
    scores = open_stage("03_difficulty", prepare=prepare, pool=str(pool.folder), originals=str(world["originals"]),
                        over="task")
    score_source(scores)
    scores.finish()
    run = open_stage("05_sample", method="easiest", ipc=2, prepare=prepare, pool=str(pool.folder),
                     scores=str(scores.folder))
    source = read_source(run)
    write_set(run, source, select_images(run, source))
    run.finish()
    assert provenance_row(run.folder, world["prepare"])["judge"] == "convnet3, task's outputs"


def test_scores_that_a_folder_lacks_are_named(sampled, world, tmp_path):
    folder = tmp_path / "published"
    shutil.copytree(world["scores"], folder)
    table = scores_of(world)[["file_name", "class", "label", "score"]]
    table.to_csv(folder / "scores.csv", index=False)
    certify(folder)
    with pytest.raises(ValueError, match=r"no column margin, since its scores are published ones or older"):
        sampled("hardest", score="margin", scores=str(folder))
    with pytest.raises(ValueError, match=r"sample.method confidence needs the classifier's predictions"):
        sampled("confidence", scores=str(folder))


def test_classes_share_a_total_by_weights_and_follow_targets_of_their_size(sampled, world, tmp_path):
    own = tmp_path / "weights.csv"
    own.write_text("class,weight\n0,1\n1,2\n2,4\n")
    run, metadata, found = sampled("dgs", total=21, class_weights=str(own))
    assert metadata["class"].value_counts().to_dict() == {"2": 12, "1": 6, "0": 3}
    assert counts_of(found["target"]).sum(axis=1).tolist() == [3, 6, 12]
    assert found["images"].tolist() == [3, 6, 12]
    source = read_source(run)
    run.finish()
    row = provenance_row(run.folder, world["prepare"])
    assert re.fullmatch(r"21 images, by weights [0-9a-f]{8}", row["budget"])
    assert set(choices_by_rule(source, 5, name="2")["DGS"]["file_name"]) == set(
        metadata[metadata["class"] == "2"]["source"])
    scores = scores_of(world).groupby("class").head(25)
    _, metadata, _ = sampled("hardest", class_weights="difficulty")  # 5 a class on average
    assert len(metadata) == 15
    counts = metadata["class"].value_counts().reindex(list(CLASSES))
    assert counts.tolist() == share_images(15, scores.groupby("class")["score"].mean(), [25] * 3).tolist()
    _, metadata, _ = sampled("dgs", class_weights="confusion")
    assert len(metadata) == 15


def test_short_classes_give_all_they_have_where_asked(sampled):
    run, metadata, _ = sampled("pool_random", ipc=31, pool_factor=0, short_classes="take_all")
    assert (metadata["class"].value_counts() == 30).all()
    assert "class 0 has 30 images, fewer than its share of 31; all of them are taken" in run.warnings
    with pytest.raises(ValueError, match="class 0 is to have 40 images and has 30"):
        sampled("pool_random", total=120, pool_factor=0)
    with pytest.raises(ValueError, match="need a rule that chooses class by class, and s3 has none"):
        sampled("s3", total=21)


def test_too_large_an_ipc_is_named(sampled):
    with pytest.raises(ValueError, match="class 0 has 30 images for ipc 31"):
        sampled("pool_random", ipc=31)
