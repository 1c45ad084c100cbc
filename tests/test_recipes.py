"""The additions that the package's README describes, written into a copy of the package, work."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "dgs_utils" / "README.md").read_text()


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package, with its tests of registries."""
    shutil.copytree(ROOT / "dgs_utils", tmp_path / "dgs_utils", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "dgs_utils"


def add(file: Path, before: str, text: str) -> None:
    content = file.read_text()
    assert before in content
    file.write_text(content.replace(before, text + before, 1))


def run(package: Path, program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=package.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_selection_rule_of_one_s_own(package):
    section = README.partition("### A selection rule of your own")[2].partition("\n## ")[0]
    rule, lines = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    [entry, method] = lines.splitlines(keepends=True)
    with (package / "selection" / "score_rules.py").open("a") as file:
        file.write(f"\n\n{rule}")
    add(package / "methods.py", '    "middle": Rule(', entry)
    add(package / "methods.py", '    "middle": Method(', method)
    found = run(package, """
import pandas as pd
from dgs_utils.params import validate
from dgs_utils.sample import select_rows
print(validate("05_sample", {"method": "easiest_third"}).cache_params()["method"])
scores = pd.DataFrame({"file_name": [f"{i}.png" for i in range(12)], "class": "a", "label": 0,
                       "score": [i / 12 for i in range(12)]})
print(*sorted(select_rows(scores, "easiest_third", 2)["score"] < 4 / 12))
""")
    assert found.split() == ["easiest_third", "True", "True"]


def test_a_network_of_one_s_own(package):
    networks = package / "classifiers" / "networks"
    (networks / "linear.py").write_text("""from torch import nn

from dgs_utils.classifiers.networks.layers import Network


class Linear(Network):
    def __init__(self, num_classes, image_size, norm, channels):
        super().__init__()
        self.head = nn.Linear(channels * image_size**2, num_classes)

    def features(self, x):
        return x.flatten(1)

    def classify(self, features):
        return self.head(features)
""")
    add(networks / "__init__.py", "\nNETWORKS = {", "from dgs_utils.classifiers.networks.linear import Linear\n")
    add(networks / "__init__.py", '    "resnet18": partial(', '    "linear": Linear,\n')
    add(networks / "__init__.py", '    if name.startswith("convnet"):', '    if name == "linear":\n        return 1\n')
    add(package / "params" / "types.py", '"convnet3", "convnet4"', '"linear", ')
    found = run(package, """
import torch
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.evaluate import evaluate_set
from dgs_utils.params import validate
print(validate("06_evaluate", {"network": "linear"}).network)
labels = torch.arange(40) % 2
images = (labels.view(-1, 1, 1, 1) * 200).expand(40, 3, 8, 8).to(torch.uint8).contiguous()
rows = evaluate_set(ImageTensors(images, labels), ImageTensors(images, labels), "linear", epochs=20)
print(rows["last"].iloc[0])
""")
    name, accuracy = found.split()
    assert name == "linear"
    assert float(accuracy) > 90
