"""The report of stage 07: one page that needs nothing else, and that a finished folder can do without."""

import base64
import hashlib
import io
import re
import shutil
import subprocess

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
    assert not re.findall(r'<script |<link|@import|url\(|(?:src|href)="(?!data:|#)', text)  # needs nothing else
    assert "http" not in text.replace("http-equiv", "").split("<body>")[1].split("<script>")[1]
    assert text.count("<script>") == 1
    policy = re.search("script-src 'sha256-(.*?)'", text)[1]
    script = text.split("<script>")[1].split("</script>")[0]
    assert policy == base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run
    assert len(text) <= 5_000_000
    assert read_manifest(figures)["content"] in text.split("Provenance")[1]


SORTED = """
<table id="t"><thead><tr><th>arm</th><th>gain</th></tr></thead><tbody>
<tr><td>b</td><td>+9.5 (1 to 18)</td></tr><tr><td>c</td><td>–</td></tr><tr><td>a</td><td>−10.0</td></tr>
<tr><td>d</td><td>+10.2</td></tr></tbody></table>
"""
CLICKS = """
<script>
const [arm, gain] = document.querySelectorAll("#t th");
const seen = [];
for (const click of [() => gain.click(), () => gain.click(), () => arm.click(),
                     () => gain.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}))]) {
  click();
  seen.push([...document.querySelectorAll("#t td:first-child")].map((cell) => cell.textContent).join(""));
}
document.title = seen.join(" ") + " " + gain.getAttribute("aria-sort") + " " + arm.getAttribute("aria-sort");
</script>
"""


def test_a_click_on_a_head_sorts_a_table(figures, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium to open the page with")
    text = (figures / page.PAGE).read_text()
    text = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", text)  # lets the test's own script in
    text = text.replace("<body>", f"<body>{SORTED}").replace("</body>", f"{CLICKS}</body>")
    (tmp_path / "page.html").write_text(text)
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
                           "--dump-dom", (tmp_path / "page.html").as_uri()], capture_output=True, text=True)
    assert re.search("<title>(.*?)</title>", done.stdout)[1] == "abdc dbac abcd abdc ascending null"


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
