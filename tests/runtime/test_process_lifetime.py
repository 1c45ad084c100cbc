"""Processes that end with those that they work for."""

import signal
import subprocess
import sys

import psutil
import pytest

from dgs_utils.runtime.process_lifetime import end_group, start_owned

CATCHES = """
import time
try:
    print("up")
    time.sleep(1000)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("interrupted")
"""
LEAVES = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-u', '-c', sys.argv[1]]); time.sleep(1000)"


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_what_a_killed_command_left_is_ended_and_waited_for(before):
    """Since it may be writing a checkpoint; nohup and a script's & have interrupts ignored."""
    outside = signal.signal(signal.SIGINT, before)
    try:
        process = start_owned([sys.executable, "-c", LEAVES, CATCHES], stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, outside)
    assert process.stdout.readline() == "up\n"
    [left] = psutil.Process(process.pid).children()
    process.kill()
    end_group(process)
    assert process.stdout.read() == "interrupted\n"
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
