"""Prompts of different lengths: positions that correspond are patched, everything else is left alone or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas import Atlas
from atlas.causal_records import ComponentsRequest, PatchRequest, PromptPair
from atlas.cli.patch import about_alignment
from atlas.errors import InputRejected
from atlas.graph import embedded
from ingest.components import component_circuit, patch
from ingest.components.alignment import Alignment, align
from ingest.components.metrics import metric
from ingest.components.network import Place, run
from ingest.components.pairs import Cases, make_cases, recorded_cases
from ingest.components.patching import patch_activations
from tests.ingest.components.conftest import random_cases

SITES = ["resid", "attn", "mlp", "head"]
LONGER = PromptPair(
    clean="When Mary and John went to the store, John gave a book to",
    corrupted="When Mary and John went to the store, Peter Paul gave a book to",
    answer=" Mary",
    wrong=" John",
)
# clean, corrupted -> which positions correspond, written out by hand
MAPS = [
    ([1, 2, 3, 4, 5], [1, 2, 9, 8, 4, 5], {0: 0, 1: 1, 3: 4, 4: 5}),
    ([1, 2, 9, 8, 4, 5], [1, 2, 3, 4, 5], {0: 0, 1: 1, 4: 3, 5: 4}),
    ([7, 6, 3, 2, 1], [7, 6, 4, 5, 2, 1], {0: 0, 1: 1, 3: 4, 4: 5}),  # goes through one batch with the first
    ([1, 2, 3, 4], [1, 2, 7, 3, 4], {0: 0, 1: 1, 2: 3, 3: 4}),  # only the corrupted prompt has a stretch
    ([1, 2, 3, 4], [1, 7, 3, 8], {0: 0, 1: 1, 2: 2, 3: 3}),  # one length: every position
]


def cases_of(rows: list[tuple[list[int], list[int]]]) -> Cases:
    padded = lambda which: torch.nn.utils.rnn.pad_sequence([torch.tensor(row[which]) for row in rows], batch_first=True)  # noqa: E731
    blank = random_cases([len(clean) for clean, _ in rows])
    return replace(
        blank, clean=padded(0), corrupted=padded(1), twin_lengths=torch.tensor([len(other) for _, other in rows])
    )


@pytest.mark.parametrize(("clean", "corrupted", "expected"), MAPS)
def test_prefix_and_suffix_correspond(clean, corrupted, expected):
    found = align(clean, corrupted)
    assert {position: found.counterpart(position) for position in found.positions} == expected
    assert found.left_out == (len(clean) - len(expected), len(corrupted) - len(expected))
    assert found.well_defined(special=1)


def test_a_repeated_token_that_could_be_either_is_left_out():
    found = align([1, 2, 3, 3, 4, 5], [1, 2, 3, 3, 3, 4, 5])
    assert {position: found.counterpart(position) for position in found.positions} == {0: 0, 1: 1, 4: 5, 5: 6}
    assert found.left_out == (2, 3)


@pytest.mark.parametrize(
    ("clean", "corrupted"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]),  # the answer's position has no counterpart
        ([1, 2, 3, 4, 5], [1, 6, 7, 8, 9, 5]),  # beyond the special token one of five is shared
        ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 9, 4, 5, 6, 7, 0, 3, 8]),  # two places differ: too little is left around both
    ],
)
def test_what_is_not_well_defined_is_no_alignment(clean, corrupted):
    assert not align(clean, corrupted).well_defined(special=1)
    assert not align(corrupted, clean).well_defined(special=1)


def test_half_of_the_shorter_prompt_is_enough_and_the_special_token_does_not_count():
    found = align([1, 2, 3, 4, 5, 6], [1, 2, 8, 8, 8, 5, 6])
    assert (found.prefix, found.suffix) == (2, 2)
    assert found.well_defined(special=1)  # 3 of 6
    assert not found.well_defined(special=2)
    assert Alignment(5, 6, 1, 4).well_defined(special=1)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@torch.inference_mode()
def test_an_aligned_patch_is_a_whole_pass_that_copies_by_the_map(family_model, direction):
    model, measure = family_model, metric("logit-difference")
    cases = cases_of([(clean, corrupted) for clean, corrupted, _ in MAPS])
    patched = patch_activations(model, cases, SITES, direction, "counterfactual", measure, tokens_at_once=40)
    expected: dict[tuple[str, int, int, int], np.ndarray] = {}
    places = [
        Place(site, l) for site in ("resid.pre", "attn.out", "mlp.out", "head.out") for l in range(model.n_layers)
    ]
    for case, (clean, corrupted, counterparts) in enumerate(MAPS):
        inward = [(there, here) if direction == "denoise" else (here, there) for here, there in counterparts.items()]
        into, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
        values = run(model, torch.tensor([source]), reads=places).values
        one = cases.take([case])
        for place in places:
            for head in range(values[place].shape[2]) if place.site == "head.out" else [-1]:
                named = dict(zip(counterparts, [[pair] for pair in inward], strict=True))
                for position, copies in (named | ({-1: inward} if head >= 0 else {})).items():

                    def edit(value, place=place, head=head, copies=copies, values=values):
                        value = value.clone()
                        for to, taken in copies:
                            if head < 0:
                                value[0, to] = values[place][0, taken]
                            else:
                                value[0, to, head] = values[place][0, taken, head]
                        return value

                    made = run(model, torch.tensor([into]), writes={place: edit})
                    row = expected.setdefault((place.site, place.layer, position, head), np.full(len(MAPS), np.nan))
                    row[case] = float(measure(made.logits, one))
    assert set(patched.parts) == set(expected)
    np.testing.assert_allclose(patched.values, [expected[part] for part in patched.parts], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        patched.corrupted,
        [
            float(measure(run(model, torch.tensor([other])).logits, cases.take([i])))
            for i, (_, other, _) in enumerate(MAPS)
        ],
        atol=1e-10,
    )


@torch.inference_mode()
def test_nothing_before_the_stretch_matters_and_nothing_in_it_is_patched(shipped):
    cases = make_cases(shipped, [LONGER], metric="logit-difference", corrupted=True, aligned=True)
    aligned = cases.alignment(0)
    assert aligned.left_out == (1, 2)
    stretch = aligned.prefix
    patched = patch_activations(shipped, cases, ["resid"], "noise", "counterfactual", metric("logit-difference"))
    effect = dict(zip(patched.parts, patched.effects(), strict=True))
    assert not any(position == stretch for _, _, position, _ in effect)
    assert all(value == 0 for (_, _, position, _), value in effect.items() if position < stretch)
    assert max(abs(value) for value in effect.values()) > 0.05


def test_prompts_that_cannot_be_aligned_are_refused_with_both_lengths(shipped):
    for change in ("The book that Mary gave to", "When Mary and John went to the store, John gave a book to the"):
        bad = LONGER.model_copy(update={"corrupted": change})
        with pytest.raises(InputRejected) as refused:
            make_cases(shipped, [LONGER, bad], corrupted=True, aligned=True)
        twin = len(make_cases(shipped, [LONGER.model_copy(update={"clean": change, "corrupted": None})]).clean[0])
        assert (
            f"The prompts of pair 2 have different lengths: clean 15 tokens, corrupted {twin}, and"
            in refused.value.message
        )
        assert refused.value.message.count(". ") == 0


@pytest.fixture
def atlas(settings):
    with Atlas.open(settings=settings) as opened:
        yield opened
    embedded.stop(settings.home)


@pytest.mark.embedded
def test_the_record_and_the_text_say_what_was_left_out(shipped, atlas):
    request = PatchRequest(profile="demo", pairs=[LONGER], sites=["resid"])
    circuit = atlas.load(patch(atlas, request, model=shipped).circuit)
    asked = circuit.record.method.parameters
    assert (asked["aligned_pairs"], asked["left_out_clean"], asked["left_out_corrupted"]) == (1, 1, 2)
    assert set(circuit.nodes.position.tolist()) == set(range(15)) - {10}
    assert "1 position of clean prompts, 2 of corrupted ones" in about_alignment(circuit)
    again = recorded_cases(shipped, circuit.record)
    made = make_cases(shipped, [LONGER], aligned=True)
    assert torch.equal(again.corrupted, made.corrupted)
    assert again.alignment(0) == made.alignment(0)
    same = LONGER.model_copy(update={"corrupted": LONGER.clean.replace(", John", ", Peter")})
    plain = atlas.load(patch(atlas, PatchRequest(profile="demo", pairs=[same], sites=["mlp"]), model=shipped).circuit)
    assert "aligned_pairs" not in plain.record.method.parameters
    assert about_alignment(plain) == ""


def test_component_circuits_refuse_different_lengths_and_name_patching(shipped, atlas):
    with pytest.raises(InputRejected) as refused:
        component_circuit(atlas, ComponentsRequest(profile="demo", pairs=[LONGER]), model=shipped)
    assert "clean 15 tokens, corrupted 16" in str(refused.value)
    assert "patching (`atlas patch`) can align" in str(refused.value)
