"""How long a search takes with 20,000 labelled and embedded features, inside one process.

    python -m benchmarks.search [--features 20000] [--queries 200]

Runs on the embedded server in a folder of its own, and on a real Neo4j too when its jars are here (ATLAS_NEO4J_JARS).
Labels are made by a seeded generator in the form of the `tokens` labeler. Queries are embedded with the shipped encoder as
always; a label's embedding is the normalised mean of its words' embeddings, because encoding 20,000 texts takes minutes and
is not what is measured here.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from atlas.api import Atlas
from atlas.catalog import labels as label_store
from atlas.catalog.labels import EncoderRecord
from atlas.circuit import feature_key
from atlas.encoder import Encoder
from atlas.graph import embedded
from atlas.records import NewLabel
from atlas.settings import Settings

RESULTS = Path(__file__).resolve().parent / "results"
MODELS, LAYERS = ("bench/small", "bench/large"), 26
WARM_UP = 10
_SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "zu",
    "sha",
    "tre",
    "pli",
]
_COMMON = [
    "city",
    "state",
    "capital",
    "river",
    "number",
    "year",
    "month",
    "verb",
    "noun",
    "animal",
    "colour",
    "food",
    "music",
    "court",
    "law",
    "war",
    "price",
    "bank",
    "doctor",
    "school",
    "name",
    "title",
    "quote",
    "comma",
    "bracket",
    "code",
    "function",
    "return",
    "error",
    "email",
    "date",
    "country",
    "language",
    "team",
    "player",
    "game",
    "science",
    "cell",
    "protein",
    "energy",
    "light",
    "water",
    "fire",
    "road",
    "bridge",
    "house",
    "door",
    "window",
    "king",
    "queen",
    "church",
    "prayer",
    "love",
    "fear",
    "anger",
    "joy",
    "question",
]


def words(rng: random.Random) -> list[str]:
    """A vocabulary: common English words, and made-up ones that are rare."""
    rare = {"".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(3000)}
    return _COMMON + sorted(rare)


def labels(count: int, seed: int = 0) -> Iterator[NewLabel]:
    rng = random.Random(seed)
    vocabulary = words(rng)
    for i in range(count):
        fires = ", ".join(f'"{word}"' for word in rng.sample(vocabulary, rng.randint(1, 6)))
        promotes = ", ".join(f'"{word}"' for word in rng.sample(vocabulary, rng.randint(1, 3)))
        key = feature_key(MODELS[i % 5 == 0], "bench-set", i % LAYERS, i // LAYERS)
        yield NewLabel(feature=key, text=f"on {fires}; promotes {promotes}", method="benchmark", score=rng.random())


def queries(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    vocabulary = words(random.Random(0))
    return [" ".join(rng.sample(_COMMON if i % 3 else vocabulary, rng.randint(1, 4))) for i in range(count)]


def timed(atlas: Atlas, texts: list[str], **filters) -> dict[str, float]:
    """p50, p95 and maximum in ms, and the mean number of hits."""
    for text in texts[:WARM_UP]:
        atlas.search(text, **filters)
    times, hits = [], 0
    for text in texts[WARM_UP:]:
        began = time.perf_counter()
        hits += len(atlas.search(text, **filters))
        times.append(1000 * (time.perf_counter() - began))
    return {
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p95_ms": round(float(np.percentile(times, 95)), 1),
        "max_ms": round(max(times), 1),
        "hits": round(hits / len(times), 1),
        "queries": len(times),
    }


def embeddings(made: list[NewLabel], encoder: Encoder) -> np.ndarray:
    """(labels, dimension) float32 of length 1, see the docstring of this module."""
    vocabulary = words(random.Random(0))
    vectors = dict(zip(vocabulary, encoder.encode(vocabulary), strict=True))
    means = np.stack(
        [np.mean([vectors[word] for word in re.findall(r'"(\w+)"', label.text)], axis=0) for label in made]
    )
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def fill(atlas: Atlas, features: int) -> None:
    encoder = atlas.encoder
    if encoder is None:
        raise SystemExit("The benchmark needs sentence-transformers: pip install 'circuit-atlas[ingest]'.")
    made = list(labels(features))
    vectors, record = embeddings(made, encoder), EncoderRecord(encoder.name, encoder.dimension)
    for start in range(0, features, 2000):
        part = slice(start, start + 2000)
        atlas.catalog.write(atlas.actor, lambda session, p=part: label_store.put(session, made[p], vectors[p], record))
    atlas.rebuild()


def measure(settings: Settings, features: int, count: int) -> dict:
    with Atlas.open(settings=settings) as atlas:
        began = time.perf_counter()
        fill(atlas, features)
        seconds = time.perf_counter() - began
        texts = queries(count + WARM_UP)
        return {
            "server": atlas.graph.server,
            "features": features,
            "filling_seconds": round(seconds, 1),
            "searches": {
                "all features": timed(atlas, texts),
                "one model (a fifth)": timed(atlas, texts, model=MODELS[1]),
                "four layers of 26": timed(atlas, texts, layers=(4, 7)),
                "one layer of one model (1 in 130)": timed(atlas, texts, model=MODELS[1], layers=(9, 9)),
            },
        }


@contextmanager
def servers() -> Iterator[Iterator[Settings]]:
    from tests.servers.neo4j_server import Neo4jServer, jars

    folder = Path(tempfile.mkdtemp(prefix="atlas-bench-search-"))

    def each() -> Iterator[Settings]:
        yield Settings(home=folder / "embedded", actor="benchmark")
        embedded.stop(folder / "embedded")
        if (lib := jars()) is not None:
            neo4j = Neo4jServer(lib, folder / "neo4j")
            neo4j.start()
            try:
                yield Settings(
                    home=folder / "home",
                    actor="benchmark",
                    graph_url=neo4j.url,
                    graph_user=neo4j.user,
                    graph_password=neo4j.password,
                )
            finally:
                neo4j.stop()

    try:
        yield each()
    finally:
        embedded.stop(folder / "embedded")
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    with servers() as each:
        results = [measure(settings, arguments.features, arguments.queries) for settings in each]

    table = Table(
        "server", "search", "p50 ms", "p95 ms", "max ms", "hits", title=f"search, {arguments.features} features"
    )
    for result in results:
        for name, row in result["searches"].items():
            table.add_row(result["server"], name, *(str(row[c]) for c in ("p50_ms", "p95_ms", "max_ms", "hits")))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    record = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "results": results}
    (RESULTS / "search.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
