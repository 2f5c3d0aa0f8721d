"""Matrix products in float32 on a CPU, by the library that is quicker there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch

# oneDNN keeps code and buffers for every shape that it has met, some 200 KiB each. So products are made of a few shapes: blocks
# of rows, the last of them filled up with zeros.
BLOCK, STEP = 384, 32
WORTH_IT = 2**24  # multiply-adds; below, what a call of oneDNN costs by itself is more than it saves


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


def products(x: torch.Tensor, weights: torch.Tensor) -> Iterable[torch.Tensor]:
    """(k, l, n) and (k, n, m): k products (l, m)."""
    return map(product, x, weights) if x.device.type == "cpu" else torch.bmm(x, weights)


def _block(rows: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    """(l, n) and (m, n): their product (l, m)."""
    missing = -len(rows) % STEP
    filled = torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(filled, turned, None, "none", [], "")
    return made[: len(rows)]
