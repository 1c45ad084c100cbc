#!/usr/bin/env bash
# nbconvert with sanitize_html shows the tags of ordinary Markdown as text: paragraphs, images, heads of tables.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q nbconvert==7.17.2 nbformat==5.10.4
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import nbformat
from nbconvert import HTMLExporter

text = "Two **words**\n\n| class | images |\n| --- | --- |\n| cat | 10 |"
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
shown = {}
for sanitised in (False, True):
    page, _ = HTMLExporter(template_name="basic", sanitize_html=sanitised).from_notebook_node(notebook)
    shown[sanitised] = [tag for tag in ("p", "thead", "th", "tbody", "td", "strong") if f"&lt;{tag}&gt;" in page]
    print(f"nbconvert {version('nbconvert')}, sanitize_html={sanitised}: tags that a reader sees as text: {shown[sanitised]}")
sys.exit(shown != {False: [], True: ["p", "thead", "th", "tbody"]})
PY
