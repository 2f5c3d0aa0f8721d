"""What a worker tells Prometheus: its traces, their seconds and tokens, and the memory of its GPU."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from atlas import metrics
from atlas.api import Atlas
from atlas.catalog.jobs import Claim
from atlas.errors import AtlasError


def watch_device(device: str) -> None:
    """Report the memory in use on a GPU at every scrape; that of a CPU is `process_resident_memory_bytes`."""
    if device.startswith("cuda"):
        metrics.DEVICE_MEMORY.labels(device).set_function(lambda: torch.cuda.memory_allocated(device))


def count(atlas: Atlas, claim: Claim, outcome: dict[str, Any], seconds: float) -> None:
    """A job ended at this worker: `outcome` as `perform` gives it."""
    if claim.kind != "trace":
        return
    how = "failed" if "error" in outcome else "done"
    tokens = 0
    if how == "done" and not outcome["result"].get("already"):
        with suppress(AtlasError):  # deleted meanwhile: a figure is not worth a failure
            tokens = sum(len(example.tokens) for example in atlas.load(outcome["result"]["circuit"]).record.examples)
    metrics.trace_ended(how, seconds, tokens)
