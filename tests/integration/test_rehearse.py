"""``dgs run --rehearse`` as its users meet it: with all that the experiment needs, and where weights are missing."""

import re

import numpy as np
import pytest
import small_grid
from PIL import Image
from small_grid import dgs, manifests

MISSING = """
name: rented
prepare: {dataset: imagewoof, root: photographs, split: given, image_size: 64, autoencoder: taesd,
          base_model: weights/DiT.pt, patch_size: 2, hidden_size: 32, depth: 2, num_heads: 2,
          classifier: mobilenet_v2, classifier_weights: IMAGENET1K_V1, classifier_size: 64}
fine_tune: {steps: 500, batch_size: 4}
pool: {images_per_class: 300, batch_size: 3}
sample: {ipc: 30, pool_factor: 5}
evaluate: {image_size: 32, network: convnet3}
grid: {sample.method: [dgs], evaluate.seed: [0, 1, 2]}
"""


def test_a_rehearsal_runs_every_notebook_and_forecasts_the_whole(tmp_path):
    workspace = small_grid.build_real(tmp_path / "grid")
    result = dgs(workspace, "run", "params/small.yaml", "--rehearse", "--set", "evaluate.seed=0,1,2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "RANDOM WEIGHTS" not in result.stdout
    assert {name.split("/")[0] for name in manifests(workspace)} == set()  # it has a folder of its own
    root = workspace / "outputs" / "rehearsal" / "small"
    assert len(list(root.glob("06_evaluate/*/manifest.json"))) == 2  # one seed of each method
    [row] = re.findall(r"^06_evaluate +\d.*", result.stdout, re.M)
    assert re.search(r" 2 of 2 .* GiB .* 6  +\S", row)  # of 6 notebooks of the whole
    assert "The whole, one notebook after the other: " in result.stdout
    again = dgs(workspace, "run", "params/small.yaml", "--rehearse")
    assert again.returncode == 0
    assert "to run" not in again.stdout  # what is rehearsed is kept until its folder is removed


@pytest.mark.slow  # eleven notebooks
def test_missing_weights_are_replaced_by_random_ones_in_the_published_formats(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no torch"))
    workspace = small_grid.build_real(tmp_path / "grid")
    (workspace / "params" / "rented.yaml").write_text(MISSING)
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for wnid in ("n02086240", "n02087394", "n02088364", "n02089973", "n02093754", "n02096294", "n02099601",
                     "n02105641", "n02111889", "n02115641"):
            folder = workspace / "photographs" / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
    (workspace / "params" / "photographs").symlink_to(workspace / "photographs")
    assert dgs(workspace, "run", "params/rented.yaml").returncode == 2  # the weights are missing
    result = dgs(workspace, "run", "params/rented.yaml", "--rehearse")
    assert result.returncode == 0, result.stdout + result.stderr
    said = [line for line in result.stdout.splitlines() if line.startswith("RANDOM WEIGHTS stand for prepare.")]
    assert [line.split()[4].rstrip(":") for line in said] == [
        "prepare.base_model", "prepare.autoencoder_path", "prepare.classifier_weights"]
    written = {path.suffix or path.name for path in (workspace / "outputs/rehearsal/rented/weights").iterdir()}
    assert written == {".pt", "taesd", ".safetensors"}
