"""Exact attribution in the local replacement model.

Method: Ameisen et al. 2025, *Circuit Tracing: Revealing Computational Graphs in Language Models*, "Attribution Graphs".

1. One forward pass holds the attention patterns and norm denominators (`Model.freeze`).
2. Every MLP's output becomes: active features' decoders + b_dec (+ skip) + an error vector. Position 0 has neither
   features nor errors: its MLP outputs are constants (a skip connection still works there). A cross-layer feature writes
   at its own layer and at those above; its effect on a target is the sum over them.
3. The gradient of each target (a feature's pre-activation, a centred logit) is carried down through the frozen linear
   maps. At each layer and position one matrix product gives the effects of all sources there.
4. Where it is less work, sources are carried up instead: what stands at positions without features (`ingest.trace.leading`), and
   those of the lowest layers, past the features there (`ingest.trace.carried`).
5. The effects are collected as sparse rows.

Rows of a batch share a position, so that only positions up to it are carried, or neighbouring ones where the calls of a walk
for each would cost more than products with zeros. They are sorted by layer from the top, so that each takes part only below
its own layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

from atlas.errors import InputRejected, ModelRejected
from ingest.models.base import Frozen, Model
from ingest.models.devices import few_threads
from ingest.trace.backward import Backward
from ingest.trace.carried import Upward, best_layer
from ingest.trace.graph import FullGraph, NodeOrder, target_weights
from ingest.trace.leading import find_leading
from ingest.trace.rows import Batches, Kept, Progress
from ingest.trace.sources import Sources, find_sources
from ingest.trace.targets import Targets, TargetSpec, salient_tokens, target_rows, token_targets
from ingest.transcoders.set import TranscoderSet

LOG = logging.getLogger(__name__)
Warn = Callable[[str], None]
ENOUGH_POSITIONS = 8  # for the mean over them to be no explanation in itself
CARRIED_BYTES = 32 * 2**20, 512 * 2**20  # of sources on their way up: the least that is allowed, and the most
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
    that the set's features explain less of the MLPs than its biases alone would (default: the log).
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
    among_computed: bool = False,
) -> FullGraph:
    """As `attribute`, for who needs what was prepared afterwards too.

    among_computed: of a graph with a cap keep only the edges from features whose inputs were computed, errors and tokens;
    that is all that pruning and scores need (`FullGraph.input_totals` has the rest).
    """
    ready.check(max_features, warn)
    with few_threads(*ready.frozen.inputs.shape):
        return _computed(ready, max_features, batch_size, progress, among_computed)


def _computed(
    ready: Prepared,
    max_features: int | None,
    batch_size: int | None,
    progress: Progress | None,
    among_computed: bool,
) -> FullGraph:
    ready.meet(max_features)
    order = ready.order
    ends = np.arange(order.n_sources, order.size)
    capped = max_features is not None and max_features < order.n_features
    kept, chosen = Kept(order, ready.inputs_at_most, sums=capped), np.zeros(order.n_features, bool)
    count = max_features if capped and max_features is not None else order.n_features
    batches = Batches(ready.engine, ready.places, batch_size, progress, count + len(ends), once=not capped)

    def compute(rows: np.ndarray) -> None:
        chosen[rows[rows < order.n_features]] = True
        kept.compute(batches, rows)

    if not capped:
        try:
            compute(np.concatenate([np.arange(order.n_features), ends]))
        finally:
            ready.engine.carried = None  # what was read is let go: another trace of this prompt carries again
        return full_graph(ready, kept.matrix(), chosen, kept.constants)
    compute(np.concatenate([ready.explained, ends]))
    while (left := count - int(chosen.sum())) > 0:  # those of most influence over the rows known by now
        influence = kept.influence(ready.target_weights, batches.layer)[order.features]
        influence[chosen] = -1
        compute(np.argsort(-influence, kind="stable")[: min(left, max(64, -(-count // ROUNDS)))])
    if not among_computed:
        return full_graph(ready, kept.matrix(), chosen, kept.constants)
    stays = np.ones(order.size, bool)
    stays[order.features] = chosen
    kept.let_go(stays)
    return full_graph(ready, kept.matrix(), chosen, kept.constants, kept.totals)


def full_graph(
    ready: Prepared,
    matrix: sparse.csr_array,
    chosen: np.ndarray,
    constants: np.ndarray,
    totals: tuple[np.ndarray, np.ndarray] | None = None,
) -> FullGraph:
    """The graph of what was computed. chosen: (F,) bool features whose rows `matrix` has; constants: (N,) of the rows,
    without those of encoders and logits; totals: `FullGraph.input_totals`."""
    order, sources, above = ready.order, ready.sources, ready.above
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
        input_totals=totals,
        explained_variance=ready.explained_variance,
        arrays={
            "feature_inputs": ready.frozen.inputs.float().cpu().numpy(),
            "feature_outputs": ready.frozen.outputs.float().cpu().numpy(),
            "error_vectors": sources.errors.float().contiguous().cpu().numpy(),
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
    looked: tuple[slice, slice]  # layers and positions at which features were looked for

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) layer and position of the rows that are computed, as `Backward.rows` takes them; 0 elsewhere."""
        layer, position = np.zeros(self.order.size, np.int64), np.zeros(self.order.size, np.int64)
        layer[self.order.features], position[self.order.features] = self.sources.features[:, :2].numpy().T
        layer[self.order.logits], position[self.order.logits] = self.above.layers, self.above.positions
        return layer, position

    @cached_property
    def inputs_at_most(self) -> np.ndarray:
        """(N,) how many edges can end in each node: sources below it and not after it; 0 for errors and tokens.

        A few may be 0 all the same, so that it is a bound, and a close one.
        """
        return self._inputs_from(np.ones(self.order.size, bool))

    def inputs_among(self, nodes: np.ndarray) -> np.ndarray:
        """(N,) as `inputs_at_most`, of the edges among some nodes (N,) bool."""
        return np.where(nodes, self._inputs_from(nodes.copy()), 0)

    def _inputs_from(self, writes: np.ndarray) -> np.ndarray:
        """(N,) edges from these nodes (N,) bool; changes it."""
        order, first = self.order, self.looked[1].start
        layer, position = (each.copy() for each in self.places)
        layer[order.errors] = np.repeat(np.arange(order.n_layers), order.n_positions)
        position[order.errors] = np.tile(np.arange(order.n_positions), order.n_layers)
        layer[order.tokens], position[order.tokens] = -1, np.arange(order.n_positions)
        writes[order.errors] &= position[order.errors] >= first
        writes[order.logits] = False
        there = np.bincount(
            (layer[writes] + 1) * order.n_positions + position[writes],
            minlength=(order.n_layers + 1) * order.n_positions,
        ).reshape(-1, order.n_positions)
        before = there.cumsum(axis=0).cumsum(axis=1)  # row l: the sources of layers below l
        counts: np.ndarray = before[layer, position]
        # no attention lies between the last layer below and a logit, or a feature beside it in a parallel block
        straight = np.full(order.size, self.frozen.parallel)
        straight[order.logits] = True
        lower = np.where(layer > 0, before[np.maximum(layer - 1, 0), position], 0)
        counts[straight] = (lower + there[layer, position])[straight]
        counts[order.n_features : order.n_sources] = 0
        return counts

    def meet(self, max_features: int | None = None) -> None:
        """Carry sources of the lowest layers up, if that saves work for as many targets. Does nothing the second time."""
        order, frozen, engine = self.order, self.frozen, self.engine
        if engine.carried is not None or not order.n_features:
            return
        layer, position = self.places
        places, size = layer * order.n_positions + position, (order.n_layers + 1) * order.n_positions
        features, ends = (
            np.bincount(places[rows], minlength=size).reshape(-1, order.n_positions).astype(float)
            for rows in (order.features, order.logits)
        )
        share = 1.0 if max_features is None else min(1.0, max_features / order.n_features)
        sources = np.ones_like(features)  # a token, and below an error at each layer
        sources[1:] += features[:-1]
        edges = self.inputs_at_most.sum()
        most = min(max(CARRIED_BYTES[0], 3 * edges), CARRIED_BYTES[1])  # beside what the edges take anyway
        attention, calls = frozen.attention_work(order.n_positions), engine.walk_work
        best = best_layer(share * features + ends, sources, engine.width, attention, calls, most, engine.leading.count)
        if best:
            # a walk up calls about twice as often in a layer as one down
            engine.carried = Upward(frozen, self.transcoders, self.sources, order, 2 * calls).to(best)

    @property
    def target_weights(self) -> np.ndarray:
        """(N,), see `graph.target_weights`."""
        return target_weights(self.order, self.above.probabilities, self.explained)

    @cached_property
    def explained_variance(self) -> float:
        """1 - |errors|^2 / |outputs - their mean over positions|^2, over the layers and positions at which features were
        looked for. NaN where they have no variance, as at a single position.

        The mean of few positions is nearly the outputs themselves, so of a short prompt this can be below 0 though the set
        fits; from ENOUGH_POSITIONS on it does not happen by that alone (the mean takes 1 in so many parts of the variance).
        """
        outputs, errors = self._explained
        spread = (outputs - outputs.mean(dim=1, keepdim=True)).square().sum()
        return float(1 - errors.square().sum() / spread) if spread > 0 else float("nan")

    @cached_property
    def explained_beside_biases(self) -> float:
        """1 - |errors|^2 / |outputs - decoder biases|^2, over the same: below 0 the features (and skip connections) make the
        reconstruction worse than the set's own constants alone, as features of another model or revision do.

        Those constants are not fitted to the prompt, so it means the same for two tokens as for a thousand. It misses some
        sets that `explained_variance` catches: where the constants are wrong too, almost anything is better than they.
        """
        outputs, errors = self._explained
        biases = torch.stack([layer.b_dec for layer in self.transcoders.layers[: len(outputs)]]).float()
        spread = (outputs - biases[:, None]).square().sum()
        return float(1 - errors.square().sum() / spread) if spread > 0 else float("nan")

    @property
    def _explained(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(l, p, d) outputs of the MLPs and errors, where features were looked for."""
        layers, positions = self.looked
        return self.frozen.outputs[layers, positions].float(), self.sources.errors[layers, positions].float()

    def check(self, max_features: int | None, warn: Warn | None) -> None:
        """Raises InputRejected for a cap that leaves out a target; says the `warnings`."""
        if max_features is not None and max_features < len(self.explained):
            raise InputRejected(
                f"At most {max_features} features leave out some of the {len(self.explained)} that are to be explained.",
                "Raise the cap.",
            )
        for warning in self.warnings():
            (warn or LOG.warning)(warning)

    def warnings(self) -> list[str]:
        """What a user should know of this set on this prompt before any long work; most often nothing."""
        if not self.order.n_features:
            return [
                f"No feature of the transcoder set {self.transcoders.name} fires on this prompt: the circuit will hold tokens and "
                "errors only. The set may be of another model or revision."
            ]
        beside_biases, positions = self.explained_beside_biases, self._explained[0].shape[1]
        # a NaN, where nothing varies, is not below 0
        if beside_biases < 0:
            constant, found = "its own biases", beside_biases
        elif positions >= ENOUGH_POSITIONS and self.explained_variance < 0:
            constant, found = "their mean over the prompt", self.explained_variance
        else:
            return []
        return [
            f"The transcoder set {self.transcoders.name} explains less of the MLPs of {self.model_name} on this prompt than a "
            f"constant would (explained variance {found:.3g}, against {constant}): it may be of another model or revision."
        ]


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
    with few_threads(model.n_layers, len(ids), model.width):
        return _prepared(model, transcoders, ids, targets, logit_token_ids, max_logits, logit_mass)


def _prepared(
    model: Model,
    transcoders: TranscoderSet,
    ids: list[int],
    targets: Sequence[TargetSpec] | None,
    logit_token_ids: Sequence[int] | None,
    max_logits: int,
    logit_mass: float,
) -> Prepared:
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
    first, below, until = (
        model.constant_positions(transcoders.model_name),
        *(max(place) for place in zip(*reach, strict=True)),
    )
    sources = find_sources(frozen, transcoders, first, below=below, until=until)
    looked = slice(0, below + 1), slice(first, until + 1)
    order = NodeOrder(len(sources.features), model.n_layers, len(ids), len(above.ids))
    explained = _feature_targets(specs, sources, len(ids))
    leading = find_leading(frozen, transcoders, sources, first)
    engine = Backward(frozen, transcoders, sources, order, above, leading)
    return Prepared(model.name, transcoders, ids, frozen, sources, above, order, specs, explained, engine, looked)


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
