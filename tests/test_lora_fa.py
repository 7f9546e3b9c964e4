"""LoRA-FA is peft's LoraFAOptimizer step by step, keeps fewer activations, and resumes to the last bit."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer, lorafa

from finetune.errors import RecipeError
from finetune.fullstate import trainable
from finetune.groups import parameter_groups
from finetune.lora_fa import Down, LoraFA, down_halves
from finetune.model.adapter import add_adapter
from finetune.optimizer import OPTIMIZERS
from finetune.recipe_peft import LoraSection
from finetune.recipe_train import TrainSection
from tests.equivalence.tiny_models import tiny_model
from tests.export.made import IDS

SMALL = {"num_hidden_layers": 2}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]}


def ours(**train):
    model, _ = add_adapter(tiny_model("llama", **SMALL), LoraSection(**LORA), seed=3, freeze_down=True)
    section = TrainSection(**{"max_steps": 9, "optim": "lora_fa", "learning_rate": 0.01} | train)
    groups = parameter_groups(trainable(model), section, down_halves(model))
    return model, OPTIMIZERS["lora_fa"].build(groups, section)


def step(model, optimizer) -> float:
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_peft_s_optimizer_step_by_step(monkeypatch):
    """m and v are the same; peft steps lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps), torch (so we)
    lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps): equal where eps is small beside sqrt(v), so at 1e-30 here. No weight
    decay: peft's comes after the step. peft's product in bfloat16 where the device has it is switched off."""
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)
    base = tiny_model("llama", **SMALL)
    torch.manual_seed(3)
    theirs = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **LORA))
    optimizer = create_lorafa_optimizer(theirs, r=4, lora_alpha=8, lr=0.01)
    for group in optimizer.param_groups:
        group["eps"] = 1e-30
    model, own = ours(adam_epsilon=1e-30)
    for _ in range(4):
        assert abs(step(model, own) - step(theirs, optimizer)) < 1e-6
        one, other = dict(model.named_parameters()), dict(theirs.named_parameters())
        differences = [float((one[name] - other[name]).detach().abs().max()) for name in one if ".lora_" in name]
        assert max(differences) < 2e-6
    moved = [name for name, p in one.items() if ".lora_B." in name and bool(p.any())]
    assert len(moved) == 4


def test_the_projected_step_is_the_nearest_to_full_training():
    """min over g of |s g A - G|_F for G (3, 5), A (2, 5), s = 0.5: least squares of A^T against G^T / s, row by row."""
    torch.manual_seed(0)
    a, full, s = torch.randn(2, 5), torch.randn(3, 5), 0.5
    half = torch.nn.Parameter(a, requires_grad=False)
    up = torch.nn.Parameter(torch.zeros(3, 2))
    up.grad = s * full @ a.T  # what autograd gives for W + s B A
    optimizer = LoraFA([{"params": [up], "down": [Down(half, s)]}], lr=1.0)
    optimizer.step()
    expected = torch.linalg.lstsq(s * a.T, full.T).solution.T
    torch.testing.assert_close(up.grad, expected, rtol=1e-5, atol=1e-6)


def kept_bytes(freeze_down: bool, **lora) -> int:
    """Bytes that autograd keeps for the backward pass, each tensor once."""
    model, _ = add_adapter(tiny_model("llama", **SMALL), LoraSection(**lora), seed=0, freeze_down=freeze_down)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(IDS, labels=IDS).loss
    assert loss.requires_grad
    return sum(kept.values())


def test_fewer_activations_are_kept():
    """All linear layers of two Llama layers, (2, 8) tokens in float32: with A frozen the inputs of q, k, v (one tensor
    of 2 x 8 x 64 numbers), o (64), gate and up (one, 64) and down (96) are not kept, but for what something else keeps:
    the norm's output is only for these layers; down's input is a product that keeps its factors, not itself."""
    both, frozen = kept_bytes(False), kept_bytes(True)
    saved = both - frozen
    assert saved == 2 * (2 * 8 * 4) * (64 + 64 + 64 + 96)


def test_an_embedding_is_refused():
    with pytest.raises(RecipeError, match=r"on an embedding is the half that starts at 0 \(model.embed_tokens\)"):
        add_adapter(tiny_model("llama", **SMALL), LoraSection(target_modules=["embed_tokens"]), 0, freeze_down=True)


def test_a_ratio_for_a_frozen_b_has_no_effect():
    """MiCA (peft 0.21) trains A alone."""
    model, _ = add_adapter(tiny_model("llama", **SMALL), LoraSection(init_lora_weights="mica"), seed=0)
    names = [(name, p) for name, p in trainable(model) if ".lora_B." not in name]
    with pytest.raises(
        RecipeError, match=r"train.loraplus_lr_ratio: no lora_B is trained by this adapter; leave it out"
    ):
        parameter_groups(names, TrainSection(max_steps=1, loraplus_lr_ratio=4.0))
