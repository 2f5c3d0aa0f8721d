"""Multiply-adds of the backward pass, and the least that carrying every target down the exact linear map needs.

Spent: torch's counter, which knows the shapes of every matrix product that ran in `Backward.rows` and, where the two meet in the
middle (`ingest.trace.carried`), in `Upward.to`, and in `find_leading`; so the multiple can be below 1. Least: for each target on its own
way, no products with zeros: attention only of layers below it, only at positions up to its own, one query position at the
first attention it meets and pairs of key <= query after that; a skip connection wherever a gradient is; then one
product of width d for every source that it can have. Products element by element (norms' scales) are in neither.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from ingest.models import Model
from ingest.models.devices import at_most_threads
from ingest.trace.attribute import attribute, prepare
from ingest.trace.backward import Backward
from ingest.trace.carried import Upward
from ingest.transcoders import TranscoderSet

# the product of oneDNN that ingest.models.products calls, which the counter does not know: shapes (..., n) and (m, n)
ONEDNN = {}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    ONEDNN[torch.ops.mkldnn._linear_pointwise] = lambda x, w, *_, **__: 2 * math.prod(x) * w[0]


@dataclass
class Count:
    spent: int
    least: int
    edges: int  # sources times targets that can have them

    @property
    def multiple(self) -> float:
        return self.spent / self.least


@torch.inference_mode()
def count(model: Model, parts: TranscoderSet, ids: list[int]) -> Count:
    ready = prepare(model, parts, ids, None, None, 10, 0.95)
    frozen, order, sources = ready.frozen, ready.order, ready.sources
    width, parallel = model.width, frozen.parallel
    kv_heads, group = frozen.pattern(0).shape[:2]
    head = frozen.attention_values(0, frozen.final[None, :1]).shape[-1]
    query, value = kv_heads * group * head, kv_heads * head  # widths of what heads gather and read
    first = model.constant_positions(parts.model_name)
    # (L, P) vectors that sources write at a place: an error, the features that write there
    written = torch.ones(model.n_layers, order.n_positions, dtype=torch.int64)
    written[:, :first] = 0
    for layer, transcoder in enumerate(parts.layers):
        there = sources.features[sources.features[:, 0] == layer, 1]
        each = torch.bincount(there, minlength=order.n_positions)
        written[layer : layer + transcoder.layers_written] += each
    skips = [transcoder.w_skip is not None for transcoder in parts.layers]
    layers, positions = ready.places
    least = edges = 0
    kinds: dict[tuple[int, int, bool], int] = {}
    for row in [*range(order.n_features), *range(order.n_sources, order.size)]:
        kind = (int(layers[row]), int(positions[row]), row < order.n_features)
        kinds[kind] = kinds.get(kind, 0) + 1
    for (height, position, feature), number in kinds.items():
        one, products = position + 1, 0
        spread = False  # whether attention has carried the gradient beyond its own position
        attention = 0

        def attend(spread: bool, one: int = one) -> int:
            queries, pairs = (one, one * (one + 1) // 2) if spread else (1, one)
            return queries * width * query + pairs * query + one * value * width

        for layer in range(height, -1, -1):
            if layer < height:  # the MLP's output, then (in a parallel block beside it) attention
                places = slice(0, one) if spread else slice(position, one)
                seen = int(written[layer, places].sum())
                products += seen
                attention += skips[layer] * width * width * (one if spread else 1)
            if layer < height or (feature and not parallel):
                attention += attend(spread)
                spread = True
        products += one if spread else 1
        least += number * (attention + products * width)
        edges += number * products
    return Count(spent(model, parts, ids), least, edges)


def spent(model: Model, parts: TranscoderSet, ids: list[int]) -> int:
    """Multiply-adds in `Backward.rows`, `Upward.to` and `find_leading` during one trace."""
    total = 0

    def counted(original):
        def run(*args, **kwargs):
            nonlocal total
            with FlopCounterMode(display=False, custom_mapping=ONEDNN) as counter:
                found = original(*args, **kwargs)
            total += counter.get_total_flops() // 2
            return found

        return run

    # not by its name: the package has a function that is called as this module is
    tracing = sys.modules["ingest.trace.attribute"]
    with (
        at_most_threads(1),  # the counter sees the thread that it was entered in
        patch.object(Backward, "rows", counted(Backward.rows)),
        patch.object(Upward, "to", counted(Upward.to)),
        patch.object(tracing, "find_leading", counted(tracing.find_leading)),
    ):
        attribute(model, parts, ids)
    return total
