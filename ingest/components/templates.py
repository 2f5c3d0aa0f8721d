"""Prompt pairs made by templates: indirect objects, subject-verb agreement, greater-than. Seeded, the same on every machine.

All pairs of one call have the same number of tokens and the same words at the same places, so that a heat map over positions
says something. Words are those of the shipped model's grammar; those that the tokenizer at hand does not know as one token are
left out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from atlas.causal_records import PromptPair, Template
from atlas.errors import InputRejected, UsageError
from ingest.models.base import Model
from ingest.organism import lexicon
from ingest.trace.prompt import prompt_ids

IOI_FRAMES = (
    "When {a} and {b} went to the {place}, {s} gave a {gift} to",
    "After {a} and {b} walked to the {place}, {s} handed a {gift} to",
    "While {a} and {b} were at the {place}, {s} showed a {gift} to",
    "When {a} and {b} were in the {place}, {s} brought a {gift} to",
    "If {a} and {b} walked to the {place}, {s} passed a {gift} to",
)
AGREEMENT_FRAMES = tuple(f"The {{subject}} {preposition} the {{other}}" for preposition in lexicon.PREPOSITIONS)
GREATER_THAN_FRAMES = ("The {event} lasted from the year {century}{start} to the year {century}",)
_PATIENCE = 300  # draws in a row without a new pair, before a template counts as exhausted

Draw = Callable[[random.Random], PromptPair]


def make_pairs(template: Template, count: int, seed: int, model: Model) -> list[PromptPair]:
    """`count` different pairs.

    ioi (Wang et al. 2023): half name the indirect object first (ABB), half the subject (BAB); in the corrupted prompt a
    third name gives, so that nothing tells the two names apart. agreement (Linzen et al. 2016): a subject and another noun of
    either number; corrupted: the subject in the other number. greater-than (Hanna et al. 2023): the answer is a year after the
    starting one, the wrong answer one before it (a digit of tens where years are written digit by digit); corrupted: the span
    starts in the year 02, after which both are right.
    Raises InputRejected where the tokenizer lacks the words, UsageError for an unknown template.
    """
    makers = {"ioi": _ioi, "agreement": _agreement, "greater-than": _greater_than}
    if template not in makers:
        raise UsageError(f"There is no template {template!r}.", f"Choose {', '.join(makers)}.")
    draw = makers[template](model)
    rng = random.Random(f"{template}-{seed}")
    first = [_length(model, draw(random.Random(f"length-{i}"))) for i in range(100)]
    lengths = Counter(length for length in first if length is not None)
    if not lengths:
        raise _lacking(template)
    usual = max(lengths, key=lambda length: (lengths[length], -length))
    made: dict[str, PromptPair] = {}
    misses = 0
    while len(made) < count and misses < _PATIENCE:
        pair = draw(rng)
        misses += 1
        if pair.clean not in made and _length(model, pair) == usual:
            made[pair.clean] = pair
            misses = 0
    if len(made) == count:
        return list(made.values())
    raise InputRejected(
        f"The template {template!r} makes {len(made)} different pairs with this tokenizer, and {count} were asked for.",
        "Ask for fewer.",
    )


def _ioi(model: Model) -> Draw:
    names = _single(model, lexicon.NAMES)
    places, gifts = _single(model, lexicon.PLACES), _single(model, lexicon.GIFTS)
    if len(names) < 3 or not places or not gifts:
        raise _lacking("ioi")

    def draw(rng: random.Random) -> PromptPair:
        receiver, giver, third = rng.sample(names, 3)
        frame, abb = rng.choice(IOI_FRAMES), rng.random() < 0.5
        a, b = (receiver, giver) if abb else (giver, receiver)
        words = {"a": a, "b": b, "place": rng.choice(places), "gift": rng.choice(gifts)}
        return PromptPair(
            clean=frame.format(s=giver, **words),
            corrupted=frame.format(s=third, **words),
            answer=" " + receiver,
            wrong=" " + giver,
        )

    return draw


def _agreement(model: Model) -> Draw:
    known = {word for pair in lexicon.NOUNS for word in _single(model, pair)}
    nouns = [pair for pair in lexicon.NOUNS if known.issuperset(pair)]
    if len(nouns) < 2 or len(_single(model, ("is", "are"))) < 2:
        raise _lacking("agreement")

    def draw(rng: random.Random) -> PromptPair:
        (subject, other), number = rng.sample(nouns, 2), rng.randrange(2)
        frame, attractor = rng.choice(AGREEMENT_FRAMES), other[rng.randrange(2)]
        verbs = (" is", " are")
        return PromptPair(
            clean=frame.format(subject=subject[number], other=attractor),
            corrupted=frame.format(subject=subject[1 - number], other=attractor),
            answer=verbs[number],
            wrong=verbs[1 - number],
        )

    return draw


def _greater_than(model: Model) -> Draw:
    events = _single(model, lexicon.EVENTS)
    spelling = next((s for s in (_years_joined, _years_apart) if s(model) is not None), None)
    width = spelling(model) if spelling else None
    if not events or width is None:
        raise _lacking("greater-than")
    gap = "" if spelling is _years_joined else " "

    def draw(rng: random.Random) -> PromptPair:
        century = rng.choice(lexicon.CENTURIES)
        start = rng.randint(21, 79)  # leaves both an answer and a wrong one, also where only tens are written
        unit = 10 if width == 1 else 1
        later = rng.randint(start // unit + 1, 99 // unit)
        earlier = rng.randint(1 if width == 1 else 3, start // unit - 1)
        words = {"event": rng.choice(events), "century": century}
        frame = GREATER_THAN_FRAMES[0]
        return PromptPair(
            clean=frame.format(start=gap + f"{start:02d}", **words),
            corrupted=frame.format(start=gap + "02", **words),
            answer=gap + f"{later:0{width}d}",
            wrong=gap + f"{earlier:0{width}d}",
        )

    return draw


def _years_joined(model: Model) -> int | None:
    """How many digits the first token after `17` has in `1732`; None where the tokenizer writes years otherwise."""
    whole, begun = _ids(model, "in the year 1732"), _ids(model, "in the year 17")
    if whole[: len(begun)] != begun or _unknown(model, whole):
        return None
    rest = [model.token_text(i) for i in whole[len(begun) :]]
    return {("32",): 2, ("3", "2"): 1}.get(tuple(rest))


def _years_apart(model: Model) -> int | None:
    """As `_years_joined`, of `17 32`."""
    whole, begun = _ids(model, "in the year 17 32"), _ids(model, "in the year 17")
    if whole[: len(begun)] != begun or _unknown(model, whole):
        return None
    return 2 if len(whole) == len(begun) + 1 else None


def _length(model: Model, pair: PromptPair) -> int | None:
    """Tokens of the clean prompt; None for a pair that cannot be used: unknown words, twins of different lengths."""
    clean, twin = prompt_ids(model, pair.clean, None), prompt_ids(model, pair.corrupted or "", None)
    answers = [_ids(model, text) for text in (pair.answer, pair.wrong or "")]
    if len(clean) != len(twin) or any(len(ids) != 1 for ids in answers):
        return None
    # without the token put in front, which in GPT-2's tokenizer is the unknown one too
    words = [*_ids(model, pair.clean), *_ids(model, pair.corrupted or ""), *answers[0], *answers[1]]
    return None if _unknown(model, words) else len(clean)


def _single(model: Model, words: tuple[str, ...]) -> list[str]:
    """Those that are one known token after a space."""
    found = [(word, _ids(model, " " + word)) for word in words]
    return [word for word, ids in found if len(ids) == 1 and not _unknown(model, ids)]


def _ids(model: Model, text: str) -> list[int]:
    return model.tokenizer.encode(text, add_special_tokens=False)


def _unknown(model: Model, ids: list[int]) -> bool:
    return model.tokenizer.unk_token_id in ids


def _lacking(template: str) -> InputRejected:
    return InputRejected(
        f"The template {template!r} needs words that this model's tokenizer does not have as single tokens.",
        "Give prompt pairs of your own.",
    )
