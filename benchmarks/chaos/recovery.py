"""How long does Neo4j need until its first query after a kill -9 in the middle of a load, with which settings?

    python -m benchmarks.chaos.recovery [--circuits 60] [--samples 3] [--only NAME]

For each set of settings a server of its own; per sample the same random circuits (577 nodes, 7,000 edges: the size of real ones)
are put one after the other, then the server is killed with the next one half in, started again and asked. `log` is what its own log
says about recovery, `answer` the time from start to the first answer, with Java's own start of several seconds in it. Stores
benchmarks/results/recovery.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from atlas.errors import StoreUnavailable
from atlas.graph import CircuitProjection, GraphStore
from atlas.settings import Settings
from benchmarks.chaos.rounds import RESULTS
from tests.graph.random_circuits import random_circuit
from tests.servers import neo4j_server
from tests.servers.neo4j_server import Neo4jServer, jars

VARIANTS = {
    "default": "db.checkpoint.interval.time=15m\n",
    "time 1m": "db.checkpoint.interval.time=1m\n",
    "tx 20": "db.checkpoint.interval.time=1m\ndb.checkpoint.interval.tx=20\n",
    "time 10s": "db.checkpoint.interval.time=10s\n",
}
RECOVERY = re.compile(
    r"Recovery in '\w+' mode completed.*?(\d+) transactions applied.*?[Tt]ime spent: ([\w .]+)\.", re.S
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--circuits", type=int, default=60)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--only", choices=VARIANTS)
    asked = parser.parse_args()
    console, file = Console(width=110), RESULTS / "recovery.json"
    stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() and asked.only else {}
    for name in [asked.only] if asked.only else VARIANTS:
        with tempfile.TemporaryDirectory(prefix="atlas-recovery-") as folder:
            stored[name] = measure(VARIANTS[name], Path(folder), asked.circuits, asked.samples)
        console.print(name, stored[name], f"load {os.getloadavg()[0]:.1f}")
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(stored, indent=1) + "\n")
    table = Table("settings", "put s", "transactions recovered", "recovery s (log)", "start to answer s")
    for name, samples in stored.items():
        medians = [
            statistics.median(sample[key] for sample in samples) for key in ("put", "recovered", "log", "answer")
        ]
        table.add_row(name, *(f"{value:.1f}" for value in medians))
    console.print(table)
    return 0


def measure(settings: str, folder: Path, circuits: int, samples: int) -> list[dict[str, float]]:
    found = jars()
    assert found is not None, "the Neo4j jars are not here: set ATLAS_NEO4J_JARS or run scripts/test-servers.sh"
    server = Neo4jServer(found, folder / "neo4j")
    configuration = server.home / "conf" / "neo4j.conf"
    without = re.sub(r"^db\.checkpoint.*\n", "", neo4j_server.CONFIGURATION.format(port=server.port), flags=re.M)
    configuration.write_text(without + settings)
    server.start()
    store_settings = Settings(
        home=folder / "home",
        graph_url=server.url,
        graph_user=server.user,
        graph_password=SecretStr(server.password),
    )
    results = []
    try:
        for sample in range(samples):
            store = GraphStore.connect(store_settings)
            store.ensure_schema()
            began = time.monotonic()
            for number in range(circuits):
                put(store, sample * 1000 + number)
            spent = time.monotonic() - began
            last = threading.Thread(target=put, args=(store, sample * 1000 + circuits))
            last.start()
            time.sleep(0.2)
            server.kill()
            log = folder / "neo4j" / "logs" / "debug.log"
            size = log.stat().st_size
            began = time.monotonic()
            server.start()
            answer = time.monotonic() - began
            last.join()
            store.close()
            said = RECOVERY.findall(log.read_text(errors="replace")[size:])  # one per database of the server
            applied, seconds = sum(int(each[0]) for each in said), sum(in_seconds(each[1]) for each in said)
            results.append(
                {"put": round(spent, 1), "recovered": applied, "log": round(seconds, 2), "answer": round(answer, 2)}
            )
    finally:
        server.stop()
    return results


def put(store: GraphStore, seed: int) -> None:
    circuit = random_circuit(seed, nodes=577, edges=7_000, features=300)
    try:
        store.put_circuit(CircuitProjection(circuit, "recovery", "2026-01-01", "chaos", "untested", "ready", True))
    except StoreUnavailable:
        return  # the one that was killed


def in_seconds(text: str) -> float:
    """Of `1m 2s 345ms` or `345ms`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)\s*(ms|h|m|s)", text))


if __name__ == "__main__":
    sys.exit(main())
