"""One session at a time in a stage folder; shards of a pool side by side."""

import subprocess
import sys

import small_grid

from dgs_utils.params import validate
from dgs_utils.store.session import Run, open_node


def opened(stage: str, **values) -> Run:
    return open_node(validate(stage, values))


HOLD = ("import sys, time; from dgs_utils.store.session import open_node; from dgs_utils.params import validate\n"
        "run = open_node(validate('00_prepare', {}))\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "run.finish(); print('closed', flush=True); sys.stdin.readline()")


def holder() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def until(process: subprocess.Popen, word: str) -> str:
    lines = []
    while not lines or word not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
        assert word in lines[-1] or lines[-1] != "open\n", lines  # else it waits for what does not come
    return "".join(lines)


def test_the_second_waits_and_says_for_whom(outputs):
    first = holder()
    until(first, "open\n")
    second = holder()
    assert f"is held by process {first.pid} on " in until(second, "waiting until it ends")
    print("", file=first.stdin, flush=True)
    until(first, "closed")  # whose process goes on, as a kernel does
    assert "is finished already, from the same inputs" in until(second, "open\n")
    for process in (first, second):
        process.kill()
        process.wait()


def test_a_killed_holder_holds_nothing(outputs):
    first = holder()
    until(first, "open\n")
    first.kill()
    first.wait()
    assert opened("00_prepare").cached is None


def test_shares_work_side_by_side_and_a_whole_pool_waits_for_them(outputs):
    folder = outputs / "pool"
    folder.mkdir()
    code = ("import sys; from pathlib import Path; from dgs_utils.store.lock import acquire\n"
            "lock = acquire(Path(sys.argv[1]), sys.argv[2]); print('open', flush=True); sys.stdin.readline()")

    def started(share: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, folder, share], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)

    shares = [started("1-2"), started("2-2")]
    for share in shares:
        assert until(share, "open\n") == "open\n"
    whole = started("")  # only now, else it may be the first
    until(whole, "waiting until it ends")
    for share in shares:
        share.communicate("\n")
    until(whole, "open\n")
    whole.communicate("\n")


def test_a_runner_leaves_a_folder_to_the_notebook_that_has_it(tmp_path):
    """A notebook by hand beside `dgs run`: the runner says who works there, waits, and takes up the result."""
    workspace = small_grid.build(tmp_path / "w")
    hand = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            cwd=workspace, env=small_grid.environment(workspace))
    until(hand, "open\n")
    runner = small_grid.start(workspace, "run", "params/small.yaml", "--until", "prepare")
    assert f"is held by process {hand.pid} on " in until(runner, "it is left to that")
    hand.communicate("\n\n")
    printed = runner.communicate(timeout=600)[0]
    assert runner.returncode == 0, printed
    assert "done in" not in printed
    assert "Nothing was left to do." in printed
