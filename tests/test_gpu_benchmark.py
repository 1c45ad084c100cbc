"""The benchmark of a GPU runs on the CPU with small models, and what fails in it stops nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from waits import HANG

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.mark.slow  # a small form of all stages: half a minute
def test_one_command_measures_every_part(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--small", "--device", "cpu", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["parts"]) == ["matmul", "pool", "fine_tuning", "evaluation", "scoring", "layouts"]
    for name, part in found["parts"].items():
        assert "error" not in part, (name, part)
        assert part["rows"], name
        rates = [value for row in part["rows"] for key, value in row.items() if key in ("images/s", "ratio", "ms")]
        assert all(value > 0 for value in rates)
    written = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name.replace('_', ' ')}" in written for name in found["parts"])
    ours, theirs = found["parts"]["fine_tuning"]["rows"]
    assert ours["operations a step"] < theirs["operations a step"]


def test_a_part_that_fails_is_told_and_one_that_is_late_is_left_out(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    def broken(size, device):
        """Breaks."""
        raise torch.OutOfMemoryError("CUDA out of memory")

    def works(size, device):
        """Works."""
        return [{"way": "one", "images/s": 2.0, "share": float("nan")}]

    parts = {"broken": broken, "works": works}
    found = gpu.measure(gpu.SMALL, torch.device("cpu"), tmp_path, parts)
    assert found["parts"]["broken"]["error"] == "OutOfMemoryError: CUDA out of memory"
    assert "| one | 2 | · |" in (tmp_path / "gpu.md").read_text()
    late = gpu.measure(gpu.SMALL, torch.device("cpu"), tmp_path, parts, minutes=-1.0)
    assert all("minutes are over" in part["error"] for part in late["parts"].values())
