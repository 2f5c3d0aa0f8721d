"""Health and metrics: what monitoring asks, who may ask, and what it costs when a server is gone."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from atlas import Atlas, metrics
from atlas.cli.main import run
from atlas.errors import NotFound, StoreUnavailable
from atlas.group_records import TraceRequest
from atlas.health import health, ops_routes
from atlas.settings import Settings, load_settings

CLOSED = "bolt://127.0.0.1:1"


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=catalog_settings) as opened:
        yield opened


def value(name: str) -> float:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith(name)]
    assert len(lines) == 1, name
    return float(lines[0].rsplit(" ", 1)[1])


def test_health_counts_what_waits_and_starts_no_server(atlas: Atlas) -> None:
    atlas.enqueue_traces([TraceRequest(prompt=f"a {n}", model="toy", transcoders="toy-set") for n in range(3)])
    found = health(atlas)
    assert (found.ready, found.catalog, found.graph) == (True, "ok", "asleep")
    assert (found.queue, found.workers_alive, found.outbox) == (3, 0, 0)
    assert not atlas.settings.embedded_folder.exists()


def test_a_graph_server_that_is_gone_is_told_within_seconds_and_changes_wait(settings: Settings) -> None:
    from tests.conftest import make_circuit

    with Atlas.open(settings=settings.model_copy(update={"graph_url": CLOSED})) as atlas:
        with pytest.raises(StoreUnavailable):
            atlas.add(make_circuit())
        began = time.monotonic()
        found = health(atlas)
        assert time.monotonic() - began < 10
        assert (found.ready, found.catalog, found.graph) == (False, "ok", "down")
        assert found.outbox == 1
        metrics.watch(atlas)
        assert value("atlas_outbox_entries") == 1
        assert value("atlas_outbox_lag_seconds") >= 0


def test_a_server_that_accepts_and_says_nothing_is_down(settings: Settings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"bolt://127.0.0.1:{silent.getsockname()[1]}"
        with Atlas.open(settings=settings.model_copy(update={"graph_url": url})) as atlas:
            began = time.monotonic()
            assert health(atlas).graph == "down"
            assert time.monotonic() - began < 20


def test_a_catalog_that_is_gone_is_not_ready_and_metrics_still_answer(settings: Settings) -> None:
    with Atlas.open(settings=settings) as atlas:
        metrics.watch(atlas)
        atlas.catalog.engine.dispose()
        atlas.catalog.file.write_bytes(b"no database" * 1000)
        assert (health(atlas).ready, health(atlas).catalog) == (False, "down")
        assert value("atlas_catalog_up") == 0
        client = TestClient(Starlette(routes=ops_routes(atlas)))
        assert client.get("/healthz").status_code == 200, "the process itself lives"
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["catalog"]) == (503, "down")
        assert str(settings.home) not in answer.text


def test_verbs_are_counted_with_their_times_and_errors(atlas: Atlas) -> None:
    metrics.count_verbs()
    metrics.watch(atlas)
    before = value('atlas_verb_seconds_count{verb="collections"}') if b'verb="collections"' in metrics.render() else 0
    atlas.collections()
    with pytest.raises(NotFound):
        atlas.show("nowhere")
    assert value('atlas_verb_seconds_count{verb="collections"}') == before + 1
    assert value('atlas_verb_errors_total{error="NotFound",verb="show"}') >= 1
    assert value('atlas_jobs{state="queued"}') == 0
    atlas.enqueue_traces([TraceRequest(prompt="a b", model="toy", transcoders="toy-set")])
    assert value('atlas_jobs{state="queued"}') == 1


def test_only_a_person_or_the_scraper_reads_the_metrics(atlas: Atlas) -> None:
    settings = load_settings(metrics_token="the-scrapers-own")
    atlas.settings = atlas.settings.model_copy(update={"metrics_token": settings.metrics_token})
    atlas.add_person("reader1")
    token = atlas.new_token("reader1")
    client = TestClient(Starlette(routes=ops_routes(atlas)))

    def status(authorization: str | None) -> int:
        headers = {"Authorization": authorization} if authorization is not None else {}
        return client.get("/metrics", headers=headers).status_code

    assert status("Bearer the-scrapers-own") == 200
    assert status(f"Bearer {token.secret}") == 200
    for wrong in (None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic the-scrapers-own", f"Bearer {token.id}"):
        assert status(wrong) == 401, wrong
    atlas.revoke_token(token.id)
    assert status(f"Bearer {token.secret}") == 401


def test_without_a_setting_no_empty_token_opens_the_metrics(atlas: Atlas) -> None:
    client = TestClient(Starlette(routes=ops_routes(atlas)))
    for wrong in ("Bearer", "Bearer  ", 'Bearer ""'):
        assert client.get("/metrics", headers={"Authorization": wrong}).status_code == 401


def test_a_worker_serves_its_figures_and_a_taken_port_is_one_sentence() -> None:
    metrics.trace_ended("done", 1.5, tokens=7)
    server = metrics.start_metrics_server(0)
    try:
        port = server.server_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'atlas_worker_traces_total{outcome="done"}' in text
        assert "process_resident_memory_bytes" in text
        with pytest.raises(StoreUnavailable, match="cannot be served"):
            metrics.start_metrics_server(port)
    finally:
        server.shutdown()
        server.server_close()


def test_the_verb_for_containers_says_it_by_its_exit_code(settings: Settings, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(settings.home))
    assert run(["health"]) == 0
    assert capsys.readouterr().out.startswith("ready: catalog ok, graph asleep")
    assert run(["health", "--worker"]) == 1
    assert "NO worker of this machine lives" in capsys.readouterr().out
    monkeypatch.setenv("ATLAS_GRAPH_URL", CLOSED)
    assert run(["health", "--json"]) == 1
    assert '"graph": "down"' in capsys.readouterr().out


def test_settings_are_read_from_files_of_secrets(tmp_path, monkeypatch) -> None:
    from atlas.errors import UsageError

    (tmp_path / "password").write_text("hunter@2/\n")
    for name in ("GRAPH", "CATALOG"):
        monkeypatch.setenv(f"ATLAS_{name}_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("ATLAS_CATALOG_URL", "postgresql://atlas@db/atlas")
    found = load_settings()
    assert found.graph_password.get_secret_value() == "hunter@2/"
    assert found.resolved_catalog_url() == "postgresql://atlas:hunter%402%2F@db/atlas"
    monkeypatch.setenv("ATLAS_CATALOG_URL", "postgresql://atlas:own@db/atlas")
    assert load_settings().resolved_catalog_url() == "postgresql://atlas:own@db/atlas"
    monkeypatch.setenv("ATLAS_GRAPH_PASSWORD_FILE", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="ATLAS_GRAPH_PASSWORD_FILE cannot be read: no such file"):
        load_settings()
    monkeypatch.setenv("ATLAS_GRAPH_PASSWORD", "variable")
    monkeypatch.setenv("ATLAS_GRAPH_PASSWORD_FILE", str(tmp_path / "password"))
    assert load_settings().graph_password.get_secret_value() == "variable", "the variable itself wins"
