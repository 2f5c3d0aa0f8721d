"""Random circuits whose features overlap, for tests of what is added up across circuits."""

from __future__ import annotations

import numpy as np

from atlas.circuit import Circuit, CircuitRecord, Edges, Example, ModelRef, Nodes, SetRef


def random_circuit(
    seed: int, *, nodes: int = 14, edges: int = 40, features: int = 8, prompt: int | None = None
) -> Circuit:
    """`nodes` feature nodes of at most 2 x `features` features at many positions, `edges` edges, plus a logit."""
    rng = np.random.default_rng(seed)
    identity = rng.permutation(2 * features * nodes)[:nodes]
    layer, index, position = identity % 2, (identity // 2) % features, identity // (2 * features)
    source, target = rng.integers(0, nodes, edges), rng.integers(0, nodes, edges)
    word = f"w{seed if prompt is None else prompt}"
    return Circuit(
        CircuitRecord(
            name=f"random-{seed}",
            prompt=word,
            examples=[Example(tokens=[word] * (int(position.max()) + 1), text=word)],
            model=ModelRef(name="toy"),
            transcoders=SetRef(name="toy-set"),
        ),
        Nodes(
            kind=[0] * nodes + [3],
            layer=[*layer, 2],
            position=[*position, int(position.max())],
            index=[*index, 3],
            activation=rng.random(nodes + 1),
        ),
        Edges(
            source=[*source, 0],
            target=[*target, nodes],
            weight=rng.normal(size=edges + 1) * 10.0 ** rng.integers(-3, 4, edges + 1),
            slot=rng.integers(0, 4, edges + 1),
        ),
    )
