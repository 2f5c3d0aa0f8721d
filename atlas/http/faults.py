"""Errors as JSON with a fitting status: `{"error": {"type", "message", "hint"}}`, never a traceback or a path of the server."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel

from atlas import errors
from atlas.api import Atlas
from atlas.errors import AtlasError

log = logging.getLogger(__name__)

# the first class that fits counts
STATUS: tuple[tuple[type[AtlasError], int], ...] = (
    (errors.AccessDenied, 403),
    (errors.Ambiguous, 409),
    (errors.NotFound, 404),
    (errors.SchemaMismatch, 409),
    (errors.StoreUnavailable, 503),
    (errors.MissingExtra, 503),
    (AtlasError, 422),
)
UNEXPECTED = AtlasError(
    "An unexpected fault of the server stopped this.", "Its log says more; please tell whoever keeps this atlas."
)


class NotSignedIn(errors.AccessDenied):
    """No token, or one that does not work: 401. Told to callers as AccessDenied."""


class TooLarge(errors.InputRejected):
    """A body above the limit: 413. Told to callers as InputRejected."""


class WrongContentType(errors.UsageError):
    """A body of a kind that the address does not take: 415. Told to callers as UsageError."""


class ErrorBody(BaseModel):
    type: str
    message: str
    hint: str
    place: str | None = None


class ErrorDocument(BaseModel):
    """What every answer other than 200 holds."""

    error: ErrorBody


def status_of(error: AtlasError) -> int:
    if isinstance(error, NotSignedIn):
        return 401
    if isinstance(error, TooLarge):
        return 413
    if isinstance(error, WrongContentType):
        return 415
    return next(status for kind, status in STATUS if isinstance(error, kind))


def document(error: AtlasError, atlas: Atlas | None = None) -> dict[str, Any]:
    """The JSON of an error; where the server keeps its files is left out."""
    kind = type(error)
    if kind.__module__ != errors.__name__:  # the client knows the classes of atlas.errors
        kind = next(base for base in kind.__mro__ if base.__module__ == errors.__name__)
    body: dict[str, Any] = {"type": kind.__name__, "message": error.message, "hint": error.hint}
    if getattr(error, "place", ""):
        body["place"] = error.place  # type: ignore[attr-defined]
    if atlas is not None:
        body = {key: _without_places(value, atlas) for key, value in body.items()}
    return {"error": body}


def _without_places(text: str, atlas: Atlas) -> str:
    places = {
        atlas.settings.resolved_catalog_url(): "the catalog",
        atlas.catalog.place: "its place",
        str(atlas.settings.home): "the atlas home",
    }
    for place, told in places.items():
        text = text.replace(place, told) if place else text
    return text


def unexpected(error: BaseException) -> AtlasError:
    """What a caller is told about a fault of this program; the log has the rest."""
    log.error("unexpected fault", exc_info=error)
    return UNEXPECTED
