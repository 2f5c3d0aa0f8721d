"""What `atlas doctor` looks at. Reads only; every check names what was found and what to do."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from atlas.errors import AtlasError
from atlas.records import Record
from atlas.settings import Settings


class Check(Record):
    name: str
    ok: bool
    found: str
    hint: str = ""


def examine(settings: Settings) -> list[Check]:
    """Every check in order; a failed one never stops the next where that can be tried."""
    checks = [_extras(), _disk(settings)]
    from atlas.api import Atlas

    try:
        atlas = Atlas.open(settings=settings)
    except AtlasError as error:
        return [*checks, Check(name="catalog", ok=False, found=error.message, hint=error.hint)]
    with atlas:
        checks.append(Check(name="catalog", ok=True, found=f"{atlas.catalog.count_circuits()} circuits"))
        checks.append(_encoder(atlas))
        checks.append(_graph(atlas))
    return checks


def _extras() -> Check:
    parts = {"ingest": "torch", "ui": "streamlit", "search by meaning": "sentence_transformers"}
    missing = [name for name, module in parts.items() if find_spec(module) is None]
    found = "all installed" if not missing else "not installed: " + ", ".join(missing)
    return Check(name="extras", ok=True, found=found, hint="pip install 'circuit-atlas[all]'" if missing else "")


def _disk(settings: Settings) -> Check:
    folder = settings.home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    enough = free > 1
    return Check(
        name="disk",
        ok=enough,
        found=f"{free:.0f} GiB free for {settings.home}",
        hint="" if enough else "Free some space.",
    )


def _encoder(atlas) -> Check:
    try:
        encoder = atlas.encoder
    except AtlasError as error:
        return Check(name="encoder", ok=False, found=error.message, hint=error.hint)
    if encoder is None:
        return Check(
            name="encoder", ok=True, found="none: search is full text only", hint="pip install 'circuit-atlas[ui]'"
        )
    return Check(name="encoder", ok=True, found=f"{encoder.name}, {encoder.dimension} numbers")


def _graph(atlas) -> Check:
    try:
        graph = atlas.graph
        ready = {circuit for circuit, status in graph.circuit_ids().items() if status == "ready"}
    except AtlasError as error:
        return Check(name="graph", ok=False, found=error.message, hint=error.hint)
    known = set(atlas.catalog.circuit_ids())
    behind, strange = len(known - ready), len(ready - known)
    found = f"{graph.server} at {graph.address}: {len(ready)} circuits"
    if behind or strange:
        return Check(
            name="graph", ok=False, found=f"{found}, {behind} missing, {strange} too many", hint="Run `atlas rebuild`."
        )
    return Check(name="graph", ok=True, found=found)
