"""Interventions in the real model, and what they say together: the marks of a circuit's edges and its evidence.

Rows are added and never changed, so that a circuit keeps everything that was tried on it. Where a thing was tested again
the newest test counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from atlas.catalog import annotation_log, audit, measurements
from atlas.catalog.tables import CircuitEntry, Intervention
from atlas.catalog.values import chunks, jsonable, new_id, now
from atlas.causal_records import EdgeMark, InterventionResult, InterventionRow, Mark
from atlas.circuit import Scores
from atlas.errors import InputRejected, NotFound
from atlas.records import EvidenceCounts, EvidenceSummary
from atlas.verdict import Evidence, verdict

_NEWEST = (Intervention.created_at.desc(), Intervention.id.desc())


def checked(result: InterventionResult) -> InterventionResult:
    """The same with texts and numbers that every database holds. Raises InputRejected for what is no measurement."""
    if not result.nodes:
        raise InputRejected("The intervention names no node.", "Name the nodes that were changed.")
    if result.request.kind == "cut" and len(result.nodes) < 2:
        raise InputRejected("A cut needs two nodes or more.", "Name the source first and the target last.")
    if not result.targets:
        raise InputRejected("The intervention has no target.", "Say what was measured, the circuit's target first.")
    try:
        return InterventionResult.model_validate(jsonable(result))
    except ValidationError as error:  # a number that must be there is not finite
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputRejected(f"The intervention has no finite number at {place}.", "Measure it again.") from None


def lock(session: Session, circuit_id: str) -> None:
    """Two who add evidence to one circuit do so one after the other: its verdict is made from all of it."""
    annotation_log.lock(session, f"evidence {circuit_id}")


def put(session: Session, circuit_id: str, results: Sequence[InterventionResult], battery: str | None) -> list[str]:
    """Keep results that were `checked`; returns their ids."""
    ids = []
    for result in results:
        made = {"id": new_id(), "author": audit.actor(session), "created_at": now()}
        session.add(Intervention(**columns(result, circuit_id, battery), **made))
        audit.record(
            session,
            "intervene",
            circuit_id,
            intervention=made["id"],
            kind=result.request.kind,
            nodes=len(result.nodes),
            mark=result.mark,
        )
        ids.append(made["id"])
    session.flush()
    return ids


def columns(result: InterventionResult, circuit_id: str, battery: str | None) -> dict[str, Any]:
    """Everything of a row but its id, author and time. `result` is `checked`."""
    first = result.targets[0]
    return {
        "circuit_id": circuit_id,
        "battery": battery,
        "kind": result.request.kind,
        "nodes": list(result.nodes),
        "mark": result.mark,
        "predicted": first.predicted,
        "measured": first.measured,
        "document": result.model_copy(
            update={"request": result.request.model_copy(update={"circuit": circuit_id})}
        ).model_dump(mode="json"),
    }


# -- reading


def get(session: Session, intervention_id: str) -> InterventionRow:
    """Raises NotFound."""
    entry = session.get(Intervention, intervention_id.strip(), options=[undefer(Intervention.document)])
    if entry is None:
        raise NotFound(
            f"There is no intervention {intervention_id[:80]!r}.", "`atlas show CIRCUIT` counts its evidence."
        )
    return row(entry)


def rows(
    session: Session,
    circuit_id: str,
    node: str | None = None,
    battery: str | None = None,
    limit: int | None = None,
    ids: Iterable[str] | None = None,
) -> list[InterventionRow]:
    """Newest first; `node`: only those that changed it."""
    query = select(Intervention.id, Intervention.nodes).where(Intervention.circuit_id == circuit_id)
    if battery is not None:
        query = query.where(Intervention.battery == battery)
    among = None if ids is None else set(ids)
    wanted = [
        found.id
        for found in session.execute(query.order_by(*_NEWEST))
        if (node is None or node in found.nodes) and (among is None or found.id in among)
    ][:limit]
    entries: dict[str, Intervention] = {}
    for batch in chunks(wanted):
        some = select(Intervention).where(Intervention.id.in_(batch)).options(undefer(Intervention.document))
        entries |= {entry.id: entry for entry in session.scalars(some)}
    return [row(entries[intervention_id]) for intervention_id in wanted]


def row(entry: Intervention) -> InterventionRow:
    return InterventionRow(
        **entry.document,
        id=entry.id,
        circuit=entry.circuit_id,
        battery=entry.battery,
        author=entry.author,
        created_at=entry.created_at,
    )


def count(session: Session, circuit_id: str) -> int:
    return session.scalar(select(func.count(Intervention.id)).where(Intervention.circuit_id == circuit_id)) or 0


def by_circuit(session: Session) -> dict[str, set[str]]:
    """Ids by circuit, of the circuits that have any."""
    found: dict[str, set[str]] = {}
    for intervention_id, circuit_id in session.execute(select(Intervention.id, Intervention.circuit_id)):
        found.setdefault(circuit_id, set()).add(intervention_id)
    return found


# -- what they say together


def edge_marks(session: Session, circuit_id: str) -> list[EdgeMark]:
    """Of every edge that was tested (a cut of two nodes) what its newest test said, newest first."""
    return [
        EdgeMark(
            source=test.nodes[0],
            target=test.nodes[1],
            mark=test.mark,
            predicted=test.predicted,
            measured=test.measured,
            intervention=test.id,
        )
        for test in _newest(session, circuit_id)
        if test.kind == "cut" and len(test.nodes) == 2
    ]


def edge_mark(session: Session, circuit_id: str, source: str, target: str) -> EdgeMark | None:
    """What the newest test of an edge said; None: never tested."""
    found = (mark for mark in edge_marks(session, circuit_id) if (mark.source, mark.target) == (source, target))
    return next(found, None)


def summary(session: Session, circuit_id: str) -> EvidenceSummary:
    """The newest test of every node, edge and path, and the newest verification."""
    counts: dict[str, dict[str, int]] = {"nodes": {}, "edges": {}, "paths": {}}
    for test in _newest(session, circuit_id):
        what = "nodes" if test.kind != "cut" else "edges" if len(test.nodes) == 2 else "paths"
        counts[what][test.mark] = counts[what].get(test.mark, 0) + 1
    found = EvidenceSummary(
        interventions=count(session, circuit_id),
        **{what: EvidenceCounts(**marks) for what, marks in counts.items()},
    )
    newest = measurements.newest(session, circuit_id, "verification")
    if newest is None:
        return found
    said = newest.document
    return found.model_copy(
        update={
            "verification": newest.id,
            "verified_at": newest.created_at,
            "verified_by": newest.author,
            **{name: said.get(name) for name in ("spearman", "p_value", "interval_over")},
            "interval": tuple(said["interval"]) if said.get("interval") else None,
        }
    )


def evidence(session: Session, circuit_id: str) -> Evidence | None:
    """What the verdict is told; None when nothing was tested."""
    found = summary(session, circuit_id)
    if not found.interventions and found.verification is None:
        return None
    parts = (found.nodes, found.edges, found.paths)
    return Evidence(
        confirmed=sum(part.confirmed for part in parts),
        refuted=sum(part.refuted for part in parts),
        inconclusive=sum(part.inconclusive for part in parts),
        spearman=found.spearman,
        p_value=found.p_value,
    )


def settle(session: Session, circuit_id: str) -> str:
    """Let the circuit's verdict follow its evidence (`lock` first); returns the word."""
    session.flush()
    entry = session.get_one(CircuitEntry, circuit_id)
    entry.verdict = verdict(Scores.model_validate(entry.scores), evidence(session, circuit_id))[0]
    session.flush()
    return entry.verdict


class _Test:
    """The light columns of a row."""

    def __init__(self, found: Any) -> None:
        self.id: str = found.id
        self.kind: str = found.kind
        self.nodes: list[str] = found.nodes
        self.mark: Mark = found.mark
        self.predicted: float | None = found.predicted
        self.measured: float | None = found.measured


def _newest(session: Session, circuit_id: str) -> Iterator[_Test]:
    """Of all tests of one thing (some nodes, an edge, a path) the newest. Ablating and scaling a node test one thing; an
    intervention that says `untested` is no test."""
    light = (Intervention.id, Intervention.kind, Intervention.nodes, Intervention.mark)
    query = select(*light, Intervention.predicted, Intervention.measured)
    seen: set[tuple[bool, tuple[str, ...]]] = set()
    tests = query.where(Intervention.circuit_id == circuit_id, Intervention.mark != "untested")
    for found in session.execute(tests.order_by(*_NEWEST)):
        cut = found.kind == "cut"
        thing = (cut, tuple(found.nodes if cut else sorted(found.nodes)))
        if thing not in seen:
            seen.add(thing)
            yield _Test(found)
