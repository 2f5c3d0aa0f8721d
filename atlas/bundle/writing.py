"""A bundle of a whole catalog, written beside its place and moved there when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from sqlalchemy.orm import Session

from atlas import __version__, access
from atlas.access import Role
from atlas.base import AtlasBase
from atlas.bundle.archive import BundleWriter, EncoderName, Manifest
from atlas.bundle.gather import Report, write_circuits, write_records
from atlas.catalog import labels as label_store
from atlas.catalog.migrate import HEAD
from atlas.catalog.tables import Meta
from atlas.catalog.values import now
from atlas.errors import InputRejected, UsageError


def write_bundle(
    atlas: AtlasBase, file: IO[bytes], kind: Literal["export", "backup"], role: Role, report: Report
) -> Manifest:
    """Everything as of one moment, while others go on writing. Raises AccessDenied."""
    if not hasattr(atlas, "catalog"):
        raise UsageError("This atlas is on a server.", "Run the command where its catalog is.")
    with atlas.catalog.read() as session:
        access.check(session, atlas.identity, role)
        writer = BundleWriter(file, _manifest(session, kind, atlas.actor))
        write_records(session, writer, report)
        write_circuits(session, writer, report)
    writer.finish()
    return writer.manifest


def _manifest(session: Session, kind: Literal["export", "backup"], actor: str) -> Manifest:
    encoder = label_store.encoder(session)
    known = session.get(Meta, "catalog")
    return Manifest(
        kind=kind,
        program=__version__,
        catalog_schema=HEAD,
        catalog=known.value["id"] if known else None,
        made_at=now(),
        made_by=actor,
        encoder=EncoderName(name=encoder.name, dimension=encoder.dimension) if encoder else None,
    )


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file beside `path` that takes its place at the end; on any error there is only what was there before.

    `mode` is lessened by the umask, as everywhere. Raises InputRejected when the place cannot be written.
    """
    place = path.resolve()  # through a link, which stays a link
    part = place.parent / f".{place.name}.{os.getpid()}.part"
    if place.exists() and not place.is_file():
        raise InputRejected(f"{path} is no file.", "Choose another place with -o.")
    try:
        with open(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_RDWR | getattr(os, "O_BINARY", 0), mode), "wb") as file:
            yield part, file
            file.flush()
            os.fsync(file.fileno())
        part.replace(place)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputRejected(
            f"{path} cannot be written: {(error.strerror or str(error)).lower()}.", "Choose another place with -o."
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
