"""Processes that tests kill: forks of one that has loaded what they need, as loading takes longer than their work."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SERVER = """
import json, os, sys
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        work(*json.loads(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def forked(program: str) -> Iterator[Callable[..., int]]:
    """Load a program that defines ``work``; what is yielded calls that in a fork and returns its exit status."""
    with subprocess.Popen([sys.executable, "-c", program + SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as server:
        def work(*arguments: object) -> int:
            print(json.dumps(arguments), file=server.stdin, flush=True)
            return int(server.stdout.readline())

        yield work
