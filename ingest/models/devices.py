"""Which device and dtype to compute in."""

from __future__ import annotations

import torch

from atlas.errors import UsageError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
