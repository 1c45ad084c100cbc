"""What the HTML report of a distilled set shows, where a run ends with it."""

from pathlib import Path

from matplotlib.figure import Figure

from dgs_utils import plots
from dgs_utils.figures.from_folders import scored_pool, scorer_errors, titles_of_set
from dgs_utils.methods import METHODS
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.manifest import read_manifest


def describe_set(folder: Path) -> tuple[str, list[str | Figure]]:
    """Return a title, and Markdown texts and figures, of a finished 05 folder: the set, the pool behind it from easy to
    hard, and what the scorer recognises.
    """
    plots.use_style()
    manifest, table, titles = read_manifest(folder), read_table(folder / "metadata.csv"), titles_of_set(folder)
    label = METHODS[manifest["params"]["method"]].label
    title = f"{manifest['label']}: {len(table)} images of {table['class'].nunique()} classes, selected by {label}"
    contents: list[str | Figure] = [
        f"## {title}\n\nThe images are in `{folder.name}/images`, a folder a class, with `metadata.csv`.",
        "### The distilled set", plots.set_gallery(table, folder, titles),
        "Each class from the easiest image to the hardest, with its difficulty where it is known."]
    if scored := scored_pool(folder):
        contents += ["### The pool, from easy to hard", plots.set_gallery(*scored, titles, columns=12),
                     "At even steps of rank. If hard images look like another class, it is the scorer that errs, or "
                     "the pool."]
    if errors := scorer_errors([folder]):
        contents += ["### What the scorer recognises",
                     plots.confusion_matrix(errors[1], f"the scorer on the {errors[0]}"),
                     "Of a class that the scorer hardly recognises, difficulties mean little."]
    return title, contents
