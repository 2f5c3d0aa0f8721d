"""What is measured of a run: one number per case from the logits at the answer's position. Differentiable.

Every metric is higher where the model is closer to the clean answer, so that signs of effects mean the same under each.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from atlas.errors import InputRejected, UsageError
from ingest.components.pairs import Cases

NAMES = ("logit-difference", "probability", "kl")
_FUNCTION = "function:"


@dataclass(frozen=True)
class Metric:
    """Call it with (B, V) logits and the B cases: (B,) values."""

    name: str
    unit: str  # weights of different units are never pooled
    needs_wrong: bool
    needs_clean: bool  # the clean run's logits (`network.with_clean_logits`)
    function: Callable[[torch.Tensor, Cases], torch.Tensor]

    def __call__(self, logits: torch.Tensor, cases: Cases) -> torch.Tensor:
        return self.function(logits, cases)


def metric(name: str, *, functions: bool = True) -> Metric:
    """The metric of that name.

    logit-difference: logit of the answer less logit of the wrong one. probability: of the answer. kl: minus the
    Kullback-Leibler divergence KL(clean run || this run) in nats, 0 on the clean run itself. function:MODULE:NAME: a function
    of logits (B, V) and `Cases` that returns (B,) values, on this machine; refused where `functions` is False, because what
    comes from a queue or over HTTP must not choose code to run. Raises UsageError.
    """
    if name == "logit-difference":
        return Metric(name, "logits", True, False, logit_difference)
    if name == "probability":
        return Metric(name, "probability", False, False, probability)
    if name == "kl":
        return Metric(name, "nats", False, True, minus_kl)
    if name.startswith(_FUNCTION):
        if not functions:
            raise UsageError(
                f"The metric {name!r} names a function, which is run only by a command on this machine.",
                f"Choose {', '.join(NAMES)}.",
            )
        return Metric(name, name, False, False, _checked(name, _found(name)))
    raise UsageError(f"There is no metric {name!r}.", f"Choose {', '.join(NAMES)} or function:MODULE:NAME.")


def logit_difference(logits: torch.Tensor, cases: Cases) -> torch.Tensor:
    """(B, V) -> (B,) answer less wrong."""
    if cases.wrong is None:
        raise InputRejected("A pair has no wrong answer, and a logit difference needs one.", "Give every pair one.")
    return _of(logits, cases.answers) - _of(logits, cases.wrong)


def probability(logits: torch.Tensor, cases: Cases) -> torch.Tensor:
    """(B, V) -> (B,) of the answer."""
    return _of(torch.softmax(logits, dim=-1), cases.answers)


def _of(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(B, V) -> (B,) each row's own column."""
    return values.gather(1, ids.to(values.device)[:, None])[:, 0]


def minus_kl(logits: torch.Tensor, cases: Cases) -> torch.Tensor:
    """(B, V) -> (B,) minus KL(clean || run), nats."""
    if cases.clean_logits is None:
        raise ValueError("kl needs cases that hold the clean run's logits")
    clean = torch.log_softmax(cases.clean_logits.to(logits), dim=-1)
    return -(clean.exp() * (clean - torch.log_softmax(logits, dim=-1))).sum(dim=-1)


def _found(name: str) -> Callable[[torch.Tensor, Cases], torch.Tensor]:
    module, _, attribute = name.removeprefix(_FUNCTION).partition(":")
    if not (module and attribute):
        raise UsageError(f"The metric {name!r} does not name a function.", "Write it as function:MODULE:NAME.")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module does when it is imported
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise UsageError(
            f"The metric {name!r} cannot be imported: {reason}.", "Name a module on Python's path and a function of it."
        ) from error
    if not callable(function):
        raise UsageError(f"The metric {name!r} is not a function.", "Write it as function:MODULE:NAME.")
    return function


def _checked(name: str, function: Callable[[torch.Tensor, Cases], torch.Tensor]):
    def values(logits: torch.Tensor, cases: Cases) -> torch.Tensor:
        made = function(logits, cases)
        if not isinstance(made, torch.Tensor) or made.shape != (len(logits),):
            got = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
            raise InputRejected(
                f"The metric {name!r} returned {got} for {len(logits)} cases.",
                "Return a tensor with one value per case.",
            )
        return made

    return values
