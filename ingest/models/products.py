"""Matrix products in float32 on a CPU, by the library that is quicker there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch

# oneDNN keeps code and buffers for every shape that it has met, some 200 KiB each. So products are made of a few shapes: blocks
# of rows, the last of them filled up with zeros.
BLOCK, STEP = 384, 32
WORTH_IT = 2**24  # multiply-adds; below, what a call of oneDNN costs by itself is more than it saves
TOGETHER = 2**18  # numbers of all factors of small products, up to which one call for all is quicker than one for each


@cache
def _onednn() -> bool:
    # torch gives float32 products to MKL, which leaves half of some AMD cores with AVX-512 unused (where it does not, the two are
    # equal); oneDNN, in the same wheel, does not.
    # Its products of dense tensors have no public name: they are what torch.compile calls.
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight: (..., n) and (n, m) to (..., m)."""
    ours = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if ours and x.numel() * weight.shape[1] >= WORTH_IT and _onednn():
        turned = weight.T if weight.is_contiguous() else weight.T.contiguous()  # a thousand times slower with gaps
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= BLOCK:
            return _block(rows, turned).view(*x.shape[:-1], -1)
        made = x.new_empty(len(rows), weight.shape[1])
        for into, some in zip(made.split(BLOCK), rows.split(BLOCK), strict=True):
            into.copy_(_block(some, turned))  # at once, while it is in the caches
        return made.view(*x.shape[:-1], -1)
    return x @ weight


def products(x: torch.Tensor, weights: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(k, l, n) and (k, n, m): k products (l, m), a few at a time (slice of them, and their products)."""
    if x.device.type != "cpu" or x[0].numel() * weights.shape[-1] < WORTH_IT:
        yield slice(None), torch.bmm(x, weights)
    else:
        for k, (one, weight) in enumerate(zip(x, weights, strict=True)):
            yield slice(k, k + 1), product(one, weight)[None]


def products_by_position(x: torch.Tensor, vectors: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
    """(B, p, d), and (n, d) of which starts[i] to starts[i + 1] stand at position i -> (B, n) of each with x at its position."""
    rows, p, width = x.shape
    counts = np.diff(starts)
    most, n = int(counts.max(initial=0)), starts[-1] - starts[0]
    if not n:
        return x.new_empty(rows, 0)
    if p * most * width <= TOGETHER:  # filled up to as many at each position
        places = np.arange(starts[0], starts[0] + most) + (np.array(starts[:-1]) - starts[0])[:, None]
        filled = vectors[torch.from_numpy(np.minimum(places, starts[-1] - 1)).to(x.device)]  # (p, most, d)
        found = torch.bmm(x.transpose(0, 1), filled.transpose(1, 2)).transpose(0, 1).flatten(1)  # (B, p * most)
        there = np.flatnonzero(np.arange(most) < counts[:, None])
        return found if p * most == n else found[:, torch.from_numpy(there).to(x.device)]
    found = x.new_empty(rows, n)
    for place, (start, count) in enumerate(zip(starts, counts.tolist(), strict=False)):
        if count:
            to = slice(start - starts[0], start - starts[0] + count)
            found[:, to] = x[:, place] @ vectors[start : start + count].T
    return found


def _block(rows: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    """(l, n) and (m, n): their product (l, m)."""
    missing = -len(rows) % STEP
    filled = torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(filled, turned, None, "none", [], "")
    return made[: len(rows)]
