"""Prompts for the workers."""

from __future__ import annotations

from ui.shared import begin

begin("trace")
