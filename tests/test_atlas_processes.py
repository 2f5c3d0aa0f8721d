"""Several processes on one atlas, and processes that are killed while they write."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from atlas import Atlas
from atlas.catalog.tables import OutboxEntry
from atlas.settings import Settings
from tests.graph_content import graph_content
from tests.servers.fixtures import environment_of

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parent.parent

WRITER = """
import sys
from atlas import Atlas
from atlas.records import Annotations, ImportedSupernode
from tests.conftest import make_circuit

job, number = sys.argv[1:]
groups = Annotations(supernodes=[ImportedSupernode(name="group", node_keys=["feature/0/1/6"])])
with Atlas.open(actor=f"writer {number}") as atlas:
    atlas.graph
    print("go", flush=True)
    sys.stdin.readline()
    if job == "add":
        for index in range(6):
            atlas.add(make_circuit(f"shared {index}"), annotations=groups, collection="shared")
            atlas.add(make_circuit(f"own {number} {index}"), collection=f"of {number}")
    while job == "churn":
        for index in range(4):
            for weight in (2.0, 3.0):
                circuit = make_circuit(f"churned {index}", (0.5, -1.0, weight))
                atlas.add(circuit, annotations=groups, collection="churned")
        for row in atlas.circuits()[::2]:
            atlas.delete(row.id)
    while job == "rebuild":
        atlas.rebuild()
"""


def start(settings: Settings, job: str, number: int = 0) -> subprocess.Popen[str]:
    """A writer that has opened the atlas and waits for a line to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, job, str(number)],
        cwd=REPOSITORY,
        env={**os.environ, **environment_of(settings)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def check_whole(settings: Settings) -> int:
    """The catalog is whole, the outbox empty, the graph what a rebuild makes of the catalog. Returns the circuits."""
    with Atlas.open(settings=settings) as atlas:
        statuses = atlas.graph.circuit_ids()
        ids = atlas.catalog.circuit_ids()
        assert statuses == dict.fromkeys(ids, "ready")
        assert [atlas.load(circuit_id).id for circuit_id in ids] == ids
        with atlas.catalog.read() as session:
            assert session.query(OutboxEntry).count() == 0
        healed = graph_content(atlas)
        atlas.rebuild()
        assert graph_content(atlas) == healed
    return len(ids)


def test_two_processes_add_the_same_and_other_circuits_at_once(store_pair):
    writers = [start(store_pair, "add", number) for number in range(2)]
    for writer in writers:
        begin(writer)
    for writer in writers:
        assert writer.wait(120) == 0
        end(writer)
    assert check_whole(store_pair) == 6 + 2 * 6
    with Atlas.open(settings=store_pair) as atlas:
        assert len(atlas.circuits(collection="shared")) == 6
        assert {row.collections[0] for row in atlas.circuits(text="own 1")} == {"of 1"}


def test_a_writer_killed_at_any_moment_leaves_an_atlas_that_heals(store_pair):
    chance = random.Random(5)
    for _ in range(6):
        writer = start(store_pair, "churn")
        begin(writer)
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(chance.uniform(0.02, 1.5))
        writer.kill()
        writer.wait()
        end(writer)
    check_whole(store_pair)


def test_a_rebuild_killed_at_any_moment_is_finished_by_the_next_use(store_pair, make_circuit):
    with Atlas.open(settings=store_pair) as atlas:
        for index in range(5):
            atlas.add(make_circuit(f"prompt {index}"), collection="all")
        before = graph_content(atlas)
    chance = random.Random(6)
    for _ in range(3):
        writer = start(store_pair, "rebuild")
        begin(writer)
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(chance.uniform(0.05, 1.0))
        writer.kill()
        writer.wait()
        end(writer)
        with Atlas.open(settings=store_pair) as atlas:
            assert graph_content(atlas) == before
    check_whole(store_pair)
