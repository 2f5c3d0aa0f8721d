"""Runs command lines in this process and gives back what a user would see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atlas import circuit_file
from atlas.cli.main import run
from tests.conftest import make_circuit
from tests.servers.fixtures import environment_of


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def atlas_command(capsys, monkeypatch, tmp_path):
    """`atlas_command("circuits", "--json")` in an empty home; pass `home=` through monkeypatch.setenv to share one."""
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATLAS_ACTOR", "tester")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory) -> Path:
    """One embedded server for the whole suite; stopped at the end."""
    from atlas.graph import embedded

    home = tmp_path_factory.mktemp("cli") / "home"
    yield home
    embedded.stop(home)


@pytest.fixture
def filled_at_home(atlas_command, shared_home, monkeypatch, tmp_path):
    """(command, {prompt: circuit id}): three hand-drawn circuits in the shared home."""
    monkeypatch.setenv("ATLAS_HOME", str(shared_home))
    return _fill(atlas_command, tmp_path)


@pytest.fixture(
    params=[
        pytest.param("laptop", marks=pytest.mark.embedded),
        pytest.param("servers", marks=[pytest.mark.neo4j, pytest.mark.postgres]),
    ]
)
def filled(request, atlas_command, monkeypatch, tmp_path):
    """The same, once in the shared home and once on Postgres and Neo4j."""
    if request.param == "laptop":
        return request.getfixturevalue("filled_at_home")
    for name, value in environment_of(request.getfixturevalue("lab_settings")).items():
        monkeypatch.setenv(name, value)
    return _fill(atlas_command, tmp_path)


def _fill(atlas_command, tmp_path):
    files = []
    for prompt, weights in {"a b": (0.5, -1.0, 2.0), "a c": (0.5, 1.0, 2.0), "d e f": (0.25, 1.0, 1.0)}.items():
        path = tmp_path / f"{prompt.replace(' ', '-')}.safetensors"
        path.write_bytes(circuit_file.to_bytes(make_circuit(prompt, weights)))
        files.append(path)
    result = atlas_command("import", *files, "--in", "toys", "--json")
    assert result.code == 0, result.err
    return atlas_command, {Path(item["path"]).stem: item["circuit"] for item in result.json["loaded"]}
