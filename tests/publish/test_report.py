"""The HTML reports: one file each that needs nothing else and is no part of the result."""

import base64
import io
import re
import shutil

import nbformat
import pandas as pd
import pytest
import small_grid
from PIL import Image
from small_grid import contents, dgs
from small_world import make_world, open_stage

from dgs_utils import sample
from dgs_utils.figures import sets_by_method
from dgs_utils.results.rows import SET_KEYS
from dgs_utils.store.integrity import damaged_files
from dgs_utils.store.manifest import HTML_REPORT, entry_counts, read_manifest
from dgs_utils.store.paths import display_path
from dgs_utils.workflow.notebook import Report
from dgs_utils.workflow.summary import summary

FILE = "params/small.yaml"
SHOWN = """
%matplotlib inline
import matplotlib.pyplot as plt, numpy as np, pandas as pd
from IPython.display import HTML, Markdown, display
print("in", run.folder)
run.warn("few <images>")
plt.imshow(np.random.default_rng(0).random((300, 300, 3)))
plt.show()
display(pd.DataFrame({"method": ["DGS"], "best": [51.5]}), Markdown("| a | b |\\n| --- | --- |\\n| 1 | **two** |"))
display(Markdown("### The numbers\\n\\n| a | b |\\n| --- | --- |\\n| 1 | 2 |"))
display(HTML("a <script>alert(1)</script>"), Markdown("<img src=x onerror=alert(1)> <script>alert(2)</script>"))
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


def test_report_shows_outputs_and_no_code(figures):
    text = (figures / HTML_REPORT).read_text()
    [image] = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(base64.b64decode(image))).width > 200
    assert "51.5" in text
    assert "<strong>two</strong>" in text
    assert "Warning: few &lt;images&gt;" in text
    assert "np.random" not in text
    assert "<thead>" in text
    assert "in outputs" not in text  # printed text other than warnings
    assert str(figures.parents[1]) not in text  # the maker's folders
    assert f"<td>{read_manifest(figures)['content']}</td>" in text.split("Provenance")[1]


def test_report_runs_no_script_and_loads_nothing(figures):
    """Neither from a class name shown as HTML or Markdown, nor from the exporter's own template."""
    text = (figures / HTML_REPORT).read_text()
    assert "a &lt;script&gt;alert(1)" in text
    assert "&lt;img src=x onerror=alert(1)&gt; &lt;script&gt;alert(2)" in text
    assert not re.findall(r'<script|<link|<[^>]* onerror=|@import|url\(|(?:src|href)="(?!data:|#)', text)
    assert "\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text


def test_executed_notebook_has_all_that_is_printed_and_a_bar_is_one_line(figures):
    cells = nbformat.read(figures / "notebook.ipynb", 4).cells
    printed = [output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    assert 1_000_000 < len("".join(printed)) < 1_001_000  # a million characters that its cell printed, and bars
    assert len(re.findall("drawing: 100%.* 3/3", (figures / "notebook.ipynb").read_text())) == 1
    assert "application/vnd.jupyter.widget" not in (figures / "notebook.ipynb").read_text()


def test_tables_are_folded_and_figures_enlarge_without_a_script(figures):
    text = (figures / HTML_REPORT).read_text()
    assert "<summary>The numbers</summary>" in text
    assert text.count('<input aria-label="enlarge the figure" type="checkbox"') == text.count("<img ") > 0
    assert ".figure input:checked + span { position: fixed;" in text
    assert "<h1" not in text  # texts of the notebook, whose formulas need scripts, are left out


def test_a_distilled_set_has_a_report_whose_path_a_run_prints_last(tmp_path, outputs):
    world = make_world(tmp_path)
    run = open_stage("05_sample", method="dgs", ipc=5, **{name: str(world[name]) for name in (
        "prepare", "pool", "transform")})
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    line = summary([Report(run.node, "done", 1.0)]).splitlines()[-1]
    assert line == f"Report, for any browser: {display_path(run.folder / HTML_REPORT)}"
    text, label = (run.folder / HTML_REPORT).read_text(), read_manifest(run.folder)["label"]
    assert f"<title>{label}: 15 images of 3 classes, selected by DGS</title>" in text
    assert text.count("data:image/png") == 3
    for title in ("The distilled set", "The pool, from easy to hard", "What the scorer recognises"):
        assert title in text
    assert damaged_files(run.folder, entry_counts(read_manifest(run.folder))) == []
    images, heads = sets_by_method([run.folder, world["pool"]], pd.DataFrame(
        {"distilled": [run.folder.name], "series": "DGS", **dict.fromkeys(SET_KEYS, "")}))
    assert {name: len(paths) for name, paths in images.items()} == {"DGS": 5 + 1 + 5}
    assert [path is None for path in images["DGS"]].index(True) == 5
    assert all(path is None or path.is_file() for path in images["DGS"])
    assert [head for head in heads if head] == ["method", "0", "1"]
    table = pd.read_csv(run.folder / "metadata.csv", dtype={"class": str}).replace({"class": {"0": "crane"}})
    for score in (0.0, 1.0):  # two sets of another data set, whose one class that the first lacks differs most
        shutil.copytree(run.folder, tmp_path / f"other-{score}")
        table.assign(score=table["score"].where(table["class"] != "crane", score)).to_csv(
            tmp_path / f"other-{score}" / "metadata.csv", index=False)
    folders = [run.folder, tmp_path / "other-0.0", tmp_path / "other-1.0"]
    images, heads = sets_by_method(folders, pd.DataFrame(
        {"distilled": [folder.name for folder in folders], "series": ["DGS", "easy", "hard"],
         **dict.fromkeys(SET_KEYS, "")}))
    assert [path is None for path in images["DGS"][:5]] == [True] * 5
    assert [head for head in heads if head][:2] == ["method", "crane"]
