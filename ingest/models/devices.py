"""Which device and dtype to compute in, and on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from atlas.errors import UsageError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

ALONE = 2**20  # see `few_threads`
SPREAD = "auto"  # over the devices of this machine, as accelerate does


def choose_device(device: str | torch.device | None) -> torch.device:
    """The named device, or cuda if present, else cpu. Raises UsageError when it is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.ones(1, device=chosen).item()  # `meta` makes tensors too, but none that holds a number
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise UsageError(f"The device {str(device)!r} is not here.", f"Devices here: {', '.join(here)}.") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The named dtype; float32 when none is named, so that a circuit does not depend on the machine."""
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"The dtype {name!r} is not known.", f"Choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]


@contextmanager
def few_threads(layers: int, positions: int, width: int) -> Iterator[None]:
    """One thread for so small a model and prompt: its products take some 20 microseconds each, and threads wait for one another
    as long (the shipped model: the same wall time on two, for twice the CPU-seconds)."""
    before = torch.get_num_threads()  # torch keeps this by thread, so that tracing beside one another does no harm
    if layers * positions * width**2 <= ALONE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
