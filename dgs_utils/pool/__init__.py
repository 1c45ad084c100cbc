"""Stage 02: the pool of images to select from (§2.2) [F §5].

Images come from a diffusion model (`pool.from_model`), from folders and archives of the user (`pool.from_folders`), or
from the originals (`pool.from_originals`).
"""

import pandas as pd

from dgs_utils.images.classes import read_classes
from dgs_utils.pool.from_folders import images_root, list_folder
from dgs_utils.pool.from_model import all_blocks, decode_images, generate_images, load_generator, sample_latents
from dgs_utils.pool.from_originals import draw_originals
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import write_csv
from dgs_utils.store.hashing import hash_file
from dgs_utils.store.session import Run

__all__ = ["decode_images", "generate", "images_root", "is_complete", "load_generator", "sample_latents"]

EXISTING = {"folder": list_folder, "originals": draw_originals}  # generators that take images which exist already


def generate(run: Run) -> pd.DataFrame:
    """Make the pool: write its images and ``metadata.csv``; return the latter.

    A run that generates a shard writes ``metadata.csv`` only if the other shards' images are there; it returns the rows
    of the images that are there.

    Raises:
        ValueError: a class without images.
    """
    if run.cached:
        return read_table(run.folder / "metadata.csv")
    run.is_complete = lambda: is_complete(run)
    classes, generator = read_classes(run.inputs["prepare"]), run.params.generator
    table = EXISTING.get(generator, generate_images)(run, classes)
    total = len(classes) * run.params.images_per_class
    if generator in EXISTING or len(table) == total:
        write_csv(run.folder / "metadata.csv", table)
        _record_prefixes(run, table)
    else:
        print(f"Shard {run.params.shard} is done; {len(table):,} of {total:,} images exist. The shard that ends last "
              f"writes metadata.csv and the manifest.")
    return table


def is_complete(run: Run) -> bool:
    """Return whether all images of the pool are there, those of other shards too, so that the stage can finish."""
    classes = read_classes(run.inputs["prepare"])
    if run.params.generator not in EXISTING and not all(block.done for block in all_blocks(run, classes)):
        return False
    if not (run.folder / "metadata.csv").exists():
        return False
    if not run.count:  # written by a shard that ended at the same time
        _record_prefixes(run, read_table(run.folder / "metadata.csv"))
    return True


def _record_prefixes(run: Run, table: pd.DataFrame) -> None:
    """Record the number of images a class, and a hash of the first n images of each class, for every n."""
    if count := run.params.count():  # the pool can be extended
        rows = table.to_csv(index=False, header=False).splitlines()
        hashes = [hash_file(run.folder / file)["sha256"] for file in table["file_name"]]
        run.record_prefixes(count, table["index"], map("{} {}".format, rows, hashes))
