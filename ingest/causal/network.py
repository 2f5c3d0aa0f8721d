"""The real network with changes at its output hooks. Attention, norms and later MLPs are free; nothing is linearised.

A batch holds one run per row, the first of them unchanged, so that every difference is of runs that were rounded alike. For path
patching the MLPs' outputs are held at their values of the unchanged run, and only what a transcoder's skip connection makes of a
changed input is added: a change at the stream then reaches every later input directly, through attention and norms only.

Shapes: B runs, P positions, d width, n things read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from ingest.memory import if_it_fits
from ingest.models.decoder import DecoderModel
from ingest.trace.targets import TargetSpec
from ingest.transcoders.set import Transcoder, TranscoderSet

Progress = Callable[[int, int, str], None]  # how many, of how many, of what
CPU_TOKENS = 2048  # positions of all rows of a batch together; more is not faster
CPU_BYTES = 512 * 2**20


@dataclass(frozen=True)
class FeatureChange:
    """A feature's value becomes `value`, whatever it is in this run; with `add`, `value` is added to it instead.

    Done by adding the difference times the decoder at the output hook, of a cross-layer feature at every layer it writes to.
    """

    layer: int
    position: int
    feature: int
    value: float
    add: bool = False


@dataclass(frozen=True)
class VectorChange:
    """A vector is added at a layer's output hook; layer -1: to the embeddings. Changes of one name and place are the same."""

    layer: int
    position: int
    name: str
    vector: torch.Tensor = field(compare=False, repr=False)  # (d,)


Change = FeatureChange | VectorChange
Row = tuple[Change, ...]  # all that is changed in one run


@dataclass(frozen=True)
class Held:
    """The unchanged run at the hooks."""

    inputs: torch.Tensor  # (L, P, d)
    outputs: torch.Tensor  # (L, P, d)


@dataclass(frozen=True)
class Readings:
    """What was read: features first, then targets, as in `Reads`."""

    before: np.ndarray  # (n,) float64, unchanged: pre-activations, centred logits
    changes: np.ndarray  # (B, n) float64, less `before`
    values: np.ndarray | None = None  # (B, features) the features' values in the changed runs


class Reads:
    """Pre-activations of features and values of targets, read in every run, in float32 or wider."""

    def __init__(
        self, model: DecoderModel, transcoders: TranscoderSet, features: np.ndarray, targets: Sequence[TargetSpec]
    ) -> None:
        """features: (n, 3) layer, position, feature. targets: tokens and differences of two (centred logits before a soft cap)."""
        self.features, self.targets = np.asarray(features, int).reshape(-1, 3), list(targets)
        places: dict[tuple[int, int], list[int]] = defaultdict(list)
        for column, (layer, position, _) in enumerate(self.features.tolist()):
            places[layer, position].append(column)
        self.places: dict[int, list[tuple[int, np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]]] = defaultdict(
            list
        )
        for (layer, position), columns in places.items():
            transcoder = transcoders.layers[layer]
            chosen = torch.from_numpy(self.features[columns, 2]).to(transcoder.b_enc.device)
            encoders = wide(transcoder.encoder_rows(chosen))
            biases = wide(transcoder.b_enc[chosen])
            self.places[layer].append((position, np.array(columns), chosen, encoders, biases))
        self.vectors, self.constants = _logit_vectors(model, self.targets)

    def __len__(self) -> int:
        return len(self.features) + len(self.targets)


def wide(values: torch.Tensor) -> torch.Tensor:
    """float32, or float64 as it is."""
    return values if values.dtype == torch.float64 else values.float()


def _logit_vectors(model: DecoderModel, targets: Sequence[TargetSpec]) -> tuple[torch.Tensor, torch.Tensor]:
    """(k, d) and (k,): centred logits are the final norm's output times the vectors, plus the constants."""
    head = model.unembedding
    bias = model.network.get_output_embeddings().bias
    bias = wide(head.new_zeros(len(head)) if bias is None else bias)
    mean, mean_bias = wide(head).mean(dim=0), bias.mean()
    vectors, constants = [], []
    for spec in targets:
        signs = (1.0, -1.0)[: len(spec.tokens)]
        vectors.append(sum(sign * (wide(head[i]) - mean) for sign, i in zip(signs, spec.tokens, strict=True)))
        constants.append(sum(sign * (bias[i] - mean_bias) for sign, i in zip(signs, spec.tokens, strict=True)))
    if not vectors:
        return mean.new_zeros(0, model.width), mean.new_zeros(0)
    return torch.stack(vectors), torch.stack([torch.as_tensor(c) for c in constants])  # type: ignore[arg-type]


class RealNetwork:
    """Runs of a model with changes. `batch_rows` halves itself when memory runs out; finished batches are kept."""

    def __init__(self, model: DecoderModel, transcoders: TranscoderSet, batch_rows: int | None = None) -> None:
        self.model, self.transcoders, self.blocks = model, transcoders, model.blocks()
        self.batch_rows = batch_rows

    @torch.inference_mode()
    def run(
        self,
        token_ids: Sequence[int],
        rows: Sequence[Row],
        reads: Reads,
        *,
        held: Held | None = None,
        values: bool = False,
        progress: Progress | None = None,
    ) -> Readings:
        """One run per row. held: path patching (see the module). values: the features' values too, not only before the
        activation function. Raises ModelRejected when a single row does not fit into memory.
        """
        size = self.batch_rows or self._fitting(len(token_ids))
        before, changes, found_values = np.full(len(reads), np.nan), [], []
        start = 0
        while start < len(rows) or not (start or len(rows)):
            batch = rows[start : start + size]
            found = if_it_fits(partial(self._batch, token_ids, batch, reads, held, values), len(batch), "run")
            if found is None:
                size = self.batch_rows = len(batch) // 2
                continue
            read, value = found
            if start == 0:
                before = read[0]
            changes.append(read[1:] - read[0])
            found_values.append(value[1:])
            start += max(1, len(batch))
            if progress:
                progress(min(start, len(rows)), len(rows), "runs")
        return Readings(before, np.concatenate(changes), np.concatenate(found_values) if values else None)

    def _batch(
        self, token_ids: Sequence[int], rows: Sequence[Row], reads: Reads, held: Held | None, values: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The untouched run first, then one of each row."""
        return _Run(self, token_ids, [(), *rows], reads, held, values).go()

    def _fitting(self, positions: int) -> int:
        """Rows of a batch, from the memory that is free (a quarter of a GPU's)."""
        config = self.model.config
        heads, bytes_each = config.num_attention_heads, self.model.dtype.itemsize
        inner = getattr(config, "intermediate_size", None) or 4 * self.model.width
        per_row = positions * bytes_each * (8 * self.model.width + 3 * inner + 4 * heads * positions)
        if self.model.device.type == "cuda":
            return int(min(1024, max(1, torch.cuda.mem_get_info(self.model.device)[0] // 4 // per_row)))
        return int(max(1, min(CPU_BYTES // per_row, CPU_TOKENS // positions)))


class _Run:
    """One batch."""

    def __init__(
        self,
        network: RealNetwork,
        token_ids: Sequence[int],
        rows: Sequence[Row],
        reads: Reads,
        held: Held | None,
        values: bool,
    ) -> None:
        self.network, self.model, self.transcoders = network, network.model, network.transcoders
        self.reads, self.held, self.with_values = reads, held, values
        self.ids = torch.tensor([list(token_ids)] * len(rows), device=self.model.device)
        self.inputs: dict[int, torch.Tensor] = {}
        self.read: list[tuple[np.ndarray, torch.Tensor]] = []  # columns, (B, columns)
        self.values: list[tuple[np.ndarray, torch.Tensor]] = []
        self.features: dict[int, list[tuple[int, FeatureChange]]] = defaultdict(list)
        self.writes: dict[int, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for row, changes in enumerate(rows):
            for change in changes:
                if isinstance(change, FeatureChange):
                    self.features[change.layer].append((row, change))
                else:
                    place = torch.tensor([row]), torch.tensor([change.position])
                    self.writes[change.layer].append((*place, change.vector[None]))

    def go(self) -> tuple[np.ndarray, np.ndarray]:
        """(B, n) readings and (B, features) values, float64."""
        handles = [self.model.embedding.register_forward_hook(lambda m, a, out: self._written(-1, out))]
        after_norm = self.transcoders.output_hook == "hook_mlp_out"
        for i, block in enumerate(self.network.blocks):
            norm = block.mlp_norm.module
            if self.transcoders.input_hook == "mlp.hook_in":
                handles.append(norm.register_forward_hook(self._reader(i)))
            else:
                handles.append(norm.register_forward_pre_hook(self._reader(i)))
            post = block.post_mlp_norm if after_norm else None
            place = block.mlp if post is None else post.module
            handles.append(place.register_forward_hook(self._writer(i)))
        try:
            final = self.model.body(input_ids=self.ids, use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        for k, spec in enumerate(self.reads.targets, start=len(self.reads.features)):
            vector = self.reads.vectors[k - len(self.reads.features)].to(final.device)
            constant = self.reads.constants[k - len(self.reads.features)].to(final.device)
            self.read.append((np.array([k]), (wide(final[:, spec.position]) @ vector + constant)[:, None]))
        return self._table(self.read, len(self.reads)), self._table(self.values, len(self.reads.features))

    def _table(self, parts: list[tuple[np.ndarray, torch.Tensor]], width: int) -> np.ndarray:
        """(B, width) float64; NaN where nothing was read. One transfer for all."""
        table = np.full((len(self.ids), width), np.nan)
        if parts:
            values = torch.cat([value.double().to(self.ids.device) for _, value in parts], dim=1)
            table[:, np.concatenate([columns for columns, _ in parts])] = values.cpu().numpy()
        return table

    def _reader(self, layer: int) -> Callable[..., None]:
        norm, hook = self.network.blocks[layer].mlp_norm, self.transcoders.input_hook

        def keep(module: Any, args: tuple, output: torch.Tensor | None = None) -> None:
            value = args[0] if output is None else output
            value = norm.normalized(value) if hook == "ln2.hook_normalized" else value
            self.inputs[layer] = value
            for position, columns, features, encoders, biases in self.reads.places.get(layer, ()):
                at = value[:, position].to(encoders.device)
                pre = wide(at) @ encoders.T + biases
                self.read.append((columns, pre))
                if self.with_values:
                    kept = _active(self.transcoders.layers[layer], pre, at, features)
                    self.values.append((columns, pre * kept))

        return keep

    def _writer(self, layer: int) -> Callable[..., torch.Tensor]:
        def write(module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor:
            if self.held is not None:
                output = self._hold(layer, output)
            if layer in self.features:
                self._change_features(layer)
            return self._written(layer, output)

        return write

    def _hold(self, layer: int, output: torch.Tensor) -> torch.Tensor:
        assert self.held is not None
        kept = self.held.outputs[layer].to(output.device).expand_as(output)
        skip = self.transcoders.layers[layer].w_skip
        if skip is None:
            return kept
        change = self.inputs[layer] - self.held.inputs[layer].to(output.device)
        return kept + change @ skip.to(output.device).T

    def _change_features(self, layer: int) -> None:
        """Queue what the features of this layer write, from the values they have in this run."""
        changed, transcoder = self.features[layer], self.transcoders.layers[layer]
        device = transcoder.b_enc.device
        rows = torch.tensor([row for row, _ in changed])
        positions = torch.tensor([change.position for _, change in changed])
        features = torch.tensor([change.feature for _, change in changed], device=device)
        wanted = torch.tensor([change.value for _, change in changed], dtype=torch.float64, device=device)
        added = torch.tensor([change.add for _, change in changed], device=device)
        stream = self.inputs[layer]
        at = stream[rows.to(stream.device), positions.to(stream.device)].to(device)
        delta = torch.where(added, wanted, wanted - row_values(transcoder, at, features).double())
        decoders = wide(transcoder.decoder_rows(features))
        for above in range(decoders.shape[1]):
            vectors = delta.to(decoders.dtype)[:, None] * decoders[:, above]
            self.writes[layer + above].append((rows, positions, vectors))

    def _written(self, layer: int, output: torch.Tensor) -> torch.Tensor:
        if layer not in self.writes:
            return output
        output = output.clone()
        for rows, positions, vectors in self.writes[layer]:
            place = rows.to(output.device), positions.to(output.device)
            output.index_put_(place, vectors.to(output.device, output.dtype), accumulate=True)
        return output


def row_values(transcoder: Transcoder, inputs: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """(m, d) inputs and (m,) features -> (m,) the value of each feature on its own input."""
    pre = (wide(inputs) * wide(transcoder.encoder_rows(features))).sum(-1) + wide(transcoder.b_enc[features])
    if transcoder.top_k is None:
        return pre * transcoder.active(pre, features)
    whole = transcoder.pre_activations(inputs)
    return pre * transcoder.active(whole).gather(1, features[:, None])[:, 0]


def _active(transcoder: Transcoder, pre: torch.Tensor, inputs: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """(B, n) bool."""
    if transcoder.top_k is None:
        return transcoder.active(pre, features)
    return transcoder.active(transcoder.pre_activations(inputs))[:, features]
