"""Pages of executed notebooks: complete, with figures, free of traces of the machine, and the same bytes each time."""

import base64
import io
import json
import re
import shutil
import socket
from pathlib import Path

import nbformat
import notebook_pages
import pytest
import small_grid
from PIL import Image, ImageChops, ImageStat
from restamp import load, restamp


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> Path:
    workspace, _ = small_grid.finished(tmp_path_factory.getbasetemp(), small_grid.build_quickstart)
    [folder] = (workspace / "outputs" / "07_figures").iterdir()
    return folder


@pytest.fixture(scope="module")
def site(figures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    notebook_pages.render(folder, [figures])
    return folder


def test_the_notebooks_of_the_guided_set_are_chosen(figures):
    chosen = notebook_pages.notebooks_behind([figures])
    assert [name[:2] for name in chosen] == [f"0{number}" for number in range(8)]
    params = {stage: json.loads((folder / "manifest.json").read_text())["params"] for stage, folder in chosen.items()}
    assert params["05_sample"]["method"] == "dgs"
    assert chosen["05_sample"].name in params["06_evaluate"]["distilled"]
    assert params["03_difficulty"]["pool"]


def test_pages_have_code_tables_and_every_figure(figures, site):
    for stage, folder in notebook_pages.notebooks_behind([figures]).items():
        cells = nbformat.read(folder / "notebook.ipynb", 4).cells
        shown = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
                 and "text/html" not in output["data"]]
        page, markdown = ((site / f"{stage}{suffix}").read_text() for suffix in (".html", ".md"))
        assert page.count('src="figures/') == markdown.count("![png]") == len(shown)
        assert "<table" in page
        assert 'class="highlight' in page
        assert markdown.count("```python") == sum(cell.cell_type == "code" for cell in cells)
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
        assert all(text in markdown for text in texts)  # formulas, too, which look like paths of Windows
    assert len(list((site / "figures").iterdir())) > 12


def test_no_link_is_dead(site):
    for page in [*site.glob("*.html"), *site.glob("*.md")]:
        for target in re.findall(r'(?:src|href)="([^"#]+)"|\]\(([^)#]+)\)', page.read_text()):
            target = "".join(target)
            assert target.startswith("https://cdn.jsdelivr.net/") or (site / target).exists(), (page.name, target)
    assert {f"0{number}" for number in range(8)} <= {name[:2] for name in re.findall(
        r'href="([^"]+)"', (site / "index.html").read_text())}


def test_nothing_of_the_machine_is_in_the_pages(figures, site):
    for file in [*site.glob("*.html"), *site.glob("*.md")]:
        text = file.read_text()
        assert not re.search(r"(?<![\w.)/-])/(?:home|root|tmp|mnt|srv|opt|var|Users)/", text), file.name
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), file.name
        assert str(figures.parents[2]) not in text
        assert not re.search(r"\bpid\b|process \d+|\d+%\|", text), file.name  # nor progress bars


def test_the_same_notebooks_give_the_same_bytes(figures, site, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "old.html").write_text("from a run before")
    with pytest.raises(ValueError, match="again has files of its own, and would be emptied; choose a new folder"):
        notebook_pages.render(tmp_path / "again", [figures])
    assert (tmp_path / "again" / "old.html").exists()
    (tmp_path / "again" / "style.css").touch()  # as all such pages have
    files = notebook_pages.render(tmp_path / "again", [figures])
    assert {file.relative_to(tmp_path / "again"): file.read_bytes() for file in files} == {
        file.relative_to(site): file.read_bytes() for file in site.rglob("*") if file.is_file()}
    assert sum(file.stat().st_size for file in files) < 1_000_000


def test_figures_look_the_same_in_fewer_bytes(figures):
    large = [base64.b64decode(output["data"]["image/png"]) for folder in notebook_pages.notebooks_behind(
        [figures]).values() for cell in nbformat.read(folder / "notebook.ipynb", 4).cells
        for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    small = list(map(notebook_pages.smaller, large))
    assert sum(map(len, small)) < sum(map(len, large)) / 2
    for before, after in zip(large, small, strict=True):
        with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
            on_white = Image.alpha_composite(Image.new("RGBA", old.size, "white"), old.convert("RGBA"))
            difference = ImageChops.difference(on_white.convert("RGB"), new.convert("RGB"))
        assert max(ImageStat.Stat(difference).mean) < 1  # of 255


def test_images_of_others_stay_out_of_the_evidence(figures, tmp_path, monkeypatch):
    shutil.copytree(figures.parents[1], tmp_path / "outputs")
    [prepare] = (tmp_path / "outputs" / "00_prepare").iterdir()
    restamp(prepare / "manifest.json", params=load(prepare / "manifest.json")["params"] | {"dataset": "imagewoof"})
    monkeypatch.setattr(notebook_pages, "EVIDENCE", tmp_path / "evidence")
    with pytest.raises(ValueError, match="images of imagewoof may not be committed"):
        notebook_pages.render(tmp_path / "evidence" / "pages", [tmp_path / "outputs" / "07_figures" / figures.name])
    assert not (tmp_path / "evidence").exists()
