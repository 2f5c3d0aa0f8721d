"""Fixtures that every suite may use. Servers are in tests/servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atlas.circuit import Circuit, CircuitRecord, Edges, Example, Method, ModelRef, Nodes, SetRef, Target
from atlas.graph import embedded
from atlas.settings import Settings

pytest_plugins = ["tests.servers.fixtures"]
REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """A run that is ended from outside (`timeout`, a cancelled job) still stops the servers that it started."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ATLAS_") and name not in {"ATLAS_SAMPLE_GRAPHS", "ATLAS_NEO4J_JARS"}:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _the_same_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit's AppTest leaves a page in its place, which a process that a later test spawns would run first."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", actor="tester")


@pytest.fixture(scope="session")
def sample_graphs() -> Path:
    """The folder of real graph files; an extra suite on a user's machine, required in CI."""
    folder = Path(os.environ.get("ATLAS_SAMPLE_GRAPHS") or REPOSITORY.parent / "shared" / "graphs")
    if not folder.is_dir():
        message = f"the real graph files are not at {folder}; set ATLAS_SAMPLE_GRAPHS"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@dataclass
class DemoHome:
    """What `atlas demo --no-ui` made, once for all tests: its home, its summary, the environment that opens it."""

    home: Path
    summary: dict
    environment: dict[str, str]


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoHome]:
    home = tmp_path_factory.mktemp("demo") / "home"
    environment = {"ATLAS_HOME": str(home), "ATLAS_ACTOR": "tester"}
    command = [sys.executable, "-m", "atlas", "demo", "--no-ui", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    yield DemoHome(home, json.loads(done.stdout), environment)
    embedded.stop(home)


def make_circuit(
    prompt: str = "a b",
    weights: tuple[float, float, float] = (0.5, -1.0, 2.0),
    *,
    model: str = "toy",
    transcoders: str = "toy-set",
    features: tuple[int, int] = (6, 7),
) -> Circuit:
    """A drawn-by-hand circuit: token a -> feature 0 -> feature 1 -> logit x, at position 1."""
    words = prompt.split()
    last = len(words) - 1
    return Circuit(
        CircuitRecord(
            name=prompt.replace(" ", "-"),
            prompt=prompt,
            examples=[Example(tokens=words, text=prompt)],
            targets=[Target(what="x", token_id=3, position=last, probability=0.75)],
            model=ModelRef(name=model, layers=2),
            transcoders=SetRef(name=transcoders),
            method=Method(),
        ),
        Nodes(
            kind=[2, 0, 0, 3],
            layer=[-1, 0, 1, 2],
            position=[0, last, last, last],
            index=[5, *features, 3],
            activation=[float("nan"), 2.0, 1.0, float("nan")],
            influence=[0.2, 0.3, 0.5, float("nan")],
            probability=[float("nan")] * 3 + [0.75],
            input_total=[0.0, 0.5, -1.0, 2.0],
            input_abs_total=[0.0, 1.0, 2.0, 4.0],
        ),
        Edges(source=[0, 1, 2], target=[1, 2, 3], weight=list(weights)),
    )


@pytest.fixture(name="make_circuit")
def make_circuit_fixture():
    return make_circuit
