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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from atlas.errors import ModelRejected
from ingest.models.base import Frozen, Model
from ingest.trace.graph import FullGraph, NodeOrder
from ingest.trace.targets import choose_logits
from ingest.transcoders.set import TranscoderSet

Progress = Callable[[int, int, str], None]  # how many, of how many, of what


@dataclass
class _Writes:
    """What is written at one layer's output hook at one position."""

    vectors: torch.Tensor  # (d, n + 2): features' scaled decoders, the error, the constant
    columns: (
        slice | torch.Tensor
    )  # (n,) node rows of the features: those of this layer, with a cross-layer set of others too


@dataclass
class _Sources:
    """What writes at the output hooks; feature rows of layer l, position p are starts[l][p] on."""

    features: torch.Tensor  # (F, 3) layer, position, feature, on the cpu
    activations: torch.Tensor  # (F,) float32; the pre-activations, too: an active feature's value is not shifted
    starts: list[list[int]]  # (L, P + 1) row numbers
    writes: list[list[_Writes]]  # [L][P]
    encoders: list[torch.Tensor]  # [L]: (n, d) encoder rows of the layer's active features
    encoder_biases: torch.Tensor  # (F,) float32
    errors: torch.Tensor  # (L, P, d)


@dataclass
class _Targets:
    """Rows of the matrix to be computed: layer (L for logits), position, and row number in the node order."""

    layer: np.ndarray
    position: np.ndarray
    row: np.ndarray


@torch.inference_mode()
def attribute(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Sequence[int],
    *,
    logit_token_ids: Sequence[int] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> FullGraph:
    """The full graph of a prompt, every active feature a node.

    token_ids: used as they are. Logits: `logit_token_ids`, else the fewest most likely tokens that reach `logit_mass`
    together, at most `max_logits`. batch_size: rows per backward pass, chosen from the free memory when None and halved
    whenever memory runs out; finished rows are kept. Raises ModelRejected when a single row does not fit.
    """
    ids = list(token_ids)
    _check_pair(model, transcoders)
    frozen = model.freeze(ids, transcoders.input_hook, transcoders.output_hook)
    if not torch.isfinite(frozen.logits).all():
        raise ModelRejected(
            f"The model {model.name} gives logits that are not finite for this prompt in {model.dtype_name}.",
            "Choose a wider dtype, such as float32.",
        )
    sources = _find_sources(frozen, transcoders, model.constant_positions(transcoders.model_name))
    logits, probabilities = choose_logits(frozen.logits, logit_token_ids, max_logits, logit_mass)
    order = NodeOrder(len(sources.features), model.n_layers, len(ids), len(logits))
    targets = _Targets(
        layer=np.concatenate([sources.features[:, 0].numpy(), np.full(len(logits), model.n_layers)]),
        position=np.concatenate([sources.features[:, 1].numpy(), np.full(len(logits), len(ids) - 1)]),
        row=np.concatenate([np.arange(order.n_features), np.arange(order.n_sources, order.size)]),
    )
    logit_rows = frozen.unembed_rows(logits)
    engine = _Backward(frozen, transcoders, sources, order, logit_rows)
    matrix, constants = _all_rows(engine, targets, batch_size, progress)
    constants[order.features] += sources.encoder_biases.cpu().numpy()
    constants[order.logits] += frozen.logit_constants(logits).cpu().numpy()
    pre = np.zeros(order.size, np.float32)
    pre[order.features] = sources.activations.cpu().numpy()
    pre[order.logits] = frozen.centred_logits[logits].cpu().numpy()
    return FullGraph(
        order=order,
        token_ids=ids,
        features=sources.features.numpy().astype(np.int32),
        activations=sources.activations.cpu().numpy(),
        logit_token_ids=logits.cpu().numpy(),
        logit_probabilities=probabilities.cpu().numpy(),
        matrix=matrix,
        constants=constants,
        pre_activations=pre,
        arrays={
            "feature_inputs": frozen.inputs.float().cpu().numpy(),
            "feature_outputs": frozen.outputs.float().cpu().numpy(),
            "error_vectors": sources.errors.float().cpu().numpy(),
            "token_vectors": frozen.token_vectors.float().cpu().numpy(),
            "final_logits": frozen.logits.cpu().numpy(),
        },
    )


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


def _find_sources(frozen: Frozen, transcoders: TranscoderSet, first: int) -> _Sources:
    """Positions below `first` have neither features nor errors."""
    n_layers, n_positions = frozen.inputs.shape[:2]
    found, values, biases, starts, encoders = [], [], [], [], []
    written: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = [[] for _ in range(n_layers)]
    offset = 0
    for layer, transcoder in enumerate(transcoders.layers):
        position, feature, value = transcoder.find_active(frozen.inputs[layer])
        kept = position >= first
        position, feature, value = position[kept], feature[kept], value[kept]
        scaled = transcoder.decoder_rows(feature) * value[:, None, None]
        for above in range(scaled.shape[1]):
            written[layer + above].append((layer, position, scaled[:, above]))
        counts = torch.bincount(position, minlength=n_positions).tolist()
        starts.append([offset, *(offset + np.cumsum(counts)).tolist()])
        found.append(torch.stack([torch.full_like(position, layer), position, feature], dim=1).cpu())
        values.append(value.float())
        biases.append(transcoder.b_enc[feature].float())
        encoders.append(transcoder.encoder_rows(feature))
        offset += len(position)
    errors = torch.zeros_like(frozen.outputs)
    writes = []
    for layer, transcoder in enumerate(transcoders.layers):
        output = frozen.outputs[layer]
        skip = None if transcoder.w_skip is None else frozen.inputs[layer] @ transcoder.w_skip.T
        reconstruction = transcoder.b_dec.expand_as(output).clone()
        if skip is not None:
            reconstruction += skip
        for _, position, vectors in written[layer]:
            reconstruction.index_add_(0, position, vectors)
        errors[layer, first:] = (output - reconstruction)[first:]
        constants = transcoder.b_dec.expand_as(output).clone()
        constants[:first] = output[:first] if skip is None else (output - skip)[:first]
        sources = [(starts[source], vectors) for source, _, vectors in written[layer]]
        writes.append([_writes(sources, p, errors[layer, p], constants[p]) for p in range(n_positions)])
    return _Sources(torch.cat(found), torch.cat(values), starts, writes, encoders, torch.cat(biases), errors)


def _writes(
    sources: list[tuple[list[int], torch.Tensor]], position: int, error: torch.Tensor, constant: torch.Tensor
) -> _Writes:
    """sources: per layer that writes here, its starts and its features' scaled decoders (n, d)."""
    spans = [(starts[position], starts[position + 1]) for starts, _ in sources]
    vectors = [
        rows[first - starts[0] : last - starts[0]] for (starts, rows), (first, last) in zip(sources, spans, strict=True)
    ]
    if len(spans) == 1:
        columns: slice | torch.Tensor = slice(*spans[0])
    else:
        columns = torch.cat([torch.arange(first, last, device=error.device) for first, last in spans])
    return _Writes(torch.cat([*vectors, error[None], constant[None]]).T.contiguous(), columns)


class _Backward:
    """Carries gradients of a batch of targets down and collects the effects of all sources."""

    def __init__(
        self,
        frozen: Frozen,
        transcoders: TranscoderSet,
        sources: _Sources,
        order: NodeOrder,
        logit_rows: torch.Tensor,
    ) -> None:
        self.frozen = frozen
        self.transcoders = transcoders
        self.sources = sources
        self.order = order
        self.logit_rows = logit_rows
        self.device, self.dtype, self.width = logit_rows.device, logit_rows.dtype, logit_rows.shape[1]

    def rows(self, layers: np.ndarray, rows: np.ndarray, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Effects on targets that share a position, sorted by layer from the top.

        layers, rows: (B,) target layers and node rows. Returns (B, n_sources) effects and (B,) effects of constants, float32.
        """
        p = position + 1
        effects = torch.zeros(len(rows), self.order.n_sources, device=self.device)
        constants = torch.zeros(len(rows), device=self.device)
        grad = torch.zeros(len(rows), p, self.width, device=self.device, dtype=self.dtype)
        live = int((layers == self.order.n_layers).sum())  # rows whose target lies above the current layer
        if live:
            grad[:live, position] = self.logit_rows[
                torch.from_numpy(rows[:live] - self.order.n_sources).to(self.device)
            ]
        top = int(layers[0]) if len(layers) and layers[0] < self.order.n_layers else self.order.n_layers - 1
        for layer in range(top, -1, -1):
            skipped = self._from_mlp(layer, grad[:live], effects[:live], constants[:live]) if live else None
            if self.frozen.parallel and live:  # attention does not lie between a layer's features and the stream
                self._through_attention(layer, grad[:live], constants[:live])
            if skipped is not None:
                grad[:live] += skipped
            born = int((layers[live:] == layer).sum())
            if born:
                picked = torch.from_numpy(rows[live : live + born] - self.sources.starts[layer][0]).to(self.device)
                encoder = self.sources.encoders[layer][picked]
                grad[live : live + born, position] = self.frozen.input_back(layer, encoder, position)
                read = self.frozen.input_constant(layer)
                if read is not None:
                    constants[live : live + born] += (encoder @ read).float()
                live += born
            if not self.frozen.parallel:
                self._through_attention(layer, grad[:live], constants[:live])
        effects[:, self.order.tokens][:, :p] = torch.einsum("bpd,pd->bp", grad, self.frozen.token_vectors[:p]).float()
        if self.frozen.position_vectors is not None:
            constants += torch.einsum("bpd,pd->b", grad, self.frozen.position_vectors[:p]).float()
        return effects, constants

    def _through_attention(self, layer: int, grad: torch.Tensor, constants: torch.Tensor) -> None:
        """In place."""
        constant = self.frozen.attention_constants[layer]
        if constant is not None:
            everywhere = len(constant) == 1
            constants += (
                grad.sum(dim=1) @ constant[0]
                if everywhere
                else torch.einsum("bpd,pd->b", grad, constant[: grad.shape[1]])
            ).float()
        grad[:] = self.frozen.attention_back(layer, grad)

    def _from_mlp(
        self, layer: int, grad: torch.Tensor, effects: torch.Tensor, constants: torch.Tensor
    ) -> torch.Tensor | None:
        """Collect what is written at the layer's output hook; returns the gradient through a skip connection, if any."""
        at_output = self.frozen.output_back(layer, grad)
        for p in range(grad.shape[1]):
            writes = self.sources.writes[layer][p]
            found = (at_output[:, p] @ writes.vectors).float()
            effects[:, writes.columns] += found[:, :-2]  # a cross-layer feature adds up what it writes at each layer
            effects[:, self.order.error_row(layer, p)] = found[:, -2]
            constants += found[:, -1]
        skip = self.transcoders.layers[layer].w_skip
        if skip is None:
            return None
        at_input = at_output @ skip
        read = self.frozen.input_constant(layer)
        if read is not None:
            constants += (at_input.sum(dim=1) @ read).float()
        return self.frozen.input_back(layer, at_input, slice(grad.shape[1]))


def _all_rows(
    engine: _Backward, targets: _Targets, batch_size: int | None, progress: Progress | None
) -> tuple[sparse.csr_array, np.ndarray]:
    """The (N, N) matrix and the (N,) effects of constants."""
    order = engine.order
    size = batch_size or _batch_size(engine)
    constants = np.zeros(order.size, np.float32)
    finished: list[np.ndarray] = []  # node rows in the order in which they were computed
    counts, columns, weights = [], [], []
    done = 0
    for position in np.unique(targets.position).tolist():
        there = np.flatnonzero(targets.position == position)
        there = there[np.argsort(-targets.layer[there], kind="stable")]
        start = 0
        while start < len(there):
            batch = there[start : start + size]
            try:
                computed = engine.rows(targets.layer[batch], targets.row[batch], position)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if len(batch) == 1:
                    raise ModelRejected(
                        "There is not enough memory to trace a single target.",
                        "Use a shorter prompt or another device.",
                    ) from error
                computed = None  # the exception holds the failed batch's tensors until this block ends
            if computed is None:
                size = len(batch) // 2
                if engine.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            effects, constant = computed
            found = effects.nonzero(as_tuple=True)
            counts.append(torch.bincount(found[0], minlength=len(batch)).cpu().numpy())
            columns.append(found[1].to(torch.int32).cpu().numpy())
            weights.append(effects[found].cpu().numpy())
            finished.append(targets.row[batch])
            constants[targets.row[batch]] = constant.cpu().numpy()
            start += len(batch)
            done += len(batch)
            if progress:
                progress(done, len(targets.row), "targets")
    # rows were computed by position; put them into node order, rows without inputs empty
    rows = np.concatenate(finished)
    stacked = _csr(np.concatenate(counts), np.concatenate(columns), np.concatenate(weights), order.size)
    row_of = np.full(order.size, len(rows))  # the appended empty row
    row_of[rows] = np.arange(len(rows))
    return stacked[row_of], constants


def _csr(counts: np.ndarray, columns: np.ndarray, weights: np.ndarray, width: int) -> sparse.csr_array:
    """Rows of the given lengths, and one empty row at the end."""
    starts = np.concatenate([[0], np.cumsum(counts), [counts.sum()]])
    return sparse.csr_array((weights, columns, starts), shape=(len(counts) + 1, width))


def _batch_size(engine: _Backward) -> int:
    """Rows whose gradients, their copies and effects fit a quarter of the free GPU memory, or a cache-friendly 64 MiB."""
    n_positions, bytes_each = engine.order.n_positions, engine.logit_rows.element_size()
    per_row = 6 * n_positions * engine.width * bytes_each + 8 * engine.order.n_sources
    budget = torch.cuda.mem_get_info(engine.device)[0] // 4 if engine.device.type == "cuda" else 64 * 2**20
    return int(min(4096, max(8, budget // per_row)))
