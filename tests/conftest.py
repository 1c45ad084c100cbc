"""What all tests share."""

import os
from pathlib import Path

import pytest

import dgs_utils  # noqa: F401  (before torch: it sets how threads wait)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images and weights: ``$DGS_TEST_DATA``, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("DGS_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real test data not found: set DGS_TEST_DATA to its folder")
    return folder


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """An outputs folder of the test's own, where every stage of this test lands."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    monkeypatch.setenv("DGS_OUTPUTS", str(folder))
    return folder
