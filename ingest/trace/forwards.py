"""The frozen linear maps forwards, for streams of sources and of constants."""

from __future__ import annotations

import torch

from ingest.models.base import Frozen
from ingest.trace.sources import Sources
from ingest.transcoders.set import TranscoderSet


def attention_added(
    frozen: Frozen, layer: int, stream: torch.Tensor, first: int = 0, constants: bool = False
) -> torch.Tensor:
    """(B, P - first, d) at the layer's beginning -> as many: what its attention adds.

    constants: the first row is the stream of constants, to which biases add.
    """
    added, constant = (
        frozen.attention_write(layer, frozen.attention_values(layer, stream), first),
        frozen.attention_constants[layer],
    )
    if constants and constant is not None:
        added[0] += constant
    return added


def skip_added(
    frozen: Frozen,
    transcoders: TranscoderSet,
    layer: int,
    stream: torch.Tensor,
    first: int = 0,
    constants: bool = False,
) -> torch.Tensor | None:
    """(B, P - first, d) before the MLP -> as many: what the transcoder's skip connection adds; None without one."""
    skip, read = transcoders.layers[layer].w_skip, frozen.input_constant(layer)
    if skip is None:
        return None
    added = frozen.skip_forward(layer, stream, skip, first)
    if constants and read is not None:
        through = (skip @ read).expand(stream.shape[1:])
        added[0] += frozen.output_back(layer, through, slice(None))
    return added


def constants_added(frozen: Frozen, sources: Sources, layer: int) -> torch.Tensor:
    """(P, d) what constants at the output hook add to the stream."""
    return frozen.output_back(layer, sources.constants[layer], slice(None))
