"""`atlas people` and `atlas audit` as a user sees them."""

from __future__ import annotations

import io
import sys

import pytest

from tests.cli.conftest import atlas_command  # noqa: F401
from tests.people.conftest import PASSWORD


@pytest.fixture
def stdin(monkeypatch):
    def give(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return give


def test_a_first_admin_is_added_with_a_password_from_stdin(atlas_command, stdin):  # noqa: F811
    assert "no account" in atlas_command("people").out
    stdin(PASSWORD + "\n")
    added = atlas_command("people", "add", "admin1", "--role", "admin", "--password-stdin", "--json")
    assert (added.code, added.json["role"], added.json["has_password"], added.json["token"]) == (0, "admin", True, None)
    assert PASSWORD not in added.out + added.err
    listed = atlas_command("people", "--json")
    assert [(row["name"], row["created_by"]) for row in listed.json] == [("admin1", "tester")]


def test_a_token_is_printed_alone_on_stdout_so_that_it_can_be_piped(atlas_command):  # noqa: F811
    atlas_command("people", "add", "reader1")
    made = atlas_command("people", "token", "reader1", "--name", "notebook", "--days", "30")
    assert made.out.strip().startswith("atlas_")
    assert len(made.out.split()) == 1
    listed = atlas_command("people", "tokens", "--json").json
    assert [(row["name"], row["revoked_at"]) for row in listed] == [("notebook", None)]
    assert made.out.strip() not in atlas_command("people", "tokens").out
    assert atlas_command("people", "revoke", listed[0]["id"]).code == 0
    assert "revoked" in atlas_command("people", "tokens", "reader1").out


def test_roles_and_disabling(atlas_command):  # noqa: F811
    atlas_command("people", "add", "reader1", "--token")
    assert atlas_command("people", "role", "Reader1", "editor", "--json").json["role"] == "editor"
    assert atlas_command("people", "disable", "reader1", "--json").json["disabled"] is True
    assert atlas_command("people", "enable", "reader1", "--json").json["disabled"] is False
    assert atlas_command("people", "email", "reader1", "r@example.org", "--json").json["email"] == "r@example.org"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("people", "add", "admin1"), 2, "already"),
        (("people", "add", "x", "--role", "boss"), 2, "no role"),
        (("people", "disable", "admin1"), 2, "last admin"),
        (("people", "role", "admin1", "reader"), 2, "last admin"),
        (("people", "disable", "nobody"), 1, "no account"),
        (("people", "revoke", "nothing"), 1, "no access token"),
        (("people", "token", "admin1", "--days", "0"), 2, "days"),
        (("people", "frobnicate"), 2, "frobnicate"),
        (("audit", "--since", "yesterday"), 2, "not a time"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(atlas_command, arguments, code, says):  # noqa: F811
    atlas_command("people", "add", "admin1", "--role", "admin")
    outcome = atlas_command(*arguments, "--json")
    assert outcome.code == code
    assert says in outcome.json["error"]["message"]
    assert "Traceback" not in outcome.err


def test_a_password_that_is_too_short_or_missing_is_one_sentence(atlas_command, stdin):  # noqa: F811
    for text in ("short\n", "\n", ""):
        stdin(text)
        outcome = atlas_command("people", "add", "reader1", "--password-stdin", "--json")
        assert (outcome.code, outcome.json["error"]["type"]) == (2, "UsageError")
    assert atlas_command("people", "--json").json == []


def test_no_verb_takes_a_password_as_an_argument(atlas_command):  # noqa: F811
    for verb in ("add", "password"):
        assert atlas_command("people", verb, "reader1", "--password", PASSWORD).code == 2


def test_the_log_lists_what_was_done(atlas_command):  # noqa: F811
    atlas_command("people", "add", "reader1")
    atlas_command("people", "role", "reader1", "editor")
    rows = atlas_command("audit", "--subject", "reader1", "--json").json
    assert [(row["actor"], row["verb"]) for row in rows] == [("tester", "change_person"), ("tester", "add_person")]
    assert "change_person" in atlas_command("audit", "--verb", "change_person").out
