"""Matrix products in float32 on a CPU, by the library that is quicker there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch

STEP = 16  # rows; oneDNN keeps code for every shape that it has met
WORTH_IT = 2**22  # multiply-adds; below, what a call of oneDNN costs by itself is more than it saves


@cache
def _onednn() -> bool:
    # torch gives float32 products to MKL, which leaves half of an AMD core with AVX-512 unused; oneDNN, in the same wheel, does not.
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
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, turned, None, "none", [], "")
        return made
    return x @ weight


def products(x: torch.Tensor, weights: torch.Tensor) -> Iterable[torch.Tensor]:
    """(k, l, n) and (k, n, m): k products (l, m)."""
    return map(product, x, weights) if x.device.type == "cpu" else torch.bmm(x, weights)


def round_up(rows: int) -> int:
    """For products of many sizes that differ by little: a few rows of zeros cost less than code for one more shape."""
    return rows if rows < STEP else -(-rows // STEP) * STEP
