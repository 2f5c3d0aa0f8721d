"""How `catalog-0002.sqlite` and `catalog-0002.json` were made: by the last commit whose newest schema was 0002.

    cd a checkout of it && python .../make_catalog_0002.py catalog-0002.sqlite

Every table of that schema has rows, and two announcements are still in the outbox. The JSON beside it is what that version
answered; a later version must answer the same.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from atlas import Atlas
from atlas.authentication import sign_in
from atlas.catalog.tables import Worker
from atlas.catalog.values import now
from atlas.errors import StoreUnavailable
from atlas.graph import embedded
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.data import make_catalog_0001 as first

NODE = first.FIRST


def fill(atlas: Atlas) -> None:
    first.fill(atlas)
    circuit = atlas.circuits(text="a b")[0].id
    atlas.annotate(circuit, "tag", "kept")
    name = atlas.annotate(circuit, "name", "Dallas, first try")
    atlas.change_annotation(name.id, "Dallas")
    atlas.undo(atlas.annotate(f"{circuit}#{NODE}", "note", "taken back").id)
    atlas.annotate(circuit, "supernode", "both", [first.FIRST, first.SECOND])
    atlas.annotate("collection:kept", "note", "two-hop facts")
    atlas.add_person("reader1", password="correct horse battery")
    atlas.add_person("editor1", role="editor")
    atlas.new_token("editor1", "laptop")
    sign_in(atlas, "reader1", "correct horse battery")
    asked = TraceRequest(prompt="Fact:", model="toy", transcoders="toy-set")
    atlas.enqueue_traces([asked, asked], batch="later")
    atlas.cancel_job(atlas.jobs()[0].id)
    atlas.enqueue("label", {"model": "toy"})
    times = {"started_at": now(), "alive_at": now()}
    worker = Worker(name="w", instance="i", host="h", pid=1, device="cpu", version="0.1.0", model="", **times)
    atlas.catalog.write("tester", lambda session: session.add(worker))


def answers(atlas: Atlas) -> dict:
    """What the catalog alone can answer, without the graph server."""
    return first.answers(atlas) | {
        "annotations": [row.model_dump() for row in atlas.annotations(history=True, limit=None)],
        "people": [row.model_dump() for row in atlas.people()],
        "tokens": [row.model_dump() for row in atlas.tokens()],
        "jobs": [atlas.job(row.id).model_dump() for row in atlas.jobs()],
        "collections": [row.model_dump() for row in atlas.collections()],
        "audit": [row.model_dump() for row in atlas.audit(limit=1000)],
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
            for change in (
                lambda: atlas.add(make_circuit("added while down")),
                lambda: atlas.annotate("added-while-down", "tag", "late"),
            ):
                try:
                    change()
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
