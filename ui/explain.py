"""What the numbers of a circuit mean, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.circuit import CircuitRecord, Scores


def score_rows(scores: Scores) -> list[tuple[str, float | None, float | None, float | None]]:
    """(name, full graph, after pruning, claimed by the file) for replacement and completeness."""
    rows = []
    for name, full, pruned in (
        ("replacement", scores.replacement, scores.replacement_pruned),
        ("completeness", scores.completeness, scores.completeness_pruned),
    ):
        claimed = next((v for key, v in scores.claimed.items() if key.startswith(name)), None)
        rows.append((name, full, pruned, claimed))
    return rows


def score_sentences(scores: Scores, verdict: str, reasons: Sequence[str] = ()) -> list[str]:
    """What the scores say and what they do not, and the verdict with its reasons."""
    replacement = scores.replacement if scores.replacement is not None else scores.replacement_pruned
    completeness = scores.completeness if scores.completeness is not None else scores.completeness_pruned
    said = []
    if replacement is not None:
        said.append(
            f"Replacement {replacement:.2f}: of the influence on the answer {replacement:.0%} can be followed back to input tokens "
            f"through features; the rest goes through error nodes, that is, through what the transcoders miss."
        )
    if completeness is not None:
        said.append(
            f"Completeness {completeness:.2f}: weighted by influence, {completeness:.0%} of the nodes' input comes from features and tokens "
            "and not from error nodes."
        )
    if not said:
        said.append("This circuit carries no scores of its own, so nothing says how much of the computation it covers.")
    if scores.computed_on == "file":
        said.append("The file holds a pruned graph only; the scores are of what is in the file, not of the full graph.")
    elif said and scores.computed_on == "full graph":
        said.append(
            "“Full” is before pruning; “pruned” counts what was dropped as error, so pruning never raises a score."
        )
    if verdict == "crisp":
        said.append("High scores mean coverage, not truth; here interventions in the model bear the circuit out.")
    else:
        said.append("High scores mean coverage, not truth: no intervention has borne this circuit out.")
    return [*said, " ".join([f"Verdict: {verdict}.", *reasons])]


def origin(record: CircuitRecord, created_by: str) -> list[tuple[str, str]]:
    """Provenance as term and value; unknown things are left out."""
    p, model, transcoders = record.provenance, record.model, record.transcoders
    pairs = [
        ("Model", _named(model.name, model.revision, model.weights_hash)),
        ("Transcoders", _named(transcoders.name, transcoders.revision, transcoders.hash)),
        ("Method", f"{record.method.name}; weights in {record.method.weight_unit}"),
        ("Parameters", _listed(record.method.parameters)),
        ("Thresholds", _listed(record.thresholds)),
        (
            "Made by",
            created_by if p.created_by in ("", "unknown", created_by) else f"{p.created_by}, added by {created_by}",
        ),
        ("Made at", p.created_at),
        ("Computed in", ", ".join(v for v in (p.dtype, p.device) if v not in ("", "unknown"))),
        ("Seeds", _listed(p.seeds)),
        ("Versions", _listed(p.versions)),
        ("Source file", " · ".join(v for v in (p.source_file, p.source_dialect) if v)),
        ("Mended at import", _listed(p.mended)),
    ]
    return [(name, value) for name, value in pairs if value]


def _named(name: str, revision: str, digest: str) -> str:
    parts = [name]
    if revision not in ("", "unknown"):
        parts.append(f"revision {revision}")
    if digest not in ("", "unknown"):
        parts.append(f"hash {digest[:16]}")
    return ", ".join(parts)


def _listed(values: dict) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
