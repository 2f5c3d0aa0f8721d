"""Neurons of MLPs as a finer level of a component circuit, scored as heads and MLPs are.

A neuron is one input of the MLP's last matrix; what it adds to the stream is its value times its column, with a post-norm
(Gemma) held at its denominator. Its edges are parts of its MLP's: over all neurons they sum to them, biases aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ingest.components.eap import Passes, rows_that_fit
from ingest.components.split import Hook, Metric, Progress, Tokens, in_batches, mlp_end, with_hooks
from ingest.components.wiring import Wiring
from ingest.models.decoder import Block, DecoderModel

LAST = ("down_proj", "c_proj", "dense_4h_to_h")  # what families call the last matrix of an MLP


@dataclass
class Neurons:
    """n neurons; scores as in `eap.EdgeScores`."""

    layer: np.ndarray  # (n,)
    index: np.ndarray  # (n,)
    scores: np.ndarray  # (n,) of the whole output
    into: np.ndarray  # (S, n) source -> neuron, 0 where there is no edge
    out: np.ndarray  # (n, T) neuron -> input

    def __len__(self) -> int:
        return len(self.layer)


def strongest_neurons(
    model: DecoderModel,
    cases: Tokens,
    metric: Metric,
    steps: int,
    count: int,
    layers: np.ndarray | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Neurons:
    """The `count` neurons of the largest absolute score with their edges, ordered by layer and index.

    layers: (L,) bool, those whose MLPs are asked about; None: all. Twice the cost of `eap.edge_scores`, and one backward pass of
    an MLP per neuron and step.
    """
    wiring = Wiring.of(model)
    with model.ungrouped():
        width = _weight(model.blocks()[0]).shape[1]
        total = torch.zeros(wiring.layers, width, dtype=torch.float64)
        rows_at_once = batch or rows_that_fit(model, wiring, cases)

        def score(rows: torch.Tensor) -> None:
            nonlocal total
            if progress:
                progress(int(rows[0]), len(cases.clean), "scoring neurons")
            total += _Watched(model, wiring, cases.take(rows), metric, steps).scores().double().cpu()

        in_batches(len(cases.clean), rows_at_once, score)
        total /= len(cases.clean)
        size = total.abs()
        if layers is not None:
            size[~torch.from_numpy(layers)] = -1
        allowed = int((size >= 0).sum())
        best = size.flatten().topk(min(count, allowed)).indices.sort().values.numpy()
        layer, index = np.divmod(best, total.shape[1])
        into = torch.zeros(wiring.n_sources, len(best), dtype=torch.float64)
        out = torch.zeros(len(best), wiring.n_inputs, dtype=torch.float64)

        def score_edges(rows: torch.Tensor) -> None:
            if progress:
                progress(int(rows[0]), len(cases.clean), "scoring neurons' edges")
            watched = _Watched(model, wiring, cases.take(rows), metric, steps, (layer, index))
            for table, found in zip((into, out), watched.edges(), strict=True):
                table += found.double().cpu() / len(cases.clean)

        in_batches(len(cases.clean), rows_at_once, score_edges)
    return Neurons(layer, index, total.numpy()[layer, index], into.numpy(), out.numpy())


class _Watched:
    """The passes over one batch of R cases, with what neurons do and the gradients at them."""

    def __init__(
        self,
        model: DecoderModel,
        wiring: Wiring,
        cases: Tokens,
        metric: Metric,
        steps: int,
        chosen: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.wiring, self.blocks, self.steps = wiring, model.blocks(), steps
        nobody: np.ndarray = np.zeros(0, np.int64)
        self.layer, self.index = chosen or (nobody, nobody)
        self.weights = [_weight(block) for block in self.blocks]  # (d, I)
        self.change: dict[int, torch.Tensor] = {}  # by layer (R, P, I) clean less corrupted, with the post-norm's scale
        self.written: dict[
            int, torch.Tensor
        ] = {}  # by layer (R, P, d) gradient where the MLP is added, mean over steps
        self.inward: dict[int, torch.Tensor] = {}  # by chosen neuron (R, P, d) gradient at its MLP's input through it
        with torch.no_grad(), with_hooks(self._values(-1)):
            model.body(input_ids=cases.corrupted.to(model.device), use_cache=False)
        self.passes = Passes(model, wiring, cases, metric, steps, self._watch)

    def _watch(self, step: int) -> list[Hook]:
        hooks = self._values(1) if step == self.steps else []
        for layer, block in enumerate(self.blocks):
            hooks.append((mlp_end(block), "after", self._at_end(layer)))
            if (self.layer == layer).any():
                hooks += self._inward(layer, block)
        return hooks

    def _values(self, sign: int) -> list[Hook]:
        """Add what neurons do, times the sign, to `change`."""
        hooks: list[Hook] = []
        for layer, block in enumerate(self.blocks):

            def note(module: nn.Module, args: tuple, output: torch.Tensor, layer: int = layer) -> None:
                value, post = args[0].detach(), self.blocks[layer].post_mlp_norm
                if post is not None:
                    value = value * post.scale(output.detach())
                self.change[layer] = self.change.get(layer, 0) + sign * value

            hooks.append((_last(block), "after", note))
        return hooks

    def _at_end(self, layer: int) -> Any:
        def add(gradient: torch.Tensor) -> None:
            self.written[layer] = self.written.get(layer, 0) + gradient / self.steps

        return lambda module, args, output: output.register_hook(add) and None

    def _inward(self, layer: int, block: Block) -> list[Hook]:
        """At the gradient of the neurons, back through the MLP's own norm and first matrices once more, neuron by neuron."""
        seen: dict[str, torch.Tensor] = {}

        def stream_in(module: nn.Module, args: tuple) -> None:
            if "stream" not in seen:
                seen["stream"] = args[0].detach()

        def values(module: nn.Module, args: tuple) -> None:
            args[0].register_hook(back)

        @torch.enable_grad()
        def back(gradient: torch.Tensor) -> None:
            stream = seen["stream"].requires_grad_()
            made: list[torch.Tensor] = []
            with with_hooks([(_last(block), "before", lambda module, args: made.append(args[0]))]):
                block.mlp(block.mlp_norm.module(stream))
            for n in np.flatnonzero(self.layer == layer).tolist():
                i = int(self.index[n])
                (found,) = torch.autograd.grad(made[0][..., i], stream, gradient[..., i], retain_graph=True)
                self.inward[n] = self.inward.get(n, 0) + found / self.steps

        return [(block.mlp_norm.module, "before", stream_in), (_last(block), "before", values)]

    @torch.no_grad()
    def scores(self) -> torch.Tensor:
        """(L, I) of every neuron, summed over cases."""
        made = [(self.change[i] * (self.written[i] @ weight)).sum((0, 1)) for i, weight in enumerate(self.weights)]
        return torch.stack(made)

    @torch.no_grad()
    def edges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(S, n) into the chosen neurons and (n, T) out of them, summed over cases."""
        sources, wiring = self.passes.change.flatten(1), self.wiring
        into = sources.new_zeros(wiring.n_sources, len(self.layer))
        out = sources.new_zeros(len(self.layer), wiring.n_inputs)
        written = []
        for n, (layer, index) in enumerate(zip(self.layer.tolist(), self.index.tolist(), strict=True)):
            seen = wiring.seen_by_mlp(layer)
            into[:seen, n] = sources[:seen] @ self.inward[n].flatten()
            written.append((self.change[layer][..., index, None] * self.weights[layer][:, index]).flatten())
        rows = np.array([wiring.mlp(layer) for layer in self.layer.tolist()])
        for inputs, seen, gradients in self.passes.gradients():
            for n in np.flatnonzero(rows < seen).tolist():
                out[n, inputs] = gradients @ written[n]
        return into, out


def _last(block: Block) -> nn.Module:
    return next(getattr(block.mlp, name) for name in LAST if hasattr(block.mlp, name))


def _weight(block: Block) -> torch.Tensor:
    """(d, I) of the last matrix, a post-norm's weight included."""
    module: Any = _last(block)
    weight = module.weight if isinstance(module, nn.Linear) else module.weight.T  # GPT-2 has it the other way round
    post = block.post_mlp_norm
    return weight if post is None else post.weight[:, None] * weight
