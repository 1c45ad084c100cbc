"""The methods of the comparison tables, as data: where a method's images come from and which rule picks them.

A *selector* method takes the distilled set out of images that exist already: the originals, or a generated pool. A
*crops* method puts its images together from parts of the originals, and a *condense* method makes them by optimising
pixels (notebook 08). This module imports nothing heavy, so that a grid can be planned without torch; the selectors
themselves are in `dgs_utils.selection.selectors`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One row of a comparison table.

    Attributes:
        label: name in tables and figures.
        source: "originals", "pool", "crops" (of originals, by `dgs_utils.selection.mosaics`) or "condense".
        selector: name of the rule in `dgs_utils.selection.selectors`, or of the condensation in `dgs_utils.condense`.
        generator: which pool (`pool.generator`); "" for the experiment's own, or where no pool is used.
        needs: what the rule looks at: "" (nothing), "scores" (notebook 03), "transformed" (notebook 04),
            or "features" of the difficulty classifier.
        uses: the parameters of stage 05 that matter to it, beside method and ipc; the others do not tell results apart.
        tiles: its images are mosaics of tiles × tiles crops.
    """

    label: str
    source: str
    selector: str
    generator: str = ""
    needs: str = ""
    uses: tuple[str, ...] = ()
    tiles: int = 1

    @property
    def whole(self) -> bool:
        """Whether it takes every image there is, whatever the IPC."""
        return self.selector == "all"


TARGET = ("pool_factor", "distribution", "counts")  # what decides a target distribution

METHODS: dict[str, Method] = {
    # Real images
    "random": Method("Random", "originals", "random", uses=("seed",)),
    "first": Method("First files", "originals", "first"),
    "k_center": Method("K-Center", "originals", "k_center", needs="features"),
    "herding": Method("Herding", "originals", "herding", needs="features"),
    "rded": Method("RDED crops", "crops", "", uses=("seed",), tiles=2),
    "full": Method("Full", "originals", "all"),
    # Generated images, first IPC of the pool
    "dit": Method("DiT", "pool", "first", generator="dit"),
    "minimax": Method("Minimax", "pool", "first", generator="minimax"),
    "mgd3": Method("MGD3", "pool", "first", generator="mgd3"),
    # Generated images, chosen out of the pool
    "dgs": Method("DGS", "pool", "draw", needs="transformed", uses=(*TARGET, "seed")),
    "match": Method("DGS (match)", "pool", "match", needs="transformed", uses=TARGET),
    "pool_random": Method("Random of pool", "pool", "random", uses=("pool_factor", "seed")),
    "easiest": Method("Easiest", "pool", "easiest", needs="scores", uses=("pool_factor",)),
    "hardest": Method("Hardest", "pool", "hardest", needs="scores", uses=("pool_factor",)),
    "middle": Method("Middle", "pool", "middle", needs="scores", uses=("pool_factor",)),
    "confidence": Method("Confidence (CaO2)", "pool", "confidence", needs="scores", uses=("pool_factor",)),
    "s3": Method("S3 groups", "pool", "s3", needs="features", uses=("pool_factor",)),
    "pool_k_center": Method("K-Center of pool", "pool", "k_center", needs="features", uses=("pool_factor",)),
    "pool_herding": Method("Herding of pool", "pool", "herding", needs="features", uses=("pool_factor",)),
    # Optimised pixels
    "dm": Method("DM", "condense", "dm"),
    "idc": Method("IDC-1", "condense", "idc"),
}
