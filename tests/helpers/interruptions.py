"""Processes that are killed or stopped at any of their changes of files, themselves or with the run that started them.

`arm` has a process count what it opens for writing, renames and removes below a workspace's outputs; before the one
that ``interruption.json`` names, or between the opening of a file and its first byte, the signal is sent. As a script
this is ``dgs`` with such a count.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PLAN = "interruption.json"  # in the workspace: who, at which change, with what
RUNNER = "runner"  # who that is not a stage; also the file that says its process
SERVER = "dgs_utils.workflow.forked_kernel"  # in its command line
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"}


def plan(workspace: Path, who: str, change: int, opened: bool, number: int, to: list[str],
         seconds: float = 0.0) -> None:
    """Write down an interruption, for the next process that is armed.

    Args:
        workspace: where.
        who: `RUNNER`, or the stage whose process counts.
        change: which of its changes of files, from 0 on.
        opened: whether a file that it opens for writing is created before.
        number: the signal.
        to: those of "self", "runner" and "server", of which kernels are forks, that it is sent to.
        seconds: after these the process goes on that SIGSTOP has stopped.
    """
    values = {"who": who, "change": change, "opened": opened, "signal": number, "to": to, "seconds": seconds}
    (workspace / PLAN).write_text(json.dumps(values))


def arm(workspace: Path, who: str) -> None:
    """Count this process's changes of files, if the workspace's interruption is meant for it."""
    try:
        planned = json.loads((workspace / PLAN).read_text())
    except FileNotFoundError:
        return
    if planned["who"] != who:
        return
    outputs, seen = f"{workspace / 'outputs'}/", [0, False]

    def hook(event: str, arguments: tuple) -> None:
        if seen[1] or not (path := _changed(event, arguments, outputs)):
            return
        seen[0] += 1
        if seen[0] > planned["change"]:
            seen[1] = True
            if planned["opened"] and event == "open":
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
            _interrupt(workspace, planned)

    sys.addaudithook(hook)


def _changed(event: str, arguments: tuple, outputs: str) -> str:
    """Return the path that an event is about to change, if it lies in outputs; else ""."""
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not (writes or event in CHANGES) or isinstance(arguments[0], int):
        return ""
    path = os.fsdecode(arguments[0])
    inside = event == "os.remove" and arguments[1] != -1  # as shutil.rmtree does: a name in a folder that is open
    return path if inside or os.path.abspath(path).startswith(outputs) else ""


def server_of(runner: int) -> int:
    """Return the process of which a runner's kernels are forks; 0 where there is none."""
    with suppress(psutil.Error):
        return next((child.pid for child in psutil.Process(runner).children() if SERVER in child.cmdline()), 0)
    return 0


def _interrupt(workspace: Path, planned: dict[str, Any]) -> None:
    (workspace / PLAN).unlink(missing_ok=True)  # once
    runner = int((workspace / RUNNER).read_text()) if (workspace / RUNNER).exists() else 0
    server = server_of(runner) if runner else 0
    known = {"runner": runner, "server": server, "self": os.getpid()}  # which ends with its server
    pids = list(dict.fromkeys(pid for name, pid in known.items() if name in planned["to"] and pid))
    if not pids:  # no fork server yet, or one is done by hand
        return
    (workspace / f"{PLAN}.done").touch()
    if planned["signal"] == signal.SIGSTOP:
        again = "".join(f"while [ -e /proc/{pid} ] && ! grep -q '^State:.T' /proc/{pid}/status; do sleep 0.1; done; "
                        for pid in pids)
        again += f"sleep {planned['seconds']}; kill -CONT {' '.join(map(str, pids))}"
        subprocess.Popen(["sh", "-c", again], start_new_session=True, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, planned["signal"])


if __name__ == "__main__":
    from dgs_utils.cli import main

    (Path.cwd() / RUNNER).write_text(str(os.getpid()))
    arm(Path.cwd(), RUNNER)
    sys.exit(main())
