"""An image of a plan: a column a stage, a box a node, a line from each result to what is made from it."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dgs_utils.artifacts.files import atomic
from dgs_utils.artifacts.nodes import Node
from dgs_utils.batch.node import input_nodes
from dgs_utils.batch.state import state

COLOURS = {"done": "#b7dfb9", "running": "#ffe08a", "failed": "#f4b0a8", "stale": "#f6cf9d", "missing": "#e8e8e8"}
SUFFIXES = (".svg", ".png", ".pdf")
LEGIBLE = 60  # boxes in a column from which on labels would only be clutter


def draw(nodes: list[Node], path: Path) -> None:
    """Write the graph of a plan, coloured by state, to an SVG, PNG or PDF file.

    Raises:
        ValueError: the file's name ends otherwise.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--graph {path}: the name must end with {', '.join(SUFFIXES)}")
    from matplotlib.figure import Figure

    columns: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        columns[node.stage].append(node)
    highest = max(map(len, columns.values()))
    figure = Figure(figsize=(2.6 * len(columns) + 0.4, min(0.32 * highest, 40) + 1.2))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.6, len(columns) - 0.4), ylim=(-highest / 2 - 1.5, highest / 2 + 1))
    axes.axis("off")
    places = {node.key: (x, (len(column) - 1) / 2 - row)
              for x, column in enumerate(columns.values()) for row, node in enumerate(column)}
    for source, reader in nearest_inputs(nodes):
        (x0, y0), (x1, y1) = places[source], places[reader]
        inset = 0.3 * (x1 == x0)  # one 03 reads another
        axes.plot([x0 + 0.4 - inset, x1 - 0.4 + inset], [y0, y1], color="#9a9a9a", linewidth=0.6, zorder=1)
    for node in nodes:
        _box(axes, node, *places[node.key], len(columns[node.stage]) <= LEGIBLE)
    for x, stage in enumerate(columns):
        axes.text(x, highest / 2 + 0.3, f"{stage} ({len(columns[stage])})", ha="center", weight="bold", fontsize=9)
    for x, (name, colour) in enumerate(COLOURS.items()):
        axes.text(x * 0.5 - 0.4, -highest / 2 - 1.1, name, fontsize=7, bbox={"facecolor": colour, "edgecolor": "none"})
    with atomic(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=150)


def nearest_inputs(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """Yield (input's key, reader's key) for all inputs but those that another input was made from anyway."""
    import networkx as nx

    graph = nx.DiGraph((source.key, node.key) for node in nodes for source in input_nodes(node))
    yield from nx.transitive_reduction(graph.subgraph(node.key for node in nodes)).edges


def _box(axes, node: Node, x: float, y: float, labelled: bool) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.4, y - 0.35), 0.8, 0.7, facecolor=COLOURS[state(node)], edgecolor="none", zorder=2))
    if labelled:
        label = node.label if len(node.label) <= 36 else f"…{node.label[-35:]}"  # the end tells nodes of a column apart
        axes.text(x, y, label, ha="center", va="center", fontsize=5.6, zorder=3)
