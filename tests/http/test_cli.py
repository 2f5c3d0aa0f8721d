"""The command line against a server, and what `atlas serve` and `atlas mcp` refuse to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from atlas.circuit_file import from_bytes, to_bytes
from tests.conftest import make_circuit
from tests.http.conftest import COMMAND

pytestmark = pytest.mark.embedded


@pytest.fixture
def elsewhere(served, tmp_path, monkeypatch):
    """A command line on a machine without an atlas, as the editor."""
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("ATLAS_SERVER", served.url)
    monkeypatch.setenv("ATLAS_TOKEN", served.tokens["editor"])
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        from atlas.cli.main import run

        capture.readouterr()
        code = run(list(arguments))
        printed = capture.readouterr()
        return code, printed.out, printed.err

    capture = None

    def with_capture(capsys):
        nonlocal capture
        capture = capsys
        return call

    return with_capture


def test_verbs_work_against_a_server_as_they_do_here(elsewhere, served, capsys, tmp_path) -> None:
    atlas = elsewhere(capsys)
    (tmp_path / "sent.safetensors").write_bytes(to_bytes(make_circuit("by command")))
    code, out, err = atlas("import", "sent.safetensors", "--in", "commanded", "--json")
    assert code == 0, err
    circuit = json.loads(out)["loaded"][0]["circuit"]
    for arguments in (
        ["circuits", "--in", "commanded"],
        ["show", circuit],
        ["search", "cities"],
        ["paths", "feature:toy/toy-set/0/6", "logit:x", "--null-graphs", "3"],
        ["compare", "a-b", "a-c"],
        ["cypher", "MATCH (c:Circuit) RETURN count(c) > 3"],
        ["export", circuit, "--format", "circuit", "-o", "back.safetensors"],
        ["delete", circuit],
    ):
        code, out, err = atlas(*arguments, "--json")
        assert code == 0, (arguments, err)
        assert json.loads(out), arguments
    assert from_bytes((tmp_path / "back.safetensors").read_bytes()).id == circuit
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("verb", ["rebuild", "up", "serve"])
def test_what_a_server_does_not_offer_is_one_sentence(verb: str, elsewhere, capsys) -> None:
    code, out, err = elsewhere(capsys)(verb, "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert "ATLAS_SERVER" in error["hint"]
    assert "Traceback" not in err


def test_a_reader_is_refused_and_a_wrong_token_too(elsewhere, served, capsys, monkeypatch) -> None:
    atlas = elsewhere(capsys)
    monkeypatch.setenv("ATLAS_TOKEN", served.tokens["reader"])
    code, _, err = atlas("delete", "a-b", "--yes")
    assert (code, "role editor" in err) == (1, True), err
    monkeypatch.setenv("ATLAS_TOKEN", "atlas_" + "B" * 43)
    code, _, err = atlas("circuits")
    assert (code, len(err.strip().splitlines())) == (1, 1), err


def test_a_home_without_accounts_is_not_served(tmp_path) -> None:
    environment = {**os.environ, "ATLAS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "serve", "--no-ui", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 2
    assert "atlas people add NAME --role admin" in json.loads(done.stdout)["error"]["hint"]


def test_a_taken_port_is_one_sentence(served) -> None:
    port = served.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "serve", "--no-ui", "--port", port],
        capture_output=True,
        text=True,
        env=served.environment,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"Port {port}" in done.stderr
    assert "Traceback" not in done.stderr
