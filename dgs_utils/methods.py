"""Methods of making a distilled set, as data: where its images come from × how they are scored × which rule picks them.

A method takes the set out of images that exist already, the originals or a generated pool; or it is a *crops* method,
which puts images together from parts of the originals, or a *condense* method, which optimises pixels (notebook 08).
`METHODS` are the presets that tables name; ``sample.score`` and ``sample.rule`` exchange one part of a preset, and what
comes out is another preset wherever there is one (`resolve_method`). This module imports nothing heavy, so that a
grid can be planned without torch; the rules themselves are in `dgs_utils.selection.select`.
"""

from dataclasses import dataclass, replace
from functools import cached_property

SCORES: dict[str, str] = {  # columns of stage 03, each in [0, 1], 0 the easiest; see `dgs_utils.classifiers.measures`
    "difficulty": "1 − p(class)", "margin": "margin", "cross_entropy": "cross-entropy", "entropy": "entropy",
    "el2n": "EL2N", "confidence": "1 − confidence", "aum": "AUM", "forgetting": "forgetting", "dyn_unc": "Dyn-Unc",
    "dual": "DUAL", "el2n_early": "EL2N (early)",
    "mean_rank": "mean rank",
}
DYNAMICS_SCORES = ("aum", "forgetting", "dyn_unc", "dual", "el2n_early")  # scores that need prepare.dynamics
DYNAMICS_WINDOW = 10  # epochs that they look at together, the least that a training with dynamics has
MODE_GUIDED = ("mgd3", "strata")  # generators with as many modes as images, whose pools do not nest


@dataclass(frozen=True)
class Rule:
    """What a rule of `dgs_utils.selection.select` needs.

    Attributes:
        label: name in tables and figures.
        needs: "score" (stage 03), "target" (the distribution of stage 04, and its transformed scores), "prediction"
            (the scorer's confidence and whether it is right, stage 03), "dynamics" (of its training), and "features".
        uses: parameters of stage 05 that are the rule's own; "seed" where chance plays a part.
        whole_set: it chooses for all classes at once.
        cut: share of the hardest candidates that its definition removes first.
    """

    label: str
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    whole_set: bool = False
    cut: float = 0.0


RULES: dict[str, Rule] = {
    "first": Rule("First"),
    "all": Rule("All"),
    "random": Rule("Random", uses=("seed",)),
    "draw": Rule("DGS", ("target",), ("distribution", "seed")),
    "match": Rule("DGS (match)", ("target",), ("distribution",)),
    "low_discrepancy": Rule("DGS (low discrepancy)", ("target",), ("distribution",)),
    "easiest": Rule("Easiest", ("score",)),
    "hardest": Rule("Hardest", ("score",)),
    "middle": Rule("Middle", ("score",)),
    "cad": Rule("Compute-aware", ("score",), ("compute",)),
    "stratified": Rule("Stratified", ("score",), ("seed",)),
    "ccs": Rule("CCS", ("score",), ("seed",), cut=0.3),
    "dual": Rule("DUAL", ("score", "dynamics"), ("seed",)),
    "confidence": Rule("Confidence (CaO2)", ("prediction",)),
    "s3": Rule("S3 groups", ("features",), whole_set=True),
    "k_center": Rule("K-Center", ("features",)),
    "herding": Rule("Herding", ("features",)),
    "moderate": Rule("Moderate", ("features",)),
    "prototypes_near": Rule("Prototypes (near)", ("features",), ("seed",)),
    "prototypes_far": Rule("Prototypes (far)", ("features",), ("seed",)),
    "facility_location": Rule("Facility location", ("features",)),
    "d2": Rule("D2", ("score", "features")),
    "reliable_far": Rule("Reliable × far", ("score", "prediction", "features")),
}


@dataclass(frozen=True)
class Method:
    """One row of a comparison table.

    Attributes:
        label: name in tables and figures.
        source: "originals", "pool", "crops" (of originals, by `dgs_utils.selection.rded_crops`) or "condense".
        rule_name: a name of `RULES`, or of the condensation in `dgs_utils.condense`.
        generator: which pool (`pool.generator`); "" for the experiment's own, or where no pool is used.
        score: a name of `SCORES`; "" if the rule uses none, or the measure of stage 03.
        tiles: its images are mosaics of tiles × tiles crops.
    """

    label: str
    source: str
    rule_name: str
    generator: str = ""
    score: str = ""
    tiles: int = 1

    @property
    def whole(self) -> bool:
        """Whether it takes every image there is, whatever the IPC."""
        return self.rule_name == "all"

    @property
    def chooses(self) -> bool:
        """Whether its rule chooses among more images than it takes, so that score, rule and cut can be exchanged."""
        return self.source in ("originals", "pool") and not self.generator and not self.whole

    @cached_property
    def rule(self) -> Rule:
        """What its rule needs."""
        return RULES.get(self.rule_name, Rule(self.label, uses=("seed",) if self.source == "crops" else ()))

    @cached_property
    def uses(self) -> tuple[str, ...]:
        """The parameters of stage 05 that matter to it, beside method and ipc; the others do not change the result."""
        sized = self.source == "pool" and self.rule_name not in ("first", "all")
        return (*(("pool_factor",) if sized else ()), *self.rule.uses)


METHODS: dict[str, Method] = {
    # Real images
    "random": Method("Random", "originals", "random"),
    "first": Method("First files", "originals", "first"),
    "k_center": Method("K-Center", "originals", "k_center"),
    "herding": Method("Herding", "originals", "herding"),
    "rded": Method("RDED crops", "crops", "", tiles=2),
    "full": Method("Full", "originals", "all"),
    # Generated images, first IPC of the pool
    "dit": Method("DiT", "pool", "first", generator="dit"),
    "minimax": Method("Minimax", "pool", "first", generator="minimax"),
    "plain": Method("DiT, fine-tuned", "pool", "first", generator="plain"),
    "mgd3": Method("MGD3", "pool", "first", generator="mgd3"),
    "strata": Method("MGD3 by difficulty", "pool", "first", generator="strata"),
    # Generated images, chosen out of the pool
    "dgs": Method("DGS", "pool", "draw"),
    "match": Method("DGS (match)", "pool", "match"),
    "low_discrepancy": Method("DGS (low discrepancy)", "pool", "low_discrepancy"),
    "pool_random": Method("Random of pool", "pool", "random"),
    "easiest": Method("Easiest", "pool", "easiest"),
    "hardest": Method("Hardest", "pool", "hardest"),
    "middle": Method("Middle", "pool", "middle"),
    "confidence": Method("Confidence (CaO2)", "pool", "confidence"),
    "s3": Method("S3 groups", "pool", "s3"),
    "pool_k_center": Method("K-Center of pool", "pool", "k_center"),
    "pool_herding": Method("Herding of pool", "pool", "herding"),
    "ccs": Method("CCS", "pool", "ccs"),
    "stratified": Method("Stratified", "pool", "stratified"),
    "cad": Method("Compute-aware", "pool", "cad"),
    "dual": Method("DUAL", "pool", "dual", score="dual"),
    "moderate": Method("Moderate", "pool", "moderate"),
    "prototypes_near": Method("Prototypes (near)", "pool", "prototypes_near"),
    "prototypes_far": Method("Prototypes (far)", "pool", "prototypes_far"),
    "facility_location": Method("Facility location", "pool", "facility_location"),
    "d2": Method("D2", "pool", "d2"),
    "reliable_far": Method("Reliable × far", "pool", "reliable_far", score="entropy"),
    # Optimised pixels
    "dm": Method("DM", "condense", "dm"),
    "idc": Method("IDC-1", "condense", "idc"),
}

RULES_FOR_ORIGINALS = ("easiest", "hardest", "middle", "cad", "stratified", "ccs", "dual", "confidence", "moderate",
                       "prototypes_near", "prototypes_far", "facility_location", "d2", "reliable_far")

METHODS |= {f"real_{name}": replace(METHODS[name], label=f"{METHODS[name].label}, real", source="originals")
            for name in RULES_FOR_ORIGINALS}


def resolve_method(name: str, score: str = "", rule: str = "") -> tuple[str, Method]:
    """Return a preset with its score or rule exchanged: the name of the preset with that source and rule, and it.

    Args:
        name: a key of `METHODS`.
        score: a key of `SCORES`, or "" for the preset's own.
        rule: a key of `RULES`, or "" for the preset's own.

    Raises:
        ValueError: an unknown name, or a method whose parts cannot be exchanged like that.
    """
    method = METHODS[name]
    if rule and rule not in RULES:
        raise ValueError(f"sample.rule is {rule!r}; choose one of {', '.join(RULES)}")
    if (score or rule) and not method.chooses:
        how = f"set pool.generator to {method.generator} and" if method.generator else "to exchange them,"
        raise ValueError(f"sample.method {name} has no score or rule to exchange; {how} choose another method, "
                         f"such as dgs")
    if rule and rule != method.rule_name:
        names = [other for other, m in METHODS.items()
                 if (m.source, m.rule_name) == (method.source, rule) and (m.chooses or m.whole)]
        if not names:
            raise ValueError(f"sample.rule {rule} does not choose among the {method.source}; give sample.method dgs "
                             f"for a choice from the pool")
        name, method = names[0], METHODS[names[0]]
    return name, replace(method, score=score) if score else method
