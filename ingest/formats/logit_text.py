"""The undecorated text in a logit node's clerp, and the decoration for writing one.

`Output "tok" (p=0.450)` (circuit-tracer), `output: "Austin" (p=0.984)` (Anthropic), `Logit "tok" (p=..)`; interface
downloads put `[supernode label] ` in front. The token text is not escaped, so it is taken from the right.
"""

from __future__ import annotations

import re

_OPENINGS = ('Output "', 'output: "', 'Logit "')
_PROBABILITY = re.compile(r" \(p=([0-9.eE+-]{1,24})\)\s*$")
_VISIBLE = str.maketrans({"\n": "⏎", "\t": "→", "\r": "↵"})


def parse_logit(clerp: str) -> tuple[str, float | None]:
    """(token text, probability or None). Text without the decoration comes back as it is."""
    probability = None
    head = clerp
    found = None
    if (start := clerp.rfind(" (p=")) >= 0:
        found = _PROBABILITY.match(clerp, start)
    if found:
        head = clerp[:start]
        try:
            probability = float(found[1])
        except ValueError:
            probability = None
    if probability is not None and not 0 <= probability <= 1:
        probability = None
    for opening in _OPENINGS:
        if head.startswith(opening):
            return _unquoted(head[len(opening) :]), probability
    if head.startswith("["):
        starts = [(head.find("] " + opening), opening) for opening in _OPENINGS]
        starts = [(at, opening) for at, opening in starts if at >= 0]
        if starts:
            at, opening = min(starts)
            return _unquoted(head[at + 2 + len(opening) :]), probability
    return head, probability


def _unquoted(rest: str) -> str:
    return rest.removesuffix('"')


def visible(token: str) -> str:
    """Line breaks and tabs as circuit-tracer shows them; not undone when reading, because tokens may hold these marks."""
    return token.translate(_VISIBLE)


def write_logit(token: str, probability: float) -> str:
    return f'Output "{visible(token)}" (p={probability:.3f})'
