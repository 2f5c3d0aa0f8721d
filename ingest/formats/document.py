"""A graph file as parsed JSON: text to objects within limits, and the outermost checks that hold for every dialect."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from atlas.errors import InputRejected

MAX_DEPTH = 64
MAX_NODES = 500_000
MAX_LINKS = 5_000_000
_MAX_VALUES = 40_000_000  # commas and brackets; counted before parsing, because parsed values take the memory
BROKEN = "\ufffd"


@dataclass
class Document:
    """`nodes` are objects with a text `node_id`; `links` are unchecked. `mended` counts what was put right on the way."""

    name: str
    metadata: dict[str, Any]
    nodes: list[dict[str, Any]]
    links: list[Any]
    view: dict[str, Any]
    top: dict[str, Any]
    mended: Counter[str] = field(default_factory=Counter)

    def reject(self, place: str, what: str, hint: str = "Mend or leave out this file.") -> InputRejected:
        return InputRejected(f"{self.name}: {place} {what}.", hint, place)


def read_document(data: bytes, name: str) -> Document:
    """Parse and check the outermost shape. Raises InputRejected with the place."""
    mended: Counter[str] = Counter()
    top = _parse(data, name, mended)
    if not isinstance(top, dict):
        raise InputRejected(
            f"{name} is not a graph: it holds {_type_name(top)} where an object is expected.", "Pass a graph JSON file."
        )
    if "graphs" in top and "nodes" not in top:
        raise InputRejected(f"{name} is an index of graphs, not a graph.", "Import the graph files it lists.", "graphs")
    for key, kind, words in (("metadata", dict, "an object"), ("nodes", list, "a list"), ("links", list, "a list")):
        if key not in top:
            raise InputRejected(f"{name} is not a graph: {key} is missing.", "Pass a graph JSON file.", key)
        if not isinstance(top[key], kind):
            raise InputRejected(f"{name}: {key} is {_type_name(top[key])}, not {words}.", "Mend the file.", key)
    for key, limit in (("nodes", MAX_NODES), ("links", MAX_LINKS)):
        if len(top[key]) > limit:
            raise InputRejected(f"{name} has {len(top[key])} {key}; the limit is {limit}.", "Prune the graph.", key)
    view = top.get("qParams")
    if view is not None and not isinstance(view, dict):
        mended["saved_view_unreadable"] += 1
    document = Document(
        name, top["metadata"], top["nodes"], top["links"], view if isinstance(view, dict) else {}, top, mended
    )
    for i, node in enumerate(document.nodes):
        if not isinstance(node, dict):
            raise document.reject(f"nodes[{i}]", f"is {_type_name(node)}, not an object")
        if not isinstance(node.get("node_id"), str):
            raise document.reject(f"nodes[{i}].node_id", "is missing or not text")
    return document


def _parse(data: bytes, name: str, mended: Counter[str]) -> Any:
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise InputRejected(f"{name} holds more than {_MAX_VALUES} values.", "Prune the graph.")
    if not data.strip():
        raise InputRejected(f"{name} is empty.", "Pass a graph JSON file.")
    strict = True
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        strict = False
        value = _parse_lenient(data, name)
    _check_depth(value, name)
    if not strict or b"\\u0000" in data:
        value = _clean(value, mended)
    return value


def _parse_lenient(data: bytes, name: str) -> Any:
    """Python's reader knows NaN and Infinity, lone surrogates and long integers, which the fast one refuses."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputRejected(f"{name} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputRejected(f"{name} is not JSON: {error.msg} at {place}.", "Download it again.", place) from error
    except RecursionError as error:
        raise _too_deep(name) from error
    except ValueError as error:  # an integer of thousands of digits
        raise InputRejected(f"{name} holds a number that is too long to read.", "Mend the file.") from error


def _check_depth(value: Any, name: str) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
    raise _too_deep(name)


def _too_deep(name: str) -> InputRejected:
    return InputRejected(f"{name} is nested deeper than {MAX_DEPTH} levels.", "Pass a graph JSON file.")


def _clean(value: Any, mended: Counter[str]) -> Any:
    """Text that a database can hold: lone surrogates and NUL become U+FFFD. Depth is bounded by `_check_depth`."""
    if type(value) is str:
        good = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", BROKEN)
        mended["broken_text"] += good != value
        return good
    if type(value) is list:
        return [_clean(item, mended) for item in value]
    if type(value) is dict:
        return {_clean(key, mended): _clean(item, mended) for key, item in value.items()}
    return value


def plain(value: Any) -> Any:
    """JSON without non-finite numbers (null) and without integers beyond 64 bits (floats, null when too large)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def section(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def whole(value: Any) -> int | None:
    """An integer as JSON writers spell it (12, 12.0, "12"), None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    return None


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
