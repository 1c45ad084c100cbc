"""The workspace and relative paths."""

from pathlib import Path

from dgs_utils.store.paths import outputs_root, resolve_path, workspace


def test_workspace_is_found_from_inside_and_relative_paths_start_there(tmp_path, monkeypatch):
    monkeypatch.delenv("DGS_OUTPUTS", raising=False)
    for folder in ("notebooks/deep", "params"):
        (tmp_path / "kit" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "kit" / "notebooks" / "deep")
    assert workspace() == tmp_path / "kit"
    assert outputs_root() == tmp_path / "kit" / "outputs"
    assert resolve_path("data/x") == tmp_path / "kit" / "data" / "x"
    monkeypatch.chdir(tmp_path)
    assert workspace() == tmp_path
    monkeypatch.setenv("DGS_OUTPUTS", str(tmp_path / "elsewhere"))
    assert outputs_root() == tmp_path / "elsewhere"
    assert resolve_path("outputs/05_sample/x") == tmp_path / "elsewhere" / "05_sample" / "x"
    assert resolve_path("/data/x") == Path("/data/x")
    assert resolve_path("~/x") == Path.home() / "x"
