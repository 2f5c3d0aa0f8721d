"""Word lists for the sentences the shipped model is trained on."""

from __future__ import annotations

NAMES: tuple[str, ...] = (
    "Mary",
    "John",
    "Alice",
    "Peter",
    "Susan",
    "Tom",
    "Laura",
    "Mark",
    "Emma",
    "Paul",
    "Anna",
    "James",
    "Kate",
    "Robert",
    "Julia",
    "David",
    "Linda",
    "Simon",
    "Grace",
    "Henry",
    "Nina",
    "Oscar",
    "Rose",
    "Victor",
    "Clara",
    "Daniel",
    "Ruth",
    "George",
    "Irene",
    "Frank",
)
PLACES: tuple[str, ...] = (
    "store",
    "park",
    "school",
    "office",
    "museum",
    "library",
    "market",
    "garden",
    "station",
    "beach",
)
GIFTS: tuple[str, ...] = ("book", "ball", "ring", "cup", "map", "letter", "drink", "flower", "coin", "hat")

#: (singular, plural); things that other things can be near
NOUNS: tuple[tuple[str, str], ...] = tuple(
    (word, word + "s")
    for word in [
        "key",
        "cabinet",
        "door",
        "table",
        "chair",
        "window",
        "lamp",
        "crate",
        "picture",
        "bottle",
        "basket",
        "wagon",
        "tree",
        "river",
        "bridge",
        "tower",
        "house",
        "road",
        "boat",
        "clock",
    ]
)
#: (singular, plural); people and animals that can do something in a clause
AGENTS: tuple[tuple[str, str], ...] = tuple(
    (word, word + "s")
    for word in ["boy", "girl", "farmer", "teacher", "doctor", "dog", "cat", "horse", "pilot", "singer"]
)
PREPOSITIONS: tuple[str, ...] = ("to", "near", "behind", "beside", "under", "above")
#: (with a singular agent, with plural agents)
CLAUSE_VERBS: tuple[tuple[str, str], ...] = tuple(
    (verb + "s", verb) for verb in ["like", "see", "clean", "own", "need"]
)
PAST_VERBS: tuple[str, ...] = ("found", "moved", "painted", "watched", "wanted", "passed")

#: (word, opposite); the relation is used both ways round
ANTONYMS: tuple[tuple[str, str], ...] = tuple(
    tuple(pair.split("-"))  # type: ignore[misc]
    for pair in [
        "hot-cold",
        "big-small",
        "tall-short",
        "fast-slow",
        "light-dark",
        "happy-sad",
        "rich-poor",
        "old-young",
        "early-late",
        "hard-soft",
        "wet-dry",
        "clean-dirty",
        "strong-weak",
        "full-empty",
        "open-closed",
        "loud-quiet",
        "thick-thin",
        "sweet-bitter",
        "wide-narrow",
        "sharp-dull",
        "brave-afraid",
        "deep-shallow",
        "rough-smooth",
        "good-bad",
        "high-low",
    ]
)
ADJECTIVES: tuple[str, ...] = ("red", "green", "heavy", "broken", "round", "small", "old", "dirty", "quiet", "big")

EVENTS: tuple[str, ...] = ("war", "siege", "truce", "trial", "voyage", "project", "plague", "strike", "tour", "feud")
CENTURIES: tuple[str, ...] = tuple(str(c) for c in range(11, 20))
#: two-digit years; the first and the last few are never a starting year
YEARS: tuple[str, ...] = tuple(f"{y:02d}" for y in range(100))
FIRST_START, LAST_START = 2, 96
