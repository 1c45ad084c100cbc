"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import dgs_utils  # noqa: F401  (before torch: it sets how threads wait)
from dgs_utils.runtime.threads import available_cores
from dgs_utils.workflow.notebook import load_papermill

# pytest's processes share the cores, and so does all that they start: more threads than cores only wait for each other.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _cores_each = max(available_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(_cores_each))

# The same examples in every run, unless --hypothesis-profile says otherwise; however slow the machine is.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")

load_papermill()  # as runs do, before a test imports nbformat with all that it would load

ROOT = Path(__file__).resolve().parents[1]
GPU = "gpu"  # mark of the tests that want one


def pytest_configure(config) -> None:
    """Keep all tests but those that ask for it off the GPU: what they compare bit for bit is promised of the CPU."""
    if config.getoption("markexpr", "") != GPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items) -> None:
    """Begin with the files that hold slow tests, and skip tests on a GPU that is not there or was not asked for."""
    import torch

    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)  # so that none of them runs alone at the end

    if not torch.cuda.is_available() and os.environ.get("DGS_TEST_DEVICE", "cuda") == "cuda":
        for item in items:
            if item.get_closest_marker(GPU):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU, or not asked for by -m gpu"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images and weights: ``$DGS_TEST_DATA``, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("DGS_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real test data not found: set DGS_TEST_DATA to its folder")
    return folder


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """An outputs folder of the test's own, where every stage of this test lands."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    monkeypatch.setenv("DGS_OUTPUTS", str(folder))
    return folder


@pytest.fixture
def heard_signals():
    """Undo for children what ``nohup`` and a script's ``&`` do: there a runner rightly ignores hang-up and Ctrl-C."""
    heard = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def styled():
    """Figures in the kit's style, and closed afterwards."""
    import matplotlib.pyplot as plt

    from dgs_utils import plots

    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")
