"""Collections: named sets of circuits."""

from __future__ import annotations

from sqlalchemy.orm import Session

from atlas.base import AtlasBase
from atlas.catalog import circuits, collections, outbox
from atlas.group_records import Changed, CollectionInfo
from atlas.records import Table


class CollectionVerbs(AtlasBase):
    """Collections: named sets of circuits. A circuit may be in any number of them."""

    def collections(self) -> Table[CollectionInfo]:
        """All collections, by name."""
        with self.catalog.read() as session:
            return Table(collections.infos(session))

    def create_collection(self, name: str) -> CollectionInfo:
        """An empty collection. Raises UsageError for a blank, too long or taken name."""

        def work(session: Session) -> tuple[CollectionInfo, int]:
            stored = collections.create(session, name)
            return collections.infos(session, stored)[0], outbox.announce(session, "collection", stored)

        info, announced = self._write(work)
        self._project([announced])
        return info

    def collect(self, collection: str, circuits: list[str]) -> Changed:
        """Put circuits (ids, prefixes or names) into a collection, which is made if it is new.

        Raises NotFound or Ambiguous for a circuit, UsageError for a blank or too long name; then nothing is changed.
        """
        name = collections.checked(collection)
        return self._change(name, circuits, collections.put)

    def uncollect(self, collection: str, circuits: list[str]) -> Changed:
        """Take circuits out of a collection. Raises NotFound for the collection, NotFound or Ambiguous for a circuit."""
        with self.catalog.read() as session:
            collections.get(session, collection)
        return self._change(collections.checked(collection), circuits, collections.take_out)

    def rename_collection(self, old: str, new: str) -> CollectionInfo:
        """Another name; the annotations go with it. Raises NotFound, UsageError for a blank, too long or taken name."""

        def work(session: Session) -> tuple[CollectionInfo, list[int]]:
            names = collections.rename(session, old, new)
            announced = [outbox.announce(session, "collection", name) for name in dict.fromkeys(names)]
            return collections.infos(session, names[1])[0], announced

        info, announced = self._write(work)
        self._project(announced)
        return info

    def delete_collection(self, name: str) -> Changed:
        """Delete a collection; its circuits stay. Raises NotFound."""

        def work(session: Session) -> int:
            return outbox.announce(session, "collection", collections.remove(session, name))

        self._project([self._write(work)])
        return Changed(changed=1)

    def _change(self, name: str, given: list[str], change) -> Changed:
        def work(session: Session) -> tuple[Changed, list[int]]:
            ids = dict.fromkeys(circuits.resolve(session, circuit) for circuit in given)
            changed = sum(change(session, name, circuit_id) for circuit_id in ids)
            announced = [outbox.announce(session, "collection", name)] if changed else []
            return Changed(changed=changed, already=len(ids) - changed), announced

        result, announced = self._write(work)
        self._project(announced)
        return result
