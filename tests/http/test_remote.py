"""The atlas of a server gives the answers that the atlas itself gives, verb by verb."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest

from atlas import Atlas
from atlas.causal_records import InterventionRow, PatchRequest, PromptPair, VerifyRequest
from atlas.errors import (
    AccessDenied,
    InputRejected,
    NotFound,
    QueryRefused,
    SchemaMismatch,
    StoreUnavailable,
    UsageError,
)
from atlas.group_records import TraceRequest
from atlas.http.verbs import VERBS
from atlas.records import Annotations, ImportedLabel, ImportedSupernode, NewLabel
from atlas.remote import IDLE_SECONDS
from tests.causal.results import FIRST, SECOND, ablated, cut, verification
from tests.conftest import make_circuit

pytestmark = pytest.mark.embedded

KEY = "toy/toy-set/0/6"
REQUEST = TraceRequest(prompt="the opposite of hot is", model="owner/model", transcoders="owner/set")
Given = dict[str, Any]
# Arguments of every verb; `mark` differs between the two calls of a write, so that both do something new.
ARGUMENTS: dict[str, Callable[[Atlas, str], Given]] = {
    "overview": lambda atlas, mark: {},
    "circuits": lambda atlas, mark: {"text": "a", "collection": "toys"},
    "resolve": lambda atlas, mark: {"circuit": "a-b"},
    "find_trace": lambda atlas, mark: {"trace_key": atlas.load("a-b").trace_key},
    "show": lambda atlas, mark: {"circuit": "a-b"},
    "edge": lambda atlas, mark: {"circuit": "a-b", "source": "feature/0/1/6", "target": "feature/1/1/7"},
    "node_labels": lambda atlas, mark: {"circuit_id": "a-b"},
    "feature": lambda atlas, mark: {"key": KEY},
    "features_without_label": lambda atlas, mark: {"model": "toy"},
    "concepts": lambda atlas, mark: {},
    "search": lambda atlas, mark: {"text": "cities", "layers": (0, 1)},
    "paths": lambda atlas, mark: {"source": f"feature:{KEY}", "target": "logit:x", "null_graphs": 5},
    "compare": lambda atlas, mark: {"a": "a-b", "b": "a-c"},
    "cypher": lambda atlas, mark: {
        "query": "MATCH (c:Circuit {name: $name}) RETURN c.id, c.nodes, 0.1, null, [1, 'é'], {a: true}",
        "params": {"name": "a-b"},
    },
    "interventions": lambda atlas, mark: {"circuit": "a-b", "node": FIRST, "limit": len(_tested(atlas))},
    "intervention": lambda atlas, mark: {"intervention_id": _tested(atlas)[0].id},
    "edge_marks": lambda atlas, mark: {"circuit": _tested(atlas)[0].circuit},
    "measurements": lambda atlas, mark: {"circuit": _tested(atlas)[0].circuit, "kind": "verification"},
    "annotations": lambda atlas, mark: {"text": "looked at"},
    "collections": lambda atlas, mark: {},
    "jobs": lambda atlas, mark: {"state": "queued"},
    "job": lambda atlas, mark: {"job_id": atlas.jobs()[0].id},
    "job_counts": lambda atlas, mark: {},
    "workers": lambda atlas, mark: {},
    "estimate_traces": lambda atlas, mark: {"requests": [REQUEST]},
    "whoami": lambda atlas, mark: {},
    "people": lambda atlas, mark: {},
    "tokens": lambda atlas, mark: {"person": "editor1"},
    "audit": lambda atlas, mark: {"verb": "define concept", "limit": 5},
    "news": lambda atlas, mark: {"since": "2026-01-01"},
    "visited": lambda atlas, mark: {},
    "delete": lambda atlas, mark: {"circuit": atlas.add(make_circuit(f"gone {mark}")).circuit},
    "put_labels": lambda atlas, mark: {
        "labels": [NewLabel(feature=KEY, text=f"places {mark}", method="tokens", score=float("nan"))]
    },
    "define_concept": lambda atlas, mark: {"name": f"towns {mark}", "features": [KEY]},
    "delete_concept": lambda atlas, mark: {"name": atlas.define_concept(f"gone {mark}", [KEY]).name},
    "add_intervention": lambda atlas, mark: {"result": ablated("a-c", prompt=mark), "battery": mark},
    "add_interventions": lambda atlas, mark: {"results": [ablated("a-c"), cut("a-c", FIRST, SECOND)]},
    "add_measurement": lambda atlas, mark: {
        "circuit": "a-c",
        "kind": "verification",
        "document": verification("a-c", float("nan")),
    },
    "annotate": lambda atlas, mark: {"subject": "a-b#feature/0/1/6", "kind": "note", "text": f"looked at {mark}"},
    "change_annotation": lambda atlas, mark: {"annotation_id": _note(atlas), "text": f"changed {mark}"},
    "remove_annotation": lambda atlas, mark: {"annotation_id": _note(atlas)},
    "undo": lambda atlas, mark: {"annotation_id": _note(atlas)},
    "create_collection": lambda atlas, mark: {"name": f"made {mark}"},
    "collect": lambda atlas, mark: {"collection": f"kept {mark}", "circuits": ["a-b", "a-c"]},
    "uncollect": lambda atlas, mark: {"collection": _collection(atlas, f"out {mark}"), "circuits": ["a-b", "a-c"]},
    "rename_collection": lambda atlas, mark: {"old": _collection(atlas, f"old {mark}"), "new": f"new {mark}"},
    "delete_collection": lambda atlas, mark: {"name": _collection(atlas, f"away {mark}")},
    "enqueue_traces": lambda atlas, mark: {"requests": [REQUEST, REQUEST], "batch": f"batch {mark}"},
    "enqueue": lambda atlas, mark: {"kind": "label", "arguments": {"model": "toy"}},
    "cancel_job": lambda atlas, mark: {"job_id": _job(atlas)},
    "retry_job": lambda atlas, mark: {"job_id": atlas.cancel_job(_job(atlas)).id},
    "cancel_batch": lambda atlas, mark: {"batch": _batch(atlas, mark)},
    "retry_batch": lambda atlas, mark: {"batch": _cancelled(atlas, mark)},
    "new_token": lambda atlas, mark: {"person": "reader1", "name": mark, "days": 2},
    "revoke_token": lambda atlas, mark: {"token_id": atlas.new_token("reader1").id},
    "change_person": lambda atlas, mark: {"name": _person(atlas, f"changed-{mark}"), "role": "editor"},
    "add_person": lambda atlas, mark: {"name": f"added-{mark}", "password": "correct horse battery"},
}


def _tested(atlas: Atlas) -> list[InterventionRow]:
    """Interventions in `a-b`; made once."""
    found = atlas.interventions("a-b")
    if not found:
        atlas.add_interventions([ablated("a-b"), cut("a-b", FIRST, SECOND, mark="refuted")], battery="b")
        atlas.add_measurement("a-b", "verification", verification("a-b"))
    return found or atlas.interventions("a-b")


def _note(atlas: Atlas) -> str:
    return atlas.annotate("a-b", "note", "first").id


def _collection(atlas: Atlas, name: str) -> str:
    atlas.collect(name, ["a-b"])
    return name


def _job(atlas: Atlas) -> str:
    return atlas.enqueue_traces([REQUEST]).jobs[0]


def _batch(atlas: Atlas, mark: str) -> str:
    atlas.enqueue_traces([REQUEST], batch=f"stopped {mark}")
    return f"stopped {mark}"


def _cancelled(atlas: Atlas, mark: str) -> str:
    atlas.enqueue_traces([REQUEST], batch=f"again {mark}")
    atlas.cancel_batch(f"again {mark}")
    return f"again {mark}"


def _person(atlas: Atlas, name: str) -> str:
    return atlas.add_person(name).name


VARYING = {"id", "thread", "undoes", "deleted", "jobs", "secret", "waiting", "until"}  # ids and what other calls change


def settled(value: Any, mark: str) -> Any:
    """A result without what differs between two calls: who, when, ids, `mark`."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, dict):
        kept = {
            key: item for key, item in value.items() if key not in VARYING and not re.search("_at$|author|_by$", key)
        }
        return {key: settled(item, mark) for key, item in kept.items()}
    if isinstance(value, list):
        return [settled(item, mark) for item in value]
    return value.replace(mark, "MARK") if isinstance(value, str) else value


def test_every_verb_of_the_table_is_tried_here() -> None:
    assert set(ARGUMENTS) == set(VERBS)


@pytest.mark.parametrize("name", [verb.name for verb in VERBS.values() if verb.row.kind == "question"])
def test_a_question_has_the_same_answer(name: str, served) -> None:
    with served.remote("admin") as remote:
        ours = served.local.acting_as("admin1")
        if name in {"jobs", "job"}:
            _job(remote)
        given = ARGUMENTS[name](ours, "")
        here, there = getattr(ours, name)(**given), getattr(remote, name)(**given)
    if name in {"news", "tokens", "people"}:  # hold the time of asking
        here, there = settled(here, "-"), settled(there, "-")
    assert there == here
    assert type(there) is type(here)
    assert repr(there) == repr(here)


@pytest.mark.parametrize("name", [verb.name for verb in VERBS.values() if verb.row.kind == "write"])
def test_a_write_has_the_same_answer_and_is_signed_by_the_owner_of_the_token(name: str, served) -> None:
    with served.remote("admin") as remote:
        ours = served.local.acting_as("admin1")
        here = getattr(ours, name)(**ARGUMENTS[name](ours, "l-here"))
        there = getattr(remote, name)(**ARGUMENTS[name](remote, "l-there"))
    assert settled(there, "l-there") == settled(here, "l-here")
    assert type(there) is type(here)
    if name != "visited":
        assert served.local.audit(limit=1)[0].actor == "admin1"


def test_causal_work_is_queued_from_elsewhere_but_folders_and_code_are_not(served) -> None:
    pair = PromptPair(clean="./a/b gave", corrupted="~/c gave", answer=" it")
    with served.remote("editor") as remote:
        queued = [
            remote.enqueue("verify", VerifyRequest(circuit="a-b", prompts=["/he/she", "../it"])),
            remote.enqueue("patch", PatchRequest(model="owner/model", pairs=[pair])),
        ]
        for name in ("/etc", "../models/x", "~"):
            with pytest.raises(InputRejected, match="not the name of a model"):
                remote.enqueue("patch", PatchRequest(model=name, pairs=[pair]))
        with pytest.raises(UsageError, match="Python code"):
            remote.enqueue("patch", PatchRequest(model="owner/model", pairs=[pair], metric="function:os:system"))
        assert [remote.job(one.jobs[0]).author for one in queued] == ["editor1", "editor1"]


def test_circuits_travel_as_files_and_come_back_as_they_were(served) -> None:
    drawn = make_circuit("sent over", (0.1, float(np.float32(1) / 3), -7.5))
    notes = Annotations(
        labels=[ImportedLabel(node_key="feature/0/1/6", text="brought along")],
        supernodes=[ImportedSupernode(name="both", node_keys=["feature/0/1/6", "feature/1/1/7"])],
    )
    with served.remote("editor") as remote:
        added = remote.add(drawn, annotations=notes, collection="sent")
        again = remote.add(drawn, annotations=notes, collection="sent")
        loaded = remote.load("sent-over")
        detail = remote.show(added.circuit)
    assert (added.circuit, added.already, again.already) == (drawn.id, False, True)
    assert loaded.id == drawn.id
    assert np.array_equal(loaded.edges.weight, drawn.edges.weight)
    assert loaded is not served.local.load(drawn.id)
    assert (detail.created_by, detail.collections) == ("editor1", ["sent"])
    assert [(group.name, len(group.node_keys)) for group in detail.supernodes] == [("both", 2)]
    served.local.delete(drawn.id)


def test_tables_become_data_frames(served) -> None:
    with served.remote() as remote:
        assert list(remote.circuits(collection="toys").to_pandas()["name"]) == ["d-e-f", "a-c", "a-b"]
        assert remote.cypher("RETURN 1 AS one").to_pandas()["one"].tolist() == [1]


def test_errors_come_back_as_the_classes_and_sentences_they_are(served) -> None:
    with served.remote() as remote:
        for kind, ask in {
            NotFound: lambda atlas: atlas.show("nowhere"),
            QueryRefused: lambda atlas: atlas.cypher("CREATE (n) RETURN n"),
            UsageError: lambda atlas: atlas.search("x", layers=(5, 2), limit=-3),
        }.items():
            with pytest.raises(kind) as here:
                ask(served.local)
            with pytest.raises(kind) as there:
                ask(remote)
            if kind is not UsageError:  # the bounds of arguments are told before the verb is asked
                assert str(there.value) == str(here.value)


def test_what_needs_the_stores_themselves_says_so_in_one_sentence(served) -> None:
    with served.remote("admin") as remote:
        for ask in (
            lambda: remote.rebuild(),
            lambda: remote.graph,
            lambda: remote.catalog,
            lambda: remote.encoder,
            lambda: remote.acting_as("editor1"),
        ):
            with pytest.raises(UsageError, match="works on the machine that keeps the atlas"):
                ask()


@pytest.mark.parametrize(
    ("address", "token", "kind", "sentence"),
    [
        ("http://127.0.0.1:9", "atlas_x", StoreUnavailable, "cannot be reached"),
        ("https://localhost:9", "atlas_x", StoreUnavailable, "cannot be reached"),
        ("http://example.org", "atlas_x", UsageError, "unencrypted"),
        ("https://someone:secret@example.org", "atlas_x", UsageError, "not the address"),
        ("https://", "atlas_x", UsageError, "not the address"),
        ("https://host:99999", "atlas_x", UsageError, "not the address"),
        ("http://127.0.0.1:9", "", AccessDenied, "wants an access token"),
        ("http://127.0.0.1:9", "atlas_x\r\nX-Role: admin", UsageError, "characters"),
    ],
)
def test_an_address_or_token_that_cannot_work_is_one_sentence(address, token, kind, sentence) -> None:
    with pytest.raises(kind, match=sentence) as told:
        Atlas.open(address, token=token)
    assert token == "" or token not in str(told.value)
    assert told.value.hint


class Answering(BaseHTTPRequestHandler):
    """Something that is no atlas of this version: answers `answer` with `headers`."""

    answer: ClassVar[bytes] = b""
    headers_sent: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        self.send_response(200)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "headers", "kind", "sentence"),
    [
        (b"<html>hello</html>", {}, StoreUnavailable, "is no Circuit Atlas server"),
        (b"{}", {"Circuit-Atlas-Version": version("circuit-atlas")}, StoreUnavailable, "is no Circuit Atlas server"),
        (b"{}", {"Circuit-Atlas-Version": "9.9.1"}, SchemaMismatch, "is circuit-atlas 9.9.1, this is"),
    ],
)
def test_another_server_or_version_is_one_sentence(answer, headers, kind, sentence) -> None:
    handler = type("Handler", (Answering,), {"answer": answer, "headers_sent": headers})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(kind, match=sentence):
            Atlas.open(f"http://127.0.0.1:{server.server_port}", token="atlas_x")
        server.shutdown()


def test_a_wrong_and_a_revoked_token_are_refused_also_in_the_middle(served) -> None:
    with pytest.raises(AccessDenied):
        Atlas.open(served.url, token="atlas_" + "A" * 43)
    token = served.local.new_token("reader1")
    with Atlas.open(served.url, token=token.secret) as remote:
        assert remote.overview().circuits
        served.local.revoke_token(token.id)
        with pytest.raises(AccessDenied, match="revoked"):
            remote.overview()


def test_a_disabled_account_is_refused_in_the_middle(served) -> None:
    served.local.add_person("leaver1", "editor")
    with Atlas.open(served.url, token=served.local.new_token("leaver1").secret) as remote:
        remote.annotate("a-b", "note", "still here")
        served.local.change_person("leaver1", disabled=True)
        with pytest.raises(AccessDenied, match="disabled"):
            remote.annotate("a-b", "note", "gone")


@pytest.mark.slow
def test_the_server_keeps_an_idle_connection_longer_than_any_client_uses_it_again(served) -> None:
    host, port = urlsplit(served.url).hostname, urlsplit(served.url).port
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    assert connection.sock is not None
    connection.sock.settimeout(3 * IDLE_SECONDS)
    with pytest.raises(TimeoutError):  # nothing comes, not the end either
        connection.sock.recv(1, socket.MSG_PEEK)
