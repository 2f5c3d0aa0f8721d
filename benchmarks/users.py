"""A group at work: simulated users and workers on Postgres and Neo4j through `atlas serve`, errors, p95 per verb, memory.

    python -m benchmarks.users [--users 20] [--workers 4] [--minutes 10] [--pause 4]

Starts a real Postgres, a real Neo4j and `atlas serve --no-ui`, imports the real graphs (ATLAS_SAMPLE_GRAPHS), queues prompts of the
shipped model all the while for the workers, and lets every user search, follow paths, open circuits, annotate and read over
HTTP with a token of their own, with a pause of `--pause` seconds on average between two questions. Memory is the proportional set
(Linux; pages that several processes share counted once) of each kind of process (Neo4j's heap is fixed at its start). Everything runs on
this one machine, the users too.
Prints tables and stores benchmarks/results/users.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from atlas import Atlas
from atlas.errors import AtlasError
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from tests.servers.fixtures import environment_of
from tests.servers.neo4j_server import Neo4jServer, jars
from tests.servers.postgres_server import PostgresServer, binaries

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "users.json"
GRAPHS = Path(os.environ.get("ATLAS_SAMPLE_GRAPHS") or REPOSITORY.parent / "shared" / "graphs")
WORDS = ("capital", "Texas", "opposite", "rhyme", "number", "city", "verb", "France", "sum", "plural", "dog", "name")
SAMPLE_SECONDS = 5.0
BACKLOG = 8  # so many prompts wait at least


class Users:
    """The users' threads and what they saw."""

    def __init__(self, address: str, tokens: list[str], pause: float) -> None:
        self.address, self.tokens, self.pause = address, tokens, pause
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(i,), daemon=True) for i in range(len(tokens))]

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(60)

    def _live(self, number: int) -> None:
        rng = random.Random(number)
        with Atlas.open(self.address, token=self.tokens[number]) as atlas:
            rows = atlas.circuits(limit=200)
            circuits = [row.id for row in rows]
            alike = defaultdict(list)  # only circuits of one transcoder set can be compared
            for row in rows:
                alike[row.transcoders].append(row.id)
            pairs = [ids for ids in alike.values() if len(ids) > 1]
            features = [hit.feature for hit in atlas.search("city", limit=20)]
            deeds = {
                "search": (4, lambda: atlas.search(rng.choice(WORDS), limit=20)),
                "circuits": (2, lambda: atlas.circuits(text=rng.choice(WORDS), limit=50)),
                "show": (3, lambda: atlas.show(rng.choice(circuits))),
                "feature": (2, lambda: atlas.feature(rng.choice(features))),
                "paths": (2, lambda: self._paths(atlas, rng, circuits)),
                "compare": (1, lambda: atlas.compare(*rng.sample(rng.choice(pairs), 2))),
                "annotate": (2, lambda: atlas.annotate(rng.choice(circuits), "note", f"seen by {number}")),
                "annotations": (1, lambda: atlas.annotations(rng.choice(circuits))),
                "cypher": (1, lambda: atlas.cypher("MATCH (f:Feature) RETURN f.model AS model, count(*) AS n")),
                "jobs": (1, lambda: atlas.jobs(limit=20)),
            }
            names = list(deeds)
            weights = [deeds[name][0] for name in names]
            self.stop.wait(rng.uniform(0, self.pause))
            while not self.stop.is_set():
                name = rng.choices(names, weights)[0]
                began = time.monotonic()
                try:
                    deeds[name][1]()
                    self.seconds[name].append(time.monotonic() - began)
                except Exception as error:
                    self.errors[f"{name}: {type(error).__name__}: {str(error)[:150]}"] += 1
                self.stop.wait(rng.expovariate(1 / self.pause))

    @staticmethod
    def _paths(atlas: Atlas, rng: random.Random, circuits: list[str]) -> None:
        circuit = rng.choice(circuits)
        nodes = atlas.show(circuit).top_nodes
        answers = [node.token for node in nodes if node.kind == "logit" and node.token.strip()] or ["Austin"]
        try:
            atlas.paths(rng.choice(WORDS), f"logit:{answers[0]}", circuit=circuit)
        except AtlasError as error:
            if type(error).__name__ != "NotFound":  # a circuit without the word is an answer, too
                raise


def memory(processes: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """MiB per kind of process, children included."""
    found = {}
    for kind, parents in processes.items():
        total = 0
        for parent in parents:
            try:
                for process in [parent, *parent.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        found[kind] = total / 2**20
    return found


def keep_queue_full(atlas: Atlas, stop: threading.Event) -> None:
    from ingest.organism import SAMPLE_PROMPTS

    prompts = [sample.prompt for sample in SAMPLE_PROMPTS]
    number = 0
    while not stop.is_set():
        if len(atlas.jobs(state="queued", limit=BACKLOG)) < BACKLOG:
            requests = []
            for _ in range(BACKLOG):
                # a new threshold is a new question, so that every job traces
                threshold = 0.5 + (number % 4900) / 10_000
                requests.append(
                    TraceRequest(profile="demo", prompt=prompts[number % len(prompts)], node_threshold=threshold)
                )
                number += 1
            atlas.enqueue_traces(requests)
        stop.wait(2)


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=4.0)
    options = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o711)
        postgres_binaries, neo4j_jars = binaries(), jars()
        if postgres_binaries is None or neo4j_jars is None:
            sys.exit("Postgres or the Neo4j jars are not here: run scripts/test-servers.sh first")
        postgres = PostgresServer(postgres_binaries, folder / "postgres")
        postgres.start()
        stack.callback(postgres.stop)
        neo4j = Neo4jServer(neo4j_jars, folder / "neo4j")
        neo4j.start()
        stack.callback(neo4j.stop)
        settings = Settings(
            home=folder / "home",
            actor="lead",
            catalog_url=postgres.url("postgres"),
            graph_url=neo4j.url,
            graph_user=neo4j.user,
            graph_password=SecretStr(neo4j.password),
        )
        environment = {**os.environ, **environment_of(settings), "OMP_NUM_THREADS": "1"}
        atlas = stack.enter_context(Atlas.open(settings=settings))
        from ingest.load import import_paths

        console.print(f"importing the graph files of {GRAPHS} ...")
        import_paths(atlas, [GRAPHS])
        tokens = []
        for number in range(options.users):
            atlas.add_person(f"user{number:02}", role="editor")
            tokens.append(atlas.new_token(f"user{number:02}").secret)

        def start(*arguments: str, log: str) -> subprocess.Popen:
            with open(folder / log, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "atlas", *arguments],
                    env=environment,
                    stdout=subprocess.PIPE if "serve" in arguments else output,
                    stderr=output,
                    text=True,
                )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            return process

        server = start("serve", "--no-ui", "--port", "0", "--json", log="serve.log")
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["url"]
        workers = [start("worker", "--name", f"w{i}", log=f"w{i}.log") for i in range(options.workers)]
        processes = {
            "serve": [psutil.Process(server.pid)],
            "workers": [psutil.Process(w.pid) for w in workers],
            "neo4j": [psutil.Process(neo4j.process.pid)] if neo4j.process else [],
            "postgres": [psutil.Process(postgres.process.pid)] if postgres.process else [],
        }
        stop = threading.Event()
        feeder = threading.Thread(target=keep_queue_full, args=(atlas, stop), daemon=True)
        feeder.start()
        samples: list[dict[str, float]] = []
        began = time.monotonic()
        with Users(address, tokens, options.pause) as users:
            while (passed := time.monotonic() - began) < options.minutes * 60:
                samples.append({"seconds": passed, **memory(processes)})
                users.stop.wait(SAMPLE_SECONDS)
        stop.set()
        feeder.join(30)
        counts = Counter(row.state for row in atlas.jobs(limit=100_000))
        failed = [row.error for row in atlas.jobs(state="failed", limit=5)]

    table = Table("verb", "answers", "p50 ms", "p95 ms", "max ms", title="questions over HTTP")
    verbs = {}
    for name, values in sorted(users.seconds.items()):
        verbs[name] = {"n": len(values), "p50": statistics.median(values), "p95": p95(values), "max": max(values)}
        table.add_row(name, str(len(values)), *(f"{1000 * verbs[name][key]:.0f}" for key in ("p50", "p95", "max")))
    console.print(table)
    late = [s for s in samples if s["seconds"] >= 60] or samples  # models and caches are filled in the first minute
    table = Table("process", "at 1 min MiB", "half-way", "end", title="memory")
    growth = {}
    for kind in processes:
        first, middle, last = late[0][kind], late[len(late) // 2][kind], late[-1][kind]
        growth[kind] = {"first": first, "middle": middle, "last": last}
        table.add_row(kind, f"{first:.0f}", f"{middle:.0f}", f"{last:.0f}")
    console.print(table)
    console.print(f"errors: {sum(users.errors.values())} {dict(users.errors)}; jobs: {dict(counts)} {failed or ''}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "users": options.users,
        "workers": options.workers,
        "minutes": options.minutes,
        "pause": options.pause,
        "verbs": verbs,
        "errors": dict(users.errors),
        "jobs": dict(counts),
        "memory_mib": growth,
        "samples": samples,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(1 if users.errors or counts["failed"] else 0)


if __name__ == "__main__":
    main()
