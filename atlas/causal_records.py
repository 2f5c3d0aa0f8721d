"""Arguments and results of causal work: patching, component circuits, faithfulness, interventions, verification.

Words: a **clean** prompt makes the model do what is studied, a **corrupted** one, of as many tokens or aligned with
it, does not. A run is **noising** (clean, one part from the corrupted run) or **denoising** (corrupted, one part from the clean run).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from atlas.records import Record

Mark = Literal["confirmed", "refuted", "inconclusive", "untested"]
InterventionKind = Literal["ablate", "scale", "steer", "patch", "cut"]
Site = Literal["resid", "attn", "mlp", "head"]
Template = Literal["ioi", "agreement", "greater-than"]
Replacement = Literal["counterfactual", "mean", "zero", "resample"]


class PromptPair(Record):
    """One case. Answers are texts of exactly one token; `corrupted` may be left out for mean and zero ablation."""

    clean: str
    corrupted: str | None = None
    answer: str
    wrong: str | None = Field(None, description="what the answer is compared with, for a logit difference")


class _OnPairs(Record):
    """Where the cases come from: `pairs`, or a `template` that makes `count` of them."""

    model: str | None = None
    profile: str | None = None
    pairs: list[PromptPair] | None = Field(None, max_length=10_000)
    template: Template | None = None
    count: int = Field(50, ge=1, le=10_000)
    seed: int = 0
    metric: str = Field(
        "logit-difference", description="logit-difference, probability, kl, or function:MODULE:NAME on this machine"
    )
    collection: str | None = None


class PatchRequest(_OnPairs):
    """Activation patching of every site, layer and position."""

    sites: list[Site] = Field(default_factory=lambda: list(get_args(Site)), min_length=1)
    direction: Literal["denoise", "noise"] = "denoise"
    replacement: Replacement = "counterfactual"


class ComponentsRequest(_OnPairs):
    """A circuit of heads and MLPs by edge attribution patching."""

    steps: int = Field(5, ge=1, le=200, description="integration steps; 1 = plain edge attribution patching")
    neurons: int = Field(0, ge=0, description="as a finer level, so many of the strongest MLP neurons")
    faithfulness: float = Field(0.85, gt=0, description="keep the fewest edges that reach this much of the metric")
    edges: int | None = Field(None, ge=1, description="keep so many edges instead")


class CircuitFaithfulnessRequest(Record):
    """Faithfulness curves of a circuit that is in the atlas."""

    circuit: str
    random_circuits: int = Field(5, ge=1, le=100)
    seed: int = 0


class InterventionRequest(Record):
    """What is done to a circuit's nodes in the real model, everything else free.

    ablate: value 0. scale: `factor` times its value. steer: `value` is added. patch: its value on `prompt`. cut: the effect of
    `nodes[i]` on `nodes[i + 1]` is taken away by path patching (two nodes are an edge).
    """

    circuit: str
    kind: InterventionKind
    nodes: list[str] = Field(default_factory=list, max_length=1_000, description="node keys")
    supernode: str | None = Field(None, description="in place of nodes: all of its members at once")
    factor: float | None = None
    value: float | None = None
    prompt: str | None = Field(None, description="where `patch` takes values from; same number of tokens")
    prompts: list[str] | None = Field(
        None, max_length=1_000, description="do it on each of these instead of the circuit's own prompt"
    )
    controls: int = Field(20, ge=0, le=200)
    seed: int = 0


class VerifyRequest(Record):
    circuit: str
    features: int = Field(20, ge=1, le=500, description="so many of the strongest features, one by one")
    paths: int = Field(10, ge=0, le=200, description="so many of the strongest paths, every edge of them cut")
    controls: int = Field(20, ge=0, le=200)
    permuted: int = Field(3, ge=0, le=50, description="graphs of permuted transcoders to compare with")
    prompts: list[str] | None = Field(None, max_length=1_000)
    seed: int = 0


class Moved(Record):
    """What one node, or a target, did."""

    node: str
    text: str = ""
    before: float
    measured: float = Field(description="change, in the unit of the node: pre-activation, centred logit")
    predicted: float | None = Field(None, description="by the graph; None where the graph says nothing")


class Controls(Record):
    """Other active features of the same layer, matched on activation, treated alike."""

    count: int = 0
    same_position: int = Field(0, description="so many of them at the position of what is tested")
    features: list[str] = Field(default_factory=list, description="node keys; not all are in the circuit")
    quantile: float | None = Field(None, description="95% quantile of their absolute effect on the first target")
    effects: list[float] = Field(default_factory=list, description="on the first target")


class InterventionResult(Record):
    """One intervention in the real model: what was done, what the graph said, what happened."""

    request: InterventionRequest
    nodes: list[str] = Field(description="node keys that were changed (cut: the path)")
    prompt: str = ""
    targets: list[Moved] = Field(description="of a cut: the node at the end")
    moved: list[Moved] = Field(default_factory=list, description="every node of the circuit downstream")
    controls: Controls = Field(default_factory=Controls)
    mark: Mark
    reason: str = Field(description="why this mark, in one sentence")
    spearman: float | None = Field(None, description="of predicted and measured over `moved`")
    prompts: list[Moved] = Field(
        default_factory=list, description="on a set: one row per prompt, the first target's change; node = the prompt"
    )
    provenance: dict[str, Any] = Field(default_factory=dict)


class InterventionRow(InterventionResult):
    """As it is stored."""

    id: str
    circuit: str
    battery: str | None = Field(None, description="id of the verification it is part of")
    author: str
    created_at: str


class EdgeMark(Record):
    """What the newest test of an edge said."""

    source: str
    target: str
    mark: Mark
    predicted: float | None = None
    measured: float | None = None
    intervention: str


class BaselineScore(Record):
    """How well something simpler predicts the same measured effects."""

    name: str
    spearman: float | None
    note: str = ""


class VerifyResult(Record):
    """The causal score of a circuit: rank correlation of predicted and measured effects, with what it must be compared with."""

    circuit: str
    spearman: float | None = Field(description="None when fewer than 3 effects could be measured")
    interval: tuple[float, float] | None = Field(None, description="95%, by bootstrap")
    interval_over: Literal["prompts", "nodes"] = "nodes"
    p_value: float | None = Field(None, description="against controls in place of what was tested")
    tested: int = 0
    confirmed: int = 0
    refuted: int = 0
    inconclusive: int = 0
    controls: int = Field(0, description="control features measured")
    edges_confirmed: int = 0
    edges_refuted: int = 0
    edges_inconclusive: int = 0
    baselines: list[BaselineScore] = Field(default_factory=list)
    points: list[Moved] = Field(default_factory=list, description="predicted and measured effect on the first target")
    interventions: list[str] = Field(default_factory=list, description="their ids")
    verdict: str = ""
    seconds: float = 0.0
    provenance: dict[str, Any] = Field(default_factory=dict)


class Curve(Record):
    """One value per fraction of `FaithfulnessResult.fractions`; bounds where there are several runs."""

    name: str
    values: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class FaithfulnessResult(Record):
    """f(k) = (m(C_k) - m(empty)) / (m(full) - m(empty)) over fractions of the edges (Mueller et al. 2025, MIB)."""

    circuit: str
    metric: str
    fractions: list[float]
    full: float = Field(description="m of the whole model")
    empty: float = Field(description="m with everything from the corrupted run")
    signed: Curve = Field(description="f, edges ranked by signed score")
    absolute: Curve = Field(description="f, edges ranked by absolute score")
    damage: Curve = Field(description="(m(full) - m(top k removed)) / (m(full) - m(empty))")
    baselines: list[Curve] = Field(
        default_factory=list, description="random circuits of the same size, plain gradients"
    )
    cpr: float = Field(description="area under `signed`")
    cmd: float = Field(description="area of |1 - `absolute`|")
    baseline_cpr: dict[str, float] = Field(default_factory=dict)
    baseline_cmd: dict[str, float] = Field(default_factory=dict)
    unit: Literal["edges", "features"] = Field("edges", description="what the fractions count")
    total: int = Field(0, description="how many of them there are in all")
    circuit_size: int | None = Field(None, description="how many of them the circuit as stored has")
    circuit_faithfulness: float | None = Field(None, description="f of the circuit as stored")
    cases: int = 0
    seconds: float = 0.0
    provenance: dict[str, Any] = Field(default_factory=dict)


MeasurementKind = Literal["verification", "faithfulness"]


class MeasurementRow(Record):
    """A verification or faithfulness curves of a circuit, as stored."""

    id: str
    circuit: str
    kind: MeasurementKind
    document: dict[str, Any] = Field(description="a VerifyResult or a FaithfulnessResult")
    author: str
    created_at: str
