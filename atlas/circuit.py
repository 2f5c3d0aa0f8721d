"""The circuit: one question to one model, and the graph that answers it.

Everything passes this object around: the tracer and the format readers make it, the stores keep it, the analyses and the
canvas read it. Nodes and edges are columns (numpy arrays); what cannot be a column is the pydantic `CircuitRecord`.

A node is identified by (kind, site, layer, position, index), never by another tool's `node_id`: those collide. Conventions:
token nodes have layer -1 and index = vocabulary id (-1 unknown); error nodes have index -1; logit nodes have
layer = number of layers and index = vocabulary id. `influence` is raw (higher is stronger), `influence_cumulative` is the
field's number (running share, lower is stronger). Unknown numbers are NaN.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal
from urllib.parse import quote, unquote

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from atlas.errors import InputRejected, NotFound

KINDS = ("feature", "error", "token", "logit", "head", "attn", "mlp", "neuron", "resid", "bias", "unknown")
SITES = ("", "pre", "mid", "post", "q", "k", "v", "out", "mlp", "attn")
SLOTS = ("direct", "q", "k", "v")
KIND = {name: code for code, name in enumerate(KINDS)}
SITE = {name: code for code, name in enumerate(SITES)}
SLOT = {name: code for code, name in enumerate(SLOTS)}
UNKNOWN = "unknown"

NODE_COLUMNS: dict[str, type] = {
    "kind": np.uint8,
    "site": np.uint8,
    "layer": np.int32,
    "position": np.int32,
    "index": np.int64,
    "activation": np.float32,
    "influence": np.float32,
    "influence_cumulative": np.float32,
    "probability": np.float32,
    "input_total": np.float32,
    "input_abs_total": np.float32,
}
EDGE_COLUMNS: dict[str, type] = {
    "source": np.uint32,
    "target": np.uint32,
    "weight": np.float32,
    "slot": np.uint8,
}
_DEFAULTS = {"site": 0, "slot": 0, "layer": -1, "position": -1, "index": -1}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Example(_Record):
    """One input: token ids (None where a source does not tell them) and the text of every token."""

    tokens: list[str]
    token_ids: list[int] | None = None
    text: str = ""
    weight: float = 1.0
    corrupted_tokens: list[str] | None = None
    corrupted_token_ids: list[int] | None = None


class Target(_Record):
    """What is explained. `what` is undecorated text (`Austin`); position is the token position it is read at."""

    kind: Literal["token", "difference", "feature", "direction"] = "token"
    what: str
    token_id: int = -1
    position: int = -1
    probability: float | None = None


class ModelRef(_Record):
    name: str = UNKNOWN
    revision: str = UNKNOWN
    weights_hash: str = UNKNOWN
    layers: int | None = None


class SetRef(_Record):
    """A transcoder set."""

    name: str = UNKNOWN
    revision: str = UNKNOWN
    hash: str = UNKNOWN


class Method(_Record):
    """What a weight means. Weights of different units are never pooled or compared."""

    name: str = "attribution"
    weight_unit: str = "target pre-activation"
    parameters: dict[str, Any] = Field(default_factory=dict)


class Scores(_Record):
    """Replacement and completeness (Ameisen et al. 2025, Circuit Tracing). `computed_on` says on which graph ours were computed.

    `effective_paths`: exp of the entropy over all paths into the targets, before pruning. `influence_lost`: share of the targets'
    input that no kept path carries (`ingest.trace.diffusion`). `explained_variance`: of the MLP outputs by the set on this prompt.
    """

    replacement: float | None = None
    completeness: float | None = None
    replacement_pruned: float | None = None
    completeness_pruned: float | None = None
    computed_on: Literal["full graph", "file", "none"] = "none"
    effective_paths: float | None = None
    influence_lost: float | None = None
    explained_variance: float | None = None
    claimed: dict[str, float] = Field(default_factory=dict)


class Provenance(_Record):
    created_by: str = UNKNOWN
    created_at: str = ""
    dtype: str = UNKNOWN
    device: str = UNKNOWN
    seeds: dict[str, int] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    source_file: str = ""
    source_dialect: str = ""
    source_metadata: dict[str, Any] = Field(default_factory=dict)
    mended: dict[str, int] = Field(default_factory=dict)


class CircuitRecord(_Record):
    """Everything about a circuit that is not a column."""

    name: str = ""
    prompt: str = ""
    examples: list[Example] = Field(default_factory=list)
    targets: list[Target] = Field(default_factory=list)
    model: ModelRef = Field(default_factory=ModelRef)
    transcoders: SetRef = Field(default_factory=SetRef)
    method: Method = Field(default_factory=Method)
    thresholds: dict[str, float | None] = Field(default_factory=dict)
    scores: Scores = Field(default_factory=Scores)
    provenance: Provenance = Field(default_factory=Provenance)


class _Columns:
    """Equal-length numpy columns under fixed names and dtypes."""

    spec: ClassVar[dict[str, type]] = {}

    def __init__(self, length: int | None = None, **columns: Any) -> None:
        unknown = set(columns) - set(self.spec)
        if unknown:
            raise TypeError(f"unknown columns {sorted(unknown)}")
        given: dict[str, np.ndarray] = {
            name: np.ascontiguousarray(value, dtype=self.spec[name]) for name, value in columns.items()
        }
        lengths = {len(value) for value in given.values()} | ({length} if length is not None else set())
        if len(lengths) > 1:
            raise ValueError(f"columns of different lengths {sorted(lengths)}")
        self.length = lengths.pop() if lengths else 0
        for name, dtype in self.spec.items():
            default = np.nan if dtype is np.float32 else _DEFAULTS.get(name, 0)
            value = given.get(name)
            setattr(self, name, np.full(self.length, default, dtype) if value is None else value)

    def __len__(self) -> int:
        return self.length

    def take(self, rows: np.ndarray) -> Any:
        """The same columns restricted to `rows` (a boolean mask or row numbers)."""
        return type(self)(**{name: getattr(self, name)[rows] for name in self.spec})

    def columns(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.spec}


class Nodes(_Columns):
    """Node columns, see NODE_COLUMNS; `kind` and `site` are codes into KINDS and SITES."""

    spec = NODE_COLUMNS
    kind: np.ndarray
    site: np.ndarray
    layer: np.ndarray
    position: np.ndarray
    index: np.ndarray
    activation: np.ndarray
    influence: np.ndarray
    influence_cumulative: np.ndarray
    probability: np.ndarray
    input_total: np.ndarray
    input_abs_total: np.ndarray

    def is_kind(self, *kinds: str) -> np.ndarray:
        """(n,) bool: rows of one of these kinds."""
        return np.isin(self.kind, [KIND[kind] for kind in kinds])


class Edges(_Columns):
    """Edge columns: source row, target row (as influence flows), signed weight, slot code."""

    spec = EDGE_COLUMNS
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    slot: np.ndarray


@dataclass(eq=False)
class Circuit:
    record: CircuitRecord
    nodes: Nodes
    edges: Edges
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # optional tensors of the binary form, by name

    def __post_init__(self) -> None:
        if len(self.edges) and (
            self.edges.source.max() >= len(self.nodes) or self.edges.target.max() >= len(self.nodes)
        ):
            raise InputRejected(
                "An edge points to a node row that does not exist.",
                "The circuit is damaged; import it again.",
            )

    @property
    def tokens(self) -> list[str]:
        return self.record.examples[0].tokens if self.record.examples else []

    @cached_property
    def id(self) -> str:
        """`c1-` + 20 hex digits: hash of the content in canonical form (`canonical_digest`)."""
        return "c1-" + canonical_digest(self)[:20]

    @cached_property
    def trace_key(self) -> str:
        """Hash of what was asked; traces that differ in the last float digit share it (replicates).

        The targets asked for are part of `method.parameters`, so that the key is known before tracing.
        """
        r = self.record
        asked = [
            [r.model.name, r.model.revision, r.model.weights_hash],
            [r.transcoders.name, r.transcoders.revision, r.transcoders.hash],
            [[e.token_ids or e.tokens, e.corrupted_token_ids or e.corrupted_tokens, e.weight] for e in r.examples],
            [r.method.name, r.method.weight_unit, r.method.parameters, r.thresholds],
        ]
        return "t1-" + hashlib.sha256(_canonical_json(asked)).hexdigest()[:20]

    @cached_property
    def prompt_key(self) -> str:
        """Hash of the token sequences alone; counts across circuits are over distinct values of it."""
        return "p1-" + hashlib.sha256(_canonical_json([e.tokens for e in self.record.examples])).hexdigest()[:20]

    @cached_property
    def keys(self) -> list[str]:
        """Node keys by row, `kind[.site]/layer/position/index`; unique within a circuit."""
        n = self.nodes
        heads = [
            KINDS[k] + ("." + SITES[s] if s else "") for k, s in zip(n.kind.tolist(), n.site.tolist(), strict=True)
        ]
        rest = zip(heads, n.layer.tolist(), n.position.tolist(), n.index.tolist(), strict=True)
        return [f"{head}/{layer}/{position}/{index}" for head, layer, position, index in rest]

    @cached_property
    def row_of_key(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def row(self, key: str) -> int:
        try:
            return self.row_of_key[key]
        except KeyError:
            raise NotFound(
                f"The circuit {self.id} has no node {key!r}.",
                "Node keys look like feature/2/5/113; `atlas show` lists them.",
            ) from None

    def feature_key(self, row: int) -> str | None:
        """`model/set/layer/index` of a feature row, None for other kinds."""
        n = self.nodes
        if n.kind[row] != KIND["feature"]:
            return None
        return feature_key(self.record.model.name, self.record.transcoders.name, int(n.layer[row]), int(n.index[row]))

    @cached_property
    def node_tokens(self) -> list[str]:
        """Text by row: the token at the node's position; for a logit node the target's text ('' when unknown)."""
        logit_text = {(t.token_id, t.position): t.what for t in self.record.targets}
        by_id = {t.token_id: t.what for t in self.record.targets}
        out = []
        for kind, position, index in zip(
            self.nodes.kind.tolist(), self.nodes.position.tolist(), self.nodes.index.tolist(), strict=True
        ):
            if kind == KIND["logit"]:
                out.append(logit_text.get((index, position), by_id.get(index, "")))
            else:
                out.append(self.tokens[position] if 0 <= position < len(self.tokens) else "")
        return out

    def adjacency(self) -> sparse.csr_array:
        """(n_nodes, n_nodes) sparse matrix, row = target, column = source; repeated pairs are summed."""
        n = len(self.nodes)
        return sparse.csr_array((self.edges.weight, (self.edges.target, self.edges.source)), shape=(n, n))

    @cached_property
    def input_abs_totals(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) float64 sum of |incoming weight| by row and (n,) bool: known from before pruning.

        Where the total before pruning is unknown (imported files), it is the sum over kept edges and the flag is False.
        """
        kept = np.bincount(self.edges.target, weights=np.abs(self.edges.weight), minlength=len(self.nodes))
        known = np.isfinite(self.nodes.input_abs_total)
        return np.where(known, np.nan_to_num(self.nodes.input_abs_total.astype(np.float64)), kept), known

    @cached_property
    def edge_shares(self) -> np.ndarray:
        """(m,) float64: |weight| / total absolute input of the target; 0 where that total is 0."""
        totals = self.input_abs_totals[0][self.edges.target]
        weights = np.abs(self.edges.weight).astype(np.float64)
        return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)

    def to_pandas(self):
        """(nodes, edges) as two data frames; nodes carry `key` and `token`."""
        import pandas as pd

        nodes = pd.DataFrame(self.nodes.columns())
        nodes["kind"] = [KINDS[code] for code in self.nodes.kind]
        nodes["site"] = [SITES[code] for code in self.nodes.site]
        nodes.insert(0, "key", self.keys)
        nodes["token"] = self.node_tokens
        edges = pd.DataFrame(self.edges.columns())
        edges["slot"] = [SLOTS[code] for code in self.edges.slot]
        edges["share"] = self.edge_shares
        return nodes, edges

    def with_record(self, **changes: Any) -> Circuit:
        """A copy with some fields of the record replaced; the arrays are shared."""
        return replace(self, record=self.record.model_copy(update=changes), extra=dict(self.extra))


def feature_key(model: str, transcoders: str, layer: int, index: int) -> str:
    """`model/set/layer/index`, names percent-encoded, so that the last two parts are always layer and index."""
    return f"{quote(model, safe='')}/{quote(transcoders, safe='')}/{layer}/{index}"


def parse_feature_key(key: str) -> tuple[str, str, int, int]:
    """(model, set, layer, index). Raises NotFound when `key` is not a feature key."""
    match = re.fullmatch(r"([^/]+)/([^/]+)/(\d{1,10})/(\d{1,19})", key)
    if not match:
        raise NotFound(
            f"{key!r} is not a feature key.",
            "A feature key is model/set/layer/index with percent-encoded names.",
        )
    return unquote(match[1]), unquote(match[2]), int(match[3]), int(match[4])


def canonical_digest(circuit: Circuit) -> str:
    """sha256 (hex) of a circuit's content, the same on every machine and after every loss-free round trip.

    Content, in this order: model name, set name, method name and weight unit, tokens and targets (kind, what, token id,
    position; sorted) as canonical JSON; nodes sorted by identity as little-endian rows (kind name code, site, layer,
    position, index, activation); edges sorted by (source, target, slot, weight) with rows renumbered in that node order.
    Derived numbers (influence, totals, probabilities, scores), names, provenance and annotations are not content.
    """
    r, n, e = circuit.record, circuit.nodes, circuit.edges
    digest = hashlib.sha256()
    digest.update(
        _canonical_json(
            [
                r.model.name,
                r.transcoders.name,
                r.method.name,
                r.method.weight_unit,
                [[x.tokens, x.corrupted_tokens] for x in r.examples],
                sorted([t.kind, t.what, t.token_id, t.position] for t in r.targets),
            ]
        )
    )
    order = np.lexsort((n.index, n.position, n.layer, n.site, n.kind))
    rank = np.empty(len(n), np.uint32)
    rank[order] = np.arange(len(n), dtype=np.uint32)
    for column, dtype in (
        ("kind", "u1"),
        ("site", "u1"),
        ("layer", "<i4"),
        ("position", "<i4"),
        ("index", "<i8"),
    ):
        digest.update(np.ascontiguousarray(getattr(n, column)[order]).astype(dtype).tobytes())
    digest.update(_canonical_floats(n.activation[order]))
    source, target = rank[e.source], rank[e.target]
    weight = e.weight + np.float32(0)  # -0.0 becomes 0.0
    edge_order = np.lexsort((weight, e.slot, target, source))
    digest.update(source[edge_order].astype("<u4").tobytes())
    digest.update(target[edge_order].astype("<u4").tobytes())
    digest.update(e.slot[edge_order].astype("u1").tobytes())
    digest.update(_canonical_floats(weight[edge_order]))
    return digest.hexdigest()


def _canonical_floats(values: np.ndarray) -> bytes:
    values = values.astype("<f4") + np.float32(0)
    return np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4").tobytes()


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=True).encode()


def duplicate_identities(nodes: Nodes) -> np.ndarray:
    """(n,) bool: True for every row whose identity an earlier row already has."""
    identity = np.stack(
        [getattr(nodes, c).astype(np.int64) for c in ("kind", "site", "layer", "position", "index")], axis=1
    )
    _, first = np.unique(identity, axis=0, return_index=True)
    duplicate = np.ones(len(nodes), bool)
    duplicate[first] = False
    return duplicate
