"""Every byte against the manifests, repair, and cleaning up; on finished grids, through the command."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import small_grid
from restamp import certify
from small_grid import contents, dgs, manifests
from waits import HANG

from dgs_utils.params import validate
from dgs_utils.store import verify
from dgs_utils.store.gc import remove
from dgs_utils.store.hashing import hash_file
from dgs_utils.store.manifest import CHECKSUMS, MANIFEST, read_manifest
from dgs_utils.store.partial_results import write_verified_csv
from dgs_utils.store.session import open_node
from dgs_utils.store.status import requested_by

ROOT = Path(__file__).resolve().parents[2]
FILE = "params/small.yaml"


@pytest.fixture
def copy(tmp_path, tmp_path_factory):
    """A finished workspace of the test's own."""
    return shutil.copytree(small_grid.finished(tmp_path_factory.getbasetemp())[0], tmp_path / "copy")


def folder_of(workspace: Path, stage: str) -> Path:
    return next((workspace / "outputs" / stage).iterdir())


def swap(file: Path) -> None:
    """Change a file so that neither its size nor its time tells."""
    times, content = file.stat(), file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


# ---- Verify ----------------------------------------------------------------------------------------------------------

def test_whole_results_are_whole(copy):
    result = dgs(copy, "verify", FILE)
    assert result.returncode == 0
    files = sum(len(manifest["files"]) for manifest in manifests(copy).values())
    assert result.stdout.startswith(f"{files} files (")
    assert result.stdout.endswith("of 11 results checked, none damaged\n")


def test_a_swapped_byte_is_found_with_what_depends_on_it_and_repaired(copy):
    before = contents(copy)
    transform = folder_of(copy, "04_transform")
    swap(transform / "part1.txt")
    result = dgs(copy, "verify", FILE)
    assert result.returncode == 1
    first, second, *_ = result.stdout.splitlines()
    assert first == f"DAMAGED outputs/04_transform/{transform.name}: part1.txt"
    assert re.match(r"Made from it: 1 of 05_sample, 1 of 06_evaluate, 1 of 07_figures \(took \d+:\d\d\)", second)
    assert f"dgs verify {FILE} --repair, then dgs run {FILE}" in result.stdout
    result = dgs(copy, "verify", FILE, "--repair")
    assert f"outputs/04_transform/{transform.name} is marked; the next run makes it again" in result.stdout
    printed = dgs(copy, "run", FILE).stdout
    assert [line.split("] ")[1].split()[0] for line in printed.splitlines() if "done in" in line] == ["04_transform"]
    assert contents(copy) == before
    assert dgs(copy, "verify", FILE).returncode == 0


def test_a_missing_file_and_one_that_cannot_be_read_are_damage(copy):
    for stage, damage in (("02_pool", lambda file: file.unlink()), ("01_fine_tune", lambda file: (file.unlink(),
                                                                                                   file.mkdir()))):
        damage(folder_of(copy, stage) / "part0.txt")
    printed = dgs(copy, "verify", FILE).stdout
    assert printed.count("DAMAGED ") == 2


def test_an_edited_or_cut_manifest_is_damage(copy):
    edited, cut = folder_of(copy, "04_transform") / MANIFEST, folder_of(copy, "02_pool") / MANIFEST
    (edited.parent / "part1.txt").write_text("another")
    found = json.loads(edited.read_text())
    found["files"]["part1.txt"] = hash_file(edited.parent / "part1.txt")  # as whoever hides a change would
    edited.write_text(json.dumps(found))
    cut.write_text(cut.read_text()[:100])
    for target in (FILE, "outputs"):
        printed = dgs(copy, "verify", target).stdout
        assert sorted(line for line in printed.splitlines() if "DAMAGED" in line) == [
            f"DAMAGED {path.parent.relative_to(copy)}: {MANIFEST}" for path in (cut, edited)]
        assert ", 2 damaged" in printed
    assert dgs(copy, "verify", FILE, "--repair").stdout.count("is marked; the next run makes it again\n") == 2
    assert dgs(copy, "run", FILE).returncode == 0
    assert dgs(copy, "verify", FILE).returncode == 0


def test_what_the_plan_lacks_is_counted(copy):
    pool, sample = folder_of(copy, "02_pool"), folder_of(copy, "05_sample")
    (pool / "manifest.json").unlink()
    shutil.rmtree(sample)
    (sample / ".lock").mkdir(parents=True)  # as a runner leaves it that was killed before it began
    result = dgs(copy, "verify", FILE)
    assert result.returncode == 1
    assert "1 of the plan's 11 results is missing, the first outputs/05_sample/" in result.stdout
    assert (f"1 of the plan's 11 results is not finished (no manifest), the first outputs/02_pool/{pool.name}\n"
            in result.stdout)
    assert result.stdout.splitlines()[-1].endswith("of 9 results checked, none damaged")


def test_nothing_is_not_whole(copy):
    shutil.rmtree(copy / "outputs")
    result = dgs(copy, "verify", FILE)
    assert result.returncode == 1
    assert "11 of the plan's 11 results are missing" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 files (0 B) of 0 results checked"


def test_what_was_made_after_the_damage_is_made_again_and_what_before_is_not(copy):
    pool, transform = folder_of(copy, "02_pool"), folder_of(copy, "04_transform")
    swap(pool / "part1.txt")
    assert dgs(copy, "verify", FILE, "--repair").stdout.count("is marked") == 1
    assert dgs(copy, "run", FILE).returncode == 0
    swap(transform / "part1.txt")
    [sample] = [path for path in (copy / "outputs" / "05_sample").iterdir() if "dgs" in path.name]
    figures = folder_of(copy, "07_figures")
    for folder in (sample, figures):  # as if they had read the swapped byte
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text())
    lines = dgs(copy, "verify", FILE, "--repair").stdout.splitlines()
    assert [line.split()[0] for line in lines if "is marked" in line] == [
        str(path.relative_to(copy)) for path in (transform, sample, figures)]
    assert lines[-1].endswith("since it was made after its input was damaged")


def images_run(outputs: Path, count: int):
    """Return a finished pool of so many small files in subfolders, with a plan's node for it."""
    open_node(validate("00_prepare", {})).finish()
    run = open_node(validate("02_pool", {"generator": "dit"}))
    for number in range(count):
        file = run.folder / "images" / str(number % 10) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"image {number:05d}")
    (run.folder / "metadata.csv").write_text("file_name\n")
    run.finish()
    return run.node


def test_a_few_thousand_files_are_checked_and_named(outputs):
    node = images_run(outputs, 4000)
    started, seen = time.perf_counter(), []

    def progress(items, label, total):
        for item in items:
            seen.append(total)
            yield item

    found = verify.verify_nodes([node], progress)
    assert (found.damaged, found.files, found.bytes) == ({}, 4001, 4000 * 11 + 10)
    assert seen == [4001] * 4001
    assert time.perf_counter() - started < 600  # for hangs
    for number in (17, 1234, 3999):
        swap(node.folder / "images" / str(number % 10) / f"{number}.png")
    found = verify.verify_nodes([node])
    assert found.damaged == {node.folder: ["images/4/1234.png", "images/7/17.png", "images/9/3999.png"]}


def test_of_a_pool_only_the_damaged_images_go(outputs):
    node = images_run(outputs, 40)
    swap(node.folder / "images" / "3" / "13.png")
    [line] = verify.repair([node], verify.verify_nodes([node]))
    assert line.endswith("is marked; the next run makes it again")
    assert not (node.folder / MANIFEST).exists()
    left = {int(file.stem) for file in (node.folder / "images").rglob("*.png")}
    assert left == set(range(40)) - {13}


def test_without_the_list_of_files_the_subfolder_is_named(outputs):
    node = images_run(outputs, 40)
    checksums = (node.folder / CHECKSUMS).read_bytes()
    (node.folder / CHECKSUMS).unlink()
    assert verify.verify_nodes([node]).damaged == {node.folder: [CHECKSUMS]}
    [line] = verify.repair([node], verify.verify_nodes([node]))
    assert line.endswith(f"{CHECKSUMS} is written anew")
    assert (node.folder / CHECKSUMS).read_bytes() == checksums
    (node.folder / CHECKSUMS).unlink()
    swap(node.folder / "images" / "3" / "13.png")
    assert verify.verify_nodes([node]).damaged == {node.folder: [CHECKSUMS, "images"]}
    verify.repair([node], verify.verify_nodes([node]))
    assert not (node.folder / "images").exists()


def test_what_is_being_worked_on_is_not_repaired(outputs):
    node = images_run(outputs, 10)
    swap(node.folder / "metadata.csv")
    found = verify.verify_nodes([node])
    code = ("import sys; from pathlib import Path; from dgs_utils.store.lock import acquire\n"
            "lock = acquire(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", code, node.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
    assert other.stdout.readline() == "open\n"
    [line] = verify.repair([node], found)
    assert f"is left as it is: process {other.pid} on " in line
    assert (node.folder / MANIFEST).exists()
    other.communicate()


def test_committed_evidence_is_what_its_manifests_say(tmp_path):
    evidence = ROOT / "outputs" / "evidence"
    found = verify.verify_folders(evidence)
    assert found.damaged == {}
    assert found.files > 25
    changed = shutil.copytree(evidence, tmp_path / "evidence")
    swap(changed / "quickstart" / "results.csv")
    assert verify.verify_folders(changed).damaged == {changed / "quickstart": ["results.csv"]}
    with pytest.raises(ValueError, match=r"holds no manifest.json; give an experiment file"):
        verify.verify_folders(tmp_path / "nothing")


def test_a_folder_is_verified_by_the_command(copy):
    result = dgs(copy, "verify", "outputs/05_sample")
    assert result.returncode == 0
    assert "of 2 results checked, none damaged" in result.stdout


# ---- Changed data ----------------------------------------------------------------------------------------------------

def test_data_of_the_user_that_changed_is_told_and_moved_data_is_not(tmp_path):
    """Images replaced under the same names: the same command makes what depends on them, and says why in one line."""
    workspace = small_grid.build(tmp_path / "w")
    for name in "ab":
        (workspace / "data" / name).mkdir(parents=True)
        (workspace / "data" / name / "0.png").write_text(f"image of {name}")
    (workspace / FILE).write_text("name: small\nprepare: {dataset: folder, root: data, base_model: none}\n"
                                  "evaluate: {}\nsample: {method: random}\n")
    assert dgs(workspace, "run", FILE).returncode == 0
    first = set(manifests(workspace))
    shutil.move(workspace / "data", workspace / "elsewhere")
    assert "Nothing was left to do." in dgs(workspace, "run", FILE, "--set", "prepare.root=elsewhere").stdout
    shutil.move(workspace / "elsewhere", workspace / "data")
    assert "Nothing was left to do." in dgs(workspace, "run", FILE).stdout  # and the result names the old place again
    swap(workspace / "data" / "a" / "0.png")
    assert "prepare.root (data) holds another content than when " in dgs(workspace, "status", FILE).stdout
    result = dgs(workspace, "run", FILE)
    assert result.returncode == 0
    [line] = [line for line in result.stdout.splitlines() if "another content" in line]
    assert line.startswith("prepare.root (data) holds another content than when outputs/00_prepare/folder-")
    assert len(set(manifests(workspace)) - first) == 4
    assert "Nothing was left to do." in dgs(workspace, "run", FILE).stdout


# ---- Clean -----------------------------------------------------------------------------------------------------------

def names_in(printed: str) -> set[str]:
    return {line.split("outputs/")[1].split()[0] for line in printed.splitlines() if "outputs/" in line}


def test_what_was_made_by_hand_or_by_set_is_kept_apart(copy):
    assert requested_by(folder_of(copy, "04_transform")) == (FILE,)
    assert dgs(copy, "run", FILE, "--until", "prepare", "--set", "prepare.seed=7").returncode == 0
    script = "import dgs_utils as dgs; dgs.stage('00_prepare', seed=8).finish()"
    subprocess.run([sys.executable, "-c", script], cwd=copy, check=True, env=small_grid.environment(copy))
    printed = dgs(copy, "clean").stdout
    assert "asked for by --set prepare.seed=7, kept unless --all" in printed
    assert "made by hand, kept unless --all" in printed
    assert printed.splitlines()[-1].startswith("0 B that no experiment file refers to, and ")
    kept = names_in(printed)
    assert len(kept) == 2
    assert "0 B removed" in dgs(copy, "clean", "--yes").stdout
    assert kept <= set(manifests(copy))
    assert dgs(copy, "clean", "--yes", "--all").returncode == 0
    assert not kept & set(manifests(copy))
    assert len(manifests(copy)) == 11


def test_clean_knows_experiment_files_wherever_they_lie(copy, tmp_path):
    """Also from elsewhere, and where another file in params has asked for the same before and has gone."""
    away, outputs = tmp_path / "away", ("--outputs", str(copy / "outputs"))
    away.mkdir()
    (away / "mine.yaml").write_text((copy / FILE).read_text())
    assert "Nothing was left to do." in dgs(copy, "run", str(away / "mine.yaml")).stdout
    (copy / FILE).write_text("prepare: {}")
    assert dgs(copy, "clean").stdout.startswith("0 B that no experiment file refers to")
    assert dgs(away, "clean", *outputs).stdout.startswith("0 B that no experiment file refers to")
    (away / "mine.yaml").unlink()
    assert len(names_in(dgs(copy, "clean").stdout)) == 10
    assert names_in(dgs(away, "clean", *outputs).stdout) == names_in(dgs(copy, "clean").stdout)


def test_clean_takes_what_stages_keep_beside_their_parts(outputs):
    folder = images_run(outputs, 20).folder
    write_verified_csv(folder / "images" / "0.csv", pd.DataFrame({"a": [1]}))
    certify(folder)
    assert (folder / "images" / ".0.csv.sums").exists()
    assert remove(folder) == ""


def test_clean_refuses_without_experiment_files(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", copy):
        (copy / FILE).unlink(missing_ok=True)
        result = dgs(place, "clean", "--yes", "--all", "--outputs", str(copy / "outputs"))
        assert result.returncode == 2
        assert "holds no experiment file, so it is unknown which results are wanted" in result.stderr
    assert len(manifests(copy)) == 11


def test_clean_touches_no_link_and_nobody_s_own_files(copy, tmp_path):
    (copy / FILE).write_text(small_grid.EXPERIMENT.replace("random, dgs", "random"))
    own, elsewhere = folder_of(copy, "04_transform"), tmp_path / "elsewhere"
    (own / "thesis.tex").write_text("years of work")
    shutil.move(copy / "outputs" / "02_pool", elsewhere)
    (copy / "outputs" / "02_pool").symlink_to(elsewhere)
    scores = next(path for path in (copy / "outputs" / "03_difficulty").iterdir() if "originals" not in path.name)
    shutil.move(scores, tmp_path / "scores-0123456789ab")
    scores.symlink_to(tmp_path / "scores-0123456789ab")
    (copy / "outputs" / "evidence").mkdir()
    (copy / "outputs" / "evidence" / "rows.csv").touch()
    printed = dgs(copy, "clean", "--yes").stdout
    assert f"outputs/04_transform/{own.name}  kept: it holds thesis.tex, which no stage wrote" in printed
    assert (own / "thesis.tex").exists()
    assert (own / MANIFEST).exists()
    (own / "thesis.tex").unlink()
    (own / "part0.txt").unlink()
    (own / "part0.txt").symlink_to(tmp_path / "kept.txt")
    (tmp_path / "kept.txt").write_text("what a link leads to")
    dgs(copy, "clean", "--yes")
    assert not own.exists()
    assert (tmp_path / "kept.txt").exists()
    assert len(list(elsewhere.iterdir())) == 1
    assert (tmp_path / "scores-0123456789ab" / MANIFEST).exists()
    assert (copy / "outputs" / "evidence" / "rows.csv").exists()
    assert not (copy / "outputs" / "01_fine_tune").exists() or not list((copy / "outputs" / "01_fine_tune").iterdir())


def test_a_user_s_own_file_among_a_result_s_images_keeps_it(outputs):
    folder = images_run(outputs, 20).folder
    (folder / "images" / "3" / "drawn by hand.png").touch()
    assert remove(folder) == "it holds images/3/drawn by hand.png, which no stage wrote"
    assert len(list((folder / "images").rglob("*.png"))) == 21
    (folder / "images" / "3" / "drawn by hand.png").unlink()
    assert remove(folder) == ""
    assert not folder.exists()


def test_clean_asks_on_a_terminal(copy):
    """Anything but yes keeps all; what goes is shown first."""
    (copy / FILE).write_text(small_grid.EXPERIMENT.replace("random, dgs", "random"))
    before = manifests(copy)
    for answer, left in (("", len(before)), ("no", len(before)), ("y", 3)):
        printed = on_a_terminal(copy, ["clean"], answer)
        assert printed.count("outputs/") >= 8
        assert "Remove 8 folders, " in printed
        assert len(manifests(copy)) == left
    assert "removed" in printed


def on_a_terminal(workspace: Path, arguments: list[str], answer: str) -> str:
    """Run a command on a terminal of its own, answer its question, and return what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(small_grid.command(*arguments), cwd=workspace, env=small_grid.environment(workspace),
                               stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = ""
    while "[y/N]" not in shown:
        shown += os.read(ours, 4096).decode()
    os.write(ours, f"{answer}\n".encode())
    with suppress(OSError):  # as Linux tells the end
        while more := os.read(ours, 4096):
            shown += more.decode()
    os.close(ours)
    assert process.wait(HANG) == 0
    return shown


def test_results_of_data_that_is_not_there_just_now_are_kept(tmp_path):
    workspace = small_grid.build(tmp_path / "w")
    (workspace / "disk" / "a").mkdir(parents=True)
    (workspace / "disk" / "a" / "0.png").write_text("image")
    (workspace / FILE).write_text("prepare: {dataset: folder, root: disk, base_model: none}\nevaluate: {}\n"
                                  "sample: {method: random}\n")
    assert dgs(workspace, "run", FILE).returncode == 0
    shutil.move(workspace / "disk", workspace / "unmounted")
    printed = dgs(workspace, "clean").stdout
    assert printed.count("made from disk, now missing, kept unless --all") == len(manifests(workspace)) == 4
    assert printed.splitlines()[-1].startswith("0 B that no experiment file refers to")


def test_a_manifest_says_nothing_of_who_asked(copy):
    """The same command by another file makes the same bytes: who asked stands beside the manifest, not in it."""
    assert "asked" not in read_manifest(folder_of(copy, "04_transform"))
