"""A set of per-layer transcoders in memory. f features per layer, d width of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Transcoder:
    """One layer: output = activations @ w_dec + b_dec (+ x @ w_skip.T), activations from x @ w_enc.T + b_enc."""

    w_enc: torch.Tensor  # (f, d)
    b_enc: torch.Tensor  # (f,)
    w_dec: torch.Tensor  # (f, d)
    b_dec: torch.Tensor  # (d,)
    threshold: torch.Tensor | None = None  # (f,) of a JumpReLU; None = ReLU
    w_skip: torch.Tensor | None = None  # (d, d)

    @property
    def n_features(self) -> int:
        return self.w_enc.shape[0]

    def pre_activations(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., f)."""
        return inputs @ self.w_enc.T + self.b_enc

    def active(self, pre: torch.Tensor) -> torch.Tensor:
        """(..., f) bool: strictly above 0 (ReLU) or above the feature's threshold (JumpReLU)."""
        return pre > (0 if self.threshold is None else self.threshold)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., f) activations: the pre-activation where active (a threshold is not taken off), else 0."""
        pre = self.pre_activations(inputs)
        return pre * self.active(pre)


@dataclass
class TranscoderSet:
    """All layers of a model. `name` and `model_name` go into feature keys; see `load_transcoders` for the rule."""

    name: str
    revision: str
    hash: str
    model_name: str
    input_hook: str
    output_hook: str
    layers: list[Transcoder] = field(repr=False)
