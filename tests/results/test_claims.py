"""The paper's claims: published verdicts counted once more from the CSV files' text, own ones where the truth is known.
"""

import csv
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from result_rows import rows
from scipy import stats
from small_world import make_world, open_stage

from dgs_utils import figures
from dgs_utils.results import published_tables, verdicts
from dgs_utils.results.accuracy_claims import TABLE1_BASELINES
from dgs_utils.results.claims import CLAIMS, ClaimInputs, claims_table
from dgs_utils.results.reports import write_claims
from dgs_utils.results.rows import fill_columns
from dgs_utils.results.score_claims import class_numbers
from dgs_utils.sample import read_source, select_images, write_set
from dgs_utils.transform import read_sets, transform_sets

BY_NAME = {claim.name: claim for claim in CLAIMS}


# ---- Published: with no more than the text of the files --------------------------------------------------------------

def text_of(number: int) -> list[dict[str, str]]:
    with (published_tables.TABLES / f"table{number}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def cells(number: int, by: str) -> dict[tuple, dict[str, tuple[int, int]]]:
    """Return mean and ± in tenths, by cell and by what competes in it."""
    found: dict[tuple, dict[str, tuple[int, int]]] = {}
    for line in text_of(number):
        place = line["dataset"], line["model"], int(line["ipc"])
        found.setdefault(place, {})[line[by]] = tuple(round(float(line[name]) * 10) for name in ("mean", "std"))
    return found


def won(cell: dict, arm: str) -> tuple[bool, bool]:
    """Tell whether an arm is above all others but the full set, and by more than both spreads."""
    rivals = [value for name, value in cell.items() if name not in (arm, "Full Dataset")]
    mean, std = cell[arm]
    return all(mean > other for other, _ in rivals), all(mean - std > other + spread for other, spread in rivals)


def counted(outcomes: list[tuple[bool, bool]]) -> str:
    """Return the verdict on every case; each is (holds, beyond the spreads)."""
    right, clear, total = sum(holds for holds, _ in outcomes), sum(clear for _, clear in outcomes), len(outcomes)
    if right == 0:
        return "contradicted"
    some = f"holds in {right} of {total}, contradicted in {total - right}"
    return f"{f'holds in all {total}' if right == total else some}; {clear} beyond the spreads"


def mostly(outcomes: list[tuple[bool, bool]]) -> str:
    right, clear, total = sum(holds for holds, _ in outcomes), sum(clear for _, clear in outcomes), len(outcomes)
    assert 2 * right > total
    return f"holds: {right} of {total}; {clear} beyond the spreads"


def pairs(tables: list[dict], first: str, second: str) -> list[tuple[bool, bool]]:
    sides = [(cell[first], cell[second]) for table in tables for cell in table.values()]
    return [(a[0] > b[0], a[0] - b[0] > a[1] + b[1]) for a, b in sides]


def sums(parts: list[tuple[float, int, int]]) -> tuple[bool, bool]:
    total = sum(weight * mean for weight, mean, _ in parts)
    return total > 1e-9, total > sum(abs(weight) * std for weight, _, std in parts)


def undecided_by_t(sums: list[list[tuple[float, int, int]]]) -> str:
    """Return the verdict on sums of means of three trainings none of which Student's t (two degrees) tells from 0."""
    values = [sum(weight * mean for weight, mean, _ in parts) for parts in sums]
    errors = [sum((weight * std) ** 2 / 2 for weight, _, std in parts) ** 0.5 for parts in sums]
    assert all(2 * stats.t.sf(abs(value) / error, 2) > 0.05 for value, error in zip(values, errors, strict=True))
    return "cannot be decided"


def expected() -> dict[str, str]:
    """Return the published verdicts, in tenths of a point and plain Python."""
    first, second, third, fourth = (cells(n, by) for n, by in zip(
        (1, 2, 3, 4), ("method", "method", "distribution", "pool_size"), strict=True))
    networks, ipcs = ("ConvNet-6", "ResNetAP-10", "ResNet-18"), (10, 20, 50)

    def gain(network: str, ipc: int, weight: float) -> list[tuple[float, int, int]]:
        cell = first["ImageWoof", network, ipc]
        return [(weight, *cell["Ours"]), (-weight, *cell["Minimax"])]

    orders = []
    for (_, _, ipc), cell in second.items():
        woof = first["ImageWoof", "ResNetAP-10", ipc]
        for one, other in itertools.permutations(cell, 2):
            if woof[one][0] > woof[other][0]:
                (mean, std), (least, spread) = cell[one], cell[other]
                orders.append((mean > least, mean - least > std + spread))
    shapes, slope = ("hill", "ground", "slope", "cliff"), np.polyfit(range(4), np.eye(4), 1)[0]
    rise, fall = ([(sign * weight, *third["ImageWoof", "ResNetAP-10", ipc][name])
                   for weight, name in zip(slope, shapes, strict=True)] for ipc, sign in ((10, 1), (50, -1)))
    harder = [(cell[name], first["ImageWoof", "ResNetAP-10", ipc][name])
              for (_, _, ipc), cell in second.items() for name in cell]
    return {
        "minimax_helps": counted(pairs([first, second], "Minimax", "DiT")),
        "woof_is_hardest": counted([(mean > least, mean - std > least + spread)
                                    for (mean, std), (least, spread) in harder]),
        "guidance_helps": counted(pairs([first, second], "Ours", "Minimax")),
        "best_everywhere": counted([won(cell, "Ours") for cell in first.values()]),
        "most_at_high_ipc": counted([sums([part for network in networks for part in
                                           gain(network, high, 1 / 3) + gain(network, low, -1 / 3)])
                                     for low, high in itertools.combinations(ipcs, 2)]),
        "same_trend": mostly(orders),
        "scale_is_best": counted([won(cell, "scale") for cell in third.values()]),
        "easy_for_few": undecided_by_t([rise, fall, rise + fall]),
        "five_is_best": counted([won(cell, "5xIPC") for cell in fourth.values()]),
        "best_in_most": mostly([won(cell, "Ours") for table in (first, second) for cell in table.values()]),
    }


def test_published_verdicts_are_those_counted_from_the_text_of_the_tables():
    found = claims_table().set_index("name")["published_verdict"].to_dict()
    measured = expected()
    assert {name: found[name] for name in measured} == measured
    others = set(found) - set(measured)
    assert {found[name] for name in others} == {"cannot be decided: the paper gives no numbers for it"}


def test_published_numbers_are_there():
    numbers = claims_table().set_index("name")["published"]
    assert "ResNet-18, IPC 10, over IDC-1: −1.0" in numbers["best_everywhere"]
    assert "1.1 at IPC 10, 2.0 at IPC 20, 1.4 at IPC 50" in numbers["most_at_high_ipc"]
    assert "from DiT, ResNetAP-10, ImageIDC, IPC 50: +15.0 to " in numbers["woof_is_hardest"]  # 64.3 − 49.3
    assert "IPC 10: hill 35.8, ground 36.7, slope 37.8, cliff 37.4, scale 37.4; IPC 20" in numbers["easy_for_few"]
    values = {10: (35.8, 36.7, 37.8, 37.4), 50: (56.9, 55.0, 56.1, 56.6)}
    slopes = {ipc: stats.linregress(range(4), line).slope for ipc, line in values.items()}
    assert f"rise at IPC 10: +{slopes[10]:.2f} (" in numbers["easy_for_few"]
    assert f"fall at IPC 50: −{slopes[50]:.2f} (" in numbers["easy_for_few"]
    spreads = np.array([[0.2, 0.7, 0.4, 0.6], [0.5, 0.6, 0.6, 0.8]]) * [0.3, 0.1, 0.1, 0.3]
    half = stats.t.ppf(0.975, 2) * np.sqrt((spreads**2).sum() / 2)
    difference = slopes[10] - slopes[50]
    assert f"(interaction): +{difference:.2f} (−{half - difference:.2f} to +{difference + half:.2f})" in (
        numbers["easy_for_few"])


def test_three_runs_give_the_interval_of_student():
    runs = np.array([39.2, 40.1, 41.0])
    arm_of = pd.DataFrame({"mean": [runs.mean()], "std": [runs.std()]})
    [effect] = verdicts.published_effects([verdicts.Contrast("", [(1, arm_of)])], tested=True)
    assert (effect.low, effect.high) == pytest.approx(stats.t.interval(0.95, 2, runs.mean(), stats.sem(runs)))


# ---- Own rows: planted truths ----------------------------------------------------------------------------------------

NOISE = np.random.default_rng()
NO_POOL = {"pool_seed": "", "distribution": "", "pool_factor": 0, "objective": "", "measure": ""}


@pytest.fixture(autouse=True)
def same_noise():
    """Every test has the same noise, whichever ran before it."""
    NOISE.bit_generator.state = np.random.default_rng(5).bit_generator.state


def arm(mean: float, pools: int = 4, selections: int = 2, trainings: int = 3, sd: float = 0.2, rng=NOISE,
        **cell) -> pd.DataFrame:
    """Return runs of one arm, with noise of each kind: of pools, selections and trainings."""
    by_pool, by_set = rng.normal(0, sd, pools), rng.normal(0, sd, (pools, selections))
    lines = [{**cell, "pool_seed": p, "selection_seed": s, "training_seed": t,
              "best": mean + by_pool[p] + by_set[p, s] + rng.normal(0, sd)}
             for p in range(pools) for s in range(selections) for t in range(trainings)]
    return rows(*lines)


def minimax(mean: float, **options) -> pd.DataFrame:
    made = {"method": "minimax", "distribution": "", "pool_factor": 0, "selections": 1}
    return arm(mean, **made | options).assign(selection_seed="")


def random_images(mean: float, **options) -> pd.DataFrame:
    return arm(mean, **{"method": "random", "pools": 1, "selections": 4} | options).assign(**NO_POOL)


def own(name: str, *frames: pd.DataFrame) -> verdicts.Finding:
    return BY_NAME[name].own({"rows": fill_columns(pd.concat(frames, ignore_index=True))})


GRID = list(itertools.product(("convnet6", "resnet18"), (10, 50)))


def test_a_planted_lead_holds_and_a_planted_loss_contradicts():
    lead = [frame for network, ipc in GRID for place in [{"network": network, "ipc": ipc}]
            for frame in (arm(50, **place), minimax(45, **place), random_images(40, **place))]
    found = own("best_everywhere", *lead)
    assert found.verdict.startswith("holds in all 4 with ")
    assert found.numbers.endswith("; rivals: Minimax, Random")
    assert own("best_in_most", *lead).verdict.startswith("holds: 4 of 4 with ")
    loss = [arm(50), minimax(45), random_images(55)]
    found = own("best_everywhere", *lead, *loss)
    assert found.verdict.startswith("holds in 4 of 5, contradicted in 1 with ")
    assert "ResNetAP-10, IPC 10, over Random: −" in found.numbers
    assert own("best_everywhere", *loss).verdict.startswith("contradicted with 4 pools, 2 selections, 3 trainings")


def test_a_single_run_decides_nothing():
    single = {"pools": 1, "selections": 1, "trainings": 1}
    found = own("best_everywhere", arm(80, **single), minimax(20, trainings=1, pools=1))
    assert found.verdict == "cannot be decided with 1 pool, 1 selection, 1 training"
    assert found.numbers.startswith("ResNetAP-10, IPC 10, over Minimax: +")
    assert "(" not in found.numbers
    assert own("best_everywhere", arm(80)).verdict.startswith("cannot be decided: rows of DGS and of its rivals")


def test_trainings_of_one_set_decide_nothing_and_those_of_one_pool_say_so():
    """A set is by chance good or bad: trainings alone would find a difference in a third of all cases without any."""
    one = {"pools": 1, "sd": 0.01}
    assert own("guidance_helps", arm(80, selections=1, **one), minimax(20, **one)).verdict == (
        "cannot be decided with 1 pool, 1 selection, 3 trainings")
    assert own("guidance_helps", arm(80, selections=3, **one), minimax(20, **one)).verdict == (
        "holds for this pool, with 1 pool, 3 selections, 3 trainings")
    assert own("best_everywhere", arm(80, selections=1, **one), random_images(20, sd=0.01)).verdict.startswith("cannot")


def test_random_images_are_a_rival_of_their_own_kind_of_pool_only():
    pool = {"method": "pool_random", "distribution": ""}
    frames = [arm(50), arm(45, **pool)]
    found = own("guidance_helps", *frames, arm(90, generator="biggan", **pool), arm(90, **pool | {"pool_factor": 2}))
    assert found.verdict.startswith("holds with 4 pools")
    assert found.verdict == own("guidance_helps", *frames).verdict


def test_pools_that_were_drawn_from_the_originals_decide_nothing():
    given = {"generator": "originals", "bias": "-6"}
    of_originals = [arm(50, **given), arm(30, method="pool_random", distribution="", **given)]
    generated = [arm(50), arm(50, method="pool_random", distribution="")]
    for frames, words in ((of_originals, "cannot be decided: rows of DGS"),
                          (of_originals + generated, "cannot be decided with")):
        table = claims_table(ClaimInputs(pd.concat(frames, ignore_index=True))).set_index("name")
        assert table.loc["guidance_helps", "own_verdict"].startswith(words)


def test_claims_without_numbers_say_what_is_needed():
    nothing = dict.fromkeys(("classes", "scores", "thresholds"), pd.DataFrame())
    for alone in (arm(50).head(1), minimax(50), minimax(50, method="a strangers_set"), arm(50).head(0)):
        for claim in CLAIMS:
            verdict = claim.own(nothing | {"rows": fill_columns(alone)}).verdict
            assert verdict.startswith("cannot be decided: "), claim.name


def by_chance(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return rows whose accuracies are equal but for noise of each arm's pools, sets and trainings."""
    levels = ["method", "distribution", "pool_factor", "ipc", "pool_seed", "selection_seed", "training_seed"]
    noise = [rng.normal(size=len(frame))[frame.groupby(levels[:depth]).ngroup()] for depth in (5, 6, 7)]
    return frame.assign(best=50 + sum(noise))


def test_nothing_planted_is_seldom_found():
    """Under the null of equal arms few seeds decide at most about one time in twenty, for all cells together."""
    rng, times, few = np.random.default_rng(0), 7, {"pools": 2, "selections": 1, "trainings": 2}
    frame = fill_columns(pd.concat([made for ipc in (10, 50) for made in (
        *(arm(50, ipc=ipc, distribution=shape, **few) for shape in ("hill", "cliff", "scale")),
        minimax(50, **few, ipc=ipc))], ignore_index=True))
    for name in ("best_everywhere", "most_at_high_ipc", "scale_is_best", "easy_for_few"):
        verdicts_found = [BY_NAME[name].own({"rows": by_chance(frame, rng)}).verdict for _ in range(times)]
        assert sum(not text.startswith("cannot be decided with") for text in verdicts_found) <= stats.binom.ppf(
            0.999, times, 0.05)


def test_leads_that_grow_with_ipc_are_seen_run_by_run():
    """Pools are good or bad for both arms at all IPCs, which only pairs of runs take off."""
    gains = {10: 1.0, 20: 3.0, 50: 6.0}
    frames = [frame.assign(best=frame["best"] + 20 * frame["pool_seed"]) for ipc, gain in gains.items()
              for frame in (arm(50 + gain, ipc=ipc), minimax(50, ipc=ipc))]
    assert own("most_at_high_ipc", *frames).verdict.startswith("holds in all 3 with ")
    turned = [frame.assign(ipc=60 - frame["ipc"]) for frame in frames]
    assert own("most_at_high_ipc", *turned).verdict.startswith("contradicted with ")


def test_an_interaction_of_ipc_and_shape_has_its_slopes():
    means = {(ipc, shape): 50 + slope * rank for ipc, slope in ((10, 1.0), (50, -2.0))
             for rank, shape in enumerate(("hill", "ground", "slope", "cliff"))}
    frames = [arm(mean, ipc=ipc, distribution=shape, sd=0.05) for (ipc, shape), mean in means.items()]
    found = own("easy_for_few", *frames, arm(50), arm(50, ipc=50))
    assert found.verdict.startswith("holds in all 3 with ")
    at_10, at_50, *shown = found.numbers.split("; ")
    assert at_10.startswith("IPC 10: hill 50.")
    assert at_50.startswith("IPC 50: hill ")
    slopes = [float(part.split(": ")[1].split(" ")[0]) for part in shown]
    assert slopes == pytest.approx([1, 2, 3], abs=0.15)
    same = [arm(50, ipc=ipc, distribution=shape, sd=0.5) for ipc, shape in means]
    assert own("easy_for_few", *same, arm(50), arm(50, ipc=50)).verdict.startswith("cannot be decided with")


def test_sizes_and_shapes_are_compared_among_sets_that_differ_in_nothing_else():
    sizes = [arm(50 + 3 * (size == 5), pool_factor=size) for size in (2, 5, 6)]
    other = arm(90, pool_factor=2, objective="paper")  # of another objective: no rival here
    assert own("five_is_best", *sizes, other).verdict.startswith("holds with ")
    shapes = [arm(50 + 3 * (shape == "hill"), distribution=shape) for shape in ("hill", "cliff", "scale")]
    assert own("scale_is_best", *shapes).verdict.startswith("contradicted with ")
    assert own("scale_is_best", *shapes).numbers == own("scale_is_best", *shapes, arm(90, method="match")).numbers


def test_subsets_are_compared_with_imagewoof():
    methods = {"dgs": 60.0, "minimax": 55.0, "random": 50.0}

    def subset(name: str, above: float, order: int = 1) -> list[pd.DataFrame]:
        made = {"dgs": arm, "minimax": minimax, "random": random_images}
        return [made[method](above + order * mean, dataset=name) for method, mean in methods.items()]

    woof, nette = subset("imagewoof", 0), subset("imagenette", 20)
    assert own("same_trend", *woof, *nette).verdict.startswith("holds: 3 of 3 with ")
    turned = subset("imageidc", 95, -1)
    other_pool = [frame.assign(generator="biggan" * (frame["method"].iloc[0] == "dgs")) for frame in nette]
    assert own("same_trend", *woof, *other_pool).verdict.startswith("holds: 3 of 3 with ")
    assert own("best_everywhere", *woof, *other_pool).verdict.startswith("holds in all 2 with ")
    assert own("same_trend", *woof, *turned).verdict.startswith("contradicted: 0 of 3 with ")


def test_imagewoof_is_compared_with_other_subsets_where_all_else_is_alike():
    woof, nette = minimax(30), minimax(55, dataset="imagenette", test_list="another", teacher="another")
    assert own("woof_is_hardest", woof, nette).verdict == "holds with 4 pools, 3 trainings"
    assert own("woof_is_hardest", woof, nette).numbers.startswith("Minimax, ResNetAP-10, ImageNette, IPC 10: +2")
    assert own("woof_is_hardest", minimax(80), nette).verdict.startswith("contradicted with ")
    for elsewhere in ({"image_size": 64}, {"network": "resnet18"}, {"ipc": 50}, {"epoch_factor": 0.1}):
        found = own("woof_is_hardest", woof, minimax(55, dataset="imagenette", **elsewhere))
        assert found.verdict.startswith("cannot be decided: rows of the same method")


def test_minimax_is_compared_with_the_plain_generator():
    plain = minimax(40, method="dit")
    assert own("minimax_helps", minimax(45), plain).verdict == "holds with 4 pools, 3 trainings"
    assert own("minimax_helps", minimax(35), plain, arm(90)).verdict == "contradicted with 4 pools, 3 trainings"


def test_losses_have_the_minus_sign_of_all_other_numbers():
    frames = [made(mean, ipc=ipc) for ipc in (10, 50) for made, mean in ((arm, 40), (minimax, 50))]
    numbers = own("most_at_high_ipc", *frames).numbers
    assert numbers.startswith("mean gains over Minimax −")
    assert "-" not in numbers


# ---- Own scores ------------------------------------------------------------------------------------------------------

def scores_of(rng, easier: float = 0.3, classes: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return difficulties of classes whose pools are easier, and sets of their harder images."""
    scores, sets = [], []
    for name in range(classes):
        original, pool = rng.beta(2, 2, 80), rng.beta(2, 2, 50) * (1 - easier)
        for which, values in (("original", original), ("pool", pool)):
            scores.append(pd.DataFrame({"set": which, "class": f"c{name}", "score": values,
                                        "transformed": values ** 0.5,
                                        "file_name": [f"{which}/{name}/{i}" for i in range(len(values))]}))
        sets.append(pd.DataFrame({"class": f"c{name}", "score": np.sort(pool)[-30::3]}))
    made = {"transform": "t", "ipc": 10, "bins": 10, "pool_factor": 5, "reading": "code", "scored": "s"}
    return pd.concat(scores).assign(**made), pd.concat(sets).assign(**made)


def test_numbers_of_a_class_are_those_of_scipy():
    scores, sets = scores_of(np.random.default_rng(0))
    numbers = class_numbers(scores, sets).set_index("class")
    part = scores[scores["class"] == "c1"]
    original, pool = (part[part["set"] == which] for which in ("original", "pool"))
    chosen = sets.loc[sets["class"] == "c1", "score"]
    line = numbers.loc["c1"]
    distance = stats.wasserstein_distance(pool["score"], original["score"])
    assert line["easier"] == pytest.approx(distance)  # positive: the pool is easier
    for column, end in (("score", ""), ("transformed", "_after")):
        counts = np.histogram(pool[column], 10, (0, 1))[0]
        assert line[f"divergence{end}"] == pytest.approx(np.log2(10) - stats.entropy(counts, base=2))
        assert line[f"empty{end}"] == (counts == 0).sum()
        share = np.histogram(original[column], 10, (0, 1))[0] / len(original) * 10
        assert line[f"shortage{end}"] >= np.maximum(np.floor(share) - counts, 0).sum()
        assert line[f"unmet{end}"] <= line[f"shortage{end}"]
    assert line["altered"] == pytest.approx(stats.wasserstein_distance(original["score"], original["transformed"]))
    assert line["nearer"] == pytest.approx(distance - stats.wasserstein_distance(chosen, original["score"]))
    ends = [(original["score"] < 0.1).mean(), (original["score"] >= 0.9).mean()]
    assert line["ends"] == pytest.approx(min(ends) - 0.1)
    rng, filled = np.random.default_rng(1), np.floor(10 * pool["score"].to_numpy())
    draws = [len(np.unique(rng.choice(filled, len(chosen), replace=False))) for _ in range(4000)]
    assert line["varied"] == pytest.approx(len(np.unique(np.floor(10 * chosen))) - np.mean(draws), abs=0.1)


def verdict_on(name: str, scores: pd.DataFrame, sets: pd.DataFrame) -> str:
    return BY_NAME[name].own({"classes": class_numbers(scores, sets)}).verdict


def test_planted_distributions_are_told():
    scores, sets = scores_of(np.random.default_rng(2))
    assert verdict_on("pool_is_easy", scores, sets) == "holds for this pool, with 1 pool, 5 classes"
    assert verdict_on("set_matches", scores, sets) == "holds for this pool, with 1 pool, 5 classes"
    assert verdict_on("log_alters_originals", scores, sets) == "holds for this pool, with 1 pool, 5 classes"
    at_ends = scores.assign(score=np.where(scores["score"] > 0.5, 1 - scores["score"] / 50, scores["score"] / 50))
    assert verdict_on("scores_cluster", at_ends, sets) == "holds for this pool, with 1 pool, 5 classes"
    assert verdict_on("scores_cluster", scores, sets) == "contradicted for this pool, with 1 pool, 5 classes"
    few = scores.assign(score=0.05).where(scores.groupby(["class", "set"]).cumcount() > 8, scores, axis=0)
    assert verdict_on("set_varies", few, sets.assign(score=np.tile(np.linspace(0, 1, 10), 5))) == (
        "holds for this pool, with 1 pool, 5 classes")
    assert verdict_on("set_varies", scores, sets.assign(score=0.05)) == (
        "contradicted for this pool, with 1 pool, 5 classes")
    harder = scores.assign(score=1 - scores["score"])
    assert verdict_on("pool_is_easy", harder, sets) == "contradicted for this pool, with 1 pool, 5 classes"
    unchanged = scores.assign(transformed=scores["score"])
    for name in ("log_flattens", "log_fills_intervals", "shortage_without_log", "log_alters_originals"):
        assert verdict_on(name, unchanged, sets).startswith("cannot be decided with 1 pool, 5 classes")


def test_classes_differ_where_the_test_of_kruskal_and_wallis_says_so():
    scores, _ = scores_of(np.random.default_rng(4))
    scorer = BY_NAME["classes_differ"].own
    assert scorer({"scores": scores}).verdict == "cannot be decided with 5 classes, 400 images"
    last = scores["class"] == "c4"
    moved = scores.assign(score=scores["score"].where(~last, scores["score"] ** 0.25))
    found = scorer({"scores": pd.concat([moved, scores.assign(transform="of another scorer")])})
    assert found.verdict == "holds with 5 classes, 400 images"
    originals = moved[moved["set"] == "original"]
    ranks = originals["score"].rank()
    between = ranks.groupby(originals["class"]).transform("mean").var(ddof=0) / ranks.var(ddof=0)
    assert f"between classes +{between:.2f} of the variance of ranks" in found.numbers
    means = originals.groupby("class")["score"].mean()
    assert found.numbers.startswith(f"mean difficulty of a class from {means.min():.2f} to {means.max():.2f}, ")
    assert scorer({"scores": scores.assign(score=0.5)}).verdict.startswith("cannot be decided: folders of stages 04")


def test_pools_that_are_no_easier_are_seldom_called_so():
    rng, times = np.random.default_rng(3), 30
    decided = sum(not verdict_on("pool_is_easy", *scores_of(rng, easier=0.0)).startswith("cannot")
                  for _ in range(times))
    assert decided <= stats.binom.ppf(0.999, times, 0.05)


# ---- From folders ----------------------------------------------------------------------------------------------------

def test_folders_of_two_pool_sizes_give_all_that_scores_can_tell(tmp_path, outputs):
    world = make_world(tmp_path)
    samples = []
    for size in (2, 5):
        transform = open_stage("04_transform", pool_scores=str(world["scores"]), ipc=5, pool_factor=size,
                               original_scores=str(world["originals"]))
        transform_sets(transform, read_sets(transform))
        if transform.cached is None:
            transform.finish()
        sample = open_stage("05_sample", method="dgs", ipc=5, pool_factor=size, prepare=str(world["prepare"]),
                            pool=str(world["pool"]), transform=str(transform.folder))
        source = read_source(sample)
        write_set(sample, source, select_images(sample, source))
        sample.finish()
        samples.append(sample.folder)
    found = figures.claim_inputs(arm(50), samples)
    assert sorted(found.scores["pool_factor"].unique()) == [2, 5]
    assert len(found.sets) == 2 * 3 * 5
    table = claims_table(found).set_index("name")
    assert not table["own_verdict"].str.contains("folders of").any()
    first, second = (found.thresholds[found.thresholds["pool_factor"] == size] for size in (2, 5))
    moved = (first[["bottom", "top"]].to_numpy() != second[["bottom", "top"]].to_numpy()).any(axis=1).sum()
    assert table.loc["size_moves_thresholds", "own"].startswith(f"of 3 classes {moved} have other thresholds")
    assert " at 2 × IPC, " in table.loc["larger_pools_vary", "own"]
    text = write_claims(table.reset_index(), "claims", tmp_path)
    assert text == (tmp_path / "claims.md").read_text()
    assert len(pd.read_csv(tmp_path / "claims.csv")) == len(CLAIMS) == text.count("\n* ") + text.startswith("* ")
    assert all(line.count(" | ") == 5 for line in text.splitlines() if line.startswith("| ") and "---" not in line)


def test_rows_alone_leave_claims_about_scores_open(tmp_path):
    table = claims_table(ClaimInputs(arm(50))).set_index("name")
    assert table.loc["pool_is_easy", "own_verdict"].startswith("cannot be decided: folders of stages 04 and 05")


def test_every_claim_has_its_place_and_rivals_are_those_of_table_1():
    assert len(BY_NAME) == len(CLAIMS)
    assert all(any(word in claim.where for word in ("Abstract", "§")) for claim in CLAIMS)
    named = set(published_tables.published_table(1)["method"]) - {"dgs", "full"}
    assert named | {"random"} == set(TABLE1_BASELINES)  # the published random images are the first files


def test_no_sentence_is_the_paper_s():
    paper = Path(__file__).parents[3] / "shared" / "reference" / "paper.txt"
    if not paper.exists():
        pytest.skip("the paper's text is not beside this checkout")
    text = " ".join(paper.read_text().lower().split())
    for claim in CLAIMS:
        words = claim.says.lower().split()
        assert not any(" ".join(words[place : place + 6]) in text for place in range(len(words) - 5)), claim.name
