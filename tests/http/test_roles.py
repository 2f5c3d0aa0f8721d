"""What each role may do over HTTP is what the verbs allow, whatever the caller says about itself."""

from __future__ import annotations

import pytest

from atlas.circuit_file import to_bytes
from atlas.http.verbs import VERBS
from tests.conftest import make_circuit
from tests.http.test_remote import ARGUMENTS

pytestmark = pytest.mark.embedded


def given_for(name: str, served) -> dict:
    """Arguments that would work for an admin, as JSON."""
    verb = VERBS[name]
    return verb.arguments(**ARGUMENTS[name](served.local, f"by {name}")).model_dump(mode="json", exclude_unset=True)


@pytest.mark.parametrize("name", list(VERBS))
def test_without_a_token_that_works_every_verb_answers_401(name: str, served) -> None:
    headers = [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"}]
    with served.client(None) as client:
        for each in headers:
            answer = client.post(name, json={}, headers=each)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "AccessDenied"


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.row.role != "reader"])
def test_a_reader_may_not_write(name: str, served) -> None:
    if name == "put_labels":
        given = {"labels": [{"feature": "toy/toy-set/0/6", "text": "forbidden", "method": "tokens"}]}
    else:
        given = given_for(name, served)
    with served.client("reader") as client:
        answer = client.post(name, json=given)
    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["type"] == "AccessDenied"


@pytest.mark.parametrize("role", ["reader", "editor"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("add_person", {"name": "friend1", "role": "admin"}),
        ("change_person", {"name": "reader1", "role": "admin"}),
        ("change_person", {"name": "editor1", "role": "admin"}),
        ("change_person", {"name": "admin1", "disabled": True}),
        ("change_person", {"name": "admin1", "password": "mine now, surely"}),
        ("change_person", {"name": "admin1", "email": "elsewhere@example.org"}),
        ("new_token", {"person": "admin1"}),
        ("new_token", {"person": "ADMIN1"}),
        ("tokens", {"person": "admin1"}),
        ("enqueue", {"kind": "rebuild", "arguments": {}}),
    ],
)
def test_nobody_raises_a_role_or_takes_over_an_account(role: str, name: str, given: dict, served) -> None:
    before = served.local.people()
    with served.client(role) as client:
        assert client.post(name, json=given).status_code == 403
    after = served.local.people()
    assert [(each.name, each.role, each.disabled, each.tokens, each.email) for each in after] == [
        (each.name, each.role, each.disabled, each.tokens, each.email) for each in before
    ]


def test_somebody_elses_token_is_not_found(served) -> None:
    token = served.local.new_token("admin1", "kept")
    with served.client("editor") as client:
        assert client.post("revoke_token", json={"token_id": token.id}).status_code == 404
    kept = [each for each in served.local.tokens("admin1") if each.id == token.id]
    assert kept[0].revoked_at is None


def test_who_acts_is_never_taken_from_the_request(served) -> None:
    claims = {
        "X-Actor": "admin1",
        "X-Forwarded-User": "admin1",
        "X-Remote-User": "admin1",
        "X-Role": "admin",
        "From": "admin1",
    }
    forged = {"Cookie": "atlas-sign-in=admin1; actor=admin1", **claims}
    with served.client("reader", follow_redirects=False) as client:
        assert client.post("whoami", json={}, headers=forged).json()["name"] == "reader1"
        assert client.post("create_collection", json={"name": "forged"}, headers=forged).status_code == 403
        for key in ("actor", "author", "created_by", "identity", "role", "self", "atlas"):
            answer = client.post("create_collection", json={"name": "forged", key: "admin1"})
            assert answer.status_code == 422, key
    with served.client("editor") as client:
        made = client.post("annotate", json={"subject": "a-b", "kind": "note", "text": "signed"}, headers=forged).json()
    assert made["author"] == "editor1"


def test_a_circuit_that_names_another_author_is_signed_by_the_sender(served) -> None:
    circuit = make_circuit("claimed by another")
    circuit.record.provenance.created_by = "admin1"
    with served.client("editor") as client:
        headers = {"Content-Type": "application/octet-stream"}
        added = client.post("circuits/file", content=to_bytes(circuit), headers=headers)
        assert added.status_code == 200, added.text
        detail = client.post("show", json={"circuit": circuit.id}).json()
    assert detail["created_by"] == "editor1"
    served.local.delete(circuit.id)


def test_files_need_a_token_and_uploads_a_role(served) -> None:
    blob = to_bytes(make_circuit("not wanted"))
    headers = {"Content-Type": "application/octet-stream"}
    with served.client(None) as client:
        assert client.post("circuits/file", content=blob, headers=headers).status_code == 401
        assert client.get(f"circuits/{served.circuits['a b']}/file").status_code == 401
        assert client.get("about").status_code == 401
    with served.client("reader") as client:
        assert client.post("circuits/file", content=blob, headers=headers).status_code == 403
        assert client.post("circuits/a-b/brought", json={"pins": ["feature/0/1/6"]}).status_code == 403
        assert client.get(f"circuits/{served.circuits['a b']}/file").status_code == 200
