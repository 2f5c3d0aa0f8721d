"""What the ends of a question about paths mean: `token:TEXT`, `logit:TEXT`, `feature:KEY`, `concept:NAME` or free text.

- `token:` input tokens, `logit:` output tokens: compared without surrounding white space, as written first, and when a
  circuit has none, with case folded; at every position.
- `feature:` a feature at every position; `concept:` every feature of a named group.
- anything else: the features whose labels fit best. Of the 20 best hits of `Atlas.search` those count whose score is at
  least half the best one's. Scores are sums of 1 / (60 + rank) over word and meaning search, so when the best hit is found
  by both, a hit found by one alone does not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.circuit import Circuit, parse_feature_key
from atlas.errors import NotFound, UsageError

if TYPE_CHECKING:
    from atlas.api import Atlas

FORMS = "token:TEXT, logit:TEXT, feature:KEY, concept:NAME, or plain words that describe a feature"
SEARCH_HITS = 20
SEARCH_CUT = 0.5


@dataclass(frozen=True)
class End:
    """One end of a path: which rows of a circuit it means."""

    rows: Callable[[Circuit], np.ndarray]
    key: str | None = None  # of `feature:KEY`


def parse_end(atlas: Atlas, text: str, model: str | None = None) -> End:
    """Read one end. `model` restricts what free text may find.

    Raises UsageError for an empty end, NotFound for an unknown form or concept or a key that is no feature key.
    """
    form, _, rest = text.strip().partition(":")
    named = re.fullmatch(r"[A-Za-z]+", form) is not None and rest != "" and not rest[0].isspace()
    if form in {"token", "logit", "feature", "concept"} and ":" in text:
        rest = rest.strip()
        if not rest:
            raise UsageError(f"The end {text!r} says nothing after the colon.", f"Write {FORMS}.")
        if form in {"token", "logit"}:
            return End(lambda circuit: _rows_by_text(circuit, form, rest))
        if form == "feature":
            parse_feature_key(rest)
            return _features([rest], key=rest)
        return _features(_concept(atlas, rest))
    if named:
        raise NotFound(f"{text!r} is not an end of a path: {form}: is not known.", f"Write {FORMS}.")
    if not text.strip():
        raise UsageError("An end of the path is empty.", f"Write {FORMS}.")
    hits = atlas.search(text.strip(), model=model, limit=SEARCH_HITS)
    enough = SEARCH_CUT * max((hit.score for hit in hits), default=0.0)
    return _features([hit.feature for hit in hits if hit.score >= enough])


def _features(keys: list[str], key: str | None = None) -> End:
    wanted = {parse_feature_key(each) for each in keys}
    return End(lambda circuit: _rows_by_feature(circuit, wanted), key)


def _concept(atlas: Atlas, name: str) -> list[str]:
    concepts = {concept.name: concept.features for concept in atlas.concepts()}
    if name not in concepts:
        known = ", ".join(sorted(concepts)[:5]) or "none"
        raise NotFound(f"There is no concept {name!r}.", f"Known concepts: {known}.")
    return concepts[name]


def _rows_by_text(circuit: Circuit, kind: str, text: str) -> np.ndarray:
    """Rows of `kind` whose token is `text`: as written, else with case folded."""
    rows = np.flatnonzero(circuit.nodes.is_kind(kind))
    tokens = [circuit.node_tokens[row].strip() for row in rows]
    same = [token == text for token in tokens]
    if not any(same):
        same = [token.casefold() == text.casefold() for token in tokens]
    return rows[np.array(same, bool)]


def _rows_by_feature(circuit: Circuit, features: set[tuple[str, str, int, int]]) -> np.ndarray:
    """Rows, at every position, of features given as (model, set, layer, index)."""
    r, n = circuit.record, circuit.nodes
    found = np.zeros(len(n), bool)
    for model, transcoders, layer, index in features:
        if (model, transcoders) == (r.model.name, r.transcoders.name):
            found |= (n.layer == layer) & (n.index == index)
    return np.flatnonzero(found & n.is_kind("feature"))


def resolve_end(atlas: Atlas, circuit: Circuit, text: str) -> np.ndarray:
    """Rows of `circuit` that an end means; none when it is absent there. Raises like `parse_end`."""
    return parse_end(atlas, text, circuit.record.model.name).rows(circuit)
