"""One place where every verb of `Atlas` is seen: `watch_verbs` wraps them, logs and metrics subscribe to what is seen.

Only the outermost verb counts: a verb that calls another is one deed of its caller. Nothing but ids and names reaches the
observers: arguments may hold prompts, passwords or tokens.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

C = TypeVar("C", bound=type)
NO_VERBS = {"open", "close", "acting_as", "overview"}  # overview: asked for by every page, says nothing
_IDS = (
    "circuit",
    "circuit_id",
    "job_id",
    "batch",
    "collection",
    "annotation_id",
    "token_id",
)  # arguments that are told
_RESULT_IDS = ("circuit", "batch", "jobs")
_MOST = 200  # characters of an id that are told


@dataclass(frozen=True)
class Seen:
    """A verb that ended. `error` is the name of its type, '' when all went well."""

    verb: str
    actor: str
    seconds: float
    error: str = ""
    expected: bool = True  # False: a fault of this program, not a sentence for its user
    ids: dict[str, str] = field(default_factory=dict)


Observer = Callable[[Seen], None]
_observers: list[Observer] = []
_inside: ContextVar[bool] = ContextVar("atlas_verb", default=False)


def subscribe(observer: Observer) -> None:
    """`observer` is told of every verb from now on; subscribing twice is the same as once. It must not raise."""
    if observer not in _observers:
        _observers.append(observer)


def watch_verbs(cls: C) -> C:
    """Wrap every public method of `cls`, also the inherited ones. A class decorator."""
    for name in dir(cls):
        method = getattr(cls, name)
        if not name.startswith("_") and name not in NO_VERBS and inspect.isfunction(method):
            setattr(cls, name, _watched(name, method))
    return cls


def _watched(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if not _observers or _inside.get():
            return method(self, *arguments, **named)
        outermost = _inside.set(True)
        began = time.monotonic()
        error: BaseException | None = None
        result = None
        try:
            result = method(self, *arguments, **named)
            return result
        except BaseException as raised:
            error = raised
            raise
        finally:
            _inside.reset(outermost)
            given = dict(zip(names, arguments, strict=False)) | named
            _tell(verb, self.actor, time.monotonic() - began, error, _ids(given, result))

    return call


def _tell(verb: str, actor: str, seconds: float, error: BaseException | None, ids: dict[str, str]) -> None:
    from atlas.errors import AtlasError

    name = type(error).__name__ if error is not None else ""
    seen = Seen(verb, actor, seconds, name, error is None or isinstance(error, AtlasError), ids)
    for observer in _observers:
        observer(seen)


def _ids(given: dict[str, Any], result: Any) -> dict[str, str]:
    found = {name: given[name] for name in _IDS if isinstance(given.get(name), str)}
    for name in _RESULT_IDS:
        value = getattr(result, name, None)
        if isinstance(value, str):
            found[name] = value
        elif name == "jobs" and isinstance(value, Sequence) and value and isinstance(value[0], str):
            found["job_id" if len(value) == 1 else "jobs"] = value[0] if len(value) == 1 else str(len(value))
    return {name: value[:_MOST] for name, value in found.items()}
