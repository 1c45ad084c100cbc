"""The report of stage 07: one page that needs nothing else, and that a finished folder can do without."""

import base64
import io
import re
import shutil

import nbformat
import pytest
import small_grid
from PIL import Image
from small_grid import contents, dgs

from dgs_utils.artifacts.manifests import read_manifest
from dgs_utils.batch import page

FILE = "params/small.yaml"
SHOWN = """
%matplotlib inline
import matplotlib.pyplot as plt, numpy as np, pandas as pd
from IPython.display import Markdown, display
print("in", run.folder)
run.warn("few <images>")
plt.imshow(np.random.default_rng(0).random((300, 300, 3)))
plt.show()
display(pd.DataFrame({"method": ["DGS"], "best": [51.5]}), Markdown("| a | b |\\n| --- | --- |\\n| 1 | **two** |"))
for _ in run.progress(range(3), label="drawing"):
    pass
for _ in range(100):
    print("x" * 10_000, flush=True)
"""


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """A workspace whose figures show something, and the folder of its stage 07."""
    finished, _ = small_grid.finished(tmp_path_factory.getbasetemp())
    workspace = shutil.copytree(finished, tmp_path_factory.mktemp("page") / "grid")
    small_grid.replace_cell(workspace, "07_figures", 3, SHOWN)
    result = dgs(workspace, "run", FILE, "--force", "figures")
    assert result.returncode == 0, result.stdout + result.stderr
    [folder] = (workspace / "outputs" / "07_figures").iterdir()
    assert f"Report, for any browser: outputs/07_figures/{folder.name}/report.html" in result.stdout
    assert contents(workspace) == contents(finished)  # a page is not content
    return folder


def test_page_shows_all_that_the_notebook_shows_and_nothing_else(figures):
    text = (figures / page.PAGE).read_text()
    [image] = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(base64.b64decode(image))).width > 200
    assert "51.5" in text
    assert "<strong>two</strong>" in text
    assert "Warning: few &lt;images&gt;" in text
    assert "np.random" not in text  # code
    assert str(figures.parents[1]) not in text  # the maker's folders
    assert not re.findall(r'<script|<link|(?:src|href)="(?!data:|#)', text)  # needs nothing else
    assert read_manifest(figures)["content"] in text.split("Provenance")[1]


def test_page_is_small_enough_for_a_mail(figures, tmp_path, monkeypatch):
    copy = shutil.copytree(figures, tmp_path / "copy")
    whole = (copy / page.PAGE).stat().st_size
    monkeypatch.setattr(page, "LARGEST", whole // 2)
    assert page.write_page(copy).stat().st_size <= whole // 2
    assert "data:image/png" in (copy / page.PAGE).read_text()


def test_executed_notebook_is_bounded_and_a_bar_is_one_line(figures):
    cells = nbformat.read(figures / "notebook.ipynb", 4).cells
    printed = [output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    assert 200_000 < len("".join(printed)) < 201_000  # of the million characters that its cell printed
    log = (figures / "log.txt").read_text()
    assert log.count("what else this cell prints is left out") == 1
    assert len(re.findall("drawing: 100%.* 3/3", (figures / "notebook.ipynb").read_text())) == 1
    assert "application/vnd.jupyter.widget" not in (figures / "notebook.ipynb").read_text()
