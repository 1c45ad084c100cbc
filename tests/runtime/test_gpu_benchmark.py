"""The benchmark of a GPU runs on the CPU with small models, and what fails in it stops nothing else."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from waits import HANG

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow  # a small form of all stages: half a minute
def test_one_command_measures_every_part(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--small", "--device", "cpu", "--output", str(tmp_path),
               "--minutes", "600"]  # no part is cut off, however slow the machine
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["parts"]) == ["matmul", "pool", "fine_tuning", "evaluation", "scoring", "layouts"]
    for name, part in found["parts"].items():
        assert "error" not in part, (name, part)
        assert part["rows"], name
        rates = [value for row in part["rows"] for key, value in row.items()
                 if key in ("images/s", "steps/s", "ratio", "ms")]
        assert all(value > 0 for value in rates)
    written = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name.replace('_', ' ')}" in written for name in found["parts"])
    assert any("taylorseer" in row["way"] for row in found["parts"]["pool"]["rows"])
    ours, _, theirs = found["parts"]["fine_tuning"]["rows"]
    assert ours["operations a step"] < theirs["operations a step"]


def test_a_part_that_fails_or_takes_too_long_is_told_with_the_rows_that_it_has(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    def broken(size, device):
        """Breaks."""
        yield {"way": "first", "images/s": 1.0}
        raise torch.OutOfMemoryError("CUDA out of memory")

    def endless(size, device):
        """Hangs."""
        yield {"way": "before", "images/s": 3.0}
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # as libraries do, to go on after a failure
                continue

    def works(size, device):
        """Works."""
        yield {"way": "one", "images/s": 2.0, "share": float("nan")}

    parts = {broken: 1, endless: 1e-3, works: 1}
    gpu.measure(gpu.SMALL, torch.device("cpu"), tmp_path, parts, minutes=20)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["broken"]["error"] == "OutOfMemoryError: CUDA out of memory"
    assert found["endless"]["error"] == "cut off after 1 seconds, its share of the time"
    assert "error" not in found["works"]
    written = (tmp_path / "gpu.md").read_text()
    assert "| one | 2 | · |" in written
    assert "| first | 1 |" in written
    assert "| before | 3 |\n\nNot all measured: cut off" in written


def test_no_part_begins_after_all_time_is_over(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    found = gpu.measure(gpu.SMALL, torch.device("cpu"), tmp_path, minutes=-1.0)
    assert len(found["parts"]) == len(gpu.PARTS)
    assert {part["error"] for part in found["parts"].values()} == {"cut off after 0 seconds, its share of the time"}
    assert not any(part["rows"] for part in found["parts"].values())
