"""A JumpReLU transcoder of one layer, its file layout, and what to measure on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file

MlpData = tuple[list[torch.Tensor], list[torch.Tensor]]  # by layer (n_tokens, d): what its MLP gets, what it returns

CONFIG_YAML = """\
model_name: {model}
scan: {set}
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: mlp.hook_out
"""


class Transcoder:
    """Weights of one layer, fp32: W_enc and W_dec (f, d), b_enc and threshold (f,), b_dec (d,)."""

    KEYS: ClassVar[dict[str, str]] = {
        "W_enc": "w_enc",
        "b_enc": "b_enc",
        "W_dec": "w_dec",
        "b_dec": "b_dec",
        "activation_function.threshold": "threshold",
    }

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.w_enc, self.b_enc = tensors["w_enc"], tensors["b_enc"]
        self.w_dec, self.b_dec = tensors["w_dec"], tensors["b_dec"]
        self.threshold = tensors["threshold"]

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """MLP inputs (..., d) to feature activations (..., f): the value where above the threshold, else 0."""
        before = inputs @ self.w_enc.T + self.b_enc
        return before * (before > self.threshold)

    def decode(self, activations: torch.Tensor) -> torch.Tensor:
        """Feature activations (..., f) to reconstructed MLP outputs (..., d)."""
        return activations @ self.w_dec + self.b_dec

    def save(self, path: Path) -> None:
        """Write fp16."""
        save_file({key: getattr(self, name).half().contiguous() for key, name in self.KEYS.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Transcoder:
        """Read into fp32."""
        tensors = load_file(path)
        return cls(**{name: tensors[key].float() for key, name in cls.KEYS.items()})


def load_set(folder: Path) -> list[Transcoder]:
    """All layers of a transcoder folder, first layer first."""
    return [Transcoder.load(folder / f"layer_{i}.safetensors") for i in range(len(list(folder.glob("layer_*"))))]


def collect(model, tokenizer, sentences: list[str], batch_size: int = 256) -> MlpData:
    """What every MLP gets and returns on these sentences."""
    starts = range(0, len(sentences), batch_size)
    encoded = (tokenizer(sentences[start : start + batch_size], return_tensors="pt", padding=True) for start in starts)
    return collect_batches(model, ((one["input_ids"], one["attention_mask"]) for one in encoded))


@torch.no_grad()
def collect_batches(
    model, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype = torch.float32
) -> MlpData:
    """What every MLP gets and returns, in `dtype`: two lists, per layer (n_tokens, d). A batch: ids and attention mask (B, P).

    Padding and position 0 (BOS) are left out.
    """
    caught: dict[tuple[int, str], torch.Tensor] = {}
    handles = []
    for i, layer in enumerate(model.model.layers):

        def hook(module, args, output, i=i):
            caught[i, "in"], caught[i, "out"] = args[0], output

        handles.append(layer.mlp.register_forward_hook(hook))
    n_layers = len(model.model.layers)
    inputs: list[list[torch.Tensor]] = [[] for _ in range(n_layers)]
    outputs: list[list[torch.Tensor]] = [[] for _ in range(n_layers)]
    try:
        for ids, mask in batches:
            model.model(input_ids=ids, attention_mask=mask)
            keep = mask.bool()
            keep[:, 0] = False
            for i in range(n_layers):
                inputs[i].append(caught[i, "in"][keep].to(dtype))
                outputs[i].append(caught[i, "out"][keep].to(dtype))
    finally:
        for handle in handles:
            handle.remove()
    return _joined(inputs), _joined(outputs)


def _joined(pieces: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Each layer's pieces in one; pieces go as they are joined, so that one layer at most is there twice."""
    return [torch.cat(pieces.pop(0)) for _ in range(len(pieces))]


@torch.no_grad()
def measure(transcoder: Transcoder, inputs: torch.Tensor, outputs: torch.Tensor) -> dict[str, float]:
    """Unexplained variance, L0 and dead features of one layer on (n_tokens, d) tensors."""
    activations = transcoder.encode(inputs)
    missed = (outputs - transcoder.decode(activations)).square().sum()
    total = (outputs - outputs.mean(0)).square().sum()
    active = activations > 0
    return {
        "unexplained_variance": (missed / total).item(),
        "l0": active.sum(1).float().mean().item(),
        "features": active.shape[1],
        "dead_features": int((~active.any(0)).sum()),
        "tokens": active.shape[0],
    }
