"""Replacement and completeness of the attribution graphs of the sample prompts.

Measured with the tracing engine, for the shipped transcoders and for the same
set with the decoder rows of every layer permuted (mean over several seeds).
"""

from __future__ import annotations

from pathlib import Path


def replacement_figures(folder: Path) -> dict | None:
    """Scores of the real and the permuted set; None until they can be measured."""
    return None
