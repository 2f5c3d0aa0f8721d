"""A set of transcoders, one per layer. f features per layer, d width of the residual stream.

Encoders and decoders may stay where the file is (memory-mapped, in the file's dtype): they are read through the methods, which
give rows on the device and in the dtype of the model. Biases and skips are always there already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from atlas.errors import ModelRejected

BLOCK_BYTES = 64 * 2**20  # of encoder rows converted at once


@dataclass
class Transcoder:
    """One layer: output = activations @ w_dec + b_dec (+ x @ w_skip.T), activations from x @ w_enc.T + b_enc.

    Cross-layer: `w_dec[:, k]` writes at the output hook of k layers above this one.
    """

    w_enc: torch.Tensor  # (f, d)
    b_enc: torch.Tensor  # (f,)
    w_dec: torch.Tensor  # (f, d), or (f, layers written, d) of a cross-layer set
    b_dec: torch.Tensor  # (d,)
    threshold: torch.Tensor | None = None  # (f,) of a JumpReLU, or beside top_k; None = ReLU
    w_skip: torch.Tensor | None = None  # (d, d)
    top_k: int | None = (
        None  # keep the k largest pre-activations of a position, in place of a ReLU: whatever their sign without a threshold
    )
    place: str = field(default="", repr=False)  # the file, for error messages

    @property
    def n_features(self) -> int:
        return self.w_enc.shape[0]

    @property
    def width(self) -> int:
        return self.w_enc.shape[1]

    @property
    def layers_written(self) -> int:
        return 1 if self.w_dec.ndim == 2 else self.w_dec.shape[1]

    def encoder_rows(self, features: torch.Tensor) -> torch.Tensor:
        """(n,) -> (n, d)."""
        return self._rows(self.w_enc, features)

    def decoder_rows(self, features: torch.Tensor) -> torch.Tensor:
        """(n,) -> (n, layers written, d). Raises ModelRejected for rows that are not finite."""
        rows = self._rows(self.w_dec, features)
        if not _all_finite(rows):
            raise ModelRejected(
                f"The decoder in {self.place or 'memory'} holds NaN or infinity.", "Fetch or train the set again."
            )
        return rows if rows.ndim == 3 else rows[:, None]

    def pre_activations(self, inputs: torch.Tensor, features: torch.Tensor | slice | None = None) -> torch.Tensor:
        """(..., d) -> (..., f), or (..., n) of some features."""
        if features is None:
            return torch.cat([self.pre_activations(inputs, block) for block in self._blocks()], dim=-1)
        rows = self._rows(self.w_enc, features)
        bias = self.b_enc[features if isinstance(features, slice) else features.to(self.b_enc.device)]
        return inputs @ rows.T + bias

    def active(self, pre: torch.Tensor, features: torch.Tensor | slice | None = None) -> torch.Tensor:
        """(..., n) bool: strictly above 0 (ReLU) or the feature's threshold (JumpReLU), or of the k largest (all f given)."""
        if self.top_k is not None:
            chosen = torch.zeros_like(pre, dtype=torch.bool)
            chosen = chosen.scatter(-1, pre.topk(self.top_k, dim=-1).indices, True) & (pre != 0)
            return chosen if self.threshold is None else chosen & (pre > self.threshold)
        if self.threshold is None:
            return pre > 0
        return (pre > (self.threshold if features is None else self.threshold[features])) & (pre != 0)

    def encode(self, inputs: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        """(..., d) -> (..., f), or (..., n) of some: the pre-activation where active (a threshold is not taken off), else 0."""
        if features is not None and self.top_k is not None:
            return self.encode(inputs)[..., features]
        pre = self.pre_activations(inputs, features)
        return pre * self.active(pre, features)

    def find_active(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(P, d) -> position (n,), feature (n,), activation (n,), by position, then feature.

        Raises ModelRejected when a pre-activation is not finite.
        """
        if self.top_k is not None:
            pre = self._finite(self.pre_activations(inputs))
            position, feature = self.active(pre).nonzero(as_tuple=True)
            return position, feature, pre[position, feature]
        found = []
        for block in self._blocks():
            pre = self._finite(self.pre_activations(inputs, block))
            position, feature = self.active(pre, block).nonzero(as_tuple=True)
            found.append((position, feature + block.start if block.start else feature, pre[position, feature]))
        if len(found) == 1:
            return found[0]
        position, feature, value = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = torch.argsort(position, stable=True)
        return position[order], feature[order], value[order]

    def _finite(self, pre: torch.Tensor) -> torch.Tensor:
        if not _all_finite(pre):
            raise ModelRejected(
                f"The encoder in {self.place or 'memory'} gives pre-activations that are not finite for this prompt.",
                "If its weights are finite, choose a wider dtype such as float32; else fetch the set again.",
            )
        return pre

    def _blocks(self) -> list[slice]:
        """All features at once where rows need no conversion, else as many as BLOCK_BYTES hold."""
        ready = self.w_enc.device == self.b_enc.device and self.w_enc.dtype == self.b_enc.dtype
        size = self.n_features if ready else max(1, BLOCK_BYTES // (self.width * self.b_enc.element_size()))
        return [slice(a, min(a + size, self.n_features)) for a in range(0, self.n_features, size)]

    def _rows(self, matrix: torch.Tensor, features: torch.Tensor | slice) -> torch.Tensor:
        rows = matrix[features if isinstance(features, slice) else features.to(matrix.device)]
        return rows.to(self.b_enc.device, self.b_enc.dtype)


def _all_finite(values: torch.Tensor) -> bool:
    """The sum is not finite if one of them is not; where it is too large itself, each is asked."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


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

    @property
    def cross_layer(self) -> bool:
        return any(layer.w_dec.ndim == 3 for layer in self.layers)
