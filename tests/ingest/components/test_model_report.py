"""The report on a real model (benchmarks/smollm2.py), on the shipped model."""

from __future__ import annotations

import argparse

import pytest

from benchmarks import smollm2
from benchmarks.organism_truth import Exhaustive
from ingest.components.pairs import make_cases, make_pairs
from ingest.components.roles import HeadRole
from ingest.models import load_model
from ingest.organism import model_path


@pytest.fixture(scope="module")
def model():
    return load_model(model_path(), device="cpu")


def test_a_report_names_heads_with_their_scores_and_curves_of_some_of_the_cases(model):
    options = argparse.Namespace(count=6, steps=2, heads=16, random=1, curves=True, curve_count=3)
    made = smollm2.run_task(model, "ioi", options)
    assert made["count"] == 6
    assert made["behaviour"]["right_of_two"] == 1
    assert made["faithfulness"]["cases"] == 3
    assert made["faithfulness"]["signed"]["values"][-1] == pytest.approx(1)
    sizes = [abs(head["score"]) for head in made["heads"]]
    assert sizes == sorted(sizes, reverse=True)
    (head,) = [
        head for head in made["heads"] if head["head"] == "3.0"
    ]  # above the first layer the one that matters most
    assert head["roles"] == ("copy suppression",)
    assert head["lost_when_ablated"] > 0.2


def test_an_ablation_is_what_exhaustive_patching_measures(model):
    cases = make_cases(model, make_pairs("ioi", 6, 0, model), metric="logit-difference", corrupted=True)
    exact = Exhaustive(model, cases)
    heads = [HeadRole(layer, head, 0.0, (), {}) for layer, head in ((0, 2), (3, 0))]
    lost = smollm2.ablated(model, cases, heads, exact.full, exact.empty)
    rows = [exact.wiring.head(head.layer, head.head) for head in heads]
    assert lost == pytest.approx([exact.lost(row) for row in rows], abs=1e-5)
