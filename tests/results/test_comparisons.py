"""Comparisons: coverage by simulation for every design of the parameter files, worked examples, sentences."""

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from dgs_utils.results.comparison_design import build_design
from dgs_utils.results.comparisons import Comparison, compare, compare_with_others, holm
from dgs_utils.results.correctness import CORRECTNESS_FILES, has_correctness, mcnemar, read_correctness
from dgs_utils.results.random_effects import (
    UnitTable,
    VarianceComponent,
    count_needed,
    half_width,
    image_component,
    p_equivalent,
    p_value,
    variance_of_difference,
)
from dgs_utils.results.reports import write_differences
from dgs_utils.results.rows import SEEDS
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

PARAMS = Path(__file__).parents[2] / "params"


def rows(method: str, seeds: list[tuple], best: list[float], **condition) -> pd.DataFrame:
    columns = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "method": method, **condition}
    return pd.DataFrame(seeds, columns=SEEDS).assign(best=best, **columns)


# ---- Coverage --------------------------------------------------------------------------------------------------------
# An arm is (pool seeds, selection seeds, training seeds); [""] where it has none of a kind.

NONE, ONE, TWO, THREE = [""], [0], [0, 1], [0, 1, 2]
OTHERS = {
    "one selection of two": ((ONE, TWO, THREE), (ONE, ONE, THREE)),
    "pools against two draws of real images": ((THREE, ONE, THREE), (NONE, TWO, THREE)),
    "pools of their own": ((THREE, ONE, THREE), ([3, 4, 5], ONE, THREE)),
    "trainings of their own": ((ONE, ONE, THREE), (ONE, ONE, [7, 8, 9, 10])),
    "pools and trainings of their own": ((THREE, ONE, THREE), (NONE, NONE, [7, 8, 9])),
    "single trainings": ((THREE, ONE, ONE), (THREE, ONE, ONE)),
    "three sources": ((THREE, TWO, THREE), (THREE, TWO, THREE)),
    "two pools, single trainings": ((TWO, ONE, ONE), (TWO, ONE, ONE)),
    "five pools": ((range(5), ONE, THREE), (range(5), ONE, THREE)),
    "ten pools, two trainings": ((range(10), ONE, TWO), (NONE, NONE, TWO)),
}


def planned_shapes(file: Path) -> set[tuple]:
    """Return the pairs of shapes (pools, selections, trainings; 0: none of a kind) that an experiment compares."""
    conditions: dict[tuple, dict[tuple, tuple[set, set, int]]] = {}
    for node in expand(read_experiment(file)):
        if node.stage == "06_evaluate":
            made = node.inputs["distilled"]
            own, pool, transform = made.params.cache_params(), made.inputs.get("pool"), made.inputs.get("transform")
            selection = own.pop("seed", None)
            name = (made.stage, *own.values(), pool and pool.params.generator, transform and transform.params.objective)
            arms = conditions.setdefault((node.inputs["prepare"].key, node.params.network, own.get("ipc")), {})
            arm = arms.setdefault(tuple(map(str, name)), (set(), set(), node.params.repeats))
            arm[0].update({pool.params.seed} if pool else ())
            arm[1].update({selection} - {None})
    return {tuple(sorted((len(pools), len(selections), trainings) for pools, selections, trainings in pair))
            for arms in conditions.values() for pair in itertools.combinations(arms.values(), 2)}


PLANNED = {" against ".join(" × ".join(map(str, shape)) for shape in shapes): tuple(
    tuple(list(range(count)) or NONE for count in shape) for shape in shapes)
    for shapes in sorted(set().union(*(planned_shapes(file) for file in PARAMS.glob("*.yaml"))))}
# An arm of a single run has no noise of its own to go by; such a comparison is told without an interval.
SINGLE = {name: arms for name, arms in PLANNED.items() if any(all(len(units) == 1 for units in arm) for arm in arms)}
DESIGNS = {name: arms for name, arms in {**PLANNED, **OTHERS}.items() if name not in SINGLE}
# Standard deviations of pools, selections, trainings; of an arm's answer to a training seed; of the seed itself.
COMPONENTS = [(1.9, 1.0, 0.7, 0, 0), (0, 1.0, 0.7, 0, 0), (0, 0, 1.0, 0, 0), (1.9, 0, 0.1, 0, 0), (0, 1.0, 0.05, 0, 0),
              (0, 0.5, 1.0, 0.5, 0.5), (0.3, 0.1, 0.3, 1.0, 0), (0.5, 1.0, 0.2, 0, 3.0), (0, 0, 0.5, 1.5, 1.0)]


def missing(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Leave out some runs, of different units and trainings."""
    return frame.drop(index=[5 * place + 4 for place in range(count) if 5 * place + 4 < len(frame)])


def simulated(design, sds: tuple, n: int, rng) -> list[np.ndarray]:
    """Return values (rows, n) of either side around 0: pools are shared where the seeds are, and so are trainings.

    What an interval is said to hold for is fixed: a single pool, selection or training seed adds nothing.
    """
    pool, selection, training, answer, seed = sds
    effects: dict[tuple, np.ndarray] = {}

    def effect(sd: float, *key) -> np.ndarray:
        if key not in effects:
            effects[key] = sd * rng.normal(size=n)
        return effects[key]

    if any(side["training_seed"].nunique() < 2 for side in design.arms):
        answer = seed = 0
    values = []
    for arm, side in enumerate(design.arms):
        several = side["pool_seed"].nunique() > 1
        one_set = side["selection_seed"].nunique() < 2 and not several
        values.append(np.array([
            (effect(pool, "pool", arm, p) if several else 0) + (0 if one_set else effect(selection, "set", arm, p, s))
            + effect(seed, "seed", t) + effect(answer, "answer", arm, t) + training * rng.normal(size=n)
            for p, s, t in side[SEEDS].itertuples(index=False)]))
    return values


def design_of(arms, holes=0):
    arms = [missing(rows(str(place), list(itertools.product(*arm)), 0.0), holes) for place, arm in enumerate(arms)]
    design = build_design(*arms)
    assert design.has_replicates
    return design


def coverage(design, sds, rng, scales=(1.0, 1.0)) -> float:
    values = simulated(design, sds, 3000, rng)
    tables = design.tables([scale * side for scale, side in zip(scales, values, strict=True)])
    half = half_width(variance_of_difference(tables, design.groups))
    return float((np.abs(sum(table.mean for table in tables)) <= half).mean())


@pytest.mark.parametrize("name", DESIGNS)
def test_intervals_cover_what_they_claim(name):
    design, rng = design_of(DESIGNS[name]), np.random.default_rng(0)
    found = {sds: coverage(design, sds, rng) for sds in COMPONENTS}
    assert min(found.values()) >= 0.93, found


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_run_leaves_no_interval(name):
    one, other = (rows(arm, list(itertools.product(*units)), float(place))
                  for place, (arm, units) in enumerate(zip("ab", SINGLE[name], strict=True)))
    [found] = compare(pd.concat([one, other]), "b", "a").to_dict("records")
    assert found["difference"] == pytest.approx(1)
    assert np.isnan([found["low"], found["high"]]).all()
    assert "leave no interval" in found["sentence"]


@pytest.mark.parametrize("scales", [(1.0, 0.2), (0.2, 1.0)])
@pytest.mark.parametrize("name", ["1 × 0 × 3 against 1 × 2 × 3", "0 × 0 × 3 against 3 × 1 × 3", "pools of their own",
                                  "ten pools, two trainings"])
def test_intervals_cover_where_one_arm_is_noisier(name, scales):
    design, rng = design_of(DESIGNS[name]), np.random.default_rng(4)
    found = {sds: coverage(design, sds, rng, scales=scales) for sds in COMPONENTS}
    assert min(found.values()) >= 0.93, found


@pytest.mark.parametrize("holes", [1, 2, 3])
@pytest.mark.parametrize("name", ["1 × 0 × 3 against 1 × 2 × 3", "3 × 1 × 3 against 3 × 1 × 3",
                                  "0 × 0 × 3 against 3 × 1 × 3", "three sources", "five pools"])
def test_intervals_cover_in_grids_with_missing_runs(name, holes):
    design, rng = design_of(DESIGNS[name], holes), np.random.default_rng(1)
    found = {sds: coverage(design, sds, rng) for sds in COMPONENTS}
    assert min(found.values()) >= 0.93, found


def test_the_designs_in_question_are_planned():
    assert {"1 × 0 × 3 against 1 × 2 × 3", "0 × 0 × 3 against 3 × 1 × 3",
            "3 × 1 × 3 against 3 × 1 × 3"} <= PLANNED.keys()


@pytest.mark.parametrize(("name", "sds"), [("1 × 0 × 3 against 1 × 2 × 3", (0, 1.0, 0.7, 0, 0)),
                                           ("0 × 0 × 3 against 3 × 1 × 3", (1.9, 0, 0.7, 0, 0))])
def test_noise_that_one_arm_lacks_is_counted(name, sds):
    """Averaging over what the other arm has none of, and pairing what is left, covers less than 88 %."""
    rng = np.random.default_rng(2)
    design = design_of(DESIGNS[name])
    tables = design.tables(simulated(design, sds, 4000, rng))
    by_training = sum(table.values.mean(-2) for table in tables)
    naive = stats.t.ppf(0.975, 2) * by_training.std(-1, ddof=1) / 3**0.5
    assert (np.abs(by_training.mean(-1)) <= naive).mean() < 0.88
    assert coverage(design, sds, rng) >= 0.94


# ---- Worked examples -------------------------------------------------------------------------------------------------

def test_one_set_an_arm_is_the_paired_t_test():
    first, second = [35.1, 36.0, 34.4, 37.2], [34.0, 34.1, 34.6, 35.0]
    seeds = [("", "", t) for t in range(4)]
    d = np.subtract(first, second)
    error = d.std(ddof=1) / 2
    half = 3.182446 * error  # t quantile 0.975 with 3 degrees of freedom
    [found] = compare(pd.concat([rows("a", seeds, first), rows("b", seeds, second)]), "a", "b").to_dict("records")
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((d.mean(), d.mean() - half,
                                                                               d.mean() + half))
    assert found["p"] == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-4)
    assert (found["pools"], found["selections"], found["trainings"], found["given"]) == (0, 0, 4, "test images")


def test_a_selection_that_one_arm_lacks_has_a_term_of_its_own():
    first = np.array([[50.0, 52.0, 51.0], [54.0, 55.0, 53.5]])
    second = np.array([48.0, 49.0, 47.5])
    results = pd.concat([rows("a", [(0, s, t) for s in range(2) for t in range(3)], first.ravel()),
                         rows("b", [(0, "", t) for t in range(3)], second)])
    [found] = compare(results, "a", "b").to_dict("records")
    selections = first.mean(1).var(ddof=1) / 2
    rest = first - first.mean(1, keepdims=True) - first.mean(0) + first.mean()
    trainings = (first.mean(0) - second).var(ddof=1) / 3 - (rest**2).sum() / 2 / 6
    half = (stats.t.ppf(0.975, 1) ** 2 * selections + stats.t.ppf(0.975, 2) ** 2 * max(trainings, 0)) ** 0.5
    assert found["high"] - found["difference"] == pytest.approx(half)
    assert found["difference"] == pytest.approx(first.mean() - second.mean())
    assert (found["pools"], found["selections"], found["trainings"]) == (1, 2, 3)
    assert found["given"] == "pool, test images"


def test_seeds_that_one_arm_lacks_are_left_out():
    dgs = rows("dgs", [(0, 0, 2), (0, 0, 0), (0, 0, 1)], [52.0, 50.0, 51.5])
    random = rows("random", [("", 0, 0), ("", 0, 1), ("", 0, 2), ("", 0, 3)], [45.0, 47.0, 46.0, 99.0])
    [found] = compare(pd.concat([random, dgs]), "dgs", "random").to_dict("records")
    assert found["difference"] == pytest.approx(np.mean([5.0, 4.5, 6.0]))
    assert found["p"] == pytest.approx(stats.ttest_1samp([5.0, 4.5, 6.0], 0).pvalue, rel=1e-4)
    assert (found["ipc"], found["network"]) == (10, "convnet3")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8))
def test_swapping_the_sides_turns_the_sign(pairs):
    first, second = np.array(pairs).T
    seeds = [("", 0, t) for t in range(len(pairs))]
    both = pd.concat([rows("a", seeds, first), rows("b", seeds, second)])
    [one], [other] = (compare(both, *names).to_dict("records") for names in ("ab", "ba"))
    assert one["difference"] == pytest.approx(-other["difference"])
    np.testing.assert_allclose([one["low"], one["high"]], [-other["high"], -other["low"]], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one["p"], other["p"], rtol=1e-6)


def test_a_level_that_holds_nothing_is_no_pair():
    results = pd.concat([rows("a", [("", 0, 0)], [1.0]), rows("b", [("", 0, 1)], [2.0])])
    [found] = compare(results, "a", "b").to_dict("records")
    assert np.isnan(found["low"])
    assert "leave no interval" in found["sentence"]
    results = pd.concat([rows("a", [(0, 0, 0), (1, 0, 1)], [1.0, 2.0]), rows("b", [(0, 0, 1), (1, 0, 0)], [2.0, 2.0])])
    [found] = compare(results, "a", "b").to_dict("records")
    assert found["sentence"] == NOTHING


def test_conditions_are_never_mixed():
    seeds = [("", 0, t) for t in range(3)]
    results = pd.concat([rows("a", seeds, [1.0, 2.0, 4.0]), rows("b", seeds, [1.0, 1.0, 1.0], protocol="rded"),
                         rows("a", seeds, [5.0, 6.0, 9.0], ipc=20), rows("b", seeds, [1.0, 1.0, 1.0], ipc=20)])
    assert compare(results, "a", "b")["ipc"].tolist() == [20]
    assert compare(results, "a", "c").empty


def test_a_name_that_stands_for_several_arms_is_refused():
    seeds = [(0, 0, t) for t in range(3)]
    results = pd.concat([rows("dgs", seeds, [1.0, 2.0, 4.0], distribution=name) for name in ("hill", "scale")]
                        + [rows("dit", seeds, [1.0, 2.0, 4.0], distribution="")])
    with pytest.raises(ValueError, match=r"an arm has two runs of pool_seed 0, .*which differ in distribution"):
        compare(results, "dgs", "dit")


# ---- Numbers of the model --------------------------------------------------------------------------------------------

TERMS = [VarianceComponent("pools", np.float64(0.5), 3), VarianceComponent("trainings", np.float64(0.2), 4)]


def test_the_interval_ends_where_p_is_one_in_twenty():
    assert p_value(float(half_width(TERMS)), TERMS) == pytest.approx(0.05, rel=1e-6)
    assert p_value(float(half_width(TERMS, 0.999)), TERMS) == pytest.approx(0.001, rel=1e-6)
    assert p_value(0.0, TERMS) == 1
    assert np.isnan(p_value(1.0, [VarianceComponent("trainings", np.float64(0), 3)]))


def test_what_two_sources_hold_counts_once_at_the_smaller_weight():
    """A grid of four pools by two trainings, worked through."""
    grid = np.array([[1.0, 4.0], [2.0, 3.5], [0.5, 4.5], [1.5, 5.0]])
    pools, by_training = grid.mean(1).var(ddof=1) / 4, grid.mean(0).var(ddof=1) / 2
    rest = grid - grid.mean(1, keepdims=True) - grid.mean(0) + grid.mean()
    held = (rest**2).sum() / 3 / 8
    few, many = (stats.t.ppf(0.975, freedom) ** 2 for freedom in (1, 3))
    components = variance_of_difference([UnitTable(grid, "pools")], [[0]])
    assert float(half_width(components)) == pytest.approx((many * (pools - held) + few * by_training) ** 0.5)
    assert [float(component.exclusive) for component in components] == pytest.approx([pools, by_training - held])
    quiet = variance_of_difference([UnitTable(grid - grid.mean(0), "pools")], [[0]])  # trainings that differ by luck
    assert float(half_width(quiet)) == pytest.approx((many * pools) ** 0.5)


def test_equivalence_is_an_interval_within_the_margin():
    half = float(half_width(TERMS, 0.90))  # two one-sided tests at 5 %
    assert p_equivalent(0.3, 0.3 + half, TERMS) == pytest.approx(0.05, rel=1e-6)
    assert p_equivalent(-0.3, 0.3 + half, TERMS) == pytest.approx(0.05, rel=1e-6)
    assert p_equivalent(3.0, 2.0, TERMS) == 1


def test_numbers_needed_find_the_gain_as_often_as_they_should():
    rng, sd = np.random.default_rng(0), 1.9
    components = [VarianceComponent("pools", np.float64(sd**2 / 3), 3)]
    count = int(count_needed(components, "pools", 2.0))
    draws = rng.normal(2.0, sd, (4000, count))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.05)
    assert np.isnan(count_needed(components, "trainings", 2.0))
    assert count_needed([*components, VarianceComponent("trainings", np.float64(9), 3)], "pools", 2.0) == np.inf


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04, 0.03, 0.005]), [0.03, np.nan, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]


def test_an_interval_over_test_images_covers():
    """Two arms, three trainings each, 200 images of very unequal difficulty that both arms feel."""
    rng, inside = np.random.default_rng(3), []
    for _ in range(400):
        hard = rng.normal(size=200)
        right = [(hard + rng.normal(size=(3, 200)) > 0) * 100.0 for _ in range(2)]
        by_run = right[0] - right[1]
        table = UnitTable(by_run.mean(1)[None, :], "selections")
        components = [*variance_of_difference([table], [[0]]), image_component([by_run])]
        inside.append(abs(table.mean) <= half_width(components))
    assert np.mean(inside) >= 0.93


def test_mcnemar_of_one_training_is_the_textbook_s():
    first = np.repeat([1, 0, 1, 0], [30, 12, 40, 18])
    second = np.repeat([0, 1, 1, 0], [30, 12, 40, 18])
    assert mcnemar(first - second) == pytest.approx(stats.chi2.sf((30 - 12) ** 2 / 42, 1))
    assert mcnemar(np.zeros(5)) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(3, 40))
def test_mcnemar_of_several_trainings_has_images_for_clusters(seed, count, images):
    """Durkalski's statistic from each image's discordant pairs, one a training; of one training, the textbook's."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=images)
    first, second = (hard + rng.normal(shift, 1, (count, images)) > 0 for shift in (0.3, 0))
    top = bottom = 0.0
    for image in range(images):
        gained = sum(a and not b for a, b in zip(first[:, image], second[:, image], strict=True))
        lost = sum(b and not a for a, b in zip(first[:, image], second[:, image], strict=True))
        top, bottom = top + (gained - lost) / count, bottom + ((gained - lost) / count) ** 2
    found = mcnemar(100.0 * (first.mean(0) - second.mean(0)))
    assert found == pytest.approx(stats.chi2.sf(top**2 / bottom, 1) if bottom else 1.0)
    if count == 1 and (first != second).any():
        b, c = (first & ~second).sum(), (~first & second).sum()
        assert found == pytest.approx(stats.chi2.sf((b - c) ** 2 / (b + c), 1))


# ---- The same test images --------------------------------------------------------------------------------------------

@pytest.fixture
def tested(tmp_path):
    """Return rows of two arms with folders that say which images they got right."""
    rng, frames = np.random.default_rng(2), []
    for name, share in {"DGS": 0.75, "Random": 0.6}.items():
        correct = rng.random((3, 400)) < np.clip(share + 0.4 * rng.normal(size=400), 0, 1)
        folder = tmp_path / name
        folder.mkdir()
        frame = rows(name, [("", 0, t) for t in range(3)], 100 * correct.mean(1), n_test=400)
        frame = frame.assign(last=frame["best"], folder=str(folder))
        frame.to_csv(folder / "results.csv", index=False)
        for file in ("correct_best", "correct"):
            np.savez(folder / f"{file}.npz", **{str(t): np.packbits(row) for t, row in enumerate(correct)})
        frames.append((frame, correct))
    return frames


def test_arms_are_compared_on_the_images_of_their_folders(tested):
    results, (first, second) = pd.concat([frame for frame, _ in tested]), [correct for _, correct in tested]
    [plain] = compare(results, "DGS", "Random").to_dict("records")
    [found] = compare(results, "DGS", "Random", images=True).to_dict("records")
    by_image = 100 * (first.mean(0) - second.mean(0))
    assert found["difference"] == pytest.approx(by_image.mean())
    assert found["p_images"] == pytest.approx(stats.chi2.sf(by_image.sum() ** 2 / (by_image**2).sum(), 1))
    assert plain["given"] == "selection, test images"
    assert found["given"] == "selection"
    assert found["high"] - found["low"] > plain["high"] - plain["low"]
    assert {t: row.tolist() for t, row in enumerate(first)} == {
        t: row.tolist() for t, row in read_correctness(results["folder"].iloc[0]).items()}


@pytest.mark.parametrize("measure", ["best", "last"])
def test_images_are_those_of_the_epoch_and_the_seeds_that_are_compared(tmp_path, measure):
    """Three selections × two trainings against one × two, whose folders keep another correctness at each epoch."""
    rng, frames, right = np.random.default_rng(5), [], {}
    for arm, selection in [("a", 0), ("a", 1), ("a", 2), ("b", "")]:
        correct = {name: rng.random((2, 90)) < share for name, share in (("best", 0.8), ("last", 0.6))}
        folder = tmp_path / f"{arm}{selection}"
        folder.mkdir()
        frame = rows(arm, [(0, selection, t) for t in range(2)], 100 * correct["best"].mean(1), n_test=90)
        frame = frame.assign(last=100 * correct["last"].mean(1), folder=str(folder))
        frame.to_csv(folder / "results.csv", index=False)
        for name, file in CORRECTNESS_FILES.items():
            np.savez(folder / f"{file}.npz", **{str(t): np.packbits(row) for t, row in enumerate(correct[name])})
        frames.append(frame)
        right.setdefault(arm, []).extend(correct[measure])
    [found] = compare(pd.concat(frames), "a", "b", measure=measure, images=True).to_dict("records")
    by_image = [np.mean([run[image] for run in right["a"]]) - np.mean([run[image] for run in right["b"]])
                for image in range(90)]
    assert found["difference"] == pytest.approx(100 * np.mean(by_image))
    assert found["p_images"] == pytest.approx(stats.chi2.sf(np.sum(by_image) ** 2 / np.sum(np.square(by_image)), 1))
    assert f" at the {measure} epoch" in found["sentence"]
    assert "test images" not in found["given"]


def test_correctness_that_was_not_kept_is_said(tested):
    results = pd.concat([frame for frame, _ in tested])
    assert has_correctness(results)
    assert not has_correctness(results.assign(folder=""))
    (Path(results["folder"].iloc[0]) / "correct_best.npz").unlink()
    assert not has_correctness(results)
    with pytest.raises(ValueError, match=r"has no correct_best\.npz, which images were right at the best epoch"):
        compare(results, "DGS", "Random", images=True)
    assert len(compare(results, "DGS", "Random", images=True, measure="last")) == 1


# ---- Sentences -------------------------------------------------------------------------------------------------------

def trainings(method: str, *best: float) -> pd.DataFrame:
    return rows(method, [("", 0, t) for t in range(len(best))], list(best))


def crossed(method: str, grid: list[list[float]]) -> pd.DataFrame:
    """Return rows of one selection a line, and one training a column; None where a run is missing."""
    return rows(method, [(0, s, t) for s, line in enumerate(grid) for t in range(len(line))],
                [np.nan if best is None else best for line in grid for best in line])


NOTHING = "a and b have no runs in common, so that they cannot be compared."
HERE = "For this selection and these test images, "
POOL = "For this pool and these test images, "
ENDS = r"95 % interval [+−][\d.]+ to [+−][\d.]+"
NARROWER = ENDS.replace("95", "90")
SENTENCES = {  # every sentence, with the rows of a and b that call for it
    "none shared": (trainings("a", 50.0), rows("b", [("", 0, 7)], [50.0]).assign(best=np.nan), NOTHING),
    "no unit and training of both": (rows("a", [(0, 0, 0), (1, 0, 1)], [1.0, 2.0]),
                                     rows("b", [(0, 0, 1), (1, 0, 0)], [2.0, 2.0]), NOTHING),
    "one observation": (trainings("a", 52.5), trainings("b", 50.0), (
        "a minus b is +2.5 points at the best epoch, and 1 selection, 1 training leave no interval: repeat each arm "
        "two times or more, until runs differ.")),
    "identical arms": (trainings("a", 50.0, 51.0, 52.0), trainings("b", 50.0, 51.0, 52.0), (
        "a minus b is +0.0 points at the best epoch, and 1 selection, 3 trainings leave no interval: repeat each arm "
        "two times or more, until runs differ.")),
    "above": (trainings("a", 56.0, 56.5, 57.0), trainings("b", 50.0, 51.0, 51.0),
              rf"{HERE}a is 5\.8 points above b at the best epoch \({ENDS}; 1 selection, 3 trainings\)\."),
    "below": (trainings("b", 50.0, 51.0, 51.0), trainings("a", 56.0, 56.5, 57.0),
              rf"{HERE}b is 5\.8 points below a at the best epoch \({ENDS}; 1 selection, 3 trainings\)\."),
    "above, but within": (trainings("a", 51.0, 52.1, 52.0), trainings("b", 50.0, 51.0, 51.0), (
        rf"{HERE}a is 1\.0 points above b at the best epoch \({ENDS}; 1 selection, 3 trainings\), which is within ± 2 "
        r"points\.")),
    "as good as": (trainings("a", 50.5, 50.6, 51.0), trainings("b", 50.0, 51.0, 51.0), (
        rf"{HERE}a is as good as b within ± 2 points at the best epoch \(two one-sided tests, p = 0\.\d+; {NARROWER}; "
        r"1 selection, 3 trainings\)\.")),
    "a loss and a gain": (trainings("a", 40.0, 50.0, 62.0), trainings("b", 50.0, 51.0, 51.0), (
        rf"{HERE}a against b cannot be decided at the best epoch: the {ENDS} contains both a loss and a gain that "
        r"matter; "
        r"1 selection, 3 trainings \(\d+ trainings would decide a gain of 2 points\)\.")),
    "a gain": (trainings("a", 53.0, 52.0, 51.5), trainings("b", 50.0, 51.0, 51.0), (
        rf"{HERE}a against b cannot be decided at the best epoch: the {ENDS} contains zero and a gain that "
        r"matters; 1 selection, 3 trainings \(\d+ trainings would decide a gain of 2 points\)\.")),
    "a loss": (trainings("b", 50.0, 51.0, 51.0), trainings("a", 53.0, 52.0, 51.5), (
        rf"{HERE}b against a cannot be decided at the best epoch: the {ENDS} contains zero and a loss that "
        r"matters; 1 selection, 3 trainings \(\d+ trainings would decide a gain of 2 points\)\.")),
    "selections that add nothing": (crossed("a", [[55.0, 57.0, 56.0]] * 2), crossed("b", [[50.0, 51.0, 51.0]] * 2),
                                    rf"{POOL}a is 5\.3 points above b .* 1 pool, 2 selections, 3 trainings\)\."),
    "trainings that add nothing": (crossed("a", [[55.0] * 3, [55.1] * 3]), crossed("b", [[50.0] * 3, [50.0] * 3]),
                                   rf"{POOL}a is 5\.1 points above b .* 1 pool, 2 selections, 3 trainings\)\."),
    "missing runs": (crossed("a", [[55.0, None, 56.0], [55.1, 55.2, None]]), crossed("b", [[50.0, 50.1, 50.9]]),
                     r"For this pool, this selection and these test images, a is 5\.\d points above b .*"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_each_sentence_is_said_where_it_should(name):
    first, second, expected = SENTENCES[name]
    [found] = compare(pd.concat([first, second]), first["method"].iloc[0], second["method"].iloc[0]).to_dict("records")
    assert found["sentence"] == expected or re.fullmatch(expected, found["sentence"]), found["sentence"]


@pytest.mark.parametrize("measure", ["best", "last"])
def test_sentences_and_notes_tell_the_epoch(measure, tmp_path):
    results = pd.concat([trainings("a", 56.0, 56.5, 57.0), trainings("b", 50.0, 51.0, 51.0)])
    results = results.assign(last=results["best"] - [3, 2, 3, 0, 1, 0], series=results["method"], condition="C")
    found = compare_with_others(results, "a", ["b"], measure=measure)
    told, values = found["sentence"].iloc[0], results[measure].to_numpy()
    assert f"a is {(values[:3] - values[3:]).mean():.1f} points above b at the {measure} epoch (" in told
    summary = pd.DataFrame({"condition": "C", "ipc": 10, "series": ["a", "b"], "best": [56.5, 50.7], "std": 0.5})
    text = write_differences(found, summary, tmp_path)
    assert f"Differences in percentage points at the {measure} epoch of each training" in text
    with pytest.raises(ValueError, match=r"measure is 'top5'; accuracies are compared at the epochs best or last"):
        compare(results, "a", "b", measure="top5")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(400, 440), st.integers(400, 440)), min_size=1, max_size=4),
       st.sampled_from([1.0, 2.0, 3.5]), st.sampled_from([0.9, 0.95]))
def test_exactly_one_sentence_is_said_as_textbook_tests_would(pairs, margin, confidence):
    first, second = np.array(pairs).T / 10
    both = pd.concat([trainings("a", *first), trainings("b", *second)])
    [found] = compare(both, "a", "b", margin=margin, confidence=confidence).to_dict("records")
    d, n = first - second, len(first)
    error = d.std(ddof=1) / n**0.5 if n > 1 else 0.0
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * error if error > 1e-9 else np.nan
    low, high = d.mean() - half, d.mean() + half
    tost = max(stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
               stats.ttest_1samp(d, margin, alternative="less").pvalue) if error > 1e-9 else 1.0
    said = found["sentence"]
    alike = tost < 1 - confidence
    kinds = {"leave no interval": np.isnan(half), "points above b": low > 0, "points below b": high < 0,
             "is as good as b": alike and low <= 0 <= high,
             "both a loss and a gain that matter": not alike and low <= -margin and high >= margin,
             "contains zero and a gain that": not alike and -margin < low <= 0 and high >= margin,
             "contains zero and a loss that": not alike and low <= -margin and 0 <= high < margin}
    assume(not any(abs(edge) <= 1e-9 for edge in (low, high, low + margin, high - margin, tost - 1 + confidence)))
    assert [text for text in kinds if text in said] == [text for text, is_so in kinds.items() if is_so]
    assert sum(kinds.values()) == 1
    assert ("which is within" in said) == (alike and low * high > 0)


def test_rows_without_an_accuracy_are_runs_that_are_missing():
    first, second = trainings("a", 56.0, 56.5, 57.0, 30.0), trainings("b", 50.0, 51.0, 51.0, 52.0)
    alone = compare(pd.concat([first[:3], second]), "a", "b")
    empty = compare(pd.concat([first.assign(best=[56.0, 56.5, 57.0, np.nan]), second]), "a", "b")
    pd.testing.assert_frame_equal(alone, empty)
    assert alone["trainings"].tolist() == [3]


def test_what_would_decide_is_told_where_it_is_more_than_there_is():
    def said(**needed):
        return Comparison(1.0, -3.0, 5.0, 0.5, 1.0, 3, 1, 3, **needed).sentence("A", "B")

    assert said(pools_needed=14.0, trainings_needed=np.inf).endswith(
        "3 trainings (14 pools would decide a gain of 2 points).")
    assert said(pools_needed=14.0, trainings_needed=9.0).endswith("(14 pools or 9 trainings would decide a gain of 2 "
                                                                  "points).")
    assert said(pools_needed=np.nan, trainings_needed=3.0).endswith("3 pools, 1 selection, 3 trainings.")


def test_comparisons_of_a_table_are_corrected_together():
    rng = np.random.default_rng(0)
    seeds = [(0, 0, t) for t in range(4)]
    results = pd.concat([rows(name, seeds, mean + rng.normal(size=4)).assign(series=name, condition="C")
                         for name, mean in (("a", 50), ("b", 45), ("c", 50), ("d", 40))])
    table = compare_with_others(results, "a", ["a", "b", "c", "d"])
    assert table["second"].tolist() == ["b", "c", "d"]
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))
    assert (table["p_holm"] >= table["p"]).all()
    assert compare_with_others(results, "a", ["a"]).empty
