"""`Atlas.open("https://...")`: the atlas of a server with the same methods and results, over HTTP."""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx
from pydantic import ValidationError

from atlas import errors
from atlas.access import Identity
from atlas.api import Atlas
from atlas.base import CACHED_CIRCUITS
from atlas.circuit import Circuit
from atlas.circuit_file import from_bytes, to_bytes
from atlas.errors import AccessDenied, AtlasError, InputRejected, SchemaMismatch, StoreUnavailable, UsageError
from atlas.http.verbs import LOCAL_ONLY, VERBS, Verb
from atlas.plain import plain
from atlas.records import Added, Annotations
from atlas.settings import Settings

if TYPE_CHECKING:
    from typing import Self

VERSION_HEADER = "circuit-atlas-version"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0  # paths through a large atlas take minutes
# a connection that waited longer is not used again: servers close theirs after 5 s or more, and a write that meets that is lost
IDLE_SECONDS = 2.0
WAITS = (0.2, 1.0)  # seconds between the tries of a question


class RemoteAtlas(Atlas):
    """An atlas behind `atlas serve`. What has no counterpart over HTTP raises UsageError."""

    def __init__(self, address: str, token: str, settings: Settings) -> None:
        self.address = _checked_address(address)
        self.settings = settings
        self._guard = Lock()
        self._cache: OrderedDict[str, Circuit] = OrderedDict()
        if not token.isascii() or not token.isprintable():
            raise UsageError("The access token has characters that no token has.", "Copy it again.")
        if not token:
            raise AccessDenied(
                f"The server {self.address} wants an access token.", "Pass token=, or set ATLAS_TOKEN to one."
            )
        self._http = httpx.Client(
            base_url=f"{self.address}/api/v1/",
            headers={"Authorization": f"Bearer {token}", "User-Agent": f"circuit-atlas/{version('circuit-atlas')}"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
            trust_env=urlsplit(self.address).hostname not in LOOPBACK,  # no proxy between two ends of one machine
        )
        try:
            about = self._json(self._send("GET", "about", again=True))
            self.identity = Identity(about["person"]["name"], about["person"]["role"])
        except (KeyError, TypeError):
            self.close()
            raise self._stranger() from None
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"RemoteAtlas({self.address!r}, actor={self.actor!r})"

    @property
    def searches_by_meaning(self) -> bool:
        """Whether `search` there compares meanings, or full text only."""
        return bool(self._json(self._send("GET", "meaning", again=True)))

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def acting_as(self, person: str) -> Self:
        """Always refused: who acts is the owner of the token."""
        self._only_local("acting_as")

    # -- what goes as a file and not as JSON

    def load(self, circuit: str) -> Circuit:
        """The circuit with its arrays, to be read only. Raises NotFound, Ambiguous."""
        circuit_id = self.resolve(circuit)
        with self._guard:
            if circuit_id in self._cache:
                self._cache.move_to_end(circuit_id)
                return self._cache[circuit_id]
        answer = self._send("GET", f"circuits/{quote(circuit_id, safe='')}/file", again=True)
        loaded = from_bytes(answer.content, f"the circuit {circuit_id} from {self.address}")
        with self._guard:
            self._cache[circuit_id] = loaded
            while len(self._cache) > CACHED_CIRCUITS:
                self._cache.popitem(last=False)
        return loaded

    def add(self, circuit: Circuit, *, annotations: Annotations | None = None, collection: str | None = None) -> Added:
        """Send a circuit to the server, then what a graph file brought with it. Raises InputRejected as the server does."""
        parameters = {} if collection is None else {"collection": collection}
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._send("POST", "circuits/file", content=to_bytes(circuit), headers=headers, params=parameters)
        added = self._read(lambda: Added.model_validate(self._json(answer)))
        if annotations is not None and annotations != Annotations():
            self._post(f"circuits/{quote(circuit.id, safe='')}/brought", plain(annotations), again=True)
        return added

    # -- inside

    def _ask(self, verb: Verb, given: dict[str, Any]) -> Any:
        try:
            arguments = verb.arguments.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"{verb.name}: {where}: {first['msg']}.", "See docs/remote.md for its limits.") from error
        body = plain(arguments.model_dump(mode="json", exclude_unset=True))
        answer = self._post(verb.name, body, again=verb.row.kind == "question")
        return self._read(lambda: verb.read(answer))

    def _post(self, place: str, body: Any, again: bool) -> Any:
        text = json.dumps(body, allow_nan=False).encode()
        headers = {"Content-Type": "application/json"}
        return self._json(self._send("POST", place, again, content=text, headers=headers))

    def _send(self, method: str, place: str, again: bool = False, **request: Any) -> httpx.Response:
        """One request, tried again when the connection fails and asking twice does no harm."""
        for wait in (*WAITS, None):
            try:
                answer = self._http.request(method, place, **request)
            except httpx.ConnectError as error:
                if wait is None or not again:
                    raise StoreUnavailable(
                        f"The server {self.address} cannot be reached: {_reason(error)}.",
                        "Check the address, and that `atlas serve` runs there.",
                    ) from error
            except httpx.TransportError as error:
                if wait is None or not again:
                    raise self._cut_off(error, again) from error
            else:
                return self._checked(answer)
            time.sleep(wait or 0)
        raise AssertionError("the last try returns or raises")

    def _cut_off(self, error: httpx.TransportError, again: bool) -> StoreUnavailable:
        slow = isinstance(error, httpx.TimeoutException)
        what = "did not answer in time" if slow else f"broke the connection: {_reason(error)}"
        hint = "Try again." if again else "Look whether it was done before you try again."
        return StoreUnavailable(f"The server {self.address} {what}.", hint)

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        told = answer.headers.get(VERSION_HEADER)
        if told is not None and _release(told) != _release(version("circuit-atlas")):
            raise SchemaMismatch(
                f"The server {self.address} is circuit-atlas {told}, this is {version('circuit-atlas')}.",
                f"Install the same here: pip install 'circuit-atlas=={told}'",
            )
        if answer.is_success and told is not None:
            return answer
        try:
            fault = answer.json()["error"]
            kind, message, hint = fault["type"], str(fault["message"]), str(fault["hint"])
        except (ValueError, KeyError, TypeError):
            raise self._stranger(answer) from None
        found = getattr(errors, kind, None) if isinstance(kind, str) else None
        known = found if isinstance(found, type) and issubclass(found, AtlasError) else AtlasError
        if known is InputRejected:
            raise InputRejected(message, hint, str(fault.get("place") or ""))
        raise known(message, hint)

    def _stranger(self, answer: httpx.Response | None = None) -> StoreUnavailable:
        status = f" (status {answer.status_code})" if answer is not None else ""
        return StoreUnavailable(
            f"What answers at {self.address} is no Circuit Atlas server{status}.",
            "Pass the address that the pages have, without /api.",
        )

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise self._stranger(answer) from None

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ValidationError as error:
            raise SchemaMismatch(
                f"The answer of {self.address} is not what this version reads.", "Install the server's version here."
            ) from error

    def _only_local(self, what: str) -> NoReturn:
        raise UsageError(
            f"This works on the machine that keeps the atlas, not over {self.address} (it needs {what}).",
            "Run it there, without ATLAS_SERVER.",
        )

    def __getattr__(self, name: str) -> Any:
        # what AtlasBase sets in a constructor that this class does not call: the stores
        if name in {"catalog", "_projector", "_encoders"}:
            self._only_local("its stores")
        raise AttributeError(name)


def _over_http(verb: Verb) -> Callable[..., Any]:
    """The method of RemoteAtlas for one row of the table, with the signature and the text of the local one."""
    signature = inspect.signature(verb.method)

    @functools.wraps(verb.method)
    def method(self: RemoteAtlas, *positional: Any, **named: Any) -> Any:
        given = dict(signature.bind(self, *positional, **named).arguments)
        del given["self"]
        return self._ask(verb, {name: value for name, value in given.items() if name not in LOCAL_ONLY})

    return method


for _verb in VERBS.values():
    setattr(RemoteAtlas, _verb.name, _over_http(_verb))


def _checked_address(address: str) -> str:
    """The address without a trailing slash. Raises UsageError for one that would send the token in the clear."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.username or parts.query or parts.fragment:
        raise UsageError(
            f"{address!r} is not the address of a server.", "Write it as https://HOST or https://HOST:PORT."
        )
    if parts.scheme == "http" and host not in LOOPBACK:
        raise UsageError(
            f"{address!r} would send the access token unencrypted.", "Use https://; http:// is for this machine only."
        )
    return address.rstrip("/").removesuffix("/api")


def _release(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")[:2])


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
