"""The small picture at the head of each notebook: the stages of the pipeline, and which one the notebook runs.

It is a committed SVG of three kilobytes, so that it is seen before anything was run. After a change here:

    python tests/helpers/road.py notebooks/road
"""

import sys
from pathlib import Path

# By stage: column and line of its box, what it writes, and the stages that read that.
STATIONS = {
    "00_prepare": (0, 0, "originals", ("01_fine_tune", "08_condense")),
    "01_fine_tune": (1, 0, "generator", ("02_pool",)),
    "02_pool": (2, 0, "many images", ("03_difficulty",)),
    "03_difficulty": (3, 0, "scores", ("04_transform",)),
    "04_transform": (4, 0, "thresholds", ("05_sample",)),
    "05_sample": (5, 0, "few images", ("06_evaluate",)),
    "06_evaluate": (6, 0, "accuracies", ("07_figures",)),
    "07_figures": (7, 0, "tables", ()),
    "08_condense": (3, 1, "few images", ("06_evaluate",)),
}
PITCH, WIDTH, HEIGHT, LINE, MARGIN = 104, 88, 40, 62, 10  # pixels: of columns, a box, lines, and the frame
PLAIN, CURRENT = ("#eef2f7", "#8a99ad", "#33415c"), ("#dd8452", "#a8551f", "#ffffff")  # fill, border and text


def road(stage: str) -> str:
    """Return an SVG of the pipeline in which one stage is highlighted."""
    size = f"{2 * MARGIN + 7 * PITCH + WIDTH} {2 * MARGIN + LINE + HEIGHT}"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{size.split()[0]}" '
             'font-family="sans-serif" font-size="11" text-anchor="middle">',
             f"<title>{stage[:2]} on the way from originals to tables</title>",
             '<rect width="100%" height="100%" rx="6" fill="#ffffff"/>']
    for start, (*_, readers) in STATIONS.items():
        lines += [_arrow(start, end) for end in readers]
    return "\n".join([*lines, *(_box(name, name == stage) for name in STATIONS), "</svg>", ""])


def _corner(stage: str) -> tuple[int, int]:
    column, line, *_ = STATIONS[stage]
    return MARGIN + column * PITCH, MARGIN + line * LINE


def _box(stage: str, current: bool) -> str:
    (x, y), (fill, border, text) = _corner(stage), CURRENT if current else PLAIN
    name, middle = stage.split("_", 1)[1].replace("_", "-"), x + WIDTH // 2
    return (f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{fill}" stroke="{border}"/>'
            f'<text x="{middle}" y="{y + 17}" fill="{text}" font-weight="bold">{stage[:2]} {name}</text>'
            f'<text x="{middle}" y="{y + 32}" fill="{text}">{STATIONS[stage][2]}</text>')


def _arrow(start: str, end: str) -> str:
    """Return a line with a head: straight along a line of boxes, else down or up first."""
    (x, y), (to_x, to_y) = _corner(start), _corner(end)
    if y == to_y:
        path, head = f"M{x + WIDTH} {y + 20}H{to_x - 5}", f"M{to_x} {y + 20}l-7 -4v8z"
    elif y < to_y:
        path, head = f"M{x + WIDTH // 2} {y + HEIGHT}V{to_y + 20}H{to_x - 5}", f"M{to_x} {to_y + 20}l-7 -4v8z"
    else:
        up = to_x + WIDTH // 2
        path, head = f"M{x + WIDTH} {y + 20}H{up}V{to_y + HEIGHT + 5}", f"M{up} {to_y + HEIGHT}l-4 7h8z"
    return f'<path d="{path}" fill="none" stroke="{PLAIN[1]}"/><path d="{head}" fill="{PLAIN[1]}"/>'


def write_roads(folder: Path) -> None:
    """Write the picture of each notebook, such as ``05.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STATIONS:
        (folder / f"{stage[:2]}.svg").write_text(road(stage), encoding="utf-8")


if __name__ == "__main__":
    write_roads(Path(sys.argv[1]))
