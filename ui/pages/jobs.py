"""The queue."""

from __future__ import annotations

from ui.shared import begin

begin("jobs")
