"""The real model on one prompt with some of its features switched off, everything else free; for faithfulness of feature graphs.

Off means: wherever the feature fires in this very run, what it writes is taken from its output hook(s), so that it stays at 0
however the run has changed its input. That holds for every feature that is not kept, also those that only the changed run
would wake. Errors stay: they are what the transcoders do not explain, no feature stands for them. Attention, norms and MLPs
compute on what they then get.

Why zero and not a mean: features are sparse, so 0 is what a feature is at most tokens; and a graph has one prompt, over which
there is no mean and no corrupted twin.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from atlas.circuit import KIND, Circuit
from ingest.models.decoder import Block, DecoderModel
from ingest.trace.attribute import Progress, prepare
from ingest.trace.targets import TargetSpec
from ingest.transcoders import TranscoderSet

BUDGET = 256 * 2**20  # bytes that one layer's activations of a batch may take


def total_effects(circuit: Circuit) -> np.ndarray:
    """(n,) float64: how much the targets would lose, by the graph, if a node's output were taken away.

    The sum over all paths to a target of the product of their edges, each divided by the activation of the feature it
    enters; targets are weighted by their probability (1 where they have none). The same linear map as path effects (design,
    Definitions), summed over paths. Positive: the node speaks for the targets.
    """
    nodes, edges = circuit.nodes, circuit.edges
    gain = np.zeros(len(nodes))  # d target / d pre-activation of the row
    ends = nodes.is_kind("logit", "resid")
    gain[ends] = np.nan_to_num(nodes.probability[ends].astype(np.float64), nan=1.0)
    for target in circuit.record.targets:
        if target.kind == "feature":
            layer, _, index = target.what.partition("/")
            row = circuit.row_of_key.get(f"feature/{layer}/{target.position}/{index}")
            if row is not None:
                gain[row] += 1
    total = np.zeros(len(nodes))
    features = nodes.is_kind("feature")
    layer_of_target = nodes.layer[edges.target]
    for layer in np.unique(layer_of_target)[::-1]:
        there = np.flatnonzero(layer_of_target == layer)
        rows = np.unique(edges.target[there])
        rows = rows[features[rows] & (nodes.activation[rows] != 0)]
        gain[rows] += total[rows] / nodes.activation[rows]
        np.add.at(total, edges.source[there], edges.weight[there] * gain[edges.target[there]])
    return total


class FeatureRuns:
    """Runs of one prompt. F features fire on it (where they can reach a target), B rows of a batch, P positions.

    `features` (F, 3): layer, position, index. The metric is the weighted sum of the targets, as the graph has it: centred
    logits before a soft cap times their probabilities, differences of logits, pre-activations of target features.
    """

    def __init__(
        self, model: DecoderModel, transcoders: TranscoderSet, token_ids: list[int], targets: list[TargetSpec]
    ) -> None:
        ready = prepare(model, transcoders, token_ids, targets, None, 0, 0.0)
        self.model, self.transcoders, self.ids = model, transcoders, torch.tensor(token_ids, device=model.device)
        self.features = ready.sources.features.to(model.device)
        self.activations = ready.sources.activations
        self._first = model.constant_positions(transcoders.model_name)
        weights = np.nan_to_num(ready.above.probabilities.astype(np.float64), nan=1.0).tolist()
        self._ends = list(zip(ready.above.specs, weights, strict=True))
        self._explained = [spec for spec in ready.specs if spec.feature is not None]

    def metric(self, keeps: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """(M, F) bool, which features stay -> (M,) float64."""
        width = max(transcoder.n_features for transcoder in self.transcoders.layers)
        size = max(1, BUDGET // (4 * width * len(self.ids)))
        values = []
        for start in range(0, len(keeps), size):
            if progress:
                progress(start, len(keeps), "running circuits")
            keep = torch.from_numpy(keeps[start : start + size]).to(self.model.device)
            with torch.inference_mode(), self._switched(keep) as inputs:
                values.append(self._measure(len(keep), inputs).double().cpu().numpy())
        return np.concatenate(values)

    def gradient_scores(self) -> np.ndarray:
        """(F,) float64: activation times the real model's gradient along the decoder, the plain first-order guess of what a
        feature's absence would cost."""
        outputs: list[torch.Tensor] = []

        def catch(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            outputs.append(output.detach().requires_grad_() if not output.requires_grad else output + 0)
            outputs[-1].retain_grad()
            return outputs[-1]

        with ExitStack() as stack, torch.enable_grad():
            for block in self.model.blocks():
                stack.enter_context(_hook(self._writer(block), catch))
            inputs = stack.enter_context(self._inputs())
            self._measure(1, inputs).sum().backward()
        scores = torch.zeros(len(self.features), dtype=torch.float64)
        for layer, transcoder in enumerate(self.transcoders.layers):
            there = (self.features[:, 0] == layer).nonzero()[:, 0]
            position, index = self.features[there, 1], self.features[there, 2]
            rows = transcoder.decoder_rows(index)
            for above in range(rows.shape[1]):
                grad = outputs[layer + above].grad
                if grad is not None:
                    along = (grad[0, position] * rows[:, above]).sum(-1)
                    scores[there.cpu()] += (along.float() * self.activations[there]).double().cpu()
        return scores.numpy()

    def _writer(self, block: Block) -> nn.Module:
        before = self.transcoders.output_hook == "mlp.hook_out" or block.post_mlp_norm is None
        return block.mlp if before or block.post_mlp_norm is None else block.post_mlp_norm.module

    @contextmanager
    def _inputs(self) -> Iterator[dict[int, torch.Tensor]]:
        """Within it, every layer's (B, P, d) at the input hook, from when the run has reached it."""
        seen: dict[int, torch.Tensor] = {}
        with ExitStack() as stack:
            for i, block in enumerate(self.model.blocks()):
                norm, name = block.mlp_norm, self.transcoders.input_hook

                def note(module: nn.Module, args: tuple, output: torch.Tensor, i=i, norm=norm, name=name) -> None:
                    seen[i] = (
                        output
                        if name == "mlp.hook_in"
                        else args[0]
                        if name == "hook_resid_mid"
                        else norm.normalized(args[0])
                    )

                stack.enter_context(_hook(norm.module, note))
            yield seen

    @contextmanager
    def _switched(self, keep: torch.Tensor) -> Iterator[dict[int, torch.Tensor]]:
        """keep: (B, F) bool."""
        changes: dict[int, torch.Tensor] = {}  # by layer, what features of layers up to here no longer write

        with ExitStack() as stack:
            inputs = stack.enter_context(self._inputs())
            for i, block in enumerate(self.model.blocks()):

                def take_off(module: nn.Module, args: tuple, output: torch.Tensor, i=i) -> torch.Tensor:
                    transcoder = self.transcoders.layers[i]
                    off = transcoder.encode(inputs[i])
                    off[:, : self._first] = 0
                    there = (self.features[:, 0] == i).nonzero()[:, 0]
                    position, index = self.features[there, 1], self.features[there, 2]
                    off[:, position, index] = off[:, position, index].masked_fill(keep[:, there], 0)
                    firing = off.flatten(0, 1).any(0).nonzero()[:, 0]
                    rows = transcoder.decoder_rows(firing)
                    for above in range(rows.shape[1]):
                        change = off[..., firing] @ rows[:, above]
                        changes[i + above] = changes[i + above] + change if i + above in changes else change
                    return output - changes[i]

                stack.enter_context(_hook(self._writer(block), take_off))
            yield inputs

    def _measure(self, rows: int, inputs: dict[int, torch.Tensor]) -> torch.Tensor:
        """(B,) the metric of a run under the hooks that are in place."""
        uncapped: list[torch.Tensor] = []
        head = self.model.network.get_output_embeddings()
        places = sorted({spec.position % len(self.ids) for spec, _ in self._ends})
        wanted = torch.tensor(places, device=self.model.device) if places else 1
        with _hook(head, lambda module, args, output: uncapped.append(output)):
            ids = self.ids.expand(rows, -1)
            self.model.network(input_ids=ids, use_cache=False, logits_to_keep=wanted)
        logits = uncapped[0] if uncapped[0].dtype == torch.float64 else uncapped[0].float()
        centred = logits - logits.mean(-1, keepdim=True)
        value = centred.new_zeros(rows)
        for spec, weight in self._ends:
            row = centred[:, places.index(spec.position % len(self.ids))]
            first = row[:, spec.tokens[0]]
            value = value + weight * (first - row[:, spec.tokens[1]] if spec.kind == "difference" else first)
        for spec in self._explained:
            layer, index = spec.feature or (0, 0)
            read = inputs[layer][:, spec.position % len(self.ids)]
            feature = torch.tensor([index], device=read.device)
            value = value + self.transcoders.layers[layer].pre_activations(read, feature)[:, 0]
        return value


@contextmanager
def _hook(module: nn.Module, function: Any) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()


def rows_of_features(circuit: Circuit, features: torch.Tensor) -> np.ndarray:
    """(F,) the circuit's row of each feature (layer, position, index); -1 where the circuit does not have it."""
    nodes = circuit.nodes
    rows = np.flatnonzero(nodes.kind == KIND["feature"])
    place = {
        (layer, position, index): row
        for layer, position, index, row in zip(
            nodes.layer[rows].tolist(),
            nodes.position[rows].tolist(),
            nodes.index[rows].tolist(),
            rows.tolist(),
            strict=True,
        )
    }
    return np.array([place.get((a, b, c), -1) for a, b, c in features.tolist()], np.int64)
