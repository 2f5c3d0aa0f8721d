from __future__ import annotations

import pytest

from atlas.graph import CircuitProjection, GraphStore


@pytest.fixture
def store(graph_settings):
    """An empty graph with its schema, once on each server; embeddings have 4 numbers."""
    store = GraphStore.connect(graph_settings, dimension=4, encoder="test-encoder")
    store.ensure_schema()
    yield store
    store.close()


def project(circuit, **changes) -> CircuitProjection:
    fields = {
        "name": circuit.record.name,
        "created_at": "2026-01-01T00:00:00+00:00",
        "created_by": "tester",
        "verdict": "untested",
        "status": "ready",
        "counted": True,
    }
    return CircuitProjection(circuit, **(fields | changes))


@pytest.fixture(name="project")
def project_fixture():
    return project
