"""A plan is shown where the weights are not there yet, and tells what it will take by a benchmark's numbers."""

import json
from pathlib import Path

import pytest

from dgs_utils import cli

ROOT = Path(__file__).resolve().parents[1]
FOUND = {"device": "A card", "model": "DiT-XL/2", "parts": {
    "pool": {"rows": [{"way": "eager, batch 50, ancestral, 50 steps", "images/s": 2.0},
                      {"way": "compiled, batch 50, ancestral, 50 steps", "images/s": 4.0},
                      {"way": "compiled, batch 50, dpm++, 20 steps", "images/s": 9.0}]},
    "fine_tuning": {"rows": [{"way": "kit, bf16", "steps/s": 5.0}, {"way": "published, TF32", "steps/s": 50.0}]},
    "evaluation": {"error": "OutOfMemoryError"}}}


def shown(capsys, *arguments: str) -> str:
    assert cli.main(["run", str(ROOT / "params" / "imagewoof.yaml"), *arguments, "--dry-run"]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def without_weights(monkeypatch, outputs, tmp_path):
    monkeypatch.chdir(ROOT)
    if (ROOT / "data" / "DiT-XL-2-256x256.pt").exists():
        pytest.skip("the DiT weights are here")


def test_a_plan_names_the_weights_that_are_missing(capsys):
    found = shown(capsys)
    assert "02_pool" in found
    assert "Missing yet: prepare.base_model is " in found
    assert "DiT-XL-2-256x256.pt, which does not exist; bring the weights with 'curl" in found
    assert cli.main(["run", str(ROOT / "params" / "imagewoof.yaml")]) == 2  # to run, they must be there


def test_hours_are_those_of_the_benchmark(capsys, tmp_path):
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(FOUND))
    found = shown(capsys, "--benchmark", str(file))
    assert "01_fine_tune: about 40:00 on A card" in found  # 12,000 steps, 5 a second
    pools = int(next(line for line in found.splitlines() if line.startswith("02_pool")).split()[1])
    assert f"02_pool: about {12 * pools + pools // 2}:{30 * (pools % 2):02d} on A card" in found  # 3,000 images each
    assert "06_evaluate: about" not in found  # which failed there
    file.write_text(json.dumps(FOUND | {"parts": {"evaluation": {"rows": [
        {"network": "resnet_ap10", "precision": "fp32", "images/s": 1000.0}]}}}))
    assert "06_evaluate: about" in shown(capsys, "--benchmark", str(file))


@pytest.mark.parametrize("content", ["", "[]", '{"parts": 3}', '{"parts": {"pool": 1}}'])
def test_another_file_is_refused(capsys, tmp_path, content):
    (tmp_path / "gpu.json").write_text(content)
    arguments = ["run", str(ROOT / "params" / "imagewoof.yaml"), "--dry-run", "--benchmark", str(tmp_path / "gpu.json")]
    assert cli.main(arguments) == 2
    assert "which is no result of tests/benchmarks/gpu.py" in capsys.readouterr().err
