"""Archives from strangers unpack to no more than what parameters allow, wherever a stage opens one."""

import shutil
from pathlib import Path

import pytest
from small_world import make_prepare, open_stage, write_digits

from dgs_utils import pool
from dgs_utils.images import datasets
from dgs_utils.images.archives import BOUNDS, bounds_of
from dgs_utils.params import validate

TOO_MUCH = [({"unpack_gib": 1e-6}, r"unpacks to more than 1,073 bytes; if you trust it, raise unpack_gib"),
            ({"unpack_files": 5}, r"holds more than 5 files; if you trust it, raise unpack_files"),
            ({"unpack_ratio": 0.001}, r"unpacks to more than 67,108,864 bytes; if you trust it, raise unpack_ratio")]


@pytest.fixture(scope="module", params=["zip", "gztar"])
def archive(request, tmp_path_factory) -> Path:
    """Thirty small images, and a file that is larger than what no ratio is asked of."""
    folder = tmp_path_factory.mktemp("archive")
    root = write_digits(folder / "theirs", 20, 30)
    (root / "0" / "large.bmp").write_bytes(bytes(2**26 + 1))
    return Path(shutil.make_archive(str(folder / "packed"), request.param, root))


@pytest.mark.parametrize(("values", "sentence"), TOO_MUCH)
def test_originals(archive, outputs, values, sentence):
    run = open_stage("00_prepare", dataset="folder", root=str(archive), base_model="none", **values)
    with pytest.raises(ValueError, match=rf"{archive.name} .*{sentence}"):
        datasets.index_originals(run.params, run.folder)
    assert not (run.folder / "images").exists()


@pytest.mark.parametrize(("values", "sentence"), TOO_MUCH)
def test_pools(archive, tmp_path, outputs, values, sentence):
    made = make_prepare(write_digits(tmp_path / "originals", 0, 6))
    run = open_stage("02_pool", generator="folder", root=str(archive), prepare=str(made), **values)
    with pytest.raises(ValueError, match=rf"{archive.name} .*{sentence}"):
        pool.generate(run)
    assert not (run.folder / "unpacked" / "packed").exists()


@pytest.mark.parametrize("stage", ["00_prepare", "02_pool"])
def test_bounds_are_no_identity_and_sensible_by_default(stage):
    assert bounds_of(validate(stage, {})) == BOUNDS
    for values, _ in TOO_MUCH:
        assert validate(stage, values).identity() == validate(stage, {}).identity()
    for name in ("unpack_gib", "unpack_files", "unpack_ratio"):
        for wrong in (0, -1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=rf"{stage[3:]}\.{name}"):
                validate(stage, {name: wrong})
