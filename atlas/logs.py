"""Logs on stderr, one line per entry, as text or as JSON (`ATLAS_LOG`, `ATLAS_LOG_LEVEL`).

Every verb leaves an entry (info) with actor, seconds and ids; a web server adds one per request with a request id that all
entries of the request share. Nothing secret is logged: fields of secret names and whatever looks like a password in an
address or a bearer token are blanked, in messages of other libraries too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from atlas import observing
from atlas.catalog.values import new_id
from atlas.observing import Seen

if TYPE_CHECKING:
    from atlas.settings import Settings

BLANK = "***"
VERBS = logging.getLogger("atlas.verbs")
REQUESTS = logging.getLogger("atlas.requests")
_OURS = ("atlas", "ingest", "ui")
_SECRET_NAME = re.compile(
    r"(?i)^(?!token_id)(.*_)?(password|passwd|secret|token|authorization|cookie|api_key)s?(_hash)?$"
)
_SECRET_TEXT = [  # bounded, so that a long text from a stranger costs no more than its length
    (re.compile(r"\b(\w{1,32}://[^\s:/@]{1,256}):[^\s@]{1,256}@"), rf"\1:{BLANK}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {BLANK}"),
    (
        re.compile(r"(?i)\b(password|secret|token|authorization|cookie)(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]+"),
        rf"\1\2{BLANK}",
    ),
]
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}
_bound: ContextVar[dict[str, Any]] = ContextVar("atlas_log_fields", default={})  # noqa: B039  replaced, never changed
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def setup(
    form: Literal["text", "json"] = "text", level: str = "error", *, stream: Any = None, verbose: bool = False
) -> None:
    """Send the log to stderr. May be called again: a server does, with another level than the command line's."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if getattr(old, "atlas", False):
            root.removeHandler(old)
    handler.atlas = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    wanted = logging.INFO if verbose else getattr(logging, level.upper())
    # other libraries' notes are not what was asked for
    root.setLevel(wanted if verbose or wanted == logging.DEBUG else max(wanted, logging.WARNING))
    logging.getLogger("neo4j").setLevel(logging.NOTSET if verbose else logging.CRITICAL)  # its faults are told by us
    for name in _OURS:
        logging.getLogger(name).setLevel(wanted)
    observing.subscribe(_log_verb)


def setup_from(settings: Settings, default_level: str = "error", *, verbose: bool = False) -> None:
    """`setup` as the settings say; `default_level` where they say nothing (`info` for what runs unattended)."""
    setup(settings.log, settings.log_level or default_level, verbose=verbose)


@contextlib.contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Entries made inside carry these fields: `with bound(job_id=...)`."""
    before = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(before)


def scrubbed(text: str) -> str:
    """`text` without passwords of addresses, bearer tokens and `password=...`."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _log_verb(seen: Seen) -> None:
    level = logging.WARNING if seen.error else logging.INFO
    fields: dict[str, Any] = {"verb": seen.verb, "actor": seen.actor, "seconds": round(seen.seconds, 4), **seen.ids}
    if seen.error:
        fields["error"] = seen.error if seen.expected else f"unexpected {seen.error}"
    VERBS.log(level, seen.verb, extra=fields)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What an entry says beside its message: bound fields, then its own; secrets blanked."""
    own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {name: _clean(name, value) for name, value in {**_bound.get(), **own}.items()}


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAME.match(name):
        return BLANK
    if isinstance(value, dict):
        return {str(key): _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", item) for item in value]
    return value if isinstance(value, int | float | None) else scrubbed(str(value))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: at, level, logger, message, the fields, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
        }
        entry = _fields(record) | entry
        if record.exc_info:
            entry["exception"] = scrubbed(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """For people: `logger: message name=value ...`; a line end inside a value cannot begin an entry of its own."""

    def format(self, record: logging.LogRecord) -> str:
        said = {name: value for name, value in _fields(record).items() if value != record.getMessage()}
        parts = [
            f"{record.name}: {scrubbed(record.getMessage())}",
            *(f"{name}={value}" for name, value in said.items()),
        ]
        line = " ".join(parts).replace("\r", "\\r").replace("\n", "\\n")
        return f"{line}\n{scrubbed(self.formatException(record.exc_info))}" if record.exc_info else line


class RequestLog:
    """ASGI middleware: a request id (the caller's X-Request-ID if it is a plain one) on every entry and in the answer,
    and one entry per request with method, path, status and seconds. Query strings and headers are never logged."""

    def __init__(
        self, app: Any, quiet: tuple[str, ...] = ("/healthz", "/readyz", "/metrics", "/static/", "/_stcore/")
    ) -> None:
        self.app, self.quiet = app, quiet

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        status = 0

        async def answer(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        began = time.monotonic()
        with bound(request_id=request_id):
            try:
                await self.app(scope, receive, answer)
            finally:
                if not scope["path"].startswith(self.quiet):
                    fields = {"method": scope["method"], "path": scope["path"][:500], "status": status}
                    REQUESTS.info("request", extra={**fields, "seconds": round(time.monotonic() - began, 4)})
