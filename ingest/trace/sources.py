"""What writes at the output hooks: active features through their decoders, errors, and constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ingest.models.base import Frozen
from ingest.transcoders.set import TranscoderSet


@dataclass
class Writes:
    """What is written at one layer's output hook at one position."""

    vectors: torch.Tensor  # (n + 2, d): features' scaled decoders, the error, the constant
    columns: slice | torch.Tensor  # (n,) node rows of the features; with a cross-layer set of layers below, too


@dataclass
class Sources:
    """What writes at the output hooks; feature rows of layer l, position p are starts[l][p] on."""

    features: torch.Tensor  # (F, 3) layer, position, feature, on the cpu
    activations: torch.Tensor  # (F,) float32; the pre-activations, too: an active feature's value is not shifted
    starts: list[list[int]]  # (L, P + 1) row numbers
    writes: list[list[Writes]]  # [L][P]
    encoders: list[torch.Tensor]  # [L]: (n, d) encoder rows of the layer's active features
    encoder_biases: torch.Tensor  # (F,) float32
    errors: torch.Tensor  # (L, P, d)


def find_sources(
    frozen: Frozen, transcoders: TranscoderSet, first: int, below: int | None = None, until: int | None = None
) -> Sources:
    """Positions below `first` have neither features nor errors. Features are looked for in layers up to `below` and at
    positions up to `until` only (None: everywhere): nothing else can reach a target there. Raises ModelRejected (not finite).
    """
    n_layers, n_positions = frozen.inputs.shape[:2]
    found, values, biases, starts, encoders = [], [], [], [], []
    written: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = [[] for _ in range(n_layers)]
    offset = 0
    for layer, transcoder in enumerate(transcoders.layers):
        position, feature, value = transcoder.find_active(frozen.inputs[layer])
        kept = position >= first
        if until is not None:
            kept &= position <= until
        if below is not None and layer > below:
            kept &= False
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
        writes.append(_writes(written[layer], starts, errors[layer], constants))
        written[layer].clear()  # copied by now; of a long prompt they are gigabytes
    return Sources(torch.cat(found), torch.cat(values), starts, writes, encoders, torch.cat(biases), errors)


def _writes(
    written: list[tuple[int, torch.Tensor, torch.Tensor]],
    starts: list[list[int]],
    errors: torch.Tensor,
    constants: torch.Tensor,
) -> list[Writes]:
    """By position, of one layer's hook. written: per layer that writes there, its number, and its features' positions (n,) and
    scaled decoders (n, d), sorted by position; errors, constants: (P, d)."""
    everywhere = torch.arange(len(errors), device=errors.device)
    order = torch.cat([*(position for _, position, _ in written), everywhere, everywhere]).argsort(stable=True)
    vectors = torch.cat([*(scaled for _, _, scaled in written), errors, constants])[order]
    made, begin = [], 0
    for p in range(len(errors)):
        spans = [(starts[layer][p], starts[layer][p + 1]) for layer, _, _ in written]
        end = begin + sum(last - first for first, last in spans) + 2
        if len(spans) == 1:
            columns: slice | torch.Tensor = slice(*spans[0])
        else:
            columns = torch.cat([torch.arange(first, last, device=errors.device) for first, last in spans])
        made.append(Writes(vectors[begin:end], columns))
        begin = end
    return made
