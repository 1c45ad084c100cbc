"""Profiles, and the command of a job."""

import os
import subprocess
import sys

import pytest
import yaml

from dgs_utils.runtime.threads import LIBRARY_THREADS
from dgs_utils.store.atomic import HOST_NAME
from dgs_utils.workflow.cluster import SNAKEMAKE_FILES, _command, _new_folder, find_profile
from dgs_utils.workflow.experiment import SECTIONS
from dgs_utils.workflow.notebook import Options

pytest.importorskip("snakemake", reason="the extra 'cluster' is not installed")


def test_profiles_name_existing_stages():
    for path in (SNAKEMAKE_FILES / "profiles").glob("*/config.yaml"):
        profile = yaml.safe_load(path.read_text())
        assert set(profile.get("set-resources", {})) <= set(SECTIONS)
        assert profile["keep-going"] is True
        for resources in profile.get("set-resources", {}).values():
            assert set(resources) <= {"runtime", "mem_mb", "gpu", "cpus_per_task"}


def test_unknown_profile_and_missing_packages_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no profile slrum.*; did you mean 'slurm'"):
        find_profile("slrum")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("executor: moon-base")
    with pytest.raises(ValueError, match=r"needs snakemake-executor-plugin-moon-base; it comes with .*pip install"):
        find_profile(str(tmp_path / "mine"))
    check = ("import sys; sys.modules['snakemake'] = None\nimport importlib.util\n"
             "from dgs_utils.workflow.cluster import find_profile\nfind_profile('slurm')")
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert "pip install 'dgs-utils[cluster]'" in result.stderr


def test_logs_of_ended_runs_are_removed_unless_another_user_made_them(outputs, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    logs = outputs / ".snakemake"
    names = {f"{HOST_NAME}.{ended.pid}", f"{HOST_NAME}.{os.getppid()}", f"other-{HOST_NAME}.{ended.pid}"}
    for name in names:
        (logs / name).mkdir(parents=True)
    own = f"{HOST_NAME}.{os.getpid()}"
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: logs.stat().st_uid + 1)
        assert _new_folder() == logs / own
        assert set(os.listdir(logs)) == names | {own}
    _new_folder()
    assert set(os.listdir(logs)) == names - {f"{HOST_NAME}.{ended.pid}"} | {own}


def test_jobs_get_the_threads_that_the_user_has_set_and_else_all(monkeypatch):
    for name in (*LIBRARY_THREADS, "DGS_CORES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    command = _command("params/small.yaml", [], Options())
    assert all(f"-u{name}" in command for name in (*LIBRARY_THREADS, "DGS_CORES"))  # Snakemake's own are 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "OMP_NUM_THREADS=2" in _command("params/small.yaml", [], Options())
