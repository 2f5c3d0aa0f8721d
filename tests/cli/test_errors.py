"""Wrong use is exit 2, a failure exit 1; both are one sentence, with --json also {"error": {"type", "message", "hint"}}."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["show"], "Missing argument"),
        (["circuits", "--limit", "0"], "--limit"),
        (["circuits", "--limit", "many"], "--limit"),
        (["search", "x", "--layers", "5-2"], "begins after it ends"),
        (["search", "x", "--layers", "deep"], "not a range"),
        (["cypher", "RETURN 1", "--params", "{"], "not JSON"),
        (["cypher", "RETURN 1", "--params", "[1]"], "not a JSON object"),
        (["trace"], "either a PROMPT or --token-ids"),
        (["trace", "x"], "needs a model"),
        (["trace", "x", "--profile", "nobody"], "no profile"),
        (["trace", "x", "--profile", "demo", "--model", "y"], "names the model"),
        (["trace", "--profile", "demo", "--token-ids", "1,b"], "whole numbers"),
        (["export", "x", "--format", "xml", "-o", "f"], "xml"),
    ],
)
def test_wrong_use_is_exit_2_and_one_sentence(atlas_command, arguments: list[str], message: str) -> None:
    plain = atlas_command(*arguments)
    assert plain.code == 2
    assert message in plain.err.replace("\n", " ")
    assert "Traceback" not in plain.err
    assert plain.out == ""
    as_json = atlas_command(*arguments, "--json")
    assert as_json.code == 2
    assert set(as_json.json["error"]) == {"type", "message", "hint"}
    assert message in as_json.json["error"]["message"]


@pytest.mark.parametrize("verb", [["show"], ["delete", "--yes"], ["compare", "c1-aaaa"]])
def test_an_unknown_circuit_is_exit_1(atlas_command, verb: list[str]) -> None:
    result = atlas_command(*verb, "c1-ffff", "--json")
    assert result.code == 1
    assert result.json["error"]["type"] == "NotFound"
    assert result.json["error"]["hint"]


def test_an_empty_atlas_lists_nothing_and_starts_no_server(atlas_command, tmp_path) -> None:
    assert atlas_command("circuits", "--json").json == []
    assert "atlas demo" in atlas_command("circuits").out
    assert not (tmp_path / "home" / "graph" / "server.json").exists()


def test_down_is_exit_0_when_nothing_runs(atlas_command) -> None:
    assert atlas_command("down", "--json").json == {"stopped": False}


def test_a_home_that_is_a_file_is_one_sentence(atlas_command, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "file"))
    result = atlas_command("circuits", "--json")
    assert result.code == 1
    assert result.json["error"]["type"] == "StoreUnavailable"


def test_a_wrong_setting_names_the_variable(atlas_command, monkeypatch) -> None:
    monkeypatch.setenv("ATLAS_CYPHER_ROW_LIMIT", "lots")
    result = atlas_command("circuits", "--json")
    assert result.code == 2
    assert "ATLAS_CYPHER_ROW_LIMIT" in result.json["error"]["message"]


def test_a_damaged_settings_file_is_one_sentence(atlas_command, tmp_path) -> None:
    (tmp_path / "atlas.toml").write_text("profiles = [")
    result = atlas_command("circuits", "--json")
    assert result.code == 2
    assert "atlas.toml" in result.json["error"]["message"]


def test_a_graph_server_that_is_down_is_one_sentence_and_the_catalog_still_answers(atlas_command, monkeypatch) -> None:
    monkeypatch.setenv("ATLAS_GRAPH_URL", "bolt://127.0.0.1:1")
    result = atlas_command("cypher", "RETURN 1", "--json")
    assert result.code == 1
    assert result.json["error"]["type"] == "StoreUnavailable"
    assert "ATLAS_GRAPH_URL" in result.json["error"]["message"] + result.json["error"]["hint"]
    assert atlas_command("circuits", "--json").json == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "bolt://"])
def test_what_is_no_bolt_address_is_wrong_use(atlas_command, monkeypatch, url) -> None:
    monkeypatch.setenv("ATLAS_GRAPH_URL", url)
    result = atlas_command("cypher", "RETURN 1", "--json")
    assert result.code == 2
    assert "ATLAS_GRAPH_URL" in result.json["error"]["message"]


def test_no_torch_is_imported_for_help_or_circuits() -> None:
    code = (
        "import sys; from atlas.cli.main import run; run(['--help']); "
        "import ingest.load; assert 'torch' not in sys.modules and 'streamlit' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
