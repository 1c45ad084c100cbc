"""Stage folders: where a result lies, when it counts as done, and how it got there.

A stage writes one folder, ``outputs/<stage>/<readable>-<key>/``, named after the hash of everything that decides its
content (`node`), so that the path itself is the cache key. A finished folder ends with ``manifest.json``, written last
by an atomic rename: no manifest, not done (`manifest`). A notebook opens its stage with `stage` and closes it with
`Run.finish` (`session`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"session": ["Run", "stage"]})
