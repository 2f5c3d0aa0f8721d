"""Label the features that occur in circuits: examples, label, score, and a version in the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.circuit import feature_key, parse_feature_key
from atlas.errors import InputRejected, UsageError
from atlas.records import LabelResult, NewLabel
from ingest.labels import examples
from ingest.labels.corpus import Corpus, Firing
from ingest.labels.examples import Feature
from ingest.labels.score import detection_score, random_score
from ingest.labels.sources import Source, Sources, texts_for
from ingest.labels.tokens import Rule, find_rule, label_text, word_following
from ingest.models.base import Model
from ingest.transcoders.set import TranscoderSet

if TYPE_CHECKING:
    from atlas.api import Atlas

METHOD = "tokens"
GROUP = 1024  # features per pass through the texts: bounds the memory, and what a kill loses
TOKEN_BUDGET = 40_000  # of both halves of the texts together

Progress = Callable[[int, int, str], None]


def label_features(
    atlas: Atlas,
    *,
    model: str | None = None,
    labeler: str = METHOD,
    limit: int | None = None,
    texts: Iterable[str] | None = None,
    models: Mapping[str, tuple[Model, TranscoderSet]] | None = None,
    relabel: bool = False,
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress | None = None,
) -> LabelResult:
    """Make a label version for every feature that occurs in circuits and has none by this labeler yet.

    model: only features of this model. limit: at most this many features. texts: where to look for firings; without them,
    held-out sentences for the shipped model, else the prompts of the model's circuits. Half of the texts (every other one)
    makes the labels, the other half scores them (`score.py`). models: loaded (model, transcoders) by model name, tried before
    the shipped model and the profiles of the settings. relabel: also features that have a label by this labeler.
    Features whose model is not here are skipped and counted. Labels from files or persons stay current. Interrupted, it
    continues where it stopped. Raises UsageError (labeler), InputRejected (no text is usable).
    """
    if labeler != METHOD:
        raise UsageError(f"There is no labeler {labeler!r}.", f"The labeler that is here is {METHOD}.")
    texts = None if texts is None else list(texts)
    todo: dict[tuple[str, str], list[Feature]] = {}
    for key in _every_feature(atlas, model) if relabel else atlas.features_without_label(model=model, method=METHOD):
        its_model, its_set, layer, index = parse_feature_key(key)
        todo.setdefault((its_model, its_set), []).append((layer, index))

    sources = Sources(atlas, models)
    ready: list[tuple[Source, tuple[str, str], list[Feature]]] = []
    skipped = 0
    for names, features in todo.items():
        source = sources.find(*names)
        here = [feature for feature in features if source is not None and source.holds(*feature)]
        skipped += len(features) - len(here)
        if source is not None and here:
            ready.append((source, names, sorted(here)))

    total = sum(len(features) for _, _, features in ready)
    total = total if limit is None else min(limit, total)
    labelled = 0
    scores: list[float] = []
    randoms: list[float] = []
    for source, names, features in ready:
        features = features[: total - labelled]
        for group in _label_source(atlas, source, names, features, texts, seed, token_budget):
            atlas.put_labels(group)
            labelled += len(group)
            scores += [label.score for label in group if label.score is not None]
            randoms += [label.random_score for label in group if label.random_score is not None]
            if progress:
                progress(labelled, total, names[0])
    return LabelResult(
        labelled=labelled,
        skipped=skipped,
        mean_score=float(np.mean(scores)) if scores else None,
        random_score=float(np.mean(randoms)) if randoms else None,
    )


def _every_feature(atlas: Atlas, model: str | None) -> list[str]:
    keys: set[str] = set()
    for row in atlas.circuits(model=model, limit=None):
        circuit = atlas.load(row.id)
        keys.update(circuit.feature_key(int(node)) or "" for node in np.flatnonzero(circuit.nodes.is_kind("feature")))
    return sorted(keys)


def _label_source(
    atlas: Atlas,
    source: Source,
    names: tuple[str, str],
    features: list[Feature],
    texts: list[str] | None,
    seed: int,
    token_budget: int,
) -> Iterator[list[NewLabel]]:
    if not features:
        return
    chosen, origin = texts_for(atlas, source, texts, seed)
    token_lists = examples.tokenised(chosen, source.model, token_budget)
    if not token_lists:
        raise InputRejected(
            f"There is no text to look for firings of {names[0]} in.", "Pass texts with at least two tokens."
        )
    making, scoring = (examples.corpus_of(part, source.model) for part in examples.split(token_lists))
    parameters = {
        "texts": origin,
        "seed": seed,
        "tokens": int(making.counted.sum()),
        "scored_tokens": int(scoring.counted.sum()),
    }
    for start in range(0, len(features), GROUP):
        group = features[start : start + GROUP]
        firings = examples.collect_firings(source.model, source.transcoders, making, group)
        held_out = examples.collect_firings(source.model, source.transcoders, scoring, group)
        promoted = examples.promoted_tokens(source.model, source.transcoders, group)
        yield label_group(names, making, firings, scoring, held_out, promoted, parameters)


def label_group(
    names: tuple[str, str],
    making: Corpus,
    firings: dict[Feature, Firing],
    scoring: Corpus,
    held_out: dict[Feature, Firing],
    promoted: dict[Feature, tuple[list[str], list[str], int]],
    parameters: dict[str, Any],
) -> list[NewLabel]:
    """Labels and scores of a group of features, from what they do on the two corpora."""
    rules = {feature: find_rule(making, firing) for feature, firing in firings.items()}
    by_layer: dict[int, dict[str, Rule]] = {}
    for (layer, index), rule in rules.items():
        if rule is not None:
            by_layer.setdefault(layer, {})[feature_key(*names, layer, index)] = rule
    labels = []
    for feature, rule in rules.items():
        key, firing = feature_key(*names, *feature), firings[feature]
        raised, lowered, clear = promoted[feature]
        following = word_following(making, firing) if rule else None
        shown = raised[:clear] if rule else raised  # without firings, the promoted tokens are all there is to say
        labels.append(
            NewLabel(
                feature=key,
                text=label_text(rule, following, shown),
                method=METHOD,
                score=detection_score(scoring, held_out[feature], rule) if rule else None,
                random_score=random_score(scoring, held_out[feature], key, by_layer[feature[0]]) if rule else None,
                parameters={
                    **parameters,
                    "frequency": round(len(firing.positions) / max(1, int(making.counted.sum())), 6),
                    "max_activation": round(float(firing.activations.max(initial=0)), 4),
                    "rule": [asdict(condition) for condition in rule.conditions] if rule else [],
                },
                examples=examples.choose_examples(making, firing),
                promoted=raised,
                suppressed=lowered,
            )
        )
    return labels
