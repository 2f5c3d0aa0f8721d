"""Faithfulness curves: on sums, where they are known; of a feature graph and a component circuit of the shipped model."""

from __future__ import annotations

import numpy as np
import pytest

from atlas import Atlas
from atlas.causal_records import CircuitFaithfulnessRequest, ComponentsRequest
from atlas.errors import InputRejected, ModelRejected
from ingest import trace
from ingest.components.circuit import component_circuit
from ingest.components.curves import sizes
from ingest.components.faithfulness_curves import AT_ONCE, curves_of, faithfulness, in_pieces
from ingest.components.units import Kept
from ingest.models import load_model
from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_model
from tests.servers.fixtures import empty_graph

ASK = CircuitFaithfulnessRequest(circuit="c", random_circuits=3)


@pytest.fixture(scope="module")
def shipped():
    model = load_model(model_path(), device="cpu")
    return model, load_transcoders(transcoders_path(), model)


@pytest.fixture
def settings_of_laptop(request, tmp_path):
    return empty_graph(request, "embedded", tmp_path)


def of_sum(effects: np.ndarray, plain: np.ndarray | None = None, own: np.ndarray | None = None):
    """Curves of a network whose metric is 5 plus the effects of what stays."""
    calls = []

    def measure(keeps: np.ndarray) -> np.ndarray:
        calls.append(keeps)
        return 5 + keeps @ effects

    made = curves_of("c", measure, effects, effects[::-1].copy() if plain is None else plain, ASK, own)
    return made, calls


def test_where_effects_add_up_the_curve_is_the_share_of_the_best():
    effects = np.arange(1000, 0, -1.0)
    own = np.arange(1000) < 100
    made, _ = of_sum(effects, own=own)
    share = [effects[:k].sum() / effects.sum() for k in sizes(1000)]
    assert made.signed.values == pytest.approx(share)
    assert made.absolute.values == pytest.approx(share)
    assert made.damage.values == pytest.approx(share)
    assert (made.full, made.empty) == (5 + effects.sum(), 5)
    assert made.circuit_faithfulness == pytest.approx(share[6])
    assert (made.total, made.circuit_size) == (1000, 100)


def test_random_circuits_and_worse_scores_come_beside_it_and_lie_below():
    made, _ = of_sum(np.arange(1000, 0, -1.0) ** 4)
    random = made.baselines[0]
    assert all(low <= value <= high for low, value, high in zip(random.low, random.values, random.high, strict=True))
    assert random.high[6] < made.signed.values[6] / 2
    assert made.baseline_cpr["plain gradient"] < made.baseline_cpr["random"] < made.cpr
    assert made.baseline_cmd["plain gradient"] > made.baseline_cmd["random"] > made.cmd


def test_parts_that_work_against_the_metric_tell_the_two_rankings_apart():
    effects = np.array([3.0, -2.0, 1.0, 0.5] + [0.0] * 96)
    made, _ = of_sum(effects)
    assert made.signed.values[6] == pytest.approx(4.5 / 2.5)  # of 100, 10: all that helps and nothing that harms
    assert made.absolute.values[5] == pytest.approx(1.0)  # 5: everything that does anything
    assert made.signed.values[-1] == made.absolute.values[-1] == 1
    assert made.cpr > 1


def test_equal_circuits_are_run_once():
    made, calls = of_sum(np.arange(30, 0, -1.0), plain=np.arange(30, 0, -1.0))
    assert len(calls) == 1
    assert len(np.unique(calls[0], axis=0)) == len(calls[0]) == made.provenance["circuits_run"]


def test_what_was_measured_before_a_kill_is_not_measured_again(tmp_path):
    effects = np.arange(100, 0, -1.0)
    counts, last = [], 2

    def measure(keeps: np.ndarray) -> np.ndarray:
        if len(counts) == last:
            raise KeyboardInterrupt
        counts.append(len(keeps))
        return keeps @ effects

    def curves():
        return curves_of("c", in_pieces(measure, done=Kept(tmp_path)), effects, -effects, ASK)

    with pytest.raises(KeyboardInterrupt):
        curves()
    assert counts == [AT_ONCE, AT_ONCE]
    last = 100
    made = curves()
    assert sum(counts) == made.provenance["circuits_run"]
    assert made == curves_of("c", lambda keeps: keeps @ effects, effects, -effects, ASK)


def test_a_metric_that_nothing_moves_is_refused():
    with pytest.raises(InputRejected, match="shares of it mean nothing"):
        of_sum(np.zeros(20))


@pytest.mark.embedded
def test_a_feature_graph_beats_random_features_and_is_whole_at_the_end(settings_of_laptop, shipped):
    with Atlas.open(settings=settings_of_laptop) as atlas:
        made = trace(atlas, SAMPLE_PROMPTS[0].prompt, model=shipped[0], transcoders=shipped[1])
        result = faithfulness(atlas, CircuitFaithfulnessRequest(circuit=made.circuit, random_circuits=2), *shipped)
        assert result.unit == "features"
        assert result.signed.values[-1] == pytest.approx(1)
        assert result.cpr > result.baseline_cpr["random"]
        assert result.cmd < result.baseline_cmd["random"]
        kept = atlas.load(made.circuit).nodes.is_kind("feature").sum()
        assert result.circuit_size == kept < result.total
        (row,) = atlas.measurements(made.circuit)
        assert row.kind == "faithfulness"
        assert row.document["cpr"] == pytest.approx(result.cpr)


@pytest.mark.embedded
def test_a_component_circuit_is_measured_with_the_model_its_record_names(settings_of_laptop, tmp_path):
    request = ComponentsRequest(profile="demo", template="ioi", count=8, steps=2)
    with Atlas.open(settings=settings_of_laptop) as atlas:
        made = component_circuit(atlas, request)
        asked = CircuitFaithfulnessRequest(circuit=made.circuit, random_circuits=2)
        result = faithfulness(atlas, asked)
        assert (result.unit, result.cases, result.metric) == ("edges", 8, "logit-difference")
        assert result.signed.values[-1] == pytest.approx(1)
        assert result.circuit_faithfulness > 0.5
        assert result.circuit_size < result.total / 2
        assert result.cpr > result.baseline_cpr["random"]
        assert result.cmd < result.baseline_cmd["random"]
        assert [row.kind for row in atlas.measurements(made.circuit)] == ["faithfulness"]
        assert not list((settings_of_laptop.home / "unfinished").glob("faithfulness-*"))
        with pytest.raises(ModelRejected, match="has the weights"):
            faithfulness(atlas, asked, model=load_model(write_model(tmp_path / "other"), device="cpu"))
