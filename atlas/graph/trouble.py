"""Errors of the driver and the servers, turned into one sentence of ours. Used as one context manager around every call."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neo4j import exceptions as driver

from atlas.errors import AtlasError, StoreUnavailable

TIMED_OUT = (
    "Neo.ClientError.Transaction.TransactionTimedOut",
    "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration",
    "Neo.ClientError.Transaction.LockClientStopped",
    "Neo.TransientError.Transaction.LockAcquisitionTimeout",
)


_FULL = 8 * 2**20  # bytes; a disk with less free than this explains a failure that says nothing


@contextmanager
def translated(address: str, user: str = "", folder: Path | None = None) -> Iterator[None]:
    """Raises StoreUnavailable for whatever the driver raises inside; errors of ours pass unchanged.

    `folder`: where the server keeps its files, when that is on this machine.
    """
    try:
        yield
    except AtlasError:
        raise
    except (driver.Neo4jError, driver.DriverError, OSError, ValueError) as error:
        raise to_atlas_error(error, address, user, folder) from error


def disk_is_full(folder: Path | None) -> bool:
    try:
        return folder is not None and shutil.disk_usage(folder).free < _FULL
    except OSError:
        return False


def to_atlas_error(error: BaseException, address: str, user: str = "", folder: Path | None = None) -> AtlasError:
    """The most specific sentence for `error`, judged by its type, its code, then the texts of its causes."""
    where = f"The graph server at {address}"
    text = " / ".join(_chain(error))
    code = getattr(error, "code", None) or ""
    if isinstance(error, driver.ConfigurationError | ValueError):
        return StoreUnavailable(
            f"The graph address {address} cannot be used: {first_line(error)}.",
            "ATLAS_GRAPH_URL looks like bolt://host:7687, neo4j://host or neo4j+s://host.",
        )
    if isinstance(error, driver.AuthError) or "Unauthorized" in code or "AuthenticationRateLimit" in code:
        return StoreUnavailable(
            f"{where} refused the user {user!r} with the given password.",
            "Set ATLAS_GRAPH_USER and ATLAS_GRAPH_PASSWORD.",
        )
    if "DatabaseNotFound" in code:
        return StoreUnavailable(
            f"{where} has no database of that name: {first_line(error)}.", "Set ATLAS_GRAPH_DATABASE."
        )
    told = "No space left on device" in text or "OutOfDiskSpace" in code or "disk is full" in text.lower()
    if told or (not isinstance(error, driver.AuthError | driver.CypherSyntaxError) and disk_is_full(folder)):
        return StoreUnavailable(
            f"The disk of the graph server at {address} is full.", "Free some space there, then try again."
        )
    if (
        _has(error, "SSLError", "SSLCertVerificationError")
        or "certificate" in text.lower()
        or "BoltSecurityError" in text
    ):
        return StoreUnavailable(
            f"{where} could not be reached over TLS: {first_line(_root(error))}.",
            "Use neo4j+s:// or bolt+s:// for a trusted certificate, +ssc for a self-signed one, neither for a server without TLS.",
        )
    if "resolve address" in text or "DNS resolve" in text or _has(error, "gaierror"):
        return StoreUnavailable(f"The host of the graph server, {address}, is not known.", "Check ATLAS_GRAPH_URL.")
    if code in TIMED_OUT or isinstance(error, TimeoutError | driver.ConnectionAcquisitionTimeoutError):
        return StoreUnavailable(f"{where} did not answer in time.", "It may be busy; try again.")
    if "OutOfMemory" in code or "OutOfMemory" in text or "MemoryPool" in code:
        return StoreUnavailable(f"{where} has run out of memory.", "Give it more (embedded: ATLAS_EMBEDDED_HEAP=2g).")
    if isinstance(error, driver.ServiceUnavailable | driver.SessionExpired | OSError) or "DatabaseUnavailable" in code:
        return StoreUnavailable(
            f"{where} is not reachable: {first_line(_root(error))}.", "Start it, or check ATLAS_GRAPH_URL."
        )
    if "Forbidden" in code:
        return StoreUnavailable(
            f"{where} does not let the user {user!r} do this: {first_line(error)}.", "Use another user."
        )
    return StoreUnavailable(f"{where} failed: {first_line(error)}.", "Its log says more.")


def first_line(error: BaseException | None) -> str:
    """What the server said, its first line, without the driver's decoration."""
    message = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:400].rstrip(".")


def _chain(error: BaseException) -> list[str]:
    found: list[str] = []
    each: BaseException | None = error
    while each is not None and len(found) < 10:
        found.append(f"{type(each).__name__}: {each}")
        each = each.__cause__ or each.__context__
    return found


def _root(error: BaseException) -> BaseException:
    for _ in range(10):
        below = error.__cause__ or error.__context__
        if below is None:
            break
        error = below
    return error


def _has(error: BaseException, *names: str) -> bool:
    return any(line.split(":")[0] in names for line in _chain(error))
