"""The shipped model and transcoders: they load, and their figures hold when measured again."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ingest.organism import SAMPLE_PROMPTS, evaluate, grammar, model_path, transcoders_path
from ingest.organism.card import render
from ingest.organism.geography import STATES, names
from ingest.organism.patching import flip_rates
from ingest.organism.transcoder import collect, load_set, measure

FIGURES = json.loads((model_path().parent / "figures.json").read_text())


@pytest.fixture(scope="module")
def shipped():
    return evaluate.load(model_path())


def test_model_and_transcoders_are_small():
    files = [f for folder in (model_path(), transcoders_path()) for f in folder.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 10_000_000


def test_weights_are_half_precision_on_disk():
    for file in (model_path() / "model.safetensors", *sorted(transcoders_path().glob("*.safetensors"))):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_transcoder_folder_layout(shipped):
    config = yaml.safe_load((transcoders_path() / "config.yaml").read_text())
    assert config["model_kind"] == "transcoder_set"
    assert config["feature_input_hook"] == "mlp.hook_in"
    assert config["feature_output_hook"] == "mlp.hook_out"
    width = shipped[0].config.hidden_size
    for i in range(shipped[0].config.num_hidden_layers):
        tensors = load_file(transcoders_path() / f"layer_{i}.safetensors")
        features = tensors["W_enc"].shape[0]
        assert {name: tuple(t.shape) for name, t in tensors.items()} == {
            "W_enc": (features, width),
            "b_enc": (features,),
            "W_dec": (features, width),
            "b_dec": (width,),
            "activation_function.threshold": (features,),
        }
        assert 512 <= features <= 1024


def test_every_name_is_one_token_and_text_round_trips(shipped):
    tokenizer = shipped[1]
    for name in names():
        ids = tokenizer(name)["input_ids"]
        assert len(ids) == 2
        assert ids[0] == tokenizer.bos_token_id
        assert ids[1] != tokenizer.unk_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == name
    for text in [f"The capital of {s.name} is {s.capital} ." for s in STATES] + grammar.held_out_sentences(200):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("two_hop", {"relation": "capital"}),
        ("ioi", {}),
        ("ioi", {"template": grammar.IOI_UNSEEN_TEMPLATE}),
        ("agreement", {"attractors": 1, "mismatched": True}),
        ("agreement", {"attractors": 2, "mismatched": True}),
        ("antonym", {}),
    ],
)
def test_accuracy_gates(shipped, task, options):
    examples = grammar.held_out_examples(task, 300, seed=99, **options)
    assert evaluate.accuracy(*shipped, examples) >= 0.9


def test_shortcuts_stay_below_the_model():
    for name, row in FIGURES["tasks"].items():
        if name.endswith(("ABBA", "BABA")):  # within one order of names the place alone gives the answer
            continue
        if "mismatched" in name or name.startswith(("two-hop", "indirect")):
            assert row["score"] > max(row[k] for k in ("chance", "unigram", "bigram", "position")) + 0.15, name


def test_unexplained_variance(shipped):
    inputs, outputs = collect(*shipped, grammar.held_out_sentences(300, seed=99))
    for i, transcoder in enumerate(load_set(transcoders_path())):
        figures = measure(transcoder, inputs[i], outputs[i])
        assert figures["unexplained_variance"] <= 0.15
        assert 3 <= figures["l0"] <= 25


def test_permuted_decoders_do_not_explain(shipped):
    inputs, outputs = collect(*shipped, grammar.held_out_sentences(200, seed=99))
    transcoder = load_set(transcoders_path())[0]
    transcoder.w_dec = transcoder.w_dec[
        torch.randperm(len(transcoder.w_dec), generator=torch.Generator().manual_seed(0))
    ]
    assert measure(transcoder, inputs[0], outputs[0])["unexplained_variance"] > 0.5


def test_sample_prompts_are_answered(shipped):
    model, tokenizer = shipped
    for sample in SAMPLE_PROMPTS:
        row = evaluate.answer_logits(model, tokenizer, [sample.prompt])[0]
        best = tokenizer.decode([int(row.argmax())])
        if sample.task == "greater_than":
            assert int(best) > int(sample.answer.split()[-1])
        else:
            assert best == sample.answer, sample.prompt
        for text in (sample.prompt, *sample.related):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_sample_two_hop_prompts_are_held_out_and_go_through_the_state(shipped):
    from ingest.organism.geography import BY_CITY, HELD_OUT_CITIES

    layer = FIGURES["patching"]["layer"]
    for sample in SAMPLE_PROMPTS:
        if sample.task != "two_hop":
            continue
        assert sample.city in HELD_OUT_CITIES
        assert (BY_CITY[sample.city].name, BY_CITY[sample.city].capital) == (sample.intermediate, sample.answer)
        example = grammar.two_hop_example(grammar.TWO_HOP[0], sample.city, "capital")
        assert example.prompt == sample.prompt
        rates = flip_rates(*shipped, [example], layer, targets_each=15)
        assert rates["state_flips"] >= 0.9, sample.prompt
        assert rates["random_flips"] <= 0.1
        assert rates["same_state_flips"] <= 0.1


def test_card_is_written_from_the_figures():
    assert (model_path().parent / "MODEL_CARD.md").read_text() == render(FIGURES)


def test_stored_figures_hold(shipped):
    again = evaluate._rounded(evaluate.sample_figures(*shipped))
    for stored, measured in zip(FIGURES["samples"], again, strict=True):
        assert stored["likeliest"] == measured["likeliest"]
        assert abs(stored["probability"] - measured["probability"]) < 0.01
