"""Values as JSON has them: what `--json` prints and what goes over HTTP."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel


def plain(value: Any) -> Any:
    """JSON-able copy; NaN and infinity, which JSON lacks, become null."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
