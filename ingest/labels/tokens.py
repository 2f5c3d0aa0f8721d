"""The deterministic labeler: says literally on which tokens a feature fires, what follows, and which tokens it promotes.

A label is a rule in words, e.g. `on "is" after "Dallas", "Houston"; promotes "Austin", "Texas"`. The part before the first
semicolon is exactly the rule that `score.py` scores; nothing is inferred about meaning. Same input, same label.

The rule is a conjunction of at most two conditions, each the best of its kind by F1 on the corpus for making labels:
the token is one of a few, looks like a number, a capitalised word or punctuation, follows one of a few, comes somewhere after
one of a few in the same text, or stands at a position. F1 rather than the detection score chooses because firing is rare:
a rule that is right only once in ten times still detects well, but says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingest.labels.corpus import SHAPES, Corpus, Firing

MAX_WORDS = 6  # words a condition may list; more is not read
MAX_PROMOTED = 3
MINOR = 0.05  # words with less than this part of the strongest word's activation are left out
SECOND_CONDITION = 0.1  # gain in F1 that a second condition must bring
MIN_FOR_TWO = 8  # firings; with fewer, two conditions fit anything
OTHER_KIND = 0.05  # gain in F1 over plain tokens that another kind of condition must bring
MORE_WORDS = 0.02  # gain in F1 that one more earlier word must bring
_EARLIER_CANDIDATES = 24


@dataclass(frozen=True)
class Condition:
    """kind: token, shape, previous, earlier, position or everywhere; `values` are words, a shape's name or a position."""

    kind: str
    values: tuple[str, ...] = ()

    def mask(self, corpus: Corpus) -> np.ndarray:
        """(n,) bool: where it holds; never at special tokens."""
        if self.kind == "everywhere":
            return corpus.counted
        if self.kind == "position":
            return corpus.counted & np.isin(corpus.position, [int(value) for value in self.values])
        if self.kind == "shape":
            return corpus.counted & corpus.shape_of[self.values[0]][corpus.codes]
        codes = [corpus.code_of[value] for value in self.values if value in corpus.code_of]
        if self.kind == "earlier":
            return corpus.counted & np.logical_or.reduce([np.zeros(len(corpus), bool), *map(corpus.after, codes)])
        listed = np.zeros(len(corpus.words) + 1, bool)  # one more for "no word", code -1
        listed[codes] = True
        return corpus.counted & listed[corpus.codes if self.kind == "token" else corpus.previous]


@dataclass(frozen=True)
class Rule:
    """All of its conditions. `examples` and `more` are shown, not scored: words of a shape, how many words were left out."""

    conditions: tuple[Condition, ...]
    examples: tuple[str, ...] = ()
    more: int = 0

    def mask(self, corpus: Corpus) -> np.ndarray:
        mask = corpus.counted
        for condition in self.conditions:
            mask = mask & condition.mask(corpus)
        return mask

    def text(self) -> str:
        said = {condition.kind: condition for condition in self.conditions}
        parts = []
        if "everywhere" in said:
            parts.append("on almost every token")
        if "token" in said:
            parts.append("on " + quoted(said["token"].values) + (f" and {self.more} more" if self.more else ""))
        if "shape" in said:
            parts.append(f"on {said['shape'].values[0]} such as {quoted(self.examples)}")
        if "previous" in said:
            parts.append(f"right after {quoted(said['previous'].values)}")
        if "earlier" in said:
            before = "" if "token" in said or "shape" in said else "and " if parts else "anywhere "
            parts.append(f"{before}after {quoted(said['earlier'].values)}")
        if "position" in said:
            parts.append(f"at position {said['position'].values[0]}")
        return " ".join(parts)


def quoted(words: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def label_text(rule: Rule | None, following: str | None, promoted: list[str]) -> str:
    """The label. Without a rule (the feature never fired) it is made of the promoted tokens only, and says so."""
    promotes = f"promotes {quoted(promoted[:MAX_PROMOTED])}" if promoted else ""
    if rule is None:
        return f"{promotes or 'promotes nothing clearly'} (did not fire on the texts)"
    parts = [rule.text()]
    if following:
        parts.append(f'then "{following}"')
    if promotes:
        parts.append(promotes)
    return "; ".join(parts)


def find_rule(corpus: Corpus, firing: Firing) -> Rule | None:
    """The rule that describes best where a feature fires; None when it never does."""
    fires = firing.mask(len(corpus)) & corpus.counted
    if not fires.any():
        return None
    strength = np.zeros(len(corpus))
    strength[firing.positions] = firing.activations
    candidates = _candidates(corpus, fires, strength, corpus.counted)
    if 2 * fires.sum() >= corpus.counted.sum():
        candidates.insert(0, Rule((Condition("everywhere"),)))
    single = _best(corpus, fires, candidates, margin=OTHER_KIND)
    if single.conditions[0].kind == "everywhere" or len(firing.positions) < MIN_FOR_TWO:
        return single
    pairs = []
    on_tokens = next(rule for rule in candidates if rule.conditions[0].kind == "token")
    for first in dict.fromkeys([on_tokens, single]):  # of equal pairs, the one that begins with tokens is taken
        for found in _candidates(corpus, fires, strength, first.mask(corpus)):
            kinds = {first.conditions[0].kind, found.conditions[0].kind}
            if len(kinds) == 2 and kinds != {"token", "shape"}:
                both = first.conditions + found.conditions
                pairs.append(Rule(both, first.examples or found.examples, max(first.more, found.more)))
    return _best(corpus, fires, [single, *pairs], margin=SECOND_CONDITION)


def _best(corpus: Corpus, fires: np.ndarray, rules: list[Rule], margin: float) -> Rule:
    """The first rule, unless the best of the others has an F1 larger by more than `margin`."""
    qualities = [_f1(fires, rule.mask(corpus)) for rule in rules]
    best = int(np.argmax(qualities))
    return rules[best] if qualities[best] > qualities[0] + margin else rules[0]


def word_following(corpus: Corpus, firing: Firing) -> str | None:
    """The word that comes right after at least half of the firings, and there at least twice as often as anywhere."""
    after = corpus.following[firing.positions]
    counts = np.bincount(after[after >= 0], minlength=len(corpus.words))
    if not counts.any():
        return None
    best = int(counts.argmax())
    share, everywhere = counts[best] / len(after), (corpus.following == best).mean()
    return corpus.words[best] if share >= max(0.5, 2 * everywhere) else None


def _candidates(corpus: Corpus, fires: np.ndarray, strength: np.ndarray, inside: np.ndarray) -> list[Rule]:
    """One rule of every kind, each fitted to tell firing from silence among the tokens where `inside` holds.

    fires, inside (n,) bool; strength (n,) activations.
    """
    n_words = len(corpus.words)
    rows, hits = np.flatnonzero(inside), np.flatnonzero(inside & fires)
    rules: list[Rule | None] = []
    for kind, column in (("token", corpus.codes), ("previous", corpus.previous)):
        total = np.bincount(column[rows] + 1, minlength=n_words + 1)[1:]  # code -1 = no word
        fired = np.bincount(column[hits] + 1, minlength=n_words + 1)[1:]
        mass = np.bincount(column[hits] + 1, strength[hits], minlength=n_words + 1)[1:]
        rules.append(_best_words(corpus, kind, fired, total, mass, len(hits)))
        if kind == "token":
            for shape in SHAPES:
                shown = np.where(corpus.shape_of[shape], mass, 0)
                if shown.any():
                    examples = [corpus.words[i] for i in np.lexsort((np.arange(n_words), -shown))[:3] if shown[i]]
                    rules.append(Rule((Condition("shape", (shape,)),), tuple(examples)))
    rules.append(_best_earlier(corpus, fires, inside, len(hits)))
    if len(hits):
        position = int(np.bincount(corpus.position[hits]).argmax())
        rules.append(Rule((Condition("position", (str(position),)),)))
    return [rule for rule in rules if rule is not None]


def _best_words(
    corpus: Corpus, kind: str, fired: np.ndarray, total: np.ndarray, mass: np.ndarray, hits: int
) -> Rule | None:
    """The words whose union has the best F1 (added by falling precision), cut to the MAX_WORDS of most activation."""
    words = np.flatnonzero(fired)
    if not len(words):
        return None
    order = words[np.lexsort((words, -fired[words], -fired[words] / total[words]))]
    true, claimed = np.cumsum(fired[order]), np.cumsum(total[order])
    kept = order[: int(np.argmax(2 * true / (hits + claimed))) + 1]
    kept = kept[mass[kept] >= MINOR * mass[kept].max()]
    kept = kept[np.lexsort((kept, -mass[kept]))]
    shown = tuple(corpus.words[i] for i in kept[:MAX_WORDS])
    return Rule((Condition(kind, shown),), more=len(kept) - len(shown) if kind == "token" else 0)


def _best_earlier(corpus: Corpus, fires: np.ndarray, inside: np.ndarray, hits: int) -> Rule | None:
    """Words that came earlier: the best alone, then one more while it raises the union's F1 by MORE_WORDS.

    Unlike the words at one place, several earlier words hold at the same token, so unions have to be counted.
    """
    fired = inside & fires
    claimed = corpus.earlier.T @ inside.astype(np.float32)
    true = corpus.earlier.T @ fired.astype(np.float32)
    alone = 2 * true / (hits + claimed) if hits else true
    words = np.lexsort((np.arange(len(alone)), -alone))[:_EARLIER_CANDIDATES]
    columns = [corpus.after(word) & inside for word in words if true[word] > 0]
    kept: list[str] = []
    union, quality = np.zeros(len(corpus), bool), 0.0
    while len(kept) < min(MAX_WORDS, len(columns)):
        qualities = [_f1(fired, union | column) for column in columns]
        best = int(np.argmax(qualities))
        if qualities[best] <= quality + (MORE_WORDS if kept else 0.0):
            break
        kept.append(corpus.words[words[best]])
        union, quality = union | columns[best], qualities[best]
    return Rule((Condition("earlier", tuple(kept)),)) if kept else None


def _f1(fires: np.ndarray, predicted: np.ndarray) -> float:
    both = np.count_nonzero(fires & predicted)
    return 2 * both / (np.count_nonzero(fires) + np.count_nonzero(predicted))
