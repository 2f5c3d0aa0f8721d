"""The strongest paths between two ends, over one circuit or all: glue between an atlas and the search on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from atlas.catalog.circuits import known_features
from atlas.catalog.labels import labelled
from atlas.circuit import KINDS, SLOTS, Circuit
from atlas.errors import NotFound, UsageError
from atlas.path_ends import End, parse_end, resolve_end
from atlas.path_search import Between, FoundPaths, Path, between, find_paths, paths_between
from atlas.records import PathHit, PathNode, Table
from atlas.significance import null_paths, p_values

if TYPE_CHECKING:
    from atlas.api import Atlas

__all__ = ["find_paths", "paths", "resolve_end"]


def paths(
    atlas: Atlas,
    source: str,
    target: str,
    circuit: str | None = None,
    model: str | None = None,
    collection: str | None = None,
    limit: int = 10,
    null_graphs: int = 199,
    seed: int = 0,
) -> Table[PathHit]:
    """The `limit` strongest paths from `source` to `target` (forms: `atlas.path_ends`), strongest share first.

    One circuit, or all circuits of a model or collection; of replicates (equal trace key) the newest. A circuit in which
    an end is absent, or the ends are not connected, adds nothing. Each path carries the p-value of its rank within its
    circuit (`atlas.significance`), None with `null_graphs=0`; the same seed gives the same values, whatever other
    circuits are asked. Raises UsageError for a limit below 1 or fewer than 0 null graphs, NotFound for an end that
    cannot be (unknown form, feature, concept) and for an unknown circuit, model or collection.
    """
    if limit < 1:
        raise UsageError(f"The limit of paths is {limit}.", "Ask for at least one path.")
    if null_graphs < 0:
        raise UsageError(
            f"{null_graphs} null graphs cannot be made.", "Use 0 for no p-values, 199 for p down to 0.005."
        )
    if circuit is not None:
        circuit = atlas.resolve(circuit)
        model = atlas.load(circuit).record.model.name
    ends = parse_end(atlas, source, model), parse_end(atlas, target, model)

    ranked: list[tuple[float, int, str, Path]] = []  # share, rank within its circuit, circuit id
    searched: dict[str, tuple[Circuit, Between, FoundPaths]] = {}
    present = False
    for circuit_id, candidate in _circuits(atlas, circuit, model, collection):
        rows = [end.rows(candidate) for end in ends]
        if not all(len(found) for found in rows):
            continue
        present = True
        part = between(candidate, *rows)
        found = paths_between(candidate, part, limit)
        searched[circuit_id] = candidate, part, found
        ranked += [(path.share, rank, circuit_id, path) for rank, path in enumerate(found.paths)]
        ranked = sorted(ranked, key=lambda hit: -hit[0])[:limit]
        searched = {shown: searched[shown] for _, _, shown, _ in ranked}  # let go of arrays that are not shown
    if not present:
        _refuse_unknown_features(atlas, ends)

    p_of = {}  # null graphs only for circuits that are shown, and only as deep as they are
    for shown, (of, part, found) in searched.items():
        depth = 1 + max(rank for _, rank, circuit_id, _ in ranked if circuit_id == shown)
        null = null_paths(of, part, depth, null_graphs, seed)
        p_of[shown] = p_values(np.array([path.share for path in found.paths[:depth]]), null).tolist()
    labels = {shown: atlas.node_labels(shown) for shown in searched}
    return Table(
        PathHit(
            circuit=shown,
            nodes=[_node(searched[shown][0], row, labels[shown]) for row in path.nodes],
            share=share,
            effect=path.effect,
            p_value=p_of[shown][rank] if null_graphs else None,
            n_null=null_graphs,
            shares_known=path.shares_known,
            weights=searched[shown][0].edges.weight[list(path.edges)].tolist(),
            slots=[SLOTS[slot] for slot in searched[shown][0].edges.slot[list(path.edges)]],
            ignored_edges=searched[shown][2].ignored_edges,
        )
        for share, rank, shown, path in ranked
    )


def _circuits(
    atlas: Atlas, circuit: str | None, model: str | None, collection: str | None
) -> Iterator[tuple[str, Circuit]]:
    """(id, circuit) of those to be asked."""
    if circuit is not None:
        yield circuit, atlas.load(circuit)
        return
    seen = set()
    for row in atlas.circuits(model=model, collection=collection, limit=None):  # newest first
        loaded = atlas.load(row.id)
        if loaded.trace_key not in seen:
            seen.add(loaded.trace_key)
            yield row.id, loaded


def _refuse_unknown_features(atlas: Atlas, ends: tuple[End, ...]) -> None:
    """No circuit has both ends: raise NotFound when that is because a feature asked for by key does not exist."""
    for end in ends:
        if end.key is None:
            continue
        with atlas.catalog.read() as session:
            known = known_features(session, [end.key]) or labelled(session, [end.key])
        if not known:
            raise NotFound(f"The atlas has no feature {end.key!r}.", "`atlas search` lists features.")


def _node(circuit: Circuit, row: int, labels: dict[int, str]) -> PathNode:
    nodes = circuit.nodes
    return PathNode(
        key=circuit.keys[row],
        kind=KINDS[nodes.kind[row]],
        layer=int(nodes.layer[row]),
        position=int(nodes.position[row]),
        label=labels.get(row),
        token=circuit.node_tokens[row],
    )
