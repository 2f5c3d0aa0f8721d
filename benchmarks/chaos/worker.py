"""How often does a kill -9 of a worker lose a job, do it twice or leave something half-done? (Wanted: never.)

    python -m benchmarks.chaos.worker [--rounds 50] [--seed 1] [--catalog sqlite|postgres]

Two workers trace, label and rebuild with the shipped model. Each round queues jobs, kills one of the workers at a random
moment (its start included) and starts it again; every third round it stays dead until the next, so that the other one takes its
job. At the end every job must be done once, by one circuit of its own, and the graph must equal a rebuild. The figures
go to benchmarks/results/chaos-worker-CATALOG.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from atlas import Atlas
from atlas.catalog.tables import Audit, CircuitEntry, OutboxEntry
from atlas.group_records import TraceRequest
from atlas.settings import Settings
from benchmarks.chaos import loader, servers
from tests.graph_content import graph_content
from tests.servers.fixtures import environment_of

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
JOBS = 3  # traces queued a round
SECONDS = 6.0  # a kill comes at a random moment of so many seconds
PATIENCE = 300.0
# the encoder of labels takes longer to load than a round lasts and is no part of this
PROGRAM = "from benchmarks.chaos import loader; loader.without_encoder(); from atlas.cli.main import main; main()"


class Crew:
    """Worker processes by name."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **environment_of(self.settings), "OMP_NUM_THREADS": "1", "ATLAS_LOG_LEVEL": "info"}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", program, "worker", "--name", name, "--device", "cpu", *options],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.processes[name]

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def end(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def log(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace")[-3000:] if file.exists() else ""

    def check_alive(self) -> None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"the worker {name} ended by itself: {self.log(name)}"


@contextlib.contextmanager
def crew(settings: Settings, folder: Path) -> Iterator[Crew]:
    made = Crew(settings, folder)
    try:
        yield made
    finally:
        made.end()


def requests(first: int, number: int) -> list[TraceRequest]:
    """Traces that nobody has asked for before: each of other tokens, because the same circuit is kept once."""
    return [
        TraceRequest(
            token_ids=random.Random(n).choices(range(5, 60), k=7),
            profile="demo",
            collection="chaos" if n % 2 else None,
            again=n % 5 == 4,
        )
        for n in range(first, first + number)
    ]


def wait_until_done(atlas: Atlas, crew: Crew, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while (counts := atlas.job_counts()).get("queued") or counts.get("running"):
        crew.check_alive()
        logs = {name: crew.log(name) for name in crew.processes}
        assert time.monotonic() < until, f"the jobs do not end: {counts} {logs}"
        time.sleep(0.1)


def check_at_once(atlas: Atlas) -> None:
    """Right after a kill: whatever a job says is done is there, whole."""
    for job in atlas.jobs(state="done", limit=None):
        if job.circuit:
            assert atlas.load(job.circuit).id == job.circuit


def check_whole(atlas: Atlas) -> dict[str, int]:
    """Every job done exactly once, one circuit for each trace, nothing waiting, the graph as a rebuild makes it."""
    jobs = atlas.jobs(limit=None)
    assert {job.state for job in jobs} == {"done"}, Counter(f"{job.state} {job.error}" for job in jobs)
    with atlas.catalog.read() as session:
        ends = Counter(session.scalars(select(Audit.subject).where(Audit.verb == "job done")))
        keys = Counter(session.scalars(select(CircuitEntry.trace_key)))
    assert ends == Counter(job.id for job in jobs), "a job ended more than once"
    assert set(keys.values()) <= {1}, "a trace made more than one circuit"
    traces = [job for job in jobs if job.kind == "trace"]
    assert {job.circuit for job in traces} == set(atlas.catalog.circuit_ids()), (
        "a circuit without its job, or no circuit"
    )
    assert len({job.circuit for job in traces}) == len(keys) == len(traces)
    assert atlas.graph.circuit_ids() == dict.fromkeys(atlas.catalog.circuit_ids(), "ready")
    with atlas.catalog.read() as session:
        assert session.query(OutboxEntry).count() == 0
    before = graph_content(atlas)
    atlas.rebuild()
    assert graph_content(atlas) == before
    return {"jobs": len(jobs), "circuits": len(keys), "attempts": sum(job.attempts for job in jobs)}


def play(settings: Settings, folder: Path, rounds: int, seed: int, told: Any = print) -> dict[str, Any]:
    """Returns the figures; raises AssertionError at the first thing lost, doubled or half-done."""
    loader.without_encoder()
    chance = random.Random(seed)
    names = ["worker1", "worker2"]
    rows: list[dict[str, Any]] = []
    with Atlas.open(settings=settings) as atlas, crew(settings, folder) as hands:
        atlas.graph  # noqa: B018  started once: its start is no part of the rounds
        for number in range(rounds):
            for name in names:
                if name not in hands.processes:
                    hands.start(name)
            atlas.enqueue_traces(requests(number * JOBS, JOBS))
            if number % 5 == 2:
                atlas.enqueue("label", {"limit": 40})
            if number % 10 == 7:
                atlas.enqueue("rebuild", {})
            victim = chance.choice(names)
            if chance.random() < 0.8:
                _wait_for_sign(atlas, hands, victim)
            seconds = chance.uniform(0, SECONDS)
            time.sleep(seconds)
            running = {job.worker: job for job in atlas.jobs(state="running")}
            hands.kill(victim)
            check_at_once(atlas)
            struck = running.get(victim)
            rows.append(
                {
                    "round": number + 1,
                    "after_seconds": round(seconds, 2),
                    "at": f"{struck.kind} {struck.step}".strip() if struck else "no job",
                    "stays_dead": number % 3 == 2,
                }
            )
            told(rows[-1])
            if number % 3 == 2:
                began = time.monotonic()
                wait_until_done(atlas, hands)
                rows[-1]["others_done_seconds"] = round(time.monotonic() - began, 1)
        for name in names:
            if name not in hands.processes:
                hands.start(name)
        wait_until_done(atlas, hands)
        for name in names:
            _wait_for_sign(atlas, hands, name)
        ends = [hands.stop(name) for name in list(hands.processes)]
        assert ends == [0] * len(ends), f"a worker did not stop cleanly: {ends}"
        return {"rounds": rows, **check_whole(atlas)}


def _wait_for_sign(atlas: Atlas, hands: Crew, name: str) -> None:
    """Until that process has signed in."""
    pid, until = hands.processes[name].pid, time.monotonic() + PATIENCE
    while not any(row.name == name and row.pid == pid for row in atlas.workers()):
        hands.check_alive()
        assert time.monotonic() < until, f"{name} does not start: {hands.log(name)}"
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--catalog", choices=["sqlite", "postgres"], default="sqlite")
    asked = parser.parse_args()
    console = Console(width=110)
    server = servers.embedded_server if asked.catalog == "sqlite" else servers.postgres_server
    began, fault, figures = time.monotonic(), "", {}
    with tempfile.TemporaryDirectory(prefix="atlas-chaos-") as folder, server(Path(folder)) as (settings, _):
        settings = settings.model_copy(update={"cypher_timeout_seconds": 300.0})  # the check reads everything
        try:
            figures = play(settings, Path(folder), asked.rounds, asked.seed, lambda row: console.print(row))
        except AssertionError as error:
            fault = str(error)[:4000]
    stored = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "catalog": asked.catalog,
        "seed": asked.seed,
        "seconds": round(time.monotonic() - began),
        "faults": [fault] if fault else [],
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"chaos-worker-{asked.catalog}.json").write_text(json.dumps(stored, indent=1) + "\n")
    _print(console, stored)
    return 1 if fault else 0


def _print(console: Console, stored: dict[str, Any]) -> None:
    rounds = stored.get("rounds", [])
    if rounds:
        table = Table(title=f"{len(rounds)} kills of a worker, {len(stored['faults'])} faults")
        table.add_column("killed at")
        table.add_column("kills", justify="right")
        for what, number in Counter(row["at"] for row in rounds).most_common():
            table.add_row(what, str(number))
        console.print(table)
        waits = [row["others_done_seconds"] for row in rounds if "others_done_seconds" in row]
        if waits:
            console.print(
                f"until the others had done everything: median {statistics.median(waits)} s, max {max(waits)} s"
            )
        console.print(
            f"{stored['jobs']} jobs done once each, {stored['circuits']} circuits, {stored['attempts']} attempts"
        )
    for fault in stored["faults"]:
        console.print(f"FAULT: {fault}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
