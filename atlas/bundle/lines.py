"""The records of a bundle, one JSON object a line: what version 1 of the file holds, and what is believed of it.

An export may come from anybody, so every line is checked as strictly as if it were typed in: lengths, no NUL, which Postgres
refuses, and, where the context names the `latest` time, nothing from the future: a label with an id from the year 9999
would stay the newest for ever. A backup is not held to that: a clock that was wrong once must not make it useless.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from atlas.access import Role
from atlas.catalog import interventions, measurements
from atlas.causal_records import InterventionResult, MeasurementKind
from atlas.circuit import parse_feature_key
from atlas.errors import InputRejected, NotFound
from atlas.group_records import AnnotationKind, JobKind, JobState, SubjectKind

_INDEXED_BYTES = 2500  # Postgres holds no longer ones in an index


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("text with a NUL character")
    return text


def _time(text: str, info: ValidationInfo) -> str:
    moment, latest = datetime.fromisoformat(text), (info.context or {}).get("latest")
    if moment.tzinfo != UTC:
        raise ValueError("a time that is not in UTC")
    if latest is not None and moment > latest:
        raise ValueError("a time in the future")
    return text


def _id(text: str, info: ValidationInfo) -> str:
    """`values.new_id`: the first 16 digits are nanoseconds since 1970."""
    latest = (info.context or {}).get("latest")
    if latest is not None and int(text[:16], 16) > latest.timestamp() * 1e9:
        raise ValueError("an id from the future")
    return text


def _stripped(text: str) -> str:
    if text != text.strip():
        raise ValueError("a name with blanks around it")
    return text


def latest() -> datetime:
    """No honest record is from later: clocks differ, but not by more than a day."""
    return datetime.now(UTC) + timedelta(days=1)


def _feature(text: str) -> str:
    try:
        parse_feature_key(text)
    except NotFound as error:
        raise ValueError("no feature key") from error
    return text


def _short(text: str) -> str:
    if len(text.encode()) > _INDEXED_BYTES:
        raise ValueError(f"a name of more than {_INDEXED_BYTES} bytes")
    return text


def _held(check: Callable[[], Any]) -> None:
    """Raises ValueError where the catalog would not take it."""
    try:
        check()
    except InputRejected as error:
        raise ValueError(error.message.rstrip(".")) from error


def _intervention(result: InterventionResult) -> InterventionResult:
    _held(lambda: interventions.checked(result))
    return result


Text = Annotated[str, AfterValidator(_no_nul)]
Key = Annotated[Text, AfterValidator(_short)]
Name = Annotated[str, StringConstraints(min_length=1), AfterValidator(_no_nul), AfterValidator(_short)]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$"), AfterValidator(_id)]
Time = Annotated[
    str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$"), AfterValidator(_time)
]
Title = Annotated[Name, AfterValidator(_stripped)]
FeatureKey = Annotated[Name, AfterValidator(_feature)]
CircuitId = Annotated[str, StringConstraints(pattern=r"^c\d{1,4}-[0-9a-f]{16,128}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Part(BaseModel):
    """Something within a line."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Line(Part):
    """One record. Lines of a kind are sorted by `key`, each key once."""

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        return self.id  # type: ignore[attr-defined, no-any-return]


class Signed(Part):
    """Who wrote it, when."""

    author: Name
    created_at: Time


class Version(Part):
    revision: Key
    hash: Key


class TranscoderSet(Part):
    name: Name
    created_at: Time
    created_by: Name
    versions: list[Version]
    aliases: list[Name]


class ModelLine(Line):
    kind = "models"
    name: Name
    layers: Count | None
    created_at: Time
    created_by: Name
    versions: list[Version]
    aliases: list[Name]
    sets: list[TranscoderSet]

    @property
    def key(self) -> str:
        return self.name


class NodeLabelPart(Signed):
    id: Id
    node_key: Name
    text: Text
    source: Text


class SupernodePart(Signed):
    id: Id
    name: Text
    node_keys: list[Text]
    unresolved: list[Text]


class PinPart(Signed):
    node_key: Key
    resolved: bool
    ordinal: Count


class CircuitLine(Line):
    """What the catalog knows of a circuit beside its file. `counted`: the one of several replicates that counts.

    Its name is in the file, unless the annotation log says another.
    """

    kind = "circuits"
    id: CircuitId
    verdict: Name
    counted: bool
    created_at: Time
    created_by: Name
    node_labels: list[NodeLabelPart]
    supernodes: list[SupernodePart]
    pins: list[PinPart]


class ExamplePart(Part):
    tokens: list[Text]
    activations: list[Number]


class LabelLine(Line, Signed):
    """A version of a feature's label. `embedding`: float32 little-endian, in base64; `encoder`: what made it."""

    kind = "labels"
    id: Id
    feature: FeatureKey
    text: Text
    method: Name
    score: Number | None
    random_score: Number | None
    parameters: dict[str, Any]
    examples: list[ExamplePart]
    promoted: list[Text]
    suppressed: list[Text]
    embedding: Base64Bytes | None
    encoder: Name | None

    @property
    def vector(self) -> np.ndarray | None:
        """(dimension,) float32, None when there is none or it is no vector."""
        if self.embedding is None or len(self.embedding) % 4:
            return None
        return np.frombuffer(self.embedding, "<f4")


class MemberPart(Signed):
    circuit: CircuitId


class CollectionLine(Line, Signed):
    kind = "collections"
    name: Title
    members: list[MemberPart]

    @property
    def key(self) -> str:
        return self.name


class ConceptLine(Line, Signed):
    kind = "concepts"
    name: Title
    features: Annotated[list[FeatureKey], Field(min_length=1)]

    @property
    def key(self) -> str:
        return self.name


class AnnotationLine(Line, Signed):
    """One entry of the annotation log."""

    kind = "annotations"
    id: Id
    thread: Id
    subject_kind: SubjectKind
    subject: Name
    circuit_id: CircuitId | None
    annotation: AnnotationKind
    action: Literal["add", "change", "remove", "undo"]
    text: Text
    members: list[Text]
    undoes: Id | None


class InterventionLine(Line, Signed):
    """One intervention in the real model."""

    kind = "interventions"
    id: Id
    circuit_id: CircuitId
    battery: Key | None
    document: Annotated[InterventionResult, AfterValidator(_intervention)]


class MeasurementLine(Line, Signed):
    """A verification or faithfulness curves; `document` is a VerifyResult or a FaithfulnessResult."""

    kind = "measurements"
    id: Id
    circuit_id: CircuitId
    measurement: MeasurementKind
    document: dict[str, Any]

    @model_validator(mode="after")
    def _checked(self) -> Self:
        _held(lambda: measurements.checked(self.measurement, self.document))
        return self


class AuditLine(Line):
    kind = "audit"
    id: Id
    at: Time
    actor: Name
    verb: Name
    subject: Key
    detail: dict[str, Any]


class TokenPart(Part):
    id: Id
    name: Text
    hash: Name
    created_at: Time
    created_by: Name
    expires_at: Text | None
    revoked_at: Text | None
    used_at: Text | None


class PersonLine(Line):
    """Backups only."""

    kind = "people"
    name: Name
    role: Role
    disabled: bool
    password_hash: Text | None
    email: Text | None
    visited_at: Text | None
    created_at: Time
    created_by: Name
    tokens: list[TokenPart]

    @property
    def key(self) -> str:
        return self.name


class JobLine(Line):
    """Backups only. Which worker had it, and how far it was, are not kept."""

    kind = "jobs"
    id: Id
    job: JobKind
    arguments: dict[str, Any]
    title: Text
    batch: Text | None
    group_key: Text
    priority: Annotated[int, Field(gt=-(2**31), lt=2**31)]
    state: JobState
    attempts: Count
    done: Count
    total: Count
    step: Text
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    author: Name
    created_at: Time
    started_at: Text | None
    changed_at: Text
    finished_at: Text | None


class FactLine(Line):
    """Backups only: a row of `catalog_meta`."""

    kind = "facts"
    name: Name
    value: dict[str, Any]

    @property
    def key(self) -> str:
        return self.name


# In the order in which they are written and merged: the log first, because names of circuits and features hang on it.
EXPORT_LINES: tuple[type[Line], ...] = (
    ModelLine,
    AnnotationLine,
    CircuitLine,
    InterventionLine,
    MeasurementLine,
    LabelLine,
    CollectionLine,
    ConceptLine,
    AuditLine,
)
BACKUP_LINES: tuple[type[Line], ...] = (*EXPORT_LINES, PersonLine, JobLine, FactLine)
