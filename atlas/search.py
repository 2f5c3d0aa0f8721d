"""Search labelled features by description: the label's words and its meaning, in one ranking.

Two rankings are asked for, the graph store's full-text index on labels and its vector index on label embeddings, and fused
by reciprocal rank (Cormack, Clarke and Buettcher 2009, Reciprocal Rank Fusion outperforms Condorcet and individual rank
learning methods, SIGIR): score(f) = sum over rankings of 1 / (60 + rank of f), first rank 1. Only ranks are used because the
scores of the two, and of two servers, have different scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from atlas.catalog import labels as label_store
from atlas.catalog import models
from atlas.circuit import parse_feature_key
from atlas.errors import NotFound, UsageError
from atlas.records import SearchHit, Table

if TYPE_CHECKING:
    from atlas.api import Atlas

RRF_K = 60
DEPTH = 100  # length of each ranking that is fused, when the answer asked for is not longer
OVERFETCH = 5  # with filters, how much more is asked for before filtering
MAX_FETCH = 20_000

Ranking = list[str]
Ask = Callable[[int], Sequence[tuple[str, float]]]


def search(
    atlas: Atlas, text: str, model: str | None = None, layers: tuple[int, int] | None = None, limit: int = 20
) -> Table[SearchHit]:
    """The `limit` features whose labels fit `text` best, best first; equal scores in order of their keys.

    `model` and `layers` (first, last; inclusive) restrict the features. Without an encoder (`atlas.encoder` is None) the
    search is by full text only: every word must occur in a label, or, when no label has them all, any of them.
    Raises UsageError for an empty text, a limit below 1 or layers that end before they begin, NotFound when there
    is nothing because no such model is known.
    """
    text = text.strip()
    if not text:
        raise UsageError(
            "There is nothing to search for: the text is empty.", "Say in words what the feature is about."
        )
    if limit < 1:
        raise UsageError(f"The limit {limit} is not a number of results.", "Give 1 or more.")
    if layers is not None and layers[0] > layers[1]:
        raise UsageError(f"The layers {layers[0]}-{layers[1]} end before they begin.", "Write the lower layer first.")

    graph, encoder = atlas.graph, atlas.encoder
    keep = _filter(model, layers)
    depth = max(DEPTH, 2 * limit)
    rankings = {"text": _collect(lambda k: graph.full_text(text, k), keep, depth, limit)}
    if encoder is not None:
        embedding = encoder.encode([text])[0]
        found = _collect(lambda k: graph.nearest(embedding.tolist(), k), keep, depth, limit, most=OVERFETCH * depth)
        if keep is not None and len(found) < limit:
            found = _exactly(atlas, embedding, keep, layers)[:depth]
        rankings["meaning"] = found
    elif not rankings["text"]:
        words = [word for word in dict.fromkeys(text.split()) if len(word) > 2]
        ask_for = {word: partial(graph.full_text, word) for word in words}
        fused = fuse({word: _collect(ask, keep, depth, limit) for word, ask in ask_for.items()})
        rankings["text"] = [key for key, _, _ in fused]

    best = fuse(rankings)[:limit]
    rows = graph.features([key for key, _, _ in best])
    hits: Table[SearchHit] = Table()
    for key, score, names in best:
        row = rows.get(key)
        if row is None or row["label"] is None:
            continue  # deleted since the index answered
        hits.append(
            SearchHit(
                feature=key,
                label=row["label"],
                score=score,
                circuits=row["circuits"] or 0,
                label_score=row["label_score"],
                layer=parse_feature_key(key)[2],
                matched="both" if len(names) == 2 else names[0],
            )
        )
    if not hits and model is not None:
        with atlas.catalog.read() as session:
            models.model_id(session, model)  # nothing fits, or there is no such model: not the same news
    return hits


def fuse(rankings: dict[str, Ranking]) -> list[tuple[str, float, list[str]]]:
    """(item, score, names of the rankings that have it) by reciprocal rank, best first, equal scores in order of the items."""
    scores: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    for name, ranking in rankings.items():
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (RRF_K + rank)
            names.setdefault(item, []).append(name)
    return [(item, scores[item], names[item]) for item in sorted(scores, key=lambda item: (-scores[item], item))]


def _filter(model: str | None, layers: tuple[int, int] | None) -> Callable[[str], bool] | None:
    """Model and layer are parts of the feature key, so no store has to be asked."""
    if model is None and layers is None:
        return None

    def keep(key: str) -> bool:
        try:
            its_model, _, layer, _ = parse_feature_key(key)
        except NotFound:
            return False
        return (model is None or its_model == model) and (layers is None or layers[0] <= layer <= layers[1])

    return keep


def _collect(ask: Ask, keep: Callable[[str], bool] | None, depth: int, enough: int, most: int = MAX_FETCH) -> Ranking:
    """The first `depth` keys of a ranking that pass the filter, asking for up to `most` until `enough` do or it ends."""
    k = depth if keep is None else depth * OVERFETCH
    while True:
        found = sorted(ask(k), key=lambda hit: (-hit[1], hit[0]))
        kept = [key for key, _ in found if keep is None or keep(key)]
        if keep is None or len(kept) >= enough or len(found) < k or k >= most:
            return kept[:depth]
        k = min(k * 8, most)


def _exactly(
    atlas: Atlas, embedding: np.ndarray, keep: Callable[[str], bool], layers: tuple[int, int] | None
) -> Ranking:
    """By cosine over the catalog's embeddings: a filter that leaves little of the index's answer leaves few to compare."""
    few = layers is not None and layers[1] - layers[0] < 32
    parts = [f"/{layer}/" for layer in range(layers[0], layers[1] + 1)] if layers is not None and few else []
    with atlas.catalog.read() as session:
        return [key for key, _ in label_store.similar(session, embedding, keep, parts)]
