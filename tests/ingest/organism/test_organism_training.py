"""Training from scratch, much shortened: what comes out is a set that explains something and loads like any other."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ingest.models import load_model
from ingest.organism import grammar, model_path
from ingest.organism.train_transcoders import train_and_save
from ingest.organism.transcoder import collect, collect_batches, load_set, measure
from ingest.transcoders import load_transcoders


@pytest.fixture(scope="module")
def plain():
    """The shipped model and its tokenizer, as transformers gives them."""
    return AutoModelForCausalLM.from_pretrained(model_path()).float().eval(), AutoTokenizer.from_pretrained(
        model_path()
    )


@pytest.mark.slow
def test_a_briefly_trained_set_explains_and_loads(plain, tmp_path):
    train_and_save(model_path(), tmp_path, sentences=1000, steps=120)
    assert load_transcoders(tmp_path, load_model(model_path())).name == "atlas-organism-jumprelu"
    inputs, outputs = collect(*plain, grammar.held_out_sentences(200, seed=1))
    for layer, transcoder in enumerate(load_set(tmp_path)):
        assert measure(transcoder, inputs[layer], outputs[layer])["unexplained_variance"] < 0.95  # a constant: 1


def test_mlp_data_is_the_same_in_batches_and_leaves_padding_out(plain):
    model, tokenizer = plain
    sentences = grammar.held_out_sentences(5, seed=2)
    ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in sentences]
    whole = collect(model, tokenizer, sentences)
    single = collect_batches(model, ((one, torch.ones_like(one)) for one in ids))
    assert len(whole[0][0]) == sum(one.shape[1] - 1 for one in ids)
    for ours, theirs in zip((*whole[0], *whole[1]), (*single[0], *single[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
