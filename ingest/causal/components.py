"""Interventions on circuits of heads and MLPs: their outputs replaced in the real model, on all cases, everything else free.

ablate: by the output on the corrupted prompt, which is what the scores estimate. scale: times a factor (0 = zero ablation). patch: by
the output on another prompt. cut: one edge carries what its source writes on the corrupted prompt (path patching, exact).
A node is replaced at all positions. Measured: the change of the metric. Predicted: minus the score, or minus the edge's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from atlas.causal_records import Controls, InterventionRequest, InterventionResult, Moved
from atlas.circuit import KIND, KINDS, SLOTS, Circuit
from atlas.errors import UsageError
from atlas.evidence import check_has_paths, check_length, control_quantile, mark
from ingest.causal.network import Progress
from ingest.components.metrics import metric as metric_named
from ingest.components.network import Edit, Place, SiteName, answer_logits, run, with_clean_logits
from ingest.components.neurons import LAST
from ingest.components.pairs import Cases, recorded_cases
from ingest.components.path_patching import edge_effects
from ingest.components.split import SplitNetwork
from ingest.components.tail import Tail, Whole
from ingest.memory import if_it_fits
from ingest.models.decoder import Block, DecoderModel
from ingest.trace.prompt import prompt_ids

CASES_AT_ONCE = 8
CPU_TOKENS = 2048  # rows times positions of one pass
SITE: dict[str, SiteName] = {"head": "head.out", "mlp": "mlp.out", "token": "resid.pre"}


@dataclass(frozen=True)
class Part:
    """A node as it is replaced. index: of a head or neuron."""

    kind: str
    layer: int
    index: int = -1

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.layer}/-1/{self.index}"

    @property
    def height(self) -> int:
        """The layer in which it is replaced."""
        return max(self.layer, 0)


Change = tuple[Part, ...]  # all that is replaced at once


@dataclass
class Trial:
    """One intervention that was asked for; `rows` as of `atlas.evidence.checked_rows`."""

    request: InterventionRequest
    rows: list[int]


class ComponentLaboratory:
    """A component circuit beside its model, on the cases it was found on. Raises UsageError for other prompts, and for a heat map."""

    def __init__(self, model: DecoderModel, circuit: Circuit, prompts: Sequence[str] | None = None) -> None:
        check_has_paths(circuit)
        if prompts is not None:
            raise UsageError(
                "A circuit of components is tested on the cases it was found on.", "Leave the set of prompts out."
            )
        self.model, self.circuit = model, circuit
        self.metric = metric_named(circuit.record.method.parameters["metric"])
        cases = recorded_cases(model, circuit.record)
        self.cases = with_clean_logits(model, cases) if self.metric.needs_clean else cases
        self.clean = self.metric(answer_logits(model, cases.clean, cases.lengths), self.cases).double().cpu().numpy()
        self.scores = circuit.extra.get("eap.node_score", np.full(len(circuit.nodes), np.nan)).astype(np.float64)
        self.tail, self.split = Tail(model), SplitNetwork(model)
        self.target = next(row for row, kind in enumerate(circuit.nodes.kind) if kind == KIND["logit"])
        self._done: dict[tuple[Any, ...], np.ndarray] = {}  # (B,) changes of the metric, by what was done

    # -- many at once

    def results(self, trials: Sequence[Trial], progress: Progress | None = None) -> list[InterventionResult]:
        """One result per trial; runs that several of them need are made once. Raises as `intervene` does."""
        cuts = [trial for trial in trials if trial.request.kind == "cut"]
        edges = [self._edge_sets(trial) for trial in cuts]
        self._cut([one for own, controls, _ in edges for one in (own, *controls)], progress)
        whole = [trial for trial in trials if trial.request.kind != "cut"]
        changes = [self._changes(trial) for trial in whole]
        for trial, (own, controls) in zip(whole, changes, strict=True):
            self._replace(trial.request, [own, *controls], progress)
        made: dict[int, InterventionResult] = {}
        for trial, (own_edges, other_edges, names) in zip(cuts, edges, strict=True):
            predicted = -float(self._between(trial)[1].sum())
            made[id(trial)] = self._result(
                trial, self._done[own_edges], [self._done[one] for one in other_edges], names, predicted
            )
        for trial, (own, controls) in zip(whole, changes, strict=True):
            kept = [self._done[self._name(trial.request, change)] for change in controls]
            names = [part.key for change in controls for part in change]
            made[id(trial)] = self._result(
                trial, self._done[self._name(trial.request, own)], kept, names, self._predicted(trial)
            )
        return [made[id(trial)] for trial in trials]

    def _predicted(self, trial: Trial) -> float | None:
        """Scores say what the corrupted output does, to first order, and nothing of other replacements."""
        total = -self.scores[trial.rows].sum()
        return float(total) if trial.request.kind == "ablate" and np.isfinite(total) else None

    def _result(
        self, trial: Trial, changes: np.ndarray, controls: list[np.ndarray], names: list[str], predicted: float | None
    ) -> InterventionResult:
        means = [float(one.mean()) for one in controls]
        verdict, reason = mark(predicted, float(changes.mean()), means)
        target = self.circuit.keys[trial.rows[-1] if trial.request.kind == "cut" else self.target]
        first = Moved(
            node=target,
            text=self.metric.name,
            before=float(self.clean.mean()),
            measured=float(changes.mean()),
            predicted=predicted,
        )
        rows = [
            Moved(node=pair.clean, before=float(before), measured=float(change), predicted=predicted)
            for pair, before, change in zip(self.cases.pairs, self.clean, changes, strict=True)
        ]
        return InterventionResult(
            request=trial.request,
            nodes=[self.circuit.keys[row] for row in trial.rows],
            prompt=self.circuit.record.prompt,
            targets=[first],
            controls=Controls(
                count=len(controls),
                same_position=len(controls),  # nodes are pooled over positions
                features=names,
                quantile=control_quantile(means),
                effects=means,
            ),
            mark=verdict,
            reason=reason,
            prompts=rows if len(rows) > 1 else [],
        )

    # -- nodes

    def part(self, row: int) -> Part:
        nodes = self.circuit.nodes
        return Part(KINDS[nodes.kind[row]], int(nodes.layer[row]), int(nodes.index[row]))

    def alike(self, part: Part, count: int, excluded: Sequence[Part], below: int | None = None) -> list[Part]:
        """Up to `count` other components of the kind, of the same layer first, then of the nearest ones; of neurons the same
        layer's, spread evenly. below: only of lower layers than this. They have no activation to be matched on."""
        layers = sorted(range(self.model.n_layers), key=lambda layer: (abs(layer - part.layer), layer))
        layers = [layer for layer in layers if below is None or layer < below]
        if part.kind == "mlp":
            found = [Part("mlp", layer) for layer in layers]
        elif part.kind == "head":
            found = [Part("head", layer, head) for layer in layers for head in range(self.split.wiring.heads)]
        elif part.kind == "neuron":
            size = last_matrix(self.tail.blocks[part.layer]).weight.numel() // self.model.width
            step = max(1, size // (count + len(excluded) + 1))
            found = [Part("neuron", part.layer, index) for index in range(step // 2, size, step)]
        else:
            return []
        return [one for one in found if one not in excluded][:count]

    def _changes(self, trial: Trial) -> tuple[Change, list[Change]]:
        own = tuple(self.part(row) for row in trial.rows)
        lists = [self.alike(part, trial.request.controls, own) for part in own]
        controls: list[Change] = []
        for number in range(min(map(len, lists))):
            chosen: list[Part] = []
            for found in lists:
                chosen += [one for one in [*found[number:], *found[:number]] if one not in chosen][:1]
            if len(chosen) == len(own):
                controls.append(tuple(chosen))
        return own, controls

    def _name(self, request: InterventionRequest, change: Change) -> tuple[Any, ...]:
        return request.kind, request.factor, request.prompt, tuple(sorted(change, key=lambda part: part.key))

    def _replace(self, request: InterventionRequest, changes: list[Change], progress: Progress | None) -> None:
        """Make the runs that are not made yet."""
        todo = {self._name(request, change): change for change in changes}
        todo = {name: change for name, change in todo.items() if name not in self._done}
        if not todo:
            return
        names = sorted(todo, key=lambda name: min(part.height for part in todo[name]))
        found = np.empty((len(names), len(self.cases)))
        groups = self.cases.by_length()
        chunks = [group[i : i + CASES_AT_ONCE] for group in groups for i in range(0, len(group), CASES_AT_ONCE)]
        for number, chunk in enumerate(chunks):
            if progress:
                progress(number * len(names), len(chunks) * len(names), "runs")
            found[:, chunk] = self._on(request, [todo[name] for name in names], self.cases.take(chunk))
        for name, values in zip(names, found - self.clean, strict=True):
            self._done[name] = values

    @torch.inference_mode()
    def _on(self, request: InterventionRequest, changes: list[Change], cases: Cases) -> np.ndarray:
        """(n, b) metric with each change on cases of one length. Changes are ordered by their lowest layer."""
        parts = {part for change in changes for part in change}
        reads = [Place(SITE[part.kind], part.height) for part in parts if part.kind in SITE]
        base = self.tail.whole(cases.clean)
        others, neurons = self._others(request, cases, reads, parts)
        made: list[np.ndarray] = []
        size = max(1, CPU_TOKENS // cases.clean.numel())
        if self.model.device.type == "cuda":
            size *= 16
        while len(made) < len(changes):
            batch = changes[len(made) : len(made) + size]
            logits = if_it_fits(
                partial(self._pass, request, batch, base, others, neurons),
                len(batch),
                "run",
                "Use shorter prompts or another device.",
            )
            if logits is None:
                size = len(batch) // 2
                continue
            made += [self.metric(rows, cases).double().cpu().numpy() for rows in logits.split(len(cases))]
        return np.stack(made)

    def _others(
        self, request: InterventionRequest, cases: Cases, reads: list[Place], parts: set[Part]
    ) -> tuple[dict[Place, torch.Tensor], dict[int, torch.Tensor]]:
        """What is put in, by place (b or 1, P, ...), and neurons' values by layer (b or 1, P, neurons); empty for a factor."""
        if request.kind == "scale":
            return {}, {}
        if request.prompt is not None:
            ids = prompt_ids(self.model, request.prompt, None)
            check_length(len(ids), cases.clean.shape[1], request.prompt)
            source = torch.tensor([ids], device=self.model.device)
        elif cases.corrupted is None:
            raise UsageError("The circuit's cases have no corrupted prompts to ablate by.", "Scale by 0 instead.")
        else:
            source = cases.corrupted
        neurons: dict[int, torch.Tensor] = {}
        with ExitStack() as stack:
            for layer in {part.layer for part in parts if part.kind == "neuron"}:
                module = last_matrix(self.tail.blocks[layer])
                keep: Callable[..., None] = lambda m, args, layer=layer: neurons.__setitem__(layer, args[0])  # noqa: E731
                stack.callback(module.register_forward_pre_hook(keep).remove)
            return run(self.model, source, reads=reads).values, neurons

    def _pass(
        self,
        request: InterventionRequest,
        changes: list[Change],
        base: Whole,
        others: dict[Place, torch.Tensor],
        neurons: dict[int, torch.Tensor],
    ) -> torch.Tensor:
        """(len(changes) * b, V): the layers from the lowest changed one on, one copy of the prompts per change."""
        lowest, b = min(part.height for part in changes[0]), len(base.streams[0])
        by_place: dict[Place, list[tuple[int, Part]]] = {}
        inside: dict[int, list[tuple[int, Part]]] = {}
        for copy, change in enumerate(changes):
            for part in change:
                if part.kind == "neuron":
                    inside.setdefault(part.layer, []).append((copy, part))
                else:
                    by_place.setdefault(Place(SITE[part.kind], part.height), []).append((copy, part))

        factor = request.factor or 0.0

        def edit(value: torch.Tensor, which: list[tuple[int, Part]], other: torch.Tensor | None) -> torch.Tensor:
            value = value.clone()
            for copy, part in which:
                rows = value[copy * b : (copy + 1) * b]
                # heads lie third, neurons last; an MLP or the embeddings are all of it
                at: Any = (slice(None), slice(None), part.index) if part.index >= 0 else ...
                rows[at] = rows[at] * factor if other is None else other[at]
            return value

        def writer(place: Place) -> Edit:
            return lambda value: edit(value, by_place[place], others.get(place))

        stream = base.streams[lowest].repeat(len(changes), 1, 1)
        for layer in range(lowest, self.model.n_layers):
            writes = {place: writer(place) for place in by_place if place.layer == layer}
            with ExitStack() as stack:
                if layer in inside:
                    hook = lambda m, a, layer=layer: (edit(a[0], inside[layer], neurons.get(layer)), *a[1:])  # noqa: E731
                    stack.callback(last_matrix(self.tail.blocks[layer]).register_forward_pre_hook(hook).remove)
                stream = self.tail.layer(base, layer, stream, 0, writes)
        return self.tail.logits(stream[:, -1])

    # -- edges

    def _between(self, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
        """(slots,) names and weights of the circuit's edges between the two nodes of a cut."""
        edges = self.circuit.edges
        if len(trial.rows) != 2:
            raise UsageError("Of components one edge is cut at a time.", "Name two nodes.")
        found = np.flatnonzero((edges.source == trial.rows[0]) & (edges.target == trial.rows[1]))
        if any(self.part(row).kind == "neuron" for row in trial.rows):
            raise UsageError("An edge of a neuron cannot be cut.", "Ablate the neuron, or cut an edge of its MLP.")
        return edges.slot[found], edges.weight[found]

    def source(self, part: Part) -> int:
        """Its row in the wiring."""
        wiring = self.split.wiring
        if part.kind == "token":
            return 0
        return wiring.mlp(part.layer) if part.kind == "mlp" else wiring.head(part.layer, part.index)

    def _edge_sets(self, trial: Trial) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[str]]:
        """Edges of the whole network that are cut at once, the same from controls in the source's place, and their keys."""
        wiring = self.split.wiring
        slots, _ = self._between(trial)
        source, target = (self.part(row) for row in trial.rows)
        end = wiring.n_sources if target.kind == "logit" else self.source(target)

        def edges(part: Part) -> tuple[int, ...]:
            return tuple(wiring.edge(self.source(part), end, SLOTS[slot]) for slot in slots.tolist())

        top = self.model.n_layers if target.kind == "logit" else target.layer
        others = self.alike(source, trial.request.controls, [source, target], below=top)
        return edges(source), [edges(part) for part in others], [part.key for part in others]

    def _cut(self, sets: list[tuple[int, ...]], progress: Progress | None) -> None:
        todo = [one for one in dict.fromkeys(sets) if one not in self._done]
        single = [one for one in todo if len(one) == 1]
        if single:
            effects = edge_effects(
                self.model, self.cases, self.metric, [one[0] for one in single], progress=progress
            ).numpy()
            self._done |= dict(zip(single, -effects, strict=True))
        several = [one for one in todo if len(one) > 1]
        if several:
            keep = torch.ones(len(several), self.split.wiring.n_edges, dtype=torch.bool)
            for row, one in enumerate(several):
                keep[row, list(one)] = False
            values = self.split.measure(self.cases, keep, self.metric, progress=progress).double().cpu().numpy()
            self._done |= dict(zip(several, values - self.clean, strict=True))


def last_matrix(block: Block) -> Any:
    """The module whose inputs are an MLP's neurons."""
    return next(getattr(block.mlp, name) for name in LAST if hasattr(block.mlp, name))
