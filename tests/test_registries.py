"""One fact in one place: what parameters offer is what the registries hold, and no list is written twice."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import dgs_utils
from dgs_utils.classifiers.measures import MEASURES
from dgs_utils.classifiers.networks import NETWORKS
from dgs_utils.classifiers.networks.layers import NORMS
from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.condense import CONDENSERS
from dgs_utils.diffusion.autoencoder import HUB
from dgs_utils.diffusion.dit import DIT_SIZES
from dgs_utils.diffusion.sampling import SOLVERS
from dgs_utils.methods import METHODS
from dgs_utils.params import STAGES, validate
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.results import rows
from dgs_utils.results.published_tables import TABLES
from dgs_utils.selection.select import RULE_FUNCTIONS
from dgs_utils.selection.targets import PREDEFINED

PACKAGE = Path(dgs_utils.__file__).parent
REGISTRIES = {
    ("00_prepare", "dataset"): {"digits", "fashion", "cifar10", "folder", *SUBSETS},
    ("00_prepare", "dit_size"): {"", *DIT_SIZES},
    ("00_prepare", "autoencoder"): {"none", *HUB},
    ("02_pool", "generator"): {"folder", "originals", *(m.generator for m in METHODS.values() if m.generator)},
    ("02_pool", "solver"): {"ancestral", *SOLVERS},
    ("03_difficulty", "measure"): set(MEASURES),
    ("05_sample", "distribution"): {"scale", *PREDEFINED},
    ("06_evaluate", "network"): set(NETWORKS),
    ("06_evaluate", "norm"): set(NORMS),
    ("06_evaluate", "protocol"): set(PROTOCOLS),
    ("07_figures", "table_names"): {"comparison", *(path.stem for path in TABLES.glob("*.csv"))},
    ("08_condense", "method"): set(CONDENSERS),
    ("08_condense", "network"): set(NETWORKS),
}


def choices(annotation: Any) -> set:
    """Return the values of the `Literal` that a type is or holds."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set().union(*map(choices, get_args(annotation)))


@pytest.mark.parametrize(("stage", "name"), REGISTRIES)
def test_parameters_offer_what_the_registry_holds(stage, name):
    found = choices(STAGES[stage].model_fields[name].annotation)
    assert found == REGISTRIES[stage, name]


@pytest.mark.parametrize(("stage", "name"), [place for place in REGISTRIES if place != ("07_figures", "table_names")])
def test_a_misspelt_choice_brings_the_nearest(stage, name):
    right = max(REGISTRIES[stage, name], key=len)
    wrong = f"{right}x"
    with pytest.raises(ValueError, match="did you mean") as caught:
        validate(stage, {name: wrong})
    assert str(caught.value).startswith(f"{stage[3:]}.{name} is {wrong!r}")


def test_methods_name_rules_that_exist():
    for method in METHODS.values():
        known = {"condense": CONDENSERS, "crops": {"": None}}.get(method.source, RULE_FUNCTIONS)
        assert method.rule_name in known
    assert {method.rule_name for method in METHODS.values() if method.source == "condense"} == set(CONDENSERS)
    with pytest.raises(ValueError, match=r"sample\.method is 'dsg', which is no .*; did you mean 'dgs'"):
        validate("05_sample", {"method": "dsg"})


def test_tables_have_a_name_for_every_network():
    assert set(rows.NETWORK_TITLES) >= set(NETWORKS)
    assert set(rows.DATASET_TITLES) >= set(SUBSETS)


def test_published_constants_stand_once():
    """ImageNet's mean and deviation, and lists of image suffixes."""
    numbers, suffixes = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in (0.485, 0.229):
                numbers.append(path.name)
            if isinstance(node, ast.Constant) and node.value in (".jpg", ".jpeg", ".webp", ".bmp"):
                suffixes.add(path.name)
    assert numbers == ["augmentation.py"] * 2
    assert suffixes == {"pixels.py"}


def test_files_are_counted_and_opened_without_torch():
    check = "import sys, dgs_utils.images.pixels; sys.exit(bool({'torch', 'pandas'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
