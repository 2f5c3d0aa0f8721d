"""What must be true of an atlas, whatever was killed: compared with the notes of the loader."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from atlas import Atlas
from atlas.catalog import outbox
from atlas.catalog.tables import Label
from atlas.graph import GraphStore
from benchmarks.chaos.loader import LABELLED, circuits
from tests.graph.test_loading import check_aggregates

COUNTS = {
    "nodes": "MATCH (c:Circuit)-[:CONTAINS]->(n:Node) RETURN c.id AS id, count(n) AS n",
    "edges": "MATCH (c:Circuit)-[:CONTAINS]->(:Node)-[a:ATTRIBUTES]->() RETURN c.id AS id, count(a) AS n",
}


@dataclass
class Wanted:
    """What the notes promise. `possible[i]`: whether circuit i may be there; both when a deed on it was not acknowledged."""

    possible: dict[int, set[bool]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)
    read: int = 0  # bytes of the notes taken in so far
    open: dict[str, list[str]] = field(default_factory=dict)  # deeds begun and not ended, by number
    acknowledged: int = 0
    unacknowledged: int = 0

    def take_in(self, notes: Path, ended: bool = False) -> None:
        """The lines since the last call; `ended`: the loader is dead, so what is open stays open for ever."""
        with open(notes, "rb") as file:
            file.seek(self.read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.decode().splitlines():
            word, number, *what = line.split()
            if word == "begin":
                self.open[number] = what
            else:
                self._end(number, word != "failed")
        if ended:
            for number in list(self.open):
                self._end(number, False)
            self.read += len(lines) - len(whole)

    def _end(self, number: str, acknowledged: bool) -> None:
        verb, what = self.open.pop(number)
        self.acknowledged += acknowledged
        self.unacknowledged += not acknowledged
        if verb == "label":
            if acknowledged:
                self.labels.add(what)
            return
        before = self.possible.get(int(what), {False})
        after = {verb == "add"}
        self.possible[int(what)] = after if acknowledged else before | after


def check_at_once(store: GraphStore) -> int:
    """Before anything is healed: every circuit that calls itself ready is complete. Returns how many are not ready."""
    statuses = store.circuit_ids()
    found = {name: {row["id"]: row["n"] for row in store._connection.read(query)} for name, query in COUNTS.items()}
    for circuit in circuits():
        if statuses.get(circuit.id) == "ready":
            seen = (found["nodes"].get(circuit.id), found["edges"].get(circuit.id))
            assert seen == (len(circuit.nodes), len(circuit.edges)), f"{circuit.id} is ready and has {seen}"
    return sum(status != "ready" for status in statuses.values())


def heal(atlas: Atlas) -> GraphStore:
    """As the next use would; a little later when a dead loader's lock is still held."""
    for _ in range(100):
        store = atlas.graph
        with atlas.catalog.read() as session:
            if not outbox.last(session):
                break
        time.sleep(0.1)
    return store


def check_whole(atlas: Atlas, wanted: Wanted) -> None:
    """Nothing lost, nothing half-done: the catalog is as promised, the graph equals a recompute from it."""
    store = heal(atlas)
    ids = set(atlas.catalog.circuit_ids())
    everything = circuits()
    for number, circuit in enumerate(everything):
        allowed = wanted.possible.get(number, {False})
        assert (circuit.id in ids) in allowed, f"circuit {number}: there {circuit.id in ids}, promised {allowed}"
        wanted.possible[number] = {circuit.id in ids}
    with atlas.catalog.read() as session:
        texts = {text for (text,) in session.query(Label.text).filter(Label.feature == LABELLED)}
        assert wanted.labels <= texts, f"lost labels: {sorted(wanted.labels - texts)[:5]}"
        assert not outbox.last(session), "the graph store has not been told everything"
    there = [circuit for circuit in everything if circuit.id in ids]
    for circuit in there:
        assert atlas.load(circuit.id).id == circuit.id
    assert store.circuit_ids() == {circuit.id: "ready" for circuit in there}
    check_at_once(store)
    check_aggregates(store, there)
    (label,) = store.features([LABELLED]).values() if texts else ({"label": None},)
    assert label["label"] in (texts or {None})
