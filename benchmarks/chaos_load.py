"""How often does a kill -9 while loading leave something behind? (Wanted: never.)

    python -m benchmarks.chaos_load [--rounds 24] [--neo4j-rounds 4] [--seed 1]

Every round kills the loading process or the server at a random moment, heals and compares the whole graph with a recompute.
Needs the Neo4j jars for the second part (ATLAS_NEO4J_JARS or .cache/neo4j/lib); without them it is left out and said so.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from atlas.graph import embedded
from atlas.settings import Settings
from tests.graph import chaos
from tests.graph.test_loading import check_aggregates
from tests.servers.neo4j_server import Neo4jServer, jars


def run(settings: Settings, notes: Path, rounds: int, seed: int, kill_server: Callable[[], None]) -> None:
    chance, wanted = random.Random(seed), {}
    for number in range(rounds):
        kill = kill_server if number % 2 else None
        seconds = chance.uniform(0.0, 4.0)
        begin = time.monotonic()
        hit = chaos.one_round(settings, notes, wanted, seed * 1000 + number, seconds, kill)
        store = chaos.open_store(settings)
        try:
            assert store.circuit_ids() == chaos.present(wanted)
            check_aggregates(store, chaos.counted(wanted))
            server = store.server
        finally:
            store.close()
        what = "server" if kill else "loader"
        print(
            f"{server}: round {number + 1}/{rounds}: {what} killed after {seconds:.2f} s in [{hit or 'nothing'}], "
            f"healed and equal in {time.monotonic() - begin - seconds:.1f} s",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--neo4j-rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        try:
            run(Settings(home=home), Path(folder) / "notes", asked.rounds, asked.seed, chaos.kill_embedded(home))
        finally:
            embedded.stop(home)
    found = jars()
    if found is None:
        print("Neo4j was left out: its jars are not here (ATLAS_NEO4J_JARS).")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        server = Neo4jServer(found, Path(folder) / "neo4j")
        server.start()

        def kill() -> None:
            server.kill()
            server.start()

        settings = Settings(
            home=Path(folder) / "home",
            graph_url=server.url,
            graph_user=server.user,
            graph_password=SecretStr(server.password),
        )
        try:
            run(settings, Path(folder) / "notes", asked.neo4j_rounds, asked.seed, kill)
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
