"""What is chosen on the canvas, as the address, the canvas and Python exchange it. Pure.

`seq` counts choices: the canvas ignores an answer to an older click than its latest, so a burst of arrow keys cannot be
overtaken by the echo of its first. A change from outside (the address, the back button) gets the next number and so wins.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

NO_PINS = "none"  # in the address: the reader took the last pin away, as against never having touched them
MOST_PINS = 200


@dataclass(frozen=True)
class View:
    key: str
    seq: int
    click: str
    pins: tuple[str, ...]
    edge: str = ""  # source->target, by node keys; never beside a chosen node

    def to_data(self) -> dict[str, object]:
        return {"key": self.key, "seq": self.seq, "click": self.click, "edge": self.edge, "pins": list(self.pins)}


def split_keys(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def no_edge(_edge: str) -> bool:
    return False


def from_address(
    circuit: str,
    node: str,
    pins: str,
    last: View | None,
    known: Container[str],
    first_pins: list[str],
    edge: str = "",
    has_edge: Callable[[str], bool] = no_edge,
) -> View:
    """The view that the address asks for; nodes and edges that the circuit does not have are left out.

    `last` is the latest view of this reader, `first_pins` those that came with the circuit, used until the reader pins.
    """
    click = node if node in known else ""
    chosen = edge if edge and not click and has_edge(edge) else ""
    wanted = [] if pins == NO_PINS else split_keys(pins) if pins else first_pins
    kept = tuple(dict.fromkeys(key for key in wanted if key in known))[:MOST_PINS]
    if last is not None and (last.key, last.click, last.pins, last.edge) == (circuit, click, kept, chosen):
        return last
    return View(circuit, (last.seq if last else 0) + 1, click, kept, chosen)


def from_canvas(
    selection: object, circuit: str, known: Container[str], has_edge: Callable[[str], bool] = no_edge
) -> View | None:
    """A choice that came from the browser, or None when it is not one of this circuit."""
    if not isinstance(selection, Mapping) or selection.get("key") != circuit:
        return None
    seq, click, pins = selection.get("seq"), selection.get("click"), selection.get("pins")
    if not (isinstance(seq, int | float) and isinstance(click, str) and isinstance(pins, list)):
        return None
    kept = tuple(dict.fromkeys(key for key in pins if isinstance(key, str) and key in known))[:MOST_PINS]
    click = click if click in known else ""
    edge = selection.get("edge")
    chosen = edge if isinstance(edge, str) and edge and not click and has_edge(edge) else ""
    return View(circuit, int(seq), click, kept, chosen)


def address_pins(view: View, first_pins: list[str]) -> str:
    """How the pins are written in the address."""
    if not view.pins:
        return NO_PINS if first_pins else ""
    return ",".join(view.pins)
