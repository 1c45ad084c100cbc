"""Progress bars: none, and one that counts the images of batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

AnyBatch = TypeVar("AnyBatch")


def no_progress(iterable: Iterable, label: str = "", total: int | None = None) -> Iterable:
    """Return an iterable as it is, in place of `Run.progress`."""
    return iterable


def count_processed(batches: Iterable[AnyBatch], images_of: Callable[[AnyBatch], Any], progress: Callable, label: str,
                 total: int) -> Iterator[AnyBatch]:
    """Pass batches on, and count their images, which ``images_of`` returns, by ``progress``."""
    bar = iter(progress(range(total), label=label, total=total))
    for batch in batches:
        yield batch
        for _ in range(len(images_of(batch))):
            next(bar, None)
    for _ in bar:  # lets it reach its end
        pass
