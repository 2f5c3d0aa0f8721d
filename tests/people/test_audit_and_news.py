"""The audit log, and what is new since one's last visit."""

from __future__ import annotations

import pytest

from atlas import Atlas
from atlas.catalog import audit, circuits
from atlas.catalog.tables import Annotation, Job, Label
from atlas.catalog.values import new_id, now
from atlas.circuit_file import to_bytes
from atlas.errors import AccessDenied, UsageError
from tests.conftest import make_circuit


def keep(atlas: Atlas, prompt: str, author: str) -> str:
    """A circuit in the catalog, without telling the graph store."""
    circuit = make_circuit(prompt)
    return atlas.catalog.write(author, lambda s: circuits.insert_circuit(s, circuit, to_bytes(circuit)).id)


def test_the_log_is_filtered_by_subject_actor_verb_and_time(atlas: Atlas, group):
    circuit = keep(atlas, "a b", "editor1")
    atlas.catalog.write("editor1", lambda s: audit.record(s, "annotate", f"{circuit}#node", kind="note"))
    begun = now()
    keep(atlas, "a c", "editor1")
    assert [row.verb for row in atlas.audit(subject=circuit)] == ["annotate", "add"]
    assert [row.verb for row in atlas.audit(subject="a-b")] == ["annotate", "add"]
    assert {row.actor for row in atlas.audit(actor="editor1")} == {"editor1"}
    assert len(atlas.audit(verb="add")) == 2
    assert len(atlas.audit(verb="add", since=begun)) == 1
    assert len(atlas.audit(limit=2)) == 2
    assert atlas.audit(subject="' OR 1=1 --") == atlas.audit(subject="%") == []


def test_a_wrong_time_or_limit_is_one_sentence(atlas: Atlas):
    for wrong in ({"since": "yesterday"}, {"since": ""}, {"limit": -1}, {"limit": 10**9}):
        with pytest.raises(UsageError):
            atlas.audit(**wrong)


def test_what_was_done_to_accounts_is_for_admins_and_whom_it_concerns(group):
    group["admin"].new_token("editor1")
    group["reader"].new_token()
    seen = {(row.verb, row.subject) for row in group["reader"].audit()}
    assert seen == {("add_person", "reader1"), ("new_token", "reader1")}
    assert len(group["admin"].audit()) == 5


def test_every_change_of_an_account_is_in_the_log_with_who_did_it(atlas: Atlas, group):
    token = group["admin"].new_token("reader1", name="notebook")
    group["admin"].change_person("reader1", role="editor", email="r@example.org")
    group["admin"].change_person("reader1", role="editor")  # changes nothing
    group["reader"].revoke_token(token.id)
    group["admin"].change_person("reader1", disabled=True)
    log = [(row.actor, row.verb, row.subject) for row in reversed(atlas.audit())][3:]
    assert log == [
        ("admin1", "new_token", "reader1"),
        ("admin1", "change_person", "reader1"),
        ("reader1", "revoke_token", "reader1"),
        ("admin1", "change_person", "reader1"),
    ]
    assert "r@example.org" not in repr(atlas.audit())


def fill(atlas: Atlas) -> None:
    keep(atlas, "a b", "editor1")
    keep(atlas, "a c", "reader1")
    time = now()
    label = {"feature": "m/s/0/1", "text": "x", "method": "person", "rank": 0, "parameters": {}, "created_at": time}
    note = {"subject_kind": "concept", "subject": "concept:x", "kind": "note", "action": "add", "text": "<b>hm</b>"}
    job = {
        "kind": "trace", "arguments": {}, "title": "a b", "group_key": "", "priority": 0, "attempts": 1, "done": 1,
        "total": 1, "step": "", "created_at": time, "changed_at": time,
    }  # fmt: skip

    def work(session) -> None:
        session.add(Label(id=new_id(), author="editor1", examples=[], promoted=[], suppressed=[], **label))
        for author in ("editor1", "reader1"):
            id = new_id()
            session.add(Annotation(id=id, thread=id, members=[], author=author, created_at=time, **note))
            session.add(
                Job(
                    id=new_id(),
                    author=author,
                    state="failed",
                    finished_at=time,
                    error={"message": "No.", "hint": ""},
                    **job,
                )
            )
            session.add(Job(id=new_id(), author=author, state="queued", **job))

    atlas.catalog.write("test", work)


def test_news_are_what_others_added_and_ones_own_jobs_that_ended(atlas: Atlas, group):
    fill(atlas)
    news = group["reader"].news()
    assert news.since is None
    assert ([row.prompt for row in news.circuits], news.circuit_count, news.labels) == (["a b"], 1, 1)
    assert [row.author for row in news.annotations] == ["editor1"]
    assert [(row.author, row.state, row.error) for row in news.jobs] == [("reader1", "failed", "No.")]


def test_a_visit_makes_everything_old_for_that_person_only(atlas: Atlas, group):
    fill(atlas)
    group["reader"].visited()
    news = group["reader"].news()
    assert news.since is not None
    assert (news.circuits, news.circuit_count, news.labels, news.annotations, news.jobs) == ([], 0, 0, [], [])
    assert group["editor"].news().circuit_count == 1
    assert group["reader"].news(since="2000-01-01").circuit_count == 1
    keep(atlas, "a d", "editor1")
    assert [row.prompt for row in group["reader"].news().circuits] == ["a d"]


def test_the_local_person_has_a_last_visit_too(atlas: Atlas):
    keep(atlas, "a b", "somebody")
    assert atlas.news().circuit_count == 1
    atlas.visited()
    assert atlas.news().circuit_count == 0
    with Atlas.open(settings=atlas.settings) as again:
        assert again.news().circuit_count == 0


def test_a_visit_is_not_in_the_log_and_not_for_the_disabled(atlas: Atlas, group):
    before = len(atlas.audit())
    group["reader"].visited()
    assert len(atlas.audit()) == before
    atlas.change_person("reader1", disabled=True)
    with pytest.raises(AccessDenied):
        group["reader"].visited()
