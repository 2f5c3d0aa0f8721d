"""Gemma 2 and Gemma 3: as Llama, but RMSNorms with a weight of 1 + w before and after attention and MLP, and scaled
embeddings (the embedding module scales its output itself).

Soft caps, windows, q/k norms and per-layer rotary tables only shape the attention patterns, which are frozen. A final soft
cap (Gemma 2) is not part of the linear map: targets are the logits before it, probabilities are of those after it.
"""

from __future__ import annotations

from typing import Any

from ingest.models.decoder import Norm
from ingest.models.llama import LlamaModel


class GemmaModel(LlamaModel):
    def constant_positions(self, set_model_name: str = "") -> int:
        # an instruction-tuned Gemma 3 begins with <bos><start_of_turn>user\n, whatever the prompt (circuit-tracer 0.5.0)
        names = (self.name, set_model_name)
        return 4 if any("gemma-3" in name and name.endswith("-it") for name in names) else 1

    @property
    def body(self) -> Any:
        model = self.network.model
        return getattr(model, "language_model", model)  # Gemma 3 with images keeps its text part there

    def norm(self, module: Any) -> Norm:
        return Norm(module, 1 + module.weight, module.eps)

    def norms_around_mlp(self, layer: Any) -> dict[str, Norm]:
        return {
            "post_attention_norm": self.norm(layer.post_attention_layernorm),
            "mlp_norm": self.norm(layer.pre_feedforward_layernorm),
            "post_mlp_norm": self.norm(layer.post_feedforward_layernorm),
        }
