"""Processes that tests kill: forks of one that has loaded what they need, as loading takes longer than their work."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SERVER = """
import json, os, sys
for line in sys.stdin:
    children = []
    for arguments in json.loads(line):
        child = os.fork()
        if not child:
            os.dup2(2, 1)
            work(*arguments)
            os._exit(0)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@contextmanager
def forked_together(program: str) -> Iterator[Callable[[list[list]], list[int]]]:
    """Load a program that defines ``work``; what is yielded calls that in forks that run at the same time.

    It takes the arguments of each fork and returns their exit statuses.
    """
    with subprocess.Popen([sys.executable, "-c", program + SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as server:
        def work(calls: list[list]) -> list[int]:
            print(json.dumps(calls), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield work


@contextmanager
def forked(program: str) -> Iterator[Callable[..., int]]:
    """Load a program that defines ``work``; what is yielded calls that in a fork and returns its exit status."""
    with forked_together(program) as work:
        yield lambda *arguments: work([list(arguments)])[0]
