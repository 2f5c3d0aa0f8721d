"""Circuits drawn from lists of numbers, for the analyses' tests."""

from __future__ import annotations

import numpy as np

from atlas.circuit import KIND, SLOT, Circuit, CircuitRecord, Edges, Example, Method, ModelRef, Nodes, SetRef, Target

NAN = float("nan")


def draw(
    nodes: list[tuple],
    edges: list[tuple],
    tokens: tuple[str, ...] = ("a", "b"),
    *,
    totals: list[float] | None = None,
    **record,
) -> Circuit:
    """nodes (kind, layer, position, index[, activation]); edges (source row, target row, weight[, slot]).

    totals: absolute input before pruning by row; None = unknown.
    """
    kinds = [KIND[node[0]] for node in nodes]
    layer, position, index = ([node[i] for node in nodes] for i in (1, 2, 3))
    activation = [node[4] if len(node) > 4 else (1.0 if node[0] == "feature" else NAN) for node in nodes]
    fields = {
        "prompt": " ".join(tokens),
        "examples": [Example(tokens=list(tokens))],
        "targets": [
            Target(what=f"x{node[3]}", token_id=node[3], position=node[2]) for node in nodes if node[0] == "logit"
        ],
        "model": ModelRef(name="toy", layers=4),
        "transcoders": SetRef(name="toy-set"),
        "method": Method(),
    }
    return Circuit(
        CircuitRecord(**(fields | record)),
        Nodes(
            kind=kinds,
            layer=layer,
            position=position,
            index=index,
            activation=activation,
            **({} if totals is None else {"input_abs_total": totals}),
        ),
        Edges(
            length=len(edges),
            source=[edge[0] for edge in edges],
            target=[edge[1] for edge in edges],
            weight=[edge[2] for edge in edges],
            slot=[SLOT[edge[3]] if len(edge) > 3 else 0 for edge in edges],
        ),
    )


def layered(
    layers: int,
    width: int,
    rng: np.random.Generator,
    *,
    density: float = 0.6,
    sigma: float = 1.0,
    skip: bool = True,
) -> Circuit:
    """`width` tokens, `layers` layers of `width` features and one logit; independent log-normal weights of either sign.

    skip: edges lead to every later layer, else to the next one alone.
    """
    nodes = [("token", -1, p, 100 + p) for p in range(width)]
    nodes += [("feature", layer, width - 1, f) for layer in range(layers) for f in range(width)]
    nodes += [("logit", layers, width - 1, 7)]
    step = np.subtract.outer([node[1] for node in nodes], [node[1] for node in nodes]).T
    allowed = step > 0 if skip else step == 1
    source, target = np.nonzero(allowed & (rng.random((len(nodes),) * 2) < density))
    weight = rng.lognormal(sigma=sigma, size=len(source)) * rng.choice([-1.0, 1.0], size=len(source))
    edges = list(zip(source.tolist(), target.tolist(), weight.tolist(), strict=True))
    return draw(nodes, edges, tuple(f"t{p}" for p in range(width)))
