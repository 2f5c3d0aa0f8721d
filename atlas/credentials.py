"""Passwords, access tokens and the limit on failed sign-ins. Nothing here knows the database."""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from atlas.errors import AccessDenied, UsageError

PREFIX = "atlas_"  # so that people and scanners of leaked secrets recognise one
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1024
_TOKEN = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
_HASHER = PasswordHasher()
_AT_ONCE = threading.BoundedSemaphore(4)  # one check takes 64 MiB and tens of milliseconds, by design


@functools.cache
def _nobody() -> str:
    """The hash that is checked for names without a password, so that they take as long."""
    return _HASHER.hash(secrets.token_hex(16))


def new_secret() -> str:
    """256 random bits as the text of an access token."""
    return PREFIX + secrets.token_urlsafe(32)


def looks_like_token(secret: str) -> bool:
    return _TOKEN.fullmatch(secret) is not None


def digest(secret: str) -> str:
    """What is kept of a token or of the id of a sign-in. They are random, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())


def hash_password(password: str) -> str:
    """Argon2id. Raises UsageError when the password is too short, too long, or looks like a token."""
    if len(password) < SHORTEST_PASSWORD:
        raise UsageError(f"The password has fewer than {SHORTEST_PASSWORD} characters.", "Choose a longer one.")
    if len(password) > LONGEST_PASSWORD:
        raise UsageError(f"The password has more than {LONGEST_PASSWORD} characters.", "Choose a shorter one.")
    if looks_like_token(password):
        raise UsageError("An access token cannot be a password.", "Choose another.")
    with _AT_ONCE:
        return _HASHER.hash(password.encode("utf-8", "surrogatepass"))


def is_password(stored: str | None, password: str) -> bool:
    """Whether `password` has the hash `stored`; the same work for None, which nothing fits."""
    with _AT_ONCE:
        nobody = _nobody()
        try:
            fits = _HASHER.verify(stored or nobody, password[: LONGEST_PASSWORD + 1].encode("utf-8", "surrogatepass"))
        except (Argon2Error, InvalidHashError):
            return False
    return fits and stored is not None


class Attempts:
    """Counts tries before they are made and refuses too many of one name, or of all names together.

    Kept in memory, so that failing tries write nothing; a restart of the server forgets them. Threads may share it.
    """

    def __init__(
        self,
        per_name: int = 10,
        overall: int = 100,
        seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_name, self._overall, self._seconds, self._clock = per_name, overall, seconds, clock
        self._tries: deque[tuple[float, str]] = deque()
        self._guard = threading.Lock()

    def take(self, name: str) -> None:
        """Count a try. Raises AccessDenied when this one is too many."""
        key = digest(name)  # names are as long as the sender likes
        with self._guard:
            since = self._clock() - self._seconds
            while self._tries and self._tries[0][0] < since:
                self._tries.popleft()
            if len(self._tries) >= self._overall or sum(k == key for _, k in self._tries) >= self._per_name:
                raise AccessDenied(
                    "There were too many failed sign-ins.",
                    f"Wait {self._seconds / 60:.0f} minutes, or sign in with an access token.",
                )
            self._tries.append((self._clock(), key))

    def forget(self, name: str) -> None:
        """The sign-in succeeded: earlier tries of this name no longer count."""
        key = digest(name)
        with self._guard:
            self._tries = deque(each for each in self._tries if each[1] != key)
