"""From a secret to an actor: tokens, passwords, sign-ins; what ends them, and how guessing is slowed down."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from atlas import Atlas, credentials
from atlas.authentication import cookie_secret, proves, sign_in, sign_out, with_email, with_sign_in, with_token
from atlas.catalog.tables import AccessToken, Person, SignIn
from atlas.errors import AccessDenied, AtlasError, NotFound, UsageError
from tests.people.conftest import PASSWORD


def everything_kept(atlas: Atlas) -> str:
    with atlas.catalog.read() as session:
        rows = [row for table in (Person, AccessToken, SignIn) for row in session.scalars(select(table))]
        kept = [{k: v for k, v in vars(row).items() if not k.startswith("_")} for row in rows]
    return repr(kept) + repr(atlas.audit(limit=1000))


def test_a_token_says_who_it_is_and_only_its_hash_is_kept(atlas: Atlas, group):
    made = atlas.new_token("reader1", name="notebook", days=30)
    assert made.secret.startswith("atlas_")
    assert len(made.secret) == 49
    assert with_token(atlas, made.secret).whoami().name == "reader1"
    assert made.secret not in everything_kept(atlas)
    assert made.secret[6:] not in everything_kept(atlas)
    assert "secret" not in atlas.tokens("reader1")[0].model_dump()


def test_what_is_no_token_of_this_atlas_is_one_sentence(atlas: Atlas, group):
    atlas.new_token("reader1")
    for secret in ("", "atlas_", "atlas_" + "A" * 43, "Bearer x", "\x00", "ü" * 49, "\ud800", "x" * 10**6):
        with pytest.raises(AccessDenied, match="not known"):
            with_token(atlas, secret)


def test_a_revoked_an_expired_and_a_disabled_persons_token_stop_working(atlas: Atlas, group):
    revoked, expired, disabled = (
        atlas.new_token("reader1"),
        atlas.new_token("reader1", days=1),
        atlas.new_token("editor1"),
    )
    atlas.revoke_token(revoked.id)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    atlas.catalog.write(
        "test", lambda s: s.execute(update(AccessToken).where(AccessToken.id == expired.id).values(expires_at=past))
    )
    atlas.change_person("editor1", disabled=True)
    for token, why in ((revoked, "revoked"), (expired, "expired"), (disabled, "disabled")):
        with pytest.raises(AccessDenied, match=why):
            with_token(atlas, token.secret)
        with pytest.raises(AccessDenied, match=why):
            sign_in(atlas, token.person, token.secret)


def test_a_token_works_for_a_sensible_time_or_is_not_made(atlas: Atlas, group):
    for days in (0, -1, 3651, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="days"):
            atlas.new_token("reader1", days=days)
    assert atlas.tokens() == []


def test_one_makes_lists_and_revokes_own_tokens_and_nobody_elses(atlas: Atlas, group):
    own, other = group["reader"].new_token(name="mine"), group["editor"].new_token(name="theirs")
    assert [row.name for row in group["reader"].tokens()] == ["mine"]
    with pytest.raises(NotFound):
        group["reader"].revoke_token(other.id)
    assert group["reader"].revoke_token(own.id[:24]).revoked_at
    assert group["admin"].revoke_token(other.id).revoked_at
    assert {row.name for row in atlas.tokens()} == {"mine", "theirs"}


def test_the_local_person_must_say_whose_token_it_is(atlas: Atlas, group):
    with pytest.raises(UsageError, match="no account"):
        atlas.new_token()


def test_the_time_of_use_is_kept_but_asking_does_not_write_each_time(atlas: Atlas, group):
    made = atlas.new_token("reader1")
    with_token(atlas, made.secret)
    used = atlas.tokens("reader1")[0].used_at
    with_token(atlas, made.secret)
    assert used is not None
    assert atlas.tokens("reader1")[0].used_at == used


def test_password_and_token_sign_in_and_the_name_may_have_capitals(atlas: Atlas, group):
    atlas.change_person("editor1", password=PASSWORD)
    by_password, row = sign_in(atlas, "Editor1", PASSWORD)
    by_token, _ = sign_in(atlas, "editor1", atlas.new_token("editor1").secret)
    assert row.name == "editor1"
    assert by_password != by_token
    for sign_in_id in (by_password, by_token):
        assert with_sign_in(atlas, sign_in_id).whoami().role == "editor"
        assert sign_in_id not in everything_kept(atlas)
    assert PASSWORD not in everything_kept(atlas)


def test_a_wrong_name_and_a_wrong_secret_give_the_same_answer(atlas: Atlas, group):
    atlas.change_person("editor1", password=PASSWORD)
    answers = set()
    tried = [
        ("editor1", "wrong password"),
        ("nobody", PASSWORD),
        ("reader1", PASSWORD),
        ("", ""),
        ("editor1", PASSWORD.upper()),
    ]
    tried.append(("reader1", atlas.new_token("editor1").secret))
    for name, secret in tried:
        with pytest.raises(AccessDenied) as refused:
            sign_in(atlas, name, secret)
        answers.add(str(refused.value))
    assert len(answers) == 1


def test_an_unknown_name_takes_as_long_as_a_wrong_password(settings, monkeypatch, real_cost):
    monkeypatch.setattr(credentials.Attempts, "take", lambda self, name: None)
    times: dict[str, list[float]] = {"editor1": [], "nobody": [], "reader1": []}
    with Atlas.open(settings=settings) as atlas:
        atlas.add_person("editor1", password=PASSWORD)
        atlas.add_person("reader1")
        credentials._nobody()
        for _, name in itertools.product(range(3), times):
            begun = time.process_time()
            with pytest.raises(AccessDenied):
                sign_in(atlas, name, "wrong password")
            times[name].append(time.process_time() - begun)
    quickest = [min(each) for each in times.values()]
    assert max(quickest) < 2 * min(quickest)


def test_too_many_tries_of_one_name_are_refused_until_time_has_passed_and_a_token_still_works(atlas: Atlas, group):
    atlas.change_person("editor1", password=PASSWORD)
    for _ in range(10):
        with pytest.raises(AccessDenied, match="wrong"):
            sign_in(atlas, "editor1", "wrong password")
    for name in ("editor1", "EDITOR1 "):
        with pytest.raises(AccessDenied, match="too many"):
            sign_in(atlas, name, PASSWORD)
    assert sign_in(atlas, "editor1", atlas.new_token("editor1").secret)[1].name == "editor1"
    with pytest.raises(AccessDenied, match="wrong"):
        sign_in(atlas, "reader1", "wrong password")


def test_tries_are_counted_per_name_and_overall_and_forgotten_in_time_or_by_success():
    now = [0.0]
    attempts = credentials.Attempts(per_name=2, overall=4, seconds=60, clock=lambda: now[0])
    for name in ("a", "a", "b", "c"):
        attempts.take(name)
    for name in ("a", "d"):
        with pytest.raises(AccessDenied, match="too many"):
            attempts.take(name)
    attempts.forget("a")
    attempts.take("d")
    now[0] = 61.0
    for name in ("a", "b", "c", "d"):
        attempts.take(name)


def test_proving_ones_password_counts_as_a_try(atlas: Atlas, group):
    atlas.change_person("editor1", password=PASSWORD)
    assert proves(atlas, "editor1", PASSWORD)
    for _ in range(10):
        assert not proves(atlas, "editor1", "wrong password")
    with pytest.raises(AccessDenied, match="too many"):
        proves(atlas, "editor1", PASSWORD)


def test_what_ends_a_sign_in_ends_it_at_once_and_says_why(atlas: Atlas, group):
    atlas.change_person("editor1", password=PASSWORD)
    atlas.change_person("reader1", password=PASSWORD)
    token = atlas.new_token("admin1", name="browser")
    by_token, by_password = sign_in(atlas, "admin1", token.secret)[0], sign_in(atlas, "editor1", PASSWORD)[0]
    changed, left = sign_in(atlas, "reader1", PASSWORD)[0], sign_in(atlas, "reader1", PASSWORD)[0]
    old = {each: with_sign_in(atlas, each) for each in (by_token, by_password, changed, left)}

    atlas.revoke_token(token.id)
    atlas.change_person("editor1", disabled=True)
    sign_out(atlas, left)
    sign_out(atlas, left)
    sign_out(atlas, "never was")
    assert with_sign_in(atlas, changed).whoami().name == "reader1"
    old[changed].change_person("reader1", password=PASSWORD + "!")

    ended = ((by_token, "token 'browser' was revoked"), (by_password, "disabled"), (changed, "ended"), (left, "ended"))
    for sign_in_id, why in ended:
        with pytest.raises(AccessDenied, match=why):
            with_sign_in(atlas, sign_in_id)
        with pytest.raises(AccessDenied, match=why):  # also for a page that was given it before
            old[sign_in_id].visited()
        with pytest.raises(AccessDenied, match=why):
            old[sign_in_id].whoami()


def test_enabling_again_does_not_bring_old_sign_ins_back(atlas: Atlas, group):
    sign_in_id, _ = sign_in(atlas, "editor1", atlas.new_token("editor1").secret)
    atlas.change_person("editor1", disabled=True)
    atlas.change_person("editor1", disabled=False)
    with pytest.raises(AccessDenied, match="ended"):
        with_sign_in(atlas, sign_in_id)


def test_a_sign_in_expires(atlas: Atlas, group):
    sign_in_id, _ = sign_in(atlas, "editor1", atlas.new_token("editor1").secret)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="microseconds")
    atlas.catalog.write("test", lambda session: session.execute(update(SignIn).values(expires_at=past)))
    with pytest.raises(AccessDenied, match="ended"):
        with_sign_in(atlas, sign_in_id)


def test_a_sign_in_that_never_was_is_refused(atlas: Atlas, group):
    sign_in_id, _ = sign_in(atlas, "editor1", atlas.new_token("editor1").secret)
    kept = credentials.digest(sign_in_id)  # what the catalog keeps is no key to it
    for forged in ("", "x", "\x00", "' OR 1=1 --", "ü", "\ud800", kept):
        with pytest.raises(AccessDenied, match="not signed in"):
            with_sign_in(atlas, forged)


def test_an_identity_providers_user_is_found_by_email(atlas: Atlas, group):
    atlas.change_person("editor1", email="editor1@example.org")
    assert with_email(atlas, "Editor1@example.org").whoami().name == "editor1"
    for email in ("other@example.org", "", "%"):
        with pytest.raises(AccessDenied, match="No account"):
            with_email(atlas, email)
    atlas.change_person("editor1", disabled=True)
    with pytest.raises(AccessDenied, match="disabled"):
        with_email(atlas, "editor1@example.org")


def test_the_cookie_secret_is_made_once_for_all_servers_of_an_atlas(atlas: Atlas):
    with Atlas.open(settings=atlas.settings) as other:
        assert cookie_secret(other) == cookie_secret(atlas)
    assert len(cookie_secret(atlas)) == 32


def test_no_refusal_names_a_secret(atlas: Atlas, group):
    secret = atlas.new_token("reader1").secret
    atlas.change_person("reader1", disabled=True)
    for attempt in (
        lambda: with_token(atlas, secret),
        lambda: sign_in(atlas, "reader1", secret),
        lambda: sign_in(atlas, "reader1", PASSWORD),
        lambda: with_sign_in(atlas, secret),
        lambda: atlas.add_person("x1", password=secret),
        lambda: atlas.add_person("x2", password="shortpw"),
    ):
        with pytest.raises(AtlasError) as refused:
            attempt()
        assert not any(each in str(refused.value) for each in (secret, PASSWORD, "shortpw"))
