"""Stage 04: thresholds of the pool on both sets, fallbacks with a warning, errors before anything is written."""


import numpy as np
import pandas as pd
import pytest
from restamp import certify
from small_world import open_stage

from dgs_utils.params.base import hash_key
from dgs_utils.selection.targets import scale_counts
from dgs_utils.selection.thresholds import apply_scale, fit_scale, log_transform, search_thresholds
from dgs_utils.selection.transforms import transform_class
from dgs_utils.store.atomic import write_csv
from dgs_utils.store.manifest import MANIFEST
from dgs_utils.store.records import write_record
from dgs_utils.transform import compare_readings, compare_scales, read_sets, transform_sets


def scores_folder(outputs, source: str, classes: dict[str, list[float]]) -> str:
    """Write a finished 03 folder with these scores by class and return its path."""
    folder = outputs / "03_difficulty" / source
    rows = [(f"{name}/{i}.png", name, label, score)
            for label, (name, scores) in enumerate(classes.items()) for i, score in enumerate(scores)]
    write_csv(folder / "scores.csv", pd.DataFrame(rows, columns=["file_name", "class", "label", "score"]))
    write_record(folder / MANIFEST, {
        "stage": "03_difficulty", "key": hash_key("03_difficulty", {"source": source}, {}), "label": source,
        "content": "0" * 64, "inputs": [], "files": {}, "params": {}, "identity": {"source": source}, "given": {},
        "code": {}, "later_code": [], "count": 0, "chain": [], "warnings": [], "decisive": [], "git": "",
        "versions": {}, "device": "cpu", "seconds": 0.0, "peak_memory_mib": {}, "finished": ""})
    certify(folder)
    return str(folder)


def open_transform(outputs, pool: dict, originals: dict, **values):
    return open_stage("04_transform", pool_scores=scores_folder(outputs, "pool", pool),
                      original_scores=scores_folder(outputs, "originals", originals), **values)


def beta(n: int, seed: int = 0) -> list[float]:
    return np.round(np.random.default_rng(seed).beta(0.6, 1.5, n), 4).tolist()


@pytest.mark.filterwarnings("ignore:every pair:UserWarning")
def test_stage_applies_the_pools_counts_to_both_sets(outputs):
    pool, originals = {"a": beta(60), "b": beta(60, 1)}, {"a": beta(90, 2), "b": beta(90, 3)}
    run = open_transform(outputs, pool, originals)
    thresholds, transformed = transform_sets(run, read_sets(run))
    for name in "ab":
        found = search_thresholds(pool[name][:50], 5)  # the first ipc × pool_factor images
        row = thresholds.set_index("class").loc[name]
        assert (row["bottom"], row["top"]) == found[:2]
        assert row["objective"] == found.objective[found[:2]]
        for which, scores in (("pool", pool[name][:50]), ("original", originals[name])):
            part = transformed[(transformed["set"] == which) & (transformed["class"] == name)]
            np.testing.assert_array_equal(part["transformed"], log_transform(scores, *found[:2]))
    with np.load(run.folder / "objective.npz") as surfaces:
        assert {name: surfaces[name].shape for name in surfaces.files} == {"a": (5, 5), "b": (5, 5)}
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "transformed.csv"), transformed)


def test_stage_writes_the_same_bytes_again(outputs):
    run = open_transform(outputs, {"a": beta(50)}, {"a": beta(90, 2)})
    found = []
    for _ in range(2):
        transform_sets(run, read_sets(run))
        found.append([(run.folder / f).read_bytes() for f in ("thresholds.csv", "transformed.csv", "objective.npz")])
    assert found[0] == found[1]


def test_order_of_classes_and_files_changes_nothing(outputs):
    pool, originals = {"a": beta(50), "b": beta(50, 1)}, {"a": beta(90, 2), "b": beta(90, 3)}
    run = open_transform(outputs, pool, originals)
    first = transform_sets(run, read_sets(run))
    for source in ("pool", "originals"):
        path = outputs / "03_difficulty" / source / "scores.csv"
        pd.read_csv(path).sample(frac=1, random_state=0).to_csv(path, index=False)
    second = transform_sets(run, read_sets(run))
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_shared_scale_and_search_on_originals(outputs):
    pool, originals = {"a": beta(50)}, {"a": beta(90, 2)}
    run = open_transform(outputs, pool, originals, shared_scale=True)
    thresholds, transformed = transform_sets(run, read_sets(run))
    scale = fit_scale(pool["a"], *thresholds[["bottom", "top"]].iloc[0])
    part = transformed.loc[transformed["set"] == "original", "transformed"]
    np.testing.assert_array_equal(part, apply_scale(originals["a"], scale))
    run = open_transform(outputs, pool, originals, search_on="originals")
    thresholds, _ = transform_sets(run, read_sets(run))
    assert tuple(thresholds[["bottom", "top"]].iloc[0]) == search_thresholds(originals["a"], 5)[:2]


def test_ipc_1_searches_the_one_pair_without_clipping(outputs):
    run = open_transform(outputs, {"a": beta(50)}, {"a": beta(90, 2)}, ipc=1, pool_factor=50)
    thresholds, _ = transform_sets(run, read_sets(run))
    assert tuple(thresholds[["bottom", "top"]].iloc[0]) == (0, 0)


@pytest.mark.parametrize(("pool", "originals", "said"), [
    ([0.5] * 50, beta(90), "class a: pool: the scores have no spread"),
    ([0.0] * 50, beta(90), "class a: pool: the scores have no spread"),
    ([1.0] * 50, beta(90), "class a: pool: the scores have no spread"),
    (beta(50), [1.0] * 90, "class a: originals: the scores have no spread"),
    ([0.2] * 25 + [0.8] * 25, beta(90), "class a: pool: every pair of thresholds"),
    (beta(50), [0.1, 0.5, 0.9], "class a: originals: thresholds"),  # originals smaller than the pool
    (beta(20), beta(90), "class a has 20 images in the pool, fewer than ipc × pool_factor"),
])
def test_resolvable_input_is_resolved_with_a_warning(outputs, pool, originals, said):
    run = open_transform(outputs, {"a": pool}, {"a": originals})
    thresholds, transformed = transform_sets(run, read_sets(run))
    assert any(sentence.startswith(said) for sentence in run.warnings), run.warnings
    if said.startswith("class a: "):
        assert said.removeprefix("class a: ") in thresholds["note"][0]
    assert transformed["transformed"].between(1e-4, 1).all()


def test_thresholds_too_large_for_the_originals_clip_the_same_fraction(outputs):
    pool = beta(250)
    run = open_transform(outputs, {"a": pool}, {"a": beta(12, 3)}, ipc=50)
    thresholds, _ = transform_sets(run, read_sets(run))
    row = thresholds.iloc[0]
    assert row["bottom"] + row["top"] >= 12
    assert (row["original_bottom"], row["original_top"]) == (row["bottom"] * 12 // 250, row["top"] * 12 // 250)


def test_class_that_the_originals_lack_is_left_out_with_a_warning(outputs):
    run = open_transform(outputs, {"a": beta(50), "b": beta(50)}, {"a": beta(90)})
    assert set(read_sets(run).pool["class"]) == {"a"}
    assert any("class b" in sentence for sentence in run.warnings)


def test_a_class_with_fewer_images_than_ipc_is_for_stage_05_to_judge(outputs):
    run = open_transform(outputs, {"a": beta(9)}, {"a": beta(90)})
    assert len(read_sets(run).pool) == 9
    assert any("class a has 9 images in the pool, fewer than" in sentence for sentence in run.warnings)


@pytest.mark.parametrize(("pool", "originals", "message"), [
    ({"a": beta(50)}, {"a": beta(90), "b": beta(90)}, "class b has no images in the pool"),
    ({"a": [*beta(49), float("nan")]}, {"a": beta(90)}, r"class a: the score of a/49\.png is nan"),
    ({"a": beta(50)}, {"a": [*beta(49), 1.5]}, r"class a: the score of a/49\.png is 1.5"),
])
def test_unresolvable_input_stops_before_anything_is_written(outputs, pool, originals, message):
    run = open_transform(outputs, pool, originals)
    with pytest.raises(ValueError, match=message):
        transform_sets(run, read_sets(run))
    assert [entry for entry in run.folder.iterdir() if not entry.name.startswith(".")] == [run.folder / "inputs.json"]


def test_doubled_file_names_are_named(outputs):
    run = open_transform(outputs, {"a": beta(50)}, {"a": beta(90)})
    path = outputs / "03_difficulty" / "pool" / "scores.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.iloc[[7]]]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"a/7\.png is listed twice"):
        read_sets(run)


def test_both_readings_are_shown_on_the_same_data(outputs):
    run = open_transform(outputs, {"a": beta(50)}, {"a": beta(90)})
    found = compare_readings(read_sets(run), 5).set_index("reading")
    assert tuple(found.loc["code", ["bottom", "top"]]) == search_thresholds(beta(50), 5)[:2]
    assert tuple(found.loc["paper", ["bottom", "top"]]) == search_thresholds(beta(50), 5, objective="paper")[:2]


def test_one_scale_gives_another_target_than_two(outputs):
    run = open_transform(outputs, {"a": beta(50)}, {"a": beta(90)})
    found = {setting: table.loc["A"] for setting, table in compare_scales(read_sets(run), {"a": "A"}, 10, 5).items()}
    for setting, shared in (("own bounds", False), ("shared scale", True)):
        scores = transform_class(beta(50), beta(90), 5, shared_scale=shared).originals
        np.testing.assert_array_equal(found[setting], scale_counts(scores, 10))
