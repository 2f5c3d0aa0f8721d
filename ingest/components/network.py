"""The real network, run with reads and writes at sites. Everything else is free: nothing is frozen.

Sites, by layer, with the shapes of what is read there and written there (B rows, P positions):

    resid.pre   the residual stream before the layer; of layer 0 the embeddings, positions included     (B, P, d)
    attn.out    what attention adds to the stream, after a post-norm if there is one                    (B, P, d)
    mlp.out     what the MLP adds to the stream, after a post-norm if there is one                      (B, P, d)
    head.out    the heads' values weighted by attention, before the output matrix and a post-norm       (B, P, heads, h)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from ingest.components.pairs import Cases
from ingest.models.decoder import Block, DecoderModel

SiteName = Literal["resid.pre", "attn.out", "mlp.out", "head.out"]
SITE_NAMES: tuple[SiteName, ...] = ("resid.pre", "attn.out", "mlp.out", "head.out")
Edit = Callable[[torch.Tensor], torch.Tensor]  # the value at a site -> what goes on in its place


@dataclass(frozen=True)
class Place:
    site: SiteName
    layer: int


@dataclass
class Run:
    logits: torch.Tensor  # (B, V) at each row's last real position; float32, or float64 in a float64 model
    values: dict[Place, torch.Tensor] = field(default_factory=dict)  # as they went on, after any write


def every_place(model: DecoderModel, sites: Iterable[SiteName] = SITE_NAMES) -> list[Place]:
    return [Place(site, layer) for site in sites for layer in range(model.n_layers)]


@contextmanager
def hooked(
    model: DecoderModel,
    reads: Iterable[Place] = (),
    writes: Mapping[Place, Edit] | None = None,
    blocks: list[Block] | None = None,
) -> Iterator[dict[Place, torch.Tensor]]:
    """Within it every pass of the network goes through `writes`, and the latest values at `reads` lie in the result.

    blocks: the model's, where the caller has them at hand.
    """
    seen: dict[Place, torch.Tensor] = {}
    edits, wanted = writes or {}, set(reads)
    blocks = model.blocks() if blocks is None else blocks
    handles: list[Any] = []

    def through(place: Place, value: torch.Tensor) -> torch.Tensor:
        if place in edits:
            value = edits[place](value)
        if place in wanted:
            seen[place] = value
        return value

    try:
        for place in wanted | set(edits):
            handles.append(_attach(blocks[place.layer], place, through))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def run(
    model: DecoderModel,
    ids: torch.Tensor,
    lengths: torch.Tensor | None = None,
    *,
    reads: Iterable[Place] = (),
    writes: Mapping[Place, Edit] | None = None,
) -> Run:
    """One pass. ids: (B, P), padded on the right where rows differ in length. Gradients flow unless the caller forbids them."""
    with hooked(model, reads, writes) as seen:
        stream = model.body(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    rows = torch.arange(len(ids), device=stream.device)
    last = torch.full_like(rows, ids.shape[1] - 1) if lengths is None else lengths.to(stream.device) - 1
    return Run(head_logits(model, stream[rows, last]), seen)


def head_logits(model: DecoderModel, normed: torch.Tensor) -> torch.Tensor:
    """(..., d) stream after the final norm -> (..., V) logits, after a final soft cap if the family has one."""
    logits = model.network.get_output_embeddings()(normed)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.inference_mode()
def answer_logits(model: DecoderModel, ids: torch.Tensor, lengths: torch.Tensor, batch_size: int = 32) -> torch.Tensor:
    """(B, P) -> (B, V) at each row's last real position, so many rows at a time, each batch cut to its longest."""
    made = []
    for begin in range(0, len(ids), batch_size):
        rows = slice(begin, begin + batch_size)
        made.append(run(model, ids[rows, : int(lengths[rows].max())], lengths[rows]).logits)
    return torch.cat(made)


def with_clean_logits(model: DecoderModel, cases: Cases, batch_size: int = 32) -> Cases:
    """The cases with the logits of their clean run, for metrics that compare with them."""
    if cases.clean_logits is not None:
        return cases
    # a copy made outside inference mode, so that gradients may be taken through what it is used in
    return replace(cases, clean_logits=answer_logits(model, cases.clean, cases.lengths, batch_size).clone())


def _attach(block: Block, place: Place, through: Callable[[Place, torch.Tensor], torch.Tensor]) -> Any:
    def output(module: Any, args: tuple, made: torch.Tensor) -> torch.Tensor:
        return through(place, made)

    def stream_in(module: Any, args: tuple) -> tuple:
        return (through(place, args[0]), *args[1:])

    def heads_in(module: Any, args: tuple) -> tuple:
        heads = args[0].unflatten(-1, (-1, block.head_size))
        return (through(place, heads).flatten(-2), *args[1:])

    if place.site == "resid.pre":
        return block.layer.register_forward_pre_hook(stream_in)
    if place.site == "head.out":
        return block.output.register_forward_pre_hook(heads_in)
    if place.site == "attn.out":
        post = block.post_attention_norm
        return (block.output if post is None else post.module).register_forward_hook(output)
    post = block.post_mlp_norm
    return (block.mlp if post is None else post.module).register_forward_hook(output)
