"""One model over two devices. None are here: torch's fake tensors carry device names, compute nothing, and refuse to be mixed."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ingest.models import FAMILIES, load_model
from ingest.models.base import INPUT_HOOKS, OUTPUT_HOOKS
from tests.ingest.trace.conftest import LAYERS, WIDTH, tiny_config, write_model

FIRST, SECOND = "cuda:0", "cuda:1"


def place(module: torch.nn.Module, device: str) -> None:
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, device=device), False)
        for name, values in part._buffers.items():
            if values is not None:
                part._buffers[name] = torch.empty(values.shape, device=device, dtype=values.dtype)


def bring(device: str):
    """What accelerate's hook does before a module runs."""

    def moved(value):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if isinstance(value, dict):
            return {name: moved(each) for name, each in value.items()}
        return tuple(map(moved, value)) if isinstance(value, tuple) else value

    return lambda module, args, keywords: (moved(args), moved(keywords))


def spread(family: str):
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation="eager").eval()
    place(network, FIRST)
    network.tie_weights()
    model = FAMILIES[family]("spread", "", "", True, network, None, torch.device(FIRST), torch.float32)
    for block in model.blocks()[1:]:
        place(block.layer, SECOND)
    place(model.final_norm.module, SECOND)
    for i, block in enumerate(model.blocks()):
        block.layer.register_forward_pre_hook(bring(SECOND if i else FIRST), with_kwargs=True)
    model.final_norm.module.register_forward_pre_hook(bring(SECOND), with_kwargs=True)
    network.get_output_embeddings().register_forward_pre_hook(bring(FIRST), with_kwargs=True)
    return model


# gemma3's forward pass looks at values to find images, which fake tensors do not have; its text part is gemma3_text
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma3"}))
@pytest.mark.parametrize("hooks", [(INPUT_HOOKS[-1], OUTPUT_HOOKS[0]), (INPUT_HOOKS[1], OUTPUT_HOOKS[1])], ids="-".join)
def test_a_prompt_is_frozen_and_followed_on_the_first_device(family, hooks):
    with FakeTensorMode():
        model = spread(family)
        assert model.blocks()[-1].output_weight.device == torch.device(SECOND)
        frozen = model.freeze([1, 2, 3, 4], *hooks)
        grad, tokens = torch.zeros(2, 4, WIDTH, device=FIRST), torch.tensor([1], device=FIRST)
        for layer in range(LAYERS):
            made = [
                frozen.attention_back(layer, grad),
                frozen.output_back(layer, grad, slice(4)),
                frozen.input_back(layer, grad, slice(4)),
                frozen.attention_write(layer, frozen.attention_values(layer, grad)),
                frozen.head_gradients(layer, grad[:, 0]),
                frozen.skip_forward(layer, grad, torch.zeros(WIDTH, WIDTH, device=FIRST)),
                frozen.stream_after(layer),
            ]
            assert {each.device for each in made} == {torch.device(FIRST)}
        for each in (frozen.unembed_rows(tokens), frozen.logit_constants(tokens), *frozen.logits_at(1)):
            assert each.device == torch.device(FIRST)
        assert model.feature_inputs(tokens[None], hooks[0]).device == torch.device(FIRST)


def test_spread_over_the_one_device_that_is_here_is_the_model(tmp_path):
    folder = write_model(tmp_path / "model")
    plain, one = load_model(folder, device="cpu"), load_model(folder, device="auto")
    ids = torch.tensor([[1, 7, 33]])
    assert one.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    torch.testing.assert_close(one.network(ids.to(one.device)).logits.cpu(), plain.network(ids).logits)
