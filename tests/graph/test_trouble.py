"""Every failure of a graph server is one sentence that says what to do."""

from __future__ import annotations

import inspect
import socket
import time

import pytest
from neo4j import exceptions
from pydantic import SecretStr

from atlas.errors import StoreUnavailable
from atlas.graph import GraphStore
from atlas.graph.trouble import to_atlas_error
from atlas.settings import Settings


def sentence(settings: Settings) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        GraphStore.connect(settings)
    assert "\n" not in str(caught.value)
    assert "neo4j_code" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_a_server_that_is_down_is_one_sentence_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()

    error = sentence(Settings(home=tmp_path, graph_url=f"bolt://127.0.0.1:{port}"))

    assert f"127.0.0.1:{port} is not reachable" in error.message
    assert time.monotonic() - begin < 10


def test_an_unknown_host_is_named(tmp_path):
    error = sentence(Settings(home=tmp_path, graph_url="bolt://no-such-host.invalid:7687"))

    assert "no-such-host.invalid:7687, is not known" in error.message


@pytest.mark.parametrize("url", ["bolt://127.0.0.1:notaport", "neo4j://127.0.0.1:1"])
def test_an_address_that_is_none_shows_how_one_looks(tmp_path, url):
    error = sentence(Settings(home=tmp_path, graph_url=url))

    assert "bolt://host:7687" in error.hint or "not reachable" in error.message


def test_something_else_behind_the_port_is_one_sentence(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.1)
        import threading

        stop = threading.Event()

        def answer():
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert (
                "not reachable"
                in sentence(Settings(home=tmp_path, graph_url=f"bolt://127.0.0.1:{server.getsockname()[1]}")).message
            )
        finally:
            stop.set()
            thread.join()


@pytest.mark.neo4j
def test_a_wrong_password_a_wrong_database_and_tls_are_told_apart(tmp_path, neo4j_server):
    def settings(**changes):
        good = {
            "graph_url": neo4j_server.url,
            "graph_user": "neo4j",
            "graph_password": SecretStr(neo4j_server.password),
        }
        return Settings(home=tmp_path, **(good | changes))

    wrong = sentence(settings(graph_password=SecretStr("wrong")))
    assert "refused the user 'neo4j'" in wrong.message
    assert "ATLAS_GRAPH_PASSWORD" in wrong.hint
    assert "wrong" not in wrong.message
    assert "no database" in sentence(settings(graph_database="nothere")).message
    tls = sentence(settings(graph_url=neo4j_server.url.replace("bolt://", "bolt+s://")))
    assert "TLS" in tls.message


def test_every_error_of_the_driver_becomes_a_sentence():
    """Fails when the driver gains an exception that we would let through."""
    classes = [
        value
        for value in vars(exceptions).values()
        if inspect.isclass(value) and issubclass(value, exceptions.Neo4jError | exceptions.DriverError)
    ]
    assert len(classes) > 20
    for each in classes:
        if issubclass(each, exceptions.ResultError):
            error = each.__new__(each)
            error.args = ("something\nmore",)
        else:
            error = each("something\nmore")
        told = to_atlas_error(error, "bolt://x:1", "ada")
        assert isinstance(told, StoreUnavailable), each
        assert "\n" not in str(told), each


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Failed to write: No space left on device", "disk"),
        ("java.lang.OutOfMemoryError: Java heap space", "memory"),
        ("whatever else", "failed: whatever else"),
    ],
)
def test_what_the_server_says_is_understood(message, said):
    error = exceptions.Neo4jError._hydrate_neo4j(code="Neo.DatabaseError.General.UnknownError", message=message)

    assert said in to_atlas_error(error, "bolt://x:1").message
