"""The model that a worker keeps loaded, and how it finds the one behind a circuit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import ingest.worker.models as module
from atlas import Atlas
from atlas.causal_records import PatchRequest
from atlas.circuit import ModelRef, SetRef
from atlas.errors import ModelRejected, UsageError
from atlas.group_records import TraceRequest
from atlas.settings import Profile
from ingest.organism import model_path, transcoders_path
from ingest.worker.models import LoadedModels
from tests.conftest import make_circuit
from tests.ingest.trace.conftest import write_model

DEMO = TraceRequest(prompt="x", profile="demo")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("other") / "tiny")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Which models were loaded from disk, in order."""
    seen: list[str] = []
    real = module.load_model

    def load(place, **options):
        seen.append(Path(place).name)
        return real(place, **options)

    monkeypatch.setattr(module, "load_model", load)
    return seen


class Kept(Atlas):
    """An atlas of one circuit that is in no store."""

    def __init__(self, circuit) -> None:
        self.kept = circuit

    def load(self, circuit: str):
        return self.kept


def circuit_of(weights: str, name: str, transcoders: SetRef) -> Kept:
    made = make_circuit("a b", (1.0, 1.0, 1.0))
    record = made.record.model_copy(
        update={"model": ModelRef(name=name, weights_hash=weights, layers=4), "transcoders": transcoders}
    )
    return Kept(replace(made, record=record))


def models(settings, **profiles: Profile) -> LoadedModels:
    return LoadedModels(settings.model_copy(update={"profiles": profiles}), "cpu", None)


def test_traces_and_work_on_components_share_one_loaded_model(settings, loads, other_model) -> None:
    kept = models(settings)
    model, transcoders = kept.get(DEMO)
    assert kept.model(PatchRequest(profile="demo")) is model
    assert kept.get(DEMO) == (model, transcoders)
    assert kept.name == transcoders.model_name
    assert len(loads) == 1
    other = kept.model(PatchRequest(model=str(other_model)))
    assert other is not model
    assert kept.loaded == {}, "a set of another model is not kept beside it"
    assert kept.name == other.name
    assert kept.get(DEMO)[0].weights_hash == model.weights_hash
    assert len(loads) == 3


def test_the_model_behind_a_circuit_is_found_by_its_weights_without_loading_others(
    settings, loads, other_model
) -> None:
    kept = models(settings, lab=Profile(model=str(other_model)))
    model, transcoders = models(settings).get(DEMO)
    loads.clear()
    known = SetRef(name=transcoders.name, hash=transcoders.hash)
    found = kept.of_circuit(circuit_of(model.weights_hash, transcoders.model_name, known), "c")
    assert found["model"].weights_hash == model.weights_hash
    assert found["transcoders"].hash == transcoders.hash
    assert kept.of_circuit(circuit_of(model.weights_hash, "m", SetRef(name="components")), "c") == {
        "model": found["model"],
        "transcoders": None,
    }
    assert loads == [model_path().name]
    other = kept.of_circuit(circuit_of(module._weights(str(other_model)), "tiny", SetRef(name="components")), "c")
    assert other["transcoders"] is None
    assert loads == [model_path().name, "tiny"]


def test_what_is_missing_for_a_circuit_is_one_sentence_and_nothing_is_loaded(settings, loads) -> None:
    kept = models(settings)
    absent = circuit_of("0" * 64, "gpt-9", SetRef(name="some-set"))
    with pytest.raises(
        ModelRejected, match=r"The circuit c needs the model gpt-9 with the set some-set, with the weights"
    ):
        kept.of_circuit(absent, "c")
    with pytest.raises(ModelRejected, match=r"needs the model gpt-9, with the weights"):
        kept.of_circuit(circuit_of("0" * 64, "gpt-9", SetRef(name="components")), "c")
    with pytest.raises(UsageError, match=r"has features of the set some-set, so its model is not enough"):
        kept.of_circuit(absent, "c", model=str(model_path()))
    with pytest.raises(ModelRejected, match="no model folder"):
        kept.of_circuit(absent, "c", model="/absent/folder", transcoders=str(transcoders_path()))
    assert loads == ["folder"]


def test_a_profile_without_transcoders_is_for_components_only(settings, other_model) -> None:
    kept = models(settings, bare=Profile(model=str(other_model)))
    assert kept.model(PatchRequest(profile="bare")).n_layers == 3
    with pytest.raises(UsageError, match="The profile bare names no transcoders"):
        kept.get(TraceRequest(prompt="x", profile="bare"))
    with Atlas.open(settings=kept._settings) as atlas, pytest.raises(UsageError, match="bare names no transcoders"):
        atlas.enqueue_traces([TraceRequest(prompt="x", profile="bare")])
