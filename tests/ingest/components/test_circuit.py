"""From pairs of prompts to a circuit of components in the atlas."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from atlas import Atlas
from atlas.causal_records import ComponentsRequest, PromptPair
from atlas.circuit import SLOTS, CircuitRecord
from atlas.errors import InputRejected, UsageError
from atlas.graph import embedded
from ingest.components.circuit import component_circuit, made_circuit, prune
from ingest.components.eap import edge_scores
from ingest.components.pairs import recorded_cases
from ingest.components.split import SplitNetwork
from tests.handmade_models import handmade


@pytest.fixture
def atlas(settings) -> Iterator[Atlas]:
    with Atlas.open(settings=settings) as opened:
        yield opened
    embedded.stop(settings.home)


@pytest.fixture(scope="module")
def induction():
    return handmade("induction", "soft", count=8)


@pytest.fixture(scope="module")
def scored(induction):
    return edge_scores(induction.model, induction.cases, induction.metric, 5)


def test_the_smallest_circuit_that_holds_the_metric_is_the_one_that_was_written(induction, scored):
    pruned = prune(SplitNetwork(induction.model), induction.cases, induction.metric, scored, 0.9)
    np.testing.assert_array_equal(pruned.keep, induction.truth)
    assert pruned.faithfulness >= 0.9
    again = prune(SplitNetwork(induction.model), induction.cases, induction.metric, scored, edges=pruned.ranked)
    assert again.faithfulness == pytest.approx(pruned.faithfulness)
    # without its weakest edge it does not hold that much
    fewer = np.argsort(-scored.scores.abs().numpy())[: pruned.ranked - 1]
    keep = torch.zeros(scored.wiring.n_edges)
    keep[torch.from_numpy(fewer.copy())] = 1
    value = SplitNetwork(induction.model).measure(induction.cases, keep[None], induction.metric).mean()
    assert (value - pruned.corrupted) / (pruned.clean - pruned.corrupted) < 0.9


def test_what_cannot_be_pruned_is_refused(induction, scored):
    network = SplitNetwork(induction.model)
    with pytest.raises(InputRejected, match="reaches a faithfulness of 3"):
        prune(network, induction.cases, induction.metric, scored, 3.0)
    with pytest.raises(InputRejected, match="form no path"):
        prune(network, induction.cases, induction.metric, scored, edges=1)

    def same(logits, cases):
        return logits[:, 0] * 0 + 1

    with pytest.raises(InputRejected, match="nothing is to be explained"):
        prune(network, induction.cases, same, scored)


def test_columns_say_what_the_edges_are(induction, scored):
    request = ComponentsRequest(steps=5, edges=5)
    circuit = made_circuit(induction.model, induction.cases, induction.metric, CircuitRecord(), request)
    keys, e = circuit.keys, circuit.edges
    made = {(keys[s], keys[t], SLOTS[c]) for s, t, c in zip(e.source, e.target, e.slot, strict=True)}
    assert made == {
        ("token/-1/-1/-1", "head/0/-1/0", "v"),
        ("token/-1/-1/-1", "head/1/-1/0", "q"),
        ("head/0/-1/0", "head/1/-1/0", "k"),
        ("token/-1/-1/-1", "head/1/-1/0", "v"),
        ("head/1/-1/0", "logit/2/-1/-1", "direct"),
    }
    head = circuit.row("head/1/-1/0")
    into = scored.targets == scored.wiring.head(1, 0)
    assert circuit.nodes.input_total[head] == pytest.approx(scored.scores.numpy()[into].sum(), rel=1e-5)
    assert circuit.nodes.input_abs_total[head] == pytest.approx(scored.scores.abs().numpy()[into].sum(), rel=1e-5)
    assert circuit.extra["eap.node_score"][head] == pytest.approx(scored.node_scores[scored.wiring.head(1, 0)])
    assert circuit.nodes.influence[head] == abs(circuit.extra["eap.node_score"][head])
    assert circuit.record.provenance.source_metadata["faithfulness"] > 0.9


def test_neurons_take_their_share_of_their_mlp():
    lookup = handmade("lookup", "soft", count=8)
    plain, finer = (
        made_circuit(
            lookup.model,
            lookup.cases,
            lookup.metric,
            CircuitRecord(),
            ComponentsRequest(steps=3, edges=40, neurons=count),
        )
        for count in (0, 4)
    )
    assert sum(key.startswith("neuron/1/-1/") for key in finer.keys) >= 3
    assert finer.keys[-1].startswith("logit/")
    shares = finer.adjacency().toarray()
    rows = [finer.row(key) for key in plain.keys]
    neurons = [row for row, key in enumerate(finer.keys) if key.startswith("neuron")]
    whole, mlp = plain.adjacency().toarray(), plain.row("mlp/1/-1/-1")
    logit = plain.row("logit/2/-1/-1")
    together = shares[np.ix_(rows, rows)]
    np.testing.assert_allclose(together[logit, mlp] + shares[-1, neurons].sum(), whole[logit, mlp], rtol=1e-5)
    into = together[mlp] + shares[np.ix_(neurons, rows)].sum(0)
    np.testing.assert_allclose(into, whole[mlp], rtol=1e-4, atol=1e-5)
    assert abs(together[logit, mlp]) < abs(whole[logit, mlp])
    total = finer.extra["eap.node_score"].sum()
    assert total == pytest.approx(plain.extra["eap.node_score"].sum(), rel=1e-5)


@pytest.mark.embedded
def test_a_circuit_of_the_shipped_model_is_kept_and_found_again(shipped, atlas):
    request = ComponentsRequest(profile="demo", template="agreement", count=4, steps=3, neurons=3)
    told = []
    added = component_circuit(atlas, request, progress=lambda *said: told.append(said))
    circuit = atlas.load(added.circuit)
    record = circuit.record
    assert record.transcoders.name == "components"
    assert (record.method.name, record.method.weight_unit) == ("edge attribution patching", "logits")
    assert record.provenance.source_metadata["faithfulness"] >= 0.85
    assert record.provenance.source_metadata["template"] == "agreement"
    assert len(recorded_cases(shipped, record)) == 4
    assert len(told) > 3
    assert {"token/-1/-1/-1", f"logit/{shipped.n_layers}/-1/-1"} <= set(circuit.keys)
    assert component_circuit(atlas, request, model=shipped).already
    assert not component_circuit(atlas, request.model_copy(update={"steps": 1})).already


def test_bad_requests_are_one_sentence(shipped, atlas):
    pair = PromptPair(clean="the cat", corrupted="the cat", answer="is", wrong="are")
    with pytest.raises(UsageError, match="no metric"):
        component_circuit(atlas, ComponentsRequest(pairs=[pair], metric="guess"), model=shipped)
    alone = pair.model_copy(update={"corrupted": None})
    with pytest.raises(InputRejected, match="Pair 1 has no corrupted prompt"):
        component_circuit(atlas, ComponentsRequest(pairs=[alone]), model=shipped)
    with pytest.raises(UsageError, match="only by a command on this machine"):
        component_circuit(
            atlas, ComponentsRequest(pairs=[pair], metric="function:os:getcwd"), model=shipped, origin={"job": "j"}
        )
