"""Rounds of: load, kill -9 at a random moment, start again, go on, compare. Used by `graph` and `postgres` and by the tests."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from atlas import Atlas
from atlas.errors import AtlasError
from atlas.settings import Settings
from benchmarks.chaos import loader
from benchmarks.chaos.checks import Wanted, check_at_once, check_whole
from tests.servers.fixtures import environment_of

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
LOADER_DIES = 3  # in every third round the loading process is killed too
SECONDS = 2.5  # the kill comes at a random moment of so many seconds of load
PATIENCE = 180.0

Kill = Callable[[], float]  # kills the server and starts it again; returns the seconds until it answers


class Loader:
    """The loading process of `loader.py`."""

    def __init__(self, settings: Settings, notes: Path, seed: int) -> None:
        self.notes, self.log = notes, notes.with_suffix(".log")
        with open(self.log, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.chaos.loader", str(notes), str(seed)],
                cwd=REPOSITORY,
                env={**os.environ, **environment_of(settings)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._hear("ready")

    def go(self) -> None:
        self._say("go")

    def pause(self) -> None:
        """Returns between two deeds, once the current one is over."""
        self._say("pause")
        self._hear("paused")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _opened(pipe).close()

    def wait_for_a_deed(self) -> float:
        """Seconds until something that was begun after now is done."""
        size, began = self.notes.stat().st_size, time.monotonic()
        while True:
            with open(self.notes, "rb") as file:
                file.seek(size)
                new = file.read().decode().splitlines()
            started = {line.split()[1] for line in new if line.startswith("begin ") and len(line.split()) > 2}
            if any(line.startswith("done ") and line.split()[1] in started for line in new):
                return time.monotonic() - began
            assert self.process.poll() is None, f"the loader ended by itself: {self.log.read_text()[-1000:]}"
            assert time.monotonic() - began < PATIENCE, f"the load did not go on: {self.notes.read_text()[-500:]}"
            time.sleep(0.02)

    def _say(self, word: str) -> None:
        _opened(self.process.stdin).write(f"{word}\n")
        _opened(self.process.stdin).flush()

    def _hear(self, word: str) -> None:
        said = _opened(self.process.stdout).readline()
        assert said == f"{word}\n", f"the loader said {said!r}: {self.log.read_text()[-1000:]}"


def _opened(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def run(
    settings: Settings,
    kill: Kill,
    rounds: int,
    seed: int,
    folder: Path,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """One row per round; raises AssertionError at the first thing that is lost, half-done or unlike a recompute."""
    loader.without_encoder()
    rows, wanted, loading = [], Wanted(), None
    try:
        with Atlas.open(settings=settings) as atlas:
            for number in range(rounds):
                chance = random.Random(f"{seed} {number}")
                if loading is None:
                    notes = folder / f"notes-{number}"
                    notes.touch()
                    wanted.read = 0
                    loading = Loader(settings, notes, seed * 1000 + number)
                before = wanted.acknowledged
                loading.go()
                seconds = chance.uniform(0.0, SECONDS)
                if not wanted.acknowledged:
                    loading.wait_for_a_deed()
                time.sleep(seconds)
                loader_dies = number % LOADER_DIES == LOADER_DIES - 1
                if loader_dies:
                    loading.kill()
                down = kill()
                unfinished = check_at_once(atlas._projector._connect(check=False))
                goes_on = None
                if loader_dies:
                    wanted.take_in(loading.notes, ended=True)
                    loading = None
                else:
                    goes_on = loading.wait_for_a_deed()
                    loading.pause()
                    wanted.take_in(loading.notes)
                began = time.monotonic()
                check_whole(atlas, wanted)
                rows.append(
                    {
                        "round": number + 1,
                        "killed": "server and loader" if loader_dies else "server",
                        "after_seconds": round(seconds, 2),
                        "restart_seconds": round(down, 2),
                        "unfinished_circuits": unfinished,
                        "goes_on_seconds": None if goes_on is None else round(goes_on, 2),
                        "healed_and_checked_seconds": round(time.monotonic() - began, 2),
                        "acknowledged": wanted.acknowledged - before,
                        "unacknowledged_so_far": wanted.unacknowledged,
                    }
                )
                told(rows[-1])
    finally:
        if loading is not None:
            loading.kill()
    return rows


def report(name: str, settings: dict[str, Any], rounds: int, seed: int, again: bool, play: Callable[..., Any]) -> int:
    """Plays the rounds that are not in benchmarks/results/NAME.json yet, storing after every one; prints the table.

    `play(rounds, seed, folder, told)` is `run` on servers of its own.
    """
    file = RESULTS / f"{name}.json"
    stored: dict[str, Any] = {"rounds": [], "faults": []}
    if file.exists() and not again:
        stored = json.loads(file.read_text())
    done = len(stored["rounds"])
    console = Console(width=110)
    if done >= rounds:
        console.print(f"{done} rounds are in {file.relative_to(REPOSITORY)} already; --again plays them anew")
    RESULTS.mkdir(exist_ok=True)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}

    def told(row: dict[str, Any]) -> None:
        row["round"] += done
        stored["rounds"].append(row)
        stored.update(machine=machine, seed=seed, settings=settings)
        file.write_text(json.dumps(stored, indent=1) + "\n")
        console.print(" ".join(f"{key}={value}" for key, value in row.items()), highlight=False)

    fault = ""
    if done < rounds:
        with tempfile.TemporaryDirectory(prefix="atlas-chaos-") as folder:
            try:
                play(rounds - done, seed + done, Path(folder), told)
            except (AssertionError, AtlasError, OSError, RuntimeError) as error:
                fault = f"{type(error).__name__}: {error}"[:2000]
                stored["faults"].append({"after_rounds": len(stored["rounds"]), "what": fault})
                file.write_text(json.dumps(stored, indent=1) + "\n")
    _print(console, name, stored)
    if fault:
        console.print(f"FAULT after round {len(stored['rounds'])}: {fault}", markup=False)
    return 1 if stored["faults"] else 0


def _print(console: Console, name: str, stored: dict[str, Any]) -> None:
    table = Table(title=f"{name}: {len(stored['rounds'])} kills, {len(stored['faults'])} faults")
    for column in ("", "median", "p90", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for key in ("restart_seconds", "goes_on_seconds", "healed_and_checked_seconds", "acknowledged"):
        values = sorted(row[key] for row in stored["rounds"] if row[key] is not None)
        if values:
            p90 = values[min(len(values) - 1, int(0.9 * len(values)))]
            table.add_row(key.replace("_", " "), *(f"{x:.1f}" for x in (statistics.median(values), p90, values[-1])))
    hit = sum(bool(row["unfinished_circuits"]) for row in stored["rounds"])
    table.add_row("kills that left a circuit unfinished until healed", str(hit), "", "")
    console.print(table)
