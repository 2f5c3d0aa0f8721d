"""The log of annotations: entries are only added. What is true now is a fold of the log, and an undo is an entry too.

An entry **holds** unless an undo that holds takes it back. An annotation is there when its `add` holds and no `remove` of it
does; it says what its last `add` or `change` that holds says. So an undo of an undo brings back what was undone.

Every entry carries the state after it: `text` and `members` of an undo are those that it brings back, '' where it takes the
annotation away. The newest entry of a thread is therefore its state, and a database can list states without a fold.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session, aliased

from atlas.catalog import audit
from atlas.catalog.tables import Annotation
from atlas.catalog.values import chunks, clean, new_id, now
from atlas.errors import NotFound, UsageError
from atlas.group_records import AnnotationKind, AnnotationRow, SubjectKind
from atlas.records import ImportedSupernode

KINDS: tuple[AnnotationKind, ...] = get_args(AnnotationKind)
NOTE_LIMIT = 20_000  # characters
NAME_LIMIT = 200  # characters of a tag, a name, a supernode


@dataclass(frozen=True)
class Subject:
    """What an annotation is about. `text` is its one address: `c1-...#feature/0/1/6`, `feature:KEY`, `concept:NAME` ..."""

    kind: SubjectKind
    text: str
    circuit_id: str | None = None


@dataclass(frozen=True)
class State:
    """An annotation as it is now: the entry whose text holds, and the newest entry of its thread."""

    said: Annotation
    newest: Annotation


# -- what holds (pure)


def taken_back(entries: Iterable[Annotation]) -> set[str]:
    """Ids of the entries that an undo which holds takes back."""
    gone: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.id, reverse=True):  # what an undo takes back is older than it
        if entry.undoes is not None and entry.id not in gone:
            gone.add(entry.undoes)
    return gone


def fold(entries: Iterable[Annotation]) -> dict[str, State]:
    """The annotations that are there, by thread, oldest first. `entries`: every entry of their threads, in any order."""
    ordered = sorted(entries, key=lambda entry: entry.id)
    gone = taken_back(ordered)
    threads: dict[str, list[Annotation]] = {}
    for entry in ordered:
        threads.setdefault(entry.thread, []).append(entry)
    states = {}
    for thread, log in threads.items():
        holding = [entry for entry in log if entry.id not in gone]
        actions = {entry.action for entry in holding}
        if "add" in actions and "remove" not in actions:
            said = [entry for entry in holding if entry.action in ("add", "change")]
            states[thread] = State(said[-1], log[-1])
    return states


def checked_text(kind: AnnotationKind, text: str) -> str:
    """The text as it is stored: a tag in lower case without `#`, tags and names on one line. Raises UsageError."""
    text = clean(text)
    if kind == "note":
        text, limit = text.strip(), NOTE_LIMIT
    else:
        text, limit = " ".join(text.split()), NAME_LIMIT
    if kind == "tag":
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).lstrip("# ")
    if not text:
        raise UsageError(f"The {kind} has no text.", "Pass a text that is not blank.")
    if len(text) > limit:
        raise UsageError(f"The {kind} has {len(text):,} characters.", f"A {kind} may have {limit:,}.")
    return text


# -- writing


def lock(session: Session, subject: str) -> None:
    """Two who write about one subject do so one after the other, so that both see what holds. (SQLite has one writer.)"""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"annotations {subject}".encode()).digest()[:8], "big", signed=True)
        session.execute(select(func.pg_advisory_xact_lock(number)))


def add(session: Session, subject: Subject, kind: AnnotationKind, text: str, members: list[str]) -> Annotation:
    """A new annotation (`lock` first); a tag that the subject has already is not added again."""
    if kind == "tag":
        for state in of_subject(session, subject.text, "tag"):
            if state.said.text == text:
                return state.newest
    entry = _entry(session, subject, kind, "add", text, members)
    entry.thread = entry.id
    return _append(session, entry)


def change(session: Session, entry: Annotation, text: str, members: list[str]) -> Annotation:
    """Another text for the annotation that `entry` is of. Raises NotFound when it is not there any more."""
    _live(session, entry)
    return _append(session, _entry(session, _subject_of(entry), _kind_of(entry), "change", text, members, entry.thread))


def remove(session: Session, entry: Annotation) -> Annotation:
    """Raises NotFound when the annotation is not there any more."""
    said = _live(session, entry).said
    made = _entry(session, _subject_of(entry), _kind_of(entry), "remove", said.text, list(said.members), entry.thread)
    return _append(session, made)


def undo(session: Session, entry: Annotation) -> Annotation:
    """Take one entry back, whichever it is. Raises UsageError when that has been done."""
    log = of_thread(session, entry.thread)
    gone = taken_back(log)
    if entry.id in gone:
        by = next(e for e in reversed(log) if e.undoes == entry.id and e.id not in gone)
        raise UsageError(
            f"The entry {entry.id} has been undone by {by.author} already.", f"`atlas notes undo {by.id}` undoes that."
        )
    made = _entry(session, _subject_of(entry), _kind_of(entry), "undo", "", [], entry.thread)
    made.undoes = entry.id
    state = fold([*log, made]).get(entry.thread)
    if state is not None:
        made.text, made.members = state.said.text, list(state.said.members)
    return _append(session, made)


def rename_subject(session: Session, old: str, new: str) -> None:
    """The log of a subject goes with its new name; what the entries say stays as it is."""
    session.execute(update(Annotation).where(Annotation.subject == old).values(subject=new))


def _entry(
    session: Session,
    subject: Subject,
    kind: AnnotationKind,
    action: str,
    text: str,
    members: list[str],
    thread: str = "",
) -> Annotation:
    return Annotation(
        id=_next_id(session, subject.text),
        thread=thread,
        subject_kind=subject.kind,
        subject=subject.text,
        circuit_id=subject.circuit_id,
        kind=kind,
        action=action,
        text=text,
        members=members,
        undoes=None,
        author=audit.actor(session),
        created_at=now(),
    )


def _next_id(session: Session, subject: str) -> str:
    """Later than every id of the subject's log, also when this machine's clock is behind another's."""
    made, newest = new_id(), session.scalar(select(func.max(Annotation.id)).where(Annotation.subject == subject))
    return made if newest is None or made > newest else f"{int(newest[:16], 16) + 1:016x}{made[16:]}"


def _append(session: Session, entry: Annotation) -> Annotation:
    session.add(entry)
    session.flush()
    detail = {"kind": entry.kind, "annotation": entry.id} | ({"undoes": entry.undoes} if entry.undoes else {})
    verb = {"add": "annotate", "change": "change annotation", "remove": "remove annotation", "undo": "undo"}
    audit.record(session, verb[entry.action], entry.subject, **detail)
    return entry


def _live(session: Session, entry: Annotation) -> State:
    log = of_thread(session, entry.thread)
    state = fold(log).get(entry.thread)
    if state is None:
        last = log[-1]
        raise NotFound(
            f"This {entry.kind} was taken away by {last.author} at {last.created_at[:16]}.",
            f"`atlas notes undo {last.id}` brings it back.",
        )
    return state


def _subject_of(entry: Annotation) -> Subject:
    return Subject(entry.subject_kind, entry.subject, entry.circuit_id)  # type: ignore[arg-type]


def _kind_of(entry: Annotation) -> AnnotationKind:
    return entry.kind  # type: ignore[return-value]


# -- reading


def get(session: Session, annotation_id: str) -> Annotation:
    """An entry by its id. Raises NotFound."""
    entry = session.get(Annotation, clean(annotation_id.strip()))
    if entry is None:
        raise NotFound(f"There is no annotation {annotation_id!r}.", "`atlas notes` lists them with their ids.")
    return entry


def of_thread(session: Session, thread: str) -> list[Annotation]:
    """Every entry of one annotation, oldest first."""
    return list(session.scalars(select(Annotation).where(Annotation.thread == thread).order_by(Annotation.id)))


def of_subject(session: Session, subject: str, kind: AnnotationKind) -> list[State]:
    """What is there now, by the time it was said."""
    query = select(Annotation).where(Annotation.subject == subject, Annotation.kind == kind)
    return _by_time(fold(session.scalars(query)))


def in_circuit(session: Session, circuit_id: str, kind: AnnotationKind, subject_kind: SubjectKind) -> list[State]:
    """What is there now on one kind of subject within a circuit, by the time it was said."""
    query = select(Annotation).where(Annotation.circuit_id == circuit_id, Annotation.kind == kind)
    return _by_time(fold(session.scalars(query.where(Annotation.subject_kind == subject_kind))))


def _by_time(states: dict[str, State]) -> list[State]:
    return sorted(states.values(), key=lambda state: state.said.id)


def name_of(session: Session, subject: str) -> str | None:
    """The name that holds: of several people's, the one said last."""
    found = of_subject(session, subject, "name")
    return found[-1].said.text if found else None


def supernodes(session: Session, circuit_id: str) -> list[ImportedSupernode]:
    """Those that people made in this atlas, oldest first."""
    states = sorted(of_subject(session, circuit_id, "supernode"), key=lambda state: state.said.thread)
    return [ImportedSupernode(name=state.said.text, node_keys=list(state.said.members)) for state in states]


def node_names(session: Session, circuit_id: str) -> dict[str, str]:
    """Names that people gave to nodes of a circuit, by node key."""
    states = in_circuit(session, circuit_id, "name", "node")
    return {state.said.subject.partition("#")[2]: state.said.text for state in states}


def tags(session: Session, subjects: Iterable[str]) -> dict[str, list[str]]:
    """Tags by subject, sorted; subjects without a tag are left out."""
    found: dict[str, set[str]] = {}
    for batch in chunks(subjects):
        query = _now().where(Annotation.kind == "tag", Annotation.subject.in_(batch))
        for entry in session.scalars(query):
            found.setdefault(entry.subject, set()).add(entry.text)
    return {subject: sorted(words) for subject, words in found.items()}


def tagged(tag: str) -> Select[Any]:
    """Subquery of the ids of circuits that have a tag."""
    is_tag = (Annotation.kind == "tag") & (Annotation.subject_kind == "circuit")
    return _now(Annotation.circuit_id).where(is_tag, Annotation.text == checked_text("tag", tag))


def newest_note(session: Session, subject: str) -> str:
    """'' when there is none."""
    query = _now().where(Annotation.subject == subject, Annotation.kind == "note")
    entry = session.scalar(query.order_by(Annotation.id.desc()).limit(1))
    return entry.text if entry is not None else ""


def known(session: Session, given: str) -> Subject | None:
    """The subject of that exact address (of a circuit: its id) if the log has entries about it, or in it."""
    about = (Annotation.subject == given) | (Annotation.circuit_id == given)
    entry = session.scalar(select(Annotation).where(about).limit(1))
    if entry is None:
        return None
    return _subject_of(entry) if entry.subject == given else Subject("circuit", given, given)


def listing(
    session: Session,
    subject: Subject | None = None,
    kind: AnnotationKind | None = None,
    author: str | None = None,
    text: str | None = None,
    history: bool = False,
    limit: int | None = 200,
) -> list[AnnotationRow]:
    """Newest first; of a circuit also what is about its nodes and edges. `text` is sought case folded."""
    query = select(Annotation) if history else _now()
    if subject is not None:
        query = query.where(_about(subject))
    if kind is not None:
        query = query.where(Annotation.kind == kind)
    if author is not None:
        query = query.where(Annotation.author == author)
    query = query.order_by(Annotation.id.desc())
    if limit is not None and not text:
        query = query.limit(limit)
    fits = (e for e in session.scalars(query) if not text or text.casefold() in e.text.casefold())
    found = list(itertools.islice(fits, limit))
    gone = _taken_back_in(session, {entry.thread for entry in found}) if history else set()
    return [row(entry, holds=entry.id not in gone) for entry in found]


def row(entry: Annotation, holds: bool = True) -> AnnotationRow:
    return AnnotationRow(
        id=entry.id,
        thread=entry.thread,
        subject=entry.subject,
        subject_kind=entry.subject_kind,  # type: ignore[arg-type]
        kind=_kind_of(entry),
        action=entry.action,  # type: ignore[arg-type]
        text=entry.text,
        nodes=list(entry.members),
        undoes=entry.undoes,
        author=entry.author,
        created_at=entry.created_at,
        holds=holds,
    )


def _about(subject: Subject) -> ColumnElement[bool]:
    if subject.kind == "circuit":
        return Annotation.circuit_id == subject.circuit_id
    return Annotation.subject == subject.text


def _now(column: Any = Annotation) -> Select[Any]:
    """The newest entry of every annotation that is there."""
    later = aliased(Annotation)
    overtaken = select(later.id).where(later.thread == Annotation.thread, later.id > Annotation.id).exists()
    return select(column).where(~overtaken, Annotation.action != "remove", Annotation.text != "")


def _taken_back_in(session: Session, threads: set[str]) -> set[str]:
    gone: set[str] = set()
    for batch in chunks(sorted(threads)):
        gone |= taken_back(session.scalars(select(Annotation).where(Annotation.thread.in_(batch))))
    return gone
