"""A checked bundle on its way into a catalog, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from sqlalchemy.orm import Session

from atlas.base import LABEL_BATCH
from atlas.bundle.archive import BundleReader
from atlas.bundle.check import circuit_of, lines
from atlas.bundle.evidence import merge_interventions, merge_measurements
from atlas.bundle.gather import Report
from atlas.bundle.lines import (
    AnnotationLine,
    CircuitLine,
    CollectionLine,
    ConceptLine,
    InterventionLine,
    LabelLine,
    Line,
    MeasurementLine,
    ModelLine,
)
from atlas.bundle.merge import (
    Embeddings,
    Signer,
    Tally,
    Work,
    fresh_labels,
    merge_circuits,
    merge_collections,
    merge_concepts,
    merge_labels,
    merge_log,
    merge_models,
)
from atlas.catalog.values import chunks
from atlas.circuit import Circuit

_BATCH = 500
_BATCH_BYTES = 32 * 2**20  # of circuit files in one batch


class Run:
    """`write` does a batch: for an import in a transaction of its own, for a restore in the one transaction of it all."""

    def __init__(
        self, reader: BundleReader, sign: Signer, write: Callable[[Work], Tally], report: Report, collection: str | None
    ) -> None:
        self.reader = reader
        self.sign = sign
        self.report = report
        self.collection = collection
        self.tally = Tally()
        self._write = write

    def write(self, work: Work) -> None:
        self.tally += self._write(work)

    def contents(self, embeddings: Callable[[Sequence[LabelLine]], Embeddings]) -> None:
        """All that an export holds but the audit log. `embeddings` are asked for new labels, outside of any transaction."""
        self.records(ModelLine, partial(merge_models, sign=self.sign))
        self.records(AnnotationLine, partial(merge_log, sign=self.sign))
        self._circuits()
        self.records(InterventionLine, partial(merge_interventions, sign=self.sign))
        self.records(MeasurementLine, partial(merge_measurements, sign=self.sign))
        self._labels(embeddings)
        self.records(CollectionLine, partial(merge_collections, sign=self.sign))
        self.records(ConceptLine, partial(merge_concepts, sign=self.sign))

    def records(self, kind: type[Line], merge: Callable[..., Tally]) -> None:
        """`merge(session, batch=...)` for all records of the kind."""
        total, done = self.reader.manifest.counts.get(kind.kind, 0), 0
        for batch in chunks(lines(self.reader, kind), _BATCH):
            self.write(partial(merge, batch=batch))
            done += len(batch)
            self.report(done, total, kind.kind)

    def _circuits(self) -> None:
        total, done = self.reader.manifest.counts.get(CircuitLine.kind, 0), 0
        for batch in self._circuit_batches():
            self.write(partial(merge_circuits, batch=batch, sign=self.sign, collection=self.collection))
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

    def _labels(self, embeddings: Callable[[Sequence[LabelLine]], Embeddings]) -> None:
        def merge(session: Session, batch: Sequence[Any], prepared: Embeddings) -> Tally:
            return merge_labels(session, fresh_labels(session, batch), len(batch), self.sign, prepared)

        total, done = self.reader.manifest.counts.get(LabelLine.kind, 0), 0
        for batch in chunks(lines(self.reader, LabelLine), LABEL_BATCH):
            self.write(partial(merge, batch=batch, prepared=embeddings(batch)))
            done += len(batch)
            self.report(done, total, "labels")
