"""Render the executed notebooks behind finished results as pages to read without running.

    python tests/notebook_pages.py SITE FOLDER [FOLDER ...]
    python tests/notebook_pages.py outputs/evidence/quickstart/notebooks outputs/07_figures/quickstart-KEY

Each FOLDER is a finished result. Of each stage behind them, the notebook with the most stages behind it is rendered,
which is that of the difficulty-guided set. SITE is emptied; it gets ``index.html`` and a page per notebook for a
browser, ``README.md`` and the same pages for a forge that shows Markdown, and ``figures``, which both use. The
committed evidence has those for a forge alone. Code, tables, figures and printed lines are included, progress bars are
not; absolute paths are cut to their last part.
"""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
from evidence import EVIDENCE, FREE
from jinja2 import DictLoader
from nbconvert import HTMLExporter, MarkdownExporter
from nbconvert.exporters import TemplateExporter
from PIL import Image
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from dgs_utils.publish.dataset import strip_paths
from dgs_utils.publish.report import FORMATS

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
COLOURS = 128  # of a figure's palette; its file is a third as large, and looks the same
PAGE = """{%- extends "basic/index.html.j2" -%}
{%- block header -%}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ resources.title | e }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="style.css">
<script async src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"></script></head>
<body><p>{{ resources.navigation }}</p>{%- endblock header -%}
{%- block footer -%}<p>{{ resources.navigation }}</p></body></html>
{%- endblock footer -%}"""
STYLE = """body { max-width: 60rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; font-size: 0.85rem; padding: 0.5rem; }
.highlight pre { background: #f6f8fa; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; }
a.anchor-link, .jp-InputPrompt, .prompt { display: none; }
"""


def notebooks_behind(folders: list[Path]) -> dict[str, Path]:
    """Return by stage the folder, of those behind some finished ones, with the most stages behind it."""
    lineages: dict[Path, set[Path]] = {}

    def lineage(folder: Path) -> set[Path]:
        if folder not in lineages:
            inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
            sources = [folder.parents[1] / source["folder"] for source in inputs]
            lineages[folder] = {folder}.union(*(lineage(source) for source in sources if source.exists()))
        return lineages[folder]

    behind = set[Path]().union(*(lineage(folder) for folder in folders))
    ranked = sorted(behind, key=lambda folder: (folder.parent.name, len(lineages[folder]), folder.name))
    return {folder.parent.name: folder for folder in ranked}


def readable(folder: Path) -> nbformat.NotebookNode:
    """Return the executed notebook of a result without progress bars, metadata, pandas' styles and absolute paths."""
    def clean(text: str) -> str:
        text = re.sub(r"<style.*?</style>|<!--.*?-->", "", text.replace(f"{folder.parents[2]}/", ""), flags=re.S)
        return "\n".join(strip_paths(line.rpartition("\r")[2]) for line in text.split("\n"))

    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    title = re.match(r"# (.*)", notebook.cells[0].source)[1]
    notebook.metadata = {"title": title, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":  # texts name no files of the machine, and their formulas look like paths
            cell.source = clean(cell.source)
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.execution_count = None
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = clean(output.text)
            elif "data" in output:
                output.data = {kind: clean(content) if kind.startswith("text/") else content
                               for kind, content in output.data.items() if kind in FORMATS}
                output.metadata = {"image/png": {"alt": f"figure of {title}"}}
    return notebook


def exporters() -> dict[str, TemplateExporter]:
    """Return nbconvert's exporters by the suffix of their files; both put figures into files."""
    config = Config({
        "NbConvertBase": {"display_data_priority": FORMATS},
        "ExtractOutputPreprocessor": {"enabled": True, "extract_output_types": {"image/png"}},
        "HTMLExporter": {"exclude_input_prompt": True, "exclude_output_prompt": True}})
    return {".html": HTMLExporter(config, extra_loaders=[DictLoader({"page": PAGE})], template_file="page"),
            ".md": MarkdownExporter(config)}


def smaller(png: bytes) -> bytes:
    """Return a PNG with a palette, without metadata."""
    image, small = Image.open(io.BytesIO(png)).convert("RGBA"), io.BytesIO()
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    paper.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return min(small.getvalue(), png, key=len)


def render(site: Path, folders: list[Path]) -> list[Path]:
    """Write the pages; return their paths.

    Raises:
        ValueError: images that may not be redistributed would come into the committed evidence, or ``site`` has files
            that are no such pages.
    """
    chosen = notebooks_behind(folders)
    dataset = json.loads((chosen["00_prepare"] / "manifest.json").read_text())["params"]["dataset"]
    committed = site.resolve().is_relative_to(EVIDENCE)
    if dataset not in FREE and committed:
        raise ValueError(f"images of {dataset} may not be committed; choose a folder outside {EVIDENCE.name}")
    if site.exists() and any(site.iterdir()) and not (site / "style.css").exists():
        raise ValueError(f"{site} has files of its own, and would be emptied; choose a new folder")
    shutil.rmtree(site, ignore_errors=True)
    (site / "figures").mkdir(parents=True)
    shutil.copytree(NOTEBOOKS / "road", site / "road")  # the pictures that the text shows
    titles = {}
    for stage, folder in chosen.items():
        notebook = readable(folder)
        titles[stage] = notebook.metadata.title
        for suffix, exporter in exporters().items():
            if committed and suffix == ".html":
                continue
            resources = {"unique_key": stage, "output_files_dir": "figures", "title": titles[stage],
                         "navigation": '<a href="index.html">all notebooks</a>'}
            page, resources = exporter.from_notebook_node(notebook, resources)
            for name, content in resources["outputs"].items():
                (site / name).write_bytes(smaller(content))
            (site / f"{stage}{suffix}").write_text(page.strip() + "\n", encoding="utf-8")
    (site / "style.css").write_text(STYLE + HtmlFormatter().get_style_defs(".highlight") + "\n")
    lead = "Executed notebooks, to read without running them; text, code, figures and tables are as the run left them."
    if not committed:
        items = "\n".join(f'<li><a href="{stage}.html">{title}</a></li>' for stage, title in titles.items())
        (site / "index.html").write_text(
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Notebooks</title>'
            f'<link rel="stylesheet" href="style.css"></head>\n<body><h1>Notebooks</h1><p>{lead}</p>\n<ul>\n{items}\n'
            "</ul></body></html>\n", encoding="utf-8")
    lines = "\n".join(f"* [{title}]({stage}.md)" for stage, title in titles.items())
    (site / "README.md").write_text(f"# Notebooks\n\n{lead}\n\n{lines}\n", encoding="utf-8")
    return sorted(path for path in site.rglob("*") if path.is_file())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    files = render(Path(sys.argv[1]), [Path(folder).absolute() for folder in sys.argv[2:]])
    print(f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB, in {sys.argv[1]}")
