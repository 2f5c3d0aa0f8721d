"""Arguments and results of the verbs of `Atlas`, as pydantic models: what `--json` prints and what HTTP would serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from atlas.circuit import CircuitRecord


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


def as_dict(value: Any) -> dict[str, Any]:
    """What a record was made from, or the dict that it may be given as. Raises ValueError for anything else."""
    if isinstance(value, Record):
        return value.model_dump(mode="json", exclude_unset=True)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


# An argument that is a record or the same as a dict, here and over HTTP.
RecordOrDict = Annotated[dict[str, Any] | Record, PlainValidator(as_dict), WithJsonSchema({"type": "object"})]

Row = TypeVar("Row", bound=Record)


class Table(list[Row]):
    """A list of records with `.to_pandas()`."""

    def to_pandas(self):
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self])


class ImportedLabel(Record):
    """A label that came with a file. `position` limits it to one position of its circuit, None = the feature everywhere."""

    node_key: str
    text: str
    source: str = "graph file"
    position: int | None = None


class ImportedSupernode(Record):
    """A named group of nodes; names may repeat. `unresolved` members are not in the file's nodes."""

    name: str
    node_keys: list[str]
    unresolved: list[str] = Field(default_factory=list)


class Annotations(Record):
    """What a graph file brings beside the circuit itself."""

    labels: list[ImportedLabel] = Field(default_factory=list)
    supernodes: list[ImportedSupernode] = Field(default_factory=list)
    pins: list[str] = Field(default_factory=list, description="node keys")
    unresolved_pins: list[str] = Field(default_factory=list)


class Added(Record):
    circuit: str
    nodes: int
    edges: int
    already: bool


class LoadedFile(Added):
    path: str
    mended: dict[str, int] = Field(default_factory=dict, description="what was mended: count")


class RejectedFile(Record):
    path: str
    reason: str


class BundleImport(Record):
    """What became of the records of an `.atlas` file, by kind. Its circuits are among `loaded`."""

    path: str
    made_at: str
    made_by: str
    added: dict[str, int] = Field(default_factory=dict)
    already: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(
        default_factory=dict, description="what no import brings, or only that of an admin"
    )
    conflicts: list[str] = Field(default_factory=list, description="where the file differs and this atlas stays")
    signed: str = Field("", description="how records of others are signed when the importer is no admin")
    seconds: float = 0.0


class ImportResult(Record):
    loaded: list[LoadedFile] = Field(default_factory=list)
    rejected: list[RejectedFile] = Field(default_factory=list)
    bundles: list[BundleImport] = Field(default_factory=list)


class TraceScores(Record):
    replacement: float | None = None
    completeness: float | None = None
    replacement_pruned: float | None = None
    completeness_pruned: float | None = None


class TraceResult(Added):
    scores: TraceScores
    settings: dict[str, Any] = Field(default_factory=dict)
    seconds: float


class TraceEstimate(Record):
    """What a trace would take, before it is done."""

    tokens: int
    active_features: int
    targets: int
    nodes: int
    edges_at_most: int
    seconds: float = Field(description="estimate on this machine, loading not counted")
    memory_bytes: int = Field(description="estimate, above what model and transcoders take")
    explained_variance: float = Field(
        description="of the MLP outputs on this prompt, against their mean over it; of few tokens below 0 though the set fits"
    )
    largest_layers: list[int] = Field(default_factory=list, description="active features by layer")
    streamed: bool = Field(
        False, description="the full graph would not fit into memory, so its rows are computed twice"
    )
    warnings: list[str] = Field(default_factory=list, description="what the trace would say before it begins")


class CircuitRow(Record):
    id: str
    name: str
    prompt: str
    model: str
    nodes: int
    edges: int
    verdict: str = Field(description="crisp (only with interventions), partial, diffuse, or untested: cannot be judged")
    created_at: str
    transcoders: str = ""
    collections: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)


class NodeRow(Record):
    """One node of a circuit as a page or `atlas show` lists it."""

    key: str
    kind: str
    layer: int
    position: int
    token: str
    label: str | None = None
    feature: str | None = None
    activation: float | None = None
    influence: float | None = None


class EvidenceCounts(Record):
    """How many things were tested, by what the newest test of each said."""

    confirmed: int = 0
    refuted: int = 0
    inconclusive: int = 0


class EvidenceSummary(Record):
    """What interventions in the real model say about a circuit, and its newest verification."""

    interventions: int = Field(0, description="all that are stored; a thing may have been tested several times")
    nodes: EvidenceCounts = Field(default_factory=EvidenceCounts, description="also supernodes")
    edges: EvidenceCounts = Field(default_factory=EvidenceCounts)
    paths: EvidenceCounts = Field(default_factory=EvidenceCounts)
    verification: str | None = Field(None, description="id of the newest")
    spearman: float | None = Field(None, description="of predicted and measured effects, by that verification")
    interval: tuple[float, float] | None = None
    interval_over: str | None = None
    p_value: float | None = None
    verified_at: str | None = None
    verified_by: str | None = None


class CircuitDetail(CircuitRow):
    record: CircuitRecord
    created_by: str
    status: str = Field(description="ready when the graph projection holds it, else pending")
    kinds: dict[str, int] = Field(description="nodes per kind")
    verdict_reasons: list[str] = Field(default_factory=list, description="sentences")
    evidence: EvidenceSummary = Field(default_factory=EvidenceSummary)
    supernodes: list[ImportedSupernode] = Field(default_factory=list)
    pins: list[str] = Field(default_factory=list)
    top_nodes: list[NodeRow] = Field(default_factory=list)
    replicates: list[str] = Field(default_factory=list, description="other circuits with the same trace key")


class EdgePart(Record):
    """What of an edge travelled one way: by its last attention head, a transcoder's skip connection, or straight."""

    way: Literal["head", "straight", "skip", "rest"]
    layer: int | None = None
    head: int | None = Field(None, description="query head of that layer")
    from_position: int | None = None
    to_position: int | None = None
    weight: float = Field(description="signed; the parts sum to the edge")


class EdgeDetail(Record):
    circuit: str
    source: str
    target: str
    weight: float
    share: float = Field(description="|weight| / total absolute input of the target")
    slot: str
    parts: list[EdgePart] = Field(default_factory=list, description="empty when they were not stored")
    mark: Literal["confirmed", "refuted", "inconclusive", "untested"] = Field(
        "untested", description="what the newest test in the real model said"
    )
    predicted: float | None = Field(None, description="effect of cutting the edge on its target, by the graph")
    measured: float | None = Field(None, description="the same in the real model")
    intervention: str | None = Field(None, description="id of that test")


class Deleted(Record):
    deleted: str


class ActivationExample(Record):
    """Tokens of a text with one feature's activation at each."""

    tokens: list[str]
    activations: list[float]


class NewLabel(Record):
    """One new version of a feature's label. `method` says what made it, e.g. `tokens`, `graph file`, `person`."""

    feature: str
    text: str
    method: str
    score: float | None = Field(
        None, description="how well the label predicts where the feature fires, 0.5 = chance (AUROC)"
    )
    random_score: float | None = Field(None, description="the same score of another feature's label")
    parameters: dict[str, Any] = Field(default_factory=dict)
    examples: list[ActivationExample] = Field(default_factory=list)
    promoted: list[str] = Field(default_factory=list, description="tokens whose logits the feature raises most")
    suppressed: list[str] = Field(default_factory=list)


class LabelVersion(Record):
    text: str
    method: str
    author: str
    score: float | None
    random_score: float | None
    created_at: str
    current: bool
    taken_back: bool = Field(False, description="a name whose annotation was changed, removed or undone")


class FeatureInCircuit(Record):
    circuit: str
    name: str
    prompt: str
    node: str
    position: int
    token: str
    activation: float | None
    influence: float | None


class Influence(Record):
    """Aggregated effect between two features over circuits (distinct token sequences)."""

    feature: str
    label: str | None
    circuits: int
    mean_share: float
    mean_weight: float
    positive: float = Field(description="share of circuits in which the effect was positive")


class FeatureDetail(Record):
    feature: str
    model: str
    transcoders: str
    layer: int
    index: int
    label: str | None
    score: float | None
    labels: list[LabelVersion] = Field(default_factory=list)
    examples: list[ActivationExample] = Field(default_factory=list)
    promoted: list[str] = Field(default_factory=list)
    suppressed: list[str] = Field(default_factory=list)
    occurrences: list[FeatureInCircuit] = Field(default_factory=list)
    inputs: list[Influence] = Field(default_factory=list)
    outputs: list[Influence] = Field(default_factory=list)
    graph_fault: str = Field("", description="why inputs and outputs are missing, when the graph server did not answer")


class LabelResult(Record):
    labelled: int
    skipped: int = Field(description="features whose model is not here")
    mean_score: float | None
    random_score: float | None


class SearchHit(Record):
    feature: str
    label: str
    score: float = Field(description="fused rank score of this search; compare only within one answer")
    circuits: int
    label_score: float | None = None
    layer: int = -1
    matched: str = Field("", description="text, meaning or both")


class PathNode(Record):
    key: str
    kind: str
    layer: int
    position: int
    label: str | None
    token: str


class PathHit(Record):
    circuit: str
    nodes: list[PathNode]
    share: float = Field(description="product over its edges of |w| / total absolute input of the target")
    effect: float | None = Field(description="signed effect in target units; None where an activation is unknown")
    p_value: float | None = Field(description="against the block-permutation null; None when no null was asked for")
    n_null: int
    shares_known: bool = Field(
        True, description="False: shares are over kept edges because totals before pruning are unknown"
    )
    weights: list[float] = Field(default_factory=list, description="signed weight of each edge on the way")
    slots: list[str] = Field(default_factory=list, description="slot of each edge: direct, q, k or v")
    ignored_edges: int = Field(
        0, description="edges left out of this circuit's search because they run backwards within a cycle"
    )


class ComparedEdge(Record):
    source: str
    target: str
    a: float | None = Field(description="signed share in A; None = the edge is not in A")
    b: float | None
    delta: float
    above_noise: bool | None = Field(description="None without replicates to measure the noise")
    slot: str = Field("direct", description="direct, q, k or v")


class Comparison(Record):
    shared: int
    only_a: int
    only_b: int
    similarity: float
    aligned_share: float = Field(description="share of both circuits' total edge weight that lies on aligned nodes")
    floor: float | None = Field(description="largest difference between replicates; None without replicates")
    edges: list[ComparedEdge] = Field(default_factory=list)
    positions: list[tuple[int, int]] = Field(default_factory=list, description="aligned token positions (A, B)")


class CypherResult(Record):
    columns: list[str]
    rows: list[list[Any]]
    truncated: bool

    def to_pandas(self):
        import pandas as pd

        return pd.DataFrame(self.rows, columns=self.columns)


class ConceptRow(Record):
    name: str
    author: str
    features: list[str]


class RebuildResult(Record):
    circuits: int
    features: int
    labels: int
    seconds: float


class Overview(Record):
    """What is in the atlas."""

    circuits: int
    prompts: int = Field(description="distinct token sequences")
    features: int
    labelled: int
    models: list[str]
    collections: list[str]
    graph: str = Field(description="which graph server, and its address")
    recent: list[CircuitRow] = Field(default_factory=list)
