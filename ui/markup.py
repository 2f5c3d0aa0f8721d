"""Small pieces of HTML. Every text that comes from files or people goes through `esc`; nothing of it is ever given to
Markdown-rendering calls of Streamlit, which would read links, colours and emoji out of it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from urllib.parse import urlencode

from atlas.records import ActivationExample


class Safe(str):
    """HTML made here, as against text that still has to be escaped."""

    __slots__ = ()


def esc(value: object) -> Safe:
    """Text -> HTML; a `Safe` piece stays as it is."""
    return value if isinstance(value, Safe) else Safe(html.escape("" if value is None else str(value), quote=True))


def css() -> Safe:
    return Safe("<style>" + files("ui").joinpath("style.css").read_text(encoding="utf-8") + "</style>")


def follow_links() -> Safe:
    """The script that makes links between pages quick (`follow.js`)."""
    return Safe("<script>" + files("ui").joinpath("follow.js").read_text(encoding="utf-8") + "</script>")


def tag(name: str, *children: object, cls: str = "", **attributes: str) -> Safe:
    given = {"class": cls, **attributes}
    inside = "".join(f' {key.replace("_", "-")}="{esc(value)}"' for key, value in given.items() if value)
    return Safe(f"<{name}{inside}>{''.join(esc(child) for child in children)}</{name}>")


def link(page: str, text: object, **query: str | None) -> Safe:
    """A link to a page of this application; the address holds everything the page shows."""
    given = {key: value for key, value in query.items() if value}
    return tag("a", text, href=f"{page}?{urlencode(given)}" if given else page)


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], *, numeric: Sequence[int] = (), cls: str = ""
) -> Safe:
    """A plain table; `numeric` are the columns set to the right."""

    def cells(name: str, values: Sequence[object]) -> Safe:
        return Safe("".join(tag(name, v, cls="num" if i in numeric else "") for i, v in enumerate(values)))

    body = [tag("tr", cells("td", row)) for row in rows]
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", cells("th", head))), tag("tbody", *body)),
        cls=f"ca-table {cls}".strip(),
    )


def facts(pairs: Iterable[tuple[object, object]]) -> Safe:
    """Term and value, side by side."""
    return tag("dl", *(Safe(tag("dt", name) + tag("dd", value)) for name, value in pairs), cls="ca-facts")


def chip(text: object, kind: str = "") -> Safe:
    return tag("span", text, cls=f"ca-chip {kind}".strip())


def visible(token: str) -> str:
    """A token with its line ends and tabs made visible."""
    return token.replace("\n", "⏎").replace("\t", "⇥")


def _token_class(tokens: Sequence[str]) -> str:
    """Tokens that carry no spaces (whole words) are set apart by the page, or they would read as one word."""
    return "ca-tokens" if any(token != token.strip(" ") for token in tokens) else "ca-tokens words"


def prompt(tokens: Sequence[str]) -> Safe:
    return tag("p", *(tag("span", visible(token)) for token in tokens), cls=_token_class(tokens))


def shaded(example: ActivationExample, most: float) -> Safe:
    """Tokens shaded by activation relative to `most`; the number shows on hover, the strongest token is bold."""
    top = max(example.activations, default=0.0)
    spans = []
    for token, activation in zip(example.tokens, example.activations, strict=False):
        strength = min(1.0, max(0.0, activation / most)) if most > 0 else 0.0
        spans.append(
            tag(
                "span",
                visible(token),
                cls="top" if activation == top and activation > 0 else "",
                style=f"--a:{round(strength * 75)}%" if strength > 0 else "",
                title=f"activation {activation:.3g}",
            )
        )
    return tag("p", *spans, cls=f"{_token_class(example.tokens)} ca-shaded")


def ticked(text: object) -> Safe:
    """Escaped text in which `this` is set as code."""
    pieces = str(text).split("`")
    return Safe("".join(tag("code", piece) if i % 2 else esc(piece) for i, piece in enumerate(pieces)))


def number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{'−' if value < 0 else ''}{abs(value):.{digits}g}"


def counted(count: int, thing: str) -> str:
    """1 place, 2 places."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def share(value: float | None, *, signed: bool = False) -> str:
    """0.1234 -> 12.3%."""
    if value is None:
        return "–"
    size = abs(value) * 100
    text = f"{size:.0f}%" if size >= 99.95 or size == 0 else f"{size:.1f}%" if size >= 1 else f"{size:.2g}%"
    sign = ("−" if value < 0 else "+") if signed else ("−" if value < 0 else "")
    return sign + text


def p_value(value: float | None, n_null: int) -> str:
    """A permutation p-value cannot be below 1 / (n + 1); that is said instead of a zero."""
    if value is None:
        return "not tested"
    return f"{value:.3f} (n = {n_null})"
