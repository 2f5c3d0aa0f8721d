"""What features do on texts: where they fire, example texts, and the tokens they promote.

Reads the model in batches and keeps only the firings of the features asked for, so memory is bounded by (features in a
group) x (tokens of the budget) x (how densely they fire), whatever the size of the transcoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from atlas.records import ActivationExample
from ingest.labels.corpus import Corpus, Firing, build_corpus
from ingest.models.base import Model
from ingest.transcoders.set import TranscoderSet

Feature = tuple[int, int]  # layer, index

TOP_EXAMPLES = 4
QUANTILES = (0.75, 0.5, 0.25)
AROUND = 16  # tokens of an example on each side of the strongest one
BATCH_TOKENS = 4096
_VOCABULARY_CHUNK = 8192


def tokenised(texts: Iterable[str], model: Model, budget: int, longest: int = 256) -> list[list[int]]:
    """Token ids of distinct texts, each cut to `longest`, until `budget` tokens are reached; the rest is not read."""
    seen: dict[tuple[int, ...], None] = {}
    tokens, longest = 0, min(longest, model.context)
    for text in texts:
        ids = tuple(model.tokenizer(text)["input_ids"][:longest])
        if len(ids) < 2 or ids in seen:
            continue
        if tokens and tokens + len(ids) > budget:
            break
        seen[ids] = None
        tokens += len(ids)
    return [list(ids) for ids in seen]


def split(token_lists: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Texts for making labels and texts for scoring them: every other one. Too few texts to share are all for making."""
    if len(token_lists) < 4:
        return token_lists, []
    return token_lists[::2], token_lists[1::2]


def corpus_of(token_lists: list[list[int]], model: Model) -> Corpus:
    return build_corpus(token_lists, model.token_text, frozenset(model.tokenizer.all_special_ids))


@torch.inference_mode()
def collect_firings(
    model: Model,
    transcoders: TranscoderSet,
    corpus: Corpus,
    features: list[Feature],
    progress: Callable[[int, int], None] | None = None,
) -> dict[Feature, Firing]:
    """Where every one of `features` is active on the corpus."""
    by_layer: dict[int, list[int]] = {}
    for layer, index in features:
        by_layer.setdefault(layer, []).append(index)
    found: dict[Feature, list[tuple[np.ndarray, np.ndarray]]] = {feature: [] for feature in features}
    done = 0
    for texts in _batches(corpus):
        lengths = np.array([corpus.starts[t + 1] - corpus.starts[t] for t in texts])
        ids = torch.zeros(
            (len(texts), int(lengths.max())), dtype=torch.long
        )  # padded on the right: attention is causal
        flat = np.full(ids.shape, -1)
        for row, text in enumerate(texts):
            ids[row, : lengths[row]] = torch.from_numpy(corpus.text_ids(text))
            flat[row, : lengths[row]] = np.arange(corpus.starts[text], corpus.starts[text + 1])
        kept = torch.from_numpy((flat >= 0) & corpus.counted[flat])
        places = flat[kept.numpy()]
        inputs = model.feature_inputs(ids, transcoders.input_hook)
        for layer, indices in by_layer.items():
            activations = _encode(transcoders, layer, indices, inputs[layer][kept.to(inputs.device)])
            columns, rows = np.nonzero(activations.T)
            bounds = np.searchsorted(columns, np.arange(len(indices) + 1))
            for i, index in enumerate(indices):
                here = rows[bounds[i] : bounds[i + 1]]
                if len(here):
                    found[layer, index].append((places[here], activations[here, i]))
        done += len(texts)
        if progress:
            progress(done, corpus.texts)
    return {feature: _firing(parts) for feature, parts in found.items()}


def _encode(transcoders: TranscoderSet, layer: int, indices: list[int], inputs: torch.Tensor) -> np.ndarray:
    """(n, d) -> (n, len(indices)) activations of these features only, as `Transcoder.encode` gives them."""
    rows = torch.tensor(indices, device=inputs.device)
    return transcoders.layers[layer].encode(inputs, rows).float().cpu().numpy()


def _batches(corpus: Corpus) -> Iterator[list[int]]:
    """Texts of similar length together, at most BATCH_TOKENS tokens with padding."""
    lengths = np.diff(corpus.starts)
    batch: list[int] = []
    for text in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[text] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _firing(parts: list[tuple[np.ndarray, np.ndarray]]) -> Firing:
    if not parts:
        return Firing(np.zeros(0, int), np.zeros(0, np.float32))
    positions = np.concatenate([p for p, _ in parts])
    activations = np.concatenate([a for _, a in parts])
    order = np.argsort(positions)
    return Firing(positions[order], activations[order])


def choose_examples(corpus: Corpus, firing: Firing) -> list[ActivationExample]:
    """Texts in which the feature fires: the TOP_EXAMPLES with the strongest peak, then those at the QUANTILES of the peaks.

    A text longer than 2 * AROUND + 1 tokens is cut around its peak. Special tokens are shown with activation 0.
    """
    if not len(firing.positions):
        return []
    activations = np.zeros(len(corpus), np.float32)
    activations[firing.positions] = firing.activations
    text_of = corpus.text_of[firing.positions]
    order = np.lexsort((firing.positions, -firing.activations))  # strongest first, then first in the corpus
    _, first = np.unique(text_of[order], return_index=True)
    peaks = firing.positions[order[np.sort(first)]]  # one per text, strongest first
    rest = peaks[TOP_EXAMPLES:]
    spread = {int((1 - q) * (len(rest) - 1)): None for q in QUANTILES} if len(rest) else {}
    examples = []
    for peak in [*peaks[:TOP_EXAMPLES].tolist(), *(int(rest[i]) for i in spread)]:
        text = corpus.text_of[peak]
        start = max(int(corpus.starts[text]), peak - AROUND)
        stop = min(int(corpus.starts[text + 1]), peak + AROUND + 1)
        examples.append(
            ActivationExample(
                tokens=[corpus.words[code] for code in corpus.codes[start:stop]],
                activations=[round(float(value), 4) for value in activations[start:stop]],
            )
        )
    return examples


@torch.inference_mode()
def promoted_tokens(
    model: Model, transcoders: TranscoderSet, features: list[Feature], count: int = 10
) -> dict[Feature, tuple[list[str], list[str], int]]:
    """(promoted, suppressed, clear) per feature: the `count` tokens whose logits its decoder row raises and lowers most.

    Direct effect only: decoder row times the unembedding, less the mean over the vocabulary, through the final norm's weight
    (the logit lens; nostalgebraist 2020). `clear` = how many of the promoted stand out: more than sqrt(2 ln V) standard
    deviations over the vocabulary, about what the largest of V independent normal numbers reaches by chance.
    """
    start = model.tokenizer.bos_token_id
    frozen = model.freeze([0 if start is None else start], transcoders.input_hook, transcoders.output_hook)
    parts: dict[int, list[np.ndarray]] = {}
    by_layer: dict[int, list[int]] = {}
    for layer, index in features:
        by_layer.setdefault(layer, []).append(index)
    vocabulary = min(model.vocabulary, len(model.tokenizer))
    for begin in range(0, vocabulary, _VOCABULARY_CHUNK):
        ids = torch.arange(begin, min(begin + _VOCABULARY_CHUNK, vocabulary), device=model.device)
        rows = frozen.unembed_rows(ids)
        for layer, indices in by_layer.items():
            # a cross-layer feature speaks to the logits from every layer it writes at
            decoder = transcoders.layers[layer].decoder_rows(torch.tensor(indices, device=model.device))
            direct = sum(
                decoder[:, above] @ frozen.output_back(layer + above, rows, 0).T.to(decoder.dtype)
                for above in range(decoder.shape[1])
            )
            parts.setdefault(layer, []).append(direct.float().cpu().numpy())  # type: ignore[union-attr]
    special = np.array([i for i in model.tokenizer.all_special_ids if i < vocabulary], int)
    limit = math.sqrt(2 * math.log(max(2, vocabulary)))
    found = {}
    for layer, indices in by_layer.items():
        for index, logits in zip(indices, np.concatenate(parts[layer], axis=1), strict=True):
            text = np.delete(logits, special)
            scores = (logits - text.mean()) / (text.std() or 1.0)
            scores[special] = 0
            order = np.argsort(-scores, kind="stable")
            promoted = _words(model, order[:count])
            clear = len(_words(model, order[:count][scores[order[:count]] > limit]))
            found[layer, index] = (promoted, _words(model, order[::-1][:count]), clear)
    return found


def _words(model: Model, ids: np.ndarray) -> list[str]:
    texts = [model.token_text(int(i)) for i in ids]
    return list(dict.fromkeys(text.strip() or repr(text) for text in texts))
