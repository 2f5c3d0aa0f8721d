"""Accounts and roles: who may be added, changed, and by whom."""

from __future__ import annotations

import threading

import pytest

from atlas import Atlas
from atlas.errors import AccessDenied, AtlasError, NotFound, UsageError
from tests.people.conftest import PASSWORD


def test_on_a_laptop_the_local_person_is_admin_and_in_no_table(atlas: Atlas):
    me = atlas.whoami()
    assert (me.name, me.role) == ("tester", "admin")
    assert atlas.people() == []


def test_an_account_is_added_listed_and_signed_by_who_added_it(atlas: Atlas):
    added = atlas.add_person("  reader1 ", email=" Reader1@Example.org ")
    assert (added.name, added.role, added.email, added.has_password) == (
        "reader1",
        "reader",
        "reader1@example.org",
        False,
    )
    assert added.created_by == "tester"
    assert atlas.people() == [added]


def test_a_name_that_cannot_be_seen_is_refused_and_nothing_is_kept(atlas: Atlas):
    for name in ("", "   ", "x" * 65, "a\u202eb", "a\u200bb", "a\nb", "a\x00b", "a  b", "\ud800", "\x1b[31m"):
        with pytest.raises(UsageError):
            atlas.add_person(name)
    assert atlas.people() == []


def test_a_name_may_have_any_characters_that_can_be_seen(atlas: Atlas):
    for name in ("<b>x</b>", "O'Reader", "読者", "a.b-c_d", "x" * 64, "reader; DROP TABLE people"):
        assert atlas.add_person(name).name == name
        assert atlas.acting_as(name).whoami().name == name


def test_names_that_differ_in_capitals_or_width_only_are_one(atlas: Atlas):
    atlas.add_person("reader1")
    for again in ("Reader1", "READER1", " reader1", "ｒｅａｄｅｒ１"):
        with pytest.raises(UsageError, match="already"):
            atlas.add_person(again)
        assert atlas.change_person(again, role="editor").name == "reader1"


def test_one_name_added_by_many_at_once_is_one_account(atlas: Atlas):
    outcomes: list[str] = []

    def add(name: str) -> None:
        try:
            outcomes.append(atlas.add_person(name).name)
        except UsageError:
            outcomes.append("refused")

    threads = [threading.Thread(target=add, args=(name,)) for name in ("who", "Who", "wHo", "WHO")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 3
    assert len(atlas.people()) == 1


def test_a_password_that_will_not_do_is_refused_and_the_account_not_made(atlas: Atlas):
    for password in ("", "short", "x" * 1025, "atlas_" + "A" * 43):
        with pytest.raises(UsageError, match=r"password|token"):
            atlas.add_person("reader1", password=password)
    assert atlas.people() == []


def test_what_is_no_email_address_is_refused(atlas: Atlas):
    for email in ("nobody", "a@b", "a b@c.de", "a@b.de, c@d.ef", "<x>@b.de", "a@" + "b" * 260 + ".de"):
        with pytest.raises(UsageError, match="e-mail"):
            atlas.add_person("reader1", email=email)


def test_an_email_address_belongs_to_one_account_and_can_be_removed(atlas: Atlas):
    atlas.add_person("reader1", email="r@example.org")
    atlas.add_person("reader2")
    with pytest.raises(UsageError, match="'reader1'"):
        atlas.change_person("reader2", email="R@example.org")
    assert atlas.change_person("reader1", email="").email is None
    assert atlas.change_person("reader2", email="r@example.org").email == "r@example.org"


def test_an_unknown_role_or_account_is_one_sentence(atlas: Atlas):
    with pytest.raises(UsageError, match="'boss'"):
        atlas.add_person("reader1", role="boss")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="'nobody'"):
        atlas.change_person("nobody", disabled=True)


def test_the_last_enabled_admin_can_be_neither_disabled_nor_demoted(atlas: Atlas):
    atlas.add_person("admin1", "admin")
    atlas.add_person("admin2", "admin")
    atlas.change_person("admin2", disabled=True)
    for change in ({"disabled": True}, {"role": "editor"}):
        with pytest.raises(UsageError, match="last admin"):
            atlas.change_person("admin1", **change)
    atlas.change_person("admin2", disabled=False)
    assert atlas.change_person("admin1", role="reader").role == "reader"


def test_two_admins_who_demote_each_other_at_once_leave_one(atlas: Atlas):
    for name in ("admin1", "admin2"):
        atlas.add_person(name, "admin")
    start, outcomes = threading.Barrier(2), []

    def demote(by: str, whom: str) -> None:
        start.wait()
        try:
            outcomes.append(atlas.acting_as(by).change_person(whom, role="reader").name)
        except AtlasError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=demote, args=pair) for pair in (("admin1", "admin2"), ("admin2", "admin1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([row for row in atlas.people() if row.role == "admin"]) == 1
    assert len(outcomes) == 2


def test_only_admins_add_change_and_see_everything(group: dict[str, Atlas]):
    for role in ("reader", "editor"):
        atlas = group[role]
        attempts = [
            lambda a: a.add_person("x1", "admin"),
            lambda a: a.change_person("reader1", role="admin"),
            lambda a: a.change_person("editor1", role="admin"),
            lambda a: a.change_person("admin1", disabled=True),
            lambda a: a.change_person("admin1", password=PASSWORD),
            lambda a: a.change_person(a.actor, email="own@example.org"),
            lambda a: a.change_person(a.actor, password=PASSWORD, role="admin"),
            lambda a: a.new_token("admin1"),
            lambda a: a.tokens("admin1"),
        ]
        for attempt in attempts:
            with pytest.raises(AccessDenied):
                attempt(atlas)
    assert {row.name: row.role for row in group["admin"].people()} == {
        "admin1": "admin",
        "editor1": "editor",
        "reader1": "reader",
    }
    assert all(not row.tokens for row in group["admin"].people())


def test_others_email_addresses_and_ways_to_sign_in_are_for_admins(group: dict[str, Atlas]):
    group["admin"].change_person("admin1", email="admin1@example.org")
    group["admin"].change_person("reader1", email="reader1@example.org")
    seen = {row.name: row.email for row in group["reader"].people()}
    assert seen == {"admin1": None, "editor1": None, "reader1": "reader1@example.org"}
    assert {row.name: row.email for row in group["admin"].people()}["admin1"] == "admin1@example.org"


def test_a_role_counts_from_the_next_write_on(group: dict[str, Atlas]):
    group["admin"].change_person("reader1", role="admin")
    group["reader"].add_person("reader2")
    group["admin"].change_person("reader1", role="reader")
    with pytest.raises(AccessDenied, match="has the role reader"):
        group["reader"].add_person("reader3")


def test_a_disabled_person_may_do_nothing(group: dict[str, Atlas]):
    group["admin"].change_person("editor1", disabled=True)
    for attempt in (group["editor"].whoami, group["editor"].new_token, group["editor"].visited, group["editor"].people):
        with pytest.raises(AccessDenied, match="disabled"):
            attempt()
