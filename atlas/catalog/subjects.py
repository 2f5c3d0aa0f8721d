"""What an annotation may be about, by the address that people write: CIRCUIT, CIRCUIT#NODE, CIRCUIT#SOURCE->TARGET,
feature:KEY, concept:NAME, collection:NAME."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sqlalchemy.orm import Session

from atlas.catalog import annotation_log, circuits, collections, concepts, labels
from atlas.catalog.annotation_log import Subject
from atlas.catalog.values import clean
from atlas.circuit import Circuit, parse_feature_key
from atlas.errors import Ambiguous, NotFound, UsageError

SHAPE = "A subject is CIRCUIT, CIRCUIT#NODE, CIRCUIT#SOURCE->TARGET, feature:KEY, concept:NAME or collection:NAME."


def find(session: Session, given: str, load: Callable[[str], Circuit]) -> Subject:
    """The subject with its one address: the circuit's id, the stored name. `load` gives a circuit's nodes and edges.

    Raises NotFound or Ambiguous when the atlas does not have it, UsageError when nothing is named.
    """
    given = clean(given.strip())
    if not given:
        raise UsageError("No subject is named.", SHAPE)
    kind, colon, name = given.partition(":")
    if colon and kind == "feature":
        return _feature(session, name)
    if colon and kind == "concept":
        concept = concepts.get(session, name)
        if concept is None:
            raise NotFound(f"There is no concept {name!r}.", "Define it first, or correct its name.")
        return Subject("concept", f"concept:{concept.name}")
    if colon and kind == "collection":
        collections.get(session, name)
        return Subject("collection", f"collection:{name.strip()}")
    try:
        circuit_id = circuits.resolve(session, given)
        return Subject("circuit", circuit_id, circuit_id)
    except Ambiguous:
        raise
    except NotFound:
        if "#" not in given:
            raise
    name, _, part = given.rpartition("#")
    return _part(load(circuits.resolve(session, name)), part)


def find_or_known(session: Session, given: str, load: Callable[[str], Circuit]) -> Subject:
    """As `find`, and also what is gone from the atlas while its log is there, by its exact address or circuit id."""
    try:
        return find(session, given, load)
    except Ambiguous:
        raise
    except NotFound:
        found = annotation_log.known(session, clean(given.strip()))
        if found is None:
            raise
        return found


def check(session: Session, subject: Subject) -> None:
    """Raises NotFound when the subject has been deleted since it was found."""
    if subject.circuit_id is not None:
        circuits.get(session, subject.circuit_id)
    elif subject.kind == "collection":
        collections.get(session, subject.text.partition(":")[2])


def _feature(session: Session, key: str) -> Subject:
    key = key.strip()
    parse_feature_key(key)
    if not circuits.known_features(session, [key]) | labels.labelled(session, [key]):
        raise NotFound(f"The atlas has no feature {key!r}.", "`atlas search` lists features.")
    return Subject("feature", f"feature:{key}")


def _part(circuit: Circuit, part: str) -> Subject:
    source, arrow, target = (piece.strip() for piece in part.partition("->"))
    if not arrow:
        circuit.row(source)
        return Subject("node", f"{circuit.id}#{source}", circuit.id)
    ends = circuit.row(source), circuit.row(target)
    if not np.any((circuit.edges.source == ends[0]) & (circuit.edges.target == ends[1])):
        raise NotFound(
            f"The circuit {circuit.id} has no edge from {source!r} to {target!r}.",
            "An edge goes from its source to its target, as the influence flows.",
        )
    return Subject("edge", f"{circuit.id}#{source}->{target}", circuit.id)
