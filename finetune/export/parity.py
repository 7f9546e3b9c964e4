"""The proof: the merged model on disk answers like the adapter that was evaluated. Measured, recorded, binding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.data.chat import Example
from finetune.errors import GateError
from finetune.export.merge import load_with_adapter
from finetune.model.load import Source


@dataclass(frozen=True)
class Proof:
    """Differences over all positions of the held-out conversations, both models computed in float32.

    Attributes:
        max_logit_difference: largest absolute difference of any logit.
        mean_kl: mean over positions of KL(adapter || merged), in nats.
        greedy_agreement: share of trained positions where both choose the same next token.
        positions, greedy_positions: how many positions went into these.
    """

    dtype: str
    rows: int
    positions: int
    greedy_positions: int
    max_logit_difference: float
    mean_kl: float
    greedy_agreement: float


# Largest differences that the merge may show, by the dtype of the merged weights. In float32 only the order of
# additions differs; the others round every weight once (2^-8 for bfloat16, 2^-11 for float16), measured over some
# hundred positions of a 135M model at 5e-4 and 1e-5 nats of KL.
LIMITS = {
    "float32": {"max_logit_difference": 1e-3, "mean_kl": 1e-6, "greedy_agreement": 1.0},
    "float16": {"max_logit_difference": 0.5, "mean_kl": 5e-4, "greedy_agreement": 0.99},
    "bfloat16": {"max_logit_difference": 4.0, "mean_kl": 5e-3, "greedy_agreement": 0.97},
}


def prove(
    source: Source, adapter_folder: Path, merged_folder: Path, base_dtype: torch.dtype, examples: Sequence[Example]
) -> dict[str, Any]:
    """Compares the two models as they lie on disk, token by token along the reference conversations.

    Returns:
        The proof and the limits it was held to.

    Raises:
        GateError: a difference is over its limit.
    """
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(merged_folder, attn_implementation="eager")
    dtype = str(merged.dtype).removeprefix("torch.")
    merged = merged.float().eval()
    adapter = load_with_adapter(source, adapter_folder, base_dtype)
    proof = compare(adapter, merged, examples, dtype)
    limits = LIMITS[dtype]
    failed = [
        f"{name} {getattr(proof, name):.3g}, limit {limit:g}"
        for name, limit in limits.items()
        if not (getattr(proof, name) >= limit if name == "greedy_agreement" else getattr(proof, name) <= limit)
    ]
    if failed:
        raise GateError(f"export stopped: the merged model is not the adapter ({dtype}): {'; '.join(failed)}")
    return asdict(proof) | {"limits": limits}


@torch.inference_mode()
def compare(adapter: Any, merged: Any, examples: Sequence[Example], dtype: str) -> Proof:
    """The numbers, one conversation at a time (no padding)."""
    largest, kl, agreed, positions, greedy = 0.0, 0.0, 0, 0, 0
    for example in examples:
        ids = torch.tensor([example.ids])  # (1, T)
        left = adapter(input_ids=ids, use_cache=False).logits[0].double()  # (T, V)
        right = merged(input_ids=ids, use_cache=False).logits[0].double()
        largest = max(largest, (left - right).abs().max().item())
        log_left, log_right = left.log_softmax(-1), right.log_softmax(-1)
        kl += (log_left.exp() * (log_left - log_right)).sum().item()
        positions += len(example.ids)
        answer = torch.tensor([label >= 0 for label in example.labels[1:]])  # (T - 1,), true where the next is trained
        agreed += int((left[:-1][answer].argmax(-1) == right[:-1][answer].argmax(-1)).sum())
        greedy += int(answer.sum())
    return Proof(dtype, len(examples), positions, greedy, largest, kl / positions, agreed / greedy)
