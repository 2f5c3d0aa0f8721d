"""Graphs that circuit-tracer saved with `Graph.to_pt`: read as they are, without running what a file holds."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas import Atlas
from atlas.circuit import KIND
from atlas.errors import InputRejected
from atlas.settings import Settings
from ingest import reference_graph
from ingest.load import import_paths
from ingest.models import load_model
from ingest.reference_graph import _Config, _LogitTarget, read_reference_graph
from ingest.trace import attribute
from ingest.trace.graph import FullGraph
from ingest.transcoders import load_transcoders

DATA = Path(__file__).parent / "data"
SAMPLE = DATA / "pt" / "llama_capped.pt"  # 150 of 260 active features
WHOLE = DATA / "pt" / "llama_whole.pt"


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "home")


def opened(path: Path = WHOLE) -> dict:
    """The entries of a sample, to change and save again."""
    places = [*((_Config, name) for name in reference_graph._CONFIGS), (_LogitTarget, reference_graph._LOGIT_TARGET)]
    with torch.serialization.safe_globals(places):
        return torch.load(path, weights_only=True)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Save entries as the reference would: its classes under their own names."""

    def named(place: str, bases: tuple[type, ...] = ()) -> type:
        """A class that pickles under the reference's name for it."""
        module, _, name = place.rpartition(".")
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            parent = ".".join(parts[:depth])
            if not isinstance(sys.modules.get(parent), types.ModuleType) or parent == module:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        cls = type(name, bases, {"__module__": module, "__slots__": ()} if bases else {"__module__": module})
        setattr(sys.modules[module], name, cls)
        return cls

    def write(entries: dict, config: str = reference_graph._CONFIGS[0], name: str = "graph.pt") -> Path:
        entries = dict(entries)
        if isinstance(entries.get("cfg"), _Config):
            twin = named(config)()
            twin.__dict__.update(vars(entries["cfg"]))
            entries["cfg"] = twin
        targets = entries.get("logit_targets")
        if isinstance(targets, list) and all(isinstance(t, _LogitTarget) for t in targets):
            cls = named(reference_graph._LOGIT_TARGET, (_LogitTarget,))
            entries["logit_targets"] = [cls(*t) for t in targets]
        torch.save(entries, tmp_path / name)
        return tmp_path / name

    return write


def reject(path: Path, settings: Settings) -> InputRejected:
    with pytest.raises(InputRejected) as caught:
        read_reference_graph(path, settings)
    error = caught.value
    assert path.name in error.message
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.hint
    return error


def own_graph() -> FullGraph:
    model = load_model(DATA / "oracle" / "model", device="cpu")
    return attribute(model, load_transcoders(DATA / "oracle" / "plt_relu", model), [1, 17, 204])


def test_a_graph_of_the_reference_is_the_circuit_that_our_own_trace_gives(settings):
    from ingest.trace.make import cut

    graph = read_reference_graph(WHOLE, settings)
    circuit, record = graph.circuit, graph.circuit.record
    assert record.examples[0].token_ids == [1, 17, 204]
    assert (record.model.name, record.model.layers, record.transcoders.name) == ("llama", 4, "oracle/llama/plt_relu")
    assert record.scores.computed_on == "full graph"
    assert record.thresholds == {"node": 0.8, "edge": 0.98}
    nodes, edges, scores, _ = cut(own_graph(), record)
    assert record.scores.replacement == pytest.approx(scores.replacement, abs=1e-5)
    assert record.scores.completeness_pruned == pytest.approx(scores.completeness_pruned, abs=1e-5)
    for column in ("kind", "layer", "position", "index"):
        assert np.array_equal(getattr(circuit.nodes, column), getattr(nodes, column)), column
    assert np.array_equal(circuit.edges.source, edges.source)
    assert np.array_equal(circuit.edges.target, edges.target)
    assert np.allclose(circuit.edges.weight, edges.weight, rtol=1e-4, atol=1e-6)
    assert np.allclose(circuit.nodes.input_abs_total, nodes.input_abs_total, rtol=1e-4)
    assert np.allclose(circuit.nodes.activation, nodes.activation, rtol=1e-4, equal_nan=True)


def test_a_graph_that_leaves_features_out_has_no_scores_of_a_full_graph(settings):
    circuit = read_reference_graph(SAMPLE, settings).circuit
    assert circuit.record.scores.computed_on == "file"
    assert np.isnan(circuit.nodes.input_abs_total).all()
    whole = opened(SAMPLE)
    there = {tuple(row) for row in whole["active_features"][whole["selected_features"]].tolist()}
    rows = circuit.nodes.kind == KIND["feature"]
    kept = np.stack([circuit.nodes.layer, circuit.nodes.position, circuit.nodes.index], 1)[rows]
    assert {tuple(row) for row in kept.tolist()} <= there


def test_features_in_another_order_give_the_same_circuit(save, settings):
    entries = opened()
    expected = read_reference_graph(save(entries), settings).circuit.id
    n = len(entries["selected_features"])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([order, torch.arange(n, len(entries["adjacency_matrix"]))])
    entries["selected_features"] = entries["selected_features"][order]
    entries["adjacency_matrix"] = entries["adjacency_matrix"][rows][:, rows]
    assert read_reference_graph(save(entries), settings).circuit.id == expected


def test_older_files_with_plain_ids_and_another_configuration_are_read(save, settings):
    entries = opened()
    ids = torch.tensor([target.vocab_idx for target in entries["logit_targets"]])
    expected = read_reference_graph(WHOLE, settings).circuit
    older = {key: value for key, value in entries.items() if key not in ("logit_targets", "vocab_size")}
    circuit = read_reference_graph(
        save(older | {"logit_tokens": ids}, config=reference_graph._CONFIGS[1]), settings
    ).circuit
    assert circuit.keys == expected.keys
    assert circuit.record.targets[0].what == f"<{ids[0]}>"


def test_a_graph_without_active_features_is_read(save, settings):
    entries = opened()
    n = len(entries["selected_features"])
    none = {key: entries[key][:0] for key in ("active_features", "selected_features", "activation_values")}
    circuit = read_reference_graph(
        save(entries | none | {"adjacency_matrix": entries["adjacency_matrix"][n:, n:]}), settings
    ).circuit
    assert not circuit.nodes.is_kind("feature").any()
    assert len(circuit.edges)


def test_a_target_beyond_the_vocabulary_is_a_direction(save, settings):
    entries = opened()
    entries["logit_targets"][0] = _LogitTarget("a minus b", entries["vocab_size"])
    target = read_reference_graph(save(entries), settings).circuit.record.targets[0]
    assert (target.kind, target.what, target.token_id) == ("direction", "a minus b", -1)


class Touch:
    """Makes a file when unpickled the plain way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


def test_code_in_a_file_is_not_run(save, settings, tmp_path):
    trap = tmp_path / "ran"
    path = save(opened() | {"scan": Touch(trap)})
    torch.load(io.BytesIO(save({"scan": Touch(trap)}, name="only.pt").read_bytes()), weights_only=False)
    assert trap.exists()  # the trap works
    trap.unlink()
    assert "nothing of the file was run" in reject(path, settings).message
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Touch(trap)))
    reject(bare, settings)
    assert not trap.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_spelling_of_a_foreign_name_passes(tmp_path, settings, protocol):
    trap = tmp_path / "ran"
    path = tmp_path / "graph.pt"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("graph/data.pkl", pickle.dumps(Touch(trap), protocol=protocol))
        packed.writestr("graph/version", "3\n")
    reject(path, settings)
    assert not trap.exists()


def test_a_second_pickle_in_the_same_file_is_rejected(tmp_path, settings):
    path = tmp_path / "graph.pt"
    path.write_bytes(WHOLE.read_bytes())
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("another/data.pkl", pickle.dumps(1, protocol=2))
    assert "not one pickle" in reject(path, settings).message


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1, -200])
def test_a_truncated_file_is_rejected(tmp_path, settings, cut):
    path = tmp_path / "cut.pt"
    path.write_bytes(WHOLE.read_bytes()[:cut])
    reject(path, settings)


def test_flipped_bytes_never_do_more_than_be_rejected(tmp_path, settings):
    data, path = WHOLE.read_bytes(), tmp_path / "flipped.pt"
    random = np.random.default_rng(0)
    start = data.index(b"data.pkl")
    for place in random.integers(start, start + 1400, 60).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ int(random.integers(1, 256))]) + data[place + 1 :])
        with contextlib.suppress(InputRejected):  # any other error fails the test
            read_reference_graph(path, settings)


BAD = {
    "no graph": lambda e: {"weights": torch.zeros(3)},
    "matrix missing": lambda e: {k: v for k, v in e.items() if k != "adjacency_matrix"},
    "matrix of another size": lambda e: e | {"adjacency_matrix": e["adjacency_matrix"][1:, 1:]},
    "matrix no tensor": lambda e: e | {"adjacency_matrix": [[0.0]]},
    "matrix not finite": lambda e: e | {"adjacency_matrix": e["adjacency_matrix"] * float("nan")},
    "edge backwards": lambda e: e | {"adjacency_matrix": e["adjacency_matrix"].T.contiguous()},
    "feature outside the layers": lambda e: e | {"active_features": e["active_features"] + 50},
    "negative feature": lambda e: e | {"active_features": e["active_features"] - 10},
    "features not whole": lambda e: e | {"active_features": e["active_features"].float()},
    "features of two columns": lambda e: e | {"active_features": e["active_features"][:, :2]},
    "a feature twice": lambda e: e | {"selected_features": e["selected_features"] * 0},
    "selected beyond": lambda e: e | {"selected_features": e["selected_features"] + 1},
    "too few activations": lambda e: e | {"activation_values": e["activation_values"][1:]},
    "no layers": lambda e: e | {"cfg": None},
    "layers as text": lambda e: e | {"cfg": changed(e["cfg"], n_layers="4")},
    "many layers": lambda e: e | {"cfg": changed(e["cfg"], n_layers=99_999)},
    "no tokens": lambda e: e | {"input_tokens": e["input_tokens"][:0]},
    "tokens of two dimensions": lambda e: e | {"input_tokens": e["input_tokens"][None]},
    "targets as numbers": lambda e: e | {"logit_targets": [1, 2]},
    "target ids as text": lambda e: e | {"logit_targets": [_LogitTarget("a", "b")] * len(e["logit_targets"])},  # type: ignore[arg-type]
    "one target often": lambda e: e | {"logit_targets": e["logit_targets"][:1] * len(e["logit_targets"])},
    "probability missing": lambda e: e | {"logit_probabilities": e["logit_probabilities"][1:]},
    "probability below 0": lambda e: e | {"logit_probabilities": -e["logit_probabilities"]},
    "negative token": lambda e: e | {"input_tokens": e["input_tokens"] - 1000},
}


def changed(config: _Config, **values) -> _Config:
    other = _Config()
    other.__dict__.update(vars(config) | values)
    return other


@pytest.mark.parametrize("what", BAD)
def test_wrong_types_and_shapes_are_one_sentence(save, settings, what):
    reject(save(BAD[what](opened())), settings)


def test_sizes_are_bounded_on_disk_and_in_memory(save, settings):
    small = settings.model_copy(update={"import_max_bytes": 20_000})
    assert "larger than 20000 bytes" in reject(WHOLE, small).message
    entries = opened()
    wide = torch.zeros(1).expand(40_000, 40_000)  # four bytes on disk
    assert "larger than" in reject(save(entries | {"active_features": wide[:, :3].long()}), small).message
    huge = entries | {"input_tokens": torch.zeros(1, dtype=torch.int64).expand(10**10)}
    assert "larger than" in reject(save(huge), settings).message


def test_without_torch_a_sentence_names_the_extra(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    error = reject(WHOLE, settings)
    assert "[ingest]" in error.message


def test_text_that_no_database_holds_is_mended(save, settings):
    record = read_reference_graph(save(opened() | {"input_string": "a\0b\ud800"}), settings).circuit.record
    assert "\0" not in record.prompt
    record.prompt.encode()


def test_names_in_a_file_are_names_and_no_paths(save, settings):
    entries = opened()
    entries["cfg"] = changed(entries["cfg"], model_name="google/gemma-2-2b")
    entries["scan"] = ["mwhanna/a", "mwhanna/b"]
    record = read_reference_graph(save(entries), settings).circuit.record
    assert (record.model.name, record.transcoders.name) == ("gemma-2-2b", "mwhanna/a,mwhanna/b")
    entries["cfg"] = changed(entries["cfg"], model_name="/home/someone/model")
    entries["scan"] = None
    record = read_reference_graph(save(entries), settings).circuit.record
    assert (record.model.name, record.transcoders.name) == ("unknown", "unknown")


def test_a_file_is_imported_and_a_second_time_known(store_pair):
    with Atlas.open(settings=store_pair) as atlas:
        first = import_paths(atlas, [DATA / "pt"])
        assert [item.already for item in first.loaded] == [False, False]
        assert first.rejected == []
        assert first.loaded[0].mended == {"missing_prompt_tokens": 1}
        assert [item.already for item in import_paths(atlas, [WHOLE]).loaded] == [True]
