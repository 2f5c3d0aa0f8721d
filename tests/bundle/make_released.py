"""Writes tests/data/export-v1.atlas and backup-v1.atlas. A file of a released version is never made again.

    python -m tests.bundle.make_released FOLDER

Times and ids are set back two years, so that the files are of the past for whoever reads them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from atlas import Atlas
from atlas.backup import backup
from atlas.bundle import export_all
from atlas.bundle.archive import Manifest
from atlas.graph import embedded
from atlas.settings import Settings
from tests.bundle.places import fill, fill_group
from tests.bundle.rewriting import Members, rewrite

BACK = timedelta(days=730)
_TIME = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
_ID = re.compile(rb'"([0-9a-f]{16})([0-9a-f]{16})"')


def _earlier(found: re.Match[bytes]) -> bytes:
    return (datetime.fromisoformat(found[0].decode()) - BACK).isoformat(timespec="microseconds").encode()


def _earlier_id(found: re.Match[bytes]) -> bytes:
    return b'"%016x%s"' % (int(found[1], 16) - int(BACK.total_seconds()) * 10**9, found[2])


def set_back(manifest: Manifest, content: Members) -> None:
    manifest.made_at = _TIME.sub(_earlier, manifest.made_at.encode()).decode()
    for name, data in content.items():
        if name.endswith(".jsonl"):
            content[name] = _ID.sub(_earlier_id, _TIME.sub(_earlier, data))


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        try:
            with Atlas.open(settings=Settings(home=home, actor="tester", embedded_heap="512m")) as atlas:
                fill(atlas)
                export_all(atlas, home / "export.atlas")
                fill_group(atlas)
                backup(atlas, home / "backup.atlas")
            for name in ("export", "backup"):
                rewrite(home / f"{name}.atlas", folder / f"{name}-v1.atlas", set_back)
        finally:
            embedded.stop(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
