"""The detection score: perfect is 1, chance is 0.5, and it is an AUROC."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.labels.corpus import Corpus, Firing, build_corpus
from ingest.labels.score import auroc, detection_score, random_score
from ingest.labels.tokens import Condition, Rule

WORDS = [f"w{i}" for i in range(20)]


def random_corpus(seed: int, texts: int = 100) -> Corpus:
    ids = np.random.default_rng(seed).integers(0, 20, (texts, 20)).tolist()
    return build_corpus(ids, WORDS.__getitem__)


def on(*words: str) -> Rule:
    return Rule((Condition("token", words),))


def fires_on(corpus: Corpus, rule: Rule) -> Firing:
    positions = np.flatnonzero(rule.mask(corpus))
    return Firing(positions, np.ones(len(positions), np.float32))


def test_a_label_that_holds_exactly_where_the_feature_fires_scores_one():
    corpus = random_corpus(0)
    assert detection_score(corpus, fires_on(corpus, on("w3", "w4")), on("w3", "w4")) == 1


def test_a_label_that_holds_exactly_where_it_is_silent_scores_zero():
    corpus = random_corpus(0)
    assert detection_score(corpus, fires_on(corpus, on(*WORDS[2:])), on("w0", "w1")) == 0


def test_a_label_unrelated_to_the_firings_scores_about_a_half():
    scores = []
    for seed in range(20):
        corpus = random_corpus(seed)
        positions = np.flatnonzero(np.random.default_rng(seed).random(len(corpus)) < 0.1)
        scores.append(detection_score(corpus, Firing(positions, np.ones(len(positions))), on("w0", "w5", "w7")))
    assert np.mean(scores) == pytest.approx(0.5, abs=0.02)


def test_a_label_that_always_holds_scores_a_half():
    corpus = random_corpus(0)
    assert detection_score(corpus, fires_on(corpus, on("w3")), Rule((Condition("everywhere"),))) == 0.5


def test_half_of_the_words_give_half_of_the_way_from_chance_to_perfect():
    corpus = build_corpus([[0, 1, 2, 3]] * 10, WORDS.__getitem__)
    assert detection_score(corpus, fires_on(corpus, on("w0", "w1")), on("w0")) == 0.75


def test_too_few_firings_are_not_scored():
    corpus = random_corpus(0)
    assert detection_score(corpus, Firing(np.array([3, 5]), np.ones(2)), on("w3")) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40))
def test_auroc_counts_pairs(rows):
    event = np.array([e for e, _ in rows])
    predictor = np.array([p for _, p in rows])
    pairs = [(a > b) + (a == b) / 2 for a in predictor[event] for b in predictor[~event]]
    if not pairs:
        assert auroc(event, predictor) is None
    else:
        assert auroc(event, predictor) == pytest.approx(np.mean(pairs))


@given(st.sets(st.integers(0, 199), min_size=3, max_size=190), st.sets(st.sampled_from(WORDS)))
def test_the_detection_score_is_the_auroc_of_a_yes_or_no_predictor(positions, words):
    corpus = random_corpus(1, texts=10)
    firing, rule = Firing(np.array(sorted(positions)), np.ones(len(positions))), on(*sorted(words))
    score = detection_score(corpus, firing, rule)
    assert 0 <= score <= 1
    assert score == pytest.approx(auroc(firing.mask(len(corpus)), rule.mask(corpus)))


def test_the_random_score_uses_other_features_only_and_does_not_change():
    corpus = random_corpus(0)
    firing = fires_on(corpus, on("w0"))
    assert random_score(corpus, firing, "a", {"a": on("w0")}) is None
    others = {"a": on("w0"), **{f"f{i}": on(f"w{i}") for i in range(1, 20)}}
    first = random_score(corpus, firing, "a", others)
    assert first == random_score(corpus, firing, "a", dict(reversed(others.items())))
    assert first < 0.5
