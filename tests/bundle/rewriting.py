"""Bundles taken apart and put together again, with hashes that are right: what a careful forger could make."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from atlas.bundle.archive import MANIFEST, BundleWriter, Manifest

Members = dict[str, bytes]


def members(path: Path) -> tuple[Manifest, Members]:
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    manifest = Manifest.model_validate_json(content.pop(MANIFEST))
    return manifest.model_copy(update={"members": {}}), content


def rewrite(source: Path, target: Path, change: Callable[[Manifest, Members], None]) -> Path:
    """`change` may change both in place. Hashes follow, counts do not."""
    manifest, content = members(source)
    change(manifest, content)
    with target.open("wb") as file:
        writer = BundleWriter(file, manifest)
        for name, data in content.items():
            writer.add(name, data)
        writer.finish()
    return target


def change_line(content: Members, kind: str, change: Callable[[dict], None], number: int = 0) -> None:
    """Change the `number`th record of a kind."""
    name = f"{kind}/000001.jsonl"
    lines = content[name].splitlines()
    record = json.loads(lines[number])
    change(record)
    lines[number] = json.dumps(record).encode()
    content[name] = b"\n".join(lines) + b"\n"
