"""The canvas as a Streamlit component: the JavaScript modules are joined into one inline string.

Streamlit serves component folders only for a distribution whose name equals the import package, which ours is not. The modules
in frontend/ stay ordinary ES modules (plain `node` tests them); here their imports are dropped and they are put one after
the other, so top-level names must differ between modules (`join` refuses if not). The browser shows the result as
circuit-atlas-canvas.js.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import streamlit as st

ORDER = ("layout.js", "links.js", "hit.js", "draw.js", "panel.js", "canvas.js")
_IMPORT = re.compile(r"^import\b[^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default\b)", re.MULTILINE)
_TOP_LEVEL = re.compile(r"^(?:export )?(?:const|let|function|class) (\w+)", re.MULTILINE)


def _read(name: str) -> str:
    return (files("ui.canvas") / "frontend" / name).read_text(encoding="utf-8")


def join(sources: dict[str, str], name: str) -> str:
    """One module out of several. Raises ValueError when two of them define the same top-level name."""
    owner: dict[str, str] = {}
    for file, text in sources.items():
        for defined in _TOP_LEVEL.findall(text):
            if defined in owner:
                raise ValueError(f"{defined} is defined in {owner[defined]} and in {file}")
            owner[defined] = file
    parts = [f"// ---- {file}\n{_EXPORT.sub('', _IMPORT.sub('', text))}" for file, text in sources.items()]
    return "\n".join([*parts, f"//# sourceURL={name}\n"])


_CANVAS = st.components.v2.component(
    "circuit_atlas_canvas",
    css=_read("canvas.css"),
    js=join({name: _read(name) for name in ORDER}, "circuit-atlas-canvas.js"),
)
_BRIDGE = st.components.v2.component(
    "circuit_atlas_bridge", js=join({"bridge.js": _read("bridge.js")}, "circuit-atlas-bridge.js")
)


def canvas(payload: dict[str, Any], key: str) -> None:
    """Mount the graph. Keep `payload` the same object content between reruns: unchanged data is not sent again."""
    _CANVAS(data=payload, key=key)


def bridge(slot: str, view: dict[str, Any], key: str, on_selection: Callable[[], None]) -> None:
    """Mount inside the card's fragment: `view` = {key, seq, click, pins} goes to the canvas, its choice comes back."""
    _BRIDGE(data={"slot": slot, "view": view}, key=key, on_selection_change=on_selection, height=1)
