"""The graph is the same however the work is cut up, and whatever the tokenizer would like to pad with."""

from __future__ import annotations

import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from ingest.models import devices, load_model
from ingest.trace import attribute
from ingest.trace.attribute import Prepared
from ingest.trace.backward import Backward
from ingest.trace.prompt import prompt_ids
from ingest.transcoders import load_transcoders
from tests.ingest.trace.test_reference import FAMILY_DATA, assert_same_matrix, reference

PAIRS = ["gemma2/clt_relu", "gpt2/plt_skip", "qwen3/plt_jumprelu_skip", "gpt_neox/plt_relu"]
TEXT = "w55 w71 w5 w48 w66 w77"  # no word begins like a special one: the tokenizer would read w12 as w1 and 2
IDS = [1, 55, 71, 5, 48, 66, 77]


def load(pair: str):
    model = load_model(FAMILY_DATA / pair.split("/")[0] / "model", device="cpu")
    return model, load_transcoders(FAMILY_DATA / pair, model)


def with_tokenizer(folder, **changes):
    """A copy of a family's model folder with other entries of tokenizer_config.json."""
    shutil.copytree(FAMILY_DATA / "qwen3" / "model", folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_batch_size_gives_the_same_graph(pair, batch_size):
    model, parts = load(pair)
    theirs = reference(f"{pair}/long")
    graph = attribute(model, parts, theirs["input_ids"].tolist(), batch_size=batch_size)
    assert_same_matrix(graph.matrix.toarray(), theirs["adjacency_matrix"])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("meets", [False, True], ids=["down only", "meeting"])
def test_however_many_positions_share_a_walk_the_graph_is_the_same(pair, meets, monkeypatch):
    model, parts = load(pair)
    theirs = reference(f"{pair}/long")
    if not meets:
        monkeypatch.setattr(Prepared, "meet", lambda *_: None)
    widths = []
    rows = Backward.rows

    def counted(self, layers, nodes, positions):
        widths[-1].append(len(np.unique(positions)))
        return rows(self, layers, nodes, positions)

    monkeypatch.setattr(Backward, "rows", counted)
    for work in (0.0, 2.0**16, 2.0**40):
        monkeypatch.setattr(Backward, "walk_work", work)
        widths.append([])
        graph = attribute(model, parts, theirs["input_ids"].tolist())
        assert_same_matrix(graph.matrix.toarray(), theirs["adjacency_matrix"])
    apart, some, together = widths
    assert max(apart) == 1 < max(some)
    assert len(apart) > len(some) > len(together)


def test_a_prompt_with_its_bos_and_one_without_give_the_same_graph():
    model, parts = load("qwen3/plt_jumprelu_skip")
    assert prompt_ids(model, TEXT, None) == prompt_ids(model, f"w1 {TEXT}", None) == IDS
    exact = prompt_ids(model, None, IDS[1:])
    assert exact == IDS[1:]  # ids are taken as they are
    without = attribute(model, parts, exact)
    sums = without.matrix.sum(axis=1) + without.constants
    np.testing.assert_allclose(sums, without.pre_activations, atol=2e-5)
    assert without.features[:, 1].min() > 0  # then a word stands where there are no features


@pytest.mark.parametrize("pad", ["w1", "w2"], ids=["pad is bos", "pad is eos"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_tokenizer_never_reaches_the_graph(pad, side, tmp_path):
    folder = with_tokenizer(tmp_path / "model", pad_token=pad, padding_side=side)
    table = json.loads((folder / "tokenizer.json").read_text())
    number = int(pad[1:])
    fixed = {"strategy": {"Fixed": 12}, "direction": side.capitalize(), "pad_to_multiple_of": None}
    table["padding"] = fixed | {"pad_id": number, "pad_type_id": 0, "pad_token": pad}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    model = load_model(folder, device="cpu")
    assert model.tokenizer.pad_token_id == number
    ids = prompt_ids(model, TEXT, None)
    assert ids == IDS
    parts = load_transcoders(FAMILY_DATA / "qwen3" / "plt_jumprelu_skip", model)
    plain = attribute(*load("qwen3/plt_jumprelu_skip"), IDS)
    graph = attribute(model, parts, ids)
    assert np.array_equal(graph.features, plain.features)
    assert_same_matrix(graph.matrix.toarray(), plain.matrix.toarray())


def test_a_pad_token_among_given_ids_is_a_token_like_others():
    model, parts = load("qwen3/plt_jumprelu_skip")
    padded = attribute(model, parts, [0, 0, *IDS])
    assert padded.order.n_positions == len(IDS) + 2
    sums = padded.matrix.sum(axis=1) + padded.constants
    np.testing.assert_allclose(sums, padded.pre_activations, atol=2e-5)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_batch_of_prompts_padded_on_the_right_reads_the_same_features(pair):
    """`feature_inputs`, which labels features on many texts at once."""
    model, parts = load(pair)
    batch = torch.tensor([[*IDS[:5], 0, 0, 0], [*IDS, 9]])
    inputs = model.feature_inputs(batch, parts.input_hook)
    for row, length in ((0, 5), (1, 8)):
        alone = model.freeze(batch[row, :length].tolist(), parts.input_hook, parts.output_hook).inputs
        torch.testing.assert_close(inputs[:, row, :length], alone, atol=1e-5, rtol=1e-5)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("alone", [0, 2**40])
def test_batches_are_computed_beside_one_another_but_those_of_a_small_trace_on_one_thread(
    alone, monkeypatch, three_threads
):
    monkeypatch.setattr(devices, "ALONE", alone)
    model, parts = load(PAIRS[0])
    rows, seen = Backward.rows, set()

    def watched(self, *where):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        return rows(self, *where)

    monkeypatch.setattr(Backward, "rows", watched)
    attribute(model, parts, IDS, batch_size=1)
    if alone:
        assert seen == {(threading.current_thread().name, 1)}
    else:
        assert len(seen) > 1
        assert {threads for _, threads in seen} == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("pair", PAIRS)
def test_the_graph_is_the_same_on_several_threads(pair, monkeypatch, three_threads):
    model, parts = load(pair)
    plain = attribute(model, parts, IDS, batch_size=2)
    monkeypatch.setattr(devices, "ALONE", 0)
    graph = attribute(model, parts, IDS, batch_size=2)
    assert np.array_equal(graph.features, plain.features)
    assert np.array_equal(graph.matrix.indices, plain.matrix.indices)
    assert_same_matrix(graph.matrix.toarray(), plain.matrix.toarray())


def test_a_trace_that_is_given_up_leaves_threads_as_they_were_and_the_next_one_works(monkeypatch, three_threads):
    monkeypatch.setattr(devices, "ALONE", 0)
    model, parts = load(PAIRS[0])

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(model, parts, IDS, batch_size=1, progress=stop)
    assert torch.get_num_threads() == 3
    assert attribute(model, parts, IDS, batch_size=1).matrix.nnz


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_batch_that_does_not_fit_beside_another_is_computed_when_that_one_has_ended(
    batch_size, monkeypatch, three_threads
):
    monkeypatch.setattr(devices, "ALONE", 0)
    model, parts = load(PAIRS[0])
    plain = attribute(model, parts, IDS)
    rows, room = Backward.rows, threading.Lock()

    def one_at_a_time(self, *where):
        if not room.acquire(blocking=False):
            raise torch.OutOfMemoryError("no memory left")
        try:
            time.sleep(0.01)
            return rows(self, *where)
        finally:
            room.release()

    monkeypatch.setattr(Backward, "rows", one_at_a_time)
    assert_same_matrix(attribute(model, parts, IDS, batch_size=batch_size).matrix.toarray(), plain.matrix.toarray())
