"""The exact effect of edges and paths, one by one: what edge attribution patching estimates.

Path patching (Wang et al. 2023, "Interpretability in the Wild"; Goldowsky-Dill et al. 2023, "Localizing Model Behavior with
Path Patching"): one input of one component gets one source's output from the other run, and everything after that component
is computed anew. Up to there nothing differs from the ordinary run, so that an edge costs one ordinary pass from the target's
layer upwards; edges and cases share batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import nn

from atlas.circuit import SLOT
from ingest.components.split import Hook, Metric, Progress, SplitNetwork, Tokens, answers_only, with_hooks
from ingest.components.wiring import SLOTS_OF_HEAD
from ingest.models.decoder import Block, DecoderModel

Direction = Literal["noise", "denoise"]
ROWS = 256  # of a batch: (edge, case) pairs


def edge_effects(
    model: DecoderModel,
    cases: Tokens,
    metric: Metric,
    edges: Sequence[int] | np.ndarray | None = None,
    direction: Direction = "noise",
    rows: int = ROWS,
    progress: Progress | None = None,
) -> torch.Tensor:
    """(n, B) float64 exact effect of single edges (rows of Wiring; None: all of them) on every case, in the metric's unit.

    noise: metric of the clean run less that with the edge corrupted. denoise: metric of the corrupted run with the edge clean,
    less that of the corrupted run. So positive = the edge helps the metric, as in `eap.EdgeScores`.
    """
    split = SplitNetwork(model)
    wiring = split.wiring
    wanted = np.arange(wiring.n_edges) if edges is None else np.asarray(edges, np.int64)
    effects = torch.zeros(len(wanted), len(cases.clean), dtype=torch.float64)
    group = wiring.edge_input[wanted] // (3 * wiring.heads + 1) * 4 + wiring.edge_slot[wanted]  # by layer and slot
    done, total = 0, len(wanted) * len(cases.clean)
    with torch.no_grad(), model.ungrouped():
        blocks = model.blocks()
        for some in torch.arange(len(cases.clean)).split(min(rows, split.batch(cases.clean.shape[1]))):
            part = cases.take(some)
            base = _Base(split, part, direction)
            before = metric(base.logits, part).double().cpu()
            sign = 1 if direction == "noise" else -1
            for code in np.unique(group):
                members = np.flatnonzero(group == code)
                for batch in np.array_split(members, -(-len(members) * len(some) // rows)):
                    if not len(batch):
                        continue
                    logits = base.patched(blocks, wanted[batch]).unflatten(0, (len(batch), -1))
                    for row, patched in zip(batch.tolist(), logits, strict=True):
                        effects[row, some] = sign * (before - metric(patched, part).double().cpu())
                    done += len(batch) * len(some)
                    if progress:
                        progress(done, total, "patching edges")
    return effects


class _Base:
    """The run that edges are patched into: its streams, and what the other run's outputs differ by."""

    def __init__(self, split: SplitNetwork, cases: Tokens, direction: Direction) -> None:
        self.split, self.model = split, split.model
        here, there = (cases.clean, cases.corrupted) if direction == "noise" else (cases.corrupted, cases.clean)
        self.ids, self.lengths = here.to(self.model.device), cases.lengths
        outputs = split.outputs(here)
        self.change = split.outputs(there) - outputs  # (S, R, P, d)
        firsts = [split.wiring.seen_by_heads(layer) for layer in range(split.wiring.layers)]
        cumulative = outputs.cumsum(0)
        self.streams = [cumulative[first - 1] for first in [*firsts, len(outputs)]]  # before every layer, and the last
        with with_hooks([answers_only(self.model, self.lengths)]):
            self.logits = self.model.network(input_ids=self.ids, use_cache=False).logits[:, 0]

    def patched(self, blocks: list[Block], edges: np.ndarray) -> torch.Tensor:
        """(n * R, V): edges of one layer and slot, each with all cases."""
        wiring, n = self.split.wiring, len(edges)
        input = wiring.edge_input[edges]
        layer = int(input[0]) // (3 * wiring.heads + 1)
        change = self.change[torch.from_numpy(wiring.edge_source[edges])].flatten(0, 1)  # (n * R, P, d)
        stream = self.streams[layer].repeat(n, 1, 1)
        if layer == wiring.layers:
            hook: Hook = self.model.final_norm.module, "before", lambda module, args: (stream + change,)
        elif wiring.edge_slot[edges[0]] == SLOT["direct"]:
            hook = blocks[layer].mlp_norm.module, "before", lambda module, args: (args[0] + change,)
        else:
            heads = (input - wiring.head_inputs(layer).start) % wiring.heads
            slot = SLOTS_OF_HEAD[int(wiring.edge_slot[edges[0]]) - SLOT["q"]]
            hook = _changed_head(blocks[layer], slot, torch.from_numpy(heads), stream + change)
        hooks: list[Hook] = [hook, answers_only(self.model, self.lengths.repeat(n))]
        if layer < wiring.layers:
            hooks.append((blocks[layer].layer, "before", lambda module, args: (stream, *args[1:])))
        with skipped([block.layer for block in blocks[:layer]]), with_hooks(hooks):
            return self.model.network(input_ids=self.ids.repeat(n, 1), use_cache=False).logits[:, 0]


def _changed_head(block: Block, slot: str, heads: torch.Tensor, streams: torch.Tensor) -> Hook:
    """The q, k or v of head heads[i], in the i-th of n equal groups of rows, made from these streams (n * R, P, d)."""
    part = {"q": block.query, "k": block.key, "v": block.value}[slot]
    by_head = part.weight.unflatten(0, (-1, block.head_size))[heads]  # (n, h, d)
    read = block.attention_norm.module(streams).unflatten(0, (len(heads), -1))
    made = torch.einsum("nrpd,nhd->nrph", read, by_head)
    if part.bias is not None:
        made = made + part.bias.unflatten(0, (-1, block.head_size))[heads][:, None, None]

    def replace(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        all_heads = (
            output[..., part.columns].unflatten(-1, (-1, block.head_size)).unflatten(0, (len(heads), -1)).clone()
        )
        all_heads[torch.arange(len(heads)), :, :, heads] = made
        output[..., part.columns] = all_heads.flatten(0, 1).flatten(-2)
        return output

    return part.module, "after", replace


@contextmanager
def skipped(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within it these layers pass on what they get and compute nothing."""
    for layer in layers:
        layer.forward = lambda stream, *args, **options: stream  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@torch.no_grad()
def path_effect(network: SplitNetwork, cases: Tokens, metric: Metric, path: Sequence[int]) -> torch.Tensor:
    """(B,) float64 metric of the clean run less that of a run in which only this path carries the corruption.

    path: edge rows, each beginning where the one before ends, the last at the logits. The first source's corrupted output
    reaches the first target alone, what that then adds differently reaches the second alone, and so on.
    """
    wiring = network.wiring
    ends, starts = wiring.edge_target[list(path)], wiring.edge_source[list(path)]
    if not len(ends) or ends[-1] != wiring.n_sources or (ends[:-1] != starts[1:]).any():
        raise ValueError("a path is edges that begin where the one before ends, the last at the logits")
    parts = []
    for rows in torch.arange(len(cases.clean)).split(network.batch(cases.clean.shape[1])):
        part = cases.take(rows)
        keep = torch.ones(wiring.n_edges)
        other = network.outputs(part.corrupted)
        before = network.forward(part.clean, part.lengths, keep, other)
        logits = before
        for edge in path:
            keep = torch.ones(wiring.n_edges)
            keep[edge] = 0
            logits, other = network.forward_with_outputs(part.clean, part.lengths, keep, other)
        parts.append((metric(before, part) - metric(logits, part)).double().cpu())
    return torch.cat(parts)
