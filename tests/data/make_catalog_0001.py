"""How `catalog-0001.sqlite` and `catalog-0001.json` were made: by version 0.1.0, the only one whose newest schema is 0001.

    cd a checkout of version 0.1.0 && python .../make_catalog_0001.py catalog-0001.sqlite

Every table of that schema has rows. The last circuit is added while the graph server is down, so that one announcement is
still in the outbox. The JSON beside it is what version 0.1.0 answered; a later version must answer the same.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from atlas import Atlas
from atlas.circuit import ModelRef, SetRef
from atlas.errors import StoreUnavailable
from atlas.graph import embedded
from atlas.records import ActivationExample, Annotations, ImportedLabel, ImportedSupernode, NewLabel
from atlas.settings import Settings
from tests.conftest import make_circuit

FIRST, SECOND = "feature/0/1/6", "feature/1/1/7"
KEYS = ["toy/toy-set/0/6", "toy/toy-set/1/7"]
NOTES = Annotations(
    labels=[
        ImportedLabel(node_key=FIRST, text="capital cities"),
        ImportedLabel(node_key=SECOND, text="only here", position=1),
    ],
    supernodes=[ImportedSupernode(name="group", node_keys=[FIRST, SECOND], unresolved=["lost"])],
    pins=[FIRST],
    unresolved_pins=["of another tool"],
)


def fill(atlas: Atlas) -> None:
    circuit = make_circuit()
    circuit.record.model = ModelRef(name="toy", revision="main", weights_hash="abc", layers=2)
    circuit.record.transcoders = SetRef(name="toy-set", revision="main", hash="def")
    atlas.add(circuit, annotations=NOTES, collection="kept")
    atlas.add(make_circuit(weights=(0.5, -1.5, 2.0)))  # a replicate
    atlas.add(make_circuit("\u00e9t\u00e9 \U0001f600", features=(6, 8)), collection="kept")
    atlas.add(make_circuit("to be deleted"))
    atlas.delete("to-be-deleted")
    example = ActivationExample(tokens=["a", " b"], activations=[0.0, 2.0])
    for score in (0.5, 0.75):
        label = NewLabel(
            feature=KEYS[1],
            text=f"negated verbs {score}",
            method="tokens",
            score=score,
            random_score=0.1,
            parameters={"top": 5},
            examples=[example],
            promoted=["not"],
            suppressed=["yes"],
        )
        atlas.put_labels([label])
    atlas.define_concept("Texas", KEYS)
    with atlas.catalog.engine.begin() as connection:  # merging models had no verb yet
        model = connection.exec_driver_sql("SELECT id FROM models").scalar()
        sets = connection.exec_driver_sql("SELECT id FROM transcoder_sets").scalar()
        connection.exec_driver_sql("INSERT INTO model_aliases VALUES ('toy-alias', ?)", (model,))
        connection.exec_driver_sql("INSERT INTO transcoder_set_aliases VALUES (?, 'set-alias', ?)", (model, sets))


def answers(atlas: Atlas) -> dict:
    """What the catalog alone can answer, without the graph server."""
    rows = atlas.circuits(limit=None)
    features = [atlas.feature(key).model_dump(exclude={"graph_fault"}) for key in KEYS]
    return {
        "circuits": [row.model_dump() for row in rows],
        "shown": [atlas.show(row.id).model_dump() for row in rows],
        "node labels": {row.id: {str(k): v for k, v in atlas.node_labels(row.id).items()} for row in rows},
        "features": features,
        "concepts": [row.model_dump() for row in atlas.concepts()],
        "unlabelled": atlas.features_without_label(),
        "circuit of the trace": {row.id: atlas.find_trace(atlas.load(row.id).trace_key) for row in rows},
    }


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), actor="somebody")
        try:
            with Atlas.open(settings=settings) as atlas:
                fill(atlas)
        finally:
            embedded.stop(Path(folder))
        with Atlas.open(settings=settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"})) as atlas:
            try:
                atlas.add(make_circuit("added while down"))
            except StoreUnavailable as error:
                print(error)
            told = answers(atlas)
        with sqlite3.connect(Path(folder) / "catalog.sqlite", isolation_level=None) as made:
            made.execute("PRAGMA journal_mode = DELETE")
            made.execute("PRAGMA page_size = 1024")
            made.execute("VACUUM")
            made.execute("PRAGMA journal_mode = WAL")
        made.close()
        target.write_bytes((Path(folder) / "catalog.sqlite").read_bytes())
    target.with_suffix(".json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
