"""Adapters of every method on the base: what is said of them, and what a file must show after a step."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import GateError, RecipeError
from finetune.fullstate import trainable
from finetune.groups import parameter_groups
from finetune.model.adapter import add_adapter
from finetune.model.check import adapter_shapes, check_adapter
from finetune.model.methods import drawn_matrices
from finetune.recipe import TrainSection
from finetune.recipe_peft import PEFT_SECTIONS
from tests.equivalence.tiny_models import tiny_model

SMALL = {"num_hidden_layers": 1}


@pytest.mark.parametrize(("kind", "settings", "line"), [
    ("ia3", {}, "on down_proj x1, k_proj x1, v_proj x1; without: gate_proj x1, up_proj x1, o_proj x1, q_proj x1"),
    ("vera", {"r": 4, "target_modules": ("q_proj", "v_proj")},
     "on q_proj x1, v_proj x1; without: down_proj x1, gate_proj x1, up_proj x1, k_proj x1, o_proj x1"),
    ("oft", {"oft_block_size": 28, "target_modules": ("q_proj", "down_proj")},
     "without: gate_proj x1, up_proj x1, k_proj x1, o_proj x1, v_proj x1; blocks of 24 in down_proj; blocks of 32 in q_proj"),
])  # fmt: skip
def test_coverage_in_the_method_s_words(kind, settings, line, recwarn):
    """Layers with and without, as for LoRA; of OFT the block sizes that peft takes where 28 divides no width (64, 96)."""
    _, coverage = add_adapter(tiny_model("llama", **SMALL), PEFT_SECTIONS[kind](**settings), 0)
    assert coverage.line().endswith(line)
    assert not [warning for warning in recwarn if "Invalid" in str(warning.message)]


@pytest.mark.parametrize(("architecture", "kind", "settings", "problem"), [
    ("llama", "oft", {"target_modules": ("q_porj",)}, "oft.target_modules: 'q_porj' matches no layer; did you mean"),
    ("llama", "vera", {"target_modules": ".*nothing"}, "vera"),
    ("gpt2", "oft", {}, "oft: Target module Conv1D.* is not supported"),
    ("gpt-oss", "ia3", {}, "ia3: Please specify `target_modules`"),
])  # fmt: skip
def test_what_a_method_can_t_be_put_on(architecture, kind, settings, problem):
    with pytest.raises(RecipeError, match=problem):
        add_adapter(tiny_model(architecture), PEFT_SECTIONS[kind](**settings), 0)


@pytest.mark.parametrize(("kind", "stands"), [
    ("lora", "every lora_B is 0"), ("ia3", "every ia3_l is 1"), ("oft", "every oft_R is 0"),
    ("vera", "every vera_lambda_b is 0"),
])  # fmt: skip
def test_nothing_trained_is_seen(kind, stands, tmp_path):
    """A fresh adapter passes before the first step and not after it; one moved tensor is enough; names are counted."""
    model, _ = add_adapter(tiny_model("llama", **SMALL), PEFT_SECTIONS[kind](), 0)
    expected = adapter_shapes(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    check_adapter(tmp_path, expected, trained=False)
    with pytest.raises(GateError, match=f"{stands}, as before training"):
        check_adapter(tmp_path, expected, trained=True)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    moves = next(name for name in tensors if any(key in name for key in ("lora_B", "ia3_l", "oft_R", "lambda_b")))
    save_file(tensors | {moves: tensors[moves] + 0.5}, file)
    check_adapter(tmp_path, expected, trained=True)
    if kind == "vera":
        save_file({name: tensor for name, tensor in tensors.items() if name != "base_model.vera_A"}, file)
        with pytest.raises(GateError, match=r"base_model.vera_A is missing"):
            check_adapter(tmp_path, expected, trained=False)


def test_vectors_do_not_decay():
    """(IA)^3 does nothing at 1: a decay to 0 would take the layers away. OFT's rotations decay to none."""
    section = TrainSection(max_steps=1, weight_decay=0.1)
    for kind, decay in (("ia3", {0.0}), ("oft", {0.1}), ("vera", {0.0})):
        model, _ = add_adapter(tiny_model("llama", **SMALL), PEFT_SECTIONS[kind](), 0)
        assert {group["weight_decay"] for group in parameter_groups(trainable(model), section)} == decay


@pytest.mark.parametrize("kind", ["ia3", "oft", "vera"])
def test_the_same_for_the_same_seed(kind):
    """Trained tensors and VeRA's shared ones, in float32 on a base in bfloat16, whatever was drawn before."""
    states = []
    for _ in range(2):
        model, _ = add_adapter(tiny_model("llama", dtype=torch.bfloat16, **SMALL), PEFT_SECTIONS[kind](), 3)
        states.append({name: tensor for name, tensor in model.state_dict().items() if "base_layer" not in name})
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        torch.manual_seed(99)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_vera_trains_beside_what_its_key_draws():
    """On a base in bfloat16 too, where peft rounds A and B on the way: else the file without them would mean others."""
    model, _ = add_adapter(
        tiny_model("llama", dtype=torch.bfloat16, **SMALL), PEFT_SECTIONS["vera"](r=4, projection_prng_key=5), 0
    )
    held = [getattr(model.base_model, f"vera_{half}")["default"] for half in "AB"]
    assert all(torch.equal(one, other) for one, other in zip(held, drawn_matrices(5, 4, 96, 96), strict=True))
    layers = [module for module in model.modules() if hasattr(module, "vera_lambda_b")]
    assert len(layers) == 7
    assert all(layer.vera_A["default"] is held[0] and layer.vera_B["default"] is held[1] for layer in layers)
