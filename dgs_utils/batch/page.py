"""The executed notebook of stage 07 as one page to pass on: figures inside, no code, readable on a phone.

A click on the head of a column sorts its table, by the few lines of ``sort.js``. The page forbids itself every other
script and every address, so that neither a class's name nor a browser can make it ask a network for anything.
"""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.files import atomic
from dgs_utils.artifacts.manifests import PAGE, read_manifest
from dgs_utils.images.pixels import halve_png

LARGEST = 5_000_000  # bytes, as a mail takes
KINDS = ("text/html", "text/markdown", "image/png", "text/plain")  # of what a cell shows, the first that there is
STYLE = """
body { max-width: 60rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222;
  background: #fff; overflow-wrap: break-word; }
img { max-width: 100%; height: auto; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top;
  white-space: nowrap; }
th[tabindex] { cursor: pointer; }
th[tabindex]:hover { background: #eee; }
th[aria-sort]::after { content: " ▲"; font-size: 0.7em; }
th[aria-sort="descending"]::after { content: " ▼"; }
table.facts td { white-space: normal; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 0.8rem; }
a.anchor-link { display: none; }
"""


def write_page(folder: Path) -> Path:
    """Write a finished stage's executed notebook as ``report.html`` beside it; return that path.

    Raises:
        ValueError: the stage is not finished.
        OSError: the notebook cannot be read, or the page not written.
    """
    import nbformat  # here, because it takes a while to import

    notebook, manifest = nbformat.read(folder / "notebook.ipynb", 4), read_manifest(folder)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown" or _keep_what_is_shown(cell)]
    title = next((line.lstrip("# ") for cell in notebook.cells for line in cell.source.splitlines()), folder.name)
    page = _page(title, notebook, manifest)
    while len(page) > LARGEST and _halve_images(notebook):
        page = _page(title, notebook, manifest)
    with atomic(folder / PAGE) as partial:
        partial.write_bytes(page)
    return folder / PAGE


def _keep_what_is_shown(cell: Any) -> bool:
    """Leave of a code cell's outputs what a reader wants, each in one form; return whether anything is left."""
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream":  # paths and progress, but for warnings
            output.text = "".join(re.findall(r"^Warning: .*\n?", output.text, flags=re.MULTILINE))
        elif output.output_type in ("display_data", "execute_result"):
            output.data = {kind: output.data[kind] for kind in KINDS if kind in output.data}
            output.data = dict(list(output.data.items())[:1])
        if output.get("text") or output.get("data"):
            kept.append(output)
    cell.outputs = kept
    return bool(kept)


def _page(title: str, notebook: Any, manifest: dict[str, Any]) -> bytes:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True,
                            exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    script = (files("dgs_utils.batch") / "sort.js").read_text()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n{provenance(manifest)}\n<script>{script}</script>\n"
            f"</body>\n</html>\n").encode()


def provenance(manifest: dict[str, Any]) -> str:
    """Return as HTML what a manifest says of where a result comes from; folders by name, without their places."""
    facts = {"stage": manifest["stage"], "key": manifest["key"], "finished": manifest.get("finished", ""),
             "commit": manifest.get("git", ""), "content": manifest["content"], "device": manifest.get("device", "")}
    facts |= {name: version for name, version in manifest.get("versions", {}).items()}
    inputs = [(entry["name"], f"{Path(entry['folder']).name}, content {entry['content'] or entry['key']}")
              for entry in manifest["inputs"]]
    given = {name: value for name, value in manifest.get("params", {}).items()
             if name not in {entry["name"] for entry in manifest["inputs"]} | {"output"}}
    rows = [*facts.items(), *((f"parameter {name}", json.dumps(value)) for name, value in given.items()), *inputs]
    lines = "\n".join(f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
                      for name, value in rows)
    return f'<h2>Provenance</h2>\n<table class="facts">\n{lines}\n</table>'


def _halve_images(notebook: Any) -> bool:
    """Halve the sides of all images; return whether there was one that is large enough for it."""
    halved = False
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" not in output.get("data", {}):
                continue
            smaller = halve_png(base64.b64decode(output.data["image/png"]))
            if smaller:
                halved = True
                output.data["image/png"] = base64.b64encode(smaller).decode()
    return halved
