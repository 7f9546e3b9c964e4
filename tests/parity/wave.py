"""A tiny peft Llama whose weights are a formula, so that no version of torch draws others; and a batch for it."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 61
# Three conversations of unequal length, prompt and answer.
PROMPTS = [[5, 9, 14, 3], [7, 2], [31, 8, 44, 17, 6]]
ANSWERS = [[21, 33, 4, 50, 12, 1], [19, 40, 1], [25, 11, 58, 1]]


def wave_model(phase: float, lora: bool = True) -> Any:
    """Every weight is a wave over its places; the adapter (rank 4, all linear layers) changes the model from the start.

    The norms' weights lie around 1.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0, bos_token_id=2,
        eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        places = torch.arange(parameter.numel(), dtype=torch.float64)
        wave = 0.4 * torch.sin(places * (1.7 + 0.31 * number) + phase + number)
        parameter.data = (wave + ("norm" in name)).float().reshape(parameter.shape)
    return model


def gradient_norm(model: Any) -> float:
    """Of all parameters that have a gradient, as one vector."""
    return float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())


def collated(prompts: list[list[int]], answers: list[list[int]]) -> dict[str, torch.Tensor]:
    """As our stages get it: the answers are trained."""
    from finetune.data.chat import IGNORED, Example
    from finetune.stages.batch import collate_rows

    rows = [
        Example((*prompt, *answer), (*(IGNORED,) * len(prompt), *answer), "row")
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return collate_rows(rows, pad_id=0)
