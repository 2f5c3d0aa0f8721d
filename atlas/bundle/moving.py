"""A whole atlas as one file, and such a file merged into another atlas."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from atlas import access
from atlas.api import Atlas
from atlas.bundle.archive import BundleReader, Manifest
from atlas.bundle.check import check_whole
from atlas.bundle.gather import Report
from atlas.bundle.lines import AuditLine, LabelLine
from atlas.bundle.merge import Embeddings, Signer, Tally, fresh_labels, merge_audit
from atlas.bundle.run import Run
from atlas.bundle.writing import replacing, write_bundle
from atlas.catalog import audit, collections
from atlas.catalog.labels import EncoderRecord
from atlas.errors import UsageError
from atlas.records import BundleImport, ImportResult, LoadedFile, Record


class Exported(Record):
    """What is in the file that was written."""

    path: str
    bytes: int
    counts: dict[str, int]
    seconds: float


def export_all(atlas: Atlas, path: str | Path, progress: Report | None = None) -> Exported:
    """Write circuits, labels, annotations, collections, concepts and the audit log to one file (docs/backup.md).

    No secrets, no accounts; the names of authors are in it. Raises InputRejected when the file cannot be written.
    """
    began = time.monotonic()
    with replacing(Path(path)) as (_, file):
        manifest = write_bundle(atlas, file, "export", "reader", progress or _silent)
    return exported(Path(path), manifest, began)


def exported(path: Path, manifest: Manifest, began: float) -> Exported:
    return Exported(path=str(path), bytes=path.stat().st_size, counts=manifest.counts, seconds=time.monotonic() - began)


def import_bundle(
    atlas: Atlas, path: str | Path, progress: Report | None = None, *, collection: str | None = None
) -> ImportResult:
    """Merge a file of `export_all` (or of `backup`, without its people and jobs) into the atlas; `collection`: for its circuits.

    All of the file is checked before anything is written. What the atlas has already stays as it is: a second import
    brings nothing new. Raises InputRejected or SchemaMismatch for the file, AccessDenied for anybody but an editor.
    """
    if not hasattr(atlas, "catalog"):
        raise UsageError("This atlas is on a server.", "Run the command where its catalog is.")
    began, report = time.monotonic(), progress or _silent
    group = collections.checked(collection) if collection is not None else None
    with atlas.catalog.read() as session:
        access.check(session, atlas.identity, "editor")
        is_admin = access.current_role(session, atlas.identity) == "admin"
    with BundleReader(Path(path), atlas.settings.import_max_bytes) as reader:
        check_whole(reader, report)
        manifest = reader.manifest
        run = Run(reader, Signer(atlas.actor, is_admin), atlas._write, report, group)
        run.contents(_Embedder(atlas, reader))
        left_out = {kind: manifest.counts.get(kind, 0) for kind in ("people", "jobs", "facts")}
        if is_admin:
            run.records(AuditLine, partial(merge_audit, mark={"imported_by": atlas.actor}))
        else:
            left_out["audit"] = manifest.counts.get("audit", 0)
    added = _without_zeros(run.tally.added)
    if added:
        run.write(partial(_sign_off, manifest, Path(path).name, added))
    if run.tally.announced:
        atlas._project(run.tally.announced, progress)
    result = BundleImport(
        path=str(path),
        made_at=manifest.made_at,
        made_by=manifest.made_by,
        added=added,
        already=_without_zeros(run.tally.known),
        left_out=_without_zeros(left_out),
        conflicts=run.tally.conflicts,
        signed="" if is_admin else run.sign("NAME"),
        seconds=time.monotonic() - began,
    )
    return ImportResult(
        loaded=[LoadedFile(path=str(path), **added.model_dump()) for added in run.tally.circuits], bundles=[result]
    )


class _Embedder:
    """Embeddings of the encoder that the atlas uses are kept; labels without one are embedded here."""

    def __init__(self, atlas: Atlas, reader: BundleReader) -> None:
        said = reader.manifest.encoder
        # of the embeddings stored here, else of those that would be stored, else the file's
        self._used = atlas._graph_encoder() or (EncoderRecord(said.name, said.dimension) if said else None)
        self._atlas = atlas

    def __call__(self, batch: Sequence[LabelLine]) -> Embeddings:
        used = self._used
        if used is None:
            return Embeddings({})
        with self._atlas.catalog.read() as session:
            fresh = fresh_labels(session, batch)
        kept = {line.id: line.embedding for line in fresh if _usable(line, used)}
        missing = [line for line in fresh if line.id not in kept]
        own = self._atlas._load_encoder() if missing else None
        if own is not None and EncoderRecord(own.name, own.dimension) == used:
            made = own.encode([line.text for line in missing])
            kept |= {line.id: vector.astype("<f4").tobytes() for line, vector in zip(missing, made, strict=True)}
        return Embeddings({label_id: (vector, used.name) for label_id, vector in kept.items() if vector}, used)


def _usable(line: LabelLine, encoder: EncoderRecord) -> bool:
    vector = line.vector
    return (
        vector is not None
        and line.encoder == encoder.name
        and len(vector) == encoder.dimension
        and bool(np.isfinite(vector).all())
    )


def _sign_off(manifest: Manifest, file: str, added: dict[str, int], session: Session) -> Tally:
    """One entry of the audit log says who brought what, and from where."""
    origin = {"made_by": manifest.made_by, "made_at": manifest.made_at, "catalog": manifest.catalog}
    audit.record(session, "import", file, added=added, **origin)
    return Tally()


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if count}


def _silent(done: int, total: int, what: str) -> None:
    pass
