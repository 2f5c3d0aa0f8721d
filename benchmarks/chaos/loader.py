"""The process that loads: adds, deletes and labels random circuits, and notes every deed before and after it.

`python -m benchmarks.chaos.loader NOTES SEED` with the settings in the environment. It works while its standard input said
`go` last, and answers `pause` by `paused` on standard output, between two deeds.

A line of NOTES: `begin NUMBER WHAT...`, then `done NUMBER`, or `kept NUMBER` (the catalog has it, the graph store will be
told), or `failed NUMBER SENTENCE` (not acknowledged: it may have happened or not). WHAT is `add I`, `delete I` (I counts
`circuits()`) or `label TEXT`.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import atlas.encoder
from atlas import Atlas
from atlas.circuit import Circuit
from atlas.errors import StoreUnavailable
from atlas.records import NewLabel
from tests.graph.random_circuits import random_circuit

CIRCUITS = 8
LABELLED = "toy/toy-set/0/1"


def circuits() -> list[Circuit]:
    """Always the same, with features in common, each of another prompt so that all of them count."""
    return [random_circuit(seed, nodes=150, edges=2_500, features=40) for seed in range(CIRCUITS)]


def without_encoder() -> None:
    """Embeddings are no part of this: the encoder takes longer to load than a round."""
    atlas.encoder.load_encoder = lambda settings: None  # type: ignore[assignment]


def main(notes: Path, seed: int) -> None:
    without_encoder()
    working, chance, all_circuits = threading.Event(), random.Random(seed), circuits()
    idle = threading.Event()
    idle.set()

    def obey() -> None:
        for line in sys.stdin:
            if line.strip() == "go":
                idle.clear()
                working.set()
            else:
                working.clear()
                idle.wait()
                print("paused", flush=True)

    with Atlas.open() as opened, open(notes, "a", buffering=1) as file:
        listener = threading.Thread(target=obey, daemon=True)
        listener.start()
        print("ready", flush=True)
        number = 0
        while True:
            if not working.is_set():
                idle.set()
                working.wait()
            number += 1
            verb = chance.choice(["add", "add", "add", "delete", "label"])
            index = chance.randrange(CIRCUITS)
            text = f"{seed}-{number}"
            file.write(f"begin {number} {verb} {text if verb == 'label' else index}\n")
            try:
                do(opened, verb, all_circuits[index], text)
            except StoreUnavailable as error:
                kept = "kept in the catalog" in error.hint
                file.write(f"kept {number}\n" if kept else f"failed {number} {error.message}\n")
                time.sleep(0.1)
            else:
                file.write(f"done {number}\n")


def do(opened: Atlas, verb: str, circuit: Circuit, text: str) -> None:
    if verb == "add":
        opened.add(circuit, collection="chaos")
    elif verb == "label":
        opened.put_labels([NewLabel(feature=LABELLED, text=text, method="chaos")])
    elif circuit.id in opened.catalog.circuit_ids():
        opened.delete(circuit.id)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
