"""When a batch finds no memory, half of it is tried: the one place that knows how that looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from atlas.errors import ModelRejected

T = TypeVar("T")


def if_it_fits(
    work: Callable[[], T], rows: int, single: str, advice: str = "Use a shorter prompt or another device."
) -> T | None:
    """What `work` gives; None when memory ran out on the way, so that a batch of fewer than these rows can be tried.

    Raises ModelRejected when there is one row only. single: what one row is, in words.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:  # torch's own are RuntimeErrors
        if not _out_of_memory(error):
            raise
        if rows <= 1:
            raise ModelRejected(f"There is not enough memory for a single {single}.", advice) from error
    # outside of the block, at whose end the exception lets go of the failed batch's tensors
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None


def _out_of_memory(error: Exception) -> bool:
    # on the CPU torch has no class of its own for it
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
