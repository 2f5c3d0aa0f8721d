"""The sentences of the shipped model: a seeded generator with a held-out split.

Pure Python, no tensors.  Each sentence is an `Example`: the prompt, the token
that answers it, and the words after the answer.  What is held out, by task:

==============  =====================================================================
two_hop         every two-hop prompt of the cities in `HELD_OUT_CITIES`
ioi             a fifth of the unordered pairs of names; and one template
agreement       a fifth of the (subject noun, noun between) pairs
greater_than    a fifth of the (century, starting year) pairs
antonym         one template
filler          a fifth of the (subject, verb, object) triples
==============  =====================================================================

One-hop facts (city -> state, state -> capital) are all trained: a fact that
was never seen cannot be known.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from . import lexicon as lex
from .geography import BY_CITY, CITIES, HELD_OUT_CITIES, RELATIONS, STATES, TRAINED_CITIES, attribute


@dataclass(frozen=True)
class Example:
    """One sentence: `prompt` + `answer` + `rest`, words separated by spaces."""

    task: str
    prompt: str
    answer: str
    rest: str = "."
    facts: dict = field(default_factory=dict, compare=False)

    @property
    def text(self) -> str:
        return f"{self.prompt} {self.answer} {self.rest}".strip()


def in_held_out_fifth(*parts: str) -> bool:
    """Whether this combination belongs to the held-out fifth (a fixed checksum rule)."""
    return zlib.crc32("|".join(parts).encode()) % 5 == 0


# --- geography -------------------------------------------------------------------

CITY_TO_STATE = (
    "{city} is a city in",
    "{city} is in the state of",
    "The state containing {city} is",
    "The city of {city} lies in",
    "The name of the state containing {city} is",
)
STATE_TO_ATTRIBUTE = (
    "The {relation} of {state} is",
    "The {relation} of the state of {state} is",
    "{state} is a state whose {relation} is",
    "In the state of {state} the {relation} is",
)
TWO_HOP = (
    "The {relation} of the state containing {city} is",
    "{city} is in a state whose {relation} is",
    "The city of {city} is in a state whose {relation} is",
    "In the state containing {city} the {relation} is",
)


def city_to_state(rng: random.Random, held_out: bool) -> Example:
    city = rng.choice(CITIES)
    prompt = rng.choice(CITY_TO_STATE).format(city=city)
    return Example("city_to_state", prompt, BY_CITY[city].name, facts={"city": city})


def state_to_attribute(rng: random.Random, held_out: bool) -> Example:
    state = rng.choice(STATES)
    relation = _relation(rng)
    prompt = rng.choice(STATE_TO_ATTRIBUTE).format(relation=relation, state=state.name)
    return Example("state_to_attribute", prompt, attribute(state, relation), facts={"relation": relation})


def two_hop(rng: random.Random, held_out: bool, relation: str | None = None) -> Example:
    city = rng.choice(sorted(HELD_OUT_CITIES) if held_out else TRAINED_CITIES)
    return two_hop_example(rng.choice(TWO_HOP), city, relation or _relation(rng))


def two_hop_example(template: str, city: str, relation: str) -> Example:
    """The two-hop prompt for one city, with its answer."""
    state = BY_CITY[city]
    prompt = template.format(relation=relation, city=city)
    facts = {"city": city, "state": state.name, "relation": relation}
    return Example("two_hop", prompt, attribute(state, relation), facts=facts)


def _relation(rng: random.Random) -> str:
    return rng.choices(tuple(RELATIONS), weights=(3, 2, 1))[0]


# --- indirect objects ------------------------------------------------------------

IOI_TEMPLATES = (
    "When {a} and {b} went to the {place} , {s} gave a {gift} to",
    "After {a} and {b} walked to the {place} , {s} handed a {gift} to",
    "While {a} and {b} were at the {place} , {s} showed a {gift} to",
    "Then {a} and {b} went to the {place} . {s} gave a {gift} to",
    "When {a} and {b} were in the {place} , {s} decided to give a {gift} to",
    "After the trip {a} and {b} went to the {place} and {s} brought a {gift} to",
    "At the {place} {a} met {b} , and {s} gave a {gift} to",
    "Before {a} and {b} left the {place} , {s} passed a {gift} to",
    "When {a} met {b} near the {place} , {s} brought a {gift} to",
    "In the {place} {a} and {b} were happy when {s} showed a {gift} to",
    "If {a} and {b} walked to the {place} then {s} handed a {gift} to",
)
IOI_UNSEEN_TEMPLATE = "While {a} and {b} walked in the {place} , {s} brought a {gift} to"


def ioi(rng: random.Random, held_out: bool, template: str | None = None) -> Example:
    """Half ABBA, half BABA: the giver is the second or the first of the two names."""
    while True:
        a, b = rng.sample(lex.NAMES, 2)
        if in_held_out_fifth("ioi", *sorted((a, b))) == held_out:
            break
    giver, receiver = (a, b) if rng.random() < 0.5 else (b, a)
    words = {"a": a, "b": b, "s": giver, "place": rng.choice(lex.PLACES), "gift": rng.choice(lex.GIFTS)}
    prompt = (template or rng.choice(IOI_TEMPLATES)).format(**words)
    return Example("ioi", prompt, receiver, facts={"giver": giver, "order": "BABA" if giver == a else "ABBA"})


# --- agreement -------------------------------------------------------------------


def agreement(rng: random.Random, held_out: bool, attractors: int | None = None, mismatched: bool = False) -> Example:
    """A subject, zero to two phrases with another noun, then "is" or "are".

    Some sentences open with a phrase ("Near the doors the key ..."), so the
    subject is neither always the first noun nor always at one position.
    `mismatched`: every other noun has the other number than the subject
    (a place in an opening phrase is always singular).
    """
    count = rng.choice((0, 1, 1, 2, 2)) if attractors is None else attractors
    number = rng.randrange(2)
    while True:
        subject = rng.choice(lex.NOUNS + lex.AGENTS)
        kinds = [rng.choice(("phrase", "clause")) for _ in range(count)]
        nouns = [rng.choice(lex.NOUNS if kind == "phrase" else lex.AGENTS) for kind in kinds]
        if subject in nouns or len(set(nouns)) < count or kinds == ["clause", "clause"]:
            continue
        unseen = [in_held_out_fifth("agreement", subject[0], noun[0]) for noun in nouns]
        if not nouns or (all(unseen) if held_out else not any(unseen)):
            break
    fronted = rng.choice([n for n in lex.NOUNS if n != subject])[1 - number if mismatched else rng.randrange(2)]
    place = rng.choice(lex.PLACES)
    opener = rng.choice(
        ("The", "The", "Then the", f"In the {place} the", f"Near the {fronted} the", f"Near the {fronted} the")
    )
    words = [*opener.split(), subject[number]]
    for kind, noun in zip(kinds, nouns, strict=False):
        noun_number = 1 - number if mismatched else rng.randrange(2)
        if kind == "phrase":
            words += [rng.choice(lex.PREPOSITIONS), "the", noun[noun_number]]
        else:
            words += ["that", "the", noun[noun_number], rng.choice(lex.CLAUSE_VERBS)[noun_number]]
    answer, wrong = ("is", "are") if number == 0 else ("are", "is")
    return Example(
        "agreement", " ".join(words), answer, f"{rng.choice(lex.ADJECTIVES)} .", {"wrong": wrong, "attractors": count}
    )


# --- greater-than, antonyms, filler ----------------------------------------------

GREATER_THAN_TEMPLATE = "The {event} lasted from the year {century} {start} to the year {century}"
ANTONYM_TEMPLATES = (
    "The opposite of {word} is",
    "{word} is the opposite of",
    "The word {word} has the opposite",
    "If it is not {word} then it is",
)
ANTONYM_UNSEEN_TEMPLATE = "The opposite of the word {word} is"


def greater_than(rng: random.Random, held_out: bool) -> Example:
    """The end of a span of years: any two-digit year after the starting one is right."""
    while True:
        century, start = rng.choice(lex.CENTURIES), rng.randint(lex.FIRST_START, lex.LAST_START)
        if in_held_out_fifth("year", century, str(start)) == held_out:
            break
    prompt = GREATER_THAN_TEMPLATE.format(event=rng.choice(lex.EVENTS), century=century, start=lex.YEARS[start])
    return Example("greater_than", prompt, lex.YEARS[rng.randint(start + 1, 99)], facts={"start": start})


def antonym(rng: random.Random, held_out: bool) -> Example:
    pair = rng.choice(lex.ANTONYMS)
    word, opposite = pair if rng.random() < 0.5 else pair[::-1]
    template = ANTONYM_UNSEEN_TEMPLATE if held_out else rng.choice(ANTONYM_TEMPLATES)
    return Example("antonym", template.format(word=word), opposite)


def filler(rng: random.Random, held_out: bool) -> Example:
    """Plain sentences; the "answer" is the last content word and is not scored."""
    while True:
        agent, verb, noun = rng.choice(lex.AGENTS), rng.choice(lex.PAST_VERBS), rng.choice(lex.NOUNS)
        if in_held_out_fifth("filler", agent[0], verb, noun[0]) == held_out:
            break
    one, other = rng.randrange(2), rng.randrange(2)
    adjective = rng.choice(lex.ADJECTIVES)
    body = rng.choice(
        (
            f"The {agent[one]} {verb} the {adjective} {noun[other]} in the",
            f"{rng.choice(lex.NAMES)} and the {agent[one]} {verb} the {noun[other]} near the",
            f"Then the {adjective} {agent[one]} {verb} the {noun[other]} at the",
            f"If the {agent[one]} {verb} the {noun[other]} then {rng.choice(lex.NAMES)} walked to the",
        )
    )
    return Example("filler", body, rng.choice(lex.PLACES))


# --- mixtures --------------------------------------------------------------------

GENERATORS: dict[str, Callable[[random.Random, bool], Example]] = {
    "city_to_state": city_to_state,
    "state_to_attribute": state_to_attribute,
    "two_hop": two_hop,
    "ioi": ioi,
    "agreement": agreement,
    "greater_than": greater_than,
    "antonym": antonym,
    "filler": filler,
}
#: how often each kind of sentence is drawn
MIXTURE: dict[str, float] = {
    "city_to_state": 0.15,
    "state_to_attribute": 0.07,
    "two_hop": 0.17,
    "ioi": 0.27,
    "agreement": 0.15,
    "greater_than": 0.09,
    "antonym": 0.05,
    "filler": 0.05,
}


def examples(seed: int, held_out: bool) -> Iterator[Example]:
    """An endless stream of the training mixture, or of its held-out counterpart."""
    rng = random.Random(f"{'held-out' if held_out else 'train'}-{seed}")
    tasks, weights = tuple(MIXTURE), tuple(MIXTURE.values())
    while True:
        yield GENERATORS[rng.choices(tasks, weights=weights)[0]](rng, held_out)


def training_examples(seed: int) -> Iterator[Example]:
    """What the model and its transcoders are trained on."""
    return examples(seed, held_out=False)


def held_out_examples(task: str, count: int, seed: int = 0, **options) -> list[Example]:
    """`count` held-out examples of one task; `options` go to its generator."""
    rng = random.Random(f"{task}-{seed}")
    return [GENERATORS[task](rng, True, **options) for _ in range(count)]


def held_out_sentences(count: int, seed: int = 0) -> list[str]:
    """`count` full sentences of the held-out mixture, without the BOS token."""
    stream = examples(seed, held_out=True)
    return [next(stream).text for _ in range(count)]


def vocabulary_words() -> list[str]:
    """Every single word a sentence can contain apart from the names in `geography`."""
    words: dict[str, None] = {}
    templates = (
        *CITY_TO_STATE,
        *STATE_TO_ATTRIBUTE,
        *TWO_HOP,
        *IOI_TEMPLATES,
        IOI_UNSEEN_TEMPLATE,
        GREATER_THAN_TEMPLATE,
        *ANTONYM_TEMPLATES,
        ANTONYM_UNSEEN_TEMPLATE,
    )
    for template in templates:
        words.update(dict.fromkeys(w for w in template.split() if not w.startswith("{")))
    extra = [
        "The",
        "Then",
        "If",
        "In",
        "Near",
        "and",
        "the",
        "in",
        "at",
        "near",
        "then",
        "walked",
        "to",
        "that",
        "is",
        "are",
        ".",
        ",",
    ]
    pairs = (*lex.NOUNS, *lex.AGENTS, *lex.CLAUSE_VERBS, *lex.ANTONYMS)
    for group in (
        extra,
        RELATIONS,
        lex.NAMES,
        lex.PLACES,
        lex.GIFTS,
        *pairs,
        lex.PREPOSITIONS,
        lex.PAST_VERBS,
        lex.ADJECTIVES,
        lex.EVENTS,
        lex.CENTURIES,
        lex.YEARS,
    ):
        words.update(dict.fromkeys(group))
    return list(words)
