"""The base inside a model in training is the base as it was, whatever the adapter trains."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from finetune.fullstate import full_tensors
from finetune.model.adapter import add_adapter
from finetune.model.reference import as_base
from finetune.recipe_peft import PEFT_SECTIONS
from tests.equivalence.tiny_models import tiny_model

IDS = torch.tensor([[5, 17, 80, 3, 44, 9]])


@pytest.mark.parametrize("lora, same", [
    ({"bias": "all"}, True), ({"bias": "lora_only"}, True), ({"init_lora_weights": "pissa"}, False),
    ({"modules_to_save": ["final_layer_norm"]}, True),
], ids=str)  # fmt: skip
def test_base_after_training(lora, same):
    """Logits of the base before the adapter came = those inside `as_base` after every trained tensor has moved.

    Trained biases stay when peft turns the adapter off, and PiSSA has changed the base's weights: there the fresh
    tensors take their place (`same`: bit for bit, else to rounding), and the trained ones are back afterwards.
    """
    base = tiny_model("opt")
    with torch.no_grad():
        before = base(IDS).logits
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "fc1"], **lora)
    ).eval()
    fresh = None if "modules_to_save" in lora else full_tensors(model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    with torch.no_grad():
        trained = model(IDS).logits
        with as_base(model, fresh):
            inside = model(IDS).logits
        assert torch.equal(model(IDS).logits, trained)
    assert float((trained - before).abs().max()) > 0.01
    assert torch.equal(inside, before) if same else float((inside - before).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["ia3", "oft", "vera"])
def test_other_methods_turn_off(kind):
    """What (IA)^3, OFT and VeRA do inside layers is gone, bit for bit, inside `as_base`, and back afterwards."""
    base = tiny_model("llama")
    with torch.no_grad():
        before = base(IDS).logits
    model, _ = add_adapter(base, PEFT_SECTIONS[kind](), 0)
    model.eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    with torch.no_grad():
        trained = model(IDS).logits
        with as_base(model, None):
            assert torch.equal(model(IDS).logits, before)
        assert torch.equal(model(IDS).logits, trained)
    assert float((trained - before).abs().max()) > 1e-3
