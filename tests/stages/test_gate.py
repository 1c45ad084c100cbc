"""The gate of speed switches: what it says of a small DiT's pools, by one command and by hand."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracle import draw_weights
from PIL import Image
from restamp import certify
from small_world import CLASSES, make_prepare, outputs_below, write_digits
from waits import HANG

import dgs_utils as dgs
from dgs_utils.classifiers.scorer import load_classifier
from dgs_utils.diffusion.dit import DiT
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params import PoolParams
from dgs_utils.store import atomic as files

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HELD = ("another seed", "TF32", "pool in bf16", "guidance interval", "taylorseer", "scorer in bf16")


@pytest.fixture(scope="module")
def prepare(tmp_path_factory) -> Path:
    """A finished 00 folder with a scorer, held-out scans, and a small DiT."""
    root = tmp_path_factory.mktemp("gate")
    with outputs_below(root):
        folder = make_prepare(write_digits(root / "scans", 0, 20), val=8)
    files.write_csv(folder / "classes.csv", read_classes(folder).assign(condition=range(len(CLASSES))))
    model = DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=2, num_heads=2, num_classes=3)
    draw_weights(model, seed=0).save_pretrained(folder / "dit")
    certify(folder)
    return folder


@pytest.fixture(scope="module")
def found(prepare, tmp_path_factory) -> Path:
    """The folder of what one command found of some switches."""
    output = tmp_path_factory.mktemp("found")
    command = [sys.executable, str(BENCHMARKS / "gate.py"), str(prepare), "--images", "6", "--steps", "8", "--ipc",
               "4", "--pools", "2", "--trainings", "2", "--network", "convnet3", "--image-size", "8", "--epoch-factor",
               "0.001", "--output", str(output), "--only", *HELD]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parents[1]), "CUDA_VISIBLE_DEVICES": "",
                                "DGS_OUTPUTS": str(output)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
    assert done.returncode == 0, done.stderr
    return output


def test_one_command_holds_every_switch(found):
    parts = json.loads((found / "gate.json").read_text())["parts"]
    assert list(parts) == ["switches", "difficulty"]  # and no part of one that failed
    rows = {row["switch"]: row for row in parts["switches"]["rows"]}
    assert tuple(rows) == HELD
    for name in ("TF32", "scorer in bf16"):  # a CPU has no TF32, and a scorer makes no images
        assert rows[name]["grey levels"] == 0
        assert math.isnan(rows[name]["PSNR"])
        assert rows[name]["accuracy"] == 0
    assert rows["TF32"]["largest KS"] == rows["TF32"]["mean shift"] == 0
    assert rows["TF32"]["passes"]
    assert 0 < rows["pool in bf16"]["grey levels"] < rows["another seed"]["grey levels"]
    assert rows["pool in bf16"]["PSNR"] > rows["another seed"]["PSNR"]
    assert rows["guidance interval"]["grey levels"] > 0
    assert rows["another seed"]["low"] < rows["another seed"]["accuracy"] < rows["another seed"]["high"]
    assert len(parts["difficulty"]["rows"]) == len(HELD) * len(CLASSES)
    written = (found / "gate.md").read_text()
    assert all(f"| {name} | " in written for name in HELD)


def test_its_numbers_are_those_of_the_pools_by_hand(found, prepare):
    """Pools are told by their manifests; difficulty is 1 − the probability that the scorer gives to the class."""
    pools = {}
    for path in (found / "pools").glob("*/manifest.json"):
        params = json.loads(path.read_text())["params"]
        if params["guidance_interval"] == [0.0, 1.0]:
            pools[tuple(params[name] for name in ("solver", "cache", "precision", "seed"))] = path.parent
    assert {("ddim", cache, "fp32", seed) for cache in ("none", "taylorseer") for seed in (0, 1)} <= set(pools)
    plain, half, other = ([pools["ancestral", "none", *which] for which in names] for names in (
        [("fp32", 0), ("fp32", 1)], [("bf16", 0), ("bf16", 1)], [("fp32", 1000), ("fp32", 1001)]))
    parts = json.loads((found / "gate.json").read_text())["parts"]
    rows = {row["switch"]: row for row in parts["switches"]["rows"]}

    def paths(folders, names):
        return [folder / "images" / name / f"{i}.png" for folder in folders for name in names for i in range(6)]

    pixels = [np.stack([np.asarray(Image.open(path), float) for path in paths(of, CLASSES)]) for of in (plain, half)]
    apart = pixels[1] - pixels[0]
    assert rows["pool in bf16"]["grey levels"] == pytest.approx(np.abs(apart).mean())
    assert rows["pool in bf16"]["PSNR"] == pytest.approx(20 * np.log10(255) - 10 * np.log10((apart**2).mean()))
    scorer = load_classifier(prepare / "classifier")
    easy, hard = (1 - np.mean([scorer(scorer.read(path)[None]).softmax(1)[0, 2].item()
                               for path in paths(of, CLASSES[2])]) for of in (plain, other))
    [line] = [line for line in parts["difficulty"]["rows"]
              if (line["switch"], str(line["class"])) == ("another seed", CLASSES[2])]
    assert line["mean shift"] == pytest.approx(hard - easy, abs=1e-5)

    def accuracy(folder):
        table = pd.DataFrame([(f"images/{name}/{i}.png", name, label) for label, name in enumerate(CLASSES)
                              for i in range(4)], columns=["file_name", "class", "label"])
        return dgs.evaluate_set(ImageSet(folder, table), ImageSet.read(prepare, "val", list(CLASSES)), seeds=(0, 1),
                                image_size=8, epoch_factor=0.001, evaluations=1, compile="off")["last"].mean()

    expected = np.mean([accuracy(folder) for folder in other]) - np.mean([accuracy(folder) for folder in plain])
    assert rows["another seed"]["accuracy"] == pytest.approx(expected)


def test_a_shift_is_found_and_a_failing_switch_stops_no_other(tmp_path, prepare, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gate

    easy, hard = pd.Series(np.linspace(0, 0.5, 40)), pd.Series(np.linspace(0.3, 0.8, 40))
    found = gate.shift(hard, easy)
    assert found["KS"] == pytest.approx(0.6, abs=0.026)
    assert found["mean shift"] == pytest.approx(0.3)
    assert found["p"] < 1e-5
    held = gate.Gate(prepare, tmp_path, {}, {"image_size": 8}, 2)
    parts = gate.hold_all(held, {"wrong": (gate.Way({"solver": "none"}), gate.EXACT)})["parts"]
    assert parts["wrong"]["error"].startswith("ValueError: pool.solver is 'none'")
    assert parts["switches"]["rows"] == []


def test_every_parameter_that_makes_a_pool_faster_is_held(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gate

    set_by = {name for way, _ in gate.SWITCHES.values() for name in way.pool}
    speed = {"precision", "solver", "steps", "guidance_interval", "cache"}
    assert speed <= set_by <= {*PoolParams.model_fields}
