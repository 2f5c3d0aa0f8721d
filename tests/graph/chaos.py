"""Kills a loading process, or the server under it, at random moments; what comes after must heal everything.

A child process (`python -m tests.graph.chaos`) puts and deletes circuits and notes, in a file, each operation before and
after it. After the kill the parent does the unfinished operation again, as whoever drains the outbox would, and compares
the whole graph with what the notes say must be there.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import SecretStr

from atlas.circuit import Circuit
from atlas.graph import CircuitProjection, GraphStore, embedded
from atlas.settings import Settings
from tests.graph.random_circuits import random_circuit

CIRCUITS = 8


def circuits() -> list[Circuit]:
    return [random_circuit(seed, nodes=150, edges=2_500, features=40) for seed in range(CIRCUITS)]


def open_store(settings: Settings) -> GraphStore:
    store = GraphStore.connect(settings, dimension=4, encoder="test-encoder")
    store.ensure_schema()
    return store


def do(store: GraphStore, circuit: Circuit, operation: str) -> None:
    if operation == "delete":
        store.delete_circuit(circuit.id)
    else:
        store.put_circuit(
            CircuitProjection(circuit, "chaos", "2026-01-01", "tester", "untested", "ready", operation == "count")
        )


def load_forever(settings: Settings, notes: Path, seed: int) -> None:
    """The child: random operations until it is killed."""
    chance, store, all_circuits = random.Random(seed), open_store(settings), circuits()
    with open(notes, "a", buffering=1) as file:
        while True:
            number, operation = chance.randrange(CIRCUITS), chance.choice(["count", "count", "put", "delete"])
            file.write(f"begin {number} {operation}\n")
            do(store, all_circuits[number], operation)
            file.write(f"done {number} {operation}\n")


def one_round(
    settings: Settings, notes: Path, wanted: dict[int, str], seed: int, seconds: float, kill: Callable[[], None] | None
) -> str:
    """Lets a child load for `seconds`, kills it (or the server by `kill`), heals, and updates `wanted` (last operation by
    circuit). Returns what was interrupted, '' when the kill hit nothing."""
    notes.write_text("")
    plain = settings.model_dump(mode="json") | {"graph_password": settings.graph_password.get_secret_value()}
    command = [sys.executable, "-m", "tests.graph.chaos", json.dumps(plain), str(notes), str(seed)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[2])
    try:
        deadline = time.monotonic() + 120
        while not notes.read_text():
            assert child.poll() is None, "the loading process ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        if kill is not None:
            kill()
    finally:
        child.kill()
        child.wait()
    unfinished = ""
    for line in notes.read_text().splitlines():
        word, number, operation = line.split()
        if word == "done":
            wanted[int(number)] = operation
            unfinished = ""
        else:
            unfinished = f"{number} {operation}"
    if unfinished:
        number, operation = unfinished.split()
        store = open_store(settings)
        do(store, circuits()[int(number)], operation)
        store.close()
        wanted[int(number)] = operation
    return unfinished


def kill_embedded(home: Path) -> Callable[[], None]:
    def kill() -> None:
        status = embedded.status(home)
        if status.java_pid is not None:
            process = psutil.Process(status.java_pid)
            process.kill()
            deadline = time.monotonic() + 20
            while embedded.status(home).running and time.monotonic() < deadline:
                time.sleep(0.02)

    return kill


def counted(wanted: dict[int, str]) -> list[Circuit]:
    return [circuit for number, circuit in enumerate(circuits()) if wanted.get(number) == "count"]


def present(wanted: dict[int, str]) -> dict[str, str]:
    return {c.id: "ready" for number, c in enumerate(circuits()) if wanted.get(number, "delete") != "delete"}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    load_forever(
        Settings(**(given | {"graph_password": SecretStr(given["graph_password"])})),
        Path(sys.argv[2]),
        int(sys.argv[3]),
    )
