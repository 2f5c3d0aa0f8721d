"""How well a label tells where its feature fires, on texts that were not used to make the label.

detection score = AUROC of the predictor "the label's rule holds at this token" for the event "the feature is active at this
token" (activation > 0), over all tokens of the scoring texts except special ones. For a yes/no predictor the AUROC equals
(true positive rate + true negative rate) / 2: 1 = the rule holds exactly where the feature fires, 0.5 = chance. This is the
detection idea of automated interpretability (Bills et al. 2023, Language models can explain neurons; Paulo et al. 2024,
Automatically interpreting millions of features) with the label read literally by a program instead of by a model.

Limits: strength of firing is not predicted, only whether; rules that claim too much are punished mildly where firing is rare
(the AUROC does not depend on how rare it is); only the words that a label shows count, so features of a wide class score low;
texts decide what can be seen. Hence it is given beside the same score of another feature's label of the same layer.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.stats import rankdata

from ingest.labels.corpus import Corpus, Firing
from ingest.labels.tokens import Rule

MIN_FIRINGS = 3  # below, a score is luck
OTHERS = 3  # labels of other features that the random score is averaged over


def auroc(event: np.ndarray, predictor: np.ndarray) -> float | None:
    """Area under the ROC curve: P(predictor higher at an event than at a non-event), ties half (Mann and Whitney 1947).

    event (n,) bool, predictor (n,) numbers or bool. None when there is no event or nothing else.
    """
    positives = int(event.sum())
    negatives = len(event) - positives
    if not positives or not negatives:
        return None
    ranks = rankdata(predictor)
    return float((ranks[event].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def detection_score(corpus: Corpus, firing: Firing, rule: Rule) -> float | None:
    """The score of this module's docstring; None when the feature fires fewer than MIN_FIRINGS times on the corpus."""
    if len(firing.positions) < MIN_FIRINGS:
        return None
    counted = corpus.counted
    event, predicted = firing.mask(len(corpus))[counted], rule.mask(corpus)[counted]
    if event.all():
        return None
    return (float(predicted[event].mean()) + float((~predicted[~event]).mean())) / 2


def random_score(corpus: Corpus, firing: Firing, key: str, others: dict[str, Rule]) -> float | None:
    """Mean detection score of the labels of up to OTHERS other features; which ones is drawn from a hash of the two keys."""
    drawn = sorted((k for k in others if k != key), key=lambda k: hashlib.sha256(f"{key}|{k}".encode()).digest())[
        :OTHERS
    ]
    scores = [detection_score(corpus, firing, others[k]) for k in drawn]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None
