"""HTML reports, one file for any browser each: of stage 07, and of a distilled set whose run ends at stage 05.

nbconvert writes the outputs of a notebook, without code and texts, by the template in ``templates/report``. HTML from
class names and captions is sanitised, and the page forbids scripts and network access.
"""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

from dgs_utils.store.atomic import atomic
from dgs_utils.store.manifest import FINDINGS, HTML_REPORT, read_manifest

FORMATS = ["text/html", "text/markdown", "image/png", "text/plain"]  # of one output, the first that it has is shown
TAGS = {"br", "caption", "dd", "del", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "p", "pre", "span",
        "sub", "sup", "table", "tbody", "td", "th", "thead", "tr"}


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a finished folder of stage 05 or 07; return its path.

    Raises:
        ValueError: the stage is not finished.
        OSError: an image or the notebook cannot be read, or the report not written.
    """
    from nbconvert import HTMLExporter  # here, because it takes a while to import
    from traitlets.config import Config

    manifest = read_manifest(folder)
    if manifest["stage"] == "05_sample":
        from dgs_utils.figures import describe_set

        title, contents = describe_set(folder)
        notebook = _as_notebook(contents)
    else:
        notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
        found = folder / FINDINGS
        title = found.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if found.exists() else manifest["label"]
    exporter = HTMLExporter(Config({"NbConvertBase": {"display_data_priority": FORMATS}}), template_name="report",
                            extra_template_basedirs=[str(files("dgs_utils.publish") / "templates")],
                            exclude_input=True, exclude_markdown=True, exclude_input_prompt=True,
                            exclude_output_prompt=True, sanitize_html=True, filters={"clean_html": clean_html})
    report = {"title": title, "provenance": provenance(manifest)}
    page, _ = exporter.from_notebook_node(notebook, resources={"report": report})
    with atomic(folder / HTML_REPORT) as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / HTML_REPORT


def _as_notebook(contents: list[str | Figure]) -> nbformat.NotebookNode:
    """Return a notebook of one cell that shows Markdown texts and figures."""
    data = [{"text/markdown": content} if isinstance(content, str) else
            {"image/png": print_figure(content, base64=True)} for content in contents]
    outputs = [nbformat.v4.new_output("display_data", part) for part in data]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)])


def clean_html(html: str) -> str:
    """Return HTML in which all tags but those of text and tables are shown as text.

    nbconvert's own filter of this name takes paragraphs and the heads of tables for unsafe.
    """
    import bleach

    html = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)  # of every frame of pandas
    return bleach.clean(html, bleach.ALLOWED_TAGS | TAGS, attributes={"*": ["class", "id", "colspan", "rowspan"]})


def provenance(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the origin of a result from its manifest, as text by name; folders by their names alone."""
    inputs = {source["name"]: f"{Path(source['folder']).name}, content {source['content'] or source['key']}"
              for source in manifest["inputs"]}
    facts = {name: str(manifest.get(name, "")) for name in ("stage", "key", "finished", "git", "content", "device")}
    params = {f"parameter {name}": json.dumps(value) for name, value in manifest["params"].items()
              if name not in inputs and name != "output"}
    return facts | {name: str(version) for name, version in manifest["versions"].items()} | params | inputs
