"""This machine: packages, disk, files that hold secrets, the note of the embedded graph server."""

from __future__ import annotations

import os
import shutil
import stat
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from atlas.catalog.tables import Person
from atlas.diagnosis.check import MEND, Check, nothing
from atlas.settings import Settings

if TYPE_CHECKING:
    from atlas.api import Atlas

LEAST_FREE = 2**30
_SECRETS = {"graph_password", "catalog_password", "metrics_token", "token", "catalog_url"}


def extras() -> Check:
    parts = {"ingest": "torch", "ui": "streamlit", "search by meaning": "sentence_transformers"}
    missing = [name for name, module in parts.items() if find_spec(module) is None]
    found = "all installed" if not missing else "not installed: " + ", ".join(missing)
    return Check(name="extras", ok=True, found=found, hint="pip install 'circuit-atlas[all]'" if missing else "")


def disk(settings: Settings) -> Check:
    folder = settings.home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Check(
        name="disk",
        ok=free > LEAST_FREE,
        found=f"{free / 2**30:.1f} GiB free for {settings.home}",
        hint="" if free > LEAST_FREE else "Free some space: a full disk stops every write.",
    )


def secret_files(settings: Settings, mend: bool) -> Check:
    """atlas.toml with a password in it, and the passwords of the embedded server, are for their owner alone."""
    files = [file for file in (settings.home / "atlas.toml", Path("atlas.toml")) if _has_secret(file)]
    return _private("secret files", [*files, settings.embedded_folder / "server.json"], mend)


def catalog_file(atlas: Atlas, mend: bool) -> Check:
    """A catalog with accounts holds what signs their cookies: for its owner alone."""
    if not atlas.catalog.is_sqlite:
        return nothing("catalog file")
    with atlas.catalog.read() as session:
        if not session.scalar(select(func.count()).select_from(Person)):
            return nothing("catalog file")
    file = atlas.catalog.file
    return _private("catalog file", [file.with_name(file.name + end) for end in ("", "-wal", "-shm")], mend)


def _private(name: str, files: list[Path], mend: bool) -> Check:
    if os.name != "posix":
        return nothing(name)
    there = [file for file in files if file.exists()]
    loose = [file for file in there if stat.S_IMODE(file.stat().st_mode) & 0o077]
    if not loose:
        return Check(name=name, ok=True, found="readable by their owner alone") if there else nothing(name)
    refused = []
    for file in loose if mend else []:
        try:
            file.chmod(0o600)
        except OSError:
            refused.append(file)
    left = refused if mend else loose
    names = ", ".join(str(file) for file in loose)
    return Check(
        name=name,
        ok=not left,
        found=f"other users of this machine may read {names}",
        hint=f"Run `chmod 600` on them as their owner{'' if mend else ', or `atlas doctor --mend`'}." if left else "",
        mended=not left,
    )


def _has_secret(file: Path) -> bool:
    try:
        named = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return any(named.get(name) for name in _SECRETS)


def embedded_record(settings: Settings, mend: bool) -> Check:
    """The note by which processes find the embedded server: of a living one, or of none."""
    from atlas.graph import embedded

    name = "embedded server"
    file = settings.embedded_folder / "server.json"
    if not file.exists():
        return nothing(name)
    state = embedded.leftover(settings.home)
    if state == "alive":
        return Check(name=name, ok=True, found="runs")
    what = {
        "orphan": "its Java runs without the process that watches it",
        "stale": f"{file} is left over from one that has ended",
    }[state]
    if mend:
        embedded.clear_leftover(settings.home)
        return Check(name=name, ok=True, found=what, mended=True)
    return Check(name=name, ok=False, found=what, hint=f"{MEND} The next use of the graph mends it too.")
