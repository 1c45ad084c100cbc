"""GPUs that notebooks lease."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack

import pytest
from filelock import FileLock

from dgs_utils.params import (
    DifficultyParams,
    EvaluateParams,
    FiguresParams,
    FineTuneParams,
    PoolParams,
    SampleParams,
    TransformParams,
)
from dgs_utils.workflow.gpus import JOB_ID_VARIABLES, gpu_lock_folder, leased_gpus


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch):
    """A machine with two GPUs, outside a cluster's jobs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    for name in JOB_ID_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_gpus_are_leased_one_by_one(tmp_path):
    script = ("import sys, time; from pathlib import Path; from dgs_utils.workflow.gpus import leased_gpus\n"
              "from dgs_utils.params import EvaluateParams\n"
              "with leased_gpus(EvaluateParams(), int(sys.argv[2]), Path(sys.argv[1])) as gpus:\n"
              "    print(*gpus, flush=True); sys.stdin.read()")

    def lease(per_gpu):
        return subprocess.Popen([sys.executable, "-c", script, tmp_path, str(per_gpu)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)

    holders = [lease(1)]
    first = holders[0].stdout.readline().strip()
    with leased_gpus(EvaluateParams(), lock_dir=tmp_path) as [second]:
        assert {first, second} == {"4", "7"}
        holders.append(lease(2))  # both are taken, so it shares one
        assert holders[1].stdout.readline().strip() in ("4", "7")
    holders[0].kill()  # what a killed holder held is free again
    holders[0].wait()
    with leased_gpus(EvaluateParams(), lock_dir=tmp_path) as again:
        assert again == ["4"]
    holders[1].communicate()
    with leased_gpus(FineTuneParams(processes=3), lock_dir=tmp_path) as all_there_are:
        assert all_there_are == ["4", "7"]


@pytest.mark.parametrize("kind", ["folder of another user", "link", "pipe", "nothing"])
def test_what_others_put_in_the_place_of_gpu_locks_is_left_alone(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "everybody"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    theirs = tmp_path / "everybody" / f"dgs-gpus-{os.getuid()}-7"
    theirs.parent.mkdir()
    if kind == "folder of another user":
        if os.getuid():
            pytest.skip("only root can give a folder to others")
        theirs.mkdir()
        os.chown(theirs, 12345, -1)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        theirs.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(theirs)
    folder = gpu_lock_folder("7")
    assert (folder == theirs) == (kind == "nothing")
    assert folder.is_dir()
    assert folder == gpu_lock_folder("7")
    assert gpu_lock_folder() != folder


def test_several_small_evaluations_share_a_gpu_and_one_more_waits_for_a_place(tmp_path):
    def lease(stack, on_wait=lambda sentence: None):
        return stack.enter_context(leased_gpus(EvaluateParams(), 2, tmp_path, on_wait))

    with ExitStack() as held:
        assert [lease(held) for _ in range(4)] == [["4"], ["7"], ["4"], ["7"]]  # an empty one before a shared one
        four, sentences = held.pop_all(), []
        with four, ExitStack() as fifth:
            assert lease(fifth, lambda sentence: (sentences.append(sentence), four.close())) == ["4"]
    assert "waiting since" in sentences[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{gpu}.{slot}.lock" for gpu in "47" for slot in "01"]


def test_a_wait_for_a_gpu_is_shown_and_can_be_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    sentences, lock, stopping = [], FileLock(tmp_path / "7.0.lock"), threading.Event()
    with FileLock(tmp_path / "4.0.lock"), lock:
        with leased_gpus(EvaluateParams(), lock_dir=tmp_path, on_wait=lambda _: stopping.set(),
                         stopping=stopping) as gpus:
            assert gpus == []

        def on_wait(sentence):
            sentences.append(sentence)
            lock.release()

        with leased_gpus(EvaluateParams(), lock_dir=tmp_path, on_wait=on_wait) as gpus:
            assert gpus == ["7"]
    assert re.fullmatch(r"waiting since \d\d:\d\d for 1 of the GPUs 4, 7, which other notebooks use", sentences[0])
    assert sentences[1:] == [""]


def test_no_gpu_is_leased_where_none_is_wanted(tmp_path):
    for params in (TransformParams(), SampleParams(), SampleParams(method="random"), PoolParams(generator="folder"),
                   DifficultyParams(published_scores=True), FiguresParams()):
        with leased_gpus(params, lock_dir=tmp_path) as gpus:
            assert gpus == []
    for params in (SampleParams(method="herding"), SampleParams(method="rded"), PoolParams(), DifficultyParams()):
        with leased_gpus(params, lock_dir=tmp_path) as gpus:
            assert len(gpus) == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


@pytest.mark.parametrize("given", ["4", None])
def test_a_job_that_has_one_gpu_or_does_not_say_is_left_with_it(given, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with leased_gpus(EvaluateParams(), lock_dir=tmp_path) as gpus:
        assert gpus == []
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == given


def test_notebooks_spread_over_the_gpus_of_a_job_and_jobs_do_not_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with leased_gpus(EvaluateParams()) as first, leased_gpus(EvaluateParams()) as second:
        assert {*first, *second} == {"0", "1"}
        monkeypatch.setenv("SLURM_JOB_ID", "2")  # another two GPUs
        with leased_gpus(EvaluateParams()) as others:
            assert others == ["0"]
