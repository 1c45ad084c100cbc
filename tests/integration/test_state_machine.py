"""Anything happens to a grid, in any order: what counts as finished is always what its inputs and its code make.

`disturbed` draws and checks. ``DGS_SOAK=600`` goes on for so many seconds of each kind; ``DGS_PLANTED=600`` plants old
faults, and gives each of them so many seconds to be found.
"""

import os
import subprocess
import sys

import disturbed
import planted
import pytest

SOAK, PLANTED = os.environ.get("DGS_SOAK", ""), os.environ.get("DGS_PLANTED", "")


@pytest.mark.slow  # some runs, each in a process of its own
@pytest.mark.usefixtures("heard_signals")
def test_results_are_what_their_inputs_make() -> None:
    counts, fault = disturbed.disturb("mixed", seed=0, turns=4)
    assert not fault
    assert counts["turns"] == 4


@pytest.mark.slow  # some thirty processes
def test_results_by_hand_are_what_their_inputs_make() -> None:
    """Without runs, which take a hundred times as long."""
    counts, fault = disturbed.disturb("hand", seed=0, turns=8)
    assert not fault
    assert counts["kills by hand"] > 0


@pytest.mark.parametrize("name", planted.FAULTS)
def test_a_fault_can_be_planted(name: str) -> None:
    """Where a line has changed that a fault is planted in, `planted` has to follow."""
    for file, old, new in planted.FAULTS[name].edits:
        compile(planted.changed((planted.PACKAGE / file).read_text(), old, new), file, "exec")


@pytest.mark.timeout(0)
@pytest.mark.skipif(not PLANTED, reason="takes minutes: set DGS_PLANTED to the seconds that each may take")
@pytest.mark.parametrize("name", planted.FAULTS)
def test_planted_faults_are_found(name: str) -> None:
    found = planted.find(name, float(PLANTED))
    print(found)
    assert found


@pytest.mark.timeout(0)
@pytest.mark.skipif(not SOAK, reason="takes hours: set DGS_SOAK to the seconds that each kind may take")
@pytest.mark.parametrize("kind", ["hand", "kills", "stops", "runs", "real"])
def test_soak(kind: str) -> None:
    command = [sys.executable, disturbed.__file__, kind, "--seconds", SOAK, "--stopped", "10", "120"]
    assert subprocess.run(command).returncode == 0
