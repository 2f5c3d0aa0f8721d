"""Edge attribution patching: a linear estimate of what every edge does, from a few ordinary passes of the network.

EAP (Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"): the score of an edge is the change of
its source's output from the clean to the corrupted run times the gradient of the metric at its target's input. EAP-IG (Hanna
et al. 2024, "Have Faith in Faithfulness", eq. 4): that gradient averaged over runs whose embeddings lie between corrupted and
clean, k / steps of the way, k = 1 to steps; one step is EAP.

Each step is one forward and one backward pass of the ordinary network, whatever the number of edges. The gradient at the
input of one head's q, k or v is not there as such (the heads of a layer share one stream and one norm), but follows from the gradient
at that head's q, k or v by the norm's Jacobian in closed form. With x the (centred) stream, r = 1 / its denominator, y = w x r the
norm's output without bias, W the head's projection and g the gradient at its output,

    gradient at the input = centre(w W'(r g)) - x r^2 (g . W y) / d

so that over steps only r g (in the head's few dimensions), x r^2 / d and g . W y need be kept. One matrix product per layer
at the end makes all scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ingest.components.split import Hook, Metric, Progress, Tokens, answers_only, in_batches, with_hooks, writes
from ingest.components.wiring import Wiring
from ingest.models.decoder import Block, DecoderModel, Projection

BUDGET = 1024 * 2**20  # bytes that sources' outputs and inputs' gradients of one batch may take


@dataclass
class EdgeScores:
    """Positive = the metric would fall if the edge were corrupted: -(corrupted - clean output) . gradient, summed over
    positions, mean over the cases, in the metric's unit."""

    wiring: Wiring
    scores: torch.Tensor  # (E,) float64 on the CPU, edges as in Wiring
    steps: int
    clean: float  # the metric on the clean prompts, mean over the cases

    @property
    def sources(self) -> np.ndarray:
        """(E,) node rows."""
        return self.wiring.edge_source

    @property
    def targets(self) -> np.ndarray:
        """(E,) node rows."""
        return self.wiring.edge_target

    @property
    def slots(self) -> np.ndarray:
        """(E,) codes of atlas.circuit.SLOTS."""
        return self.wiring.edge_slot

    @property
    def node_scores(self) -> np.ndarray:
        """(N,) the same estimate for a node's whole output: the sum over its edges; 0 for the logits."""
        return np.bincount(self.sources, weights=self.scores.numpy(), minlength=self.wiring.n_sources + 1)


def edge_scores(
    model: DecoderModel,
    cases: Tokens,
    metric: Metric,
    steps: int = 5,
    batch: int | None = None,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges. steps: 1 = EAP, more = EAP-IG. batch: cases at a time.

    metric: logits (R, V) and the cases of these rows -> (R,).
    """
    wiring = Wiring.of(model)
    total = torch.zeros(wiring.n_sources, wiring.n_inputs, dtype=torch.float64)
    clean, count = 0.0, len(cases.clean)

    def work(rows: torch.Tensor) -> None:
        nonlocal total, clean
        if progress:
            progress(int(rows[0]), count, "scoring edges")
        passes = Passes(model, wiring, cases.take(rows), metric, steps)
        total += passes.scores().to("cpu", torch.float64)
        clean += passes.clean

    with model.ungrouped():
        in_batches(count, batch or rows_that_fit(model, wiring, cases), work)
    scores = total[wiring.edge_source, wiring.edge_input] / count
    return EdgeScores(wiring, scores, steps, clean / count)


def rows_that_fit(model: DecoderModel, wiring: Wiring, cases: Tokens) -> int:
    """So many cases of one step fit into BUDGET."""
    block, positions = model.blocks()[0], cases.clean.shape[1]
    kept = wiring.n_sources + 3 * wiring.heads  # outputs of all sources, gradients of one layer's inputs
    saved = model.n_layers * (20 + 4 * wiring.heads * positions // block.output_weight.shape[0])  # by autograd, roughly
    return max(1, BUDGET // ((kept + saved) * positions * model.width * model.dtype.itemsize))


class Passes:
    """All passes over one batch of R cases; within `model.ungrouped()`."""

    def __init__(
        self,
        model: DecoderModel,
        wiring: Wiring,
        cases: Tokens,
        metric: Metric,
        steps: int,
        watch: Callable[[int], list[Hook]] | None = None,
    ) -> None:
        """watch: further hooks of each step, given the step's number from 1 to `steps`; the last is the clean run."""
        self.model, self.wiring, self.cases, self.metric, self.steps = model, wiring, cases, metric, steps
        self.blocks = model.blocks()
        self.attention = [_Attention(block) for block in self.blocks]
        shape = (*cases.clean.shape, model.width)
        self.mlp_gradients = [torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in self.blocks]
        self.final_gradient = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.change = torch.empty(wiring.n_sources, *shape, dtype=model.dtype, device=model.device)  # clean - corrupted
        self._run(watch)

    def _run(self, watch: Callable[[int], list[Hook]] | None) -> None:
        model, cases = self.model, self.cases
        ids = cases.clean.to(model.device)
        start, end = model.embedding(cases.corrupted.to(model.device)), model.embedding(ids)
        with torch.no_grad(), with_hooks(writes(model, self.wiring, self._keep)):
            model.body(input_ids=cases.corrupted.to(model.device), use_cache=False)
        for step in range(1, self.steps + 1):
            point = torch.lerp(start, end, step / self.steps).requires_grad_()
            hooks = self._gradient_hooks() + (watch(step) if watch else [])
            if step == self.steps:
                hooks += writes(model, self.wiring, self._less)
            hooks.append((model.embedding, "after", lambda module, args, output, point=point: point))
            hooks.append(answers_only(model, cases.lengths))
            with torch.enable_grad(), with_hooks(hooks):
                logits = model.network(input_ids=ids, use_cache=False).logits[:, 0]
                value = self.metric(logits, cases).sum()
            value.backward()
        self.clean = float(value.detach())

    def _keep(self, rows: int | slice, values: torch.Tensor) -> None:
        self.change[rows] = values

    @torch.no_grad()
    def _less(self, rows: int | slice, values: torch.Tensor) -> None:
        torch.sub(values.detach(), self.change[rows], out=self.change[rows])

    def _gradient_hooks(self) -> list[Hook]:
        hooks: list[Hook] = []
        for block, attention, total in zip(self.blocks, self.attention, self.mlp_gradients, strict=True):
            hooks += attention.hooks()
            hooks.append((block.mlp_norm.module, "before", _own_gradient(total, self.steps)))
        hooks.append((self.model.final_norm.module, "before", _own_gradient(self.final_gradient, self.steps)))
        return hooks

    def gradients(self) -> Iterator[tuple[slice, int, torch.Tensor]]:
        """(input rows, number of sources they see, (n, R * P * d) gradients at these inputs, mean over steps)."""
        wiring = self.wiring
        for layer, attention in enumerate(self.attention):
            yield (
                wiring.head_inputs(layer),
                wiring.seen_by_heads(layer),
                attention.gradients(self.steps).flatten(1),
            )
            row = wiring.mlp_input(layer)
            yield slice(row, row + 1), wiring.seen_by_mlp(layer), self.mlp_gradients[layer].flatten()[None]
        yield slice(wiring.logit_input, None), wiring.n_sources, self.final_gradient.flatten()[None]

    @torch.no_grad()
    def scores(self) -> torch.Tensor:
        """(S, T) summed over cases and positions; 0 where there is no edge."""
        change = self.change.flatten(1)  # (S, R * P * d)
        table = change.new_zeros(self.wiring.n_sources, self.wiring.n_inputs)
        for inputs, seen, gradients in self.gradients():
            table[:seen, inputs] = (gradients @ change[:seen].T).T
        return table


def _own_gradient(total: torch.Tensor, steps: int):
    """Adds the gradient that reaches a module's input through that module alone to `total`, divided by `steps`."""

    def add(gradient: torch.Tensor) -> None:
        total.add_(gradient, alpha=1 / steps)

    def hook(module: nn.Module, args: tuple) -> tuple:
        read = args[0].view_as(args[0])
        read.register_hook(add)
        return (read, *args[1:])

    return hook


class _Attention:
    """Gradients at the inputs of all heads' queries, keys and values of one layer, summed over steps."""

    def __init__(self, block: Block) -> None:
        self.norm = block.attention_norm
        self.parts = [_Part(block, projection) for projection in (block.query, block.key, block.value)]
        self.streams: list[torch.Tensor] = []  # per step (R, P, d): x r^2 / d

    def hooks(self) -> list[Hook]:
        return [(self.norm.module, "before", self._read), *(part.hook() for part in self.parts)]

    @torch.no_grad()
    def _read(self, module: nn.Module, args: tuple) -> None:
        stream = args[0].detach()
        scale = self.norm.scale(stream)  # (R, P, 1)
        self.streams.append(self.norm.centre(stream) * scale.square() / stream.shape[-1])
        for part in self.parts:
            part.scale = scale

    def gradients(self, steps: int) -> torch.Tensor:
        """(3 * heads, R, P, d), mean over the steps."""
        streams = torch.stack(self.streams, -2).flatten(0, 1)  # (R * P, K, d)
        rows, width, heads = len(streams), streams.shape[-1], self.parts[0].scaled.shape[2]
        made = streams.new_empty(3 * heads, rows, width)
        for i, part in enumerate(self.parts):
            weight = self.norm.centre(part.weight * self.norm.weight).unflatten(0, (heads, -1)) / steps
            scaled = part.scaled.flatten(0, 1).transpose(0, 1)  # (heads, R * P, h)
            torch.matmul(scaled, weight, out=made[i * heads : (i + 1) * heads])
        along = torch.cat([torch.stack(part.along, -1) for part in self.parts], -2)  # (R, P, 3 * heads, K)
        made -= (along.flatten(0, 1) @ (streams / steps)).transpose(0, 1)
        return made.view(3 * heads, *self.streams[0].shape)


class _Part:
    """The queries, the keys or the values of one layer."""

    def __init__(self, block: Block, projection: Projection) -> None:
        self.module, self.weight, self.columns = projection.module, projection.weight, projection.columns
        self.head_size = block.head_size
        self.constant = self.weight.new_zeros(len(self.weight))  # what biases put out
        if projection.bias is not None:
            self.constant += projection.bias
        if block.attention_norm.bias is not None:
            self.constant += self.weight @ block.attention_norm.bias
        self.scale = self.scaled = self.constant.new_zeros(1)  # of this step; (R, P, heads, h) sum of r g
        self.along: list[torch.Tensor] = []  # per step (R, P, heads): g . W y

    def hook(self) -> Hook:
        def made(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            value, scale = output.detach()[..., self.columns] - self.constant, self.scale
            output.register_hook(lambda gradient: self._note(gradient, value, scale))

        return self.module, "after", made

    @torch.no_grad()
    def _note(self, gradient: torch.Tensor, value: torch.Tensor, scale: torch.Tensor) -> None:
        gradient = gradient[..., self.columns]
        self.scaled = self.scaled + (gradient * scale).unflatten(-1, (-1, self.head_size))
        self.along.append((gradient * value).unflatten(-1, (-1, self.head_size)).sum(-1))
