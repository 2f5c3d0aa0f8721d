"""What is new."""

from __future__ import annotations

from ui.shared import begin

begin("news")
