"""What strangers and members try on the API: it stays up, tells nothing of itself, and changes nothing."""

from __future__ import annotations

import json
import pickle
import socket
import struct
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from atlas import Atlas
from atlas.circuit_file import to_bytes
from atlas.errors import StoreUnavailable
from atlas.http.app import make_app
from tests.conftest import make_circuit
from tests.http.conftest import FILE_LIMIT, JSON_LIMIT

pytestmark = pytest.mark.embedded
OCTETS = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}
MARKUP = """<script>alert(1)</script><img src=x onerror=alert(1)>"'`${7*7}{{7*7}}"""


def contents(served) -> tuple:
    atlas = served.local
    rows = atlas.cypher("MATCH (n) RETURN labels(n)[0] AS kind, count(n) ORDER BY kind").rows
    return rows, [row.id for row in atlas.circuits()], [(each.name, each.role) for each in atlas.people()]


def refused(answer, *statuses: int) -> dict:
    """The error of an answer with one of these statuses, which must say nothing of the server's inside."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    text = answer.text
    for inside in ("Traceback", "sqlalchemy", "sqlite", "/home", "site-packages", 'File "', " object at 0x", "bolt://"):
        assert inside not in text, text[:300]
    error = answer.json()["error"]
    assert error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    "query",
    [
        "MATCH (n) DETACH DELETE n",
        "MERGE (c:Circuit {id: 'x'}) RETURN c",
        "MATCH (c:Circuit) SET c.name = 'taken' RETURN c",
        "EXPLAIN CREATE (n) RETURN n",
        "PROFILE MATCH (n) REMOVE n.id RETURN n",
        "LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line",
        "CALL dbms.listConfig()",
        "CALL apoc.load.json('http://127.0.0.1')",
        "MATCH (n) CALL { WITH n DELETE n } RETURN 1",
        "MATCH (n) FOREACH (x IN [1] | SET n.name = 'x')",
        "DROP INDEX anything",
        "RETURN 1; MATCH (n) DETACH DELETE n",
        "/* read */ CREATE (n) // RETURN n",
        "\\u0043REATE (n)",
        "SELECT * FROM Circuit",
        "x" * 100_000,
        "",
    ],
)
def test_cypher_that_does_more_than_read_is_refused(query: str, served) -> None:
    before = contents(served)
    with served.client("admin") as client:
        refused(client.post("cypher", json={"query": query}), 422)
    assert contents(served) == before


@pytest.mark.parametrize(
    "text",
    [
        "x'}) DETACH DELETE n //",
        "x`) MATCH (n) DELETE n",
        "'; DROP TABLE circuits; --",
        MARKUP,
        "${jndi:x}",
        "a\r\nSet-Cookie: b=1",
    ],
)
def test_text_stays_text_wherever_it_is_put(text: str, served) -> None:
    with served.client("editor") as client:
        note = client.post("annotate", json={"subject": "a-b", "kind": "note", "text": text})
        assert note.status_code == 200
        assert note.json()["text"] == text.replace("\r\n", "\n") or note.json()["text"] == text
        for name, given in {
            "search": {"text": text},
            "circuits": {"text": text},
            "annotations": {"text": text},
            "paths": {"source": f"token:{text}", "target": "logit:x", "null_graphs": 0},
            "cypher": {"query": "MATCH (c:Circuit) WHERE c.name = $name RETURN c", "params": {"name": text}},
            "audit": {"subject": text, "actor": text, "verb": text},
            "define_concept": {"name": text, "features": ["toy/toy-set/0/6"]},
            "delete_concept": {"name": text},
            "jobs": {"batch": text},
        }.items():
            answer = client.post(name, json=given)
            assert answer.status_code in {200, 404, 422}, (name, answer.text)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "set-cookie" not in answer.headers
    assert len(served.local.circuits(collection="toys")) == 3


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "file:///etc/passwd", "a/../../b", ".", "~"],
)
def test_no_path_reaches_the_files_of_the_server(name: str, served) -> None:
    with served.client("admin") as client:
        for verb in ("show", "resolve", "delete"):
            refused(client.post(verb, json={"circuit": name}), 404, 409, 422)
        assert client.get(f"circuits/{name}/file").status_code in {404, 405}


@pytest.mark.parametrize(
    "folder",
    ["/etc", "../models", "./models", "~/models", "C:\\models", "a/b/c", "owner/..", "\\\\host\\share", "tests/http"],
)
def test_a_folder_is_no_model_for_those_elsewhere(folder: str, served) -> None:
    with served.client("admin") as client:
        for each in ({"model": folder, "transcoders": "owner/set"}, {"model": "owner/model", "transcoders": folder}):
            request = {"prompt": "x", **each}
            for verb in ("enqueue_traces", "estimate_traces"):
                error = refused(client.post(verb, json={"requests": [request]}), 422)
                assert "folders" in error["message"]


def test_bodies_above_the_limit_are_cut_off_early(served) -> None:
    big = json.dumps({"text": "x" * JSON_LIMIT}).encode()
    with served.client("admin") as client:
        refused(client.post("search", content=big, headers=JSON), 413)
        refused(client.post("search", content=iter([big[: len(big) // 2]] * 3), headers=JSON), 413)
        refused(client.post("circuits/file", content=bytes(FILE_LIMIT + 1), headers=OCTETS), 413)
        refused(client.post("circuits/file", content=iter([bytes(FILE_LIMIT)] * 2), headers=OCTETS), 413)
    with served.client(None) as client:
        refused(client.post("search", content=big, headers=JSON), 413)
        refused(client.post("circuits/file", content=iter([bytes(FILE_LIMIT)] * 2), headers=OCTETS), 401)
    told = b"POST /api/v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n"
    assert raw(served, told).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"text":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"text": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}",
        b'{"text": "x", "limit": 99999999999999999999999999}',
        b'{"text": NaN}',
        b'{"text": "\\u0000"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": "x", "limit": 1e400}',
        b'{"text": "x"} {"text": "y"}',
        b'{"text": "x", "limit": -1}',
        b'{"text": "x", "layers": [1, 2, 3]}',
        b'{"text": ["x"]}',
        b'{"text": null}',
        b'["x"]',
        b'"x"',
        b"null",
        b"{",
        b"\x00\x01\x02",
        b"text=x",
    ],
    ids=range(20),
)
def test_a_body_that_is_not_what_the_verb_takes_is_422(body: bytes, served) -> None:
    with served.client() as client:
        refused(client.post("search", content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "",
        "application/jsonx",
    ],
)
def test_another_content_type_is_415(kind: str, served) -> None:
    """Also what a page of another site can send without asking first."""
    with served.client() as client:
        refused(client.post("search", content=b'{"text": "x"}', headers={"Content-Type": kind}), 415)
        assert client.post("circuits/file", content=b"{}", headers=JSON).status_code == 415


def _header(**header) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _changed(blob: bytes, dtype: dict[str, str] | None = None, metadata: dict[str, str] | None = None) -> bytes:
    """A circuit file with other dtypes or metadata in its header."""
    length = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8 : 8 + length])
    for name, kind in (dtype or {}).items():
        header[name]["dtype"] = kind
    header["__metadata__"].update(metadata or {})
    return _header(**header) + blob[8 + length :]


def test_what_is_no_circuit_file_is_refused_and_leaves_nothing(served) -> None:
    good = to_bytes(make_circuit("never kept"))
    huge = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    twisted = [
        b"",
        b"x",
        pickle.dumps({"a": 1}),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
        _header(x=huge),
        _header(__metadata__={"schema_version": "1"}),
        _header(__metadata__={"schema_version": "9" * 5000}),
        _header(__metadata__={"schema_version": "999"}),
        _header(
            __metadata__={"schema_version": "1", "kinds": "[" * 5000, "sites": "[]", "slots": "[]", "record": "{}"}
        ),
        good[: len(good) // 2],
        good[:-1],
        _changed(good, dtype={"nodes.kind": "BOOL"}),
        _changed(good, dtype={"edges.slot": "I8"}),
        _changed(good, metadata={"kinds": "[" * 20_000}),
        _changed(good, metadata={"kinds": "[]"}),
        _changed(good, metadata={"record": '{"name": "\\ud800"}'}),
        bytes(range(256)) * 100,
    ]
    before = contents(served)
    with served.client("editor") as client:
        for blob in twisted:
            refused(client.post("circuits/file", content=blob, headers=OCTETS), 409, 422)
        refused(client.post("circuits/file", params={"collection": "  "}, content=good, headers=OCTETS), 422)
    assert contents(served) == before


def raw(served, request: bytes) -> bytes:
    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_crooked_requests_end_in_a_status_below_500(served) -> None:
    token = served.tokens["reader"].encode()
    for request in (
        b"GET /api/v1/about HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + token
        + b"\r\nX-Y: a\rb\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/about HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/circuits/a%0d%0aSet-Cookie:%20x=1/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + token
        + b"\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/circuits/%00/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + token
        + b"\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/circuits/%ff/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + token
        + b"\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/about HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/overview HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/overview HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/overview HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{",
        b"TRACE /api/v1/about HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"nonsense\r\n\r\n",
    ):
        answer = raw(served, request)
        lines = answer.split(b"\r\n\r\n")[0].split(b"\r\n")
        if answer:  # a connection may also be closed without a word
            assert lines[0].split()[1] < b"500", (request[:80], lines[0])
        assert not any(line.lower().startswith(b"set-cookie") for line in lines)
        assert b"Traceback" not in answer


def test_other_sites_get_no_permission_from_the_headers(served) -> None:
    with served.client("reader") as client:
        for origin in ("https://elsewhere.example", "null", served.url):
            answer = client.request(
                "OPTIONS", "overview", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
            )
            assert answer.status_code == 405
            asked = client.post("overview", json={}, headers={"Origin": origin})
            for each in (answer, asked):
                assert not [name for name in each.headers if name.startswith("access-control-")]
                assert each.headers["content-security-policy"].startswith("default-src 'none'")
                assert each.headers["cache-control"] == "no-store"


def test_a_fault_of_the_program_tells_the_log_and_not_the_caller(settings, caplog) -> None:
    with Atlas.open(settings=settings) as atlas:
        app = make_app(atlas)

        @app.get("/v1/broken")
        def broken() -> None:
            raise ZeroDivisionError(f"in {settings.home}")

        @app.get("/v1/misplaced")
        def misplaced() -> None:
            raise StoreUnavailable(f"The file {settings.home}/catalog.sqlite is gone.", "Look there.")

        with TestClient(app) as client:
            assert refused(client.get("/v1/broken"), 500)["message"].startswith("An unexpected fault")
            assert str(settings.home) not in refused(client.get("/v1/misplaced"), 503)["message"]
    assert "ZeroDivisionError" in caplog.text


def test_the_server_is_still_there_and_nothing_unexpected_is_in_its_log(served) -> None:
    assert served.process.poll() is None
    with served.remote() as remote:
        assert len(remote.circuits(collection="toys")) == 3
    log = (served.settings.home / "serve.err").read_text()
    assert "unexpected fault" not in log, log[-3000:]
    assert not any(token in log for token in served.tokens.values())
