"""Verdicts: what the words mean, that the measured cuts tell meaningless sets, and where the word is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from atlas.circuit import Scores
from atlas.verdict import Evidence, coverage, reasons, thresholds, verdict
from ui import explain

MEASURED = Path(__file__).parent / "data" / "verdict-measured.json"  # by benchmarks/verdict.py
GOOD = {"replacement": 0.95, "completeness": 0.98, "explained_variance": 0.99, "influence_lost": 0.3}
TESTED = Evidence(confirmed=12, refuted=2, inconclusive=3, spearman=0.8, p_value=0.01)


def full(**changes) -> Scores:
    return Scores(computed_on="full graph", **(GOOD | changes))


def test_without_interventions_the_best_scores_are_partial_at_best():
    word, why = verdict(full(replacement=1.0, explained_variance=1.0, influence_lost=0.0))
    assert word == "partial"
    assert any("no intervention" in reason for reason in why)


def test_crisp_needs_scores_and_interventions_and_little_cut_away():
    assert verdict(full(), TESTED)[0] == "crisp"
    assert verdict(full(explained_variance=0.6), TESTED)[0] == "partial"
    word, why = verdict(full(influence_lost=0.9), TESTED)
    assert word == "partial"
    assert any("90%" in reason for reason in why)
    assert verdict(full(influence_lost=None), TESTED)[0] == "partial"


@pytest.mark.parametrize(
    "changes",
    [
        {"refuted": 12},
        {"confirmed": 0, "refuted": 0},
        {"p_value": 0.2},
        {"p_value": None},
        {"spearman": -0.5},
        {"spearman": None},
    ],
)
def test_interventions_that_do_not_bear_it_out_make_nothing_crisp(changes):
    word, why = verdict(full(), TESTED.model_copy(update=changes))
    assert word == "partial"
    assert any("interventions confirmed" in reason for reason in why)


def test_high_replacement_of_a_set_worse_than_a_constant_is_diffuse_whatever_the_interventions_say():
    for evidence in (None, TESTED):
        word, why = verdict(full(replacement=0.85, completeness=0.96, explained_variance=-7.0), evidence)
        assert word == "diffuse"
        assert "worse than a constant" in why[0]


def test_the_cut_itself_is_partial_and_just_below_it_diffuse():
    cut = thresholds().diffuse_below
    assert verdict(full(replacement=cut, explained_variance=1.0))[0] == "partial"
    assert verdict(full(replacement=cut - 1e-6, explained_variance=1.0))[0] == "diffuse"


@pytest.mark.parametrize(
    "scores",
    [
        Scores(),
        Scores(replacement=0.99, completeness=0.99, computed_on="file", explained_variance=0.99),
        Scores(replacement=0.99, completeness=0.99, computed_on="full graph"),
        Scores(claimed={"replacement": 0.99}),
    ],
)
def test_what_cannot_be_judged_is_untested_and_says_why(scores):
    word, why = verdict(scores)
    assert (word, len(why)) == ("untested", 1)
    assert coverage(scores) is None
    assert why[0].startswith("Not judged")


def test_every_judgement_says_that_the_cuts_come_from_one_small_model():
    for scores in (full(), full(explained_variance=0.01)):
        assert "one small model" in verdict(scores)[1][-1]


def measured() -> dict[str, list[Scores]]:
    """Scores of every measured trace by kind of set: real, permuted (all, half or a quarter of the decoders), random."""
    return {
        kind: [
            Scores(computed_on="full graph", **dict(zip(columns, row, strict=True)))
            for row in zip(*columns.values(), strict=True)
        ]
        for kind, columns in json.loads(MEASURED.read_text("utf-8")).items()
    }


def test_the_cuts_are_those_of_the_measured_distributions():
    found, cuts = measured(), thresholds()
    half, real = ([coverage(scores) for scores in found[kind]] for kind in ("half", "real"))
    assert cuts.diffuse_below == pytest.approx(np.quantile(half, 0.95), abs=1e-3)
    assert cuts.crisp_from == pytest.approx(np.quantile(real, 0.05), abs=1e-3)
    lost = [scores.influence_lost for scores in found["real"]]
    assert cuts.crisp_influence_lost == pytest.approx(np.quantile(lost, 0.95), abs=1e-3)
    assert cuts.provenance["prompts"] == len(real) >= 60


@pytest.mark.parametrize("kind", ["permuted", "half", "quarter", "random"])
def test_coverage_tells_the_real_set_from_the_others(kind):
    found = measured()
    real, other = (np.array([coverage(scores) for scores in found[name]]) for name in ("real", kind))
    assert ((real[:, None] > other) + 0.5 * (real[:, None] == other)).mean() >= 0.9


def test_every_real_trace_is_partial_and_every_meaningless_one_diffuse():
    found = measured()
    words = {kind: {verdict(scores)[0] for scores in found[kind]} for kind in ("real", "permuted", "random")}
    assert words == {"real": {"partial"}, "permuted": {"diffuse"}, "random": {"diffuse"}}


def test_a_word_stored_with_other_cuts_is_not_passed_off_as_todays():
    assert reasons("partial", full()) == verdict(full())[1]
    assert reasons("untested", full())[0].startswith("Stored as untested")


def test_the_page_says_the_verdict_with_its_reasons():
    said = explain.score_sentences(full(), "partial", reasons("partial", full()))
    assert said[-1].startswith("Verdict: partial. On this prompt")
    assert "no intervention" in said[-1]


@pytest.mark.slow
def test_a_trace_of_the_demo_model_is_partial_and_one_with_permuted_decoders_diffuse():
    from ingest.models import load_model
    from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path
    from ingest.trace import question, trace_circuit
    from ingest.transcoders import load_transcoders
    from ingest.transcoders.permuted import permuted_set

    model = load_model(model_path())
    shipped = load_transcoders(transcoders_path(), model)
    ids = model.tokenizer.encode(SAMPLE_PROMPTS[0].prompt)
    asked = {"targets": None, "max_logits": 10, "logit_mass": 0.95, "max_features": None, "dtype": "float32"}
    words = []
    for transcoders in (shipped, permuted_set(shipped, 11)):  # a seed that was not measured with
        circuit = trace_circuit(
            model,
            transcoders,
            question(model, transcoders, ids, None, asked, {"node": 0.8, "edge": 0.98}),
            actor="tester",
            warn=lambda _: None,
        )
        words.append(verdict(circuit.record.scores)[0])
    assert words == ["partial", "diffuse"]


def test_the_word_is_stored_and_shown(store_pair, make_circuit):
    from atlas import Atlas

    with Atlas.open(settings=store_pair) as atlas:
        made = atlas.add(make_circuit().with_record(scores=full(explained_variance=0.1)))
        assert [row.verdict for row in atlas.circuits()] == ["diffuse"]
        detail = atlas.show(made.circuit)
        assert detail.verdict == "diffuse"
        assert detail.verdict_reasons == verdict(full(explained_variance=0.1))[1]
        assert atlas.cypher("MATCH (c:Circuit) RETURN c.verdict").rows == [["diffuse"]]
