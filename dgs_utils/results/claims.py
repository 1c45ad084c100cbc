"""The paper's claims that numbers can contradict, in its order, with verdicts from its tables and from own results.

A claim about accuracy has one rule for the published tables and for own rows (`accuracy_claims`); one about difficulty,
for which the paper has no numbers, is decided by own scores (`score_claims`). `verdicts` defines the verdicts.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import pandas as pd

from dgs_utils.results import accuracy_claims as accuracy
from dgs_utils.results import score_claims as scores
from dgs_utils.results.rows import fill_columns
from dgs_utils.results.score_claims import mean_over_classes
from dgs_utils.results.verdicts import Estimator, Finding, decide, measured_effects, published_effects


class ClaimInputs(NamedTuple):
    """Own numbers; frames may be empty."""

    rows: pd.DataFrame  # of results, one a training
    # ``transformed.csv`` of the 04 folders behind the sets, with transform (name of the folder), scored (an identifier
    # of pool and scorer), ipc, pool_factor, bins and reading (objective).
    scores: pd.DataFrame = pd.DataFrame()
    thresholds: pd.DataFrame = pd.DataFrame()  # ``thresholds.csv`` of the same, and target (images per bin, a text)
    sets: pd.DataFrame = pd.DataFrame()  # transform, class and score of each image of the sets that DGS drew


class Claim(NamedTuple):
    """One sentence of the paper."""

    name: str
    where: str  # section, table or figure
    says: str  # in the kit's own words
    counted: str  # the measured effect, above 0 if the sentence is right
    published: Callable[[], Finding]  # from the published tables
    own: Callable[[Mapping[str, pd.DataFrame]], Finding]  # from `ClaimInputs`, and ``classes`` (`class_numbers`)


def _by_accuracy(tables: Sequence[int], rule: accuracy.Rule, needed: str, tested: bool = False,
                 shown: Callable[[pd.DataFrame], str] | None = None, **how) -> tuple[Callable, Callable]:
    """Return the findings of a rule over published tables (by intervals if ``tested``) and over own rows.

    ``needed`` names the rows without which there is no effect; the text of ``shown`` precedes the effects.
    """
    def finding_of(rows: pd.DataFrame, estimate: Estimator) -> Finding:
        finding = decide(rule(rows, estimate), f"rows of {needed} are needed", **how)
        return finding._replace(numbers=f"{shown(rows)}; {finding.numbers}") if shown and finding.numbers else finding

    return (cache(lambda: finding_of(accuracy.published_rows(tables), partial(published_effects, tested=tested))),
            lambda frames: finding_of(frames["rows"], measured_effects))


def _by_scores(rule: Callable[[pd.DataFrame], Finding], frame: str = "classes") -> tuple[Callable, Callable]:
    """Return the findings of a rule over one of the own frames; there are no published numbers."""
    return lambda: decide([], "the paper gives no numbers for it"), lambda frames: rule(frames[frame])


CLAIMS = (
    Claim("pool_is_easy", "§1, §2.3, Fig. 2", "generated pools lean towards easy images",
          "Wasserstein-1 distance of pool and originals, positive where the pool is easier",
          *_by_scores(mean_over_classes("pool easier by", "easier"))),
    Claim("log_corrects_bias", "Abstract, §1", "the logarithm corrects the pool's lean towards easy images",
          "Wasserstein-1 distance of pool and originals, before minus after",
          *_by_scores(mean_over_classes("distance", "off", "off_after"))),
    Claim("minimax_helps", "§2.1", "Minimax's criteria make better sets than the plain generator",
          "Minimax minus DiT",
          *_by_accuracy((1, 2), accuracy.lead("minimax", "dit"), "Minimax and DiT")),
    Claim("guidance_helps", "§2.2", "choosing by difficulty adds to what the generator gives",
          "DGS minus Minimax (own: also minus random images of the pool)",
          *_by_accuracy((1, 2), accuracy.lead("dgs", "minimax", "pool_random"), "DGS and Minimax or Random of pool")),
    Claim("set_matches", "§2.3", "the set's difficulties match the originals'",
          "Wasserstein-1 distance to the originals, the pool's minus the set's",
          *_by_scores(mean_over_classes("nearer by", "nearer"))),
    Claim("scores_cluster", "§2.3", "difficulties crowd at both ends of the scale",
          "share of the originals in the first or in the last interval, whichever is less, above an even spread's",
          *_by_scores(mean_over_classes("share of images", "ends"))),
    Claim("woof_is_hardest", "§3.1, Tables 1, 2", "ImageWoof is the hardest of the three subsets",
          "accuracy on another subset minus that on ImageWoof, of the same method",
          *_by_accuracy((1, 2), accuracy.over_imagewoof, "the same method on ImageWoof and on another subset")),
    Claim("best_everywhere", "§3.2, Table 1", "DGS is the best distilled set in every experiment",
          "DGS minus the strongest rival",
          *_by_accuracy((1,), accuracy.lead("dgs", *accuracy.TABLE1_BASELINES), "DGS and of its rivals")),
    Claim("most_at_high_ipc", "§3.2, Table 1", "its lead is largest with many images a class",
          "mean gain over Minimax, higher IPC minus lower",
          *_by_accuracy((1,), accuracy.gains_by_ipc, "DGS and Minimax, with the same pools at several IPCs,",
                         shown=accuracy.mean_gains)),
    Claim("same_trend", "§3.2, Table 2", "methods mostly compare on the other subsets as on ImageWoof",
          "difference of two methods, the better one on ImageWoof first; in most pairs",
          *_by_accuracy((1, 2), accuracy.same_order_as_imagewoof,
                         "methods that differ on ImageWoof and of another subset", most=True)),
    Claim("unmet_without_log", "§2.3, §3.2, Fig. 2", "without the logarithm the pool cannot serve many difficulties",
          "intervals in which the pool lacks images, without minus with the logarithm",
          *_by_scores(mean_over_classes("intervals that lack images", "unmet", "unmet_after"))),
    Claim("shortage_without_log", "§3.2, Fig. 2", "with the logarithm the target is served better",
          "images that the pool lacks, without minus with the logarithm",
          *_by_scores(mean_over_classes("images lacking", "shortage", "shortage_after"))),
    Claim("log_flattens", "§3.2, Fig. 2", "the logarithm flattens the pool's distribution",
          "KL divergence from uniform in bits, before minus after",
          *_by_scores(mean_over_classes("bits", "divergence", "divergence_after"))),
    Claim("log_fills_intervals", "§3.2, Fig. 2", "the logarithm fills intervals that were empty",
          "empty intervals of the pool, before minus after",
          *_by_scores(mean_over_classes("empty intervals", "empty", "empty_after"))),
    Claim("log_alters_originals", "§3.2, Fig. 2", "the logarithm changes the originals' distribution, too",
          "Wasserstein-1 distance of the originals before and after",
          *_by_scores(mean_over_classes("changed by", "altered"))),
    Claim("set_varies", "§3.2, Fig. 3", "the set holds images from easy to hard",
          "intervals of difficulty that the set fills, minus those that as many random images of the pool fill",
          *_by_scores(mean_over_classes("intervals", "varied"))),
    Claim("scale_is_best", "§2.2, §3.3, Table 3", "the originals' own distribution is the best target",
          "scale minus the strongest other distribution",
          *_by_accuracy((3,), accuracy.best("distribution", "scale"), "DGS with several distributions")),
    Claim("classes_differ", "§3.3", "classes differ in how difficult their images are",
          "share of the variance of the originals' ranks that lies between classes",
          *_by_scores(scores.classes_differ, "scores")),
    Claim("easy_for_few", "§3.3, Table 3", "few images should be easy ones, many images hard ones",
          "trend of accuracy from hill to cliff, points a shape: up at the lowest IPC, down at the highest, and their "
          "difference (interaction); published ones count by intervals, too, each ± being of three trainings",
          *_by_accuracy((3,), accuracy.easy_for_few, "DGS with several predefined distributions and IPCs", tested=True,
                         shown=accuracy.shapes_by_ipc, digits=2)),
    Claim("five_is_best", "§3.4, Table 4", "a pool of 5 × IPC is the best, above all at high IPC",
          "5 × IPC minus the strongest other size",
          *_by_accuracy((4,), accuracy.best("pool_factor", 5, "{} × IPC".format), "DGS with pools of several sizes")),
    Claim("larger_pools_vary", "§3.4", "larger pools bring diversity, and redundancy",
          "intervals of difficulty that pools of several sizes fill, and images in each",
          *_by_scores(scores.variety_by_size, "scores")),
    Claim("size_moves_thresholds", "§3.4", "the size of the pool decides thresholds and target",
          "whether thresholds differ between sizes, class by class",
          *_by_scores(scores.thresholds_move, "thresholds")),
    Claim("best_in_most", "§3.2, §4, Tables 1, 2", "DGS is the best in most experiments",
          "DGS minus the strongest rival; in most cells of Tables 1 and 2",
          *_by_accuracy((1, 2), accuracy.lead("dgs", *accuracy.TABLE1_BASELINES), "DGS and of its rivals", most=True)),
)


def claims_table(own: ClaimInputs | None = None) -> pd.DataFrame:
    """Return the verdicts on all claims, from own numbers, too, where these are given.

    Returns:
        One row a claim, in the paper's order: name, claim, where, rule, published and published_verdict, own and
        own_verdict: the numbers, and the verdict (`verdicts`).
    """
    lines = [{"name": claim.name, "claim": claim.says, "where": claim.where, "rule": claim.counted}
             | dict(zip(("published", "published_verdict"), claim.published(), strict=True)) for claim in CLAIMS]
    if own is not None:
        classes = scores.class_numbers(own.scores, own.sets) if len(own.scores) else pd.DataFrame()
        rows = fill_columns(own.rows)
        rows = rows[rows["bias"] == ""]  # pools drawn from the originals are no evidence on generated ones
        frames = own._asdict() | {"rows": rows, "classes": classes}
        for claim, line in zip(CLAIMS, lines, strict=True):
            line |= dict(zip(("own", "own_verdict"), claim.own(frames), strict=True))
    return pd.DataFrame(lines)
