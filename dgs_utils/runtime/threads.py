"""How many threads read files; apart from devices, so that who only lists images need not load torch."""

import os


def threads(workers: int = 0) -> int:
    """Return the number of threads that read files: ``workers``, or one per core for 0."""
    return workers or os.cpu_count() or 1
