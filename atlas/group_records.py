"""Arguments and results of the verbs of a group: people, annotations, collections, jobs, what is new."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from atlas.records import CircuitRow, Record

Role = Literal["reader", "editor", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may
AnnotationKind = Literal["note", "tag", "name", "supernode"]
SubjectKind = Literal["circuit", "node", "edge", "feature", "concept", "collection"]
JobKind = Literal["trace", "label", "rebuild", "patch", "components", "faithfulness", "intervene", "verify"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class PersonRow(Record):
    name: str
    role: Role
    disabled: bool = False
    email: str | None = None
    has_password: bool = False
    tokens: int = Field(0, description="access tokens that work")
    created_at: str = ""
    created_by: str = ""


class TokenRow(Record):
    """An access token without its secret, of which only a hash is kept."""

    id: str
    person: str
    name: str
    created_at: str
    created_by: str
    expires_at: str | None = None
    revoked_at: str | None = None
    used_at: str | None = None


class NewToken(TokenRow):
    secret: str = Field(description="shown this once; what `Authorization: Bearer` or the sign-in page takes")


class AuditEntry(Record):
    at: str
    actor: str
    verb: str
    subject: str
    detail: dict[str, Any] = Field(default_factory=dict)


class News(Record):
    """What others did since a time."""

    since: str | None = Field(None, description="None: no visit before this one")
    until: str = Field("", description="when this was asked; `visited(until)` marks this much as read and no more")
    circuits: list[CircuitRow] = Field(default_factory=list)
    circuit_count: int = 0
    labels: int = 0
    annotations: list[AnnotationRow] = Field(default_factory=list)
    jobs: list[JobRow] = Field(default_factory=list, description="one's own jobs that ended")


class AnnotationRow(Record):
    """One entry of the annotation log, or the current state of an annotation (its newest entry)."""

    id: str
    thread: str = Field(description="id of the first entry of this annotation; changes and removals share it")
    subject: str = Field(
        description="CIRCUIT, CIRCUIT#NODE, CIRCUIT#SOURCE->TARGET, feature:KEY, concept:NAME, collection:NAME"
    )
    subject_kind: SubjectKind
    kind: AnnotationKind
    action: Literal["add", "change", "remove", "undo"]
    text: str
    nodes: list[str] = Field(default_factory=list, description="member node keys of a supernode")
    undoes: str | None = None
    holds: bool = Field(True, description="in a history: False for an entry that an undo has taken back")
    author: str
    created_at: str


class CollectionInfo(Record):
    name: str
    author: str
    created_at: str
    circuits: int
    note: str = Field("", description="the newest note on the collection")


class Changed(Record):
    """How many of the things named were changed; the others were that way already."""

    changed: int
    already: int = 0


class TraceRequest(Record):
    """One prompt to trace, as `atlas trace` takes it. One row of a batch file has these names as columns."""

    prompt: str | None = None
    token_ids: list[int] | None = None
    model: str | None = None
    transcoders: str | None = None
    profile: str | None = None
    targets: list[str] | None = None
    max_features: int | None = Field(None, ge=1)
    node_threshold: float = Field(0.8, ge=0, le=1)
    edge_threshold: float = Field(0.98, ge=0, le=1)
    chat: bool = False
    continue_by: int = Field(0, ge=0, description="tokens that the model writes on first")
    at: int | None = Field(None, description="explain the token at this position of what then stands there")
    collection: str | None = None
    again: bool = False


class RejectedRow(Record):
    """A row of a batch file that cannot be used."""

    line: int = Field(description="counted from 1; where the row begins")
    reason: str


class JobRow(Record):
    id: str
    kind: JobKind
    title: str
    state: JobState
    batch: str | None = None
    done: int = 0
    total: int = 0
    step: str = ""
    seconds_left: float | None = Field(None, description="estimate from like jobs that ended; None while there is none")
    worker: str | None = None
    attempts: int = 0
    author: str
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = Field(None, description="why it failed, and what to do")
    circuit: str | None = Field(None, description="what it made, or what it was about")


class JobDetail(JobRow):
    arguments: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] | None = None


class Queued(Record):
    jobs: list[str]
    batch: str | None = None
    waiting: int = Field(description="jobs that wait or run now, these included")
    seconds: float | None = Field(None, description="estimate until the last of these is done")


class WorkerRow(Record):
    name: str
    host: str
    pid: int
    device: str
    model: str
    job: str | None
    state: Literal["idle", "busy", "lost", "stopped"]
    version: str
    started_at: str
    alive_at: str


News.model_rebuild()
