"""What writes at the output hooks: active features through their decoders, errors, and constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ingest.models.base import Frozen
from ingest.transcoders.set import TranscoderSet


@dataclass
class Writes:
    """What features write at one layer's output hook, by position; with a cross-layer set those of layers below, too."""

    vectors: torch.Tensor  # (n, d) scaled decoders
    starts: list[int]  # (P + 1,) those of position p are starts[p] to starts[p + 1]
    columns: slice | torch.Tensor  # (n,) their node rows


@dataclass
class Sources:
    """What writes at the output hooks; feature rows of layer l, position p are starts[l][p] on."""

    features: torch.Tensor  # (F, 3) layer, position, feature, on the cpu
    activations: torch.Tensor  # (F,) float32; the pre-activations, too: an active feature's value is not shifted
    starts: list[list[int]]  # (L, P + 1) row numbers
    writes: list[Writes]  # [L]
    encoders: list[torch.Tensor]  # [L]: (n, d) encoder rows of the layer's active features
    encoder_biases: torch.Tensor  # (F,) float32
    fixed: torch.Tensor  # (L, P, 2, d) errors and constants

    @property
    def errors(self) -> torch.Tensor:
        """(L, P, d)"""
        return self.fixed[:, :, 0]

    @property
    def constants(self) -> torch.Tensor:
        """(L, P, d)"""
        return self.fixed[:, :, 1]


def find_sources(
    frozen: Frozen, transcoders: TranscoderSet, first: int, below: int | None = None, until: int | None = None
) -> Sources:
    """Positions below `first` have neither features nor errors. Features are looked for in layers up to `below` and at
    positions up to `until` only (None: everywhere): nothing else can reach a target there. Raises ModelRejected (not finite).
    """
    n_layers, n_positions, width = frozen.outputs.shape
    below = n_layers - 1 if below is None else below
    last = n_positions - 1 if until is None else until
    positions, features, values, biases, starts, encoders = [], [], [], [], [], []
    written: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = [[] for _ in range(n_layers)]
    offset = 0
    for layer, transcoder in enumerate(transcoders.layers):
        inputs = frozen.inputs[layer, first:] if layer <= below else frozen.inputs[layer, :0]
        position, feature, value = transcoder.find_active(inputs)
        position = position + first
        if last < n_positions - 1:
            position, feature, value = (each[position <= last] for each in (position, feature, value))
        scaled = transcoder.decoder_rows(feature) * value[:, None, None]
        for above in range(scaled.shape[1]):
            written[layer + above].append((layer, position, scaled[:, above]))
        counts = np.bincount(position.cpu().numpy(), minlength=n_positions)
        starts.append([offset, *(offset + np.cumsum(counts)).tolist()])
        positions.append(position)
        features.append(feature)
        values.append(value)
        biases.append(transcoder.b_enc[feature])
        encoders.append(transcoder.encoder_rows(feature))
        offset += len(position)
    fixed, writes = frozen.outputs.new_zeros(n_layers, n_positions, 2, width), []
    for layer, transcoder in enumerate(transcoders.layers):
        output, bias = frozen.outputs[layer], transcoder.b_dec
        error, constant = fixed[layer].unbind(1)
        constant[:first], constant[first:] = output[:first], bias
        reconstruction = bias.repeat(n_positions, 1)
        if transcoder.w_skip is not None:
            skipped = frozen.inputs[layer] @ transcoder.w_skip.T
            reconstruction += skipped
            constant[:first] -= skipped[:first]
        for _, position, vectors in written[layer]:
            reconstruction.index_add_(0, position, vectors)
        torch.sub(output[first:], reconstruction[first:], out=error[first:])
        writes.append(_writes(written[layer], starts))
        written[layer].clear()  # a cross-layer set's are copied by now; of a long prompt they are gigabytes
    layers = torch.from_numpy(np.repeat(np.arange(n_layers), [own[-1] - own[0] for own in starts]))
    found = torch.stack([layers, torch.cat(positions).cpu(), torch.cat(features).cpu()], dim=1)
    return Sources(found, torch.cat(values).float(), starts, writes, encoders, torch.cat(biases).float(), fixed)


def _writes(written: list[tuple[int, torch.Tensor, torch.Tensor]], starts: list[list[int]]) -> Writes:
    """Of one layer's hook. written: per layer that writes there, its number, and its features' positions (n,) and scaled
    decoders (n, d), sorted by position."""
    if len(written) == 1:
        ((layer, _, vectors),) = written
        own = starts[layer]
        return Writes(vectors.contiguous(), [start - own[0] for start in own], slice(own[0], own[-1]))
    order = torch.cat([position for _, position, _ in written]).argsort(stable=True)
    rows = torch.cat(
        [torch.arange(starts[layer][0], starts[layer][-1], device=order.device) for layer, _, _ in written]
    )
    begins = np.sum([np.array(starts[layer]) - starts[layer][0] for layer, _, _ in written], axis=0).tolist()
    return Writes(torch.cat([vectors for _, _, vectors in written])[order], begins, rows[order])
