"""Every saved adapter is reopened: what is wrong with the file is named."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import GateError
from finetune.model.adapter import add_adapter
from finetune.model.check import adapter_shapes, check_adapter
from finetune.recipe_peft import LoraSection
from tests.equivalence.tiny_models import tiny_model

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight"
EXPECTED = {A: (2, 4), B: (6, 2)}


def right() -> dict[str, torch.Tensor]:
    return {A: torch.ones(2, 4), B: torch.ones(6, 2)}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({B: None}, f"{B} is missing"),
        ({"other.lora_A.weight": torch.ones(1)}, "other.lora_A.weight was not trained"),
        ({A: torch.ones(4, 2)}, f"{A} has the shape (4, 2), not (2, 4)"),
        ({A: torch.ones(0), B: torch.ones(0)}, f"{A} is empty; {B} is empty"),
        ({A: torch.full((2, 4), torch.nan)}, f"{A} is not finite"),
        ({B: torch.zeros(6, 2)}, "every lora_B is 0, as before training"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, problem):
    """Keys, shapes, emptiness (what ZeRO-3 leaves when nobody gathers), finiteness, lora_B."""
    tensors = {name: tensor for name, tensor in (right() | change).items() if tensor is not None}
    file = tmp_path / "adapter_model.safetensors"
    save_file(tensors, file)
    with pytest.raises(
        GateError, match=f"^{re.escape(f'the saved adapter is not the trained one: {file}: {problem}')}$"
    ):
        check_adapter(tmp_path, EXPECTED, trained=True)


def test_right_file(tmp_path):
    """One B that has moved is enough (experts may never be chosen), and before the first step all are 0."""
    check = right() | {B: torch.zeros(6, 2)}
    save_file(check, tmp_path / "adapter_model.safetensors")
    check_adapter(tmp_path, EXPECTED, trained=False)
    second = B.replace("layers.0", "layers.1")
    save_file(check | {second: torch.ones(1, 2)}, tmp_path / "adapter_model.safetensors")
    check_adapter(tmp_path, EXPECTED | {second: (1, 2)}, trained=True)


def test_unreadable_file(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x00" * 7)
    with pytest.raises(GateError, match=r"the saved adapter can't be read: .*adapter_model.safetensors"):
        check_adapter(tmp_path, EXPECTED, trained=True)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 56),  # 4 layers x 7 linear layers x A and B
        ({"use_dora": True}, 84),
        ({"modules_to_save": ("lm_head", "embed_tokens")}, 58),
        ({"trainable_token_indices": [3, 5]}, 57),
        ({"lora_bias": True}, 36),  # OPT's 2 layers x 6 linear layers, which have biases, x A, B and its bias
        ({"target_modules": ("q_proj",), "target_parameters": ["mlp.experts.gate_up_proj"]}, 16),
    ],
)
@pytest.mark.filterwarnings("ignore")  # peft's notices on settings that are not of interest here
def test_names_are_those_of_peft(tmp_path, settings, count):
    """The expected names and shapes, worked out from the parameters, are those peft writes."""
    architecture = "qwen3-moe" if "target_parameters" in settings else "opt" if "lora_bias" in settings else "llama"
    model, _ = add_adapter(tiny_model(architecture), LoraSection(r=3, **settings), 0)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    expected = adapter_shapes(model)
    assert len(expected) == count
    written = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == expected
    check_adapter(tmp_path, expected, trained=False)
