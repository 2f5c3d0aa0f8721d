"""What `atlas doctor` looks at, and what `atlas doctor --mend` puts right. One module per place where something can be wrong.

Without `mend` nothing is changed. A fault in one place never stops the next look where that can be tried.
"""

from __future__ import annotations

from atlas.diagnosis import graph, machine, queue, truth
from atlas.diagnosis.check import Check
from atlas.settings import Settings

__all__ = ["Check", "examine"]


def examine(settings: Settings, mend: bool = False) -> list[Check]:
    """Every check in order, after mending what can be mended if `mend`."""
    checks = [machine.extras(), machine.disk(settings), machine.secret_files(settings, mend)]
    checks.append(machine.embedded_record(settings, mend))
    atlas, opened = truth.open_catalog(settings, mend)
    checks.append(opened)
    if atlas is None:
        return checks
    with atlas:
        writable = opened.ok
        mend = mend and writable
        checks.append(machine.catalog_file(atlas, mend))
        checks.append(truth.encoder(atlas, mend))
        checks.append(truth.embeddings(atlas, mend))
        checks += queue.examine(atlas, mend)
        checks += graph.examine(atlas, mend)
    return [check for check in checks if check.found]
