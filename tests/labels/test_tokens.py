"""The deterministic labeler on activations written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.labels.corpus import Corpus, Firing, build_corpus
from ingest.labels.tokens import Condition, Rule, find_rule, label_text, word_following

TEXTS = [
    "The capital of the state containing Dallas is Austin .",
    "The capital of the state containing Houston is Austin .",
    "The capital of the state containing Oakland is Sacramento .",
    "The city of Dallas lies in Texas .",
    "The war lasted from the year 17 32 to the year 17 45 .",
    "The trip took 2 3 4 5 days in the year 18 06 .",
    "The opposite of hot is cold .",
    "The opposite of tall is short .",
    "Houston is a city in Texas .",
]


def corpus_of(texts: list[str]) -> Corpus:
    vocabulary = ["<bos>", *sorted({word for text in texts for word in text.split()})]
    ids = {word: i for i, word in enumerate(vocabulary)}
    return build_corpus(
        [[0] + [ids[w] for w in text.split()] for text in texts], vocabulary.__getitem__, frozenset({0})
    )


@pytest.fixture
def corpus() -> Corpus:
    return corpus_of(TEXTS * 4)


def firing_where(corpus: Corpus, test) -> Firing:
    """Fires where test(word, words before it in the text) holds."""
    positions = []
    for text in range(corpus.texts):
        start, stop = int(corpus.starts[text]), int(corpus.starts[text + 1])
        words = [corpus.words[code] for code in corpus.codes[start:stop]]
        positions += [start + i for i in range(1, len(words)) if test(words[i], words[1:i])]
    return Firing(np.array(positions, int), np.ones(len(positions), np.float32))


def label(corpus: Corpus, firing: Firing, promoted: list[str]) -> str:
    rule = find_rule(corpus, firing)
    return label_text(rule, word_following(corpus, firing) if rule else None, promoted)


CASES = [
    (
        "tokens with what follows and what they promote",
        lambda word, before: word in {"Dallas", "Oakland"} and "capital" in before,
        ["Austin", "Texas", "TX", "Waco"],
        'on "Dallas", "Oakland" right after "containing"; then "is"; promotes "Austin", "Texas", "TX"',
    ),
    ("one token", lambda word, before: word == "containing", [], 'on "containing"'),
    (
        "tokens",
        lambda word, before: word in {"Dallas", "Houston"},
        ["Texas"],
        'on "Dallas", "Houston"; then "is"; promotes "Texas"',
    ),
    (
        "a token only after certain words",
        lambda word, before: word == "." and "Dallas" in before,
        ["Austin"],
        'on "." after "Dallas"; promotes "Austin"',
    ),
    ("numbers", lambda word, before: word.isdigit(), [], 'on numbers such as "17", "06", "18"'),
    ("the first token", lambda word, before: not before, [], "at position 1"),
    ("any token after one", lambda word, before: before[-1:] == ["of"], [], 'right after "of"; then "state"'),
    ("anything once a word has come", lambda word, before: "war" in before, [], 'anywhere after "war"'),
    ("everything", lambda word, before: True, ["."], 'on almost every token; promotes "."'),
    (
        "nothing",
        lambda word, before: False,
        ["Austin", "Texas"],
        'promotes "Austin", "Texas" (did not fire on the texts)',
    ),
    ("nothing at all", lambda word, before: False, [], "promotes nothing clearly (did not fire on the texts)"),
]


@pytest.mark.parametrize(("test", "promoted", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_label_says_literally_where_the_feature_fires(corpus, test, promoted, expected):
    assert label(corpus, firing_where(corpus, test), promoted) == expected


def test_a_long_list_of_tokens_says_how_many_are_left_out():
    names = [f"name{i}" for i in range(9)]
    corpus = corpus_of([f"then {name} went home" for name in names])
    fires = firing_where(corpus, lambda word, before: word in {*names} and word not in {"then"})
    rule = Rule((Condition("token", tuple(names[:6])),), more=3)
    assert rule.text().endswith('"name5" and 3 more')
    assert find_rule(corpus, fires).text() in {rule.text(), 'right after "then"', "at position 2"}


def test_the_same_input_gives_the_same_label_whatever_the_order_of_equal_words():
    texts = ["b x c", "a x d", "c x a", "d x b"]
    corpus = corpus_of(texts)
    firing = firing_where(corpus, lambda word, before: word in "ad")
    assert find_rule(corpus, firing).text() == find_rule(corpus_of(texts), firing).text() == 'on "a", "d"'


def test_special_tokens_are_never_described(corpus):
    only_begin = Firing(corpus.starts[:-1], np.ones(corpus.texts, np.float32))
    assert find_rule(corpus, only_begin) is None


def test_two_conditions_need_more_than_a_few_firings():
    corpus = corpus_of(TEXTS)
    twice = firing_where(corpus, lambda word, before: word == "." and "Dallas" in before)
    assert len(twice.positions) == 2
    assert len(find_rule(corpus, twice).conditions) == 1
    assert (
        len(
            find_rule(
                corpus_of(TEXTS * 4),
                Firing(np.concatenate([twice.positions + i * len(corpus) for i in range(4)]), np.ones(8)),
            ).conditions
        )
        == 2
    )


def test_a_rule_holds_only_where_all_its_conditions_hold():
    corpus = corpus_of(TEXTS)
    rule = Rule((Condition("token", ("is",)), Condition("earlier", ("Dallas", "hot"))))
    held = [(int(corpus.text_of[i]), corpus.words[corpus.codes[i]]) for i in np.flatnonzero(rule.mask(corpus))]
    assert held == [(0, "is"), (6, "is")]


def test_a_rule_about_words_that_a_corpus_lacks_holds_nowhere(corpus):
    for kind in ("token", "previous", "earlier"):
        assert not Rule((Condition(kind, ("Paris",)),)).mask(corpus).any()


def test_previous_and_earlier_stay_within_their_text(corpus):
    first = corpus.starts[1:-1] + 1
    assert (corpus.previous[first] == -1).all()
    assert corpus.earlier[first].sum() == 0
    assert (corpus.following[corpus.starts[1:] - 1] == -1).all()


def test_blanks_around_a_token_are_not_shown_but_a_token_of_blanks_is():
    corpus = build_corpus([[0, 1, 2]], [" Dallas", "Dallas", "\n"].__getitem__)
    assert corpus.words == ["'\\n'", "Dallas"]
    assert corpus.codes.tolist() == [1, 1, 0]
