"""A tiny Llama with LoRA whose weights are given by a formula, so that they are the same for every version of torch."""

from __future__ import annotations

import math

import torch

VOCABULARY, PAD = 48, 0


def tiny_base():
    """Two layers in float32, attention eager; weights of a size that makes the logits differ by a few units."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=PAD,
        bos_token_id=1, eos_token_id=2, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    fill(model, lambda name: "norm" not in name, 0.25)
    return model


def lora_config():
    from peft import LoraConfig

    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")


def fill(model, chosen, scale: float) -> None:
    """Parameters by name order: the i-th number of the k-th is scale * sin(1 + 0.7 i + 1.3 k + (i * k mod 11))."""
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            if not chosen(name):
                continue
            numbers = [scale * math.sin(1 + 0.7 * i + 1.3 * k + (i * (k + 1)) % 11) for i in range(parameter.numel())]
            parameter.copy_(torch.tensor(numbers, dtype=torch.float64).view(parameter.shape))


def fill_lora(model) -> None:
    """Both LoRA matrices, so that the adapter says something."""
    fill(model, lambda name: "lora_" in name, 0.2)


def grad_norm(model) -> float:
    """Of all LoRA weights."""
    grads = [p.grad.double().square().sum() for n, p in model.named_parameters() if "lora_" in n and p.grad is not None]
    return float(torch.stack(grads).sum().sqrt())


def ids(start: int, length: int) -> list[int]:
    """Token ids 3 to 47, no two neighbours alike."""
    return [3 + (start + 7 * i) % (VOCABULARY - 3) for i in range(length)]


# (prompt, chosen, rejected) token ids, all of different lengths.
PAIRS = [(ids(1, 4), ids(5, 3), ids(9, 5)), (ids(12, 3), ids(2, 6), ids(30, 2)), (ids(22, 6), ids(17, 2), ids(8, 4))]
SHORT_PROMPTS = [([5 + i], chosen, rejected) for i, (_, chosen, rejected) in enumerate(PAIRS)]
# (prompt, answer, good?), no two prompts alike
LABELLED = [(ids(1, 4), ids(5, 3), True), (ids(12, 3), ids(30, 2), False), (ids(22, 6), ids(17, 5), False),
            (ids(40, 2), ids(6, 4), True)]  # fmt: skip
