"""A whole atlas as one file, and such a file merged into another atlas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from atlas import access
from atlas.api import Atlas
from atlas.base import LABEL_BATCH
from atlas.bundle.archive import BundleReader, Manifest
from atlas.bundle.check import check_whole, circuit_of, lines
from atlas.bundle.gather import Report
from atlas.bundle.lines import AnnotationLine, AuditLine, CircuitLine, CollectionLine, ConceptLine, LabelLine, ModelLine
from atlas.bundle.merge import MERGES, Signer, Tally, fresh_labels, merge_audit, merge_circuits, merge_labels
from atlas.bundle.writing import replacing, write_bundle
from atlas.catalog import audit, collections, outbox
from atlas.catalog.labels import EncoderRecord
from atlas.catalog.values import chunks
from atlas.circuit import Circuit
from atlas.errors import UsageError
from atlas.records import BundleImport, ImportResult, LoadedFile, Record

_BATCH = 500
_BATCH_BYTES = 32 * 2**20  # of circuit files in one transaction


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
        run = _Import(atlas, reader, Signer(atlas.actor, is_admin), report, group)
        result = run.everything(is_admin)
    atlas._projector.finish(run.tally.announced, progress)
    result.seconds = time.monotonic() - began
    loaded = [LoadedFile(path=str(path), **added.model_dump()) for added in run.tally.circuits]
    return ImportResult(loaded=loaded, bundles=[result])


class _Import:
    """One checked bundle on its way into one atlas, a batch a transaction; a kill leaves whole batches, and it may be
    run again."""

    def __init__(
        self, atlas: Atlas, reader: BundleReader, sign: Signer, report: Report, collection: str | None
    ) -> None:
        self.atlas = atlas
        self.reader = reader
        self.sign = sign
        self.report = report
        self.collection = collection
        self.tally = Tally()

    def everything(self, is_admin: bool) -> BundleImport:
        manifest = self.reader.manifest
        self._records(ModelLine)
        self._circuits()
        self._labels()
        for kind in (CollectionLine, ConceptLine, AnnotationLine):
            self._records(kind)
        left_out = {kind: manifest.counts.get(kind, 0) for kind in ("people", "jobs", "facts")}
        if is_admin:
            mark = {"imported_by": self.atlas.actor}
            for batch in chunks(lines(self.reader, AuditLine), _BATCH):
                self._write(partial(merge_audit, batch=batch, mark=mark), "admin")
        else:
            left_out["audit"] = manifest.counts.get("audit", 0)
        self._sign_off()
        return BundleImport(
            path=str(self.reader.path),
            made_at=manifest.made_at,
            made_by=manifest.made_by,
            added=_without_zeros(self.tally.added),
            already=_without_zeros(self.tally.known),
            left_out=_without_zeros(left_out),
            conflicts=self.tally.conflicts,
            signed="" if self.sign.vouches else self.sign("NAME"),
        )

    def _write(self, work: Callable[[Session], Tally], role: access.Role = "editor") -> Tally:
        done = self.atlas._write(work, role)
        self.tally += done
        return done

    def _records(self, kind: type[Any]) -> None:
        total, done = self.reader.manifest.counts.get(kind.kind, 0), 0
        for batch in chunks(lines(self.reader, kind), _BATCH):
            self._write(partial(MERGES[kind], batch=batch, sign=self.sign))
            done += len(batch)
            self.report(done, total, kind.kind)

    def _circuits(self) -> None:
        total, done = self.reader.manifest.counts.get(CircuitLine.kind, 0), 0
        for batch in self._circuit_batches():
            self._write(partial(self._put_circuits, batch=batch))
            done += len(batch)
            self.report(done, total, "circuits")

    def _circuit_batches(self) -> Iterator[list[tuple[CircuitLine, Circuit, bytes]]]:
        """Those that count among their replicates come first, so that they count here, too."""
        batch: list[tuple[CircuitLine, Circuit, bytes]] = []
        size = 0
        for line in chain(
            (line for line in lines(self.reader, CircuitLine) if line.counted),
            (line for line in lines(self.reader, CircuitLine) if not line.counted),
        ):
            circuit, blob = circuit_of(self.reader, line.id)
            batch.append((line, circuit, blob))
            size += len(blob)
            if size > _BATCH_BYTES or len(batch) >= _BATCH:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _put_circuits(self, session: Session, batch: Sequence[tuple[CircuitLine, Circuit, bytes]]) -> Tally:
        tally = merge_circuits(session, batch, self.sign)
        if self.collection is not None:
            put = [collections.put(session, self.collection, line.id) for line, _, _ in batch]
            if any(put):
                tally.announced.append(outbox.announce(session, "collection", self.collection))
        return tally

    def _labels(self) -> None:
        """Embeddings of the encoder that this atlas uses are kept, the other texts are embedded again."""
        total, done = self.reader.manifest.counts.get(LabelLine.kind, 0), 0
        encoder = self._encoder()
        for batch in chunks(lines(self.reader, LabelLine), LABEL_BATCH):
            with self.atlas.catalog.read() as session:
                fresh = fresh_labels(session, batch)
            vectors = self._vectors(fresh, encoder)
            self._write(partial(merge_labels, batch=batch, sign=self.sign, vectors=vectors, encoder=encoder))
            done += len(batch)
            self.report(done, total, "labels")

    def _encoder(self) -> EncoderRecord | None:
        """Of the embeddings stored here, else of those that would be stored, else of the file's."""
        here = self.atlas._graph_encoder()
        said = self.reader.manifest.encoder
        return here or (EncoderRecord(said.name, said.dimension) if said else None)

    def _vectors(self, fresh: Sequence[LabelLine], encoder: EncoderRecord | None) -> dict[str, np.ndarray]:
        if encoder is None:
            return {}
        found, missing = {}, []
        for line in fresh:
            vector = line.vector if line.encoder == encoder.name else None
            if vector is not None and len(vector) == encoder.dimension and np.isfinite(vector).all():
                found[line.id] = vector
            else:
                missing.append(line)
        own = self.atlas._load_encoder() if missing else None
        if own is not None and EncoderRecord(own.name, own.dimension) == encoder:
            made = own.encode([line.text for line in missing])
            found |= {line.id: vector for line, vector in zip(missing, made, strict=True)}
        return found

    def _sign_off(self) -> None:
        """One entry of the audit log says who brought what, and from where."""
        manifest = self.reader.manifest
        counts = _without_zeros(self.tally.added)

        def work(session: Session) -> Tally:
            audit.record(
                session,
                "import",
                self.reader.path.name,
                added=counts,
                made_by=manifest.made_by,
                made_at=manifest.made_at,
            )
            return Tally()

        if counts:
            self._write(work)


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if count}


def _silent(done: int, total: int, what: str) -> None:
    pass
