"""Any file of a finished tree is damaged in any way: the next run ends with the right results, and says what it did."""

import os
import random
import shutil
import time
from pathlib import Path

import pytest
import small_grid
from damage import KINDS, damage
from small_grid import contents, dgs

from dgs_utils.artifacts.contents import digest_of
from dgs_utils.artifacts.manifests import MANIFEST, checksums, read_manifest
from dgs_utils.batch import look
from dgs_utils.batch.experiment import read_experiment
from dgs_utils.batch.look import make_whole
from dgs_utils.batch.plan import expand
from dgs_utils.batch.state import damage as manifest_damage
from dgs_utils.batch.state import failure, state

FILE = "params/small.yaml"


@pytest.fixture
def copy(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    folder = shutil.copytree(finished, tmp_path / "grid", symlinks=True)
    monkeypatch.setenv("DGS_OUTPUTS", str(folder / "outputs"))
    monkeypatch.chdir(folder)
    return folder


def all_files(workspace: Path, hidden: bool = False) -> list[Path]:
    return sorted(path for path in (workspace / "outputs").rglob("*") if path.is_file() and path.stat().st_size
                  and (hidden or not path.name.startswith(".")))


def held(workspace: Path) -> dict[str, dict]:
    """Return what is on disk of each result, in place of what its manifest says."""
    return {path.parent.name: checksums(path.parent)[0] for path in (workspace / "outputs").rglob(MANIFEST)}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_is_named_and_counts_as_missing(copy, kind):
    """One damage at a time, and what the runner makes of it before it starts."""
    chance, nodes = random.Random(kind), expand(read_experiment(copy / FILE))
    assert make_whole(nodes) == []
    for path in chance.sample(all_files(copy), 30):
        shutil.copytree(copy / "outputs", copy / "kept")
        others = chance.sample(all_files(copy), 3)
        if not damage(path, kind, others, chance):
            others = []
        hurt = {file for file in (path, *others) if not file.exists() or file.read_bytes() !=
                (copy / "kept" / file.relative_to(copy / "outputs")).read_bytes()}
        folder = {file: next(place for place in file.parents if place.parent.parent.name == "outputs") for file in hurt}
        certified = {file for file in hurt if file.name != MANIFEST and file.relative_to(folder[file]).parts[0] in
                     read_manifest(copy / "kept" / folder[file].relative_to(copy / "outputs"))["files"]}
        lines = make_whole(nodes)
        states = {node.folder: state(node) for node in nodes}
        for file in certified:
            assert states[folder[file]] != "done"
            assert any(str(file.relative_to(copy)) in line or MANIFEST in line or "more files" in line
                       for line in [*lines, *map(manifest_damage, nodes)]), (file, lines)
        for node in nodes:
            failure(node)
        shutil.rmtree(copy / "outputs")
        (copy / "kept").rename(copy / "outputs")


@pytest.mark.parametrize("seed", range(int(os.environ.get("DGS_DAMAGES", "20")) // 10))
def test_after_damage_the_next_run_ends_with_the_right_results(copy, seed):
    """Ten files at once, in each way, hidden ones too, beside what a killed run leaves; ``DGS_DAMAGES`` asks for more.

    One folder is unfinished, and in another the books of a run that was killed are no JSON.
    """
    before, files = contents(copy), held(copy)
    chance = random.Random(seed)
    unfinished, killed = chance.sample([path.parent for path in all_files(copy) if path.name == MANIFEST], 2)
    (unfinished / MANIFEST).unlink()
    for name in (".holder", ".lock.door", "progress.json", "failure.json", ".part0.txt.host.1.partial"):
        (killed / name).write_text("{" * chance.randrange(3))
    all_hurt = chance.sample(all_files(copy, hidden=True), 2 * len(KINDS))
    for path, kind in zip(all_hurt, 2 * KINDS, strict=True):
        if path.exists():
            damage(path, kind, [other for other in all_files(copy) if other.name == path.name], chance)
    result = dgs(copy, "run", FILE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert held(copy) == files
    assert contents(copy) == before
    assert dgs(copy, "run", FILE).stdout.endswith("Nothing was left to do.\n")


def test_a_manifest_that_is_written_again_hides_nothing(copy):
    nodes = expand(read_experiment(copy / FILE))
    hurt = nodes[4].folder / "part2.txt"
    hurt.write_bytes(hurt.read_bytes()[:5])
    (hurt.parent / MANIFEST).write_bytes((hurt.parent / MANIFEST).read_bytes())
    [line] = make_whole(nodes)
    assert "part2.txt is missing or changed" in line


def test_copied_results_are_read_once(copy, monkeypatch):
    for file in all_files(copy):
        os.utime(file)  # as of now for the system, like copies, one after another
        time.sleep(0.02)  # more than its clock's tick
    nodes, read = expand(read_experiment(copy / FILE)), []
    monkeypatch.setattr(look, "digest_of", lambda path: read.append(path) or digest_of(path))
    assert make_whole(nodes) == []
    assert read
    read.clear()
    assert make_whole(nodes) == []
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
    assert dgs(copy, "run", FILE).stdout.endswith("Nothing was left to do.\n")


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
