"""Pairs become token ids, or are refused in one sentence before the model runs."""

from __future__ import annotations

import json

import pytest
import torch

from atlas.causal_records import PatchRequest, PromptPair
from atlas.errors import InputRejected, UsageError
from ingest.components.metrics import metric
from ingest.components.pair_files import read_pairs
from ingest.components.pairs import make_cases, recorded_cases, requested_pairs
from ingest.components.record import question
from ingest.components.templates import make_pairs
from ingest.models import load_model
from ingest.organism import lexicon
from tests.ingest.trace.conftest import write_model

IOI = PromptPair(
    clean="When Mary and John went to the store, John gave a book to",
    corrupted="When Mary and John went to the store, Peter gave a book to",
    answer=" Mary",
    wrong=" John",
)


@pytest.fixture
def unused_network(shipped, monkeypatch):
    """The shipped model, whose network must not run."""

    def refuse(*args, **kwargs):
        raise AssertionError("the model ran")

    monkeypatch.setattr(shipped.network, "forward", refuse)
    return shipped


def test_a_pair_becomes_ids_that_begin_with_the_special_token(shipped):
    cases = make_cases(shipped, [IOI], metric="logit-difference", corrupted=True)
    text = shipped.tokenizer.decode(cases.clean[0])
    assert text.startswith("<bos>")
    assert "John gave a book to" in text
    assert (cases.clean != cases.corrupted).nonzero().tolist() == [[0, 10]]
    assert shipped.token_text(int(cases.answers[0])).strip() == "Mary"
    assert cases.last.tolist() == [cases.clean.shape[1] - 1]


def test_pairs_of_different_lengths_are_padded_on_the_right_and_grouped(shipped):
    short = PromptPair(clean="The key to the doors", corrupted="The keys to the doors", answer="is", wrong="are")
    cases = make_cases(shipped, [IOI, short, IOI])
    assert cases.lengths.tolist() == [15, 6, 15]
    assert cases.clean[1, 6:].tolist() == [0] * 9
    assert cases.by_length() == [[1], [0, 2]]
    assert cases.take([1]).clean.shape == (1, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corrupted": "When Mary and John went to the store, Peter gave to"}, "clean 15 tokens, corrupted 13"),
        ({"answer": " Mary gave"}, "' Mary gave' of pair 2 is 2 tokens"),
        ({"wrong": ""}, "is 0 tokens"),
        ({"answer": " Zanzibar"}, "' Zanzibar' of pair 2 is not in the model's vocabulary"),
        ({"wrong": " Mary"}, "same token"),
        ({"wrong": None}, "Pair 2 has no wrong answer"),
        ({"corrupted": None}, "Pair 2 has no corrupted prompt"),
        ({"clean": "  \n"}, "The clean prompt of pair 2 is empty"),
        ({"corrupted": " "}, "The corrupted prompt of pair 2 is empty"),
        ({"clean": "is " * 70}, "The clean prompt of pair 2 has 71 tokens, the model's context 64"),
    ],
)
def test_a_pair_that_cannot_be_used_is_refused_by_its_number(unused_network, change, said):
    pairs = [IOI, IOI.model_copy(update=change)]
    with pytest.raises(InputRejected) as refused:
        make_cases(unused_network, pairs, metric="logit-difference", corrupted=True)
    assert said in refused.value.message
    assert refused.value.message.count(". ") == 0
    assert refused.value.place == "pair 2"


def test_what_is_not_needed_may_be_left_out(shipped):
    bare = PromptPair(clean=IOI.clean, answer=" Mary")
    cases = make_cases(shipped, [bare, IOI], metric="probability")
    assert cases.corrupted is None
    assert cases.wrong is None


def test_no_pairs_both_or_neither_source_are_refused(shipped):
    with pytest.raises(InputRejected, match="no prompt pair"):
        make_cases(shipped, [])
    for request in (PatchRequest(), PatchRequest(pairs=[IOI], template="ioi")):
        with pytest.raises(UsageError, match="either prompt pairs or a template"):
            requested_pairs(shipped, request)


def test_a_record_gives_back_the_cases_it_was_made_of(shipped):
    cases = make_cases(shipped, [*make_pairs("agreement", 5, 0, shipped), IOI])
    record = question(shipped, "demo", cases, "activation patching", metric("logit-difference"), {})
    again = recorded_cases(shipped, record)
    for name in ("clean", "corrupted", "lengths", "answers", "wrong"):
        assert torch.equal(getattr(again, name), getattr(cases, name)), name
    bare = record.model_copy(update={"method": record.method.model_copy(update={"parameters": {}})})
    with pytest.raises(InputRejected, match="does not hold the cases"):
        recorded_cases(shipped, bare)


def test_files_of_pairs_are_read(tmp_path):
    lines = tmp_path / "pairs.jsonl"
    lines.write_text("\n" + json.dumps(IOI.model_dump()) + "\n" + json.dumps({"clean": "a", "answer": "b"}) + "\n")
    assert read_pairs(lines) == [IOI, PromptPair(clean="a", answer="b")]
    cells = tmp_path / "pairs.csv"
    cells.write_text('clean,corrupted,answer,wrong\n"One, two",x, Mary,\n')
    assert read_pairs(cells) == [PromptPair(clean="One, two", corrupted="x", answer=" Mary")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"clean": "a", "answer": "b"}\n{"clean": "a"}\n', "a.jsonl, line 2: answer is missing"),
        ("a.jsonl", '{"clean": "a", "answer": "b", "prompt": "c"}', "line 1: prompt is not known"),
        ("a.jsonl", '{"clean": 1, "answer": "b"}', "line 1: clean is not text"),
        ("a.jsonl", "{", "line 1: is not JSON"),
        ("a.jsonl", "\n", "holds no prompt pair"),
        ("a.csv", "prompt,answer\na,b\n", "has a column 'prompt'"),
        ("a.csv", "answer\nb\n", "has no column `clean`"),
        ("a.txt", "a", "neither .csv nor .jsonl"),
    ],
)
def test_a_file_of_pairs_is_refused_with_its_line(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputRejected) as refused:
        read_pairs(file)
    assert said in refused.value.message


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputRejected, match="cannot be read"):
        read_pairs(tmp_path / "none.jsonl")


@pytest.mark.parametrize("template", ["ioi", "agreement", "greater-than"])
def test_templates_make_aligned_pairs_the_same_each_time(shipped, template):
    pairs = make_pairs(template, 30, 3, shipped)
    assert pairs == make_pairs(template, 30, 3, shipped)
    assert pairs != make_pairs(template, 30, 4, shipped)
    assert len({pair.clean for pair in pairs}) == 30
    cases = make_cases(shipped, pairs, metric="logit-difference", corrupted=True)
    assert len(set(cases.lengths.tolist())) == 1
    differing = (cases.clean != cases.corrupted).any(0).nonzero().flatten().tolist()
    assert len(differing) == 1  # one word, at one place


@pytest.mark.parametrize(("template", "lowest"), [("ioi", 5.0), ("agreement", 3.0), ("greater-than", 1.0)])
def test_the_shipped_model_answers_the_templates(shipped, template, lowest):
    from ingest.components.network import answer_logits

    cases = make_cases(shipped, make_pairs(template, 40, 0, shipped))
    measure = metric("logit-difference")
    clean = measure(answer_logits(shipped, cases.clean, cases.lengths), cases)
    corrupted = measure(answer_logits(shipped, cases.corrupted, cases.lengths), cases)
    assert clean.mean() > lowest
    assert clean.mean() - corrupted.mean() > 1


def test_half_of_the_ioi_pairs_name_the_indirect_object_first(shipped):
    first = [
        pair.clean.index(pair.answer) < pair.clean.index(pair.wrong) for pair in make_pairs("ioi", 200, 0, shipped)
    ]
    assert 70 < sum(first) < 130


def test_a_template_that_a_tokenizer_cannot_spell_is_refused(oracle_model):
    for template in ("ioi", "agreement", "greater-than"):
        with pytest.raises(InputRejected, match="single tokens"):
            make_pairs(template, 3, 0, oracle_model)


def test_more_pairs_than_a_template_has_are_refused(shipped, monkeypatch):
    monkeypatch.setattr("ingest.organism.lexicon.NOUNS", (("key", "keys"), ("door", "doors")))
    with pytest.raises(InputRejected, match=r"makes 48 different pairs .* and 100 were asked for"):
        make_pairs("agreement", 100, 0, shipped)  # 2 subjects, 2 numbers, 2 numbers of the other, 6 frames


def test_years_written_digit_by_digit_are_compared_by_their_tens(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<bos>",
        "<unk>",
        *map(str, range(10)),
        *["The", "lasted", "from", "the", "year", "to", "in"],
        *lexicon.EVENTS,
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    folder = write_model(tmp_path / "digits")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    model = load_model(folder, device="cpu")
    pairs = make_pairs("greater-than", 20, 0, model)
    for pair in pairs:
        century, start = pair.clean.rsplit(" ", 1)[1], pair.clean.split("year ")[1][2:4]
        assert pair.clean.split("year ")[1].startswith(century)
        assert int(pair.wrong) < int(start[0]) < int(pair.answer)
        assert f"{century}02 to" in pair.corrupted
    make_cases(model, pairs, metric="logit-difference", corrupted=True)
