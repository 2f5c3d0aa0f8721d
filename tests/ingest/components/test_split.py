"""The split network is the network itself, the corrupted run, or anything between, for every family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from atlas.circuit import KINDS
from atlas.errors import ModelRejected
from ingest.components.split import SplitNetwork, in_batches, mlp_end
from ingest.components.wiring import Wiring
from tests.ingest.components.conftest import VOCABULARY


@dataclass
class Cases:
    clean: torch.Tensor
    corrupted: torch.Tensor
    lengths: torch.Tensor

    def take(self, rows):
        return Cases(self.clean[rows], self.corrupted[rows], self.lengths[rows])


@pytest.fixture
def model(family_model):
    return family_model


@pytest.fixture
def cases():
    generator = torch.Generator().manual_seed(3)
    clean, corrupted = torch.randint(1, VOCABULARY, (2, 3, 7), generator=generator)
    lengths = torch.tensor([7, 5, 6])
    for ids in (clean, corrupted):
        for row, length in enumerate(lengths):
            ids[row, length:] = 0
    return Cases(clean, corrupted, lengths)


def close(model, measured, expected):
    """GPT-2 computes in float64 throughout; the others' own norms and softmax round to float32."""
    tolerance = 1e-10 if model.config.model_type == "gpt2" else 1e-5
    torch.testing.assert_close(measured, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def answers(model, ids, lengths):
    return model.network(ids).logits[torch.arange(len(ids)), lengths - 1]


def test_all_edges_are_the_network_and_none_the_corrupted_run(model, cases):
    split = SplitNetwork(model)
    edges = split.wiring.n_edges
    whole, nothing = split.run(cases, torch.ones(edges)), split.run(cases, torch.zeros(edges))
    close(model, whole, answers(model, cases.clean, cases.lengths))
    close(model, nothing, answers(model, cases.corrupted, cases.lengths))
    assert (whole - nothing).abs().max() > 0.1


def test_what_the_sources_add_is_the_stream(model, cases):
    seen = {}
    handle = model.final_norm.module.register_forward_pre_hook(lambda module, args: seen.setdefault(0, args[0]))
    model.network(cases.clean)
    handle.remove()
    close(model, SplitNetwork(model).outputs(cases.clean).sum(0), seen[0])


def test_a_cut_edge_changes_the_input_of_its_target_alone(model, cases):
    """Against the ordinary network in which only that projection, or that MLP, reads a changed stream."""
    split, wiring = SplitNetwork(model), Wiring.of(model)
    change = split.outputs(cases.corrupted) - split.outputs(cases.clean)
    layer, head, source = 1, 2, wiring.head(0, 1)
    ones = torch.ones(wiring.n_edges)
    for slot in ("q", "k", "v", "mlp"):
        with model.ungrouped():
            block = model.blocks()[layer]
            if slot == "mlp":
                cut = wiring.edge(source, wiring.mlp(layer))
                handle = block.mlp_norm.module.register_forward_pre_hook(
                    lambda module, args: (args[0] + change[source],)
                )
                expected = answers(model, cases.clean, cases.lengths)
                handle.remove()
            else:
                cut = wiring.edge(source, wiring.head(layer, head), slot)
                part = {"q": block.query, "k": block.key, "v": block.value}[slot]
                seen = {}
                watch = block.attention_norm.module.register_forward_pre_hook(
                    lambda module, args, seen=seen: seen.__setitem__("stream", args[0])
                )
                size, norm = block.head_size, block.attention_norm

                def other_input(module, args, output, seen=seen, norm=norm, part=part, size=size):
                    stream = seen["stream"] + change[source]
                    read = norm.normalized(stream) * norm.weight + (0 if norm.bias is None else norm.bias)
                    made = read @ part.weight.T + (0 if part.bias is None else part.bias)
                    columns = torch.arange(output.shape[-1])[part.columns][head * size : (head + 1) * size]
                    output = output.clone()
                    output[..., columns] = made[..., head * size : (head + 1) * size]
                    return output

                handle = part.module.register_forward_hook(other_input)
                expected = answers(model, cases.clean, cases.lengths)
                handle.remove()
                watch.remove()
        keep = ones.clone()
        keep[cut] = 0
        measured = split.run(cases, keep)
        close(model, measured, expected)
        assert (measured - split.run(cases, ones)).abs().max() > 1e-4


def test_circuits_of_a_batch_are_those_run_one_by_one(model, cases):
    split = SplitNetwork(model)
    keeps = (torch.rand(4, split.wiring.n_edges, generator=torch.Generator().manual_seed(0)) < 0.7).double()
    alone = torch.stack([split.run(cases, keep, batch=2) for keep in keeps])
    metric = lambda logits, part: logits[:, 5] - logits[:, 6] + part.clean[:, 0]  # noqa: E731
    measured = split.measure(cases, keeps, metric)
    close(model, measured, torch.stack([metric(logits, cases) for logits in alone]))
    row = torch.tensor([1] * len(keeps))
    with torch.no_grad():
        other = split.outputs(cases.corrupted[row])
        together = split.forward(cases.clean[row], cases.lengths[row], keeps, other)
    close(model, together, alone[:, 1])


def test_other_outputs_than_the_corrupted_ones_may_stand_for_an_edge_that_is_cut(model, cases):
    """Zeros for all: the logits are those of an empty stream. Means for one source: the others see only that change."""
    split = SplitNetwork(model)
    nothing = torch.zeros(split.wiring.n_sources, 1, 1, model.width, dtype=torch.float64)
    found = split.run(cases, torch.zeros(split.wiring.n_edges), other=nothing)
    seen = model.final_norm.module.register_forward_pre_hook(lambda module, args: (torch.zeros_like(args[0]),))
    expected = answers(model, cases.clean, cases.lengths)
    seen.remove()
    close(model, found, expected)
    source = split.wiring.mlp(split.wiring.layers - 1)
    mean = split.outputs(cases.clean).mean((1, 2), keepdim=True)
    keep = torch.ones(split.wiring.n_edges)
    keep[split.wiring.edge(source, split.wiring.n_sources)] = 0
    found = split.run(cases, keep, other=mean)
    end = mlp_end(model.blocks()[-1])
    seen = end.register_forward_hook(lambda module, args, output: mean[source].expand_as(output))
    expected = answers(model, cases.clean, cases.lengths)
    seen.remove()
    close(model, found, expected)


def test_the_network_is_left_as_it_was(model, cases):
    before = answers(model, cases.clean, cases.lengths)
    SplitNetwork(model).run(cases, torch.zeros(SplitNetwork(model).wiring.n_edges))
    assert torch.equal(answers(model, cases.clean, cases.lengths), before)


@pytest.mark.parametrize("parallel", [False, True])
def test_edges_point_to_what_comes_later(parallel):
    wiring = Wiring(layers=2, heads=3, parallel=parallel)
    nodes = wiring.nodes()
    assert [KINDS[kind] for kind in nodes.kind] == ["token", *["head"] * 3, "mlp", *["head"] * 3, "mlp", "logit"]
    assert (wiring.edge_source < wiring.edge_target).all()
    assert len({*zip(wiring.edge_source, wiring.edge_target, wiring.edge_slot, strict=True)}) == wiring.n_edges
    # token -> 9 inputs and the MLP; then 5 sources; the logits see all 9
    own = 0 if parallel else 3
    assert wiring.n_edges == 9 + (1 + own) + 9 * 5 + (5 + own) + 9
    with pytest.raises(KeyError):
        wiring.edge(wiring.mlp(1), wiring.head(0, 0), "q")


def test_edges_that_lead_nowhere_are_found():
    wiring = Wiring(layers=2, heads=1)
    head, later = wiring.head(0, 0), wiring.head(1, 0)
    path = [wiring.edge(0, head, "v"), wiring.edge(head, later, "k"), wiring.edge(later, wiring.n_sources)]
    loose = [wiring.edge(0, wiring.mlp(0)), wiring.edge(wiring.mlp(1), wiring.n_sources)]
    keep = np.zeros(wiring.n_edges, bool)
    keep[path + loose] = True
    assert np.flatnonzero(wiring.alive(keep)).tolist() == sorted(path)


def test_a_batch_without_memory_is_halved_and_one_row_too_much_is_said():
    done = []

    def work(rows, most):
        if len(rows) > most:
            raise torch.OutOfMemoryError("full")
        done.extend(rows.tolist())

    in_batches(11, 8, lambda rows: work(rows, 3))
    assert done == [*range(11)]
    with pytest.raises(ModelRejected, match="not enough memory"):
        in_batches(4, 4, lambda rows: work(rows, 0))
