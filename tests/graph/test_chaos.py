"""kill -9 of the loading process and of the server, at a handful of moments; benchmarks/chaos_load.py does many more."""

from __future__ import annotations

import random

import pytest

from tests.graph import chaos
from tests.graph.test_loading import check_aggregates


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_is_killed_while_loading_heals(graph_settings, tmp_path, request):
    chance, wanted, hits = random.Random(5), {}, 0
    if graph_settings.graph_url:
        server = request.getfixturevalue("neo4j_server")

        def kill():
            server.kill()
            server.start()

        kills = [None, kill]
    else:
        kill = chaos.kill_embedded(graph_settings.home)
        kills = [None, kill, None, kill]

    for seed, each in enumerate(kills):
        hits += bool(chaos.one_round(graph_settings, tmp_path / "notes", wanted, seed, chance.uniform(0.1, 3.0), each))
        store = chaos.open_store(graph_settings)
        try:
            assert store.circuit_ids() == chaos.present(wanted)
            check_aggregates(store, chaos.counted(wanted))
        finally:
            store.close()

    assert hits >= len(kills) // 2
