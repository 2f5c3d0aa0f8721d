"""A feature graph beside its real model: interventions measured, predicted, controlled and marked, many at once.

Everything that a run changes is changed in the real model and nothing is frozen, save that in a cut the MLPs' outputs are held
(path patching; `ingest.causal.network`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from atlas.causal_records import Controls, InterventionRequest, InterventionResult, Moved
from atlas.circuit import KIND, KINDS, Circuit
from atlas.errors import InputRejected, ModelRejected, UsageError
from atlas.evidence import control_quantile, mark, rank_correlation
from ingest.causal.network import Change, FeatureChange, Progress, Reads, RealNetwork, Row, VectorChange
from ingest.causal.predict import LinearGraph
from ingest.causal.prompts import Feature, OnPrompt, circuit_ids, on_prompt, prompts_like
from ingest.models.decoder import DecoderModel
from ingest.trace.targets import TargetSpec, recorded_targets
from ingest.transcoders.set import TranscoderSet

FIRES = 0.5  # at least this share of a circuit's features must fire here as they did


@dataclass
class Trial:
    """One intervention that was asked for: `rows` are the nodes that are changed, of a cut the path."""

    request: InterventionRequest
    rows: list[int]
    control_sets: list[list[Feature]] = field(default_factory=list)  # each in place of the changed features

    @property
    def is_cut(self) -> bool:
        return self.request.kind == "cut"

    @property
    def changed(self) -> list[int]:
        return self.rows[:1] if self.is_cut else self.rows


@dataclass
class _Effects:
    """Of one trial on one prompt. n things read; control effects on the first target."""

    before: np.ndarray  # (n,)
    measured: np.ndarray  # (n,)
    predicted: np.ndarray  # (n,) NaN where the graph says nothing
    controls: np.ndarray  # (controls,)


class Laboratory:
    """Raises ModelRejected when the circuit's features do not fire in this model, InputRejected for a circuit of directions."""

    def __init__(
        self, model: DecoderModel, transcoders: TranscoderSet, circuit: Circuit, batch_rows: int | None = None
    ) -> None:
        self.model, self.transcoders, self.circuit = model, transcoders, circuit
        self.network = RealNetwork(model, transcoders, batch_rows)
        ids = circuit_ids(model, circuit)
        self.own = on_prompt(model, transcoders, ids, circuit.record.prompt)
        self._others: dict[tuple[int, ...], OnPrompt] = {}
        nodes = circuit.nodes
        self.feature_rows = np.flatnonzero(nodes.is_kind("feature"))
        self.features: dict[int, Feature] = {
            row: (int(nodes.layer[row]), int(nodes.position[row]), int(nodes.index[row]))
            for row in self.feature_rows.tolist()
        }
        here = np.full(len(nodes), np.nan)
        here[self.feature_rows] = [self.own.value(self.features[row]) for row in self.feature_rows.tolist()]
        firing = here[self.feature_rows] != 0
        if len(firing) and firing.mean() < FIRES:
            raise ModelRejected(
                f"Of the {len(firing)} features of the circuit {circuit.id} only {int(firing.sum())} fire in this model: "
                "it or its transcoder set is not the one that was traced.",
                "Name the right pair in a profile of atlas.toml.",
            )
        self.firing_share = float(firing.mean()) if len(firing) else 1.0
        self.graph = LinearGraph(circuit, here)
        targets = self._targets()
        self.target_rows, self.first_target = list(targets), next(iter(targets.values()))
        places = [self.features[row] for row in self.feature_rows.tolist()]
        logits = [row for row in self.target_rows if row not in self.features]
        self.reads = Reads(model, transcoders, np.array(places, int).reshape(-1, 3), [targets[row] for row in logits])
        self.column = {row: i for i, row in enumerate([*self.feature_rows.tolist(), *logits])}

    def _targets(self) -> dict[int, TargetSpec]:
        """What the circuit explains and holds, by row, in the record's order."""
        nodes, found = self.circuit.nodes, {}
        for target, spec in zip(self.circuit.record.targets, recorded_targets(self.model, self.circuit), strict=True):
            at = spec.position % len(self.own.ids)
            if spec.kind == "feature" and spec.feature is not None:
                layer, index = spec.feature
                rows = np.flatnonzero(nodes.is_kind("feature") & (nodes.layer == layer) & (nodes.index == index))
            elif spec.kind == "token" and not 0 <= spec.tokens[0] < self.model.vocabulary:
                continue  # an imported circuit may not say which token
            else:
                rows = np.flatnonzero(nodes.is_kind("logit") & (nodes.index == target.token_id))
            there = rows[nodes.position[rows] == at]
            for row in there[:1].tolist():
                found[row] = TargetSpec(spec.kind, spec.what, at, spec.tokens, spec.feature)
        if not found:
            raise InputRejected(
                f"The circuit {self.circuit.id} holds none of its targets, so there is no effect to measure.",
                "Trace or import it again.",
            )
        return found

    def trial(self, request: InterventionRequest, rows: list[int]) -> Trial:
        """Raises UsageError for a cut whose end cannot be read."""
        if request.kind == "cut" and rows[-1] not in self.column:
            raise UsageError(
                f"The effect on {self.circuit.keys[rows[-1]]} cannot be read.",
                "End at a feature or at a target of the circuit.",
            )
        return Trial(request, rows)

    # -- prompts

    def prompt(self, text: str) -> OnPrompt:
        """Another prompt of the same number of tokens. Raises InputRejected."""
        if text == self.own.text:
            return self.own
        ids = prompts_like(self.model, self.circuit, [text], len(self.own.ids))[0]
        if tuple(ids) not in self._others:
            self._others[tuple(ids)] = on_prompt(self.model, self.transcoders, ids, text)
        return self._others[tuple(ids)]

    # -- many at once

    def results(self, trials: Sequence[Trial], progress: Progress | None = None) -> list[InterventionResult]:
        """One result per trial. Those of one set of prompts share their runs."""
        for trial in trials:
            trial.control_sets = self._control_sets(trial)
        by_prompts: dict[tuple[str, ...], list[int]] = {}
        for number, trial in enumerate(trials):
            by_prompts.setdefault(tuple(trial.request.prompts or ()), []).append(number)
        found: dict[int, InterventionResult] = {}
        for texts, numbers in by_prompts.items():
            prompts = [self.prompt(text) for text in texts] or [self.own]
            group = [trials[number] for number in numbers]
            effects = [self._effects(on, group, progress) for on in prompts]
            for place, number in enumerate(numbers):
                found[number] = self._result(trials[number], prompts, [each[place] for each in effects])
        return [found[number] for number in range(len(trials))]

    def _effects(self, on: OnPrompt, trials: Sequence[Trial], progress: Progress | None) -> list[_Effects]:
        """All trials on one prompt: one batch of free runs, one of held ones. Equal runs are made once."""
        changes = [self._changes(on, trial) for trial in trials]
        groups: dict[bool, dict[Row, int]] = {False: {}, True: {}}
        for trial, (tested, controls, _) in zip(trials, changes, strict=True):
            for row in (tested, *controls):
                groups[trial.is_cut].setdefault(row, len(groups[trial.is_cut]))
        read = {
            cut: self.network.run(
                on.ids,
                list(rows),
                self.reads,
                held=on.held if cut else None,
                values=cut and any(len(trial.rows) > 2 for trial in trials),
                progress=progress,
            )
            for cut, rows in groups.items()
            if rows
        }
        found = []
        for trial, (tested, controls, deltas) in zip(trials, changes, strict=True):
            group, readings = groups[trial.is_cut], read[trial.is_cut]
            numbers = [group[row] for row in (tested, *controls)]
            made = readings.changes[numbers]
            if trial.is_cut:
                values = None if readings.values is None else readings.values[numbers]
                made, predicted = self._along(on, trial, made, values, deltas)
                first = self.column[trial.rows[-1]]
            else:
                effects = self.graph.effects(deltas, added=trial.request.kind == "steer")
                predicted = effects[list(self.column)]
                first = self.column[self.target_rows[0]]
            found.append(_Effects(readings.before, made[0], predicted, made[1:, first]))
        return found

    def _along(
        self,
        on: OnPrompt,
        trial: Trial,
        made: np.ndarray,
        values: np.ndarray | None,
        deltas: dict[int, float | None],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Follow a path from its first edge on, whose runs are made; of an edge there is nothing to follow.

        Every node passes on the change of its value, through its activation function, to the next one's input only.
        Returns (1 + controls, n) changes of the nodes on the path and (n,) predicted ones, NaN elsewhere.
        """
        effect = np.full(made.shape, np.nan)
        predicted = np.full(len(self.reads), np.nan)
        expected = deltas[trial.rows[0]]
        for number, (source, target) in enumerate(pairwise(trial.rows)):
            column = self.column[target]
            if number:
                layer, position, index = feature = self.features[source]
                assert values is not None
                change = values[:, self.column[source]] - on.value(feature)
                rows: list[Row] = [(FeatureChange(layer, position, index, c, add=True),) for c in change.tolist()]
                readings = self.network.run(on.ids, rows, self.reads, held=on.held, values=True)
                made, values = readings.changes, readings.values
            effect[:, column] = made[:, column]
            known = expected is not None and self.graph.known[source]
            expected = self.graph.direct(source, target) * expected if known and expected is not None else None
            predicted[column] = np.nan if expected is None else expected
        return effect, predicted

    # -- what is changed

    def _changes(self, on: OnPrompt, trial: Trial) -> tuple[Row, list[Row], dict[int, float | None]]:
        """(what is changed, the same with controls, by row the change in the node's unit)."""
        request = trial.request
        other = self.prompt(request.prompt) if request.kind == "patch" and request.prompt is not None else None
        tested: list[Change] = []
        deltas: dict[int, float | None] = {}
        for row in trial.changed:
            change, deltas[row] = self._change(on, other, row, request)
            tested.append(change)
        controls: list[Row] = []
        for chosen in trial.control_sets:
            pairs = zip(trial.changed, chosen, strict=True)
            controls.append(tuple(self._control(on, feature, request, deltas[row]) for row, feature in pairs))
        return tuple(tested), controls, deltas

    def _change(
        self, on: OnPrompt, other: OnPrompt | None, row: int, request: InterventionRequest
    ) -> tuple[Change, float | None]:
        """What is done to a node, and by how much in its own unit; None for another vector in place of its own."""
        feature = self.features.get(row)
        if feature is not None:
            layer, position, index = feature
            old = on.value(feature)
            if request.kind == "steer":
                return FeatureChange(layer, position, index, request.value or 0.0, add=True), request.value
            new = other.value(feature) if other is not None else (request.factor or 0.0) * old
            return FeatureChange(layer, position, index, new), new - old
        nodes = self.circuit.nodes
        layer, position = int(nodes.layer[row]), int(nodes.position[row])
        token = nodes.kind[row] == KIND["token"]
        layer = -1 if token else layer
        vector = on.token_vectors[position] if token else on.errors[layer, position]
        if other is not None:
            there = other.token_vectors[position] if token else other.errors[layer, position]
            name = f"{KINDS[nodes.kind[row]]} of {other.ids}"
            return VectorChange(layer, position, name, there - vector), None
        factor = (request.value or 0.0) if request.kind == "steer" else (request.factor or 0.0) - 1
        return VectorChange(layer, position, f"{KINDS[nodes.kind[row]]} {factor!r}", factor * vector), factor

    def _control(
        self, on: OnPrompt, feature: Feature, request: InterventionRequest, delta: float | None
    ) -> FeatureChange:
        """The same to another feature: the same factor, or for what is steered and patched the same change."""
        layer, position, index = feature
        if request.kind in ("steer", "patch"):
            return FeatureChange(layer, position, index, delta or 0.0, add=True)
        return FeatureChange(layer, position, index, (request.factor or 0.0) * on.value(feature))

    def _control_sets(self, trial: Trial) -> list[list[Feature]]:
        """For every changed feature another one, so many times; none where something else than features is changed."""
        tested = [self.features.get(row) for row in trial.changed]
        members = {feature for feature in tested if feature is not None}
        if trial.is_cut:
            members |= {self.features[row] for row in trial.rows[1:] if row in self.features}
        lists = []
        for feature in tested:
            if feature is None:
                return []
            lists.append(self.own.controls(feature, trial.request.controls, members))
        count = min((len(found) for found in lists), default=0)
        sets = []
        for number in range(count):
            chosen: list[Feature] = []
            for found in lists:
                turned = [*found[number:], *found[:number]]
                free = [feature for feature in turned if feature not in chosen]
                if not free:
                    break
                chosen.append(free[0])
            if len(chosen) == len(lists):
                sets.append(chosen)
        return sets

    # -- results

    def _result(self, trial: Trial, prompts: Sequence[OnPrompt], effects: Sequence[_Effects]) -> InterventionResult:
        before = np.mean([each.before for each in effects], axis=0)
        measured = np.mean([each.measured for each in effects], axis=0)
        predicted = np.mean([each.predicted for each in effects], axis=0)
        controls = np.mean([each.controls for each in effects], axis=0)
        ends = [trial.rows[-1]] if trial.is_cut else self.target_rows
        watched = self._downstream(trial)
        first = self.column[ends[0]]
        moved = [self._moved(row, before, measured, predicted) for row in watched]
        expected = float(predicted[first]) if np.isfinite(predicted[first]) else None
        verdict, reason = mark(expected, float(measured[first]), controls.tolist())
        if not trial.control_sets and any(row not in self.features for row in trial.changed):
            verdict, reason = (
                "inconclusive",
                "Controls are features, and this is none: there is nothing to compare with.",
            )
        pairs = [(m.predicted, m.measured) for m in moved if m.predicted is not None]
        same = [self.features[row][1] for row in trial.changed if row in self.features]
        return InterventionResult(
            request=trial.request,
            nodes=[self.circuit.keys[row] for row in trial.rows],
            prompt=self.circuit.record.prompt if trial.request.prompts is None else "",
            targets=[self._moved(row, before, measured, predicted) for row in ends],
            moved=moved,
            controls=Controls(
                count=len(trial.control_sets),
                same_position=sum([f[1] for f in chosen] == same for chosen in trial.control_sets),
                features=[f"feature/{l}/{p}/{i}" for chosen in trial.control_sets for l, p, i in chosen],
                quantile=control_quantile(controls.tolist()),
                effects=controls.tolist(),
            ),
            mark=verdict,
            reason=reason,
            spearman=rank_correlation([p for p, _ in pairs], [m for _, m in pairs]),  # type: ignore[misc]
            prompts=[
                Moved(
                    node=on.text,
                    before=float(each.before[first]),
                    measured=float(each.measured[first]),
                    predicted=_known(each.predicted[first]),
                )
                for on, each in zip(prompts, effects, strict=True)
            ]
            if trial.request.prompts is not None
            else [],
        )

    def _downstream(self, trial: Trial) -> list[int]:
        """Rows that can move: above what is changed, not before it. Of a cut those on the path."""
        if trial.is_cut:
            return trial.rows[1:]
        nodes = self.circuit.nodes
        layer = min(int(nodes.layer[row]) for row in trial.changed)
        position = min(int(nodes.position[row]) for row in trial.changed)
        return [
            row
            for row in self.column
            if row not in trial.changed and nodes.layer[row] > layer and nodes.position[row] >= position
        ]

    def _moved(self, row: int, before: np.ndarray, measured: np.ndarray, predicted: np.ndarray) -> Moved:
        column = self.column[row]
        return Moved(
            node=self.circuit.keys[row],
            text=self.circuit.node_tokens[row],
            before=float(before[column]),
            measured=float(measured[column]),
            predicted=_known(predicted[column]),
        )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
