"""The tiny model and the batch that TRL's numbers for reward models were recorded with: weights and ids by formula."""

from __future__ import annotations

from typing import Any

import torch

# Lengths differ between pairs and within them; no conversation ends with the padding, id 0.
CHOSEN = [[5, 17, 80, 3, 44, 9], [90, 8, 12, 71], [33, 2, 61, 7, 19, 25, 4], [11, 64]]
REJECTED = [[5, 17, 80, 6], [90, 8, 55, 14, 27, 41, 70, 3], [33, 2, 61], [11, 28, 36]]
MARGINS = [0.5, 0.0, 1.25, 0.1]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"margins": None, "center_rewards_coefficient": None},
    "margin": {"margins": MARGINS, "center_rewards_coefficient": None},
    "centred": {"margins": None, "center_rewards_coefficient": 0.01},
    "both": {"margins": MARGINS, "center_rewards_coefficient": 0.2},
}


def tiny_classifier() -> Any:
    """LlamaForSequenceClassification in float32 with one output; no random number in it, so torch's versions agree."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=96, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, num_labels=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).float()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            wave = torch.sin(steps * (1.7 + 0.1 * index) + index).reshape(parameter.shape)
            parameter.copy_(1 + 0.1 * wave if "norm" in name else (1.0 if name == "score.weight" else 0.4) * wave)
    return model


def gradient_norm(model: Any) -> float:
    """Of all parameters as one vector."""
    return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
