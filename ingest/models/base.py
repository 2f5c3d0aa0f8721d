"""What the tracer needs to know of a model, whatever its family.

Notation of shapes: L layers, P positions, d width of the residual stream, V vocabulary, B rows of a batch.
Hook names are those of the transcoder files:

`hook_resid_mid`       residual stream after attention, before the MLP's norm
`ln2.hook_normalized`  that, divided by the norm's denominator, before the norm's weight (and bias)
`mlp.hook_in`          the same after weight and bias: what the MLP gets
`mlp.hook_out`         what the MLP returns, before a post-norm if the family has one
`hook_mlp_out`         what is added to the residual stream
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch

INPUT_HOOKS = ("hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in")
OUTPUT_HOOKS = ("mlp.hook_out", "hook_mlp_out")


class Frozen(ABC):
    """One prompt's forward pass with attention patterns and norm denominators held fixed.

    What is left is linear between MLP outputs and MLP inputs. The `*_back` methods apply the transposed linear maps to
    gradients (rows of a batch); they see p <= P positions only, because attention is causal.
    """

    token_vectors: torch.Tensor  # (P, d) embeddings, as they enter the residual stream
    inputs: torch.Tensor  # (L, P, d) at the input hook
    outputs: torch.Tensor  # (L, P, d) at the output hook
    attention_constants: list[torch.Tensor | None]  # by layer (1 or P, d): what attention adds whatever its input is
    position_vectors: torch.Tensor | None  # (P, d) learned positions, which are constants too
    parallel: bool  # attention and MLP read the same stream: features of a layer do not see its attention
    final: torch.Tensor  # (P, d) the residual stream before the final norm
    logits: torch.Tensor  # (V,) float32, at the last position, after a final soft cap if the family has one

    @abstractmethod
    def logits_at(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(V,) float32 logits after a final soft cap, and (V,) before it, less their mean."""

    @abstractmethod
    def stream_after(self, layer: int) -> torch.Tensor:
        """(P, d) the residual stream after a layer's MLP; -1: before the first layer."""

    @abstractmethod
    def unembed_rows(self, token_ids: torch.Tensor, position: int = -1) -> torch.Tensor:
        """(k, d) gradients of the centred logits of `token_ids` at the final residual stream of a position.

        The target is the unembedding column less the mean column over the vocabulary, read through the final norm.
        """

    @abstractmethod
    def output_back(self, layer: int, grad: torch.Tensor, positions: int | slice | torch.Tensor) -> torch.Tensor:
        """(B, d), each at its own position or all at one, or (B, p, d) gradient after the MLP's addition at `positions` -> gradient at the output hook; and, because the map
        is diagonal, a vector at the output hook -> what is added to the stream."""

    @abstractmethod
    def input_back(self, layer: int, grad: torch.Tensor, positions: int | slice | torch.Tensor) -> torch.Tensor:
        """(B, p, d) gradient at the input hook at `positions`, or (B, d) at one, or each at its own (B,) -> gradient at the residual
        stream before the MLP."""

    @abstractmethod
    def input_constant(self, layer: int) -> torch.Tensor | None:
        """(d,) what a bias adds at the input hook whatever the stream is; None without one."""

    @abstractmethod
    def logit_constants(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(k,) float32: what biases above the last stream add to the centred logits."""

    @abstractmethod
    def attention_back(
        self, layer: int, grad: torch.Tensor, first: int = 0, alone: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, p, d) gradient after the layer's attention at positions from `first` on -> what reaches these at the layer's beginning through it.

        alone: (n,) of the last n rows, the one of these positions at which they are not 0.
        """

    @abstractmethod
    def attention_work(self, positions: int) -> float:
        """Multiply-adds of a layer's attention at one position, on average over so many."""

    # -- the same maps forwards, for following a source. n key/value heads of size h, each
    # -- read by g query heads; query head number = (key/value head) * g + place in its group

    @abstractmethod
    def pattern(self, layer: int) -> torch.Tensor:
        """(n, g, queries, keys) attention, with the norms' denominators in."""

    @abstractmethod
    def attention_values(self, layer: int, stream: torch.Tensor) -> torch.Tensor:
        """(B, p, d) at the layer's beginning, anywhere -> (B, p, n, h)."""

    @abstractmethod
    def attention_write(self, layer: int, values: torch.Tensor, first: int = 0) -> torch.Tensor:
        """(B, P - first, n, h) at positions from `first` on -> (B, P - first, d) what all heads add to the stream there."""

    @abstractmethod
    def head_gradients(self, layer: int, grad: torch.Tensor) -> torch.Tensor:
        """(T, d) gradient after the layer's attention -> (T, n, g, h) at what each head has gathered."""

    @abstractmethod
    def skip_forward(self, layer: int, stream: torch.Tensor, w_skip: torch.Tensor, first: int = 0) -> torch.Tensor:
        """(B, P - first, d) stream before the MLP -> as many: what a transcoder's skip connection adds to the stream."""


@dataclass
class Model(ABC):
    """A loaded language model.

    `name` is the hub name, or for a folder its last part and the first 8 digits of the weights hash; a folder's path is
    never a name. A transcoder set that names its model takes precedence for folders (`TranscoderSet.model_name`).
    """

    name: str
    revision: str
    weights_hash: str
    from_folder: bool
    network: Any = field(repr=False)  # the transformers module, in evaluation mode
    tokenizer: Any = field(repr=False)
    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def config(self) -> Any:
        return self.network.config.get_text_config()

    @property
    def n_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def vocabulary(self) -> int:
        """Number of token ids the embedding knows."""
        return self.network.get_input_embeddings().weight.shape[0]

    @property
    def context(self) -> int:
        """Most positions a prompt may have."""
        return self.config.max_position_embeddings

    def constant_positions(self, set_model_name: str = "") -> int:
        """How many positions at the beginning have no features and no errors (their MLP outputs are constants).

        set_model_name: what a transcoder set says the model is called.
        """
        return 1

    @property
    def unembedding(self) -> torch.Tensor:
        """(V, d) rows of the output head."""
        return self.network.get_output_embeddings().weight

    def token_text(self, token_id: int) -> str:
        """The text of one token, with its leading space where the tokenizer marks one."""
        text = self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        # SentencePiece decoders drop the space of a text's first piece, and here every piece is a first one
        if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
            text = " " + text
        return text

    @torch.inference_mode()
    def likeliest_next(self, token_ids: list[int]) -> int:
        """The likeliest token after these."""
        ids = torch.tensor([token_ids], device=self.device)
        return int(self.network(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].argmax())

    @abstractmethod
    def freeze(self, token_ids: list[int], input_hook: str, output_hook: str) -> Frozen:
        """Run the prompt once and hold attention patterns and norm denominators."""

    @abstractmethod
    def feature_inputs(self, token_ids: torch.Tensor, input_hook: str) -> torch.Tensor:
        """(B, P) token ids -> (L, B, P, d) at the input hook, one plain forward pass. Pad on the right: attention is causal."""
