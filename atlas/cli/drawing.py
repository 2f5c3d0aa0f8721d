"""Pictures made of characters: heat maps of patching, signed bars, scatters, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from atlas.circuit import KIND, KINDS, SITE, Circuit

SHADES = "·░▒▓█"
CUTS = (0.05, 0.2, 0.4, 0.7)  # |effect| from which on the next shade is used
LEGEND = "each cell: · below 0.05, ░ to 0.2, ▒ to 0.4, ▓ to 0.7, █ above; - in front: the other way"
SIGNS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?", "untested": "·"}  # marks of evidence
LABEL = 14  # characters of a row's name
WIDEST = 64  # columns of a heat map
ACROSS = 100  # characters of a line of heat maps
GAP = "   "
SITES_DRAWN = {("resid", "pre"): "stream before", ("attn", "out"): "attention", ("mlp", "out"): "MLP"}


def cell(value: float) -> str:
    """Two characters for an effect where 1 is the whole effect; blank for NaN."""
    if math.isnan(value):
        return "  "
    shade = SHADES[sum(abs(value) >= cut for cut in CUTS)]
    return ("-" if value < 0 and shade != SHADES[0] else " ") + shade


def heat_maps(down: str, across: str, rows: Sequence[str], maps: Sequence[tuple[str, np.ndarray]]) -> list[str]:
    """Lines of text: (rows, columns) of each map, NaN where nothing was measured; beside each other where they fit."""
    lines: list[str] = []
    for some in _fitting(maps):
        tens = any(grid.shape[1] > 10 for _, grid in some)
        blocks = [_block(title, grid[:, :WIDEST], tens) for title, grid in some]
        cut = any(grid.shape[1] > WIDEST for _, grid in some)
        lines.append(f"down: {down}, across: {across}{f', the first {WIDEST}' if cut else ''}")
        heads = len(blocks[0]) - len(rows)
        labels = [*[""] * heads, *(name if len(name) < LABEL else name[: LABEL - 2] + "…" for name in rows)]
        for number, label in enumerate(labels):
            cells = "".join(f"{block[number]}{GAP}" for block in blocks)
            lines.append(f"{label:<{LABEL}}{cells}".rstrip())
        lines.append("")
    return lines


def _fitting(maps: Sequence[tuple[str, np.ndarray]]) -> list[list[tuple[str, np.ndarray]]]:
    groups: list[list[tuple[str, np.ndarray]]] = []
    left = 0
    for title, grid in maps:
        width = max(len(title), 2 * min(grid.shape[1], WIDEST)) + len(GAP)
        if width > left:
            groups.append([])
            left = ACROSS - LABEL
        groups[-1].append((title, grid))
        left -= width
    return groups


def _block(title: str, grid: np.ndarray, tens: bool) -> list[str]:
    """Title, numbers of the columns (`tens`: in two lines), rows; all of one width."""
    columns = range(grid.shape[1])
    lines = [
        title,
        *(["".join(f"{column // 10 or '':>2}" for column in columns)] if tens else []),
        "".join(f"{column % 10:>2}" for column in columns),
        *("".join(cell(value) for value in row) for row in grid),
    ]
    width = max(len(line) for line in lines)
    return [f"{line:<{width}}" for line in lines]


def bar(value: float | None, largest: float, width: int = 10) -> str:
    """A bar to the right of a middle line for positive values, to the left for negative ones."""
    if value is None or not math.isfinite(value) or not largest > 0:
        return " " * width + "|" + " " * width
    length = min(width, round(width * abs(value) / largest))
    return f"{'':<{width}}|{'█' * length:<{width}}" if value >= 0 else f"{'█' * length:>{width}}|{'':<{width}}"


def scatter(points: Sequence[tuple[float, float, str]], width: int = 45, height: int = 13) -> list[str]:
    """Predicted (across) against measured (up), each with its own scale and 0 in it; a point is (predicted, measured, sign)."""
    known = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if not known:
        return []
    places = []
    ends = []
    for axis, cells in ((0, width), (1, height)):
        values = [0.0, *(float(point[axis]) for point in known)]  # type: ignore[arg-type]
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        places.append([round((value - low) / span * (cells - 1)) for value in values])
        ends.append((low, high))
    (zero_across, *columns), (zero_up, *rows) = places
    field = [[" "] * width for _ in range(height)]
    field[zero_up] = ["─"] * width
    for line in field:
        line[zero_across] = "┼" if line[zero_across] == "─" else "│"
    for column, row, (_, _, sign) in zip(columns, rows, known, strict=True):
        field[row][column] = sign
    lines = ["".join(row).rstrip() for row in reversed(field)]
    (left, right), (bottom, top) = ends
    return [f"up: measured, {bottom:.3g} to {top:.3g}; across: predicted, {left:.3g} to {right:.3g}", *lines]


def patching_maps(circuit: Circuit) -> list[str]:
    """The heat maps of a circuit that patching made: token by layer for each site, layer by head for heads."""
    effect = circuit.extra.get("patching.effect")
    if effect is None:
        return []
    n = circuit.nodes
    lines: list[str] = []
    maps: list[tuple[str, np.ndarray]] = []
    for (kind, site), title in SITES_DRAWN.items():
        rows = np.flatnonzero((n.kind == KIND[kind]) & (n.site == SITE[site]) & (n.position >= 0))
        if len(rows):
            maps.append((title, _grid(n.position[rows], n.layer[rows], effect[rows])))
    if maps:
        tokens = _tokens(circuit)
        labels = [tokens.get(position, str(position)) for position in range(len(maps[0][1]))]
        lines += heat_maps("token", "layer", labels, maps)
    heads = np.flatnonzero(n.kind == KIND["head"])
    whole = heads[n.position[heads] < 0]
    if len(heads):
        chosen = whole if len(whole) else heads
        grid = _grid(n.layer[chosen], n.index[chosen], effect[chosen])
        title = "heads, all positions at once" if len(whole) else "heads, the strongest position"
        lines += heat_maps("layer", "head", [str(layer) for layer in range(len(grid))], [(title, grid)])
    return [*lines, LEGEND] if lines else []


def component_name(circuit: Circuit, row: int) -> str:
    """As people call it: `head 3.1`, `MLP 2`, `embeddings`, `logits`; with its token where it has a position."""
    n = circuit.nodes
    kind, layer, index = KINDS[n.kind[row]], int(n.layer[row]), int(n.index[row])
    names = {
        "token": "embeddings",
        "logit": "logits",
        "head": f"head {layer}.{index}",
        "mlp": f"MLP {layer}",
        "attn": f"attention {layer}",
        "neuron": f"neuron {layer}.{index}",
        "resid": f"stream before layer {layer}",
    }
    position = int(n.position[row])
    name = names.get(kind, circuit.keys[row])
    return name if position < 0 else f"{name} at {_tokens(circuit).get(position, position)}"


def _grid(down: np.ndarray, across: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """(rows, columns) of effects; of several in one cell the strongest, NaN where there is none."""
    grid = np.full((int(down.max()) + 1, int(across.max()) + 1), np.nan)
    order = np.argsort(np.abs(effect), kind="stable")  # the strongest is written last
    grid[down[order], across[order]] = effect[order]
    return grid


def _tokens(circuit: Circuit) -> dict[int, str]:
    """Position -> its number and text; where the cases differ, of the first, with a sign that others differ."""
    examples = circuit.record.examples
    if not examples:
        return {}
    found = {}
    for position, token in enumerate(examples[0].tokens):
        same = all(len(e.tokens) > position and e.tokens[position] == token for e in examples[1:])
        found[position] = f"{position} {token.strip() or repr(token)}{'' if same else ' …'}"
    return found
