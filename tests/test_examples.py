"""Examples in docstrings run and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import dgs_utils

PACKAGE = Path(dgs_utils.__file__).parent
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if "    >>> " in path.read_text())


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_examples(path):
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.attempted
    assert not outcome.failed
