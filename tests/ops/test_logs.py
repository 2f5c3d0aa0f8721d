"""Logs: one place sees every verb, both forms, request ids, and no secret in any of them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from atlas import Atlas, logs, observing
from atlas.authentication import sign_in, with_token
from atlas.errors import NotFound
from atlas.settings import Settings
from tests.conftest import make_circuit


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged from here on, as JSON from level info on."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.setup("json", "info", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    for name in ("atlas", "ingest", "ui"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def entries(log: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.fixture
def atlas(settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=settings.model_copy(update={"graph_url": "bolt://127.0.0.1:1"})) as opened:
        yield opened


def test_a_verb_leaves_one_entry_with_actor_seconds_and_ids(atlas: Atlas, log: io.StringIO) -> None:
    with pytest.raises(NotFound):
        atlas.show("nowhere")
    atlas.circuits()
    shown, listed = entries(log)
    assert (shown["verb"], shown["actor"], shown["circuit"]) == ("show", "tester", "nowhere")
    assert (shown["level"], shown["error"]) == ("warning", "NotFound")
    assert (listed["verb"], listed["level"]) == ("circuits", "info")
    assert 0 <= listed["seconds"] < 60
    assert "error" not in listed


def test_the_actor_of_an_entry_is_the_person(atlas: Atlas, log: io.StringIO) -> None:
    atlas.add_person("reader1")
    atlas.acting_as("reader1").circuits()
    assert entries(log)[-1]["actor"] == "reader1"


def test_a_fault_of_the_program_is_marked_and_passes_through(atlas: Atlas, log: io.StringIO) -> None:
    with pytest.raises(TypeError):
        atlas.circuits(limit="many")  # type: ignore[arg-type]
    assert entries(log)[-1]["error"] == "unexpected TypeError"


def test_every_public_verb_is_seen() -> None:
    missing = [
        name
        for name in dir(Atlas)
        if not name.startswith("_")
        and callable(getattr(Atlas, name))
        and not hasattr(getattr(Atlas, name), "__wrapped__")
        and name not in observing.NO_VERBS
    ]
    assert missing == []


def test_secrets_are_in_no_entry(atlas: Atlas, log: io.StringIO) -> None:
    password = "correct horse battery staple"
    atlas.add_person("admin1", role="admin", password=password)
    token = atlas.new_token("admin1", name="notebook")
    with_token(atlas, token.secret).circuits()
    session_id, _ = sign_in(atlas, "admin1", password)
    atlas.revoke_token(token.id)
    logger = logging.getLogger("somebody.else")
    logger.warning("postgresql://atlas:%s@host/db and Authorization: Bearer %s", "hunter2", token.secret)
    logger.warning("password=%s, {'token': '%s'}", "hunter2", token.secret)
    fields = {"password": "hunter2", "graph_password": "hunter2", "detail": {"cookie": session_id}}
    logger.warning("fields", extra=fields)
    try:
        raise ValueError("bolt://neo4j:hunter2@host")
    except ValueError:
        logger.exception("it failed")
    text = log.getvalue()
    assert len(entries(log)) >= 8
    for secret in (password, token.secret, session_id, "hunter2"):
        assert secret not in text
    assert any(entry.get("token_id") == token.id for entry in entries(log)), "an id is no secret"


def test_the_text_form_keeps_an_entry_on_one_line() -> None:
    record = logging.makeLogRecord({"name": "atlas.verbs", "msg": "show", "circuit": "a\nlevel=forged", "verb": "show"})
    assert logs.TextFormatter().format(record) == "atlas.verbs: show circuit=a\\nlevel=forged"


@pytest.mark.parametrize(
    ("given", "kept"), [(b"abc-123", True), (b"a b", False), (b"x" * 200, False), (b"\xff", False), (None, False)]
)
def test_entries_of_a_request_share_its_id(atlas: Atlas, log: io.StringIO, given: bytes | None, kept: bool) -> None:
    async def app(scope, receive, send) -> None:
        atlas.circuits()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"x-request-id", given), (b"authorization", b"Bearer hunter2")] if given else []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/circuits",
        "headers": headers,
        "query_string": b"token=hunter2",
    }
    asyncio.run(logs.RequestLog(app)(scope, None, send))
    verb, request = entries(log)
    answered = dict(sent[0]["headers"])[b"x-request-id"].decode()
    assert verb["request_id"] == request["request_id"] == answered
    assert (answered == given.decode("latin-1") if given else False) == kept
    assert (request["path"], request["status"]) == ("/api/v1/circuits", 200)
    assert "hunter2" not in log.getvalue()


def test_the_command_line_logs_to_stderr_only_when_asked(settings: Settings, monkeypatch, capsys) -> None:
    from atlas.cli.main import run

    monkeypatch.setenv("ATLAS_HOME", str(settings.home))
    assert run(["circuits", "--json"]) == 0
    assert capsys.readouterr() == ("[]\n", "")
    monkeypatch.setenv("ATLAS_LOG", "json")
    monkeypatch.setenv("ATLAS_LOG_LEVEL", "info")
    assert run(["circuits", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "[]\n"
    assert json.loads(captured.err)["verb"] == "circuits"
    monkeypatch.setenv("ATLAS_LOG", "yaml")
    assert run(["circuits"]) == 2
    assert "ATLAS_LOG" in capsys.readouterr().err


def test_the_graph_stays_out_of_what_is_logged_of_a_circuit(atlas: Atlas, log: io.StringIO) -> None:
    with pytest.raises(Exception, match="not reachable"):
        atlas.add(make_circuit("a secret prompt"), collection="toys")
    entry = entries(log)[-1]
    assert (entry["verb"], entry["collection"], entry["error"]) == ("add", "toys", "StoreUnavailable")
    assert "secret prompt" not in log.getvalue()
