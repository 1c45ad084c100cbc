"""What tests of experiment files and plans share."""

import pytest
import yaml

from dgs_utils.workflow.experiment import read_experiment


@pytest.fixture
def experiment(tmp_path, outputs, monkeypatch):
    """Return a function that writes an experiment file and reads it."""
    monkeypatch.chdir(tmp_path)

    def write(content, changes=()):
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        (tmp_path / "experiment.yaml").write_text(text)
        return read_experiment(tmp_path / "experiment.yaml", list(changes))

    return write
