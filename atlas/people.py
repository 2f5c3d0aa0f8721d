"""Accounts, roles, tokens, the audit log, and what is new since one's last visit.

Who asks is found out by `atlas.authentication`, whose functions are offered here too.
"""

from __future__ import annotations

import contextlib

from sqlalchemy.orm import Session

from atlas import credentials
from atlas.access import ROLES, Role, current_role
from atlas.authentication import cookie_secret, proves, sign_in, sign_out, with_email, with_sign_in, with_token
from atlas.base import AtlasBase
from atlas.catalog import audit_log, circuits, news, tokens
from atlas.catalog import people as store
from atlas.catalog.tables import Person
from atlas.errors import AccessDenied, NotFound, UsageError
from atlas.group_records import AuditEntry, News, NewToken, PersonRow, TokenRow
from atlas.records import Table

__all__ = ["PeopleVerbs", "cookie_secret", "proves", "sign_in", "sign_out", "with_email", "with_sign_in", "with_token"]


class PeopleVerbs(AtlasBase):
    """Accounts, roles, tokens, the audit log, and what is new since one's last visit."""

    def whoami(self) -> PersonRow:
        """Who acts. Without an account (on a laptop): the local name with the role admin, which is in no table."""
        if not self.identity.person:
            return PersonRow(name=self.actor, role=self.identity.role)
        with self.catalog.read() as session:
            current_role(session, self.identity)
            return store.rows(session, [store.get(session, self.actor)])[0]

    def people(self) -> Table[PersonRow]:
        """All accounts, by name. E-mail addresses and what they sign in with are shown to admins and oneself only."""
        with self.catalog.read() as session:
            admin = self._may(session, "admin")
            rows = store.rows(session, store.everybody(session))
        hidden = {"email": None, "has_password": False, "tokens": 0}
        return Table(row if admin or row.name == self.actor else row.model_copy(update=hidden) for row in rows)

    def add_person(
        self, name: str, role: Role = "reader", password: str | None = None, email: str | None = None
    ) -> PersonRow:
        """A new account. Without a password it signs in with an access token (`new_token`).

        Raises UsageError for a name or e-mail address that is taken or cannot be used, or a password that is too short.
        """
        name, checked = store.checked_name(name), store.checked_role(role)
        address = store.checked_email(email)
        hash = self._hashed(password, "admin")

        def work(session: Session) -> PersonRow:
            return store.rows(session, [store.add(session, name, checked, hash, address)])[0]

        return self._write(work, "admin")

    def change_person(
        self,
        name: str,
        role: Role | None = None,
        disabled: bool | None = None,
        password: str | None = None,
        email: str | None = None,
    ) -> PersonRow:
        """Change what is given. Admins change everybody; one's own password everybody changes for oneself.

        A new password ends the sign-ins made with the old one. The last enabled admin can be neither disabled nor demoted:
        UsageError. Raises NotFound for an unknown name.
        """
        checked = store.checked_role(role) if role is not None else None
        store.checked_email(email)
        only_own = self.identity.person and role is None and disabled is None and email is None
        hash = self._hashed(password, "reader" if only_own else "admin")

        def work(session: Session) -> PersonRow:
            person = store.get(session, name)
            if not (only_own and person.name == self.actor):
                self._need_admin(session)
            store.change(session, person, role=checked, disabled=disabled, password_hash=hash, email=email)
            return store.rows(session, [person])[0]

        return self._write(work, "reader")

    def new_token(self, person: str | None = None, name: str = "", days: float | None = None) -> NewToken:
        """An access token for oneself or, by an admin, for somebody else. Its secret is in this answer and nowhere else.

        `days` until it expires; None = never. Raises UsageError for other than 0 to 3650 days.
        """
        called = store.checked_name(name, "name of the token") if name.strip() else ""
        secret = credentials.new_secret()

        def work(session: Session) -> NewToken:
            owner = self._owner(session, person)
            if owner is None:
                raise UsageError(f"{self.actor!r} has no account here.", "Say whose token it is.")
            token = tokens.add(session, owner, called, credentials.digest(secret), days)
            return NewToken(**tokens.row(token).model_dump(), secret=secret)

        return self._write(work, "reader")

    def tokens(self, person: str | None = None) -> Table[TokenRow]:
        """Access tokens, newest first, without their secrets: one's own, somebody's (admins), or, without an account, all."""
        with self.catalog.read() as session:
            owner = self._owner(session, person)
            return Table(tokens.row(token) for token in tokens.of(session, owner.name if owner else None))

    def revoke_token(self, token_id: str) -> TokenRow:
        """End a token and the sign-ins made with it. Raises NotFound; somebody else's token is not found either."""

        def work(session: Session) -> TokenRow:
            token = tokens.get(session, token_id)
            if not (self.identity.person and token.person == self.actor) and not self._may(session, "admin"):
                raise tokens.unknown(token_id)
            tokens.revoke(session, token)
            return tokens.row(token)

        return self._write(work, "reader")

    def audit(
        self,
        subject: str | None = None,
        actor: str | None = None,
        verb: str | None = None,
        since: str | None = None,
        limit: int = 100,
    ) -> Table[AuditEntry]:
        """Who wrote what, newest first; `since` is a time of ISO 8601 (UTC where it names no zone).

        What was done to accounts is shown to admins and to whom it concerns only. Raises UsageError.
        """
        from_time = news.checked_time(since) if since is not None else None
        with self.catalog.read() as session:
            seer = None if self._may(session, "admin") else self.actor
            if subject is not None:
                with contextlib.suppress(NotFound):  # a circuit by its name or the beginning of its id
                    subject = circuits.resolve(session, subject)
            return audit_log.entries(session, subject, actor, verb, from_time, news.checked_limit(limit), seer)

    def news(self, since: str | None = None) -> News:
        """What others added, and one's own jobs that ended, since a time; default: since `visited` was called last."""
        with self.catalog.read() as session:
            if since is None:
                from_time = news.last_visit(session, self.identity)
            else:
                from_time = news.checked_time(since)
            return news.since(session, self.actor, from_time)

    def visited(self, until: str | None = None) -> None:
        """From now on only what comes later is new: later than `until` (`News.until`, so that nothing is missed that came
        while one was reading), default now. Not in the audit log: it says nothing about the atlas. Raises UsageError."""
        time = news.checked_time(until) if until is not None else None
        self._write(lambda session: news.visit(session, self.identity, time), "reader")

    # -- inside

    def _may(self, session: Session, role: Role) -> bool:
        return ROLES.index(current_role(session, self.identity)) >= ROLES.index(role)

    def _need_admin(self, session: Session) -> None:
        if not self._may(session, "admin"):
            raise AccessDenied(f"{self.actor!r} may do this for the own account only.", "Ask an admin of this atlas.")

    def _owner(self, session: Session, person: str | None) -> Person | None:
        """The account meant: one's own when `person` is None, which is None for somebody without an account."""
        if person is None:
            return store.get(session, self.actor) if self.identity.person else None
        if not (self.identity.person and store.folded(person) == store.folded(self.actor)):
            self._need_admin(session)
        return store.get(session, person)

    def _hashed(self, password: str | None, role: Role) -> str | None:
        """The hash is made before the transaction, it takes long; so the role is looked at before, too."""
        if password is None:
            return None
        with self.catalog.read() as session:
            if not self._may(session, role):
                self._need_admin(session)
        return credentials.hash_password(password)
