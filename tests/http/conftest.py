"""A real server process over a real atlas, and people of every role with tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from atlas import Atlas
from atlas.graph import embedded
from atlas.records import NewLabel
from atlas.settings import Settings
from tests.conftest import make_circuit

JSON_LIMIT = 200_000
FILE_LIMIT = 1_000_000
COMMAND = "from atlas.cli.main import main; main()"


@dataclass
class Served:
    """A server process, the atlas that it serves, and a token of each role."""

    url: str
    process: subprocess.Popen[str]
    settings: Settings
    local: Atlas
    tokens: dict[str, str]
    circuits: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.settings)

    def client(self, role: str | None = "reader", **options) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, trust_env=False, timeout=60, **options)

    def remote(self, role: str = "reader") -> Atlas:
        return Atlas.open(self.url, token=self.tokens[role])


def environment_of(settings: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")}
    ours = {"HOME": settings.home, "ACTOR": "keeper", "EMBEDDED_HEAP": "512m"}
    limits = {"HTTP_MAX_BODY_BYTES": JSON_LIMIT, "IMPORT_MAX_BYTES": FILE_LIMIT}
    return {**kept, **{f"ATLAS_{name}": str(value) for name, value in (ours | limits).items()}}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("served") / "home"
    settings = Settings(home=home, actor="keeper", embedded_heap="512m")
    with Atlas.open(settings=settings) as local:
        circuits = fill(local)
        tokens = {}
        for role in ("reader", "editor", "admin"):
            local.add_person(f"{role}1", role)
            tokens[role] = local.new_token(f"{role}1").secret
        process, url = start("--no-ui", settings=settings)
        made = Served(url, process, settings, local, tokens, circuits)
        with made.remote() as remote:
            remote.cypher("RETURN 1")  # both ends have asked the graph server now
        yield made
        process.terminate()
        assert process.wait(20) == 0
    embedded.stop(home)


def fill(atlas: Atlas) -> dict[str, str]:
    """Three hand-drawn circuits with labels, a collection and a concept: {prompt: id}."""
    made = {}
    for prompt, weights in {"a b": (0.5, -1.0, 2.0), "a c": (0.5, 1.0, 2.0), "d e f": (0.25, 1.0, 1.0)}.items():
        made[prompt] = atlas.add(make_circuit(prompt, weights), collection="toys").circuit
    labels = {"toy/toy-set/0/6": "names of <b>cities</b>", "toy/toy-set/1/7": "capital cities"}
    atlas.put_labels([NewLabel(feature=key, text=text, method="person") for key, text in labels.items()])
    atlas.define_concept("cities", list(labels))
    return made


def start(*arguments: str, settings: Settings) -> tuple[subprocess.Popen[str], str]:
    """`atlas serve ARGUMENTS` in a process of its own, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=(Path(settings.home) / "serve.err").open("w"),
        text=True,
        env=environment_of(settings),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (Path(settings.home) / "serve.err").read_text()
    return process, json.loads(line)["url"]
