"""Activation examples and promoted tokens, on the shipped model and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingest.labels.corpus import Firing, build_corpus
from ingest.labels.examples import (
    choose_examples,
    collect_firings,
    corpus_of,
    promoted_tokens,
    split,
    tokenised,
)
from ingest.models import load_model
from ingest.organism import model_path, transcoders_path
from ingest.organism.grammar import held_out_sentences
from ingest.transcoders import load_transcoders

FEATURES = [(layer, index) for layer in range(4) for index in range(0, 1000, 20)]


@pytest.fixture(scope="module")
def shipped():
    model = load_model(model_path(), device="cpu")
    return model, load_transcoders(transcoders_path(), model)


def words_corpus(texts: list[str]):
    vocabulary = sorted({word for text in texts for word in text.split()})
    return build_corpus([[vocabulary.index(w) for w in text.split()] for text in texts], vocabulary.__getitem__)


def test_batches_and_padding_do_not_change_where_a_feature_fires(shipped):
    model, transcoders = shipped
    corpus = corpus_of(tokenised(held_out_sentences(100), model, 1000), model)
    found = collect_firings(model, transcoders, corpus, FEATURES)
    expected = {feature: np.zeros(len(corpus), np.float32) for feature in FEATURES}
    for text in range(corpus.texts):
        ids = torch.from_numpy(corpus.text_ids(text))[None]
        inputs = model.feature_inputs(ids, transcoders.input_hook)[:, 0]
        activations = [transcoder.encode(x).numpy() for transcoder, x in zip(transcoders.layers, inputs, strict=True)]
        for layer, index in FEATURES:  # without the begin-of-text token
            expected[layer, index][corpus.starts[text] + 1 : corpus.starts[text + 1]] = activations[layer][1:, index]
    assert sum(len(firing.positions) for firing in found.values()) > 50
    differing = 0
    hidden = ~corpus.counted  # special tokens inside a text
    for feature, firing in found.items():
        dense = np.zeros(len(corpus), np.float32)
        dense[firing.positions] = firing.activations
        differing += int((abs(dense - np.where(hidden, 0, expected[feature])) > 2e-4).sum())
    assert differing <= 3, differing  # a value within rounding of its threshold may fall on the other side of it


def test_promoted_tokens_are_those_of_the_decoder_row_through_the_unembedding(shipped):
    model, transcoders = shipped
    promoted, suppressed, clear = promoted_tokens(model, transcoders, [(3, 100)])[3, 100]
    norm, head = model.network.model.norm.weight, model.unembedding
    with torch.inference_mode():
        logits = ((head - head.mean(0)) @ (norm * transcoders.layers[3].w_dec[100])).numpy()
    text = np.delete(logits, model.tokenizer.all_special_ids)
    scores = (logits - text.mean()) / text.std()
    scores[model.tokenizer.all_special_ids] = 0
    order = np.argsort(-scores).tolist()
    assert promoted == [model.token_text(i).strip() for i in order[:10]]
    assert suppressed == [model.token_text(i).strip() for i in order[::-1][:10]]
    assert clear == min(10, int((scores > np.sqrt(2 * np.log(len(model.tokenizer)))).sum()))


def test_texts_are_read_up_to_the_budget_once_each_and_no_further(shipped):
    model, _ = shipped
    read = []

    def texts():
        for text in ["The key", "The key", "x", "", *held_out_sentences(50)]:
            read.append(text)
            yield text

    lists = tokenised(texts(), model, budget=100)
    assert sum(map(len, lists)) <= 100
    assert len({tuple(ids) for ids in lists}) == len(lists)
    assert len(read) < 54


def test_texts_longer_than_the_model_can_read_are_cut(shipped):
    model, _ = shipped
    assert len(tokenised(["key " * 500], model, 10_000, longest=20)[0]) == 20
    assert len(tokenised(["key " * 5000], model, 10_000, longest=10**6)[0]) == model.context


def test_making_and_scoring_share_no_text():
    lists = [[i] for i in range(7)]
    making, scoring = split(lists)
    assert not set(map(tuple, making)) & set(map(tuple, scoring))
    assert len(making) + len(scoring) == 7
    assert split(lists[:3]) == (lists[:3], [])


def test_examples_are_the_strongest_texts_then_a_spread():
    corpus = words_corpus([f"a b{i:02d} c" for i in range(24)])
    order = np.random.default_rng(0).permutation(24)  # text i peaks with activation order[i] + 1
    firing = Firing(corpus.starts[:-1] + 1, (order + 1).astype(np.float32))
    examples = choose_examples(corpus, firing)
    assert [max(e.activations) for e in examples] == [24, 23, 22, 21, 16, 11, 6]
    assert examples[0].tokens == ["a", f"b{int(order.argmax()):02d}", "c"]
    assert examples[0].activations == [0, 24, 0]


def test_one_example_per_text_and_long_texts_are_cut_around_the_peak():
    corpus = words_corpus([" ".join(f"w{i}" for i in range(100))])
    firing = Firing(np.array([50, 90]), np.array([2.0, 1.0], np.float32))
    (example,) = choose_examples(corpus, firing)
    assert example.tokens == [f"w{i}" for i in range(34, 67)]
    assert example.activations[16] == 2


def test_a_feature_that_never_fires_has_no_example():
    assert choose_examples(words_corpus(["a b"]), Firing(np.zeros(0, int), np.zeros(0, np.float32))) == []
