"""A plan is shown where the weights are not there yet, and tells what it will take by a benchmark's numbers."""

import json
from pathlib import Path

import pytest

from dgs_utils import cli
from dgs_utils.batch.display import duration

ROOT = Path(__file__).resolve().parents[1]
FOUND = {"device": "A card", "model": "DiT-XL/2", "parts": {
    "pool": {"rows": [{"way": way, "precision": precision, "images/s": rate} for way, precision, rate in (
        ("published: batch 1", "fp32", 0.5),
        ("eager, batch 50, ancestral, 50 steps", "fp32", 2.0),
        ("eager, batch 50, ancestral, 50 steps", "bf16", 3.0),
        ("compiled, batch 50, ancestral, 50 steps", "bf16", 4.0),
        ("eager, batch 64, ancestral, 50 steps", "bf16", float("nan")),
        ("compiled, batch 50, dpm++, 20 steps", "bf16", 10.0),
        ("eager, batch 50, dpm++, 20 steps, taylorseer 5/1", "bf16", 20.0))]},
    "fine_tuning": {"rows": [{"way": "kit", "precision": "bf16", "steps/s": 10.0},
                             {"way": "kit", "precision": "fp32", "steps/s": 5.0},
                             {"way": "published", "precision": "fp32", "steps/s": 50.0}]},
    "evaluation": {"error": "OutOfMemoryError"}}}
BF16 = ("--set", "pool.precision=bf16")
FAST = ("--set", "pool.solver=dpm++", "--set", "pool.steps=20")
CACHE = ("--set", "pool.cache=taylorseer")


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
    for changes, seconds in ((), 1500), (BF16, 750), ((*BF16, *FAST), 300), ((*BF16, *FAST, *CACHE), 150):
        found = shown(capsys, "--benchmark", str(file), *changes)
        assert f"02_pool: about {duration(pools * seconds)} on A card" in found  # 3,000 images each
    for unmeasured in (FAST, (*BF16, *FAST, *CACHE, "--set", "pool.cache_interval=3")):
        assert "02_pool: about" not in shown(capsys, "--benchmark", str(file), *unmeasured)
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
