"""Exact attribution in the local replacement model.

Method: Ameisen et al. 2025, *Circuit Tracing: Revealing Computational Graphs in Language Models*, "Attribution Graphs".

1. One forward pass holds the attention patterns and norm denominators (`Model.freeze`).
2. Every MLP's output becomes: active features' decoders + b_dec (+ skip) + an error vector. Position 0 has neither
   features nor errors: its MLP outputs are constants (a skip connection still works there). A cross-layer feature writes
   at its own layer and at those above; its effect on a target is the sum over them.
3. The gradient of each target (a feature's pre-activation, a centred logit) is carried down through the frozen linear
   maps. At each layer and position one matrix product gives the effects of all sources there.
4. The effects are collected as sparse rows.

Rows of a batch share a position, so that only positions up to it are carried, and are sorted by layer from the top, so
that each takes part only below its own layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from atlas.errors import InputRejected, ModelRejected
from ingest.models.base import Frozen, Model
from ingest.trace.backward import Backward
from ingest.trace.graph import FullGraph, NodeOrder, target_weights
from ingest.trace.influence import estimated_influence
from ingest.trace.sources import Sources, find_sources
from ingest.trace.targets import Targets, TargetSpec, salient_tokens, target_rows, token_targets
from ingest.transcoders.set import TranscoderSet

LOG = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]  # how many, of how many, of what
Warn = Callable[[str], None]
ROUNDS = 8  # in which the features of a cap are chosen, each from what is known by then


@torch.inference_mode()
def attribute(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Sequence[int],
    *,
    targets: Sequence[TargetSpec] | None = None,
    logit_token_ids: Sequence[int] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> FullGraph:
    """The full graph of a prompt, every active feature a node.

    token_ids: used as they are. What is explained: `targets`, or the logits of `logit_token_ids`, or the fewest most likely
    tokens that reach `logit_mass` together, at most `max_logits`. max_features: compute the inputs of so many features only,
    chosen by their influence as far as it is known (`FullGraph.computed`). batch_size: rows per backward pass, chosen from
    the free memory when None and halved whenever memory runs out; finished rows are kept. warn: told, before any long work,
    that the set explains less of the MLPs than a constant would (default: the log).
    Raises ModelRejected (a pair that does not fit, a row that does not fit into memory) or InputRejected (targets).
    """
    ready = prepare(model, transcoders, token_ids, targets, logit_token_ids, max_logits, logit_mass)
    return attribute_prepared(ready, max_features=max_features, batch_size=batch_size, progress=progress, warn=warn)


@torch.inference_mode()
def attribute_prepared(
    ready: Prepared,
    *,
    max_features: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> FullGraph:
    """As `attribute`, for who needs what was prepared afterwards too."""
    if max_features is not None and max_features < len(ready.explained):
        raise InputRejected(
            f"At most {max_features} features leave out some of the {len(ready.explained)} that are to be explained.",
            "Raise the cap.",
        )
    variance = ready.explained_variance()
    if variance < 0:
        (warn or LOG.warning)(
            f"The transcoder set {ready.transcoders.name} explains less of the MLPs of {ready.model_name} on this prompt than a constant "
            f"would (explained variance {variance:.2f}): it may be of another model or revision."
        )
    order, sources, above = ready.order, ready.sources, ready.above
    rows = _Rows(ready, batch_size, progress)
    chosen = _compute(rows, order, above, ready.explained, max_features)
    matrix, constants = rows.matrix()
    constants[order.features] += np.where(chosen, sources.encoder_biases.cpu().numpy(), 0)
    constants[order.logits] += above.constants
    pre = np.zeros(order.size, np.float32)
    pre[order.features] = sources.activations.cpu().numpy()
    pre[order.logits] = above.values
    return FullGraph(
        order=order,
        token_ids=ready.token_ids,
        features=sources.features.numpy().astype(np.int32),
        activations=sources.activations.cpu().numpy(),
        logit_token_ids=above.ids,
        logit_probabilities=above.probabilities,
        matrix=matrix,
        constants=constants,
        pre_activations=pre,
        targets=ready.specs,
        logit_targets=above.specs,
        logit_layers=above.layers,
        logit_positions=above.positions,
        explained_features=ready.explained,
        computed=chosen,
        explained_variance=variance,
        arrays={
            "feature_inputs": ready.frozen.inputs.float().cpu().numpy(),
            "feature_outputs": ready.frozen.outputs.float().cpu().numpy(),
            "error_vectors": sources.errors.float().cpu().numpy(),
            "token_vectors": ready.frozen.token_vectors.float().cpu().numpy(),
            "final_logits": ready.frozen.logits.cpu().numpy(),
        },
    )


@dataclass
class Prepared:
    """Everything before the first backward pass."""

    model_name: str
    transcoders: TranscoderSet
    token_ids: list[int]
    frozen: Frozen
    sources: Sources
    above: Targets
    order: NodeOrder
    specs: list[TargetSpec]
    explained: np.ndarray  # rows of features that are targets
    engine: Backward

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) layer and position of the rows that are computed, as `Backward.rows` takes them; 0 elsewhere."""
        layer, position = np.zeros(self.order.size, np.int64), np.zeros(self.order.size, np.int64)
        layer[self.order.features], position[self.order.features] = self.sources.features[:, :2].numpy().T
        layer[self.order.logits], position[self.order.logits] = self.above.layers, self.above.positions
        return layer, position

    def explained_variance(self) -> float:
        """1 - |errors|^2 / |outputs - their mean over positions|^2, all layers together: below 0 the set is worse than a
        constant, so it is probably that of another model or revision."""
        outputs = self.frozen.outputs[:, 1:].float()
        spread = (outputs - outputs.mean(dim=1, keepdim=True)).square().sum()
        return float(1 - self.sources.errors.float().square().sum() / spread) if spread > 0 else float("nan")


@torch.inference_mode()
def prepare(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Sequence[int],
    targets: Sequence[TargetSpec] | None,
    logit_token_ids: Sequence[int] | None,
    max_logits: int,
    logit_mass: float,
) -> Prepared:
    """Arguments and errors as of `attribute`."""
    ids = list(token_ids)
    _check_pair(model, transcoders)
    frozen = model.freeze(ids, transcoders.input_hook, transcoders.output_hook)
    if not torch.isfinite(frozen.logits).all():
        raise ModelRejected(
            f"The model {model.name} gives logits that are not finite for this prompt in {model.dtype_name}.",
            "Choose a wider dtype, such as float32.",
        )
    specs = _specs(model, frozen, targets, logit_token_ids, max_logits, logit_mass)
    above = target_rows(model, frozen, specs)
    reach = [(int(layer) - 1, int(position)) for layer, position in zip(above.layers, above.positions, strict=True)]
    reach += [(spec.feature[0], spec.position % len(ids)) for spec in specs if spec.feature is not None]
    sources = find_sources(
        frozen,
        transcoders,
        model.constant_positions(transcoders.model_name),
        below=max(layer for layer, _ in reach),
        until=max(position for _, position in reach),
    )
    order = NodeOrder(len(sources.features), model.n_layers, len(ids), len(above.ids))
    explained = _feature_targets(specs, sources, len(ids))
    engine = Backward(frozen, transcoders, sources, order, above)
    return Prepared(model.name, transcoders, ids, frozen, sources, above, order, specs, explained, engine)


def _specs(
    model: Model,
    frozen: Frozen,
    targets: Sequence[TargetSpec] | None,
    logit_token_ids: Sequence[int] | None,
    max_logits: int,
    logit_mass: float,
) -> list[TargetSpec]:
    if targets is not None:
        specs, length = list(targets), len(frozen.final)
        far = next((spec for spec in specs if not -length <= spec.position < length), None)
        if far is not None:
            raise InputRejected(
                f"The target {far.what!r} is at position {far.position}; the prompt has {length} tokens.",
                f"Name a position from 0 to {length - 1}, or -1 for the last.",
            )
        return specs
    chosen = salient_tokens(frozen, max_logits, logit_mass) if logit_token_ids is None else list(logit_token_ids)
    return token_targets(
        chosen, [""] * len(chosen) if model.tokenizer is None else [model.token_text(i) for i in chosen]
    )


def _feature_targets(specs: Sequence[TargetSpec], sources: Sources, n_positions: int) -> np.ndarray:
    """Rows of the features that are to be explained. Raises InputRejected for one that does not fire."""
    rows = []
    for spec in specs:
        if spec.feature is None:
            continue
        layer, index = spec.feature
        position = spec.position % n_positions
        start, stop = sources.starts[layer][position], sources.starts[layer][position + 1]
        there = np.flatnonzero(sources.features[start:stop, 2].numpy() == index)
        if not len(there):
            raise InputRejected(
                f"Feature {index} of layer {layer} does not fire at position {position} of this prompt.",
                "Name one that does; positions are those of the model's tokens, and the first has no features.",
            )
        rows.append(start + int(there[0]))
    return np.array(sorted(set(rows)), int)


def _check_pair(model: Model, transcoders: TranscoderSet) -> None:
    widths = {transcoder.width for transcoder in transcoders.layers}
    places = {(transcoder.b_enc.device, transcoder.b_enc.dtype) for transcoder in transcoders.layers}
    if len(transcoders.layers) != model.n_layers or widths != {model.width}:
        raise ModelRejected(
            f"The transcoder set {transcoders.name} does not fit the model {model.name}: it has {len(transcoders.layers)} "
            f"layers of width {', '.join(map(str, sorted(widths)))}, the model {model.n_layers} of width {model.width}.",
            "Pass the set that was trained on this model.",
        )
    if places != {(model.unembedding.device, model.dtype)}:
        raise ModelRejected(
            f"The transcoder set {transcoders.name} was loaded for another device or dtype than the model {model.name}.",
            "Load the set with this model: load_transcoders(name, model).",
        )


def _compute(
    rows: _Rows, order: NodeOrder, above: Targets, explained: np.ndarray, max_features: int | None
) -> np.ndarray:
    """Compute the targets' rows and those of all features, or of `max_features`; returns which (F,) bool.

    With a cap the features are chosen in rounds, each time those of most influence over the rows known by then.
    """
    ends = np.arange(order.n_sources, order.size)
    chosen = np.zeros(order.n_features, bool)
    if max_features is None or max_features >= order.n_features:
        chosen[:] = True
        rows.compute(np.concatenate([np.arange(order.n_features), ends]))
        return chosen
    chosen[explained] = True
    rows.total = max_features + len(ends)
    rows.compute(np.concatenate([explained, ends]))
    weights = target_weights(order, above.probabilities, explained)
    while (left := max_features - int(chosen.sum())) > 0:
        influence = estimated_influence(rows.matrix()[0], weights, order)[order.features]
        influence[chosen] = -1
        count = min(left, max(64, -(-max_features // ROUNDS)))
        best = np.argsort(-influence, kind="stable")[:count]
        chosen[best] = True
        rows.compute(best)
    return chosen


class _Rows:
    """Rows of the matrix as they are finished."""

    def __init__(self, ready: Prepared, batch_size: int | None, progress: Progress | None) -> None:
        self.engine, self.order = ready.engine, ready.order
        order = ready.order
        self.size = batch_size or batch_rows(ready.engine)
        self.progress, self.done, self.total = progress, 0, order.n_features + order.n_logits
        self.layer, self.position = ready.places()
        self.constants = np.zeros(order.size, np.float32)
        self.finished: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []

    def compute(self, rows: np.ndarray) -> None:
        """Compute these node rows. Raises ModelRejected when a single one does not fit into memory."""
        for position in np.unique(self.position[rows]).tolist():
            there = rows[self.position[rows] == position]
            there = there[np.argsort(-self.engine.heights(self.layer[there], there), kind="stable")]
            start = 0
            while start < len(there):
                batch = there[start : start + self.size]
                try:
                    computed = self.engine.rows(self.layer[batch], batch, position)
                except (torch.OutOfMemoryError, MemoryError) as error:
                    if len(batch) == 1:
                        raise ModelRejected(
                            "There is not enough memory to trace a single target.",
                            "Use a shorter prompt or another device.",
                        ) from error
                    computed = None  # the exception holds the failed batch's tensors until this block ends
                if computed is None:
                    self.size = len(batch) // 2
                    if self.engine.device.type == "cuda":
                        torch.cuda.empty_cache()
                    continue
                self._keep(batch, *computed)
                start += len(batch)

    def _keep(self, batch: np.ndarray, effects: torch.Tensor, constants: torch.Tensor) -> None:
        found = effects.nonzero(as_tuple=True)
        self.counts.append(torch.bincount(found[0], minlength=len(batch)).cpu().numpy())
        self.columns.append(found[1].to(torch.int32).cpu().numpy())
        self.weights.append(effects[found].cpu().numpy())
        self.finished.append(batch)
        self.constants[batch] = constants.cpu().numpy()
        self.done += len(batch)
        if self.progress:
            self.progress(self.done, self.total, "targets")

    def matrix(self) -> tuple[sparse.csr_array, np.ndarray]:
        """The (N, N) matrix of what is computed, in node order, other rows empty; and the (N,) effects of constants."""
        rows = np.concatenate(self.finished)
        stacked = _csr(
            np.concatenate(self.counts), np.concatenate(self.columns), np.concatenate(self.weights), self.order.size
        )
        row_of = np.full(self.order.size, len(rows))  # the appended empty row
        row_of[rows] = np.arange(len(rows))
        return stacked[row_of], self.constants


def _csr(counts: np.ndarray, columns: np.ndarray, weights: np.ndarray, width: int) -> sparse.csr_array:
    """Rows of the given lengths, and one empty row at the end."""
    starts = np.concatenate([[0], np.cumsum(counts), [counts.sum()]])
    return sparse.csr_array((weights, columns, starts), shape=(len(counts) + 1, width))


def batch_rows(engine: Backward) -> int:
    """Rows whose gradients, their copies and effects fit a quarter of the free GPU memory, or a cache-friendly 64 MiB."""
    n_positions, bytes_each = engine.order.n_positions, engine.targets.vectors.element_size()
    per_row = 6 * n_positions * engine.width * bytes_each + 8 * engine.order.n_sources
    budget = torch.cuda.mem_get_info(engine.device)[0] // 4 if engine.device.type == "cuda" else 64 * 2**20
    return int(min(4096, max(8, budget // per_row)))
