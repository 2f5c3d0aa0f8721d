"""Everything that an atlas keeps in one file, and an empty place filled from it (docs/backup.md).

A backup is a bundle (`atlas.bundle`) that also holds accounts, hashes of passwords and tokens, and jobs. Not in it: sign-ins
and the secret that signs cookies, so after a restore everybody signs in again; workers; the graph, which is built again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import delete, exc, func, insert, select
from sqlalchemy.orm import Session

from atlas.api import Atlas
from atlas.bundle.archive import BundleReader
from atlas.bundle.check import check_whole
from atlas.bundle.gather import Report
from atlas.bundle.lines import AuditLine, FactLine, JobLine, LabelLine, PersonLine
from atlas.bundle.merge import Embeddings, Signer, Tally, Work, merge_audit
from atlas.bundle.moving import Exported, exported
from atlas.bundle.run import Run
from atlas.bundle.writing import replacing, write_bundle
from atlas.catalog import audit, outbox
from atlas.catalog.people import folded
from atlas.catalog.tables import AccessToken, Audit, Base, Job, Meta, OutboxEntry, Person, SignIn, Worker
from atlas.errors import InputRejected, StoreUnavailable
from atlas.records import Record
from atlas.settings import Settings

_NO_CONTENT = {Meta.__tablename__, OutboxEntry.__tablename__, Worker.__tablename__, SignIn.__tablename__}


class Restored(Record):
    path: str
    made_at: str
    made_by: str
    counts: dict[str, int]
    seconds: float


def backup(atlas: Atlas, path: str | Path, progress: Report | None = None) -> Exported:
    """Write a backup as of one moment, while others go on writing; read it again before it takes its place.

    Only the user of this machine may read the file (mode 0600): it holds hashes of passwords and tokens. Raises AccessDenied
    for anybody but an admin, InputRejected when the file cannot be written, or the catalog holds what no restore would take.
    """
    began, report, place = time.monotonic(), progress or _silent, Path(path)
    with replacing(place, mode=0o600) as (part, file):
        manifest = write_bundle(atlas, file, "backup", "admin", report)
        file.flush()
        try:
            with BundleReader(part, sys.maxsize) as reader:
                check_whole(reader, report)
        except InputRejected as error:
            told = error.message.replace(str(part), "it").rstrip(".")
            raise InputRejected(
                f"No backup was written, because nobody could restore it: {told}.",
                "Mend that record or delete it (`atlas doctor` looks for faults), then try again.",
            ) from error
    return exported(place, manifest, began)


def restore(settings: Settings, path: str | Path, progress: Report | None = None) -> Restored:
    """Fill the empty atlas of these settings from a backup, all of it or nothing, and build its graph.

    Raises InputRejected or SchemaMismatch for the file, StoreUnavailable when the atlas is not empty.
    """
    began, report = time.monotonic(), progress or _silent
    with BundleReader(Path(path), settings.import_max_bytes) as reader:
        manifest = reader.manifest
        if manifest.kind != "backup":
            raise InputRejected(
                f"{path} is an export, not a backup: it has no accounts and jobs.",
                f"Merge it with `atlas import {path}`.",
            )
        check_whole(reader, report)  # before the home is made
        with Atlas.open(settings=settings) as atlas:
            fill = partial(_fill, reader=reader, place=atlas.catalog.place, report=report)
            try:
                rebuild = atlas.catalog.write(atlas.actor, fill)
            except exc.IntegrityError as error:  # two tokens with one hash: nothing that a backup of ours could hold
                raise reader.damaged("its records contradict each other") from error
            atlas._project([rebuild], progress)
    return Restored(
        path=str(path),
        made_at=manifest.made_at,
        made_by=manifest.made_by,
        counts=manifest.counts,
        seconds=time.monotonic() - began,
    )


def _fill(session: Session, reader: BundleReader, place: str, report: Report) -> int:
    """The one transaction of a restore; returns the number of the rebuild that it announces."""
    _refuse_content(session, place)

    def write(work: Work) -> Tally:
        done = work(session)
        session.flush()
        session.expunge_all()  # memory holds one batch
        return done

    run = Run(reader, Signer("", vouches=True), write, report, collection=None)
    run.contents(_as_they_are)
    session.execute(delete(Audit))  # what the run itself has added
    run.records(AuditLine, partial(merge_audit, mark={}))
    run.records(PersonLine, _people)
    run.records(JobLine, _jobs)
    run.records(FactLine, _facts)
    session.execute(delete(OutboxEntry))
    made = reader.manifest
    audit.record(session, "restore", reader.path.name, made_at=made.made_at, made_by=made.made_by)
    return outbox.announce(session, "rebuild")


def _refuse_content(session: Session, place: str) -> None:
    for table in Base.metadata.sorted_tables:
        if table.name in _NO_CONTENT:
            continue
        count = session.scalar(select(func.count()).select_from(table))
        if count:
            raise StoreUnavailable(
                f"The atlas at {place} is not empty: it has {count} rows of {table.name}.",
                "Restore into an empty home or database, then move there; or merge with `atlas import`.",
            )


def _as_they_are(batch: Sequence[LabelLine]) -> Embeddings:
    kept = {line.id: (line.embedding, line.encoder) for line in batch}
    return Embeddings({key: (vector, name) for key, (vector, name) in kept.items() if vector and name})


def _people(session: Session, batch: Sequence[PersonLine]) -> Tally:
    people = [line.model_dump(exclude={"tokens"}) | {"folded": folded(line.name)} for line in batch]
    tokens = [token.model_dump() | {"person": line.name} for line in batch for token in line.tokens]
    session.execute(insert(Person), people)
    if tokens:
        session.execute(insert(AccessToken), tokens)
    return Tally(added=Counter(people=len(people)))


def _jobs(session: Session, batch: Sequence[JobLine]) -> Tally:
    """A job that a worker had is queued again."""
    rows = [line.model_dump(exclude={"job"}) | {"kind": line.job} for line in batch]
    for row in rows:
        if row["state"] == "running":
            row |= {"state": "queued", "done": 0, "total": 0, "step": "", "started_at": None}
    session.execute(insert(Job), rows)
    return Tally(added=Counter(jobs=len(rows)))


def _facts(session: Session, batch: Sequence[FactLine]) -> Tally:
    for line in batch:
        session.merge(Meta(key=line.name, value=line.value))
    return Tally()


def _silent(done: int, total: int, what: str) -> None:
    pass
