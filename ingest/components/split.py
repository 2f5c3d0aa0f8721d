"""A network whose every edge can be cut: each input of a component is a sum over the components before it, and each term of
that sum comes from this run or from another one (the corrupted run, or means or zeros).

The real modules compute everything: hooks replace what a head's q, k and v projections put out by what that head's own
input gives, and the inputs of MLP norms and the final norm. Masks, rotary positions, soft caps, windows and q/k norms stay
transformers' own. Cost: three to four plain forward passes (`benchmarks.eap`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ingest.components.wiring import Wiring
from ingest.memory import if_it_fits
from ingest.models.decoder import Block, DecoderModel, Norm, Projection

Hook = tuple[nn.Module, str, Callable[..., Any]]  # module, "before" or "after", what to call
Progress = Callable[[int, int, str], None]
Metric = Callable[[torch.Tensor, Any], torch.Tensor]  # logits (R, V) and the cases of these rows -> (R,)
BUDGET = 512 * 2**20  # bytes that the sources' outputs of one batch may take


class Tokens(Protocol):
    """Cases as they are needed here: prompts padded on the right."""

    @property
    def clean(self) -> torch.Tensor: ...  # (B, P) token ids

    @property
    def corrupted(self) -> Any: ...  # (B, P); None only where other outputs are given in place of the corrupted run's

    @property
    def lengths(self) -> torch.Tensor: ...  # (B,) tokens of each prompt; the answer is read at the last of them

    def take(self, rows: Any) -> Any: ...  # the same cases restricted to some


@contextmanager
def with_hooks(hooks: Sequence[Hook]) -> Iterator[None]:
    """`before` hooks get (module, args), `after` hooks (module, args, output), as torch's do."""
    handles = []
    try:
        for module, when, function in hooks:
            register = module.register_forward_pre_hook if when == "before" else module.register_forward_hook
            handles.append(register(function))
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_batches(count: int, size: int, work: Callable[[torch.Tensor], None]) -> None:
    """Calls work(row numbers) for so many rows at a time; a batch that finds no memory is halved and done again.

    Raises ModelRejected where a single row is too much.
    """
    done = 0
    while done < count:
        rows = torch.arange(done, min(done + size, count))

        def all_of(rows: torch.Tensor = rows) -> int:
            work(rows)
            return len(rows)

        finished = if_it_fits(all_of, len(rows), "prompt pair", "Use shorter prompts or another device.")
        if finished is None:
            size = len(rows) // 2
        else:
            done += finished


def answers_only(model: DecoderModel, lengths: torch.Tensor) -> Hook:
    """The output head sees only each row's last position: logits (R, 1, V)."""
    last = (lengths - 1).to(model.device)

    def gather(module: nn.Module, args: tuple) -> tuple:
        stream = args[0]
        return (stream[torch.arange(len(stream), device=stream.device), last][:, None],)

    return model.network.get_output_embeddings(), "before", gather


def head_outputs(block: Block, gathered: torch.Tensor) -> torch.Tensor:
    """(R, P, heads * h) what the heads gathered -> (heads, R, P, d) what each adds to the stream.

    They sum to what attention adds: the output's bias is shared equally, a post-norm (Gemma) is held at the denominator of
    the whole attention output.
    """
    values = gathered.unflatten(-1, (-1, block.head_size))
    weight = block.output_weight.unflatten(1, (-1, block.head_size))
    written = torch.einsum("rphe,dhe->hrpd", values, weight)
    if block.output_bias is not None:
        written = written + block.output_bias / len(written)
    post = block.post_attention_norm
    if post is not None:
        written = post.centre(written) * post.scale(written.sum(0)) * post.weight
        if post.bias is not None:
            written = written + post.bias / len(written)
    return written


def mlp_end(block: Block) -> nn.Module:
    """The module whose output the MLP adds to the stream."""
    return block.mlp if block.post_mlp_norm is None else block.post_mlp_norm.module


class SplitNetwork:
    """See the module. Shapes as in Wiring; R rows of a batch, P positions, d width, V vocabulary."""

    def __init__(self, model: DecoderModel) -> None:
        self.model = model
        self.wiring = Wiring.of(model)

    # what each source adds to the stream in an ordinary run

    @torch.no_grad()
    def outputs(self, ids: torch.Tensor) -> torch.Tensor:
        """(R, P) -> (S, R, P, d). They sum to the stream before the final norm."""
        ids = ids.to(self.model.device)
        out = torch.empty(
            self.wiring.n_sources, *ids.shape, self.model.width, dtype=self.model.dtype, device=self.model.device
        )
        with with_hooks(writes(self.model, self.wiring, out.__setitem__)):
            self.model.body(input_ids=ids, use_cache=False)
        return out

    # many cases

    def batch(self, positions: int) -> int:
        """Rows of so many positions that one batch may have."""
        width = self.model.width * self.model.dtype.itemsize
        return max(1, BUDGET // (2 * self.wiring.n_sources * positions * width))

    def run(
        self,
        cases: Tokens,
        keep: torch.Tensor,
        other: torch.Tensor | None = None,
        batch: int | None = None,
    ) -> torch.Tensor:
        """(B, V) logits at the answers. keep: (E,) 1 = the edge is in the circuit, 0 = its source's output is taken from
        the corrupted run (or from `other`, (S, 1, P, d) or (S, 1, 1, d) outputs such as means over a set or zeros)."""
        parts: dict[int, torch.Tensor] = {}
        self._over_batches(
            cases, keep[None], other, batch, lambda _, rows, logits: parts.update({int(rows[0]): logits})
        )
        return torch.cat(list(parts.values()))

    def measure(
        self,
        cases: Tokens,
        keeps: torch.Tensor,
        metric: Metric,
        other: torch.Tensor | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """(M, B) the metric of every case in every circuit; keeps: (M, E). The corrupted run is made once per batch."""
        values = torch.empty(len(keeps), len(cases.clean), dtype=self.model.dtype, device=self.model.device)

        def note(number: int, rows: torch.Tensor, logits: torch.Tensor) -> None:
            values[number, rows] = metric(logits, cases.take(rows)).to(values.dtype)

        self._over_batches(cases, keeps, other, batch, note, progress)
        return values

    @torch.no_grad()
    def _over_batches(
        self,
        cases: Tokens,
        keeps: torch.Tensor,
        other: torch.Tensor | None,
        batch: int | None,
        note: Callable[[int, torch.Tensor, torch.Tensor], None],
        progress: Progress | None = None,
    ) -> None:
        total = len(keeps) * len(cases.clean)

        def work(rows: torch.Tensor) -> None:
            length = int(cases.lengths[rows].max())
            ids, lengths = cases.clean[rows, :length], cases.lengths[rows]
            there = self.outputs(cases.corrupted[rows, :length]) if other is None else other[:, :, :length]
            for number, keep in enumerate(keeps):
                if progress:
                    progress(int(rows[0]) * len(keeps) + number * len(rows), total, "running circuits")
                note(number, rows, self.forward(ids, lengths, keep, there))

        with self.model.ungrouped():
            in_batches(len(cases.clean), batch or self.batch(cases.clean.shape[1]), work)

    # one batch

    def forward(
        self, ids: torch.Tensor, lengths: torch.Tensor, keep: torch.Tensor, other: torch.Tensor
    ) -> torch.Tensor:
        """(R, V) logits at the answers; differentiable in `keep` and `other`.

        ids: (R, P) clean. keep: (E,), or (R, E) a circuit of its own for every row. other: (S, R or 1, P or 1, d).
        """
        return self.forward_with_outputs(ids, lengths, keep, other)[0]

    def forward_with_outputs(
        self, ids: torch.Tensor, lengths: torch.Tensor, keep: torch.Tensor, other: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, and (S, R, P, d) what the sources added in this run."""
        model = self.model
        with model.ungrouped():
            run = _Run(model, self.wiring, self._mask(keep), other, ids.shape)
            with with_hooks([*run.hooks(), answers_only(model, lengths)]):
                logits = model.network(input_ids=ids.to(model.device), use_cache=False).logits[:, 0]
            return logits, run.change() + other

    def _mask(self, keep: torch.Tensor) -> torch.Tensor:
        """(..., E) -> (..., S, T)."""
        keep = keep.to(self.model.device, self.model.dtype)
        mask = keep.new_zeros(*keep.shape[:-1], self.wiring.n_sources, self.wiring.n_inputs)
        source, reader = torch.from_numpy(self.wiring.edge_source), torch.from_numpy(self.wiring.edge_input)
        mask[..., source, reader] = keep
        return mask


def writes(model: DecoderModel, wiring: Wiring, note: Callable[[int | slice, torch.Tensor], Any]) -> list[Hook]:
    """Hooks that call note(source rows, (R, P, d) or for a layer's heads (heads, R, P, d)) in the order of the sources."""

    def embeddings(module: nn.Module, args: tuple) -> None:
        note(0, args[0])

    def heads(layer: int, block: Block):
        return lambda module, args: note(wiring.heads_of(layer), head_outputs(block, args[0]))

    def mlp(layer: int):
        return lambda module, args, output: note(wiring.mlp(layer), output)

    blocks = model.blocks()
    hooks: list[Hook] = [(blocks[0].layer, "before", embeddings)]
    for i, block in enumerate(blocks):
        hooks += [(block.output, "before", heads(i, block)), (mlp_end(block), "after", mlp(i))]
    return hooks


class _Run:
    """One pass in which every input is put together from its sources. The stream that the layers pass on is not used."""

    def __init__(
        self, model: DecoderModel, wiring: Wiring, mask: torch.Tensor, other: torch.Tensor, shape: torch.Size
    ) -> None:
        self.model, self.wiring, self.mask, self.other = model, wiring, mask, other
        self.shape = (*shape, model.width)  # (R, P, d)
        self.done = 0  # sources so far
        # by number of sources: the sum of their other outputs
        self.base = {0: torch.zeros(self.shape, dtype=model.dtype, device=model.device)}
        self.read = -1, self.base[0]  # a layer, and what its heads' queries, keys and values read, (3 * heads, R, P, d)
        # this run's outputs less the other ones: one buffer, or with gradients a list
        self.pieces: list[torch.Tensor] = []
        self.buffer = None if torch.is_grad_enabled() else self.base[0].new_empty(wiring.n_sources, *self.shape)

    def hooks(self) -> list[Hook]:
        hooks = writes(self.model, self.wiring, self.write)
        for i, block in enumerate(self.model.blocks()):
            for slot, projection in enumerate((block.query, block.key, block.value)):
                hooks.append((projection.module, "after", self.project(i, slot, block.attention_norm, projection)))
            hooks.append((block.mlp_norm.module, "before", self.replace_input(self.wiring.mlp_input(i))))
        last = self.replace_input(self.wiring.logit_input)
        return [*hooks, (self.model.final_norm.module, "before", last)]

    def write(self, rows: int | slice, values: torch.Tensor) -> None:
        values = values if isinstance(rows, slice) else values[None]
        other = self.other[self.done : self.done + len(values)]
        if self.buffer is None:
            self.pieces.append(values - other)
        else:
            torch.sub(values, other, out=self.buffer[self.done : self.done + len(values)])
        before = self.base[self.done]
        self.done += len(values)
        self.base[self.done] = before + other.sum(0)

    def change(self) -> torch.Tensor:
        """(S, R, P, d) this run's outputs less the other ones, as far as they are made."""
        return torch.cat(self.pieces) if self.buffer is None else self.buffer

    def inputs(self, wanted: slice) -> torch.Tensor:
        """(n, R, P, d) the streams that n inputs read."""
        seen = int(self.wiring.seen[wanted.start])
        change = self.change()[:seen].flatten(2)  # (s, R, P * d)
        mask = self.mask[..., :seen, wanted]
        if mask.ndim == 2:
            if self.buffer is not None:
                read = mask.any(1).nonzero()[:, 0]  # of small circuits most sources are read by nobody
                if len(read) < seen / 2:
                    change, mask = change[read], mask[read]
            mixed = (mask.T @ change.flatten(1)).view(-1, *self.shape)
        else:
            mixed = (mask.transpose(1, 2) @ change.transpose(0, 1)).transpose(0, 1).unflatten(-1, self.shape[1:])
        return mixed + self.base[seen]

    def project(self, layer: int, slot: int, norm: Norm, projection: Projection):
        """Replaces the queries, keys or values of all heads."""
        heads = self.wiring.heads

        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            if self.read[0] != layer:
                self.read = layer, norm.module(self.inputs(self.wiring.head_inputs(layer)))
            read = self.read[1][slot * heads : (slot + 1) * heads]
            weight = projection.weight.unflatten(0, (heads, -1))  # (heads, h, d)
            made = torch.einsum("hrpd,hed->rphe", read, weight).flatten(2)
            if projection.bias is not None:
                made = made + projection.bias
            output = output.clone()
            output[..., projection.columns] = made
            return output

        return hook

    def replace_input(self, wanted: int):
        return lambda module, args: (self.inputs(slice(wanted, wanted + 1))[0], *args[1:])
