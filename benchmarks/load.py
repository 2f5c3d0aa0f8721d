"""What it costs to put circuits into the graph, on both servers.

    python -m benchmarks.load [--growth 300] [--only embedded|neo4j] [--files N]

1. Every real graph: `GraphStore.put_circuit` as a ratio to the same circuit sent by four plain `UNWIND` statements (nodes,
   attributions, features with their occurrences, a MERGE per pair of influences) with the bare driver in one transaction, batches of the same
   size, no progress, no status, no checks. Each circuit is put by one and by the other, in turn, into the same database.
2. Growth: the time per circuit while the atlas grows to 300 circuits (copies of the real graphs with another prompt), as
   the median of each tenth.

One sample per circuit and way; both servers on this machine, run one after the other. Neo4j needs its jars
(ATLAS_NEO4J_JARS or .cache/neo4j/lib) and is left out, with a word, without them. Stores benchmarks/results/load.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import neo4j
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from atlas.circuit import Circuit, Example
from atlas.graph import CircuitProjection, GraphStore, cypher, embedded, loading
from atlas.settings import Settings
from ingest.formats import read_graph
from tests.servers.neo4j_server import Neo4jServer, jars

REPOSITORY = Path(__file__).resolve().parents[1]
GRAPHS = Path(os.environ.get("ATLAS_SAMPLE_GRAPHS") or REPOSITORY.parent / "shared" / "graphs")
RESULT = REPOSITORY / "benchmarks" / "results" / "load.json"
MERGE_INFLUENCES = """
UNWIND $rows AS row
MATCH (source:Feature {key: row[0]})
MATCH (target:Feature {key: row[1]})
MERGE (source)-[i:INFLUENCES {method: $method, unit: $unit}]->(target)
ON CREATE SET i.mean_share = row[2], i.mean_weight = row[3], i.positive = row[4], i.prompts = 1, i.circuits = 1
ON MATCH SET i.mean_share = (i.mean_share * i.circuits + row[2]) / (i.circuits + 1),
    i.mean_weight = (i.mean_weight * i.circuits + row[3]) / (i.circuits + 1),
    i.positive = (i.positive * i.circuits + row[4]) / (i.circuits + 1),
    i.prompts = i.prompts + 1,
    i.circuits = i.circuits + 1
"""
BARE = {name: cypher.PUT[name] for name in ("nodes", "attributes", "features")} | {"influences": MERGE_INFLUENCES}


def read_circuits(files: int | None) -> list[Circuit]:
    paths = sorted(path for path in GRAPHS.iterdir() if path.name.endswith((".json", ".json.gz")))[:files]
    return [read_graph(path, path.name).circuit for path in paths]


def projection(circuit: Circuit) -> CircuitProjection:
    return CircuitProjection(circuit, circuit.record.name, "2026-01-01", "benchmark", "untested", "ready", True)


def copy_of(circuit: Circuit, number: int) -> Circuit:
    """The same graph for another prompt: other ids, the same features."""
    (first, *others) = circuit.record.examples or [Example(tokens=[])]
    example = first.model_copy(update={"tokens": [*first.tokens, f"copy {number}"], "token_ids": None})
    return circuit.with_record(examples=[example, *others])


def by_store(store: GraphStore, circuit: Circuit) -> float:
    begin = time.perf_counter()
    store.put_circuit(projection(circuit))
    return time.perf_counter() - begin


def by_bare_driver(store: GraphStore, circuit: Circuit) -> float:
    """The four statements alone; making their rows counts, as it does in `by_store`."""
    begin = time.perf_counter()
    project = projection(circuit)
    rows = {step.name: step.rows for step in [*project.steps, *project.aggregates]}
    method = circuit.record.method
    common = {"id": project.id, "prefix": project.id + "/", "method": method.name, "unit": method.weight_unit}

    def work(tx: neo4j.Transaction) -> None:
        tx.run("CREATE (:Circuit {id: $id})", common).consume()
        for name, statement in BARE.items():
            size = loading.BATCH_ROWS[name]
            for at in range(0, len(rows[name]), size):
                tx.run(statement, common | {"rows": rows[name][at : at + size]}).consume()

    connection = store._connection
    with connection.driver.session(database=connection.database) as session:
        session.execute_write(work)
    return time.perf_counter() - begin


def ratio(store: GraphStore, circuits: list[Circuit]) -> dict[str, Any]:
    """Both ways for every circuit, each once first and once second."""
    for circuit in circuits[:3]:  # warm: statements planned, Java compiled
        by_store(store, copy_of(circuit, -1))
        by_bare_driver(store, copy_of(circuit, -2))
    rows = []
    for number, circuit in enumerate(circuits):
        ways: list[tuple[str, Callable[[GraphStore, Circuit], float]]] = [("store", by_store), ("bare", by_bare_driver)]
        times = {
            name: way(store, copy_of(circuit, 10_000 + place))
            for place, (name, way) in enumerate(ways[:: 1 - 2 * (number % 2)])
        }
        rows.append({"file": circuit.record.name, "edges": len(circuit.edges), **times})
    return {
        "circuits": rows,
        "median_store_seconds": statistics.median(row["store"] for row in rows),
        "median_bare_seconds": statistics.median(row["bare"] for row in rows),
        "p90_store_seconds": statistics.quantiles([row["store"] for row in rows], n=10)[-1] if len(rows) > 1 else None,
        "median_ratio": statistics.median(row["store"] / row["bare"] for row in rows),
        "total_ratio": sum(row["store"] for row in rows) / sum(row["bare"] for row in rows),
    }


def growth(store: GraphStore, circuits: list[Circuit], count: int) -> dict[str, Any]:
    """Seconds per 1,000 edges of every circuit, in the order of loading."""
    store.clear()
    store.ensure_schema()
    times, per_edge = [], []
    for number in range(count):
        circuit = copy_of(circuits[number % len(circuits)], number)
        times.append(by_store(store, circuit))
        per_edge.append(times[-1] / max(len(circuit.edges), 1) * 1_000)
    tenth = max(count // 10, 1)
    medians = [statistics.median(per_edge[at : at + tenth]) for at in range(0, count - tenth + 1, tenth)]
    begin = time.perf_counter()
    store.clear()
    return {
        "circuits": count,
        "seconds": sum(times),
        "median_seconds": statistics.median(times),
        "ms_per_1000_edges_by_tenth": [round(1_000 * value, 1) for value in medians],
        "last_half_to_first_half": statistics.median(per_edge[count // 2 :])
        / statistics.median(per_edge[: count // 2]),
        "clear_seconds": time.perf_counter() - begin,
    }


def measure(settings: Settings, circuits: list[Circuit], count: int) -> dict[str, Any]:
    store = GraphStore.connect(settings)
    try:
        store.clear()
        store.ensure_schema()
        return {"server": store.server, "ratio": ratio(store, circuits), "growth": growth(store, circuits, count)}
    finally:
        store.close()


def on_embedded(circuits: list[Circuit], count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return measure(Settings(home=Path(folder)), circuits, count)
        finally:
            embedded.stop(Path(folder))


def on_neo4j(circuits: list[Circuit], count: int) -> dict[str, Any]:
    found = jars()
    if found is None:
        return {"left_out": "the Neo4j jars are not here (ATLAS_NEO4J_JARS)"}
    with tempfile.TemporaryDirectory() as folder:
        server = Neo4jServer(found, Path(folder) / "neo4j", heap="1g")
        try:
            server.start()
            password = SecretStr(server.password)
            settings = Settings(
                home=Path(folder), graph_url=server.url, graph_user=server.user, graph_password=password
            )
            return measure(settings, circuits, count)
        finally:
            server.stop()


def show(results: dict[str, Any]) -> None:
    table = Table(title=f"Loading {results['files']} real graphs (median {results['median_edges']} edges)")
    for column in ("server", "store s", "bare s", "ratio", "growth: ms per 1,000 edges, by tenth", "last / first half"):
        table.add_column(column)
    for name in ("embedded", "neo4j"):
        found = results.get(name)
        if found is None or "left_out" in found:
            table.add_row(name, (found or {}).get("left_out", "not asked for"))
            continue
        loaded, grown = found["ratio"], found["growth"]
        table.add_row(
            found["server"],
            f"{loaded['median_store_seconds']:.2f}",
            f"{loaded['median_bare_seconds']:.2f}",
            f"{loaded['median_ratio']:.2f}",
            " ".join(f"{value:.0f}" for value in grown["ms_per_1000_edges_by_tenth"]) + f" (to {grown['circuits']})",
            f"{grown['last_half_to_first_half']:.2f}",
        )
    Console(width=140).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--growth", type=int, default=300, help="circuits at the end of the second part")
    parser.add_argument("--only", choices=("embedded", "neo4j"))
    parser.add_argument("--files", type=int, help="only the first N real graphs")
    asked = parser.parse_args()
    if not GRAPHS.is_dir():
        print(f"The real graphs are not at {GRAPHS}; set ATLAS_SAMPLE_GRAPHS.", file=sys.stderr)
        return 1
    circuits = read_circuits(asked.files)
    results: dict[str, Any] = {
        "files": len(circuits),
        "median_edges": int(statistics.median(len(circuit.edges) for circuit in circuits)),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
    }
    for name, on_server in (("embedded", on_embedded), ("neo4j", on_neo4j)):
        if asked.only in (None, name):
            results[name] = on_server(circuits, asked.growth)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1))
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
