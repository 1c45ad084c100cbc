"""What damage costs and what it does not; `disturbed` damages any file in any way."""

import os
import random
import shutil
import time
from pathlib import Path

import pytest
import small_grid
from damage import KINDS, damage
from small_grid import contents, dgs

from dgs_utils.store import integrity
from dgs_utils.store.hashing import hash_entry
from dgs_utils.store.manifest import MANIFEST, hash_entries
from dgs_utils.store.verify import mark_corrupt_for_rebuild
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

FILE = "params/small.yaml"


@pytest.fixture
def copy(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    folder = shutil.copytree(finished, tmp_path / "grid", symlinks=True)
    monkeypatch.setenv("DGS_OUTPUTS", str(folder / "outputs"))
    monkeypatch.chdir(folder)
    return folder


def all_files(workspace: Path) -> list[Path]:
    return sorted(path for path in (workspace / "outputs").rglob("*") if path.is_file() and path.stat().st_size
                  and not path.name.startswith("."))


def held(workspace: Path) -> dict[str, dict]:
    """Return what is on disk of each result, in place of what its manifest says."""
    return {path.parent.name: hash_entries(path.parent)[0] for path in (workspace / "outputs").rglob(MANIFEST)}


def test_a_manifest_that_is_written_again_hides_nothing(copy):
    nodes = expand(read_experiment(copy / FILE))
    hurt = nodes[4].folder / "part2.txt"
    hurt.write_bytes(hurt.read_bytes()[:5])
    (hurt.parent / MANIFEST).write_bytes((hurt.parent / MANIFEST).read_bytes())
    [line] = mark_corrupt_for_rebuild(nodes)
    assert "part2.txt is missing or changed" in line


def test_copied_results_are_read_once(copy, monkeypatch):
    for file in all_files(copy):
        os.utime(file)  # as of now for the system, like copies, one after another
        time.sleep(0.02)  # more than its clock's tick
    nodes, read = expand(read_experiment(copy / FILE)), []
    monkeypatch.setattr(integrity, "hash_entry", lambda path: read.append(path) or hash_entry(path))
    assert mark_corrupt_for_rebuild(nodes) == []
    assert read
    read.clear()
    assert mark_corrupt_for_rebuild(nodes) == []
    assert not read


def test_a_dry_run_tells_of_damage_and_leaves_it(copy):
    [figures] = (copy / "outputs" / "07_figures").iterdir()
    (figures / "part1.txt").write_text("changed")
    told = dgs(copy, "run", FILE, "--dry-run").stdout
    assert f"outputs/07_figures/{figures.name}/part1.txt is missing or changed since its stage finished" in told
    assert (figures / "part1.txt").read_text() == "changed"
    assert "1 of 11 notebooks to run" in dgs(copy, "run", FILE).stdout


def test_a_copied_tree_is_whole(copy):
    """Whatever times its files have."""
    shutil.copytree(copy / "outputs", copy / "again", copy_function=shutil.copyfile)
    shutil.rmtree(copy / "outputs")
    (copy / "again").rename(copy / "outputs")
    for path in all_files(copy):
        path.touch()
    assert "Nothing was left to do.\n" in dgs(copy, "run", FILE).stdout


@pytest.mark.slow  # the real notebooks, which import PyTorch
def test_after_damage_real_notebooks_end_with_the_right_results(tmp_path, tmp_path_factory):
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_real)
    workspace = shutil.copytree(finished, tmp_path / "grid")
    before, files, chance = contents(workspace), held(workspace), random.Random(0)
    for path, kind in zip(chance.sample(all_files(workspace), len(KINDS)), KINDS, strict=True):
        damage(path, kind, [other for other in all_files(workspace) if other.suffix == path.suffix], chance)
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert held(workspace) == files
    assert contents(workspace) == before
