"""The graph server, and whether it holds what the catalog says."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from atlas.api import Atlas
from atlas.catalog import audit, circuits, collections, concepts, interventions, outbox
from atlas.catalog import labels as label_store
from atlas.catalog.projector import GIVE_UP
from atlas.catalog.tables import OutboxEntry
from atlas.catalog.values import chunks
from atlas.diagnosis.check import MEND, Check, told
from atlas.errors import AtlasError, SchemaMismatch
from atlas.graph.store import GraphStore

SECONDS = 300.0  # time limit of one question here
_MOST = 5_000_000  # rows of one answer here


@dataclass
class Difference:
    """What the graph lacks, and what it has too much."""

    missing: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    collections: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = {
            "{} circuits missing": self.missing,
            "{} circuits too many": self.strange,
            "{} circuits with evidence not as in the catalog": self.evidence,
            "{} labels not as in the catalog": self.labels,
            "{} concepts not as in the catalog": self.concepts,
            "{} collections not as in the catalog": self.collections,
        }
        return ", ".join(words.format(len(some)) for words, some in parts.items() if some)


def examine(atlas: Atlas, mend: bool) -> list[Check]:
    checks = [_outbox(atlas, mend)]
    server = _server(atlas, mend)
    checks.append(server)
    if server.ok:
        try:
            checks.append(_projection(atlas, mend))
        except AtlasError as error:
            checks.append(told("projection", error))
    return checks


def _outbox(atlas: Atlas, mend: bool) -> Check:
    """Changes that the graph was not told: those that wait, and those that were given up after failing."""
    name = "outbox"
    with atlas.catalog.read() as session:
        waiting = session.scalar(select(func.count(OutboxEntry.seq))) or 0
        given_up = {
            entry.seq: entry.error
            for entry in session.scalars(select(OutboxEntry).where(OutboxEntry.attempts >= GIVE_UP))
        }
    if not waiting:
        return Check(name=name, ok=True, found="nothing waits for the graph")
    what = f"{waiting} changes wait for the graph"
    if given_up:
        what += f", {len(given_up)} of them given up ({next(iter(given_up.values()))[:200]})"
    if not mend:
        return Check(name=name, ok=False, found=what, hint=f"{MEND} Those not given up are told at the next use.")

    def try_again(session: Session) -> None:
        session.execute(update(OutboxEntry).where(OutboxEntry.seq.in_(given_up)).values(attempts=0))

    try:
        if given_up:
            atlas._write(try_again, "admin")
        with atlas.catalog.read() as session:
            numbers = list(session.scalars(select(OutboxEntry.seq)))
        atlas._projector.finish(numbers)
    except AtlasError as error:
        return Check(name=name, ok=False, found=what, hint=str(error))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Check(name=name, ok=False, found=f"{what}; still failing: {reason}", hint="Run `atlas rebuild`.")
    return Check(name=name, ok=True, found=what, mended=True)


def _server(atlas: Atlas, mend: bool) -> Check:
    name = "graph"
    was = ""
    try:
        try:
            store = atlas._projector.connect()
        except SchemaMismatch as error:
            if not mend:
                raise
            was = error.message
            atlas.rebuild()
            store = atlas._projector.connect()
    except AtlasError as error:
        return told(name, error)
    found = f"{store.server} at {store.address}"
    return Check(name=name, ok=True, found=f"{found}; rebuilt: {was}" if was else found, mended=bool(was))


def _projection(atlas: Atlas, mend: bool) -> Check:
    name = "projection"
    store = atlas._projector.connect()
    found = compare(atlas, store)
    if not str(found):
        return Check(name=name, ok=True, found=f"{len(atlas.catalog.circuit_ids())} circuits, as in the catalog")
    what = f"the graph is behind the catalog: {found}"
    if not mend:
        return Check(name=name, ok=False, found=what, hint=f"{MEND} `atlas rebuild` makes all of it again.")
    _mend(atlas, store, found)
    left = compare(atlas, store)
    if str(left):
        return Check(name=name, ok=False, found=f"{what}; left: {left}", hint="Run `atlas rebuild`.")
    return Check(name=name, ok=True, found=what, mended=True)


def compare(atlas: Atlas, store: GraphStore) -> Difference:
    """Catalog and graph, side by side. Reads only."""
    there = store.circuit_ids()
    ready = {circuit for circuit, status in there.items() if status == "ready"}
    with atlas.catalog.read() as session:
        known = circuits.ids(session)
        labelled = label_store.all_labelled(session)
        wanted_concepts = {concept.name for concept in concepts.all_of(session)}
        wanted_collections = {info.name: info.circuits for info in collections.infos(session)}
    found = Difference(
        missing=[circuit for circuit in known if circuit not in ready], strange=sorted(set(there) - set(known))
    )
    found.evidence = sorted(_evidence_differs(atlas, store) & ready & set(known))
    for batch in chunks(labelled):
        with atlas.catalog.read() as session:
            wanted = {key: label.text for key, label in label_store.current(session, batch).items()}
        held = store.features(list(batch))
        found.labels += [key for key, label in wanted.items() if held.get(key, {}).get("label") != label]
    ask = partial(store.read, limit=_MOST, timeout=SECONDS)
    held_concepts = {str(row[0]) for row in ask("MATCH (c:Concept) RETURN c.name").rows}
    found.concepts = sorted(held_concepts ^ wanted_concepts)
    rows = ask("MATCH (c:Collection) OPTIONAL MATCH (c)-[:HAS]->(m:Circuit) RETURN c.name, count(m)").rows
    held_collections = {str(row[0]): row[1] for row in rows}
    names = set(held_collections) | set(wanted_collections)
    found.collections = sorted(n for n in names if held_collections.get(n) != wanted_collections.get(n))
    return found


def _evidence_differs(atlas: Atlas, store: GraphStore) -> set[str]:
    """Circuits of which the graph has other interventions than the catalog, or other marks on edges."""
    held = store.intervention_keys()
    with atlas.catalog.read() as session:
        wanted = interventions.by_circuit(session)
        differing = {circuit for circuit in held.keys() | wanted.keys() if held.get(circuit) != wanted.get(circuit)}
        for circuit in wanted.keys() - differing:
            marks = {(mark.source, mark.target): mark.mark for mark in interventions.edge_marks(session, circuit)}
            found = store.marks(circuit, list(marks))
            if any(said != {marks[edge]} for edge, said in found.items()):
                differing.add(circuit)
    return differing


def _mend(atlas: Atlas, store: GraphStore, found: Difference) -> None:
    with atlas.catalog.lock("projection"):
        for circuit in found.strange:
            store.delete_circuit(circuit)

    def announce(session: Session) -> list[int]:
        numbers = [outbox.announce(session, "put", circuit) for circuit in found.missing]
        numbers += [outbox.announce(session, "evidence", circuit) for circuit in found.evidence]
        numbers += [outbox.announce(session, "features", keys=list(batch)) for batch in chunks(found.labels)]
        numbers += [outbox.announce(session, "concept", name) for name in found.concepts]
        numbers += [outbox.announce(session, "collection", name) for name in found.collections]
        audit.record(session, "mend", "graph", found=str(found))
        return numbers

    atlas._project(atlas._write(announce, "admin"))
