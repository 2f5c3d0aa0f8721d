"""The cookie of a sign-in: its id, signed. It says nothing about the person, who is looked up at every run."""

from __future__ import annotations

import hashlib

from itsdangerous import BadSignature, Signer

_LONGEST = 200  # an id of 43 characters and a signature


def name(https: bool) -> str:
    """`__Host-`: browsers take it only over https, from this host, for all its paths."""
    return "__Host-atlas-sign-in" if https else "atlas-sign-in"


def seal(secret: bytes, sign_in_id: str) -> str:
    return _signer(secret).sign(sign_in_id).decode()


def unseal(secret: bytes, value: str | None) -> str | None:
    """The id of a cookie that this atlas signed, else None."""
    if not value or len(value) > _LONGEST or not value.isascii():
        return None
    try:
        return _signer(secret).unsign(value).decode()
    except (BadSignature, UnicodeDecodeError):
        return None


def _signer(secret: bytes) -> Signer:
    return Signer(secret, salt="circuit-atlas sign-in", digest_method=hashlib.sha256)
