"""A set that is too large for the memory stays in its files, and only what fires is taken out of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from atlas.errors import ModelRejected
from ingest.trace import attribute
from ingest.transcoders import load_transcoders
from ingest.transcoders.set import Transcoder
from tests.ingest.transcoders import conftest as made

IDS = [1, 5, 9, 13, 21]


@pytest.fixture
def nothing_resident(monkeypatch):
    monkeypatch.setattr("ingest.transcoders.parts.RESIDENT_SHARE", 0)


@pytest.fixture(params=["circuit-tracer", "gemma scope", "gemma scope 2", "saelens"])
def written(request, tmp_path):
    folder, layers = made.plain(tmp_path / "plain", "ln2.hook_normalized", "hook_mlp_out", jump=True)
    other = tmp_path / "other"
    match request.param:
        case "circuit-tracer":
            return folder, layers
        case "gemma scope":
            return made.gemma_scope(other, layers), layers
        case "gemma scope 2":
            return made.gemma_scope_2(other, layers), layers
    return made.saelens(other, layers, "ln2.hook_normalized", "hook_mlp_out"), layers


def test_matrices_stay_in_their_files(model, written, nothing_resident):
    for layer in load_transcoders(written[0], model).layers:
        assert [_mapped(t) for t in (layer.w_enc, layer.w_dec, layer.b_enc, layer.threshold)] == [
            True,
            True,
            False,
            False,
        ]


def test_a_resident_set_does_not_depend_on_its_files(model, written):
    assert not any(_mapped(layer.w_enc) or _mapped(layer.w_dec) for layer in load_transcoders(written[0], model).layers)


def _mapped(tensor: torch.Tensor) -> bool:
    """Whether the tensor's memory is that of a file (Linux lists what is mapped)."""
    at = tensor.data_ptr()
    with open("/proc/self/maps") as lines:
        for line in lines:
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            if first <= at < last:
                return line.rstrip().endswith((".safetensors", ".npz"))
    return False


def test_only_decoders_of_features_that_fire_are_taken(model, written, nothing_resident, monkeypatch):
    transcoders = load_transcoders(written[0], model)
    taken, rows = [], Transcoder._rows

    def count(self, matrix, features):
        if matrix is self.w_dec:
            taken.append((transcoders.layers.index(self), features))
        return rows(self, matrix, features)

    monkeypatch.setattr(Transcoder, "_rows", count)
    monkeypatch.setattr(Transcoder, "__eq__", lambda self, other: self is other)
    graph = attribute(model, transcoders, IDS)
    assert all(isinstance(features, torch.Tensor) for _, features in taken), (
        "no slices: a slice takes what does not fire"
    )
    read = {(layer, int(feature)) for layer, features in taken for feature in features}
    assert read == {(int(layer), int(feature)) for layer, _, feature in graph.features}
    assert len(read) < made.LAYERS * made.FEATURES


def test_encoders_are_converted_in_blocks(model, written, nothing_resident, monkeypatch):
    monkeypatch.setattr("ingest.transcoders.set.BLOCK_BYTES", 7 * made.WIDTH * 4)
    whole = attribute(model, load_transcoders(written[0], model), IDS)
    transcoders = load_transcoders(written[0], model)
    for layer in transcoders.layers:
        layer.w_enc = layer.w_enc.double()  # another dtype than the model's: every block is converted
    sizes, rows = [], Transcoder._rows

    def count(self, matrix, features):
        found = rows(self, matrix, features)
        if isinstance(features, slice):
            sizes.append(len(found))
        return found

    monkeypatch.setattr(Transcoder, "_rows", count)
    blocked = attribute(model, transcoders, IDS)
    assert max(sizes) == 7
    assert len(sizes) > made.LAYERS
    assert np.array_equal(blocked.features, whole.features)
    np.testing.assert_allclose(blocked.matrix.toarray(), whole.matrix.toarray(), atol=1e-5)


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_a_row_that_is_not_finite_is_refused_when_it_fires_and_not_before(model, tmp_path, nothing_resident, name):
    folder, layers = made.plain(tmp_path / "plain", "mlp.hook_in", "mlp.hook_out")
    fired = {
        int(feature)
        for layer, _, feature in attribute(model, load_transcoders(folder, model), IDS).features
        if layer == 1
    }
    silent = next(feature for feature in range(made.FEATURES) if feature not in fired)
    if name == "W_dec":
        layers[1][name][silent] = float("nan")
        save_file(layers[1], folder / "layer_1.safetensors")
        attribute(model, load_transcoders(folder, model), IDS)
    layers[1][name][min(fired)] = float("nan")
    save_file(layers[1], folder / "layer_1.safetensors")
    transcoders = load_transcoders(folder, model)
    with pytest.raises(ModelRejected, match=r"layer_1\.safetensors .*(NaN|not finite)") as caught:
        attribute(model, transcoders, IDS)
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith(".")
